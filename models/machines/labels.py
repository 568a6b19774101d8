"""Outcomes after a row's time: when each component failed next, and for how long this was observed."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from models.machines.next_in_time import with_next

OBSERVED = "observed_hours"
"""Column: hours after the row's time for which failures are known; negative if the row is later."""

_HOUR = 3_600_000_000


def next_failure_column(component: str) -> str:
    """Name of the column with the hours from the row's time to the component's next failure."""
    return f"{component}|next_failure_hours"


def next_failure(component: str) -> pl.Expr:
    """The hours from the row's time to the component's next failure; null if none follows or the machine lacks it."""
    return pl.col(next_failure_column(component)).fill_nan(None)


def has_component(component: str) -> pl.Expr:
    """Whether the row's machine has `component`: otherwise its column of next failures is NaN."""
    return pl.col(next_failure_column(component)).is_not_nan().fill_null(value=True)


def without_components(rows: pl.DataFrame, gaps: pl.DataFrame) -> pl.DataFrame:
    """`rows` with NaN as the next failure of components that their machines do not have: `gaps`, machine_id, component."""
    lacking = [
        pl.when(pl.col("machine_id").is_in(machines.implode()))
        .then(float("nan"))
        .otherwise(next_failure_column(component))
        .alias(next_failure_column(component))
        for (component,), machines in (
            (name, some["machine_id"]) for name, some in gaps.group_by("component", maintain_order=True)
        )
    ]
    return rows.with_columns(lacking)


def failure_time(hours: pl.Expr) -> pl.Expr:
    """The time `hours` after the row's time."""
    return pl.col("time") + pl.duration(microseconds=(hours * 3.6e9).round())


def outcomes(
    rows: pl.DataFrame,
    failures: pl.LazyFrame,
    components: Sequence[str],
    observed_until: datetime,
    ends: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Hours to the next failure of each component after each row's time, and `observed_hours`.

    `rows` holds machine_id and time; the result has the same order. Null if no failure follows that was
    on record at `observed_until`. A failure exactly at the row's time is past, not next. Hours are
    Float64: they measure time, not rows. A machine of `ends` (machine_id, ended) is observed until `ended`, or
    until its last failure if that is later.
    """
    names = [next_failure_column(c) for c in components]
    times = rows.select("machine_id", "time").with_row_index("|row").sort("time")
    component = pl.col("component")
    next_failures = (
        failures.filter(pl.col("time") <= observed_until)
        .select(
            "machine_id",
            "time",
            *(
                pl.when(component == c).then("time").alias(name)
                for c, name in zip(components, names, strict=True)
            ),
        )
        .group_by("machine_id", "time")
        .max()
        .sort("time", "machine_id")
        .with_columns(pl.col(name).backward_fill().over("machine_id") for name in names)
        .collect()
    )
    table = with_next(times, next_failures, later=True)
    end = pl.lit(observed_until).cast(pl.Datetime("us", "UTC"))
    if ends is not None:
        table = table.join(ends, on="machine_id", how="left", maintain_order="left")
        never = pl.all_horizontal(pl.lit(value=True), *(pl.col(n).is_null() for n in names))
        end = pl.min_horizontal(end, pl.when(never).then("ended"))
    return table.sort("|row").select(
        *(((pl.col(name) - pl.col("time")).dt.total_microseconds() / _HOUR).alias(name) for name in names),
        ((end - pl.col("time")).dt.total_microseconds() / _HOUR).alias(OBSERVED),
    )


def fails_within(component: str, horizon_hours: float) -> pl.Expr:
    """The label: whether `component` fails in (T, T + horizon], its last moment included.

    Null (pending) if the horizon ends after the observed time, whatever is on record by then: a
    row is decided when all rows of its time are. Also null if the machine does not have the component.
    Each component has its own label, so two failures within one horizon are two labels.

    >>> frame = pl.DataFrame({"pump|next_failure_hours": [24.0, 25.0, None, 3.0], OBSERVED: [48, 48, 48, 12]})
    >>> frame.select(fails_within("pump", 24).alias("label"))["label"].to_list()
    [True, False, False, None]
    """
    within = (next_failure(component) <= horizon_hours).fill_null(value=False)
    return pl.when((pl.col(OBSERVED) >= horizon_hours) & has_component(component)).then(within)


def some_fails_within(components: Sequence[str], horizon_hours: float) -> pl.Expr:
    """Whether any of `components` that the machine has fails within the horizon; null if that is pending."""
    return pl.max_horizontal(fails_within(c, horizon_hours) for c in components)
