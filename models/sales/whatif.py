"""A changed plan compared with the stored one: the resulting plan, and the differences in the forecasts.

A row of the changed plan replaces the stored row of its SKU, store and week, column by column: columns and rows that
the file lacks keep the stored values. An empty cell is unknown.

Forecasts of a key depend on its own plan, on the plan of the other SKUs of its store, and on the plan of its SKU in the
other stores. So forecasts may differ for all keys of a SKU or a store whose plan has changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import polars as pl

from models.errors import ContractError
from models.sales import categories, totals
from models.sales.gaps import other_scales
from models.sales.names import suggestion
from models.sales.neighbours import PRICE
from models.sales.options import Options
from models.sales.panel import KEY, covariate_columns
from models.scenario import File, Frames

ON = [*KEY, "week"]
NAMED = 5
"""Maximum number of SKUs, stores or weeks that a note names."""
_DIFFERENCE = (pl.col("changed").fill_null(0.0) - pl.col("stored").fill_null(0.0)).alias("difference")


def usable(rows: pl.DataFrame, tables: Frames, as_of: date, horizon: int) -> tuple[pl.DataFrame, list[str]]:
    """Rows of a changed plan that the forecast uses, and notes on all others.

    SKUs and stores that neither the history nor the stored plan has, and weeks that are not forecast, are left out. A
    new pair of a known SKU and a known store is kept. Raises `ContractError` if nothing is left.
    """
    stored_keys = (
        pl.concat([tables[name].select(KEY) for name in ("history", "plan") if name in tables])
        .unique()
        .collect()
    )
    notes = []
    for column in KEY:
        names = stored_keys[column].unique()
        strange_rows = rows.filter(~pl.col(column).is_in(names.implode()))
        if strange_rows.height:
            notes.append(_unknown(column, strange_rows, names.to_list()))
            rows = rows.join(strange_rows, on=ON, how="anti")
    rows, week_notes = _of_weeks(rows, as_of + timedelta(weeks=1), as_of + timedelta(weeks=horizon))
    notes += week_notes
    of_rows, of_history = (
        {*covariate_columns(schema), *categories.text_columns(schema)}
        for schema in (rows.schema, tables["history"].collect_schema())
    )
    strange = sorted(of_rows - of_history)
    if strange:
        notes.append(f"The history lacks {_listed(strange)}: the forecast does not use these columns.")
    notes += categories.notes(rows.lazy(), categories.of_history(tables, as_of), as_of)
    notes += other_scales({**tables, "plan": rows.lazy()}, as_of)
    new = rows.select(KEY).unique().join(stored_keys, on=KEY, how="anti").sort(KEY)
    if new.height:
        pairs = _listed([f"{sku} in {store}" for sku, store in new.iter_rows()])
        notes.append(
            f"{new.height:,} pairs of SKU and store are new and count as zero in the stored plan: {pairs}."
        )
    if rows.is_empty():
        lines = "\n".join(notes) or "It has no rows."
        raise ContractError(
            f"The forecast does not use any row of the plan.\n{lines}\nCorrect the plan or its columns."
        )
    return rows, notes


def _of_weeks(rows: pl.DataFrame, first: date, last: date) -> tuple[pl.DataFrame, list[str]]:
    """The rows of the weeks from `first` to `last`, and a note on the others."""
    inside = pl.col("week").is_between(first, last)
    outside = rows.filter(~inside)
    if outside.is_empty():
        return rows, []
    weeks = _listed(sorted(str(week) for week in outside["week"].unique()))
    note = (
        f"{outside.height:,} rows are left out because their weeks are not forecast: {weeks}. "
        f"The forecast covers {first} to {last}."
    )
    return rows.filter(inside), [note]


def _unknown(column: str, rows: pl.DataFrame, candidates: Sequence[str]) -> str:
    names = sorted(rows[column].unique())
    what = {"sku": "SKU", "store": "store"}[column]
    return (
        f"{rows.height:,} rows are left out because neither the history nor the stored plan has their {what}s: "
        f"{_listed(names)}. {suggestion(names[0], candidates)}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more


def merged(stored_plan: pl.DataFrame | None, rows: pl.DataFrame) -> pl.DataFrame:
    """The stored plan with `rows` merged into it; see the module's docstring."""
    if stored_plan is None:
        return rows.sort(ON)
    cast = rows.cast({name: stored_plan.schema[name] for name in rows.columns if name in stored_plan.columns})
    plan_columns = [name for name in cast.columns if name not in (*ON, "shard")]
    other_columns = [name for name in stored_plan.columns if name not in cast.columns]
    new = cast.join(stored_plan.select(*ON, *other_columns), on=ON, how="left")
    rest = stored_plan.join(cast, on=ON, how="anti")
    return pl.concat([rest, new.select(*ON, "shard", *plan_columns, *other_columns)], how="diagonal").sort(ON)


def changed(stored_plan: pl.DataFrame | None, plan: pl.DataFrame) -> pl.DataFrame:
    """Rows of `plan` that differ from the stored one."""
    if stored_plan is None:
        return plan
    names = plan.columns
    nulls = [pl.lit(None, plan.schema[name]).alias(name) for name in names if name not in stored_plan.columns]
    return plan.join(stored_plan.with_columns(nulls).select(names), on=names, how="anti", nulls_equal=True)


def beside(stored_plan: pl.DataFrame | None, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` of a plan as a table for readers: the columns that differ from the stored plan, before and now."""
    names = [name for name in rows.columns if name not in (*ON, "shard")]
    if stored_plan is None:
        return rows.select(*ON, *names)
    before = [name for name in names if name in stored_plan.columns]
    both = rows.join(stored_plan.select(*ON, *before), on=ON, how="left", suffix=" before").sort(ON)
    differs = [
        name
        for name in names
        if name not in before or not both[name].equals(both[f"{name} before"].alias(name))
    ]
    return both.select(*ON, *[c for name in differs for c in (f"{name} before", name) if c in both.columns])


def affected(keys: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Those of `keys` whose forecasts may differ if the plan differs in `rows`."""
    return keys.filter(
        pl.col("sku").is_in(rows["sku"].unique().implode())
        | pl.col("store").is_in(rows["store"].unique().implode())
    )


def differences(base: pl.DataFrame, other: pl.DataFrame, columns: Sequence[str], middle: str) -> pl.DataFrame:
    """A line per key and week that compares the forecasts with two plans, sorted by key and week.

    Columns: sku, store, week; `stored` and `changed`, the medians, null if a plan lacks the key; `difference`, in which
    a missing median counts as zero; and all quantiles of both, as `stored_q5`, `changed_q5` and so on.
    """
    both = _named(base, "stored", columns, middle).join(
        _named(other, "changed", columns, middle), on=ON, how="full", coalesce=True
    )
    return (
        both.with_columns(_DIFFERENCE)
        .select(*ON, "stored", "changed", "difference", pl.exclude(*ON, "stored", "changed", "difference"))
        .sort(ON)
    )


def _named(rows: pl.DataFrame, name: str, columns: Sequence[str], middle: str) -> pl.DataFrame:
    return rows.select(*ON, pl.col(middle).alias(name), *[pl.col(c).alias(f"{name}_{c}") for c in columns])


def in_order(
    lines: pl.DataFrame, stored_plan: pl.DataFrame | None, plan: pl.DataFrame
) -> tuple[pl.DataFrame, list[str]]:
    """`lines` of `differences` in which a lower price alone never lowers a forecast, and a higher price never raises it.

    The models are constrained in this way, but promoted and regular weeks are calibrated differently, and the
    price relative to other SKUs is not constrained. A quantile that moves the wrong way keeps the value of the stored plan
    in rows in which only the price of the week differs for the key, and nothing for the other SKUs of the
    store; a note gives their number.
    """
    if stored_plan is None or PRICE not in plan.columns or PRICE not in stored_plan.columns:
        return lines, []
    rows = changed(stored_plan, plan)
    alone = rows.filter(pl.len().over("store", "week") == 1).join(stored_plan, on=ON, suffix="_before")
    others = [name for name in plan.columns if f"{name}_before" in alone.columns and name != PRICE]
    same = [pl.col(name).eq_missing(pl.col(f"{name}_before")) for name in others]
    moves = alone.filter(same).select(*ON, move=(pl.col(PRICE) - pl.col(f"{PRICE}_before")).sign())
    with_move = lines.join(moves, on=ON, how="left", maintain_order="left")
    pairs = [
        (name, name.replace("changed", "stored", 1)) for name in lines.columns if name.startswith("changed")
    ]
    result = with_move.with_columns(
        pl.when(pl.col("move") < 0)
        .then(pl.max_horizontal(now, before))
        .when(pl.col("move") > 0)
        .then(pl.min_horizontal(now, before))
        .otherwise(now)
        .alias(now)
        for now, before in pairs
    )
    count = (result["changed"] != with_move["changed"]).sum()
    result = result.with_columns(_DIFFERENCE)
    note = (
        f"{count:,} medians moved with the price, not against it, and are kept as in the stored plan: promoted and "
        "regular weeks are calibrated differently. A scoring run with this plan would not correct them."
    )
    return result.select(lines.columns), [note] if count else []


def bands(lines: pl.DataFrame, files: Mapping[str, File], as_of: date, options: Options) -> pl.DataFrame:
    """Totals of the pairs of `lines` with both plans, for each week and all weeks; see `models.sales.totals`.

    Columns: plan (`stored` or `changed`), week, weeks, expected and the quantiles; without rows if the bundle's `files`
    do not support totals. A pair that a plan lacks does not count in its totals.
    """
    only = replace(options, totals=(totals.TOTAL,))
    step = ((pl.col("week") - as_of).dt.total_days() // 7).cast(pl.Int32).alias("step")
    frames = []
    for plan in ("stored", "changed"):
        quantiles = [pl.col(f"{plan}_{name}").alias(name) for name in options.columns]
        rows = lines.drop_nulls(plan).select(*ON, step, *quantiles)
        sums = totals.totals(rows.lazy(), files, {}, only)
        frames.append(sums.select(pl.lit(plan).alias("plan"), "week", "weeks", "expected", *options.columns))
    return pl.concat(frames)


def summed(lines: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The medians of `differences` summed by the columns `by`, the difference, and its share of the stored sum."""
    sums = [pl.col(name).sum() for name in ("stored", "changed", "difference")]
    result = lines.group_by(by).agg(sums) if by else lines.select(sums)
    share = pl.when(pl.col("stored") > 0).then(pl.col("difference") / pl.col("stored"))
    return result.with_columns(share.alias("share")).sort(by or "stored")
