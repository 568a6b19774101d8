"""The hours to score or score again, and the hours from which a first training may learn."""

from bisect import bisect_left
from collections.abc import Collection
from datetime import datetime, timedelta

import polars as pl

HOUR = timedelta(hours=1)
LOOK_BACK = timedelta(days=31)
"""A run does not look for missing hours further back, so that the data that it reads does not grow with the table."""


LEARNT_SHARE = 2 / 3
"""At least this share of the first history is for training and is not scored."""
_NEARLY_ALL = 0.99


def first_split(readings: pl.LazyFrame, newest: datetime, at_most: int) -> tuple[datetime, int]:
    """The end of the hours from which a first training learns, and the number of later hours up to `newest` to judge.

    These are at most `at_most` and at most a third of all hours, so that no hour is judged by a model that learnt from it.
    A single hour cannot be split: it serves for both.
    """
    first = readings.select(pl.col("time").min().dt.truncate("1h")).collect(engine="streaming").item()
    hours = (newest - first) // HOUR
    if hours < 2:
        return newest, at_most
    count = max(1, min(at_most, int(hours * (1 - LEARNT_SHARE) + 1e-9)))
    return newest - HOUR * count, count


def devices_behind(readings: pl.LazyFrame, newest: datetime, memory_hours: int) -> str | None:
    """A message if most devices end more than `memory_hours` before `newest`; else None.

    The clocks of the few others may be ahead.
    """
    by_device = _ends(readings, newest)
    behind, last = _behind(by_device, newest, memory_hours)
    if last == newest:
        return None
    ahead = by_device.join(behind, on="device", how="anti")["device"]
    names = ", ".join(ahead.head(3)) + (", ..." if len(ahead) > 3 else "")
    return (
        f"{behind.height:,} of {by_device.height:,} devices have no reading in the {memory_hours} hours up to "
        f"{newest:%Y-%m-%d %H:%M} UTC and are not judged. Is the clock of {names} ahead? Score the others: "
        f"python -m flows devices score --as-of {last:%Y-%m-%dT%H:%M}"
    )


def fleet_end(readings: pl.LazyFrame, newest: datetime, memory_hours: int) -> datetime:
    """The end of the last hour of most devices, which is before `newest` if they end more than `memory_hours` before it."""
    return _behind(_ends(readings, newest), newest, memory_hours)[1]


def _behind(by_device: pl.DataFrame, newest: datetime, memory_hours: int) -> tuple[pl.DataFrame, datetime]:
    """The devices that end more than `memory_hours` before `newest`, and the fleet's end; see `fleet_end`."""
    behind = by_device.filter(pl.col("time") < newest - HOUR * memory_hours)
    last = behind["time"].max()
    if behind.height <= by_device.height / 2 or not isinstance(last, datetime):
        return behind, newest
    return behind, last.replace(minute=0, second=0) + HOUR


def _ends(readings: pl.LazyFrame, newest: datetime) -> pl.DataFrame:
    """The last reading of each device before `newest`.

    Devices that end `LOOK_BACK` before are not counted, unless nearly all readings are older; only then are these read.
    """
    time, until = pl.col("time"), newest
    recent = time >= newest - LOOK_BACK
    count, new = (
        rows.select(pl.len()).collect(engine="streaming").item()
        for rows in (readings, readings.filter(recent))
    )
    if count - new >= _NEARLY_ALL * count:
        until = readings.filter(~recent).select(time.max()).collect(engine="streaming").item()
    last = readings.filter(time >= until - LOOK_BACK, time < newest)
    return last.group_by("device").agg(time.max()).collect(engine="streaming").sort("device")


def due_hours(
    readings: pl.LazyFrame,
    newest: datetime,
    published_as_ofs: Collection[datetime],
    at_most: int,
    memory_hours: int,
) -> list[datetime]:
    """The ends of the complete hours up to `newest` that are not among `published_as_ofs`, oldest first.

    They begin with the first published hour, at most `LOOK_BACK` before `newest`; if none is published, there are
    the newest `at_most`. Hours without a requested sensor are left out: those before the first reading, and
    those more than `memory_hours` after the previous reading.
    """
    recent = {end for end in published_as_ofs if newest - LOOK_BACK < end <= newest}
    first = newest - HOUR * (at_most - 1)
    if published_as_ofs:
        first = max(min(published_as_ofs), newest - LOOK_BACK + HOUR)
    ends = [first + HOUR * n for n in range((newest - first) // HOUR + 1)]
    ends = [end for end in ends if end not in recent]
    if not ends:
        return []
    time = pl.col("time")
    near = readings.filter(time >= ends[0] - HOUR * memory_hours, time < newest)
    starts = near.select(time.dt.truncate("1h").unique().sort()).collect(engine="streaming")["time"].to_list()
    return [end for end in ends if _has_reading(starts, end - HOUR * memory_hours, end)]


def changed_hours(before: pl.LazyFrame, now: pl.LazyFrame, ends: Collection[datetime]) -> list[datetime]:
    """The hours among `ends` (their ends) with more readings `now` than `before`, oldest first.

    Readings are only added, so an hour with the same number of readings is unchanged.
    """
    if not ends:
        return []
    counts = [_readings_by_end(table, min(ends) - HOUR, max(ends)) for table in (before, now)]
    return sorted(end for end in ends if counts[0].get(end, 0) != counts[1].get(end, 0))


def _readings_by_end(readings: pl.LazyFrame, since: datetime, until: datetime) -> dict[datetime, int]:
    near = readings.filter(pl.col("time") >= since, pl.col("time") < until)
    end = pl.col("time").dt.truncate("1h") + HOUR
    return dict(near.group_by(end).agg(pl.col("count").sum()).collect(engine="streaming").iter_rows())


def _has_reading(starts: list[datetime], since: datetime, until: datetime) -> bool:
    """Whether one of the sorted `starts` of hours lies between `since` (included) and `until` (excluded)."""
    place = bisect_left(starts, since)
    return place < len(starts) and starts[place] < until
