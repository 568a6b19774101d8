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

import numpy as np
import polars as pl

from models.sales.ladder_profiles import DEMAND, OWN_WEEKS, by_demand, demand_of, plausible, rows_of
from models.sales.options import middle_of, quantile_column
from models.sales.panel import KEY, OFFSET
from models.sales.statistical import DEFAULT_VARIANCE

RECENT_WEEKS = 52
STOPPED_WEEKS = 26
LEVEL_PRIOR, SHAPE_PRIOR = 4.0, 16.0
"""Number of an SKU's weeks that have the same weight as the other SKUs, for its level and for its spread."""

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
    rows = rows.join(_uplifts(rows, book), on=["sku", "demand"])

    def of(*rungs: str) -> pl.DataFrame:
        return rows.filter(pl.col("rung").is_in(rungs))

    answers = [
        of("stopped").with_columns(pl.lit(0.0).alias(name) for name in names),
        _looked_up(of("own_history"), by_demand(own, KEY, quantiles), KEY, names),
        _scaled_to_own(of("short_history"), own, book, names, quantiles),
        _sized(_of_late_pairs(of("late_start"), book, names), book, names),
        _with_others(_of_sku(of("sku_profile"), book, names, quantiles), book, names),
        _looked_up(of("store_profile"), book["ladder_store"], ["store"], names),
        _looked_up(of("everything"), book["ladder_all"], [], names),
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


def _uplifts(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Sales in weeks of a demand relative to all weeks: of the SKU, else of everything, else 1."""
    enough = pl.col("rows") >= OWN_WEEKS

    def relative(table: pl.DataFrame, by: Sequence[str], name: str) -> pl.DataFrame:
        overall = pl.col("mean").filter(demand="any").first()
        overall = overall.over(by) if by else overall
        ratio = pl.when(enough & (overall > 0)).then(pl.col("mean") / overall)
        return table.select(*by, "demand", ratio.alias(name))

    pairs = rows.select("sku", "demand").unique()
    pairs = pairs.join(relative(book["ladder_sku"], ["sku"], "of_sku"), on=["sku", "demand"], how="left")
    pairs = pairs.join(relative(book["ladder_all"], [], "of_all"), on="demand", how="left")
    return pairs.select("sku", "demand", uplift=pl.coalesce("of_sku", "of_all", 1.0))


def _looked_up(
    rows: pl.DataFrame, table: pl.DataFrame, by: Sequence[str], names: Sequence[str]
) -> pl.DataFrame:
    """`rows`, in order, with the values `names` of `table` for their demand, or those of all weeks times the uplift."""
    same = table.filter(pl.col("rows") >= OWN_WEEKS).select(*by, "demand", *names)
    rows = rows.join(same, on=[*by, "demand"], how="left", maintain_order="left")
    overall = table.filter(demand="any").select(*by, *(pl.col(name).alias(f"any_{name}") for name in names))
    if not by and overall.is_empty():
        overall = overall.clear(1)
    rows = (
        rows.join(overall, on=by, how="left", maintain_order="left")
        if by
        else rows.join(overall, how="cross")
    )

    def lifted(value: pl.Expr) -> pl.Expr:
        times = value * pl.col("uplift")
        return pl.when(value == value.round()).then(times.round()).otherwise(times)

    values = [pl.coalesce(name, lifted(pl.col(f"any_{name}"))).alias(name) for name in names]
    return rows.with_columns(values).drop(f"any_{name}" for name in names)


def _of_late_pairs(
    rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]
) -> pl.DataFrame:
    """`rows` with the quantiles of the share of late pairs, times the SKU's mean in weeks of their demand."""
    rows = _looked_up(rows, book["ladder_sku"], ["sku"], ["mean"])
    rows = rows.join(book["ladder_late"].select(names), how="cross")
    return rows.with_columns(pl.col(name) * pl.col("mean") for name in names)


def _sized(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """`rows` with the values `names` times the size of their store; 1 if the store is unknown."""
    size = book["ladder_store"].filter(demand="any").select("store", "size")
    table = rows.join(size, on="store", how="left")
    return table.with_columns(pl.col(name) * pl.col("size").fill_null(1.0) for name in names).drop("size")


def _of_sku(
    rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str], quantiles: Sequence[float]
) -> pl.DataFrame:
    """`rows` with the SKU's quantiles `names`, times the size of the store.

    If that is unknown, stores differ from their median by a factor that does not depend on the SKU: the squares of the
    logarithms of both spreads add up.
    """
    rows = _looked_up(rows, book["ladder_sku"], ["sku"], names)
    sizes = book["ladder_store"].filter(demand="any").select("store", "size")
    middle = pl.col(names[min(range(len(names)), key=lambda at: abs(quantiles[at] - 0.5))])
    is_unknown = ~pl.col("store").is_in(sizes["store"].implode()) & (middle > 0)
    median = sizes.select(pl.col("size").median()).item() or 1.0
    differences = sizes.select((pl.col("size").quantile(q) / median).log().alias(str(q)) for q in quantiles)
    wider = []
    for name, difference in zip(names, differences.row(0), strict=True):
        spread = ((pl.col(name) / middle + OFFSET) / (1 + OFFSET)).log()
        spread = spread.sign() * (spread**2 + (difference or 0.0) ** 2).sqrt()
        value = middle * median * ((1 + OFFSET) * spread.exp() - OFFSET)
        wider.append(pl.when(is_unknown).then(value).otherwise(name).alias(name))
    return _sized(rows.with_columns(wider), book, names)


def _with_others(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """`rows` with an SKU's quantiles `names` mixed with those of all SKUs of its store; of all stores if it is unknown.

    An SKU that few stores have sold, or that has just begun, may turn out to be any SKU. The weeks of the SKU in all
    stores count as `LEVEL_PRIOR` weeks of the others for the level, the mean over the quantiles, and as `SHAPE_PRIOR`
    weeks for the quantiles relative to it. Both are means of logarithms.
    """
    others = [f"others_{name}" for name in names]
    keys = rows.select(*KEY, "week", "demand", "uplift")
    of_store = _looked_up(keys, book["ladder_store"], ["store"], names)
    of_all = _looked_up(keys, book["ladder_all"], [], names)
    values = [pl.coalesce(of_store[n], of_all[n], 0.0).alias(o) for n, o in zip(names, others, strict=True)]
    rows = rows.join(_weeks_of_skus(book), on="sku", how="left", maintain_order="left").with_columns(values)
    n, other_level = pl.col("sku_weeks"), pl.mean_horizontal(others)
    level = pl.max_horizontal(pl.mean_horizontal(names), OFFSET * other_level / (n + 1))
    mean_level = ((n * level.log() + LEVEL_PRIOR * other_level.log()) / (n + LEVEL_PRIOR)).exp()
    mixtures = [
        mean_level * _mixed(pl.col(name) / level, pl.col(other) / other_level)
        for name, other in zip(names, others, strict=True)
    ]
    return rows.with_columns(
        pl.when(other_level > 0).then(value).otherwise(name).alias(name)
        for name, value in zip(names, mixtures, strict=True)
    )


def _weeks_of_skus(book: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """sku and `sku_weeks`, its weeks in all stores."""
    return book["ladder_sku"].filter(demand="any").select("sku", sku_weeks="rows")


def _mixed(own: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Mean on the log scale of two quantiles relative to their levels, as many weeks as the SKU has to `SHAPE_PRIOR`."""
    n = pl.col("sku_weeks")

    def mean(own: pl.Expr, other: pl.Expr) -> pl.Expr:
        logs = n * (own + OFFSET).log() + SHAPE_PRIOR * (other + OFFSET).log()
        return (logs / (n + SHAPE_PRIOR)).exp()

    return mean(own, other) - mean(pl.lit(0.0), pl.lit(0.0))


def _scaled_to_own(
    rows: pl.DataFrame,
    own: pl.DataFrame,
    book: Mapping[str, pl.DataFrame],
    names: Sequence[str],
    quantiles: Sequence[float],
) -> pl.DataFrame:
    """The SKU's quantiles around a key's own level.

    For a key with n weeks that sold `own` when its SKU and store led to expect `expected`, the level is
    the expected one times `(own + p) / (expected + p)`, where `p` are the expected sales of the SKU's prior weeks, times
    the key's share of the expected sales if that is less than 1: around a low level, weeks vary less. Its quantiles are
    the mean of two, weighted n to the prior weeks: the level times the spread of a single key around its mean, and the
    SKU's profile, which also has the spread between keys. The first weeks of a pair may be its launch: with the chance
    1 / (n + 2), that of something that has not occurred in n weeks (Laplace's rule of succession), it will sell like any
    pair of the SKU, or like any pair that began late. The outer quantiles are those of a mixture with these, at least.
    """
    own_weeks = own.join(rows.select(KEY).unique(), on=KEY, how="semi")
    own_weeks = own_weeks.join(_uplifts(own_weeks, book), on=["sku", "demand"])
    own_weeks = _sized(_looked_up(own_weeks, book["ladder_sku"], ["sku"], ["mean"]), book, ["mean"])
    level = own_weeks.group_by(KEY).agg(
        weeks=pl.len(), own=pl.col("units").sort().sum(), expected=pl.col("mean").sort().sum()
    )
    level = level.join(book["ladder_sku"].filter(demand="any").select("sku", "mean", "prior_weeks"), on="sku")
    share = ((pl.col("own") + 1) / (pl.col("expected") + 1)).clip(upper_bound=1.0)
    prior = share * pl.col("prior_weeks") * pl.col("expected") / pl.col("weeks")
    factor = ((pl.col("own") + prior) / (pl.col("expected") + prior)).fill_nan(1.0)
    trust = pl.col("weeks") / (pl.col("weeks") + pl.col("prior_weeks"))
    level = level.select(*KEY, "mean", "weeks", factor=factor, trust=trust)

    shapes = [f"shape_{name}" for name in names]
    of_all = _looked_up(rows, book["ladder_all"], [], shapes)
    rows = rows.with_columns(of_all[shape].alias(f"all_{shape}") for shape in shapes)
    rows = _looked_up(rows, book["ladder_sku"], ["sku"], [*names, *shapes]).join(level, on=KEY)
    rows = rows.join(_weeks_of_skus(book), on="sku")
    rows = _sized(rows, book, [*names, "mean"])

    mean, late = pl.col("mean"), book["ladder_late"]
    usual = {name: pl.col(f"all_shape_{name}") for name in names}
    alone = _of_few_weeks(rows, names, quantiles)
    rows = rows.with_columns(
        pl.coalesce(mean * _mixed(pl.col(name) / mean, usual[name]), alone[name]).alias(name)
        for name in names
    )
    shares = late.row(0, named=True) if late.height else dict.fromkeys(names, 1.0)
    pairs = [f"pair_{name}" for name in names]
    rows = rows.with_columns(
        pl.when("is_late").then(mean * shares[name]).otherwise(name).alias(pair)
        for name, pair in zip(names, pairs, strict=True)
    )

    def blend(name: str) -> pl.Expr:
        own_shape = pl.coalesce(f"shape_{name}", usual[name])
        steady = pl.coalesce(mean * _mixed(own_shape, usual[name]), name)
        return pl.col("factor") * (pl.col("trust") * steady + (1 - pl.col("trust")) * pl.col(name))

    return rows.with_columns(
        _or_usual(blend(name), q, pairs, quantiles).alias(name)
        for name, q in zip(names, quantiles, strict=True)
    )


def _of_few_weeks(rows: pl.DataFrame, names: Sequence[str], quantiles: Sequence[float]) -> pl.DataFrame:
    """The columns `names`, order statistics of `sku_weeks` values, at the quantiles of a t distribution if these are few.

    The lowest of n values is the quantile 1 / (n + 1) and not yet 0.05, and their spread is itself uncertain: the t
    distribution has n - 1 degrees of freedom. A single value has the spread of `DEFAULT_VARIANCE`.
    """
    n = rows["sku_weeks"].to_numpy().astype(float)
    is_few = n + 1 < 1 / min(quantiles[0], 1 - quantiles[-1])
    if not is_few.any():
        return rows.select(names)
    from scipy.stats import norm, t

    low, middle, high = (rows[names[at]].to_numpy() for at in (0, middle_of(quantiles), -1))
    first, last = (
        norm.ppf(np.clip(np.floor(q * (n + 1) + 0.5), 1, n) / (n + 1)) for q in (quantiles[0], quantiles[-1])
    )
    scale = np.divide(high - low, last - first, out=np.zeros(len(n)), where=last > first)
    columns = []
    for name, q in zip(names, quantiles, strict=True):
        single = middle * np.exp(norm.ppf(q) * DEFAULT_VARIANCE**0.5)
        few = np.where(n > 1, middle + t.ppf(q, np.maximum(n - 1, 1)) * scale, single)
        columns.append(pl.Series(name, np.where(is_few, few, rows[name].to_numpy())))
    return pl.DataFrame(columns)


def _or_usual(own: pl.Expr, q: float, names: Sequence[str], quantiles: Sequence[float]) -> pl.Expr:
    """The quantile `q` of a key with `weeks`, `own`, as far from the median as that of the usual pair at least requires.

    If a pair is usual with a chance c, its sales are above x with at least c times the probability that those of a usual
    pair are. `names` are the columns of the usual quantiles.
    """
    is_upper, tail = q > 0.5, min(q, 1 - q)
    value = own
    for weeks in range(1, OWN_WEEKS):
        usual_tail = tail * (weeks + 2)
        if usual_tail < 0.5:
            usual = _at(1 - usual_tail if is_upper else usual_tail, names, quantiles)
            farther = pl.max_horizontal(own, usual) if is_upper else pl.min_horizontal(own, usual)
            value = pl.when(pl.col("weeks") == weeks).then(farther).otherwise(value)
    return value


def _at(level: float, names: Sequence[str], quantiles: Sequence[float]) -> pl.Expr:
    """The quantile at `level`, on the line between its neighbours in `names`."""
    weights = [np.interp(level, quantiles, unit) for unit in np.eye(len(names))]
    return pl.sum_horizontal(
        weight * pl.col(name) for weight, name in zip(weights, names, strict=True) if weight
    )


def _valid(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """`rows` with quantiles that are finite, not negative, and do not fall from one to the next."""
    rows = rows.with_columns(pl.col(names).fill_nan(None).fill_null(0.0).clip(0.0, 1e300))
    return rows.with_columns(pl.max_horizontal(names[: at + 1]).alias(name) for at, name in enumerate(names))
