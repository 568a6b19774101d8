"""How much a key usually sells, what it sells relative to that, and which kind of demand it has."""

import numpy as np

from models.sales.panel import OFFSET, mean
from models.sales.seasons import YEAR

LEVEL_WEEKS = 26
NEW_WEEKS = 26
INTERMITTENT_SHARE = 1 / 1.32
"""Below this share of weeks with sales, demand is intermittent (Syntetos, Boylan & Croston 2005, JORS 56)."""
KINDS = ("regular", "promoted", "intermittent", "new")


def level_of(units: np.ndarray, promoted: np.ndarray) -> np.ndarray:
    """Usual units of a key in a week without promotion: positive, NaN where it sold nothing.

    The mean of the weeks without promotion among the last `LEVEL_WEEKS`; where fewer than four are
    known, of the last year; where there are none either, or all are zero, of all weeks of the year.
    """
    regular = np.where(promoted == 1, np.nan, units)
    recent = regular[-LEVEL_WEEKS:]
    level = np.where(np.isfinite(recent).sum(axis=0) >= 4, mean(recent), mean(regular[-YEAR:]))
    level = np.where(level > 0, level, mean(units[-YEAR:]))
    return np.where(level > 0, level, np.nan)


def to_log(units: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Units as the logarithm of their ratio to the key's own level, `OFFSET` added to the ratio."""
    return np.log(units / level + OFFSET)


def from_log(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The inverse of `to_log`, never negative."""
    return np.maximum((np.exp(values) - OFFSET) * level, 0.0)


def last_known(units: np.ndarray) -> np.ndarray:
    """The last units of each key that are known, within a year; zero where none are."""
    last = np.zeros(units.shape[1])
    for now in units[-YEAR:]:
        last = np.where(np.isfinite(now), now, last)
    return last


def share_of_zeros(units: np.ndarray) -> np.ndarray:
    """Share of the last year's known weeks in which nothing was sold; NaN where none are known."""
    year = units[-YEAR:]
    return mean(np.where(np.isfinite(year), year <= 0, np.nan))


def kinds_of_keys(weeks_known: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """The kind of demand of each key, but for promotions: new, intermittent or regular."""
    new, slow = weeks_known < NEW_WEEKS, zeros > 1 - INTERMITTENT_SHARE
    return np.array(["regular", "intermittent", "new"])[np.where(new, 2, np.where(slow, 1, 0))]
