"""Codes that stand for a missing reading.

A sentinel is a value such as -999 or 65535 that a gateway writes if it has no reading. It lies far outside the sensor's
usual values, as far from any other value that is not such a code, and is exactly the same each time: a well-known code, or
a value that recurs, each time for a single interval.
"""

import numpy as np

from models.quantiles import Floats, row_quantiles

LARGEST = 2.0**52
"""No measurement is as large; numbers from here on are words, see `models.devices.words`."""
_FAR = 10.0
"""Distance of a sentinel from the middle half of the values, and from its neighbours, in widths of that half."""
_MOST_SHARE = 0.2
_FEWEST_TIMES, _FEWEST_TIMES_UNKNOWN = 2, 5
_NINES = tuple(float("9" * digits) for digits in range(2, 8))
_BITS = (32767, 32768, 65535, 65534, 8388607, 8388608, 2**31 - 1, 2**31, 2**32 - 1)
CODES = frozenset({*_NINES, 999.9, 99.99, 999.25, 9999.9, *map(float, _BITS)})
"""Magnitudes of values that often stand for a missing reading."""


def sentinels_of(x: Floats) -> list[list[float]]:
    """The sentinels of each row of readings, rising; see the module.

    >>> sentinels_of(np.array([[1.0, -999, 2, 1.5, 1.2, -999, 1.7, 1.1, 2.2, 1.4, 1.9, 1.6]]))
    [[-999.0]]
    """
    quartiles = row_quantiles(x, (0.25, 0.75))
    reach = _FAR * (quartiles[:, 1] - quartiles[:, 0])
    present = ~np.isnan(x)
    low = np.where(present, x, np.inf).min(axis=1, initial=np.inf) < quartiles[:, 0] - reach
    high = np.where(present, x, -np.inf).max(axis=1, initial=-np.inf) > quartiles[:, 1] + reach
    rows: list[list[float]] = [[] for _ in x]
    for s in np.flatnonzero((low | high) & (reach > 0)):
        below, above = quartiles[s, 0] - reach[s], quartiles[s, 1] + reach[s]
        rows[s] = _of_row(x[s], below, above, reach[s])
    return rows


def _of_row(x: Floats, below: float, above: float, reach: float) -> list[float]:
    values, counts = np.unique(x[(x < below) | (x > above)], return_counts=True)
    others = np.unique(x[~np.isnan(x) & ~np.isin(np.abs(x), list(CODES))])
    near = np.searchsorted(others, values + reach) - np.searchsorted(others, values - reach, side="right")
    alone = near - np.isin(values, others) <= 0
    values, counts = values[alone], counts[alone]
    readings = int((~np.isnan(x)).sum())
    sentinels = [float(v) for v, n in zip(values, counts, strict=True) if _is_sentinel(x, float(v), int(n))]
    return sentinels if np.isin(x, sentinels).sum() <= _MOST_SHARE * readings else []


def _is_sentinel(x: Floats, value: float, times: int) -> bool:
    if value >= LARGEST:
        return False
    if abs(value) in CODES:
        return times >= _FEWEST_TIMES
    here = x == value
    lasts = (here[1:] & here[:-1]).sum()
    return value != 0 and times >= _FEWEST_TIMES_UNKNOWN and bool(lasts <= times / 5)
