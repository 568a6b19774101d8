"""Raw readings -> readings per fixed interval, so that late and repeated readings change nothing.

An interval keeps its readings (`point_times`, `point_values`), and its figures are a
function of that set alone. So the order, the number of files and the repetitions in which readings
arrive do not matter: merging produces, to the last bit, the table of a single pass.

Two readings are the same if device, tag, time and value are equal: a message that was delivered twice
is recognised in any file, even if its offset and sequence number differ. An interval
that arrived aggregated has no points; a reading for it is not merged but returned as too late.
"""

from datetime import timedelta
from typing import NamedTuple

import polars as pl

from models.devices import words
from models.devices.contracts import KEY, TIME
from models.errors import ContractError

POINT = (*KEY, "at", "value")
_INTERVAL = (*KEY, "time")
TURN = 360.0
_DIRECTION = r"(?i)direction|heading|bearing|azimuth|angle|(^|[^a-z])(wind_?)?(dir|yaw|course)([^a-z]|$)"
_UNITS = {"s": 1, "m": 60, "h": 3600}


class Merged(NamedTuple):
    """`readings` are the intervals that changed; `duplicates` and `too_late` are points that changed none."""

    readings: pl.DataFrame
    duplicates: pl.DataFrame
    too_late: pl.DataFrame


def interval_of(text: str) -> timedelta:
    """The interval that `text` names: a number and `s`, `m` or `h`. It must divide an hour.

    >>> interval_of("1m")
    datetime.timedelta(seconds=60)
    """
    amount, unit = text[:-1], text[-1:]
    seconds = int(amount) * _UNITS[unit] if unit in _UNITS and amount.isdecimal() else 0
    if seconds == 0 or 3600 % seconds:
        raise ContractError(
            f"--interval is '{text}'. Expected a number and s, m or h that divides an hour, e.g. 1m."
        )
    return timedelta(seconds=seconds)


def points(raw: pl.DataFrame, interval: timedelta) -> pl.DataFrame:
    """Good raw readings as points, sorted and without repeats: device, tag, `time`, `at`, value.

    `at` is the reading's own time, `time` the start of its interval; the end does not belong to the interval.
    """
    rows = raw.select(*KEY, pl.col("time").cast(TIME).alias("at"), pl.col("value").cast(pl.Float64))
    rows = rows.with_columns(pl.col("at").dt.truncate(interval).alias("time"))
    return once(rows.select(*_INTERVAL, "at", "value"))


def once(points: pl.DataFrame) -> pl.DataFrame:
    """`points` sorted and without repeats."""
    sensors = points.select(*KEY).unique().sort(*KEY).with_row_index("sensor")
    in_order = points.join(sensors, on=list(KEY), how="left").sort("sensor", "at", "value")
    differs = [pl.col(c).ne_missing(pl.col(c).shift(1)) for c in ("sensor", "at", "value")]
    return in_order.filter(pl.any_horizontal(differs)).drop("sensor")


def aggregate(points: pl.DataFrame) -> pl.DataFrame:
    """Points -> readings, one row per device, tag and interval, sorted; the same for any order of `points`.

    `std` is the sample standard deviation, null for one reading. `last` is the value at the latest
    time, the greatest of several at that time. For states (`models.devices.words`), it is also the `mean`. For a direction
    (`is_direction`) that passes north within the interval, `mean` and `std` are those of the values on the shorter way
    round, the mean from 0 to 360.
    """
    lists = (
        points.sort(*POINT)
        .group_by(_INTERVAL, maintain_order=True)
        .agg(pl.col("at").alias("point_times"), pl.col("value").alias("point_values"))
    )
    values = pl.col("point_values").list
    way, mean = values, values.mean()
    if lists.select(is_direction().any()).item():
        shorter = pl.when(_passes_north()).then(_shorter_way_round()).otherwise("point_values")
        lists = lists.with_columns(shorter.alias("way"))
        way = pl.col("way").list
        mean = pl.when(_passes_north()).then(way.mean() % TURN).otherwise(way.mean())
    states = values.max() >= words.LEAST
    return lists.select(
        *_INTERVAL,
        values.len().cast(pl.Int64).alias("count"),
        pl.when(states).then(values.last()).otherwise(mean).alias("mean"),
        values.min().alias("min"),
        values.max().alias("max"),
        pl.when(values.len() > 1, ~states).then(way.std(ddof=1)).alias("std"),
        values.last().alias("last"),
        "point_times",
        "point_values",
    )


def is_direction() -> pl.Expr:
    """Whether the name of the tag says that it is a direction, in degrees."""
    return pl.col("tag").str.contains(_DIRECTION)


def _passes_north() -> pl.Expr:
    """Whether a direction's values lie on both sides of 0, all from 0 to 360, with more than half a turn free of them."""
    in_order = pl.col("point_values").list.sort()
    free = in_order.list.diff().list.max() > TURN / 2
    return (
        is_direction() & (in_order.list.first() >= 0) & (in_order.list.last() <= TURN) & free.fill_null(False)
    )


def _shorter_way_round() -> pl.Expr:
    """The values, with a turn subtracted from those above half a turn."""
    value = pl.element()
    return pl.col("point_values").list.eval(pl.when(value > TURN / 2).then(value - TURN).otherwise(value))


def merge(readings: pl.DataFrame, new: pl.DataFrame) -> Merged:
    """Merges new points into the stored readings of the same intervals.

    `readings` cover at least the intervals of the points `new`. Intervals without a new point are not
    returned. A point that `readings` already has is a duplicate. A point for an interval that arrived aggregated
    is too late.
    """
    fresh = once(new)
    rows = readings.join(fresh, on=_INTERVAL, how="semi")
    if rows.is_empty():
        return Merged(aggregate(fresh), fresh.clear(), fresh.clear())
    apart = fresh.join(rows, on=_INTERVAL, how="anti")
    fresh = fresh.join(rows, on=_INTERVAL, how="semi")
    closed_intervals = rows.filter(pl.col("point_times").is_null())
    too_late = fresh.join(closed_intervals, on=_INTERVAL, how="semi")
    fresh = fresh.join(closed_intervals, on=_INTERVAL, how="anti")
    earlier = unfold(rows.filter(pl.col("point_times").is_not_null()))
    duplicates = fresh.join(earlier, on=POINT, how="semi")
    fresh = fresh.join(earlier, on=POINT, how="anti")
    earlier = earlier.join(fresh, on=_INTERVAL, how="semi")
    return Merged(
        aggregate(pl.concat([earlier, fresh, apart])), duplicates.sort(*POINT), too_late.sort(*POINT)
    )


def unfold(readings: pl.DataFrame) -> pl.DataFrame:
    """The points of readings: the inverse of `aggregate`."""
    lists = readings.select(
        *_INTERVAL, pl.col("point_times").alias("at"), pl.col("point_values").alias("value")
    )
    return lists.explode("at", "value", empty_as_null=False).sort(*POINT)
