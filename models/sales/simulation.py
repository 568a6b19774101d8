"""Simulated weekly grocery sales whose true conditional quantiles are known.

Contract::

    simulate(skus, stores, weeks, seed, horizon=13, quantiles=QUANTILES, ...) -> Simulated
    simulate_parts(skus, ..., skus_per_part=50) -> Iterator[Simulated]     same rows, by ranges of SKUs

`Simulated` holds `as_of` (the last week of history) and four frames:

`history`  sku: String, store: String, week: Date (Mondays), units: Float64, price, deal, feat: Float64;
           sorted by (sku, store, week), a missing week is a missing row.
`plan`     the same without units, for the `horizon` weeks after `as_of`, complete for every key that is
           still sold (it includes keys that start in the plan, but not stopped keys).
`stores`   store, size_m2, income_index, elderly_share, competitor_km.
`truth`    sku, store, week, step (1..horizon), kind, units (actually sold), mean, dispersion and one
           column per quantile (`q5`..`q95`), one row per row of the plan.

The units of a week are negative binomial with mean `m` and size `r` (`dispersion`, so the
variance is `m + m * m / r`), independent given `m`, and

    log m = level of the key                      heavy-tailed over SKUs, scaled by the store
          + season of the category + trend of the SKU
          + elasticity * log(price / first list price)
          + uplift of the flags deal and feat
          - loss to promotions of the other SKUs of the category

All terms are deterministic given the plan, so the true conditional quantiles are those of the negative
binomial distribution: the least whole number `q` with `P(units <= q) >= level`.

Promotions are planned per category, run in some price zones, cut the price by 10 to 40 %, and usually but
not always carry a deal flag; `feat` (share of the week featured, 0..1) is likelier for deep cuts; either
flag also occurs without a cut.

`kind` of a row of the truth, the first that applies: `new` (the key has less than `NEW_WEEKS` weeks at `as_of`),
`intermittent` (the key sells less than about two units in a usual week), `promoted` (a price cut, deal or
feat that week), `regular`. Keys that are not intermittent sell about `USUAL_UNITS` or more in a usual
week, so that whole numbers hardly matter for their quantiles.

Every SKU and every category has its own generator (Philox, seeded by `seed` and its number): a SKU's rows
depend neither on the chunking nor on the number of SKUs. They do depend on `stores`, `weeks` and
`horizon`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import polars as pl

from models.sales.options import QUANTILES, quantile_column

FIRST_WEEK = date(2023, 1, 2)
NEW_WEEKS = 8
USUAL_UNITS = 60
SKUS_PER_CATEGORY = 12
ZONES = 4
KINDS = ("regular", "promoted", "intermittent", "new")

_STORES, _CATEGORY, _SKU = range(3)
"""Streams of random numbers: the second part of a generator's seed."""


@dataclass(frozen=True)
class Shares:
    """Shares of the irregularities of a real assortment; each between 0 and 1.

    Of the SKUs: `slow_skus` sell little everywhere, `launched` start everywhere in the last weeks. Of the
    keys: `slow_keys` sell little, `late` start within the history, `recent` within its last weeks,
    `planned` only in the plan, `stopped` end before `as_of`, `closed` have a gap of two to five weeks.
    Of the weeks of a key, `missing` are not reported.
    """

    slow_skus: float = 0.06
    launched: float = 0.01
    slow_keys: float = 0.03
    late: float = 0.05
    recent: float = 0.015
    planned: float = 0.005
    stopped: float = 0.02
    closed: float = 0.1
    missing: float = 0.01


@dataclass(frozen=True)
class Simulated:
    """Simulated frames; see the module's docstring. `as_of` is the last week of the history."""

    as_of: date
    history: pl.DataFrame
    plan: pl.DataFrame
    stores: pl.DataFrame
    truth: pl.DataFrame


@dataclass(frozen=True)
class _Setting:
    """The settings that all SKUs share. Hashable, because the calendars of categories are cached by it."""

    stores: int
    weeks: int
    horizon: int
    seed: int
    first_week: date
    shares: Shares = field(default_factory=Shares)

    @property
    def span(self) -> int:
        return self.weeks + self.horizon

    def rng(self, *about: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=about)))


def simulate(
    skus: int | range,
    stores: int,
    weeks: int,
    seed: int,
    horizon: int = 13,
    *,
    quantiles: Sequence[float] = QUANTILES,
    first_week: date = FIRST_WEEK,
    shares: Shares | None = None,
    with_truth: bool = True,
) -> Simulated:
    """Simulated sales of the first `skus` SKUs, or of a range of them; see the module's docstring.

    `with_truth=False` leaves the truth empty and saves a third of the time. The first n SKUs of a larger
    simulation are equal to a simulation of n SKUs.

    Raises ValueError if a count is below one or `first_week` is not a Monday.

    >>> small = simulate(2, 3, 30, seed=1)
    >>> small.as_of, small.plan["week"].min()
    (datetime.date(2023, 7, 24), datetime.date(2023, 7, 31))
    >>> small.truth.columns[-5:]
    ['q5', 'q25', 'q50', 'q75', 'q95']
    """
    sku_range = range(skus) if isinstance(skus, int) else skus
    _check(sku_range, stores, weeks, horizon, first_week)
    setting = _Setting(stores, weeks, horizon, seed, first_week, shares or Shares())
    attributes = _store_attributes(setting)
    batches = [sku_range[at : at + 20] for at in range(0, len(sku_range), 20)]
    parts = [_batch(setting, batch, attributes, quantiles, with_truth) for batch in batches]
    history, plan, truth = (pl.concat(frames, rechunk=False) for frames in zip(*parts, strict=True))
    return Simulated(
        as_of=first_week + timedelta(weeks=weeks - 1),
        history=history,
        plan=plan,
        stores=attributes.drop("zone"),
        truth=truth,
    )


def simulate_parts(
    skus: int, stores: int, weeks: int, seed: int, skus_per_part: int = 50
) -> Iterator[Simulated]:
    """The rows of `simulate`, `skus_per_part` SKUs at a time; `stores` is the same in every part."""
    for at in range(0, skus, skus_per_part):
        yield simulate(range(at, min(at + skus_per_part, skus)), stores, weeks, seed)


def _check(skus: range, stores: int, weeks: int, horizon: int, first_week: date) -> None:
    counts = {"skus": len(skus), "stores": stores, "weeks": weeks, "horizon": horizon}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; a simulation needs at least 1")
    if first_week.weekday() != 0:
        raise ValueError(f"first_week {first_week} is a {first_week:%A}; simulated weeks start on Mondays")


def _store_attributes(setting: _Setting) -> pl.DataFrame:
    rng = setting.rng(_STORES)
    n = setting.stores
    return pl.DataFrame(
        {
            "store": [f"s{number:03d}" for number in range(1, n + 1)],
            "size_m2": np.round(1500 * np.exp(0.5 * rng.standard_normal(n))),
            "income_index": np.round(100 * np.exp(0.2 * rng.standard_normal(n)), 1),
            "elderly_share": np.round(rng.beta(4, 16, n), 3),
            "competitor_km": np.round(rng.gamma(2, 1.5, n), 2),
            "zone": rng.integers(ZONES, size=n),
        }
    )


@lru_cache(maxsize=4)
def _category(setting: _Setting, number: int) -> dict[str, np.ndarray]:
    """Season (weeks,) and the promotions of all SKUs of a category (SKU, zone, weeks).

    Always for a full category, so that its SKUs do not depend on how many of them are simulated.
    """
    rng = setting.rng(_CATEGORY, number)
    days = np.arange(setting.span) * 7 + setting.first_week.timetuple().tm_yday
    phase = 2 * np.pi * days / 365.25
    waves = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase)])
    season = rng.normal(0, [0.15, 0.15, 0.06, 0.06]) @ waves
    before_holiday = np.minimum((days - 355) % 365.25, (355 - days) % 365.25)
    season += rng.normal(0.2, 0.15) * np.exp(-0.5 * (before_holiday / 7) ** 2)

    shape = (SKUS_PER_CATEGORY, setting.span)
    starts = rng.random(shape) < rng.uniform(0.05, 0.2, (SKUS_PER_CATEGORY, 1))
    depth = np.where(starts, rng.choice([0.1, 0.15, 0.2, 0.25, 0.3, 0.4], shape), 0.0)
    second = np.roll(depth * (rng.random(shape) < 0.4), 1, axis=1)
    second[:, 0] = 0
    depth = np.where(starts, depth, second)
    zone_shape = (SKUS_PER_CATEGORY, ZONES, setting.span)
    depth = depth[:, None, :] * (rng.random(zone_shape) < 0.9)
    is_cut = depth > 0
    deal = rng.random(zone_shape) < np.where(is_cut, 0.75 + 0.5 * depth, 0.015)
    is_featured = rng.random(shape)[:, None, :] < np.where(is_cut, 0.1 + 1.2 * depth, 0.015)
    feat = is_featured * np.round(np.clip(rng.beta(3, 1.2, zone_shape), 0.05, 1), 2)
    return {"season": season, "depth": depth, "deal": deal.astype(float), "feat": feat}


def _batch(
    setting: _Setting, skus: range, stores: pl.DataFrame, quantiles: Sequence[float], with_truth: bool
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """History, plan and truth of a few SKUs."""
    grids = [_sku(setting, sku, stores) for sku in skus]
    grid = {name: np.stack([one[name] for one in grids]) for name in grids[0]}
    names = pl.Series([f"sku{sku + 1:05d}" for sku in skus], dtype=pl.String)
    weeks = pl.Series([setting.first_week + timedelta(weeks=at) for at in range(setting.span)])

    def rows(where: np.ndarray, columns: Sequence[str]) -> pl.DataFrame:
        sku, store, week = np.nonzero(where)
        return pl.DataFrame(
            [
                names.gather(sku).alias("sku"),
                stores["store"].gather(store),
                weeks.gather(week).alias("week"),
                *(pl.Series(name, grid[name][where]) for name in columns),
            ]
        )

    past = np.arange(setting.span) < setting.weeks
    history = rows(grid["reported"] & past, ["units", "price", "deal", "feat"])
    in_plan = grid["sold"] & ~past & ~grid["stopped"][:, :, None]
    plan = rows(in_plan, ["price", "deal", "feat"])
    truth = rows(in_plan, ["kind", "units", "mean", "dispersion"])
    truth = truth.head(len(truth) if with_truth else 0)
    step = (pl.col("week") - weeks[setting.weeks - 1]).dt.total_days().floordiv(7).cast(pl.Int32)
    kind = pl.col("kind").replace_strict(dict(enumerate(KINDS)), return_dtype=pl.String)
    truth = truth.with_columns(kind, step.alias("step")).with_columns(_true_quantiles(truth, quantiles))
    return (
        history,
        plan,
        truth.select("sku", "store", "week", "step", pl.all().exclude("sku", "store", "week", "step")),
    )


def _true_quantiles(truth: pl.DataFrame, quantiles: Sequence[float]) -> list[pl.Series]:
    from scipy.stats import nbinom

    mean, size = truth["mean"].to_numpy(), truth["dispersion"].to_numpy()
    return [
        pl.Series(quantile_column(level), nbinom.ppf(level, size, size / (size + mean)), dtype=pl.Float64)
        for level in quantiles
    ]


def _sku(setting: _Setting, sku: int, stores: pl.DataFrame) -> dict[str, np.ndarray]:
    """One SKU on the grid (store, week), and whether it is `stopped` in each store."""
    rng = setting.rng(_SKU, sku)
    level, slow, dispersion = _levels(setting, rng, stores)
    life = _life(setting, rng)
    category = _category(setting, sku // SKUS_PER_CATEGORY)
    member, zone = sku % SKUS_PER_CATEGORY, stores["zone"].to_numpy()

    depth = category["depth"][:, zone]
    others = depth.sum(axis=0) - depth[member]
    deal, feat = category["deal"][member][zone], category["feat"][member][zone]
    price, relative = _prices(setting, rng, depth[member], zone)
    elasticity, deal_uplift, feat_uplift = rng.uniform([-3.2, 0.1, 0.3], [-1.2, 0.4, 0.9])
    log_mean = level[:, None] + rng.uniform(0.5, 1.5) * category["season"] + _trend(setting, rng)
    log_mean = log_mean + elasticity * relative + deal_uplift * deal + feat_uplift * feat
    log_mean -= rng.uniform(0.05, 0.35) * np.minimum(others, 1.5)
    mean = np.exp(log_mean)
    size = np.broadcast_to(dispersion[:, None], mean.shape)
    units = rng.negative_binomial(size, size / (size + mean)).astype(float)
    is_promoted = (depth[member] > 0) | (deal > 0) | (feat > 0)
    kind = np.where(life["new"][:, None], 3, np.where(slow[:, None], 2, is_promoted.astype(int)))
    return {
        "units": units,
        "price": price,
        "deal": deal,
        "feat": feat,
        "mean": mean,
        "dispersion": size,
        "kind": kind,
        "sold": life["sold"],
        "reported": life["reported"],
        "stopped": life["stopped"],
    }


def _levels(
    setting: _Setting, rng: np.random.Generator, stores: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per store: log of the usual weekly units, whether it is slow, and the size of the distribution."""
    n = setting.stores
    shares = setting.shares
    store_effect = 0.8 * np.log(stores["size_m2"].to_numpy() / 1500)
    taste = rng.normal(0, 0.5) * np.log(stores["income_index"].to_numpy() / 100)
    own = rng.normal(0, 0.25, n)
    level = np.log(200) + 0.6 * rng.standard_t(4) + store_effect + taste + own
    slow = (rng.random() < shares.slow_skus) | (rng.random(n) < shares.slow_keys)
    slow_level = np.log(0.7) + 0.4 * rng.standard_normal() + 0.5 * (store_effect + own)
    level = np.where(
        slow,
        np.clip(slow_level, np.log(0.15), np.log(2)),
        np.clip(level, np.log(USUAL_UNITS), np.log(10_000)),
    )
    dispersion = np.exp(rng.uniform(np.log(8), np.log(40))) * np.exp(0.2 * rng.standard_normal(n))
    return level, slow, np.where(slow, rng.uniform(0.5, 1.5), dispersion)


def _life(setting: _Setting, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """When each key is sold and reported (store, week), and per store whether it is new or has stopped."""
    n, weeks, shares = setting.stores, setting.weeks, setting.shares
    week = np.arange(setting.span)
    recent_start = weeks - rng.integers(1, NEW_WEEKS, n)
    late_start = rng.integers(0, max(weeks - 2 * NEW_WEEKS, 1), n)
    limits = np.cumsum([shares.planned, shares.recent, shares.late, shares.stopped])
    fate = np.searchsorted(limits, rng.random(n), side="right")
    is_launch = rng.random() < shares.launched
    start = np.select([fate == 0, (fate == 1) | is_launch, fate == 2], [weeks, recent_start, late_start], 0)
    start = np.maximum(start, 0)
    last = np.where(fate == 3, rng.integers(max(weeks // 3, 1), max(weeks - 4, 2), n), setting.span)
    has_stopped = (last < weeks) & (start == 0)
    last = np.where(has_stopped, last, setting.span)
    on_sale = (week >= start[:, None]) & (week < last[:, None])

    closing = np.where(rng.random(n) < shares.closed, rng.integers(0, weeks, n), setting.span)
    opening = closing + rng.integers(2, 6, n)
    is_closed = (week >= closing[:, None]) & (week < opening[:, None])
    is_missing = rng.random(on_sale.shape) < shares.missing
    return {
        "sold": on_sale,
        "reported": on_sale & ~is_closed & ~is_missing,
        "new": weeks - start < NEW_WEEKS,
        "stopped": has_stopped,
    }


def _prices(
    setting: _Setting, rng: np.random.Generator, depth: np.ndarray, zone: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shelf price in whole cents, and its log relative to the first list price (store, week)."""
    first = 3 * np.exp(0.6 * rng.standard_normal()) * np.exp(rng.normal(0, 0.04, ZONES))
    changes = (rng.random(setting.span) < 1 / 26) * rng.normal(0.015, 0.05, setting.span)
    price = np.round(first[zone][:, None] * np.exp(np.cumsum(changes)) * (1 - depth), 2)
    price = np.maximum(price, 0.05)
    return price, np.log(price / first[zone][:, None])


def _trend(setting: _Setting, rng: np.random.Generator) -> np.ndarray:
    """Log level over the weeks: two straight lines that meet, zero at the end of the history."""
    years = (np.arange(setting.span) - (setting.weeks - 1)) / 52
    bend = -rng.uniform(0.2, 1.5)
    slopes = rng.normal(0, 0.12, 2)
    return slopes[0] * np.minimum(years - bend, 0) + slopes[1] * np.maximum(years, bend)


def price_war(history: pl.DataFrame, since: date) -> pl.DataFrame:
    """`history`, but all SKUs cost a fifth less from the week `since` on, at an elasticity of -2; units are whole."""
    now = pl.col("week") >= since
    price, units = (pl.col("price") * 0.8).round(2), (pl.col("units") * 0.8**-2).round()
    return history.with_columns(
        pl.when(now).then(price).otherwise("price").alias("price"),
        pl.when(now).then(units).otherwise("units").alias("units"),
    )
