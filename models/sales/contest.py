"""Forecasts of weeks without a plan: which candidate forecasts which kind of demand.

Candidates are the pooled model without plan, the SKUs' own models, the last week known, the same week of
last year, and means of few of them. The naive ones have a single value; the quantiles of a candidate lie
around it as those of the models lie around their median. Means are of the values on the log scale, level
by level, with equal weights (see `model.blend`).

Of the candidates, each kind of demand takes the one with the least loss in the backtest; one other than
`DEFAULT` must be better than it by `MARGIN`. So nothing is published that is known to be worse than a naive
forecast: where a naive one is best, it is used.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from models.sales.features import KINDS, from_log, to_log

POOLED, OWN, LAST_WEEK, LAST_YEAR = "pooled_no_plan", "statistical", "naive", "seasonal_naive"
MEMBERS: dict[str, tuple[str, ...]] = {
    "mean_of_models": (POOLED, OWN),
    POOLED: (POOLED,),
    OWN: (OWN,),
    LAST_WEEK: (LAST_WEEK,),
    LAST_YEAR: (LAST_YEAR,),
    "mean_with_naive": (POOLED, OWN, LAST_WEEK),
    "mean_with_seasonal_naive": (POOLED, OWN, LAST_YEAR),
    "pooled_with_seasonal_naive": (POOLED, LAST_YEAR),
    "statistical_with_seasonal_naive": (OWN, LAST_YEAR),
}
"""The candidates, and whose mean each is."""
DEFAULT = "mean_of_models"
NAIVE = (LAST_WEEK, LAST_YEAR)
MARGIN = 0.02


def candidates(pooled: np.ndarray, own: np.ndarray, rows: pl.DataFrame, middle: int) -> dict[str, np.ndarray]:
    """Quantiles of each candidate on the log scale, each of shape (rows, quantiles), rising along a row.

    `pooled` and `own` are those of the models, NaN where a model has no forecast; a mean is then of the other
    members. `rows` have naive, seasonal_naive and level; `middle` is the index of the quantile nearest to
    the median.
    """
    around = _mean([values - values[:, middle : middle + 1] for values in (pooled, own)])
    level = rows["level"].to_numpy()
    of = {POOLED: pooled, OWN: own}
    for name in NAIVE:
        of[name] = to_log(rows[name].to_numpy(), level)[:, None] + around
    return {name: _mean([of[member] for member in members]) for name, members in MEMBERS.items()}


def nothing() -> pl.DataFrame:
    """No choice: kind and rung without rows."""
    return pl.DataFrame(schema={"kind": pl.String, "rung": pl.String})


def always(rung: str) -> pl.DataFrame:
    """The choice of `rung` for every kind of demand."""
    return pl.DataFrame({"kind": list(KINDS), "rung": [rung] * len(KINDS)})


def needs_own_models(choice: pl.DataFrame) -> bool:
    """Whether a candidate of the `choice` is made with the SKUs' own models."""
    return any(name != POOLED for name in choice["rung"])


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over those that are known, element by element; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def chosen(raw: pl.DataFrame, quantiles: Sequence[float]) -> pl.DataFrame:
    """kind and rung: the candidate of each kind of demand, from backtest rows of all of them.

    `raw` are rows of `training.raw_of_origin`. A kind of which there are no rows takes `DEFAULT`. The loss of
    a row is its pinball loss over the key's level to the power `FAIRNESS`, so that neither a few large keys
    nor the many small ones decide alone.
    """
    default = always(DEFAULT)
    if raw.is_empty():
        return default
    raw = raw.filter(pl.col("rung").is_in(list(MEMBERS)))
    scored = losses(raw, quantiles).group_by("kind", "rung").agg(pl.col("loss").mean()).sort("kind", "rung")
    usual = scored.filter(rung=DEFAULT).select("kind", bar=pl.col("loss") * (1 - MARGIN))
    best = scored.join(usual, on="kind").filter(pl.col("loss") < pl.col("bar"))
    best = best.sort("kind", "loss", "rung").unique("kind", keep="first", maintain_order=True)
    return default.update(best.select("kind", "rung"), on="kind")


FAIRNESS = 0.5


def losses(raw: pl.DataFrame, quantiles: Sequence[float]) -> pl.DataFrame:
    """`raw` with `loss`: the mean pinball loss over the quantiles, over the key's level to `FAIRNESS`."""
    level = raw["level"].to_numpy()
    units = raw["units"].to_numpy()
    total = np.zeros(raw.height)
    for i, q in enumerate(quantiles):
        error = units - from_log(raw[f"v{i}"].to_numpy(), level)
        total += np.maximum(q * error, (q - 1) * error)
    return raw.with_columns(pl.Series("loss", total / len(quantiles) / level**FAIRNESS))
