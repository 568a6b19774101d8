"""What a way of inspecting costs: failures that nobody came before, and inspections that nothing followed.

An inspection of a component at T prevents the first failure in (T, T + horizon]. It is needless where
none is in there, and the component is left alone for that long after it. What a failure costs that
was not prevented, and what a needless inspection costs, are the two settings.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from models.machines.options import Options

COMPONENT = ("machine_id", "component")


@dataclass(frozen=True)
class Bill:
    """How many failures were prevented and missed, how many inspections were needless, and what it cost."""

    prevented: int
    missed: int
    needless: int
    cost: float


def bill(inspections: pl.DataFrame, failures: pl.DataFrame, horizon_hours: int, options: Options) -> Bill:
    """The bill for `inspections`, given the `failures` that came; both machine_id, component, time.

    Inspections have to be those that were made, see `alarms` and `every`.
    """
    following = inspections.sort("time").join_asof(
        failures.sort("time").with_columns(failed_at="time"),
        on="time",
        by=list(COMPONENT),
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    useful = following.filter(pl.col("failed_at") <= pl.col("time") + pl.duration(hours=horizon_hours))
    prevented = useful.select(*COMPONENT, "failed_at").unique().height
    missed = failures.select(*COMPONENT, "time").unique().height - prevented
    needless = inspections.height - useful.height
    cost = missed * options.missed_failure_cost + needless * options.needless_inspection_cost
    return Bill(prevented, missed, needless, cost)


def alarms(rows: pl.DataFrame, horizon_hours: int) -> pl.DataFrame:
    """The inspections that a model's alarms lead to: `rows` (machine_id, component, time) with an alarm.

    A component that was inspected is left alone for the horizon; the next alarm after it counts again.
    """
    chosen: list[int] = []
    ordered = rows.sort(*COMPONENT, "time")
    previous, free = None, None
    pause = timedelta(hours=horizon_hours)
    for i, (machine, component, time) in enumerate(ordered.select(*COMPONENT, "time").iter_rows()):
        if (machine, component) != previous or free is None or time >= free:
            previous, free = (machine, component), time + pause
            chosen.append(i)
    return ordered.select(*COMPONENT, "time")[chosen]


def every(components: pl.DataFrame, first: datetime, last: datetime, days: int) -> pl.DataFrame:
    """An inspection of each of `components` (machine_id, component) at `first` and each `days` after it."""
    times = pl.Series("time", [first]).cast(pl.Datetime("us", "UTC"))
    if last > first:
        times = pl.datetime_range(first, last, timedelta(days=days), time_unit="us", eager=True).alias("time")
    return components.select(COMPONENT).unique().sort(COMPONENT).join(times.to_frame(), how="cross")
