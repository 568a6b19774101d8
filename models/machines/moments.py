"""Statistics of readings in blocks of time, and how blocks merge into windows.

A window is a run of equal blocks, so every reading is processed once, whatever the number of
windows. Blocks merge by the pairwise update of Chan, Golub & LeVeque (1983), "Algorithms for computing
the sample variance", The American Statistician 37(3), which loses no digits if the mean is
large compared with the deviation. Sums run in the order of time within one machine, so that a block's
statistics have the same bits whatever else is in the call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Statistics of the readings of each cell, arrays of one shape.

    `count`; `mean`, `low` and `high` of the values; `squares`, their summed squared deviation;
    `when`, the mean time in hours from the cell's end (never above 0); `spread`, the summed squared
    deviation of times; `product`, the summed product of the deviations of values and times.
    If `count` is 0, `mean`, `when` and the sums are 0, `low` is inf and `high` is -inf.
    """

    count: Floats
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats
    when: Floats
    spread: Floats
    product: Floats

    def __getitem__(self, where: tuple[slice, ...]) -> "Moments":
        return Moments(*(getattr(self, name)[where] for name in self.__dataclass_fields__))

    def std(self) -> Floats:
        """Sample standard deviation in the unit of the values; NaN for fewer than two readings."""
        return np.sqrt(_ratio(self.squares, self.count - 1))

    def slope(self) -> Floats:
        """Least-squares slope in units per hour; NaN if the readings have fewer than two times."""
        return _ratio(self.product, self.spread)

    def level(self) -> Floats:
        """The mean; NaN without a reading."""
        return np.where(self.count > 0, self.mean, np.nan)

    def extremes(self) -> tuple[Floats, Floats]:
        """Minimum and maximum; NaN without a reading."""
        some = self.count > 0
        return np.where(some, self.low, np.nan), np.where(some, self.high, np.nan)


def in_blocks(cells: NDArray[np.int64], hours: Floats, values: Floats, size: int) -> Moments:
    """Moments of each of `size` cells, flat.

    `cells` is the cell of each reading, not falling; `hours` its time from the cell's end; a value
    that is not finite is not a reading.
    """
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    nonempty = cells[starts]
    member = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(cells)))
    valid = np.isfinite(values)
    every = bool(valid.all())

    def add(x: Floats) -> Floats:
        return np.add.reduceat(x if every else np.where(valid, x, 0.0), starts)

    def scattered(x: Floats, empty: float = 0.0) -> Floats:
        out = np.full(size, empty)
        out[nonempty] = x
        return out

    if not len(starts):
        nothing = np.zeros(size)
        infinite = np.full(size, np.inf)
        return Moments(nothing, nothing, nothing, infinite, -infinite, nothing, nothing, nothing)
    count = np.add.reduceat(valid.astype(np.float64), starts)
    mean = add(values) / np.maximum(count, 1)
    when = add(hours) / np.maximum(count, 1)
    deviation, lag = values - mean[member], hours - when[member]
    low = values if every else np.where(valid, values, np.inf)
    high = values if every else np.where(valid, values, -np.inf)
    return Moments(
        scattered(count),
        scattered(mean),
        scattered(add(deviation * deviation)),
        scattered(np.minimum.reduceat(low, starts), np.inf),
        scattered(np.maximum.reduceat(high, starts), -np.inf),
        scattered(when),
        scattered(add(lag * lag)),
        scattered(add(deviation * lag)),
    )


def merge(parts: Sequence[Moments], block_hours: float) -> Moments:
    """Moments of consecutive blocks of `block_hours` together, oldest first; times are relative to the last end."""
    ends = [block_hours * (i + 1 - len(parts)) for i in range(len(parts))]
    count = _summed([p.count for p in parts])
    divisor = np.maximum(count, 1)
    mean = _summed([p.count * p.mean for p in parts]) / divisor
    when = _summed([p.count * (p.when + end) for p, end in zip(parts, ends, strict=True)]) / divisor
    squares, spread, product = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    for part, end in zip(parts, ends, strict=True):
        off, lag = part.mean - mean, part.when + end - when
        squares += part.squares + part.count * off * off
        spread += part.spread + part.count * lag * lag
        product += part.product + part.count * off * lag
    low, high = parts[0].low, parts[0].high
    for part in parts[1:]:
        low, high = np.minimum(low, part.low), np.maximum(high, part.high)
    return Moments(count, mean, squares, low, high, when, spread, product)


def _summed(arrays: Sequence[Floats]) -> Floats:
    total = np.zeros_like(arrays[0])
    for array in arrays:
        total += array
    return total


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
