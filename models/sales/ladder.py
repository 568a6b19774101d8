"""The fallback rungs: quantiles for keys that no fitted model should score.

Contract::

    answer(keys, own_history, profiles, as_of, horizon, quantiles, plan=None)
        -> sku, store, week, step (Int32), one column per quantile, rung, reason

`own_history`: sku, store, week, units and covariates, if there are any; a frame or lazy
frame. Rows after `as_of` are ignored. `plan`: sku, store, week and covariates. `profiles` are those of
`ladder_profiles`, from all shards together, and are the `context` that makes a key's answer independent of the
other keys.

Rule: a key gets the first rung that applies, for all its weeks:

1. `stopped`        no row in the last `STOPPED_WEEKS` weeks and none in the plan: zero.
2. `own_history`    at least `OWN_WEEKS` weeks of history: empirical quantiles of its last `RECENT_WEEKS`
                    reported weeks.
3. `short_history`  fewer weeks: its SKU's spread around a level, which is the mean of its own weeks and, with
                    the weight of up to `PRIOR_WEEKS` more weeks, the level expected from its SKU and store.
4. `late_start`     no history, SKU and store are not new, and pairs that began late sell little: the SKU's mean, times
                    the store's size, times the quantiles of such pairs' sales relative to their SKU's mean.
5. `sku_profile`    no history: quantiles of the SKU's sales in the other stores, times the store's size, mixed with
                    those of all SKUs of the store, which count if the SKU has few weeks. If the store is unknown,
                    also the spread of the sizes of stores.
6. `store_profile`  the SKU is also unknown: quantiles over all SKUs of the store.
7. `everything`     the store is also unknown: quantiles over all sales; zero if there are none at all.

Fallback: if a rung lacks data that it needs (the SKU's profile is empty), the next one answers.

Promotions: each week is `promoted`, `regular`, or `any` if the plan says nothing. Quantiles come from weeks with
the same demand; if those are fewer than `OWN_WEEKS`, from all weeks, scaled by the SKU's sales in weeks with that
demand relative to all its weeks.

Invariant: every key and every step 1..horizon is answered exactly once; quantiles are finite, not
negative and do not fall from one level to the next; rung and reason are the same for all weeks of a key;
a key's rows depend only on its own history, its plan and the profiles.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from models.sales.ladder_profiles import DEMAND, OWN_WEEKS, by_demand, demand_of, plausible, rows_of
from models.sales.ladder_quantiles import looked_up, of_late_pairs, of_sku, sized, uplifts, with_others
from models.sales.options import quantile_column
from models.sales.panel import KEY
from models.sales.short_history import scaled_to_own

RECENT_WEEKS = 52
STOPPED_WEEKS = 26

RUNGS = (
    "stopped",
    "own_history",
    "short_history",
    "late_start",
    "sku_profile",
    "store_profile",
    "everything",
)
_EARLIER_FLAGS = ("deal", "feat")
"""The flags of profiles that do not name their flags."""


def answer(
    keys: pl.DataFrame,
    own_history: pl.DataFrame | pl.LazyFrame,
    profiles: Mapping[str, pl.DataFrame],
    as_of: date,
    horizon: int,
    quantiles: Sequence[float],
    plan: pl.DataFrame | pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """Quantiles in units for every key and step, with rung and reason; see the module's docstring.

    `keys`: sku, store; duplicates are answered once. `profiles` may be empty: a key without history of
    its own then gets zeros. Sorted by sku, store, week.
    """
    keys = keys.select(KEY).unique().sort(KEY)
    names = [quantile_column(level) for level in quantiles]
    book = _complete(profiles, names)
    flags = profiles["ladder_flags"]["name"].to_list() if "ladder_flags" in profiles else _EARLIER_FLAGS
    own = (
        rows_of(own_history, flags)
        .filter(pl.col("week") <= as_of)
        .join(keys.lazy(), on=KEY, how="semi")
        .collect()
    )
    own = plausible(own).sort(*KEY, "week").filter(pl.int_range(pl.len()).reverse().over(KEY) < RECENT_WEEKS)
    sku_price = book["ladder_sku"].filter(demand="any").select("sku", "usual_price")
    usual = keys.join(own.group_by(KEY).agg(own_price=pl.col("price").median()), on=KEY, how="left")
    usual = usual.join(sku_price, on="sku", how="left")
    usual = usual.select(*KEY, usual_price=pl.coalesce("own_price", "usual_price"))
    own = own.join(usual, on=KEY).with_columns(demand_of(pl.col("usual_price")))
    targets = _targets(keys, plan, flags, as_of, horizon, usual)
    rows = targets.join(_rungs(keys, own, targets, book, as_of), on=KEY)
    rows = rows.join(uplifts(rows, book), on=["sku", "demand"])

    def of(*rungs: str) -> pl.DataFrame:
        return rows.filter(pl.col("rung").is_in(rungs))

    answers = [
        of("stopped").with_columns(pl.lit(0.0).alias(name) for name in names),
        looked_up(of("own_history"), by_demand(own, KEY, quantiles), KEY, names),
        scaled_to_own(of("short_history"), own, book, names, quantiles),
        sized(of_late_pairs(of("late_start"), book, names), book, names),
        with_others(of_sku(of("sku_profile"), book, names, quantiles), book, names),
        looked_up(of("store_profile"), book["ladder_store"], ["store"], names),
        looked_up(of("everything"), book["ladder_all"], [], names),
    ]
    columns = [*KEY, "week", "step", *names, "rung", "reason"]
    return _valid(pl.concat(part.select(columns) for part in answers), names).sort(*KEY, "week")


def _complete(profiles: Mapping[str, pl.DataFrame], names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The four profiles; missing ones are empty."""
    values = dict.fromkeys(["mean", *names], pl.Float64)
    columns: dict[str, Any] = {"demand": DEMAND, "rows": pl.Int64, **values}
    shapes = {f"shape_{name}": pl.Float64 for name in names}
    empty: dict[str, dict[str, Any]] = {
        "ladder_sku": {
            "sku": pl.String,
            **columns,
            **shapes,
            "stores": pl.UInt32,
            "usual_price": pl.Float64,
            "prior_weeks": pl.Float64,
            "launching": pl.Boolean,
        },
        "ladder_store": {"store": pl.String, **columns, "size": pl.Float64, "launching": pl.Boolean},
        "ladder_all": {**columns, **shapes},
        "ladder_late": {**columns, "pairs": pl.UInt32},
    }
    return {
        name: profiles.get(name, pl.DataFrame(schema=schema)).with_columns(pl.col("demand").cast(DEMAND))
        for name, schema in empty.items()
    }


def _targets(
    keys: pl.DataFrame,
    plan: pl.DataFrame | pl.LazyFrame | None,
    flags: Sequence[str],
    as_of: date,
    horizon: int,
    usual: pl.DataFrame,
) -> pl.DataFrame:
    """Every key and step, with the demand expected from the plan, and whether it is `planned`."""
    steps = pl.DataFrame({"step": range(1, horizon + 1)}, schema={"step": pl.Int32})
    weeks = steps.select((pl.lit(as_of) + pl.duration(weeks="step")).cast(pl.Date).alias("week"), "step")
    targets = keys.join(weeks, how="cross")
    if plan is None:
        return targets.with_columns(planned=False, demand=pl.lit("any").cast(DEMAND))
    plan_weeks = rows_of(plan, flags).join(keys.lazy(), on=KEY, how="semi").collect()
    plan_weeks = plan_weeks.unique([*KEY, "week"], keep="last", maintain_order=True).with_columns(
        planned=True
    )
    targets = targets.join(plan_weeks, on=[*KEY, "week"], how="left").join(usual, on=KEY)
    demand = demand_of(pl.col("usual_price"))
    return targets.select(*KEY, "week", "step", pl.col("planned").fill_null(False), demand)


def _rungs(
    keys: pl.DataFrame,
    own: pl.DataFrame,
    targets: pl.DataFrame,
    book: Mapping[str, pl.DataFrame],
    as_of: date,
) -> pl.DataFrame:
    """Rung and reason of each key, and `is_late`: whether pairs that begin late are its like, see `ladder_late`."""
    had = own.group_by(KEY).agg(
        weeks=pl.len().cast(pl.Int64), sold=(pl.col("units") > 0).sum(), last=pl.col("week").max()
    )
    anything = pl.col("demand") == "any"
    sku = book["ladder_sku"].filter(anything).select("sku", "stores", "launching", sku_mean="mean")
    store = book["ladder_store"].filter(anything).select("store", store_launching="launching")
    facts = (
        keys.join(had, on=KEY, how="left")
        .join(targets.group_by(KEY).agg(pl.col("planned").any()), on=KEY)
        .join(sku, on="sku", how="left")
        .join(store, on="store", how="left")
        .with_columns(pl.col("weeks").fill_null(0))
    )
    weeks, idle = pl.col("weeks"), (pl.lit(as_of) - pl.col("last")).dt.total_days() // 7
    count = pl.format("{} week{}", weeks, pl.when(weeks == 1).then(pl.lit("")).otherwise(pl.lit("s")))
    short = pl.format("{} of history, {} are needed", count, OWN_WEEKS)
    some = pl.format("sold in {} of its last {} weeks", "sold", weeks)
    silence = pl.format("last seen {} weeks ago and not in the plan", idle)
    elsewhere = pl.format("no history; taken from {} stores that have the SKU", "stores")
    pairs = book["ladder_late"]["pairs"].sum()
    late = pl.lit(f"no history; taken from {pairs} pairs of SKU and store that began late")
    is_late = (pairs > 0) & ~pl.col("launching") & ~pl.col("store_launching")
    nothing = pl.lit("no history, and neither SKU nor store is known")
    rules: list[tuple[pl.Expr, str, pl.Expr]] = [
        ((weeks > 0) & (idle >= STOPPED_WEEKS) & ~pl.col("planned"), "stopped", silence),
        (weeks >= OWN_WEEKS, "own_history", some),
        ((weeks > 0) & (pl.col("sku_mean") > 0), "short_history", short),
        (weeks > 0, "own_history", short),
        (is_late, "late_start", late),
        (pl.col("sku_mean").is_not_null(), "sku_profile", elsewhere),
        (
            pl.col("store_launching").is_not_null(),
            "store_profile",
            pl.lit("no history, and the SKU is new everywhere"),
        ),
        (pl.lit(True), "everything", nothing),
    ]
    rung: pl.Expr = pl.lit(None, dtype=pl.String)
    reason = rung
    for applies, name, why in reversed(rules):
        rung = pl.when(applies).then(pl.lit(name)).otherwise(rung)
        reason = pl.when(applies).then(why).otherwise(reason)
    return facts.select(*KEY, is_late.fill_null(value=False).alias("is_late"), rung=rung, reason=reason)


def _valid(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """`rows` with quantiles that are finite, not negative, and do not fall from one to the next."""
    rows = rows.with_columns(pl.col(names).fill_nan(None).fill_null(0.0).clip(0.0, 1e300))
    return rows.with_columns(pl.max_horizontal(names[: at + 1]).alias(name) for at, name in enumerate(names))
