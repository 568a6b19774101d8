"""Quantiles of keys with a short history: the spread of their SKU around a level of their own."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from models.sales.ladder_profiles import OWN_WEEKS
from models.sales.ladder_quantiles import looked_up, mixed, sized, uplifts, weeks_of_skus
from models.sales.options import middle_of
from models.sales.panel import KEY
from models.sales.statistical import DEFAULT_VARIANCE


def scaled_to_own(
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
    levels = _levels(own.join(rows.select(KEY).unique(), on=KEY, how="semi"), book)
    shapes = [f"shape_{name}" for name in names]
    of_all = looked_up(rows, book["ladder_all"], [], shapes)
    rows = rows.with_columns(of_all[shape].alias(f"all_{shape}") for shape in shapes)
    rows = looked_up(rows, book["ladder_sku"], ["sku"], [*names, *shapes]).join(levels, on=KEY)
    rows = rows.join(weeks_of_skus(book), on="sku")
    rows = sized(rows, book, [*names, "mean"])

    mean, late = pl.col("mean"), book["ladder_late"]
    usual = {name: pl.col(f"all_shape_{name}") for name in names}
    alone = _of_few_weeks(rows, names, quantiles)
    rows = rows.with_columns(
        pl.coalesce(mean * mixed(pl.col(name) / mean, usual[name]), alone[name]).alias(name) for name in names
    )
    shares = late.row(0, named=True) if late.height else dict.fromkeys(names, 1.0)
    pairs = [f"pair_{name}" for name in names]
    rows = rows.with_columns(
        pl.when("is_late").then(mean * shares[name]).otherwise(name).alias(pair)
        for name, pair in zip(names, pairs, strict=True)
    )

    def blend(name: str) -> pl.Expr:
        own_shape = pl.coalesce(f"shape_{name}", usual[name])
        steady = pl.coalesce(mean * mixed(own_shape, usual[name]), name)
        return pl.col("factor") * (pl.col("trust") * steady + (1 - pl.col("trust")) * pl.col(name))

    return rows.with_columns(
        _or_usual(blend(name), q, pairs, quantiles).alias(name)
        for name, q in zip(names, quantiles, strict=True)
    )


def _levels(own: pl.DataFrame, book: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """sku, store, the SKU's `mean`, `weeks`, the `factor` of the level, and `trust`, the weight of the key's own weeks."""
    own = own.join(uplifts(own, book), on=["sku", "demand"])
    own = sized(looked_up(own, book["ladder_sku"], ["sku"], ["mean"]), book, ["mean"])
    levels = own.group_by(KEY).agg(
        weeks=pl.len(), own=pl.col("units").sort().sum(), expected=pl.col("mean").sort().sum()
    )
    skus = book["ladder_sku"].filter(demand="any").select("sku", "mean", "prior_weeks")
    levels = levels.join(skus, on="sku")
    share = ((pl.col("own") + 1) / (pl.col("expected") + 1)).clip(upper_bound=1.0)
    prior = share * pl.col("prior_weeks") * pl.col("expected") / pl.col("weeks")
    factor = ((pl.col("own") + prior) / (pl.col("expected") + prior)).fill_nan(1.0)
    trust = pl.col("weeks") / (pl.col("weeks") + pl.col("prior_weeks"))
    return levels.select(*KEY, "mean", "weeks", factor=factor, trust=trust)


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
