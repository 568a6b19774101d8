"""Readings of many sensors as one dense matrix: a row per sensor, a column per interval.

A cell is NaN if the sensor has no reading in the interval. Detectors work on
the whole matrix. A computation for a cell looks at most `LOOKBACK` intervals back, so its result is
the same in the run of any hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.contracts import KEY, TIME

Floats = NDArray[np.float64]

LOOKBACK = 60
"""Number of intervals before a cell that computations for it may use."""
DAY = timedelta(days=1)
OFTEN = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Grid:
    """`values[s, t]` is the mean of sensor `keys[s]` in the interval that starts at `start + t * interval`."""

    keys: pl.DataFrame
    values: Floats
    start: datetime
    interval: timedelta
    timezone: str = "UTC"

    @property
    def intervals(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    @property
    def index(self) -> NDArray[np.int64]:
        """The number of each column's interval, counted from 1970: an interval has the same number in any grid."""
        return (self.start - _EPOCH) // self.interval + np.arange(self.intervals, dtype=np.int64)

    @property
    def phase(self) -> Floats:
        """Time of day of each column in `timezone`, 0 at midnight and 1 at the next."""
        if self.timezone == "UTC":
            per_day = DAY // self.interval
            return (self.index % per_day) / per_day
        clock = self.times.dt.convert_time_zone(self.timezone).dt
        return (
            clock.hour().cast(pl.Float64) / 24 + clock.minute() / 1440 + clock.second() / 86400
        ).to_numpy()

    @property
    def times(self) -> pl.Series:
        """Start of each column's interval."""
        step = self.interval // timedelta(microseconds=1)
        return pl.Series("time", self.index * step).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")

    def take(self, rows: NDArray[np.int64]) -> "Grid":
        """The sensors at `rows`, in that order."""
        return replace(self, keys=self.keys[rows], values=self.values[rows])

    def chunks(self, cells: int) -> Iterator["Grid"]:
        """The grid in pieces of at most about `cells` cells, at least one sensor each."""
        size = max(1, cells // max(1, self.intervals))
        for first in range(0, self.keys.height, size):
            yield replace(
                self, keys=self.keys[first : first + size], values=self.values[first : first + size]
            )


@dataclass(frozen=True)
class Panel:
    """Readings of many sensors, not yet as a matrix: `row` (rising), `column` and `mean` of each reading.

    `keys` are in the order of their `timezone`, device and tag.
    """

    keys: pl.DataFrame
    cells: pl.DataFrame
    start: datetime
    columns: int
    interval: timedelta

    def grids(self, cells: int) -> Iterator[Grid]:
        """Grids of about `cells` cells at most and one time zone; all sensors of a device are in one grid, in key order."""
        size = max(1, cells // max(1, self.columns))
        row, column, mean = (self.cells[name].to_numpy() for name in ("row", "column", "mean"))
        zones = self.keys["timezone"]
        last_of_zone, last_of_device = (
            np.flatnonzero(names.ne_missing(names.shift(-1))) for names in (zones, self.keys["device"])
        )
        first = 0
        while first < self.keys.height:
            most = min(first + size - 1, int(last_of_zone[last_of_zone >= first][0]))
            inside = last_of_device[(last_of_device >= first) & (last_of_device <= most)]
            after = int(inside[-1] if len(inside) else last_of_device[last_of_device >= first][0]) + 1
            values = np.full((after - first, self.columns), np.nan)
            begin, end = np.searchsorted(row, [first, after])
            values[row[begin:end] - first, column[begin:end]] = mean[begin:end]
            yield Grid(self.keys[first:after].select(*KEY), values, self.start, self.interval, zones[first])
            first = after

    def only(self, keys: pl.DataFrame) -> "Panel":
        """The readings of `keys`, a subset of the panel's keys, in the panel's order."""
        place = self.keys.with_row_index("old").join(keys, on=list(KEY), how="semi").with_row_index("new")
        places = place.select(pl.col("old").cast(pl.Int32).alias("row"), pl.col("new").cast(pl.Int32))
        cells = self.cells.join(places, on="row", how="inner").sort("new")
        cells = cells.select(pl.col("new").alias("row"), "column", "mean")
        return replace(self, keys=place.select(self.keys.columns), cells=cells)


def panel_of(
    readings: pl.LazyFrame, keys: pl.DataFrame, start: datetime, end: datetime, interval: timedelta
) -> Panel:
    """Readings (device, tag, time, mean) of `keys` from `start` (included) to `end` (excluded).

    Days begin at midnight in the `timezone` of the device, a column that `keys` may have, or UTC. Readings of other
    sensors and other times are left out. Every key has a row, even without a reading.
    """
    in_order = with_timezone(keys, keys, "UTC").unique().sort("timezone", *KEY)
    step = interval // timedelta(microseconds=1)
    rows = readings.filter(pl.col("time") >= start, pl.col("time") < end).select(*KEY, "time", "mean")
    cells = (
        rows.join(in_order.with_row_index("row").lazy(), on=list(KEY), how="inner")
        .select(
            pl.col("row").cast(pl.Int32),
            ((pl.col("time") - pl.lit(start, TIME)).dt.total_microseconds() // step)
            .cast(pl.Int32)
            .alias("column"),
            "mean",
        )
        .sort("row")
        .collect(engine="streaming")
    )
    return Panel(in_order, cells, start, (end - start) // interval, interval)


def with_timezone(keys: pl.DataFrame, zones: pl.DataFrame | None, otherwise: str) -> pl.DataFrame:
    """`keys` (device, tag) with the device's `timezone` in `zones` (device, timezone), or `otherwise`."""
    if zones is None or "timezone" not in zones.columns:
        return keys.select(*KEY, timezone=pl.lit(otherwise))
    by_device = zones.select("device", "timezone").unique("device")
    result = keys.select(*KEY).join(by_device, on="device", how="left", maintain_order="left")
    return result.with_columns(pl.col("timezone").fill_null(otherwise))


def matrix_of(lists: pl.Series, width: int) -> Floats:
    """Lists of numbers as the rows of a matrix, padded with zeros to `width`."""
    matrix = np.zeros((lists.len(), width))
    sizes = lists.list.len().to_numpy().astype(np.int64)
    matrix[np.arange(width)[None, :] < sizes[:, None]] = lists.explode(empty_as_null=False).to_numpy()
    return matrix


def lagged(x: Floats, lag: int) -> Floats:
    """`x` shifted `lag` columns to the right, with NaN before it."""
    result = np.full_like(x, np.nan)
    result[:, lag:] = x[:, : x.shape[1] - lag]
    return result


def ages(event: NDArray[np.bool_], cap: int = LOOKBACK) -> NDArray[np.int16]:
    """The number of consecutive columns, including this one, for which `event` has held, at most `cap`."""
    columns = np.arange(1, event.shape[1] + 1, dtype=np.int32)
    last_without = np.maximum.accumulate(np.where(event, 0, columns), axis=1)
    return np.minimum(columns - last_without, cap).astype(np.int16)


def exchangeable(n: NDArray[np.int64], longest: int) -> Floats:
    """1 / C(n + k, k) for k from 1 to `longest`, shape (S, longest).

    The chance that, of n + k exchangeable intervals, k special ones are the last k.
    """
    k = np.arange(1, longest + 1)[None, :]
    chances: Floats = np.cumprod(k / (n[:, None] + k), axis=1, dtype=np.float64)
    return chances


def age_chances(age: NDArray[np.int16], n: NDArray[np.int64], often: int = OFTEN) -> Floats:
    """p-values of the ages 1 to LOOKBACK of something that occurs and lasts, shape (S, LOOKBACK).

    The share of the `n` cells at which it had lasted at least as long, plus one more occurrence of average
    length. Beyond the greatest length that `often` occurrences reached, the predictive tail of a geometric length, as in
    `models.devices.calibration`, but at least that share of the past.
    """
    rows = np.arange(len(age))
    flat = rows[:, None] * (LOOKBACK + 1) + np.minimum(age, LOOKBACK)
    cells = np.bincount(flat.ravel(), minlength=len(age) * (LOOKBACK + 1)).reshape(-1, LOOKBACK + 1)
    again = (age[:, 1:] >= LOOKBACK) & (age[:, :-1] >= LOOKBACK)
    times = cells[:, 1:].copy()
    times[:, -1] -= again.sum(axis=1)
    at_least = cells[:, :0:-1].cumsum(axis=1)[:, ::-1]
    overall = np.where(times[:, :1] > 0, at_least[:, :1] / np.maximum(times[:, :1], 1), 1.0)
    mean = np.where(times > 0, at_least / np.maximum(times, 1), overall)
    p = np.maximum.accumulate(((mean + at_least) / (n[:, None] + mean))[:, ::-1], axis=1)[:, ::-1]
    lengths = (times >= often).sum(axis=1)
    u = np.maximum(lengths, 1) - 1
    k, m, base = times[rows, u].astype(float), mean[rows, u], p[rows, u]
    decay = -1 / np.log1p(-1 / np.maximum(m, 1 + 1 / np.maximum(k, 1)))
    beyond = np.arange(LOOKBACK)[None, :] - u[:, None]
    excess = np.maximum(beyond, 0) / np.maximum(k * decay, 1e-9)[:, None]
    tail = base[:, None] * (1 + excess) ** -np.maximum(k, 1)[:, None]
    tail = np.maximum(tail, at_least / np.maximum(n, 1)[:, None])
    return np.minimum(np.where((lengths > 0)[:, None] & (beyond > 0), tail, p), 1.0)
