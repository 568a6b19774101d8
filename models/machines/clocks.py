"""The range of time of telemetry, without readings of wrong clocks.

A few readings years before or after all others are not the fleet's first or last: they would move the
time from which rows are counted back. They stay in the table, but no row of the model uses them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

FAR = timedelta(days=180)
_SHARE = 0.01


@dataclass(frozen=True)
class Span:
    """The `first` and `last` plausible time of telemetry; null if there is none."""

    first: datetime | None
    last: datetime | None

    def holds(self) -> pl.Expr:
        return pl.col("time").is_between(self.first, self.last)


def span(telemetry: pl.LazyFrame) -> Span:
    """The range of `telemetry` without strays at its ends.

    Strays are rows that are more than `FAR` from all others, at most a hundredth of all rows, and from
    fewer than half of the machines, so that a fleet that restarts after a long stop is not a stray.
    """
    time = pl.col("time")
    days = telemetry.group_by(time.dt.date().alias("day")).agg(
        time.min().alias("first"), time.max().alias("last"), pl.len().alias("rows")
    )
    parts = (
        days.sort("day")
        .with_columns(
            (pl.col("first") - pl.col("last").shift() > FAR).fill_null(value=False).cum_sum().alias("part")
        )
        .group_by("part")
        .agg(pl.col("first").min(), pl.col("last").max(), pl.col("rows").sum())
        .sort("part")
        .collect(engine="streaming")
    )
    if parts.is_empty():
        return Span(None, None)
    if parts.height > 1:
        parts = _without_strays(telemetry, parts)
    return Span(parts["first"][0], parts["last"][-1])


def _without_strays(telemetry: pl.LazyFrame, parts: pl.DataFrame) -> pl.DataFrame:
    """`parts` of the time range without strays at either end."""
    few = parts["rows"] <= _SHARE * int(parts["rows"].sum())
    machines = telemetry.select(pl.col("machine_id").n_unique()).collect(engine="streaming").item()
    while few[0] and _some(telemetry, parts.row(0, named=True), machines):
        parts, few = parts[1:], few[1:]
    while few[-1] and _some(telemetry, parts.row(-1, named=True), machines):
        parts, few = parts[:-1], few[:-1]
    return parts


def _some(telemetry: pl.LazyFrame, part: dict[str, datetime], machines: int) -> bool:
    """Whether the rows of `part` come from fewer than half of the machines."""
    inside = telemetry.filter(pl.col("time").is_between(part["first"], part["last"]))
    return 2 * int(inside.select(pl.col("machine_id").n_unique()).collect().item()) < machines
