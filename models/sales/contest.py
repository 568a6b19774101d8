"""Which candidate forecasts which kind of demand, with and without a plan, and which keys use their SKU's own model.

Without a plan, candidates are the pooled model without a plan, the SKUs' own models, the last week known, the same week of
last year, and means of some of them, also with last year's weeks at this year's level (`last_year.last_year`), which
count once or twice as much as the models. Naive forecasts have a single value; the quantiles of such a candidate lie
around it as those of the models lie around their median. A mean is taken on the log scale, quantile by quantile, over
all members that a candidate lists; the narrower a forecast's own band, the more it counts (see `mean_of`).

Without a plan, `MEMBERS` are the alternatives to `DEFAULT`; in planned weeks, `PLANNED` are the alternatives to the models
with the plan: naive forecasts and last year's weeks, alone or with the models. A kind of demand takes one if it is better
at the backtest's origins by more than the noise between them; see `better_than`. So no forecast is published that is
known to be worse than a naive one: if a naive forecast is best, it is used.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from models.sales.demand import KINDS, from_log, to_log
from models.sales.options import quantile_column
from models.sales.panel import KEY

POOLED, NO_PLAN, STATISTICAL, BLEND = "pooled", "pooled_no_plan", "statistical", "blend"
LAST_WEEK, LAST_YEAR = "naive", "seasonal_naive"
SEASON = "last_year"
"""Last year's weeks of the key and its SKU, at this year's level; see `last_year.last_year`."""
TWICE_BOTH = (SEASON,) * 4
"""Last year's weeks, repeated so that they count twice as much as two models together."""
MEMBERS: dict[str, tuple[str, ...]] = {
    "mean_of_models": (NO_PLAN, STATISTICAL),
    NO_PLAN: (NO_PLAN,),
    STATISTICAL: (STATISTICAL,),
    LAST_WEEK: (LAST_WEEK,),
    LAST_YEAR: (LAST_YEAR,),
    "mean_with_naive": (NO_PLAN, STATISTICAL, LAST_WEEK),
    "mean_with_seasonal_naive": (NO_PLAN, STATISTICAL, LAST_YEAR),
    "pooled_with_seasonal_naive": (NO_PLAN, LAST_YEAR),
    "statistical_with_seasonal_naive": (STATISTICAL, LAST_YEAR),
    "mean_with_last_year": (NO_PLAN, STATISTICAL, SEASON),
    "last_year_with_mean": (NO_PLAN, STATISTICAL, *TWICE_BOTH),
    "pooled_with_last_year": (NO_PLAN, SEASON),
}
"""Each candidate -> the members of which it is the mean."""
PLANNED: dict[str, tuple[str, ...]] = {
    LAST_WEEK: (LAST_WEEK,),
    LAST_YEAR: (LAST_YEAR,),
    "blend_with_naive": (POOLED, STATISTICAL, LAST_WEEK),
    "blend_with_seasonal_naive": (POOLED, STATISTICAL, LAST_YEAR),
    SEASON: (SEASON,),
    "blend_with_last_year": (POOLED, STATISTICAL, SEASON),
    "last_year_with_blend": (POOLED, STATISTICAL, *TWICE_BOTH),
    "planned_with_last_year": (POOLED, SEASON),
}
"""Each alternative in weeks with a plan -> the members of which it is the mean; repeated members count repeatedly."""
DEFAULT = "mean_of_models"
NAIVE = (LAST_WEEK, LAST_YEAR)
MARGIN = 0.02
LEAST_WIDTH = 0.01
"""Least width of a band on the log scale: a narrower one counts as this wide."""
ONE_ORIGIN = 0.15
"""Standard error of the share of a loss that a candidate saves at a single origin."""


def candidates(
    pooled: np.ndarray, own: np.ndarray, rows: pl.DataFrame, middle: int, *, has_plan: bool = False
) -> dict[str, np.ndarray]:
    """Quantiles of each candidate on the log scale, each of shape (rows, quantiles), rising along a row.

    `pooled` and `own` are the quantiles of the models, NaN if a model has no forecast; a mean is then over the other
    members. `rows` have naive, seasonal_naive and level; `middle` is the index of the quantile nearest to
    the median. With `has_plan`, `pooled` knows the plan, and the candidates are those of `PLANNED`; those with `SEASON`
    are NaN if last year is not known, so that the models forecast the row.
    """
    around = mean_of([values - values[:, middle : middle + 1] for values in (pooled, own)])
    level = rows["level"].to_numpy()
    of = {POOLED if has_plan else NO_PLAN: pooled, STATISTICAL: own}
    for name in (*NAIVE, SEASON):
        of[name] = to_log(rows[name].to_numpy(), level)[:, None] + around
    by_name = {
        name: mean_of([of[member] for member in members])
        for name, members in (PLANNED if has_plan else MEMBERS).items()
    }
    no_last_year = np.isnan(rows[SEASON].to_numpy())
    for name in (name for name, members in PLANNED.items() if has_plan and SEASON in members):
        by_name[name][no_last_year] = np.nan
    return by_name


def nothing() -> pl.DataFrame:
    """No choice: kind and rung without rows."""
    return pl.DataFrame(schema={"kind": pl.String, "rung": pl.String})


def always(rung: str) -> pl.DataFrame:
    """The choice of `rung` for every kind of demand."""
    return pl.DataFrame({"kind": list(KINDS), "rung": [rung] * len(KINDS)})


def needs_own_models(choice: pl.DataFrame) -> bool:
    """Whether a candidate of the `choice` uses the SKUs' own models."""
    return any(name != NO_PLAN for name in choice["rung"])


def naive_of(rung: str) -> str:
    """The member of a candidate of `PLANNED` that is not a model.

    >>> naive_of("blend_with_seasonal_naive"), naive_of("naive"), naive_of("last_year_with_blend")
    ('seasonal_naive', 'naive', 'last_year')
    """
    return next(member for member in PLANNED[rung] if member in (*NAIVE, SEASON))


def mean_of(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the known forecasts' quantiles on the log scale, each (rows, quantiles); NaN if none is known.

    Quantile averaging (Lichtendahl, Grushka-Cockayne & Winkler 2013, Management Science 59), with the weights of
    `trust_in`.
    """
    finite = np.isfinite(values)
    trust = np.where(finite, np.nan_to_num([trust_in(each) for each in values]), 0.0)
    count = trust.sum(axis=0)
    total = (trust * np.where(finite, values, 0.0)).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def trust_in(values: np.ndarray) -> np.ndarray:
    """The weight of each row of a forecast in a mean, shape (rows, 1): the inverse of the width of its own band.

    Bates & Granger 1969, Operational Research Quarterly 20, use the inverse of the variance.
    """
    return 1 / np.maximum(values[:, -1:] - values[:, :1], LEAST_WIDTH)


def better_than(
    raw: pl.DataFrame, usual: str, members: Mapping[str, tuple[str, ...]], quantiles: Sequence[float]
) -> pl.DataFrame:
    """kind and rung: the candidate of `members` that replaces `usual`, for kinds for which one does.

    `raw` are rows of `raw_forecasts.of_origin`. A candidate's saving at an origin is the share by which its loss is below
    that of `usual` (see `losses`), on the rows of both. The mean saving minus one standard error over the origins
    (`ONE_ORIGIN` with a single origin) must exceed `MARGIN`. The candidate that saves most is taken. All origins count
    equally, although the models of the first have learnt from less, so that savings there are larger than they will be.
    """
    if raw.is_empty():
        return nothing()
    on = ["sku", "store", "origin", "week"]
    theirs = losses(raw.filter(rung=usual), quantiles).select(*on, usual="loss")
    by_rung = []
    for rung in (name for name in members if name != usual):
        rows = raw.filter(rung=rung)
        rows = rows.filter(pl.col(SEASON).is_finite()) if SEASON in members[rung] else rows
        both = losses(rows, quantiles).select(*on, "kind", "rung", "loss").join(theirs, on=on)
        by_rung.append(both.group_by("kind", "rung", "origin").agg(pl.col("loss", "usual").mean()))
    origins = pl.concat(by_rung).filter(pl.col("usual") > 0)
    savings = 1 - pl.col("loss") / pl.col("usual")
    error = savings.std().fill_null(ONE_ORIGIN) / pl.len().sqrt()
    gains = origins.group_by("kind", "rung").agg(savings.mean().alias("saved"), error.alias("error"))
    gains = gains.filter(pl.col("saved") - pl.col("error") > MARGIN).sort("kind", -pl.col("saved"), "rung")
    return gains.unique("kind", keep="first", maintain_order=True).select("kind", "rung")


FAIRNESS = 0.5


def losses(raw: pl.DataFrame, quantiles: Sequence[float]) -> pl.DataFrame:
    """`raw` with `loss`: the mean pinball loss over the quantiles, divided by the key's level to the power of `FAIRNESS`."""
    level = raw["level"].to_numpy()
    units = raw["units"].to_numpy()
    total = np.zeros(raw.height)
    for i, q in enumerate(quantiles):
        error = units - from_log(raw[f"v{i}"].to_numpy(), level)
        total += np.maximum(q * error, (q - 1) * error)
    return raw.with_columns(pl.Series("loss", total / len(quantiles) / level**FAIRNESS))


def better_keys(
    pooled: pl.DataFrame, own: pl.DataFrame, quantiles: Sequence[float], margin: float = 0.02
) -> pl.DataFrame:
    """The keys whose own SKU's model was better by more than chance: sku, store, gain, error.

    `pooled` and `own` are backtest rows: sku, store, origin, week, units and the quantiles; rows that only
    one of them has do not count. The gain of a key at an origin is the pinball loss of `pooled` minus that of
    `own`, relative to the larger of the two, so that it lies in -1..1 and one disaster does not outweigh
    the other keys. A key's mean gain is shrunk towards the mean of all keys in proportion to its noise
    (empirical Bayes; Efron & Morris 1975, JASA 70). The noise is estimated from the spread of gains
    between the origins of a key, pooled over keys; the noise of the overall mean from its spread between origins.
    The variance between keys is that of their gains beyond the noise and the sampling error of that variance.
    A key is chosen if its shrunk gain exceeds both `margin` and its standard error (the one-standard-
    error rule of Breiman et al. 1984). A key with fewer than two origins is never chosen.
    """
    on = ["sku", "store", "origin", "week"]
    names = [quantile_column(q) for q in quantiles]
    both = pooled.select(*on, "units", *names).join(own.select(*on, *names), on=on, suffix="_own").sort(on)

    def loss(suffix: str) -> pl.Expr:
        errors = [
            (q, pl.col("units") - pl.col(name + suffix)) for q, name in zip(quantiles, names, strict=True)
        ]
        return pl.sum_horizontal(pl.max_horizontal(q * error, (q - 1) * error) for q, error in errors)

    each = both.group_by("sku", "store", "origin", maintain_order=True)
    folds = each.agg(theirs=loss("").mean(), ours=loss("_own").mean())
    larger = pl.max_horizontal("theirs", "ours").clip(1e-300)
    folds = folds.with_columns(gain=(pl.col("theirs") - pl.col("ours")) / larger)
    origins = folds.group_by("origin", maintain_order=True).agg(pl.col("gain").mean())["gain"]
    of_mean = (origins.var() or 0.0) / max(len(origins), 1)
    n = pl.col("n")
    keys = folds.group_by(KEY, maintain_order=True).agg(
        pl.col("gain").mean(), n=pl.len().cast(pl.Float64), between=pl.col("gain").var()
    )
    keys = keys.filter(n >= 2).with_columns(
        noise=(pl.col("between") * (n - 1)).sum() / (n - 1).sum() / n, mean=pl.col("gain").mean()
    )
    certain = 1 - (2 / pl.max_horizontal(pl.len() - 1, 2)).sqrt()
    signal = (pl.col("gain").var() * certain - pl.col("noise").mean()).fill_null(0.0).clip(0.0)
    trust = signal / (signal + pl.col("noise")).clip(1e-12)
    keys = keys.select(
        *KEY,
        gain=trust * pl.col("gain") + (1 - trust) * pl.col("mean"),
        error=(trust * pl.col("noise") + (1 - trust) ** 2 * of_mean).sqrt(),
    )
    return keys.filter(pl.col("gain") > margin, pl.col("gain") > pl.col("error")).sort(KEY)
