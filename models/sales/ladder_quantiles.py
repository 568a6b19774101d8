"""Quantiles of the rungs of the `ladder` that rest on profiles: those of an SKU, a store, or pairs that began late.

`book` has the profiles of `ladder_profiles` by name; `rows` have sku, store, week, `demand` and `uplift`; `names` are the
quantile columns.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from models.sales.ladder_profiles import OWN_WEEKS
from models.sales.options import middle_of
from models.sales.panel import KEY, OFFSET

LEVEL_PRIOR, SHAPE_PRIOR = 4.0, 16.0
"""Number of an SKU's weeks that have the same weight as the other SKUs, for its level and for its spread."""


def uplifts(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
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


def looked_up(
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


def of_late_pairs(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """`rows` with the quantiles of the share of late pairs, times the SKU's mean in weeks of their demand."""
    rows = looked_up(rows, book["ladder_sku"], ["sku"], ["mean"])
    rows = rows.join(book["ladder_late"].select(names), how="cross")
    return rows.with_columns(pl.col(name) * pl.col("mean") for name in names)


def sized(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """`rows` with the values `names` times the size of their store; 1 if the store is unknown."""
    size = book["ladder_store"].filter(demand="any").select("store", "size")
    table = rows.join(size, on="store", how="left")
    return table.with_columns(pl.col(name) * pl.col("size").fill_null(1.0) for name in names).drop("size")


def of_sku(
    rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str], quantiles: Sequence[float]
) -> pl.DataFrame:
    """`rows` with the SKU's quantiles `names`, times the size of the store.

    If that is unknown, stores differ from their median by a factor that does not depend on the SKU: the squares of the
    logarithms of both spreads add up.
    """
    rows = looked_up(rows, book["ladder_sku"], ["sku"], names)
    sizes = book["ladder_store"].filter(demand="any").select("store", "size")
    middle = pl.col(names[middle_of(quantiles)])
    is_unknown = ~pl.col("store").is_in(sizes["store"].implode()) & (middle > 0)
    median = sizes.select(pl.col("size").median()).item() or 1.0
    differences = sizes.select((pl.col("size").quantile(q) / median).log().alias(str(q)) for q in quantiles)
    wider = []
    for name, difference in zip(names, differences.row(0), strict=True):
        spread = ((pl.col(name) / middle + OFFSET) / (1 + OFFSET)).log()
        spread = spread.sign() * (spread**2 + (difference or 0.0) ** 2).sqrt()
        value = middle * median * ((1 + OFFSET) * spread.exp() - OFFSET)
        wider.append(pl.when(is_unknown).then(value).otherwise(name).alias(name))
    return sized(rows.with_columns(wider), book, names)


def with_others(rows: pl.DataFrame, book: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """`rows` with an SKU's quantiles `names` mixed with those of all SKUs of its store; of all stores if it is unknown.

    An SKU that few stores have sold, or that has just begun, may turn out to be any SKU. The weeks of the SKU in all
    stores count as `LEVEL_PRIOR` weeks of the others for the level, the mean over the quantiles, and as `SHAPE_PRIOR`
    weeks for the quantiles relative to it. Both are means of logarithms.
    """
    others = [f"others_{name}" for name in names]
    keys = rows.select(*KEY, "week", "demand", "uplift")
    of_store = looked_up(keys, book["ladder_store"], ["store"], names)
    of_all = looked_up(keys, book["ladder_all"], [], names)
    values = [pl.coalesce(of_store[n], of_all[n], 0.0).alias(o) for n, o in zip(names, others, strict=True)]
    rows = rows.join(weeks_of_skus(book), on="sku", how="left", maintain_order="left").with_columns(values)
    n, other_level = pl.col("sku_weeks"), pl.mean_horizontal(others)
    level = pl.max_horizontal(pl.mean_horizontal(names), OFFSET * other_level / (n + 1))
    mean_level = ((n * level.log() + LEVEL_PRIOR * other_level.log()) / (n + LEVEL_PRIOR)).exp()
    mixtures = [
        mean_level * mixed(pl.col(name) / level, pl.col(other) / other_level)
        for name, other in zip(names, others, strict=True)
    ]
    return rows.with_columns(
        pl.when(other_level > 0).then(value).otherwise(name).alias(name)
        for name, value in zip(names, mixtures, strict=True)
    )


def weeks_of_skus(book: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """sku and `sku_weeks`, its weeks in all stores."""
    return book["ladder_sku"].filter(demand="any").select("sku", sku_weeks="rows")


def mixed(own: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Mean on the log scale of two quantiles relative to their levels, as many weeks as the SKU has to `SHAPE_PRIOR`."""
    n = pl.col("sku_weeks")

    def mean(own: pl.Expr, other: pl.Expr) -> pl.Expr:
        logs = n * (own + OFFSET).log() + SHAPE_PRIOR * (other + OFFSET).log()
        return (logs / (n + SHAPE_PRIOR)).exp()

    return mean(own, other) - mean(pl.lit(0.0), pl.lit(0.0))
