"""Totals per SKU and week, and per store and week, which need the keys of all shards.

They are sums of whole numbers (values times a power of ten, rounded), so that they are the same to the
bit whatever the order of the rows and the number of threads.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import polars as pl

from models.sales.panel import covariate_columns, known_covariates, past_and_plan
from models.scenario import Context, Frames

PRICE = "price"
HISTORY_WEEKS = 312
"""Weeks of history in use: six years. Seasons and wandering levels are learnt better from six years than from three."""
_DIGITS = {"units": 1e3, "price": 1e12, "square": 1e12, "share": 1e9}


def first_week_of(as_of: date) -> date:
    """The first week that may be used."""
    return as_of - timedelta(weeks=HISTORY_WEEKS - 1)


def first_week(context: Context, as_of: date) -> date:
    """The first week of the history that is used; `as_of` if there is none. See `shared_frames`."""
    return max(first_week_of(as_of), context["calendar"]["first_week"][0] or as_of)


def shared_frames(tables: Frames, as_of: date, horizon: int) -> dict[str, pl.DataFrame]:
    """The frames that every shard needs; a few rows per SKU or store and week.

    `sku_weeks`: sku, week, keys (number that have a row), units (mean per key, null in the plan), and the
    mean of each covariate over the stores; for a price, the geometric mean and, as `spread`, the standard
    deviation of its logarithm. `store_weeks`: store, week, keys, units, and for each covariate `sum_<name>` and
    `n_<name>` over the store's SKUs; for a price, of logarithms. `calendar`: one row with the
    first week of the history and its number of rows, in total and in the last `horizon` weeks.
    `covariates`: name, low and high over the history, and `planned`, whether there is a plan at all.
    """
    covariates = known_covariates(tables)
    first = first_week_of(as_of)
    rows = past_and_plan(tables, covariates, as_of, horizon).filter(pl.col("week") >= first)
    past = tables["history"].filter(pl.col("week") <= as_of, pl.col("week") >= first)
    frames = {
        "sku_weeks": _sku_weeks(rows, covariates),
        "store_weeks": _store_weeks(rows, covariates),
        "calendar": past.select(
            pl.col("week").min().alias("first_week"),
            pl.len().alias("rows"),
            (pl.col("week") > as_of - timedelta(weeks=horizon)).sum().alias("recent_rows"),
        ),
        "covariates": ranges(past, covariates).with_columns(pl.lit("plan" in tables).alias("planned")),
    }
    results = pl.collect_all(list(frames.values()), engine="streaming")
    return dict(zip(frames, results, strict=True))


def with_plan(covariates: pl.DataFrame) -> bool:
    """Whether future weeks have covariates: the `covariates` of `shared_frames` are not empty, and there is a plan."""
    return covariates.height > 0 and bool(covariates["planned"].all())


def flag_names(covariates: pl.DataFrame) -> tuple[str, ...]:
    """Covariates that are shares or flags: all their values lie between 0 and 1."""
    shares = covariates.filter(pl.col("low") >= 0, pl.col("high") <= 1, pl.col("name") != PRICE)
    return tuple(shares["name"])


def _value(name: str) -> pl.Expr:
    """A covariate in the form in which it is averaged: a price as its logarithm; null if it is not known."""
    value = pl.col(name).fill_nan(None)
    return pl.when(value > 0).then(value.log()) if name == PRICE else value


def _whole(value: pl.Expr, kind: str) -> pl.Expr:
    return (value * _DIGITS[kind]).round().cast(pl.Int64)


def _mean(value: pl.Expr, kind: str) -> pl.Expr:
    return _whole(value, kind).sum() / _DIGITS[kind] / value.count()


def _sku_weeks(rows: pl.LazyFrame, covariates: Sequence[str]) -> pl.LazyFrame:
    means = [_mean(_value(name), "share").alias(name) for name in covariates]
    if PRICE in covariates:
        square = _mean(_value(PRICE) ** 2, "square")
        means.append((square - _mean(_value(PRICE), "price") ** 2).clip(0.0).sqrt().alias("spread"))
    return (
        rows.group_by("sku", "week")
        .agg(
            pl.len().alias("keys"),
            pl.when(pl.col("units").count() > 0).then(_mean(pl.col("units"), "units")).alias("units"),
            *means,
        )
        .with_columns(pl.col(name).exp() for name in covariates if name == PRICE)
        .sort("sku", "week")
    )


def _store_weeks(rows: pl.LazyFrame, covariates: Sequence[str]) -> pl.LazyFrame:
    sums = [_whole(_value(name), "share").sum().alias(f"sum_{name}") for name in covariates]
    counts = [_value(name).count().alias(f"n_{name}") for name in covariates]
    units = pl.when(pl.col("units").count() > 0).then(_mean(pl.col("units"), "units")).alias("units")
    totals = rows.group_by("store", "week").agg(pl.len().alias("keys"), units, *sums, *counts)
    return totals.with_columns(pl.col(f"sum_{name}") / _DIGITS["share"] for name in covariates).sort(
        "store", "week"
    )


def ranges(past: pl.LazyFrame, covariates: Sequence[str]) -> pl.LazyFrame:
    """name, low and high of each covariate."""
    schema: Mapping[str, type[pl.DataType]] = {"name": pl.String, "low": pl.Float64, "high": pl.Float64}
    if not covariates:
        return pl.LazyFrame(schema=schema)
    each = [
        past.select(
            pl.lit(name).alias("name"),
            pl.col(name).cast(pl.Float64).fill_nan(None).min().alias("low"),
            pl.col(name).cast(pl.Float64).fill_nan(None).max().alias("high"),
        )
        for name in covariates
    ]
    return pl.concat(each)


def store_attributes(tables: Frames) -> pl.DataFrame | None:
    """store and its numeric attributes as float32, sorted; None if there are none."""
    if "stores" not in tables:
        return None
    names = covariate_columns(tables["stores"].collect_schema())
    if not names:
        return None
    return tables["stores"].select("store", pl.col(names).cast(pl.Float32)).sort("store").collect()
