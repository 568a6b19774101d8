"""Features of a forecast row: a key, an origin (the last week known) and a target week after it.

Units are used only as `panel.units[: origin + 1]`. Covariates of later weeks are the plan (in a backtest: the actual
covariates), and may be used up to the target week.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from models.sales.demand import LEVEL_WEEKS, level_of, share_of_zeros, to_log
from models.sales.last_year import last_year, moves_with_easter
from models.sales.neighbours import PRICE
from models.sales.panel import Panel, mean
from models.sales.promotions import FLAGGED, Promotions
from models.sales.seasons import YEAR, year_before
from models.sales.views import View

PRIOR_WEEKS = 4.0
"""Number of weeks of the SKU's effect that are mixed into a key's own promotion effects."""
DEEP = 0.1
"""A price this share below the usual one is a deep cut."""


def deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the known weeks; NaN if fewer than two weeks are known."""
    spread = np.sqrt(np.maximum(mean((values - mean(values)) ** 2), 0.0))
    return np.where(np.isfinite(values).sum(axis=0) >= 2, spread, np.nan)


def _recent(panel: Panel, promotions: Promotions, origin: int, level: np.ndarray) -> dict[str, np.ndarray]:
    """Recent sales relative to the level, of keys or of SKUs."""
    units, is_promoted = panel.units[: origin + 1], promotions.is_promoted[: origin + 1]
    regular = np.where(is_promoted == 1, np.nan, units)
    features = {f"regular_{n}": to_log(mean(regular[-n:]), level) for n in (1, 2, 4, 8, 13, YEAR)}
    features |= {f"all_{n}": to_log(mean(units[-n:]), level) for n in (1, 4, 13, LEVEL_WEEKS)}
    return features


def _last_year(
    panel: Panel, promotions: Promotions, origin: int, target: int, level: np.ndarray
) -> dict[str, np.ndarray]:
    """The same weeks a year ago (in the last year known), relative to the quarters around them."""
    at = year_before(origin, target)
    if at < 2:
        empty = np.full(level.shape, np.nan)
        return {"year_ago": empty, "season": empty}
    first, stop = max(0, at - 13), min(at + 14, origin + 1)
    regular = np.where(promotions.is_promoted[first:stop] == 1, np.nan, panel.units[first:stop])
    around = mean(regular)
    around = np.where(around > 0, around, np.nan)
    return {
        "year_ago": to_log(panel.units[at], level),
        "season": to_log(mean(regular[at - 2 - first : at + 3 - first]), around),
    }


def _effects(view: View, origin: int, level: np.ndarray, sku_level: np.ndarray) -> dict[str, np.ndarray]:
    """Effects of earlier promotions on each key: the mean of the log ratio to the level in promoted weeks.

    For the weeks of each flag, and for those with a price a tenth below the usual one; and the slope of the log
    ratio on the depth. `PRIOR_WEEKS` of the SKU's effect are mixed into a key's, and as many without effect into the SKU's.
    """
    at = view.sku_of_key
    of_sku = _effects_of(view.sku, view.sku_promotions, origin, sku_level, {})
    return _effects_of(
        view.panel, view.promotions, origin, level, {name: v[at] for name, v in of_sku.items()}
    )


def _effects_of(
    panel: Panel, promotions: Promotions, origin: int, level: np.ndarray, prior: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    past = slice(max(0, origin + 1 - 2 * YEAR), origin + 1)
    relative = to_log(panel.units[past], level)
    marks = {f"effect_{name}": values[past] >= FLAGGED for name, values in promotions.flags.items()}
    if promotions.depth is not None:
        marks["effect_deep"] = promotions.depth[past] >= DEEP
    effects = {}
    for name, weeks in marks.items():
        values = np.where(weeks, relative, np.nan)
        count = np.isfinite(values).sum(axis=0)
        prior_effect = prior.get(name, 0.0)
        effects[name] = (np.nan_to_num(mean(values)) * count + prior_effect * PRIOR_WEEKS) / (
            count + PRIOR_WEEKS
        )
    if promotions.depth is not None:
        both = np.isfinite(promotions.depth[past]) & np.isfinite(relative)
        x, y = (np.where(both, values, np.nan) for values in (promotions.depth[past], relative))
        x, y, count = x - mean(x), y - mean(y), both.sum(axis=0)
        weight = PRIOR_WEEKS * DEEP**2
        along = np.nan_to_num(mean(x * y)) * count + weight * prior.get("elasticity", 0.0)
        effects["elasticity"] = along / (np.nan_to_num(mean(x * x)) * count + weight)
    return effects


def origin_features(view: View, origin: int) -> dict[str, np.ndarray]:
    """Features of each key at week `origin`, one value per key; `_level` is the level in units."""
    panel, own = view.panel, view.promotions
    units, is_promoted = panel.units[: origin + 1], own.is_promoted[: origin + 1]
    level = level_of(units, is_promoted)
    sku_units = view.sku.units[: origin + 1]
    sku_level = level_of(sku_units, view.sku_promotions.is_promoted[: origin + 1])
    year = units[-YEAR:]
    regular = np.where(is_promoted[-YEAR:] == 1, np.nan, year)
    has_units = np.isfinite(units)
    easter = moves_with_easter(view.sku.units, panel, origin)
    features = {"_level": level, "_sku_level": sku_level, "_easter": easter[view.sku_of_key]}
    features["level"] = np.log(level)
    features["share_of_sku"] = np.log(level / sku_level[view.sku_of_key])
    features |= _recent(panel, own, origin, level)
    features["variation"] = deviation(to_log(regular, level))
    features["variation_all"] = deviation(to_log(year, level))
    features["zeros"] = share_of_zeros(units)
    features["weeks_known"] = np.minimum(has_units.sum(axis=0), 2 * YEAR).astype(float)
    features["promoted_share"] = mean(is_promoted[-YEAR:])
    features |= _effects(view, origin, level, sku_level)
    sku = _recent(view.sku, view.sku_promotions, origin, sku_level)
    features |= {f"sku_{name}": values[view.sku_of_key] for name, values in sku.items()}
    for name, values in panel.covariates.items():
        if name != PRICE and name not in own.flags:
            features[f"_usual_{name}"] = mean(values[max(0, origin + 1 - YEAR) : origin + 1])
    if own.log_price is not None:
        prices = np.sort(own.log_price[max(0, origin + 1 - YEAR) : origin + 1], axis=0)
        count = np.isfinite(prices).sum(axis=0)
        middle = np.take_along_axis(prices, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
        features |= {"_median_price": middle, "_lowest_price": prices[0]}
        rest = view.others.log_price
        assert rest is not None
        past = slice(max(0, origin + 1 - YEAR), origin + 1)
        features["_price_to_others"] = mean(own.log_price[past] - rest[past])
        features["_price_of_others"] = mean(rest[past][-LEVEL_WEEKS:])
    if view.events is not None:
        features["_event_ratios"] = view.events.ratios(origin)
    return {**features, **view.attributes}


def target_features(
    view: View, origin: int, step: int, base: Mapping[str, np.ndarray], all_on: bool = False
) -> dict[str, np.ndarray]:
    """Features of the week `step` weeks after `origin`; `base` are the origin's features.

    With `all_on`, every flag of every key is 1 that week, whatever the plan says.
    """
    panel, target = view.panel, origin + step
    features = {
        "step": np.full(panel.keys.height, float(step)),
        "week_of_year": np.full(panel.keys.height, float(panel.week(target).isocalendar().week)),
    }
    features |= _last_year(panel, view.promotions, origin, target, base["_level"])
    sku = _last_year(view.sku, view.sku_promotions, origin, target, base["_sku_level"])
    features |= {f"sku_{name}": values[view.sku_of_key] for name, values in sku.items()}
    for name, group in view.groups.items():
        of_group = _last_year(group.panel, group.promotions, origin, target, np.ones(group.panel.keys.height))
        features[f"group_season_{name}"] = group.by_key(of_group["season"])
    if view.events is not None:
        (features["event_effect"],) = view.events.effects(base["_event_ratios"], [target])
    features["last_year"] = to_log(last_year(view, origin, target, base), base["_level"])
    if not panel.covariates:
        return features
    if target >= panel.weeks:
        raise ValueError(f"week {target} is beyond the panel of {panel.weeks} weeks; step is {step}.")
    return features | _flags(view, target, base, all_on) | _prices(view, target, base)


def _flags(view: View, target: int, base: Mapping[str, np.ndarray], all_on: bool) -> dict[str, np.ndarray]:
    """Flags of the target week and the week before: of the key, of the other SKUs, and of the SKU in all stores."""
    own, week_before = view.promotions, max(target - 1, 0)
    features: dict[str, np.ndarray] = {}
    for name, values in own.flags.items():
        sku = view.sku_promotions.flags[name][target][view.sku_of_key]
        of_week = {
            name: values[target],
            f"others_{name}": view.others.flags[name][target],
            f"sku_{name}": sku,
        }
        if all_on:
            of_week = {about: np.where(np.isfinite(v), 1.0, v) for about, v in of_week.items()}
        features |= of_week
        features[f"before_{name}"] = values[week_before]
    for name, values in view.panel.covariates.items():
        if name != PRICE and name not in own.flags:
            features[name] = values[target]
            features[f"unusual_{name}"] = values[target] - base[f"_usual_{name}"]
    features["since_promotion"] = own.since[target]
    features["promoted_before"] = mean(own.is_promoted[max(0, target - 8) : target])
    return features


def _prices(view: View, target: int, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The price of the target week, relative to the usual price and to the prices of the other SKUs."""
    price, depth, rest = view.promotions.log_price, view.promotions.depth, view.others.log_price
    sku_depth, spread = view.sku_promotions.depth, view.sku_spread
    if price is None or depth is None or rest is None or sku_depth is None or spread is None:
        return {}
    relative = price[target] - rest[target]
    return {
        "depth": depth[target],
        "depth_before": depth[max(target - 1, 0)],
        "price_to_median": price[target] - base["_median_price"],
        "price_to_lowest": price[target] - base["_lowest_price"],
        "price_to_others": relative,
        "price_to_others_moved": relative - base["_price_to_others"],
        "others_moved": rest[target] - base["_price_of_others"],
        "sku_depth": sku_depth[target][view.sku_of_key],
        "sku_price_spread": spread[target][view.sku_of_key],
    }


_PLANNED = frozenset(
    {
        "since_promotion",
        "promoted_before",
        "depth",
        "depth_before",
        "price_to_median",
        "price_to_lowest",
        "price_to_others",
        "price_to_others_moved",
        "others_moved",
        "sku_depth",
        "sku_price_spread",
    }
)


def needs_plan(name: str, covariates: Sequence[str]) -> bool:
    """Whether feature `name` depends on the plan, including promotions up to the target week."""
    about = {
        f"{kind}{covariate}"
        for covariate in covariates
        for kind in ("", "others_", "sku_", "before_", "unusual_")
    }
    return name in _PLANNED or name in about
