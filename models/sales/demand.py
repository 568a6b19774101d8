"""A key's usual sales, its sales relative to them, and its kind of demand."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from models.sales.panel import OFFSET, mean
from models.sales.seasons import YEAR

LEVEL_WEEKS = 26
NEW_WEEKS = 26
INTERMITTENT_SHARE = 1 / 1.32
"""Below this share of weeks with sales, demand is intermittent (Syntetos, Boylan & Croston 2005, JORS 56)."""
NEW = "new"
KINDS = ("regular", "promoted", "intermittent", NEW)


def level_of(units: np.ndarray, is_promoted: np.ndarray) -> np.ndarray:
    """Usual units of a key in a week without promotion: positive, or NaN if it sold nothing.

    The mean of the weeks without promotion among the last `LEVEL_WEEKS`; if fewer than four are
    known, of the last year; if there are none in it, or all are zero, of all weeks of the last year.
    """
    regular = np.where(is_promoted == 1, np.nan, units)
    recent = regular[-LEVEL_WEEKS:]
    level = np.where(np.isfinite(recent).sum(axis=0) >= 4, mean(recent), mean(regular[-YEAR:]))
    level = np.where(level > 0, level, mean(units[-YEAR:]))
    return np.where(level > 0, level, np.nan)


def to_log(units: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The logarithm of the ratio of units to the key's own level, plus `OFFSET`."""
    return np.log(units / level + OFFSET)


def from_log(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The inverse of `to_log`, never negative."""
    return np.maximum((np.exp(values) - OFFSET) * level, 0.0)


def whole_numbers(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """`rows` with the quantiles `columns` as whole numbers where `whole` says that the key is slow or new and sells such.

    Most weeks of a slow key are 0, 1 or 2: a quantile of 0.3 says that zero is rarer than it is.
    """
    return rows.with_columns(pl.when("whole").then(pl.col(c).round()).otherwise(c).alias(c) for c in columns)


def last_known(units: np.ndarray) -> np.ndarray:
    """The last known units of each key within a year; zero if none are known."""
    last = np.zeros(units.shape[1])
    for now in units[-YEAR:]:
        last = np.where(np.isfinite(now), now, last)
    return last


def share_of_zeros(units: np.ndarray) -> np.ndarray:
    """Share of the last year's known weeks in which nothing was sold; NaN if none are known."""
    year = units[-YEAR:]
    return mean(np.where(np.isfinite(year), year <= 0, np.nan))


def kinds_of_keys(weeks_known: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """The kind of demand of each key, apart from promotions: new, intermittent or regular."""
    new, slow = weeks_known < NEW_WEEKS, zeros > 1 - INTERMITTENT_SHARE
    return np.array(["regular", "intermittent", NEW])[np.where(new, 2, np.where(slow, 1, 0))]
