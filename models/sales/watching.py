"""The inputs of a forecast that are watched for drift, in forms with little seasonality."""

from datetime import date, timedelta

import polars as pl

from models.drift import CYCLE
from models.sales.panel import KEY, covariate_columns
from models.scenario import Frames

PAST_WEEKS = 26
"""A key's usual value comes from this many weeks before a week, at least `FEWEST_WEEKS` of them with values."""
FEWEST_WEEKS = 8
SILENT_WEEKS = 8
"""A key without a row for this many weeks is no longer expected to have one."""

_NOT_KNOWN = float("nan")
_RARELY = 0.01


def watched_inputs(tables: Frames, as_of: date) -> pl.LazyFrame:
    """One row per key and week up to `as_of` in which the key is sold, or was in the `SILENT_WEEKS` before.

    `units`, and covariates that are hardly ever zero, such as a price, are logarithms of their ratio
    to the key's usual value: the mean or the median of the weeks before; other covariates are unchanged.
    `sells_nothing` and `no_row` are 0 or 1. The first 26 weeks of the table are left out if there are twice
    as many, because too little is known about usual values then.
    """
    rows = tables["history"].filter(pl.col("week") <= as_of)
    covariates = covariate_columns(rows.collect_schema())
    lows = (
        rows.select(pl.col(covariates).cast(pl.Float64).quantile(_RARELY)).collect()
        if covariates
        else pl.DataFrame()
    )
    relative = [name for name in covariates if (lows[name][0] or 0) > 0]
    grid = _every_week(rows.select(*KEY, "week", "units", *covariates), as_of)
    units, has_units = pl.col("units"), pl.col("units").is_not_null()
    level = _usual(units, "mean")
    features = [
        pl.when(has_units, level > 0)
        .then(((units + 0.5) / (level + 0.5)).log())
        .otherwise(_NOT_KNOWN)
        .alias("units"),
        pl.when(has_units).then((units == 0).cast(pl.Float64)).otherwise(_NOT_KNOWN).alias("sells_nothing"),
        (~has_units).cast(pl.Float64).alias("no_row"),
    ]
    for name in covariates:
        column = pl.col(name).cast(pl.Float64)
        value = (
            (column / _usual(column, "median")).log().fill_null(_NOT_KNOWN) if name in relative else column
        )
        is_known = has_units & column.is_not_null()
        cell = pl.when(is_known).then(value).when(~has_units).then(_NOT_KNOWN)
        features.append(cell.alias(name))
    result = grid.select(*KEY, pl.col("week").alias(CYCLE), *features)
    begin = rows.select(pl.col("week").min()).collect().item()
    early = (begin or as_of) + timedelta(weeks=PAST_WEEKS)
    return result.filter(pl.col(CYCLE) >= early) if as_of >= early + timedelta(weeks=PAST_WEEKS) else result


def _every_week(rows: pl.LazyFrame, end: date) -> pl.LazyFrame:
    """`rows` sorted by key and week, with a row without values for each week that a key lacks.

    The weeks run from the key's first one to `SILENT_WEEKS` after its last one, at most to `end`.
    """
    until = pl.min_horizontal(pl.col("week").max() + timedelta(weeks=SILENT_WEEKS), pl.lit(end))
    spans = rows.group_by(KEY).agg(pl.col("week").min().alias("first"), until.alias("until"))
    weeks = pl.date_ranges("first", "until", interval="1w").alias("week")
    grid = spans.select(*KEY, weeks).explode("week")
    return grid.join(rows, on=[*KEY, "week"], how="left").sort(*KEY, "week")


def _usual(value: pl.Expr, kind: str) -> pl.Expr:
    """Mean or median of the weeks before; null if too few of them have a value."""
    before = value.cast(pl.Float64).shift(1)
    average = before.rolling_mean if kind == "mean" else before.rolling_median
    return average(PAST_WEEKS, min_samples=FEWEST_WEEKS).over(KEY)
