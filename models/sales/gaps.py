"""Gaps in the plan of a forecast, by SKU, store, week and column, and their effect on the forecast."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.sales.categories import column_of
from models.sales.panel import KEY, known_covariates
from models.sales.successors import PREDECESSOR
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
UNKNOWN = "forecast with these values unknown"
_EVERY = "every one"
_FAR = 5.0


def plan_gaps(tables: Frames, keys: pl.DataFrame, as_of: date, horizon: int) -> pl.DataFrame:
    """The rows and values that the plan lacks for `keys` in the `horizon` weeks after `as_of`.

    One line stands for all combinations of its SKUs, stores, weeks and columns, each a comma-separated
    list; `rows` counts the combinations of SKU, store and week. Empty if the history has no
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


def other_scales(tables: Frames, newest: date) -> list[str]:
    """A note per column whose planned values are on another scale than those of the history, such as cents for euros."""
    if "plan" not in tables:
        return []
    plan = tables["plan"].filter(pl.col("week") > newest)
    return changes_of_scale(plan, tables["history"], "the plan than in the history", "planned")


def unknown_keys(tables: Frames, newest: date) -> list[str]:
    """A note on planned SKUs, and one on stores, that the history lacks; a SKU with a predecessor is known by it."""
    notes = []
    for key, name in (("sku", "SKUs"), ("store", "stores")) if "plan" in tables else ():
        planned = tables["plan"].filter(pl.col("week") > newest).select(pl.col(key).unique())
        unknown = planned.join(tables["history"], on=key, how="anti").sort(key)
        attributes = tables.get(f"{key}s")
        if attributes is not None and PREDECESSOR in attributes.collect_schema():
            unknown = unknown.join(attributes.filter(pl.col(PREDECESSOR).is_not_null()), on=key, how="anti")
        names, count = unknown.collect()[key], planned.select(pl.len()).collect().item()
        if len(names):
            notes.append(
                f"{len(names):,} of the {count:,} planned {name} are not in the history, such as '{names[0]}': they are "
                "forecast as new ones. Correct the plan if they are known under other names."
            )
    return notes


def changes_of_scale(rows: pl.LazyFrame, history: pl.LazyFrame, places: str, when: str) -> list[str]:
    """A note per column of `rows` that is on another scale than in the `history`; `places` and `when` are words for both.

    That is, for most of the SKUs, all values are more than `_FAR` times the highest value on record, or less than
    1 / `_FAR` of the lowest, which must be above 0.
    """
    schema = history.collect_schema()
    names = [
        n
        for n, kind in rows.collect_schema().items()
        if kind.is_numeric() and n != "shard" and n in schema and schema[n].is_numeric()
    ]
    ends = [pl.col(names).min().name.prefix("low "), pl.col(names).max().name.prefix("high ")]
    after, before = (frame.group_by("sku").agg(ends) for frame in (rows, history))
    skus = after.join(before, on="sku", suffix=" before").sort("sku").collect(engine="streaming")
    notes = []
    for name in names:
        low, high = pl.col(f"low {name}"), pl.col(f"high {name}")
        lowest, highest = pl.col(f"low {name} before"), pl.col(f"high {name} before")
        far = skus.filter(lowest > 0, (low > _FAR * highest) | (_FAR * high < lowest))
        if 2 * far.height > skus.height:
            row = far.row(0, named=True)
            notes.append(
                f"{name} is on another scale in {places} for {far.height:,} of {skus.height:,} SKUs, "
                f"e.g. {row['sku']}: {row[f'low {name}']:g} to {row[f'high {name}']:g} {when}, "
                f"{row[f'low {name} before']:g} to {row[f'high {name} before']:g} before. Use the same unit in both."
            )
    return notes


def _missing(
    plan: pl.LazyFrame, keys: pl.DataFrame, covariates: Sequence[str], weeks: list[date]
) -> pl.DataFrame:
    """One row per SKU, store and week with at least one unknown covariate, with the covariates' names."""
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


def _grouped(gaps: pl.DataFrame, covariates: int) -> pl.DataFrame:
    effect = (
        pl.when(pl.col("columns").list.len() == covariates).then(pl.lit(WITHOUT)).otherwise(pl.lit(UNKNOWN))
    )
    lines = gaps.with_columns(effect.alias("effect"), pl.col("columns").list.join(", "))
    lines = lines.with_columns(
        pl.col("week").dt.to_string().alias("weeks"), pl.lit(1, pl.Int64).alias("rows")
    )
    for column in ("weeks", "sku", "store"):
        others = [name for name in ("weeks", "sku", "store", "columns", "effect") if name != column]
        lines = lines.group_by(others).agg(pl.col(column).sort().str.join(", "), pl.col("rows").sum())
    return lines.select(*SCHEMA).sort("rows", "sku", "store", "weeks", descending=[True, False, False, False])
