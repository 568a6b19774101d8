"""Operating conditions, such as loads, speeds or products: machines change between them, and readings differ with them.

The readings of an engine on the ground cannot be compared with those at altitude. If the readings of a fleet form groups
that do not touch, each reading is also compared with those of its own group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.machines.moments import Floats

IN_CONDITION = " in its condition"
"""Ends the name of a sensor whose readings are compared with those of the same condition."""

_MOST = 8
_ROWS, _FEWEST_ROWS = 5_000, 500
_SELDOM = 0.1
"""A sensor that lacks more than this share of readings is not used."""

_APART = 4.0
"""The distance of two conditions in sums of their standard deviations, at least; that of halves of a bell curve is 1.3."""

_LEAST_SHARE, _LEAST_MACHINES = 0.02, 0.5
"""The least share of readings in a condition, and of machines that have been in it; a fault is no condition."""

_SMALLEST = 1e-6


@dataclass(frozen=True)
class Conditions:
    """Means and standard deviations of `sensors` in each condition, shape (conditions, sensors)."""

    sensors: tuple[str, ...]
    means: tuple[tuple[float, ...], ...]
    spreads: tuple[tuple[float, ...], ...]

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Conditions":
        """The inverse of `asdict`, also after a round trip through JSON."""
        means, spreads = (tuple(map(tuple, values[name])) for name in ("means", "spreads"))
        return cls(tuple(values["sensors"]), means, spreads)

    def at_average(self, readings: NDArray[np.float64]) -> Floats:
        """Readings of `sensors`, shape (rows, sensors), as they would be in an average condition; NaN stays NaN.

        A row is in the condition whose means are nearest, by the readings that it has.
        """
        means, spreads = np.array(self.means), np.array(self.spreads)
        scale = means.std(axis=0) + spreads.mean(axis=0)
        distance = np.empty((len(readings), len(means)))
        for i, mean in enumerate(means):
            distance[:, i] = np.nansum(np.square((readings - mean) / scale), axis=1)
        condition = distance.argmin(axis=1)
        z = (readings - means[condition]) / spreads[condition]
        return means.mean(axis=0) + z * spreads.mean(axis=0)


def conditions_of(telemetry: pl.LazyFrame, sensors: Sequence[str]) -> Conditions | None:
    """The operating conditions in `telemetry`; None if there is only one, or hardly any row has all usual readings.

    K-means (Lloyd 1982) on a sample of rows, with the most groups, up to eight, that are all `_APART`.
    """
    rows = _sample(telemetry, sensors)
    usual = [name for name in sensors if rows[name].null_count() <= _SELDOM * rows.height]
    rows = rows.drop_nulls(usual)
    if not usual or rows.height < _FEWEST_ROWS:
        return None
    values = rows.select(usual).to_numpy()
    deviation = values.std(axis=0)
    varies = deviation > _SMALLEST * np.abs(values.mean(axis=0))
    if not varies.any():
        return None
    values, deviation = values[:, varies], deviation[varies]
    machine = rows["machine_id"].rank("dense").to_numpy()
    for count in range(_MOST, 1, -1):
        group = _groups((values - values.mean(axis=0)) / deviation, count)
        if group is not None and _are_common(group, machine):
            parts = sorted(
                (values[group == i] for i in range(count)), key=lambda part: part.mean(axis=0).tolist()
            )
            spreads = [np.maximum(part.std(axis=0), _SMALLEST * deviation) for part in parts]
            return Conditions(
                tuple(name for name, keeps in zip(usual, varies, strict=True) if keeps),
                tuple(tuple(part.mean(axis=0).tolist()) for part in parts),
                tuple(tuple(spread.tolist()) for spread in spreads),
            )
    return None


def _sample(telemetry: pl.LazyFrame, sensors: Sequence[str]) -> pl.DataFrame:
    """Some rows, chosen by machine and time."""
    count = telemetry.select(pl.len()).collect(engine="streaming").item()
    number = pl.col("machine_id").hash(seed=0) ^ pl.col("time").hash(seed=1)
    some = telemetry.filter(number % max(1, count // _ROWS) == 0)
    readings = some.select("machine_id", "time", pl.col(sensors).cast(pl.Float64).fill_nan(None))
    return readings.collect(engine="streaming").sort("machine_id", "time")


def _groups(values: Floats, count: int) -> NDArray[np.int32] | None:
    """The group of each row; None unless all groups are `_APART`, each pair along the line between their means."""
    from sklearn.cluster import KMeans

    group = KMeans(count, n_init=10, random_state=0).fit_predict(values)
    parts = [values[group == i] for i in range(count)]
    for one, other in combinations(parts, 2):
        line = other.mean(axis=0) - one.mean(axis=0)
        if np.linalg.norm(line) ** 2 < _APART * ((one @ line).std() + (other @ line).std()):
            return None
    return np.asarray(group)


def _are_common(group: NDArray[np.int32], machine: NDArray[np.int64]) -> bool:
    count, machines = int(group.max()) + 1, len(np.unique(machine))
    visits = [len(np.unique(machine[group == i])) / machines for i in range(count)]
    return np.bincount(group).min() >= _LEAST_SHARE * len(group) and min(visits) >= _LEAST_MACHINES
