"""The accuracy of forecasts: losses, bias and coverage, as polars expressions and long frames."""

from collections.abc import Mapping, Sequence

import polars as pl

SCHEMA = {"slice": pl.String, "value_of_slice": pl.String, "metric": pl.String, "value": pl.Float64}
"""The columns of metrics: a row per slice, value of the slice, and metric."""


def pinball_loss(actual: pl.Expr, forecast: pl.Expr, q: float) -> pl.Expr:
    """Quantile (pinball) loss of one forecast, in the units of `actual`.

    Zero when exact; an under-forecast costs `q` per unit, an over-forecast `1 - q`.
    Averaged over quantiles it approximates half the CRPS.

    Koenker & Bassett (1978), Econometrica 46(1).

    >>> pl.DataFrame({"y": [10.0, 10.0], "f": [8.0, 12.0]}).select(
    ...     pinball_loss(pl.col("y"), pl.col("f"), 0.9).alias("loss"))["loss"].round(6).to_list()
    [1.8, 0.2]
    """
    error = actual - forecast
    return pl.max_horizontal(q * error, (q - 1) * error)


def pinball(actual: str, quantiles: Mapping[str, float]) -> pl.Expr:
    """Pinball loss averaged over `quantiles` (column -> level), summed over rows, per summed `actual`.

    Dimensionless, 0 is perfect. Null if the sum of the actuals is not positive.
    """
    y = pl.col(actual)
    losses = [pinball_loss(y, pl.col(name), q) for name, q in quantiles.items()]
    return per_unit(pl.mean_horizontal(losses).sum(), y.sum())


def wape(actual: str, forecast: str) -> pl.Expr:
    """Summed absolute error per summed `actual`: 0 is perfect. Null if the sum of the actuals is not positive."""
    y = pl.col(actual)
    return per_unit((y - pl.col(forecast)).abs().sum(), y.sum())


def mape(actual: str, forecast: str) -> pl.Expr:
    """Mean over rows of the absolute error relative to the actual; rows whose actual is 0 are left out."""
    y = pl.col(actual)
    return ((y - pl.col(forecast)).abs() / y).filter(y > 0).mean()


def bias(actual: str, forecast: str) -> pl.Expr:
    """Summed forecast minus actual, per summed `actual`: 0.1 means that forecasts were 10 % too high."""
    y = pl.col(actual)
    return per_unit((pl.col(forecast) - y).sum(), y.sum())


def coverage(actual: str, lower: str, upper: str) -> pl.Expr:
    """Share of rows whose `actual` lies in the band, its ends included."""
    return pl.col(actual).is_between(pl.col(lower), pl.col(upper)).mean()


def bands(quantiles: Sequence[float]) -> dict[int, tuple[float, float]]:
    """The central bands that `quantiles` form: nominal percentage -> the two quantiles.

    >>> bands((0.05, 0.25, 0.5, 0.75, 0.95))
    {90: (0.05, 0.95), 50: (0.25, 0.75)}
    """
    result = {}
    for q in quantiles:
        mirror = next((p for p in quantiles if q < 0.5 and abs(p - (1 - q)) < 1e-9), None)
        if mirror is not None:
            result[round((mirror - q) * 100)] = (q, mirror)
    return result


def by_slice(
    frame: pl.DataFrame, measures: Mapping[str, pl.Expr], slices: Sequence[str | None]
) -> pl.DataFrame:
    """`measures` of the whole `frame` (slice None, named `all`) and of each value of the columns in `slices`.

    Long: slice, value_of_slice, metric, value; sorted within a slice by its values.
    """
    expressions = [expression.cast(pl.Float64).alias(name) for name, expression in measures.items()]
    parts = []
    for column in slices:
        if column is None:
            values = frame.select(pl.lit("all").alias("value_of_slice"), *expressions)
        else:
            values = (
                frame.group_by(column, maintain_order=True)
                .agg(expressions)
                .sort(column)
                .with_columns(pl.col(column).cast(pl.String).alias("value_of_slice"))
            )
        parts.append(
            values.unpivot(on=list(measures), index="value_of_slice", variable_name="metric").select(
                pl.lit(column or "all").alias("slice"), "value_of_slice", "metric", "value"
            )
        )
    return pl.concat(parts)


def per_unit(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """`numerator` over `denominator`; null if the denominator is not positive."""
    return pl.when(denominator > 0).then(numerator / denominator)
