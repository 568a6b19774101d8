"""Sensors that drift: their daily medians rise or fall throughout the history."""

import numpy as np

from models.devices.grid import DAY, Floats, Grid
from models.quantiles import row_quantiles

FEWEST_DAYS = 7
LEAST_Z = 3.0
"""Least z of Mann & Kendall's test; in 7 days, each day must be above the one before, or each below."""


def trend_per_day(grid: Grid) -> Floats:
    """The change of each sensor of `grid` per day, in its own units; NaN for a sensor that does not drift (S,).

    The slope is the median of the slopes between all pairs of days (Theil & Sen); only whole days count, back from the
    end. A sensor whose trend is not certain by Mann & Kendall's test, or with days without a reading, does not drift.

    Mann (1945), Econometrica 13(3). Sen (1968), JASA 63(324).
    """
    per_day = DAY // grid.interval
    days = grid.intervals // per_day
    sensors = len(grid.values)
    if days < FEWEST_DAYS:
        return np.full(sensors, np.nan)
    whole = grid.values[:, grid.intervals - days * per_day :].reshape(sensors * days, per_day)
    median = row_quantiles(whole, (0.5,)).reshape(sensors, days)
    first, second = np.triu_indices(days, 1)
    change = median[:, second] - median[:, first]
    slope = np.median(change / (second - first), axis=1)
    z = (np.abs(np.sign(change).sum(axis=1)) - 1) / np.sqrt(days * (days - 1) * (2 * days + 5) / 18)
    return np.where(z >= LEAST_Z, slope, np.nan)
