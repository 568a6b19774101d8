"""The choice of training rows, and of cuts in time.

All choices depend only on the machine and on the number of steps from a row to the last one, so they are the
same for any sharding, and if all times are shifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.machines.conditions import IN_CONDITION
from models.machines.features import Feature

STEPS = "steps_back"
"""Column: the number of steps from this row to the last row time."""

DRAWN = "drawn"
"""Column: a number in [0, 1) that decides whether the row is in a sample."""

_MASKED_SHARE = 0.05


@dataclass(frozen=True)
class Fold:
    """A cut of time: training rows end before it, held-out rows begin after it.

    A row is on one side if the range of its label and its longest telemetry window are: so no window
    extends across the cut, and the gap is as long as the horizon.
    """

    cut: datetime
    until: datetime

    def learnt(self, horizon_hours: int) -> pl.Expr:
        """Rows whose horizon ends at the cut or before."""
        return pl.col("time") <= self.cut - timedelta(hours=horizon_hours)

    def held_out(self, horizon_hours: int, window_hours: int) -> pl.Expr:
        """Rows whose windows begin at the cut or after, and whose horizon ends at `until` or before."""
        return pl.col("time").is_between(
            self.cut + timedelta(hours=window_hours), self.until - timedelta(hours=horizon_hours)
        )


def folds(first: datetime, observed_until: datetime, share: float) -> list[Fold]:
    """Two cuts: the first holds out the next `share` of the range to calibrate, the second the last to test."""
    span = observed_until - first
    middle, late = first + span * (1 - 2 * share), first + span * (1 - share)
    return [Fold(middle, late), Fold(late, observed_until)]


def draw(rows: pl.DataFrame, seed: int) -> pl.Series:
    """A number in [0, 1) for each row that depends only on its machine, its `steps_back` and `seed`."""
    code = {name: crc32(name.encode()) for name in rows["machine_id"].unique()}
    machine = rows["machine_id"].replace_strict(code, return_dtype=pl.UInt64).to_numpy().astype(np.uint64)
    bits = (machine << np.uint64(32)) ^ rows[STEPS].to_numpy().astype(np.uint64)
    start = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    return pl.Series(DRAWN, _mix(bits + start) / 2.0**64, dtype=pl.Float64)


def shares(positives: int, negatives: int, most: int) -> tuple[float, float]:
    """Shares of failing and of healthy rows to learn from, about `most` rows in total.

    All failing rows, if they are at most half of `most`; healthy rows make up the rest.

    >>> shares(positives=100, negatives=10_000, most=1_100)
    (1.0, 0.1)
    """
    failing_share = min(1.0, most / 2 / max(positives, 1))
    healthy_share = min(1.0, (most - failing_share * positives) / max(negatives, 1))
    return failing_share, healthy_share


def masked_copies(
    X: NDArray[np.float32], draws: NDArray[np.float64], features: Sequence[Feature]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Copies of a twentieth of the rows with the features of one sensor, or of all, missing, and the indices of their rows.

    They are added to the training rows so that models learn about silent sensors; otherwise LightGBM would
    treat a missing value as 0.
    """
    sensor_of = [f.subject.removesuffix(IN_CONDITION) if f.kind == "sensor" else None for f in features]
    sensors = sorted({name for name in sensor_of if name is not None})
    rows = np.flatnonzero(draws < _MASKED_SHARE)
    copies = X[rows].copy()
    which = np.minimum((draws[rows] / _MASKED_SHARE * (len(sensors) + 1)).astype(int), len(sensors))
    for i in range(len(sensors) + 1):
        columns = [
            j
            for j, name in enumerate(sensor_of)
            if name is not None and (i == len(sensors) or name == sensors[i])
        ]
        copies[np.ix_(which == i, columns)] = np.nan
    return copies, rows


def row_count(first: datetime, last: datetime, every_hours: int) -> int:
    """The number of row times from `first` to `last`, counted back from `last`.

    >>> row_count(datetime(2015, 1, 1, 7), datetime(2015, 1, 2, 6), every_hours=12)
    2
    """
    return max(0, (last - first) // timedelta(hours=every_hours) + 1)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators": the finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
