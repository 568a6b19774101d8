"""p-values of scores against a sensor's own held-out readings, also where they are far fewer than 1 / p.

A conformal p-value is the share of calibration scores that are at least as high, so it never falls
below 1 / (n + 1): with a day of minutes, half of it held out, not below 0.0014. Above the
calibration scores' upper tenth, their tail is therefore continued by a generalised Pareto
distribution (peaks over threshold). Three things keep the rate of alarms at what p promises:

- the tail's shape is estimated for the fleet and shrunk towards it (empirical Bayes): one sensor's
  own estimate is too noisy to extrapolate by;
- the tail is the predictive one: for an exponential tail the chance to exceed what k excesses of mean
  m suggest is exactly (1 + x / (k m))^-k, that is a shape greater by 1 / k;
- k counts clusters of excesses, not excesses: neighbours in time say the same thing. A cluster
  counts 0.8, which makes the rate come out right on autocorrelated noise (`CLUSTER_WORTH`).

Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World. Davison & Smith (1990),
JRSS B 52(3). Hosking & Wallis (1987), Technometrics 29(3), for the estimates by probability-weighted
moments.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.grid import Floats

TAIL_SHARE = 0.1
FEWEST_EXCESSES = 10
BODY = 33
"""Points at which the scores below the tail are kept: from the lowest to the tail's threshold."""
P_FLOOR = 1e-9
CLUSTER_WORTH = 0.8
_CLUSTER_GAP = 30


def tails_of(scores: Floats, held_out: NDArray[np.bool_]) -> pl.DataFrame:
    """The calibration scores of each row, summed up: one row each, in the same order.

    `n` scores, of which `k` lie above `threshold`, in `clusters` clusters; `excess` and `moment` are the
    first two probability-weighted moments of the excesses; `body` are scores at equal steps of rank
    from the lowest to the threshold. Rows with fewer than 2 * FEWEST_EXCESSES scores have n only.
    """
    cells = np.where(held_out & np.isfinite(scores), scores, np.nan)
    n = (~np.isnan(cells)).sum(axis=1)
    k = np.minimum(np.maximum(np.ceil(TAIL_SHARE * n).astype(np.int64), FEWEST_EXCESSES), n // 2)
    usable = n >= 2 * FEWEST_EXCESSES
    ordered = np.sort(cells, axis=1)
    position = np.clip(n - k - 1, 0, None)
    rows = np.arange(len(cells))
    threshold = ordered[rows, position]
    column = np.arange(ordered.shape[1])[None, :]
    above = (column > position[:, None]) & (column < n[:, None])
    excess = np.where(above, ordered - threshold[:, None], 0.0)
    weight = np.where(above, (n[:, None] - column - 0.65) / np.maximum(k, 1)[:, None], 0.0)
    steps = np.linspace(0, 1, BODY)
    places = np.rint(steps[None, :] * position[:, None]).astype(np.int64)
    body = np.where(usable[:, None], np.take_along_axis(ordered, places, axis=1), np.nan)
    over = np.nan_to_num(cells, nan=-np.inf) > threshold[:, None]
    frame = pl.DataFrame(
        {
            "n": n,
            "k": k,
            "clusters": _clusters(over),
            "threshold": threshold,
            "excess": excess.sum(axis=1) / np.maximum(k, 1),
            "moment": (weight * excess).sum(axis=1) / np.maximum(k, 1),
            "body": pl.Series(body, dtype=pl.Array(pl.Float64, BODY)),
        }
    )
    kept = pl.Series("usable", usable)
    return frame.with_columns(pl.when(kept).then(pl.col(c)).alias(c) for c in frame.columns[1:-1])


def _clusters(over: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of groups of `over` cells that are more than `_CLUSTER_GAP` columns apart."""
    column = np.arange(over.shape[1])[None, :]
    latest = np.maximum.accumulate(np.where(over, column, -(10**6)), axis=1)
    before = np.concatenate([np.full((len(over), 1), -(10**6)), latest[:, :-1]], axis=1)
    return (over & (column - before > _CLUSTER_GAP)).sum(axis=1)


def fit_shapes(tails: pl.DataFrame) -> pl.DataFrame:
    """`tails` of sensors of one kind with `shape` and `scale` of their tails, shrunk towards the fleet's.

    The weight of a sensor's own shape is the share of the variance between sensors in the variance
    of the estimates; with fewer than 5 sensors it is that of a fleet without differences.
    """
    own = 2 - pl.col("excess") / (pl.col("excess") - 2 * pl.col("moment"))
    own = own.clip(-0.5, 0.9).fill_nan(None)
    known = tails.with_columns(own.alias("own"), (1 / pl.col("clusters").clip(3)).alias("noise"))
    usable = known.filter(pl.col("own").is_not_null())
    fleet, between = 0.0, 0.0
    if usable.height >= 5:
        fleet = float(np.average(usable["own"], weights=1 / usable["noise"]))
        middle = float(usable["own"].var() or 0.0) - float(usable["noise"].mean() or 0.0)  # type: ignore[arg-type]
        between = max(0.0, middle)
    share = between / (between + pl.col("noise"))
    shape = (share * pl.col("own").fill_null(fleet) + (1 - share) * fleet).clip(-0.4, 0.8)
    return known.with_columns(shape.alias("shape")).select(
        *tails.columns,
        pl.when(pl.col("k").is_not_null()).then("shape").alias("shape"),
        (pl.col("excess") * (1 - pl.col("shape"))).clip(1e-9).alias("scale"),
    )


@dataclass(frozen=True)
class Tails:
    """The columns of `fit_shapes` as arrays, one row per sensor; NaN where a sensor has no calibration."""

    n: Floats
    k: Floats
    threshold: Floats
    shape: Floats
    scale: Floats
    body: Floats

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Tails":
        count = CLUSTER_WORTH * pl.col("clusters").cast(pl.Float64).clip(3)
        wanted = frame.select(
            pl.col("n", "k", "threshold").cast(pl.Float64),
            (pl.col("shape") + 1 / count).alias("shape"),
            "scale",
        )
        columns = {name: wanted[name].fill_null(np.nan).to_numpy() for name in wanted.columns}
        return cls(**columns, body=frame["body"].to_numpy().reshape(-1, BODY))

    def p_values(self, scores: Floats) -> Floats:
        """Chance of a score at least as high, for scores of shape (sensors, T); NaN where there is none."""
        x = scores - self.threshold[:, None]
        base = (self.k / (self.n + 1))[:, None]
        tail = base * _survival(np.maximum(x, 0.0), self.scale[:, None], self.shape[:, None])
        rank = np.zeros(scores.shape)
        for step in range(BODY):
            rank += scores > self.body[:, step : step + 1]
        inner = 1 - (1 - base) * np.maximum(rank - 1, 0) / (BODY - 1)
        found = np.where(x > 0, np.maximum(tail, P_FLOOR), np.maximum(inner, base))
        return np.where(np.isnan(scores) | np.isnan(self.threshold)[:, None], np.nan, found)

    def scores_at(self, alpha: float) -> Floats:
        """The score of each sensor whose p-value is `alpha`, for an alpha below the tail's share."""
        base = self.k / (self.n + 1)
        ratio = np.maximum(base / alpha, 1.0)
        shape = np.where(np.abs(self.shape) < 1e-6, 1e-6, self.shape)
        return self.threshold + self.scale * (ratio**shape - 1) / shape


def _survival(x: Floats, scale: Floats, shape: Floats) -> Floats:
    """Chance that a generalised Pareto variable exceeds `x`; 0 beyond the end of a bounded tail."""
    shape = np.where(np.abs(shape) < 1e-6, 1e-6, shape)
    return np.maximum(1 + shape * x / scale, 0.0) ** (-1 / shape)
