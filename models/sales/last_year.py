"""Last year's weeks at this year's level."""

from collections.abc import Mapping

import numpy as np

from models.sales.demand import from_log, to_log
from models.sales.panel import Panel, mean, ratio
from models.sales.seasons import YEAR, from_easter, share_of_week_before, year_before
from models.sales.views import View

OWN_SHARE = 0.6
"""Weight of the key's own week in `last_year`; the rest is its SKU's, over all stores, on the key's scale."""
APART = float(np.log(3.0))
"""Maximum distance of the two on the log scale, so that one store's typing error does not distort all other seasons."""
SEASON_WEEKS = 26
"""The season of a week is relative to this many weeks before and after it."""
GROWTH_WEEKS, GROWTH_SHARE, MOST_GROWTH = 8, 0.7, 3.0
"""Growth compares this many weeks with the same weeks of last year; this share of its logarithm is used, up to a factor
of `MOST_GROWTH`."""
EASTER_WEEKS, EASTER_SHARE = 6, 0.8
"""A SKU's sales around Easter are relative to this many weeks before and after. Its pattern moves with Easter if that
leaves at most this share of the differences from year to year."""


def last_year(view: View, origin: int, target: int, base: Mapping[str, np.ndarray]) -> np.ndarray:
    """Units of the week a year before `target`, at the level of this year; NaN if that week is not known.

    The mean, on the log scale, of the key's units in that week and its SKU's units in all stores, on the key's scale,
    because a single week of a key is noisy; times the growth of the key in the last `GROWTH_WEEKS` over the same weeks a
    year before. The effects of events then are removed, and those of events now added; without events,
    the days around Christmas are compared with the same days.
    """
    level, moves, at = base["_level"], base["_easter"], year_before(origin, target)
    if at < 0:
        return np.full(level.shape, np.nan)
    of_easter = from_easter(view.panel, target, at)
    weeks = np.where(moves & (0 <= of_easter <= origin), of_easter, at)
    units, sku, of_key = view.panel.units, view.sku.units, view.sku_of_key
    around = slice(max(0, at - SEASON_WEEKS), min(at + SEASON_WEEKS, origin) + 1)
    before = 0.0 if view.events is not None else share_of_week_before(view.panel, target, at)
    of_sku = mean(units[around]) * ratio(_mixed(sku, weeks, of_key, before), mean(sku[around])[of_key])
    own = _mixed(units, weeks, np.arange(len(weeks)), before)
    own, theirs = to_log(np.maximum(own, 0.0), level), to_log(np.maximum(of_sku, 0.0), level)
    theirs = np.clip(theirs, own - APART, own + APART)
    season = np.where(np.isfinite(theirs), OWN_SHARE * own + (1 - OWN_SHARE) * theirs, own)
    if view.events is not None:
        weeks_of = [target, at, max(of_easter, 0)]
        now, then, at_easter = view.events.effects(base["_event_ratios"], weeks_of)
        season = season + now - np.where(weeks == at, then, at_easter)
    return from_log(season, level) * _growth(units, origin, target - at)


def _mixed(units: np.ndarray, weeks: np.ndarray, columns: np.ndarray, before: float) -> np.ndarray:
    """Units of the week in `weeks` for each of the `columns`, with the share `before` from the week before if known."""
    of_week, of_before = units[weeks, columns], units[np.maximum(weeks - 1, 0), columns]
    return np.where(np.isfinite(of_before), (1 - before) * of_week + before * of_before, of_week)


def moves_with_easter(units: np.ndarray, panel: Panel, origin: int) -> np.ndarray:
    """Whether the pattern of each column of `units` around Easter moves with it from year to year.

    It does if these weeks, and those a year after an Easter, are more like the weeks of `from_easter` than like the same
    weeks of the year before, over all years known at `origin`. False unless two Easters are known.
    """
    plain, with_easter = np.zeros(units.shape[1]), np.zeros(units.shape[1])
    for target in range(YEAR, origin + 1):
        like = from_easter(panel, target, target - YEAR)
        if like == target - YEAR or not 0 <= like <= origin:
            continue
        now, then, same = (_unusual(units[: origin + 1], week) for week in (target, like, target - YEAR))
        finite = np.isfinite(now) & np.isfinite(then) & np.isfinite(same)
        plain += np.where(finite, np.abs(now - same), 0.0)
        with_easter += np.where(finite, np.abs(now - then), 0.0)
    return with_easter < EASTER_SHARE * plain


def _unusual(units: np.ndarray, week: int) -> np.ndarray:
    """A week relative to the `EASTER_WEEKS` before and after it, on the log scale."""
    around = mean(units[max(0, week - EASTER_WEEKS) : week + EASTER_WEEKS + 1])
    return to_log(units[week], np.where(around > 0, around, np.nan))


def _growth(units: np.ndarray, origin: int, weeks: int) -> np.ndarray:
    """The factor by which keys are assumed to sell more than `weeks` weeks before; 1 if nothing is known."""
    first = max(origin + 1 - GROWTH_WEEKS, weeks)
    if first > origin:
        return np.ones(units.shape[1])
    now, before = units[first : origin + 1], units[first - weeks : origin + 1 - weeks]
    both = np.isfinite(now) & np.isfinite(before)
    growth = ratio(mean(np.where(both, now, np.nan)), mean(np.where(both, before, np.nan)))
    weight = GROWTH_SHARE * both.sum(axis=0) / GROWTH_WEEKS
    growth = np.where(np.isfinite(growth) & (growth > 0), growth, 1.0)
    return np.clip(growth, 1 / MOST_GROWTH, MOST_GROWTH) ** weight
