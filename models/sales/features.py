"""Features of a forecast row: a key, an origin (the last week known) and a target week after it.

Units enter only as `panel.units[: origin + 1]`. Covariates of later weeks are the plan (in a backtest:
what was then charged), and may enter up to the target week.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales import assortment
from models.sales.events import EventsOfKeys
from models.sales.neighbours import PRICE
from models.sales.panel import OFFSET, Panel, Shared, mean, panel_of, ratio
from models.sales.promotions import FLAGGED, Others, Promotions, others, promotions
from models.sales.seasons import YEAR, from_easter, share_of_week_before, year_before

ENOUGH_WEEKS = 8
"""Weeks with units, in the last year, that a key needs for the pooled model, one of them in the last `LEVEL_WEEKS`."""
LEVEL_WEEKS = 26
NEW_WEEKS = 26
INTERMITTENT_SHARE = 1 / 1.32
"""Below this share of weeks with sales, demand is intermittent (Syntetos, Boylan & Croston 2005, JORS 56)."""
PRIOR_WEEKS = 4.0
"""Weeks of the SKU's effect that are mixed into what promotions did to a key before."""
OWN_SHARE = 0.6
"""Weight of the key's own week in `last_year`; the rest is its SKU's, over all stores, on the key's scale."""
APART = float(np.log(3.0))
"""On the log scale, at most, between the two: one store's typing error does not distort the season of all others."""
SEASON_WEEKS = 26
"""The season of a week is relative to this many weeks before and after it."""
GROWTH_WEEKS, GROWTH_SHARE, MOST_GROWTH = 8, 0.7, 3.0
"""Growth compares this many weeks with the same weeks of last year; this share of its logarithm is believed."""
EASTER_WEEKS, EASTER_SHARE = 6, 0.8
"""A SKU's Easter is looked at relative to so many weeks before and after; it moves where that leaves at most this share
of the differences from year to year."""
DEEP = 0.1
"""A price this share below the usual one is a deep cut."""
KINDS = ("regular", "promoted", "intermittent", "new")


@dataclass(frozen=True)
class View:
    """A panel and what is known of its keys' promotions, of the other SKUs, and of the SKUs over all stores.

    `attributes` are those of stores and SKUs that are numbers, `groups` those of SKUs that are text; `events` are None
    where there are none.
    """

    panel: Panel
    promotions: Promotions
    others: Others
    sku: Panel
    sku_promotions: Promotions
    sku_spread: np.ndarray | None
    sku_of_key: np.ndarray
    attributes: Mapping[str, np.ndarray]
    groups: Mapping[str, assortment.Group]
    events: EventsOfKeys | None


@dataclass(frozen=True)
class Rows:
    """Forecast rows: `frame` says which (sku, store, origin, week, step, units, level, kind, planned, enough,
    naive (zero where nothing is known), seasonal_naive, last_year (NaN where not known)); `values` holds their
    features, float32 of shape (rows, features)."""

    frame: pl.DataFrame
    values: np.ndarray
    names: tuple[str, ...]


def view_of(
    panel: Panel, context: Mapping[str, pl.DataFrame], flags: Sequence[str], attributes: pl.DataFrame | None
) -> View:
    """The inputs of the features of the panel's keys; `context` are the frames that every shard needs."""
    own = promotions(panel, flags)
    skus = panel.keys.select(pl.col("sku").unique().sort())
    until = panel.week(panel.last)
    covariates = list(panel.covariates)
    horizon = panel.weeks - panel.last - 1
    weeks = context["sku_weeks"]
    sku = panel_of(weeks.lazy(), skus, covariates, panel.first_week, until, horizon)
    spread = Shared(sku, weeks, "sku").array("spread") if PRICE in covariates else None
    at = panel.keys.join(skus.with_row_index("_at"), on="sku", how="left", maintain_order="left")["_at"]
    of_sku, of_key = promotions(sku, flags), at.to_numpy()
    numbers = assortment.numbers(panel, context)
    if attributes is not None:
        of_store = panel.keys.join(attributes, on="store", how="left", maintain_order="left")
        numbers |= {
            name: of_store[name].to_numpy().astype(float) for name in attributes.columns if name != "store"
        }
    return View(
        panel,
        own,
        others(panel, own, context["store_weeks"]),
        sku,
        of_sku,
        spread,
        of_key,
        numbers,
        assortment.groups(panel, context),
        EventsOfKeys.of(panel, context, (sku, of_sku.promoted, of_key)),
    )


def deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over weeks of what is known, NaN where fewer than two weeks are."""
    spread = np.sqrt(np.maximum(mean((values - mean(values)) ** 2), 0.0))
    return np.where(np.isfinite(values).sum(axis=0) >= 2, spread, np.nan)


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


def _recent(panel: Panel, promotions: Promotions, origin: int, level: np.ndarray) -> dict[str, np.ndarray]:
    """Recent sales relative to the level, of keys or of SKUs."""
    units, promoted = panel.units[: origin + 1], promotions.promoted[: origin + 1]
    regular = np.where(promoted == 1, np.nan, units)
    features = {f"regular_{n}": to_log(mean(regular[-n:]), level) for n in (1, 2, 4, 8, 13, YEAR)}
    features |= {f"all_{n}": to_log(mean(units[-n:]), level) for n in (1, 4, 13, LEVEL_WEEKS)}
    return features


def _last_year(
    panel: Panel, promotions: Promotions, origin: int, target: int, level: np.ndarray
) -> dict[str, np.ndarray]:
    """The same weeks a year ago (of the last year known), relative to the quarters around them."""
    at = year_before(origin, target)
    if at < 2:
        empty = np.full(level.shape, np.nan)
        return {"year_ago": empty, "season": empty}
    first, stop = max(0, at - 13), min(at + 14, origin + 1)
    regular = np.where(promotions.promoted[first:stop] == 1, np.nan, panel.units[first:stop])
    around = mean(regular)
    around = np.where(around > 0, around, np.nan)
    return {
        "year_ago": to_log(panel.units[at], level),
        "season": to_log(mean(regular[at - 2 - first : at + 3 - first]), around),
    }


def last_year(view: View, origin: int, target: int, fixed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Units of the week a year before `target`, at the level of this year; NaN where that week is not known.

    The mean, on the log scale, of what the key sold in that week and what its SKU sold in all stores then, on the
    key's scale: the single week of a key is noisy. Times how much more the key sells in the last `GROWTH_WEEKS` than
    in the same weeks a year before. What events did then is taken out, and what they do now put in; without events,
    the days around Christmas are compared with the same days.
    """
    level, moves, at = fixed["_level"], fixed["_easter"], year_before(origin, target)
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
        now, then, at_easter = view.events.effects(fixed["_event_ratios"], weeks_of)
        season = season + now - np.where(weeks == at, then, at_easter)
    return from_log(season, level) * _growth(units, origin, target - at)


def _mixed(units: np.ndarray, weeks: np.ndarray, columns: np.ndarray, before: float) -> np.ndarray:
    """Units of one of the `weeks` for each of the `columns`, with the share `before` of the week before it if known."""
    of_week, of_before = units[weeks, columns], units[np.maximum(weeks - 1, 0), columns]
    return np.where(np.isfinite(of_before), (1 - before) * of_week + before * of_before, of_week)


def moves_with_easter(units: np.ndarray, panel: Panel, origin: int) -> np.ndarray:
    """Whether the pattern of each column of `units` around Easter moves with it from year to year.

    Where these weeks, and those a year after an Easter, are more like the weeks of `from_easter` than like the same
    weeks of the year before, over all years that are known at `origin`. False where no two Easters are.
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
    """A week on the log scale relative to the `EASTER_WEEKS` before and after it."""
    around = mean(units[max(0, week - EASTER_WEEKS) : week + EASTER_WEEKS + 1])
    return to_log(units[week], np.where(around > 0, around, np.nan))


def _growth(units: np.ndarray, origin: int, weeks: int) -> np.ndarray:
    """The factor by which keys are believed to sell more than so many `weeks` before; 1 where nothing is known."""
    first = max(origin + 1 - GROWTH_WEEKS, weeks)
    if first > origin:
        return np.ones(units.shape[1])
    now, before = units[first : origin + 1], units[first - weeks : origin + 1 - weeks]
    both = np.isfinite(now) & np.isfinite(before)
    grown = ratio(mean(np.where(both, now, np.nan)), mean(np.where(both, before, np.nan)))
    believed = GROWTH_SHARE * both.sum(axis=0) / GROWTH_WEEKS
    grown = np.where(np.isfinite(grown) & (grown > 0), grown, 1.0)
    return np.clip(grown, 1 / MOST_GROWTH, MOST_GROWTH) ** believed


def _effects(view: View, origin: int, level: np.ndarray, sku_level: np.ndarray) -> dict[str, np.ndarray]:
    """Effects of earlier promotions on each key: the mean of the log ratio to the level in promoted weeks.

    Of the weeks of each flag, and of those with a price a tenth below the usual one; and the slope of the log
    ratio on the depth. A key borrows `PRIOR_WEEKS` from its SKU, and the SKU as many from no effect.
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
    promoted = {f"effect_{name}": values[past] >= FLAGGED for name, values in promotions.flags.items()}
    if promotions.depth is not None:
        promoted["effect_deep"] = promotions.depth[past] >= DEEP
    effects = {}
    for name, weeks in promoted.items():
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
    units, promoted = panel.units[: origin + 1], own.promoted[: origin + 1]
    level = level_of(units, promoted)
    sku_units = view.sku.units[: origin + 1]
    sku_level = level_of(sku_units, view.sku_promotions.promoted[: origin + 1])
    year = units[-YEAR:]
    regular = np.where(promoted[-YEAR:] == 1, np.nan, year)
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
    features["promoted_share"] = mean(promoted[-YEAR:])
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
    view: View, origin: int, step: int, fixed: Mapping[str, np.ndarray], flagged: bool = False
) -> dict[str, np.ndarray]:
    """Features of the week `step` weeks after `origin`; `fixed` are the origin's features.

    With `flagged`, every flag of every key is 1 that week, whatever the plan says.
    """
    panel, target = view.panel, origin + step
    features = {
        "step": np.full(panel.keys.height, float(step)),
        "week_of_year": np.full(panel.keys.height, float(panel.week(target).isocalendar().week)),
    }
    features |= _last_year(panel, view.promotions, origin, target, fixed["_level"])
    sku = _last_year(view.sku, view.sku_promotions, origin, target, fixed["_sku_level"])
    features |= {f"sku_{name}": values[view.sku_of_key] for name, values in sku.items()}
    for name, group in view.groups.items():
        of_group = _last_year(group.panel, group.promotions, origin, target, np.ones(group.panel.keys.height))
        features[f"group_season_{name}"] = group.by_key(of_group["season"])
    if view.events is not None:
        (features["event_effect"],) = view.events.effects(fixed["_event_ratios"], [target])
    features["last_year"] = to_log(last_year(view, origin, target, fixed), fixed["_level"])
    if not panel.covariates:
        return features
    if target >= panel.weeks:
        raise ValueError(f"week {target} is beyond the panel of {panel.weeks} weeks; step is {step}.")
    return features | _flags(view, target, fixed, flagged) | _prices(view, target, fixed)


def _flags(view: View, target: int, fixed: Mapping[str, np.ndarray], flagged: bool) -> dict[str, np.ndarray]:
    """Flags of the target week and the one before: the key's, the other SKUs', the SKU's over all stores."""
    own, week_before = view.promotions, max(target - 1, 0)
    features: dict[str, np.ndarray] = {}
    for name, values in own.flags.items():
        sku = view.sku_promotions.flags[name][target][view.sku_of_key]
        of_week = {
            name: values[target],
            f"others_{name}": view.others.flags[name][target],
            f"sku_{name}": sku,
        }
        if flagged:
            of_week = {about: np.where(np.isfinite(v), 1.0, v) for about, v in of_week.items()}
        features |= of_week
        features[f"before_{name}"] = values[week_before]
    for name, values in view.panel.covariates.items():
        if name != PRICE and name not in own.flags:
            features[name] = values[target]
            features[f"unusual_{name}"] = values[target] - fixed[f"_usual_{name}"]
    features["since_promotion"] = own.since[target]
    features["promoted_before"] = mean(own.promoted[max(0, target - 8) : target])
    return features


def _prices(view: View, target: int, fixed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The price of the target week, relative to what it usually is and to that of the other SKUs."""
    price, depth, rest = view.promotions.log_price, view.promotions.depth, view.others.log_price
    sku_depth, spread = view.sku_promotions.depth, view.sku_spread
    if price is None or depth is None or rest is None or sku_depth is None or spread is None:
        return {}
    relative = price[target] - rest[target]
    return {
        "depth": depth[target],
        "depth_before": depth[max(target - 1, 0)],
        "price_to_median": price[target] - fixed["_median_price"],
        "price_to_lowest": price[target] - fixed["_lowest_price"],
        "price_to_others": relative,
        "price_to_others_moved": relative - fixed["_price_to_others"],
        "others_moved": rest[target] - fixed["_price_of_others"],
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
    """Whether feature `name` is of the plan, or of promotions up to the target week."""
    about = {
        f"{kind}{covariate}"
        for covariate in covariates
        for kind in ("", "others_", "sku_", "before_", "unusual_")
    }
    return name in _PLANNED or name in about


def build(
    view: View,
    origins: Sequence[int],
    steps: Mapping[int, Sequence[int]],
    flagged: frozenset[tuple[int, int]] = frozenset(),
) -> Rows:
    """Rows of every key of the panel for each of the `origins` and each of its `steps`, in that order.

    In the (origin, step) of `flagged`, every flag of the target week is 1.
    """
    frames, blocks = [], []
    names: tuple[str, ...] = ()
    for origin in origins:
        fixed = origin_features(view, origin)
        about = _about_origin(view, origin, fixed)
        for step in steps[origin]:
            more = target_features(view, origin, step, fixed, (origin, step) in flagged)
            features = {name: values for name, values in (fixed | more).items() if name[0] != "_"}
            names = tuple(features)
            blocks.append(np.stack(list(features.values()), axis=1).astype(np.float32))
            last_year_units = from_log(features["last_year"], about["level"].to_numpy())
            frames.append(
                _about_target(view, about, origin, step).with_columns(pl.Series("last_year", last_year_units))
            )
    return Rows(pl.concat(frames), np.concatenate(blocks), names)


def _about_origin(view: View, origin: int, fixed: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Keys with origin, level, `enough` (history for the pooled model), naive, and kind but for promotions."""
    units = view.panel.units[: origin + 1]
    weeks_of_year = np.isfinite(units[-YEAR:]).sum(axis=0)
    is_recent = np.isfinite(units[-LEVEL_WEEKS:]).any(axis=0)
    enough = (weeks_of_year >= ENOUGH_WEEKS) & is_recent & np.isfinite(fixed["_level"])
    return view.panel.keys.with_columns(
        pl.lit(view.panel.week(origin)).alias("origin"),
        pl.Series("level", fixed["_level"]),
        pl.Series("enough", enough),
        pl.Series("naive", last_known(units)),
        pl.Series("kind", kinds_of_keys(fixed["weeks_known"], fixed["zeros"])),
    )


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


def _about_target(view: View, about: pl.DataFrame, origin: int, step: int) -> pl.DataFrame:
    """`about` with week, step, units, planned, seasonal_naive, and the kind of demand of that week."""
    panel, target = view.panel, origin + step
    empty = np.full(about.height, np.nan)
    actual = panel.units[target] if target < panel.weeks else empty
    ago = year_before(origin, target)
    year_ago = panel.units[ago] if ago >= 0 else empty
    promoted, has_plan = np.zeros(about.height, bool), np.zeros(about.height, bool)
    if target < panel.weeks:
        promoted = view.promotions.promoted[target] == 1
        for values in panel.covariates.values():
            has_plan |= np.isfinite(values[target])
    kind = pl.col("kind")
    return about.with_columns(
        pl.lit(panel.week(target)).alias("week"),
        pl.lit(step, dtype=pl.Int32).alias("step"),
        pl.Series("units", actual, nan_to_null=True),
        pl.Series("planned", has_plan),
        pl.when((kind == "regular") & pl.Series(promoted))
        .then(pl.lit("promoted"))
        .otherwise(kind)
        .alias("kind"),
        pl.Series("seasonal_naive", np.where(np.isfinite(year_ago), year_ago, about["naive"].to_numpy())),
    )
