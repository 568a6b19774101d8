"""Readings of many sensors as one dense matrix: a row per sensor, a column per interval.

A cell is NaN where the sensor has no reading in the interval. Everything that detectors do is done on
such a matrix at once. What is computed for a cell looks at most `LOOKBACK` intervals back, so it is the
same in whichever hour's run it is computed.
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
"""Intervals before a cell that may be looked at for it."""
DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Grid:
    """`values[s, t]` is the mean of sensor `keys[s]` in the interval that starts at `start + t * interval`."""

    keys: pl.DataFrame
    values: Floats
    start: datetime
    interval: timedelta

    @property
    def intervals(self) -> int:
        return int(self.values.shape[1])

    @property
    def index(self) -> NDArray[np.int64]:
        """Number of each column's interval since 1970: the same interval has the same number in any grid."""
        return (self.start - _EPOCH) // self.interval + np.arange(self.intervals, dtype=np.int64)

    @property
    def phase(self) -> Floats:
        """Time of day of each column, 0 at midnight UTC and 1 at the next."""
        per_day = DAY // self.interval
        return (self.index % per_day) / per_day

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


def grid_of(
    readings: pl.DataFrame, keys: pl.DataFrame, start: datetime, end: datetime, interval: timedelta
) -> Grid:
    """Readings (device, tag, time, mean) of `keys` from `start` up to, not including, `end` as a grid.

    Readings of other sensors and other times are left out. A row of the grid for every key, also
    where there is no reading.
    """
    columns = (end - start) // interval
    step = interval // timedelta(microseconds=1)
    place = keys.select(*KEY).with_row_index("row")
    found = readings.lazy().filter(pl.col("time") >= start, pl.col("time") < end)
    cells = (
        found.select(*KEY, "time", "mean")
        .join(place.lazy(), on=list(KEY), how="inner")
        .select(
            pl.col("row").cast(pl.Int64),
            ((pl.col("time") - pl.lit(start, TIME)).dt.total_microseconds() // step).alias("column"),
            "mean",
        )
        .collect()
    )
    values = np.full((keys.height, columns), np.nan)
    values[cells["row"].to_numpy(), cells["column"].to_numpy()] = cells["mean"].to_numpy()
    return Grid(keys.select(*KEY), values, start, interval)


def lagged(x: Floats, lag: int) -> Floats:
    """`x` moved `lag` columns to the right; NaN where nothing was."""
    moved = np.full_like(x, np.nan)
    moved[:, lag:] = x[:, : x.shape[1] - lag]
    return moved


def row_quantiles(x: Floats, quantiles: tuple[float, ...]) -> Floats:
    """Quantiles of each row, NaN left out: shape (rows, quantiles); NaN for a row without values.

    Linear between the order statistics, as numpy's default.
    """
    ordered = np.sort(x, axis=1)
    count = (~np.isnan(x)).sum(axis=1)
    found = np.full((len(x), len(quantiles)), np.nan)
    some = count > 0
    rows = np.flatnonzero(some)
    for i, q in enumerate(quantiles):
        position = q * (count[some] - 1)
        low = np.floor(position).astype(np.int64)
        high = np.ceil(position).astype(np.int64)
        below, above = ordered[rows, low], ordered[rows, high]
        found[some, i] = below + (above - below) * (position - low)
    return found


def ages(event: NDArray[np.bool_], cap: int = LOOKBACK) -> NDArray[np.int16]:
    """Number of columns up to and with this one for which `event` has held without a break, at most `cap`."""
    age = np.zeros(event.shape, np.int16)
    running = np.zeros(len(event), np.int16)
    for t in range(event.shape[1]):
        running = np.where(event[:, t], np.minimum(running + 1, cap), 0).astype(np.int16)
        age[:, t] = running
    return age
