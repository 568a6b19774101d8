"""Which machines are at work when, and how far failures are on record.

A machine whose telemetry ended long ago is out of service: what would have failed since nobody could see.
Its last rows are censored, neither failing nor healthy, and it is not ranked. A table of failures may end
before telemetry does, where it was extracted earlier; the time after that is not free of failures either.
"""

from datetime import datetime, timedelta

import polars as pl

from models.scenario import Frames

ENDED = "ended"
"""Column: the last telemetry of a machine that is out of service."""

_SILENCE, _INTERVALS = timedelta(days=28), 3
_BY_CHANCE = 0.001


def longest_silence(interval_hours: float) -> timedelta:
    """How long a machine that is in service may send nothing: 28 days, or three intervals."""
    return max(_SILENCE, timedelta(hours=_INTERVALS * interval_hours))


def ended(telemetry: pl.LazyFrame, last: datetime, silence: timedelta) -> pl.DataFrame:
    """Machines that are out of service at `last`: machine_id, `ended`."""
    newest = telemetry.group_by("machine_id").agg(pl.col("time").max().alias(ENDED))
    return newest.filter(pl.col(ENDED) < last - silence).sort("machine_id").collect(engine="streaming")


def silent_since(telemetry: pl.LazyFrame, rows: pl.DataFrame, silence: timedelta) -> pl.Series:
    """For each of `rows` (machine_id, time) the last telemetry before a longer silence than `silence`, else null."""
    quiet = rows.select("machine_id").filter(rows["readings"] == 0).unique()
    if quiet.is_empty():
        return pl.Series(ENDED, [None] * rows.height, dtype=rows.schema["time"])
    history = telemetry.filter(pl.col("machine_id").is_in(quiet["machine_id"].implode()))
    seen = history.select("machine_id", "time", pl.col("time").alias(ENDED)).sort("time").collect()
    wanted = rows.select("machine_id", "time").with_row_index("|row").sort("time")
    found = wanted.join_asof(seen, on="time", by="machine_id", check_sortedness=False).sort("|row")
    return found.select(pl.when(pl.col(ENDED) < pl.col("time") - silence).then(ENDED))[ENDED]


def failures_until(tables: Frames, last: datetime) -> datetime:
    """The time up to which failures are on record: `last`, or the last failure where the record ends before it.

    It ends before where all failures, spread over the readings by chance, would come as early as they do less
    than once in a thousand times, and where the time after them is twice as long as the longest between two.
    """
    if "failures" not in tables or "telemetry" not in tables:
        return last
    time = pl.col("time")
    past = tables["failures"].filter(time <= last)
    days = past.select("machine_id", "component", time.dt.date().alias("day"), "time").collect()
    if days.height < 2:
        return last
    newest = days["time"].max()
    telemetry = tables["telemetry"].filter(time <= last)
    counts = telemetry.select((time <= newest).sum().alias("before"), (time > newest).sum().alias("after"))
    before, after = counts.collect(engine="streaming").row(0)
    failures = days.select("machine_id", "component", "day").n_unique()
    quiet = days["time"].unique().sort().diff().max()
    unlikely = (before / (before + after)) ** failures < _BY_CHANCE
    return newest if unlikely and last - newest > 2 * quiet else last  # type: ignore[operator, return-value]


def record_ends(until: datetime, last: datetime) -> str:
    """What is told where failures are on record up to `until` alone."""
    return (
        f"failures are on record until {until:%Y-%m-%d %H:%M} UTC, telemetry until {last:%Y-%m-%d %H:%M} UTC: what "
        "failed after that is taken as unknown, not as none; ingest the failures since then"
    )
