"""Covariates of one store or of all, such as the weather: a small table instead of columns of sales and plan."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.sales.categories import text_columns
from models.sales.panel import KEY, covariate_columns
from models.scenario import Frames

EVERY_STORE = "*"
"""The store of a row that applies to all stores."""
RECENT_WEEKS = 52
"""A key without sales in this many weeks gets no plan that consists only of covariates."""


def joined(tables: Frames, as_of: date) -> Frames:
    """The tables with the covariates of the table `covariates` as columns of history and plan.

    A value in a row of sales or plan takes precedence, then one for the store, then one for all stores. The plan gets
    only covariates that are known for some week after `as_of`. Without a plan, they become a plan for all recent keys.
    Words of a plan, stored by an earlier version in a column that has numbers in the history, are unknown.
    """
    if "plan" in tables:
        numbers = covariate_columns(tables["history"].collect_schema())
        words = [name for name in text_columns(tables["plan"].collect_schema()) if name in numbers]
        tables = {**tables, "plan": tables["plan"].with_columns(pl.col(words).cast(pl.Float64, strict=False))}
    if "covariates" not in tables:
        return tables
    rows = tables["covariates"].collect()
    names = [*covariate_columns(rows.schema), *text_columns(rows.schema)]
    later = rows.filter(pl.col("week") > as_of)
    ahead = [name for name in names if later[name].is_not_null().any()]
    result = dict(tables) | {"history": _with(tables["history"], rows, names)}
    if ahead:
        plan = tables["plan"] if "plan" in tables else _every_week(tables["history"], later, as_of)
        result["plan"] = _with(plan, rows, ahead)
    return result


def _with(table: pl.LazyFrame, rows: pl.DataFrame, names: Sequence[str]) -> pl.LazyFrame:
    """`table` with its missing values in the columns `names` filled from `rows`."""
    there = table.collect_schema().names()
    every = pl.col("store") == EVERY_STORE
    of_all = rows.filter(every).select("week", pl.col(names).name.prefix("all "))
    of_store = rows.filter(~every).select("store", "week", pl.col(names).name.prefix("store "))
    wide = table.join(of_all.lazy(), on="week", how="left", maintain_order="left").join(
        of_store.lazy(), on=["store", "week"], how="left", maintain_order="left"
    )
    own = {name: [pl.col(name)] if name in there else [] for name in names}
    values = [pl.coalesce(*own[name], f"store {name}", f"all {name}").alias(name) for name in names]
    return wide.with_columns(values).drop("^(all|store) .*$")


def _every_week(history: pl.LazyFrame, later: pl.DataFrame, as_of: date) -> pl.LazyFrame:
    """A row for every key and week of `later` whose covariates are known."""
    recent = history.filter(pl.col("week").is_between(as_of - timedelta(weeks=RECENT_WEEKS), as_of))
    keys = recent.select(*KEY, "shard").unique()
    weeks = later.lazy().select("store", "week").unique()
    every = keys.join(weeks.filter(pl.col("store") == EVERY_STORE).select("week"), how="cross")
    return pl.concat([every, keys.join(weeks, on="store")], how="diagonal").unique().sort(*KEY, "week")
