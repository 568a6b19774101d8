"""What the plan lacks for a forecast: by SKU, store, week and column, and the effect on the forecast."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.sales.categories import column_of
from models.sales.panel import KEY, known_covariates
from models.scenario import Frames

SCHEMA = {
    "sku": pl.String,
    "store": pl.String,
    "weeks": pl.String,
    "columns": pl.String,
    "rows": pl.Int64,
    "effect": pl.String,
}
WITHOUT = "forecast without a plan"
UNKNOWN = "forecast with these values as unknown"
_EVERY = "every one"


def plan_gaps(tables: Frames, keys: pl.DataFrame, as_of: date, horizon: int) -> pl.DataFrame:
    """The rows and values that the plan lacks for `keys` in the `horizon` weeks after `as_of`.

    One line stands for all combinations of its SKUs, stores, weeks and columns, each a list with
    commas; `rows` counts the combinations of SKU, store and week. Empty where the history has no
    covariates.
    """
    covariates = known_covariates(tables)
    weeks = [as_of + timedelta(weeks=step) for step in range(1, horizon + 1)]
    if not covariates or keys.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    if "plan" not in tables:
        line = (
            _EVERY,
            _EVERY,
            f"{weeks[0]} to {weeks[-1]}",
            ", ".join(dict.fromkeys(map(column_of, covariates))),
            keys.height * horizon,
            WITHOUT,
        )
        return pl.DataFrame([line], schema=SCHEMA, orient="row")
    return _grouped(_missing(tables["plan"], keys, covariates, weeks), len({*map(column_of, covariates)}))


def _missing(
    plan: pl.LazyFrame, keys: pl.DataFrame, covariates: Sequence[str], weeks: list[date]
) -> pl.DataFrame:
    """One row per SKU, store and week of which at least one covariate is not known, with their names."""
    combinations = keys.lazy().select(KEY).join(pl.LazyFrame({"week": weeks}), how="cross")
    names = [pl.when(pl.col(name).is_null()).then(pl.lit(column_of(name))) for name in covariates]
    return (
        combinations.join(plan.select(*KEY, "week", *covariates), on=[*KEY, "week"], how="left")
        .filter(pl.any_horizontal(pl.col(covariates).is_null()))
        .select(
            *KEY,
            "week",
            pl.concat_list(names).list.drop_nulls().list.unique(maintain_order=True).alias("columns"),
        )
        .collect()
    )


def _grouped(missing: pl.DataFrame, covariates: int) -> pl.DataFrame:
    effect = (
        pl.when(pl.col("columns").list.len() == covariates).then(pl.lit(WITHOUT)).otherwise(pl.lit(UNKNOWN))
    )
    lines = missing.with_columns(effect.alias("effect"), pl.col("columns").list.join(", "))
    lines = lines.with_columns(
        pl.col("week").dt.to_string().alias("weeks"), pl.lit(1, pl.Int64).alias("rows")
    )
    for merged in ("weeks", "sku", "store"):
        others = [name for name in ("weeks", "sku", "store", "columns", "effect") if name != merged]
        lines = lines.group_by(others).agg(pl.col(merged).sort().str.join(", "), pl.col("rows").sum())
    return lines.select(*SCHEMA).sort("rows", "sku", "store", "weeks", descending=[True, False, False, False])
