"""The sales of SKUs, stores and all keys together: the profiles on which the answers of the `ladder` are based.

Each week is `promoted` (by a flag, or a price `PROMOTED_DEPTH` below the usual one), `regular`, or `any` if
neither is known. Flags are recognised by their values, whatever their name.

Empirical quantiles are order statistics: of n values, the one with rank nearest to level * (n + 1). The
next value falls below it with about that probability, even if n is small (Weibull 1939; Hyndman & Fan
1996, definition 6, without interpolation, so that counts stay counts).

Values are sorted before they are added: the last digits of a sum depend on the order of its terms.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.sales.options import quantile_column
from models.sales.panel import IMPLAUSIBLE, IMPLAUSIBLE_EARLY, KEY, LEAST_WEEKS, covariate_columns

OWN_WEEKS = 8
PRIOR_WEEKS = 2.0
PROFILE_WEEKS = 26
PROMOTED_DEPTH = 0.05
DEMAND = pl.Enum(["any", "promoted", "regular"])
LAUNCH_WEEKS, LATE_WEEKS = 8, 13
"""A pair of SKU and store begins late if other stores have sold the SKU, and the store other SKUs, for `LAUNCH_WEEKS`
before; its first `LATE_WEEKS` weeks count as its start."""
LATE_PAIRS, LATE_SHARE = 8, 0.5
"""Late pairs count as unlike the others if there are at least this many, and their median week sells less than this share
of the SKU's mean."""
ZERO_SHARE = 0.25
"""A covariate between 0 and 1 is a flag of promotions if it is zero in at least this share of the rows."""

NAMES = ("ladder_sku", "ladder_store", "ladder_all", "ladder_late", "ladder_flags")
"""The frames of `profiles`."""


def late_weeks(history: pl.LazyFrame, sku_weeks: pl.DataFrame) -> pl.DataFrame:
    """The first `LATE_WEEKS` weeks of pairs of SKU and store that began late: sku, store, week and `share`.

    The share is units relative to the mean of the SKU's other stores in that week, from the `sku_weeks` of
    `neighbours.shared_frames`. A new store and a new SKU have no late pairs until `LAUNCH_WEEKS` have passed.
    """
    pairs = history.group_by(KEY).agg(first=pl.col("week").min()).collect(engine="streaming")
    start = pl.max_horizontal(pl.col("first").min().over(name) for name in KEY)
    late = pairs.filter(pl.col("first") >= start + pl.duration(weeks=LAUNCH_WEEKS))
    rows = (
        history.join(late.lazy(), on=KEY, how="inner")
        .filter(pl.col("week") < pl.col("first") + pl.duration(weeks=LATE_WEEKS))
        .select(*KEY, "week", own=pl.col("units").cast(pl.Float64))
        .collect(engine="streaming")
    )
    rows = rows.join(sku_weeks.select("sku", "week", "keys", "units"), on=["sku", "week"])
    rest = (pl.col("units") * pl.col("keys") - pl.col("own")) / (pl.col("keys") - 1)
    rows = rows.select(*KEY, "week", share=pl.when(rest > 0).then(pl.col("own") / rest))
    return rows.filter(pl.col("share").is_finite()).sort(*KEY, "week")


def profiles(
    history: pl.DataFrame | pl.LazyFrame,
    as_of: date,
    quantiles: Sequence[float],
    late: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """Profiles of SKUs, of stores and of everything in the last `PROFILE_WEEKS` weeks; a few rows per SKU.

    `ladder_sku`: sku, demand (any, promoted, regular), rows, stores, usual_price, `prior_weeks`, mean and quantiles of
    units in a store of size 1, `shape_*`: quantiles of units relative to the key's own mean.
    `ladder_store`: store, size, demand, rows, mean and quantiles of units over the store's SKUs. A store's
    size is its sales relative to the sales of its SKUs in an average store. `ladder_all`: demand, rows,
    mean and quantiles. `ladder_flags`: the names of the covariates that mark promotions. All are empty if
    the history is. `launching` marks SKUs and stores in their first `LAUNCH_WEEKS` weeks. `ladder_late`: one row with the
    quantiles of the share of the `late` weeks, those of `late_weeks`, and their number of `pairs`; without a row if
    late pairs are few or sell like others.
    """
    names = [quantile_column(level) for level in quantiles]
    recent = history.lazy().filter(
        pl.col("week") <= as_of, pl.col("week") > as_of - timedelta(weeks=PROFILE_WEEKS)
    )
    flags = _flags(recent)
    recent = rows_of(recent, flags)
    short = pl.col(KEY).cast(pl.Categorical)
    rows = recent.with_columns(short).collect(engine="streaming")
    rows = plausible(rows).with_columns(demand_of(pl.col("price").median().over(KEY)))
    key = rows.group_by(KEY).agg(key_mean=pl.col("units").sort().mean(), key_rows=pl.len())
    key = key.with_columns(expected=pl.col("key_mean").sort().mean().over("sku"))
    size = key.group_by("store").agg(size=pl.col("key_mean").sort().sum() / pl.col("expected").sort().sum())
    size = size.with_columns(pl.when(pl.col("size") > 0).then("size").otherwise(1.0))
    is_launch = pl.col("week").min() > as_of - timedelta(weeks=LAUNCH_WEEKS)
    usual = rows.group_by("sku").agg(
        usual_price=pl.col("price").median(), stores=pl.col("store").n_unique(), launching=is_launch
    )
    size = size.join(rows.group_by("store").agg(launching=is_launch), on="store")
    rows = rows.select(*KEY, "units", "demand")
    by_store = by_demand(rows, ["store"], quantiles).join(size, on="store")
    overall = by_demand(rows, [], quantiles)
    of_size = rows.join(size, on="store").with_columns(pl.col("units") / pl.col("size"))
    by_sku = by_demand(of_size, ["sku"], quantiles).join(usual, on="sku")
    by_sku = by_sku.join(_prior_weeks(of_size), on="sku", how="left")
    steady = rows.join(key.filter(pl.col("key_rows") >= OWN_WEEKS, pl.col("key_mean") > 0), on=KEY)
    relative = steady.with_columns(pl.col("units") / pl.col("key_mean"))
    shape_names = {name: f"shape_{name}" for name in names}
    shapes, shapes_of_all = (
        by_demand(relative, by, quantiles).drop("rows", "mean").rename(shape_names) for by in (["sku"], [])
    )
    by_sku = by_sku.join(shapes, on=["sku", "demand"], how="left")
    overall = overall.join(shapes_of_all, on="demand", how="left")
    return {
        "ladder_sku": by_sku.cast({"sku": pl.String, "demand": pl.String}).sort("sku", "demand"),
        "ladder_store": by_store.cast({"store": pl.String, "demand": pl.String}).sort("store", "demand"),
        "ladder_all": overall.cast({"demand": pl.String}).sort("demand"),
        "ladder_late": _late_share(late, as_of, quantiles).cast({"demand": pl.String}),
        "ladder_flags": pl.DataFrame({"name": flags}, schema={"name": pl.String}),
    }


def _late_share(late: pl.DataFrame | None, as_of: date, quantiles: Sequence[float]) -> pl.DataFrame:
    """The `ladder_late` of `profiles`."""
    empty = pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "week": pl.Date, "share": pl.Float64})
    weeks = (empty if late is None else late).filter(pl.col("week") <= as_of)
    pairs = weeks.select(KEY).n_unique()
    is_unlike = pl.lit(pairs >= LATE_PAIRS) & (pl.col("share").median() < LATE_SHARE)
    rows = weeks.filter(is_unlike).select(demand=pl.lit("any").cast(DEMAND), units="share")
    return by_demand(rows, [], quantiles).with_columns(pairs=pl.lit(pairs, pl.UInt32))


def _prior_weeks(of_size: pl.DataFrame) -> pl.DataFrame:
    """The number of a key's weeks, at most `PRIOR_WEEKS`, with which its own mean has the same weight as its SKU's.

    Bühlmann's k: the ratio of the variance of a key's weeks to that of the keys' means (Bühlmann & Gisler 2005, A Course
    in Credibility Theory, ch. 3). If stores sell very different amounts of a SKU, a few weeks say more than other stores.
    """
    units = pl.col("units")
    keys = of_size.group_by(KEY).agg(mean=units.sort().mean(), variance=units.sort().var(), weeks=pl.len())
    within, between = pl.col("variance").sort().mean(), pl.col("mean").sort().var()
    between -= (pl.col("variance") / pl.col("weeks")).sort().mean()
    prior = keys.group_by("sku").agg(prior_weeks=pl.when(between > 0).then(within / between))
    return prior.with_columns(pl.col("prior_weeks").clip(upper_bound=PRIOR_WEEKS).fill_null(PRIOR_WEEKS))


def _flags(history: pl.LazyFrame) -> list[str]:
    """Covariates that mark promotions, by their values: between 0 and 1, and often zero."""
    names = [name for name in covariate_columns(history.collect_schema()) if name != "price"]
    values = {name: pl.col(name).cast(pl.Float64).fill_nan(None) for name in names}
    marks = history.select(
        (value.is_between(0.0, 1.0).all() & ((value == 0).mean() >= ZERO_SHARE)).alias(name)
        for name, value in values.items()
    ).collect(engine="streaming")
    return [name for name in names if marks[name].item()]


def rows_of(history: pl.DataFrame | pl.LazyFrame, flags: Sequence[str]) -> pl.LazyFrame:
    """Key, week, units, price, and `flagged`, the largest of `flags`; null if the history lacks them."""
    rows = history.lazy()
    schema = rows.collect_schema()
    price = pl.col("price") if "price" in schema else pl.lit(None)
    marks = [pl.col(name).cast(pl.Float64).fill_nan(None) for name in flags if name in schema]
    hints = [
        price.cast(pl.Float64).fill_nan(None).alias("price"),
        (pl.max_horizontal(marks) if marks else pl.lit(None, dtype=pl.Float64)).alias("flagged"),
    ]
    if "units" not in schema:
        return rows.select(*KEY, "week", *hints)
    return rows.select(*KEY, "week", pl.col("units").cast(pl.Float64), *hints).filter(
        pl.col("units").is_finite()
    )


def plausible(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with a single week of a key that can only be a typing error replaced by the next highest week.

    It is `IMPLAUSIBLE` times the next highest (`IMPLAUSIBLE_EARLY` times in `OWN_WEEKS` weeks or fewer); a negative week as
    far from zero counts as zero. See `panel.plausible`.
    """
    times = pl.when(pl.len() <= OWN_WEEKS).then(IMPLAUSIBLE_EARLY).otherwise(IMPLAUSIBLE)
    units = pl.col("units")
    keys = rows.group_by(KEY).agg(
        weeks=pl.len(), second=units.top_k(2).min(), farthest=units.abs().max(), times=times
    )
    limit = pl.col("times") * pl.col("second")
    wrong = keys.filter(pl.col("weeks") >= LEAST_WEEKS, pl.col("second") > 0, pl.col("farthest") > limit)
    if wrong.is_empty():
        return rows
    with_limits = rows.join(
        wrong.select(*KEY, "second", limit=limit), on=KEY, how="left", maintain_order="left"
    )
    repair = pl.when(units > pl.col("limit")).then("second").when(units < -pl.col("limit")).then(0.0)
    return with_limits.with_columns(repair.otherwise(units).alias("units")).drop("second", "limit")


def demand_of(usual_price: pl.Expr) -> pl.Expr:
    """`promoted`, `regular`, or `any` if price and flags are all unknown."""
    cheap = pl.col("price") < (1 - PROMOTED_DEPTH) * usual_price
    is_promoted = (pl.col("flagged") > 0).fill_null(False) | cheap.fill_null(False)
    is_unknown = pl.col("price").is_null() & pl.col("flagged").is_null()
    demand = pl.when(is_promoted).then(pl.lit("promoted")).otherwise(pl.lit("regular"))
    return pl.when(is_unknown).then(pl.lit("any")).otherwise(demand).cast(DEMAND).alias("demand")


def by_demand(rows: pl.DataFrame, by: Sequence[str], quantiles: Sequence[float]) -> pl.DataFrame:
    """Number, mean and order statistics of units, for the weeks of each demand and for `any` week."""
    units, n = pl.col("units"), pl.col("units").list.len().cast(pl.Float64)
    rows = rows.select(*by, "demand", "units")
    every = rows.with_columns(demand=pl.lit("any").cast(DEMAND))
    of_demand = rows.filter(pl.col("demand") != "any")
    sorted_units = pl.concat(part.group_by(*by, "demand").agg(units.sort()) for part in (every, of_demand))
    ranks = [
        units.list.get((level * (n + 1) + 0.5).floor().clip(1, n).cast(pl.Int64) - 1).alias(
            quantile_column(level)
        )
        for level in quantiles
    ]
    about = [units.list.len().cast(pl.Int64).alias("rows"), units.list.mean().alias("mean")]
    return sorted_units.select(*by, "demand", *ranks, *about).sort(*by, "demand")
