"""How often a sensor sends: one that sends every ten minutes is judged every ten minutes.

The pace of a sensor is the number of the store's intervals that its detector treats as one. It is 1, unless the
readings are regular and further apart: at least `REGULAR` of the gaps between them are within half of the median gap.
Then it is the longest part of an hour that is not longer than that gap, with a tolerance of a tenth. Sensors that
report on change are not regular and keep the store's interval.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from models.devices.contracts import JOINT_TAG, KEY
from models.devices.grid import Panel, panel_of, with_timezone
from models.devices.options import Options

HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REGULAR, FEWEST_GAPS = 0.75, 20
_DENSE = 0.6
GRIDS = 16
"""The number of grids whose readings are held in memory; the result does not depend on it."""


def paces_of(readings: pl.LazyFrame, step: timedelta) -> pl.DataFrame:
    """The sensors of `readings` (device, tag, time), in order, with the `pace` of each in intervals of `step`."""
    interval = step // timedelta(microseconds=1)
    number = pl.col("time").dt.epoch("us") // interval
    counts = readings.group_by(KEY).agg(pl.len().alias("n"), (number.max() - number.min() + 1).alias("span"))
    keys = counts.sort(*KEY).collect(engine="streaming")
    sparse = keys.filter(pl.col("n") > FEWEST_GAPS, pl.col("n") < _DENSE * pl.col("span")).select(KEY)
    if sparse.is_empty():
        return keys.select(*KEY, pace=pl.lit(1, pl.Int64))
    times = readings.join(sparse.lazy(), on=list(KEY), how="semi").select(*KEY, number.alias("number"))
    gap = pl.col("number").sort().diff().drop_nulls()
    near = (gap >= 0.5 * gap.median()) & (gap <= 1.5 * gap.median())
    gaps = times.group_by(KEY).agg(gap.median().alias("gap"), near.mean().alias("regular")).collect()
    usual = gaps.filter(pl.col("regular") >= REGULAR)
    parts = pl.DataFrame({"part": [float(n) for n in _parts_of_an_hour(step)]})
    usual = usual.with_columns(part=1.1 * pl.col("gap")).sort("part")
    regular = usual.join_asof(parts.with_columns(pace="part"), on="part").select(
        *KEY, pl.col("pace").cast(pl.Int64)
    )
    return (
        keys.select(KEY)
        .join(regular, on=list(KEY), how="left")
        .with_columns(pl.col("pace").fill_null(1))
        .sort(*KEY)
    )


def _parts_of_an_hour(step: timedelta) -> list[int]:
    """The numbers of intervals that divide an hour, ascending.

    >>> _parts_of_an_hour(timedelta(minutes=10))
    [1, 2, 3, 6]
    """
    intervals = HOUR // step
    return [n for n in range(1, intervals + 1) if intervals % n == 0]


def panels(
    readings: pl.LazyFrame,
    paces: pl.DataFrame,
    start: datetime,
    end: datetime,
    options: Options,
    zones: pl.DataFrame | None = None,
) -> Iterator[Panel]:
    """Readings (device, tag, time, mean) from `start` to `end` at each pace, as `grid.panel_of`, the fastest first.

    `paces` are the sensors with their pace. `end` is a whole hour. `zones` are as in `grid.with_timezone`. A panel holds
    whole devices, and the readings of about `GRIDS` grids.
    """
    for (pace,), keys in (
        paces.sort("pace", *KEY).partition_by("pace", as_dict=True, maintain_order=True).items()
    ):
        step = options.step * int(pace)
        for some in portions(keys, GRIDS * options.cells // max(1, (end - start) // step)):
            recent = of_devices(readings, some).filter(pl.col("time") >= start, pl.col("time") < end)
            recent = recent if pace == 1 else at_pace(recent, step)
            yield panel_of(
                recent, with_timezone(some, zones, options.timezone), floor(start, step), end, step
            )


def portions(keys: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    """`keys`, sorted by device, in portions of about `size` keys at most, in which devices are whole."""
    portion = (pl.col("portion").min().over("device") // max(1, size)).alias("portion")
    numbers = keys.with_row_index("portion").with_columns(portion)
    return numbers.partition_by("portion", maintain_order=True, include_key=False)


def of_devices(readings: pl.LazyFrame, keys: pl.DataFrame) -> pl.LazyFrame:
    """The readings of the devices of `keys`, which are sorted; what a file holds of others is not kept in memory."""
    devices, device = keys["device"], pl.col("device")
    range_of_devices = device.is_between(pl.lit(devices.first()), pl.lit(devices.last()))
    return readings.filter(range_of_devices, device.is_in(devices.unique().implode()))


def at_pace(readings: pl.LazyFrame, step: timedelta) -> pl.LazyFrame:
    """Readings as means of `step`, and the time of the last one of each: device, tag, time, mean, last."""
    width = step // timedelta(microseconds=1)
    begin = pl.col("time").dt.truncate(f"{width}us")
    groups = readings.sort("time").group_by(*KEY, begin.alias("begin"))
    return groups.agg(pl.col("mean").mean(), pl.col("time").last().alias("last")).rename({"begin": "time"})


def floor(moment: datetime, step: timedelta) -> datetime:
    """The start of the interval of length `step` that contains `moment`."""
    return moment - (moment - EPOCH) % step


def ceiling(moment: datetime, step: timedelta) -> datetime:
    """The first end of an interval of length `step` that is not before `moment`."""
    return moment + (EPOCH - moment) % step


def paces_in(frames: Mapping[str, pl.DataFrame], keys: pl.DataFrame) -> pl.DataFrame:
    """`keys` with their `pace` in a model; 1 for an unknown key. A joint detector has the pace of its tags."""
    sensors = frames["sensors"]
    if "pace" not in sensors.columns or sensors["pace"].max() in (None, 1):
        return keys.select(*KEY, pace=pl.lit(1, pl.Int64))
    by_key = sensors.select(*KEY, "pace")
    if "joint" in frames:
        first = frames["joint"].select("device", tag=pl.col("tags").list.first())
        together = first.join(by_key, on=list(KEY), how="inner")
        by_key = pl.concat([by_key, together.with_columns(tag=pl.lit(JOINT_TAG))])
    result = keys.select(KEY).join(by_key, on=list(KEY), how="left", maintain_order="left")
    return result.with_columns(pl.col("pace").fill_null(1))


def with_joint(paces: pl.DataFrame) -> pl.DataFrame:
    """Devices with the `pace` of their joint detector: the most frequent of their sensors; the fastest if tied."""
    counts = (
        paces.group_by("device", "pace").len().sort("device", "len", "pace", descending=[False, True, False])
    )
    return counts.unique("device", keep="first", maintain_order=True).select("device", "pace")


def by_pace(frames: Mapping[str, pl.DataFrame], keys: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """The keys of each pace (see `paces_in`), in their order."""
    for (pace,), some in paces_in(frames, keys).group_by("pace", maintain_order=True):
        yield int(pace), some.select(KEY)
