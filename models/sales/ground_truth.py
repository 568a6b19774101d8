"""Ground truth of published forecasts: the units sold, and how good the quantiles were.

A judged row is a published row (one SKU, store and week of one `as_of`) with `units`, null if the week
has no row in the history; `pending` until the week is over; the `kind` of demand,
and the two naive forecasts, defined as in the backtest.
"""

from datetime import date, timedelta
from typing import cast

import numpy as np
import polars as pl

from models import metrics
from models.sales import backtest as measuring
from models.sales import seasons
from models.sales.demand import kinds_of_keys, last_known, share_of_zeros
from models.sales.neighbours import flag_names, ranges
from models.sales.options import Options
from models.sales.panel import KEY, Panel, demanded, known_covariates, panel_of
from models.sales.promotions import promotions
from models.sales.scoring import PANEL_WEEKS
from models.scenario import TALLIES, ControlChart, Frames, GroundTruth

GROUND_TRUTH = GroundTruth(("history",), since=pl.col("week").min(), until=pl.col("week").max())
CHARTS = {"pinball": ControlChart("Pinball loss per unit sold", every="week")}
STEPS = (1, 4, 13)
"""Steps whose loss is watched, if they are within the horizon."""
SLICES = (None, "as_of", "week", "step", "kind", "rung", "sku")
KEYS_AT_A_TIME = 20_000
"""Number of keys whose history is in memory together: 20 MB for a series of 130 weeks."""


def judge(forecasts: pl.LazyFrame, tables: Frames, until: date) -> pl.DataFrame:
    """Judged rows of one `as_of`, sorted by SKU, store and week; `until` is the last complete week."""
    rows = forecasts.collect().sort(*KEY, "week")
    if rows.is_empty():
        return rows.drop("as_of").with_columns(pending=pl.lit(value=False))
    origin, end = rows["as_of"][0], cast(date, rows["week"].max())
    keys = rows.select(KEY).unique().sort(KEY)
    actuals = [
        _known(tables, keys[start : start + KEYS_AT_A_TIME], origin, end)
        for start in range(0, keys.height, KEYS_AT_A_TIME)
    ]
    result = rows.join(pl.concat(actuals), on=[*KEY, "week"], how="left", maintain_order="left")
    is_pending = pl.col("week") > until
    return result.drop("as_of").with_columns(
        pl.when(~is_pending).then("units").alias("units"), is_pending.alias("pending")
    )


def _known(tables: Frames, keys: pl.DataFrame, origin: date, end: date) -> pl.DataFrame:
    """Per key and week after `origin`: units, kind, naive and seasonal_naive."""
    first = origin - timedelta(weeks=PANEL_WEEKS - 1)
    covariates = known_covariates(tables)
    rows = demanded(tables["history"]).filter(pl.col("week").is_between(first, end))
    rows = rows.select(*KEY, "week", "units", *covariates).join(keys.lazy(), on=list(KEY), how="semi")
    panel = panel_of(rows, keys, covariates, first, end, 0)
    past = tables["history"].filter(pl.col("week") <= origin)
    is_promoted = promotions(panel, flag_names(ranges(past, covariates).collect())).is_promoted
    return pl.concat(_weeks(panel, panel.index(origin), is_promoted))


def _weeks(panel: Panel, origin: int, is_promoted: np.ndarray) -> list[pl.DataFrame]:
    units = panel.units[: origin + 1]
    naive = last_known(units)
    kinds = kinds_of_keys(np.isfinite(units).sum(axis=0), share_of_zeros(units))
    frames = []
    for target in range(origin + 1, panel.weeks):
        ago = seasons.year_before(origin, target)
        year_ago = panel.units[ago] if ago >= 0 else np.full(naive.shape, np.nan)
        kind = np.where((kinds == "regular") & (is_promoted[target] == 1), "promoted", kinds)
        frames.append(
            panel.keys.with_columns(
                pl.lit(panel.week(target)).alias("week"),
                pl.Series("units", panel.units[target], nan_to_null=True),
                pl.Series("kind", kind),
                pl.Series("naive", naive),
                pl.Series("seasonal_naive", np.where(np.isfinite(year_ago), year_ago, naive)),
            )
        )
    return frames


def measures(judged_rows: pl.LazyFrame, options: Options) -> pl.DataFrame:
    """`backtest.measures` of the rows whose units are known, per `SLICES`.

    Rows that lack one of the quantiles of `options`, because their bundle has others, do not count.
    """
    columns = [*KEY, "as_of", "week", "step", "units", *options.columns, "rung", "kind", *measuring.NAIVES]
    complete = judged_rows.select(columns).drop_nulls(["units", *options.columns])
    rows = complete.collect(engine="streaming").sort("as_of", *KEY, "week")
    return metrics.by_slice(rows, measuring.measures(options), SLICES)


def tallies(judged_rows: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Losses, units and rows of each target week at each of `STEPS`, over rows whose units are known."""
    by_column = dict(zip(options.columns, options.quantiles, strict=True))
    if not set(by_column) <= set(judged_rows.columns):
        return pl.DataFrame(schema=TALLIES)
    losses = [metrics.pinball_loss(pl.col("units"), pl.col(name), q) for name, q in by_column.items()]
    return (
        judged_rows.filter(pl.col("units").is_not_null(), pl.col("step").is_in(STEPS))
        .group_by("step", "week")
        .agg(
            pl.mean_horizontal(losses).sum().alias("numerator"),
            pl.col("units").sum().alias("denominator"),
            pl.len().cast(pl.Int64).alias("rows"),
        )
        .sort("step", "week")
        .select(
            pl.lit("pinball").alias("chart"),
            pl.when(pl.col("step") == 1)
            .then(pl.lit("1 week ahead"))
            .otherwise(pl.format("{} weeks ahead", "step"))
            .alias("series"),
            pl.col("week").alias("period"),
            "numerator",
            "denominator",
            "rows",
        )
    )


def losses(
    backtest: pl.LazyFrame, judged_rows: pl.LazyFrame, options: Options
) -> tuple[float, float, int] | None:
    """Pinball losses of `backtest` and `judged_rows` on the SKUs, stores and weeks that both forecast at one origin.

    They use the units of `judged_rows` and the quantiles of `options` that both have. None if there are no such rows.
    """
    theirs = judged_rows.filter(pl.col("units").is_not_null()).rename({"as_of": "origin"})
    both = set(backtest.collect_schema()) & set(theirs.collect_schema())
    quantiles = tuple(q for q, name in zip(options.quantiles, options.columns, strict=True) if name in both)
    if not quantiles:
        return None
    columns = list(Options(quantiles=quantiles).columns)
    row = [*KEY, "origin", "week"]
    ours = backtest.select(*row, *columns)
    rows = theirs.select(*row, "units", *(pl.col(name).alias(f"their_{name}") for name in columns))
    pairs = rows.join(ours, on=row, how="inner").drop_nulls().sort(row).collect(engine="streaming")
    if pairs.is_empty() or pairs["units"].sum() <= 0:
        return None
    by_column = dict(zip(columns, quantiles, strict=True))
    other = {f"their_{name}": q for name, q in by_column.items()}
    own, theirs_loss = (pairs.select(metrics.pinball("units", of)).item() for of in (by_column, other))
    return float(own), float(theirs_loss), pairs.height
