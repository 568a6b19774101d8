"""How well the sales models forecast unseen weeks: measures by slice, compared with naive forecasts."""

from collections.abc import Mapping

import polars as pl

from models import metrics
from models.sales.options import Options

NAIVES = ("naive", "seasonal_naive")
SLICES = (None, "origin", "step", "kind", "rung")
COLUMNS = ("sku", "store", "origin", "week", "step", "units")
HEADLINE = ("pinball", "wape", "mape", "bias")


def measures(options: Options) -> dict[str, pl.Expr]:
    """Measures of backtest rows, by name.

    rows, units; pinball, wape and bias per unit sold, mape; `coverage_90` and so on: the share of actuals
    in each central band, ends included; `pinball_naive`, `wape_naive` and the same for `seasonal_naive`: the loss if
    every quantile were the last week known, or the same week last year.
    """
    by_column = dict(zip(options.columns, options.quantiles, strict=True))
    columns = {q: name for name, q in by_column.items()}
    middle = middle_column(options)
    expressions = {
        "rows": pl.len(),
        "units": pl.col("units").sum(),
        "pinball": metrics.pinball("units", by_column),
        "wape": metrics.wape("units", middle),
        "mape": metrics.mape("units", middle),
        "bias": metrics.bias("units", middle),
    }
    for percentage, (low, high) in metrics.bands(options.quantiles).items():
        expressions[f"coverage_{percentage}"] = metrics.coverage("units", columns[low], columns[high])
    for naive in NAIVES:
        losses = [metrics.pinball_loss(pl.col("units"), pl.col(naive), q) for q in options.quantiles]
        expressions[f"pinball_{naive}"] = metrics.per_unit(
            pl.mean_horizontal(losses).sum(), pl.col("units").sum()
        )
        expressions[f"wape_{naive}"] = metrics.wape("units", naive)
    return expressions


def middle_column(options: Options) -> str:
    """The column of the quantile nearest to the median."""
    pairs = zip(options.columns, options.quantiles, strict=True)
    return min(pairs, key=lambda pair: abs(pair[1] - 0.5))[0]


def measured(backtest: pl.DataFrame, options: Options) -> pl.DataFrame:
    """`measures` of the whole backtest, per origin, step, kind of demand and rung; see `metrics.by_slice`.

    Overall measures use only origins whose whole horizon is known, so that near weeks carry no extra weight.
    """
    expressions = measures(options)
    whole = metrics.by_slice(in_full(backtest, options), expressions, SLICES[:1])
    return pl.concat([whole, metrics.by_slice(backtest, expressions, SLICES[1:])])


def in_full(backtest: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The rows of origins whose whole horizon is known; all rows if there is no such origin."""
    weeks = options.horizon - options.origin_gap
    rows = backtest.filter(pl.col("origin") <= pl.col("origin").max() - pl.duration(weeks=weeks))
    return rows if rows.height else backtest


def headline(metrics_table: pl.DataFrame) -> dict[str, float]:
    """The few overall measures to show first, without unknown ones."""
    whole = metrics_table.filter(pl.col("slice") == "all").drop_nulls("value")
    values: Mapping[str, float] = dict(zip(whole["metric"], whole["value"], strict=True))
    return {
        name: value
        for name, value in values.items()
        if name in HEADLINE or name.startswith(("coverage_", "pinball_"))
    }


def loss(rows: pl.DataFrame, options: Options) -> float:
    """The pinball loss per unit sold; NaN if there is nothing to measure."""
    value = rows.select(measures(options)["pinball"]).item() if rows.height else None
    return float("nan") if value is None else float(value)
