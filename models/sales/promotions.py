"""Prices and promotions, week by week: arrays of (weeks, keys), as in a `Panel`.

They depend on covariates of that week and earlier ones, never on units. After the origin, the
covariates are the plan, so that they are known in advance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from models.sales.neighbours import PRICE
from models.sales.panel import Panel, Shared

PROMOTED_DEPTH = 0.05
"""A price this share below the usual one counts as a promotion, and so does a flag of at least `FLAGGED`."""
FLAGGED = 0.5
FORGETTING = 0.1
"""The usual price follows a higher price at once, and a lower price by this share of the gap per week."""
PRICE_OTHERS = "price_others"
LONG_AGO = 26.0
"""Maximum number of weeks since the last promotion that is counted."""


@dataclass(frozen=True)
class Promotions:
    """`log_price` and `depth` (share below the usual price; negative above it) are NaN without a
    price; `is_promoted` is 1, 0 or NaN if nothing is known; `since` counts the weeks since the last promotion
    before a week; `flags` are by name."""

    log_price: np.ndarray | None
    depth: np.ndarray | None
    is_promoted: np.ndarray
    since: np.ndarray
    flags: Mapping[str, np.ndarray]


def promotions(panel: Panel, flags: Sequence[str]) -> Promotions:
    """Promotions of the panel's keys; `flags` are the covariates that mark promotions."""
    marks = {name: panel.covariates[name] for name in flags}
    log_price = depth = None
    if PRICE in panel.covariates:
        price = panel.covariates[PRICE]
        log_price = logarithm(price)
        depth = 1.0 - np.exp(log_price - usual(log_price))
    has_data, is_promoted = np.zeros(panel.units.shape, bool), np.zeros(panel.units.shape, bool)
    for values, least in [(depth, PROMOTED_DEPTH), *((values, FLAGGED) for values in marks.values())]:
        if values is not None:
            has_data |= np.isfinite(values)
            is_promoted |= np.nan_to_num(values, nan=-1.0) >= least
    if not panel.covariates:
        has_data |= np.isfinite(panel.units)
    indicator = np.where(has_data, is_promoted.astype(float), np.nan)
    return Promotions(log_price, depth, indicator, _since(is_promoted), marks)


def logarithm(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN if a value is not positive."""
    positive = np.greater(values, 0, where=np.isfinite(values), out=np.zeros(values.shape, bool))
    return np.log(values, where=positive, out=np.full(values.shape, np.nan))


def usual(log_price: np.ndarray) -> np.ndarray:
    """Logarithm of the usual price in each week, from that week and earlier ones; NaN before the first.

    It follows a higher price at once, and a lower price by `FORGETTING` of the gap per week, so that a
    promotion of a few weeks hardly moves it and a lasting cut becomes usual within a quarter.
    """
    level = np.full(log_price.shape[1], np.nan)
    prices = np.empty_like(log_price)
    for week, now in enumerate(log_price):
        gap = np.nan_to_num(now - level)
        next_level = level + np.where(gap > 0, gap, FORGETTING * gap)
        level = np.where(np.isfinite(level), next_level, now)
        prices[week] = level
    return prices


def _since(is_promoted: np.ndarray) -> np.ndarray:
    count = np.full(is_promoted.shape[1], LONG_AGO)
    since = np.empty(is_promoted.shape)
    for week, now in enumerate(is_promoted):
        since[week] = count
        count = np.where(now, 1.0, np.minimum(count + 1.0, LONG_AGO))
    return since


@dataclass(frozen=True)
class Others:
    """Averages over the other SKUs of the same store in the same week: `log_price` and `flags`."""

    log_price: np.ndarray | None
    flags: Mapping[str, np.ndarray]


def others(panel: Panel, own: Promotions, store_weeks: pl.DataFrame) -> Others:
    """Means over the other SKUs of the key's store and week; NaN if there are none.

    `store_weeks` are those of `neighbours.shared_frames`: sums and counts that include the key itself.
    """
    of_store = Shared(panel, store_weeks, "store")

    def mean(name: str, value: np.ndarray) -> np.ndarray:
        total, count = of_store.array(f"sum_{name}"), of_store.array(f"n_{name}")
        finite = np.isfinite(value)
        rest, n = total - np.where(finite, value, 0.0), count - finite
        return np.divide(rest, n, out=np.full(value.shape, np.nan), where=n > 0)

    log_price = None if own.log_price is None else mean(PRICE, own.log_price)
    return Others(log_price, {name: mean(name, values) for name, values in own.flags.items()})


def with_prices_of_others(panel: Panel, store_weeks: pl.DataFrame) -> Panel:
    """The panel with a covariate `price_others`, the geometric mean of `others`; unchanged without prices."""
    prices = others(panel, promotions(panel, ()), store_weeks).log_price
    if prices is None:
        return panel
    return replace(panel, covariates={**panel.covariates, PRICE_OTHERS: np.exp(prices)})
