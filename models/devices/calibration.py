"""p-values of scores from a sensor's own held-out readings, even if they are far fewer than 1 / p.

A conformal p-value is the share of calibration scores that are at least as high, so it never falls
below 1 / (n + 1): with a day of minutes, half of it held out, not below 0.0014. Above the
calibration scores' upper tenth, their tail is therefore continued by a generalised Pareto
distribution (peaks over threshold). These measures keep the rate of alarms equal to p:

- the tail's shape is estimated for the fleet, and a sensor's own shape is shrunk towards it (empirical Bayes),
  because the estimate of a single sensor is too noisy to extrapolate;
- the tail is the predictive one: for an exponential tail estimated from k excesses of mean
  m, the chance to exceed x is exactly (1 + x / (k m))^-k, that is, a shape greater by 1 / k;
- k counts independent clusters of excesses, not excesses, because neighbours carry the same information; and
  a cluster counts as CLUSTER_WORTH, because the sizes of clusters also vary;
- if p-values of blocks, calibrated on the other blocks of a sample of sensors, are too small,
  they are raised accordingly, and lowered if they are far too large (`corrections`).

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
"""Number of points at which the scores below the tail are kept, from the lowest to the tail's threshold."""
P_FLOOR = 1e-9
SAME = 1e-9
"""Scores that differ by at most this are equal: for example, readings as far above the expected value as others are
below it, or the same readings added in another order."""
CLUSTER_WORTH = 0.5
LEAST_SHAPE = -0.1


def tails_of(scores: Floats, held_out: NDArray[np.bool_], worth: float = 1.0) -> pl.DataFrame:
    """A summary of the calibration scores of each row, in the same order.

    `n` scores, of which `k` lie above `threshold`, in `clusters` clusters, each of which counts `worth`;
    `excess` and `moment` are the first two probability-weighted moments of the excesses; `body` are
    scores at equal steps of rank from the lowest to the threshold. Rows with fewer than
    2 * FEWEST_EXCESSES scores have only `n`.
    """
    cells = np.where(held_out & np.isfinite(scores), scores, np.nan)
    n = (~np.isnan(cells)).sum(axis=1)
    k = np.minimum(np.maximum(np.ceil(TAIL_SHARE * n).astype(np.int64), FEWEST_EXCESSES), n // 2)
    usable = n >= 2 * FEWEST_EXCESSES
    sorted_scores = np.sort(cells, axis=1)
    position = np.clip(n - k - 1, 0, None)
    rows = np.arange(len(cells))
    threshold = sorted_scores[rows, position]
    column = np.arange(sorted_scores.shape[1])[None, :]
    above = (column > position[:, None]) & (column < n[:, None])
    excess = np.where(above, sorted_scores - threshold[:, None], 0.0)
    weight = np.where(above, (n[:, None] - column - 0.65) / np.maximum(k, 1)[:, None], 0.0)
    steps = np.linspace(0, 1, BODY)
    places = np.rint(steps[None, :] * position[:, None]).astype(np.int64)
    body = np.where(usable[:, None], np.take_along_axis(sorted_scores, places, axis=1), np.nan)
    over = np.nan_to_num(cells, nan=-np.inf) > threshold[:, None]
    frame = pl.DataFrame(
        {
            "n": n,
            "k": k,
            "clusters": worth * _clusters(over, ~np.isnan(cells)),
            "threshold": threshold,
            "excess": excess.sum(axis=1) / np.maximum(k, 1),
            "moment": (weight * excess).sum(axis=1) / np.maximum(k, 1),
            "body": pl.Series(body, dtype=pl.Array(pl.Float64, BODY)),
        }
    )
    has_tail = pl.Series("usable", usable)
    return frame.with_columns(pl.when(has_tail).then(pl.col(c)).alias(c) for c in frame.columns[1:-1])


def _clusters(over: NDArray[np.bool_], present: NDArray[np.bool_]) -> Floats:
    """Number of independent clusters of the cells `over`: the number of these cells times their extremal index.

    The index is the intervals estimator of Ferro & Segers (2003), JRSS B 65(2): 1 if the times
    between excesses are those of independent cells. Time counts the cells that are `present`.
    """
    time = np.cumsum(present, axis=1)
    latest = np.maximum.accumulate(np.where(over, time, 0), axis=1)
    before = np.concatenate([np.zeros((len(over), 1), latest.dtype), latest[:, :-1]], axis=1)
    apart = np.where(over & (before > 0), time - before, 0).astype(float)
    count = over.sum(axis=1)
    close = apart.max(axis=1, initial=0) <= 2
    less = np.where(close[:, None], apart, np.maximum(apart - 1, 0))
    lesser = np.where(close[:, None], apart, np.maximum(apart - 2, 0))
    squares = (less * lesser).sum(axis=1)
    index = 2 * less.sum(axis=1) ** 2 / np.maximum((count - 1) * squares, 1)
    return np.clip(np.where(squares > 0, index, 1.0), 0.0, 1.0) * count


def fit_shapes(tails: pl.DataFrame) -> pl.DataFrame:
    """`tails` of sensors of one kind with `shape` and `scale` of their tails, shrunk towards the fleet's.

    The weight of a sensor's own shape is the share of the variance between sensors in the variance
    of the estimates; with fewer than 5 sensors, it is the weight in a fleet without differences.
    """
    own = 2 - pl.col("excess") / (pl.col("excess") - 2 * pl.col("moment"))
    own = own.clip(-0.5, 0.9).fill_nan(None)
    with_own = tails.with_columns(own.alias("own"), (1 / pl.col("clusters").clip(3)).alias("noise"))
    usable = with_own.filter(pl.col("own").is_not_null())
    fleet, between = 0.0, 0.0
    if usable.height >= 5:
        fleet = float(np.average(usable["own"], weights=1 / usable["noise"]))
        middle = float(usable["own"].var() or 0.0) - float(usable["noise"].mean() or 0.0)  # type: ignore[arg-type]
        between = max(0.0, middle)
    share = between / (between + pl.col("noise"))
    shape = (share * pl.col("own").fill_null(fleet) + (1 - share) * fleet).clip(LEAST_SHAPE, 0.8)
    return with_own.with_columns(shape.alias("shape")).select(
        *tails.columns,
        pl.when(pl.col("k").is_not_null()).then("shape").alias("shape"),
        _scale(),
    )


def _scale() -> pl.Expr:
    """The scale of a generalised Pareto distribution with this mean and shape."""
    return (pl.col("excess") * (1 - pl.col("shape"))).clip(1e-9).alias("scale")


@dataclass(frozen=True)
class Tails:
    """The columns of `fit_shapes` as arrays, one row per sensor; NaN if a sensor has no calibration."""

    n: Floats
    k: Floats
    threshold: Floats
    shape: Floats
    scale: Floats
    body: Floats

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Tails":
        """The predictive tails of the rows of `frame`: their shapes are greater by 1 / k."""
        count = CLUSTER_WORTH * pl.col("clusters").cast(pl.Float64).clip(3)
        parameters = frame.select(
            pl.col("n", "k", "threshold").cast(pl.Float64),
            (pl.col("shape") + 1 / count).alias("shape"),
            "scale",
        )
        columns = {name: parameters[name].fill_null(np.nan).to_numpy() for name in parameters.columns}
        return cls(**columns, body=frame["body"].to_numpy().reshape(-1, BODY))

    def p_values(self, scores: Floats) -> Floats:
        """Chance of a score at least as high, for scores of shape (sensors, T); NaN without a score."""
        x = scores - self.threshold[:, None]
        base = (self.k / (self.n + 1))[:, None]
        tail = base * _survival(np.maximum(x, 0.0), self.scale[:, None], self.shape[:, None])
        rank = np.zeros(scores.shape)
        for step in range(BODY):
            rank += scores > self.body[:, step : step + 1] + SAME
        inner = 1 - (1 - base) * np.maximum(rank - 1, 0) / (BODY - 1)
        p = np.where(x > SAME, np.maximum(tail, P_FLOOR), np.maximum(inner, base))
        return np.where(np.isnan(scores) | np.isnan(self.threshold)[:, None], np.nan, p)

    def scores_at(self, p: Floats) -> Floats:
        """The scores of each sensor whose p-values are `p`, which is below the tail's share; shape (sensors, T)."""
        base, shape = (self.k / (self.n + 1))[:, None], nonzero(self.shape)[:, None]
        ratio = np.maximum(base / p, 1.0)
        scores: Floats = self.threshold[:, None] + self.scale[:, None] * (ratio**shape - 1) / shape
        return scores


def nonzero(shape: Floats) -> Floats:
    """Shapes of generalised Pareto tails; those near 0 are moved slightly above it, because they are divisors."""
    return np.where(np.abs(shape) < 1e-6, 1e-6, shape)


def _survival(x: Floats, scale: Floats, shape: Floats) -> Floats:
    """Chance that a generalised Pareto variable exceeds `x`; 0 beyond the end of a bounded tail."""
    shape = nonzero(shape)
    return np.maximum(1 + shape * x / scale, 0.0) ** (-1 / shape)


FOLDS = 4
TOLERATED, LEAST_FACTOR, LOWERED_FROM = 0.8, 0.4, 0.003
_GRID = 10.0 ** np.arange(-1.0, -4.01, -0.25)
_FEWEST_EXPECTED = 50


def folds_of(scores: Floats, held_out: NDArray[np.bool_], worth: float = 1.0) -> pl.DataFrame:
    """Each block of the calibration scores, and the tails of the others: FOLDS rows for each row of `scores`.

    The columns of `tails_of`, `row`, and of the block's scores `count` and those above the threshold, `high`.
    """
    columns = np.flatnonzero(held_out.any(axis=0))
    fold = np.full(scores.shape[1], -1)
    fold[columns] = np.arange(len(columns)) * FOLDS // max(1, len(columns))
    frames = []
    for number in range(FOLDS):
        tails = tails_of(scores, held_out & (fold != number)[None, :], worth)
        block = np.where(held_out & (fold == number)[None, :], scores, np.nan)
        threshold = tails["threshold"].fill_null(np.inf).to_numpy()[:, None]
        high = [row[above].tolist() for row, above in zip(block, block > threshold, strict=True)]
        frames.append(
            tails.with_row_index("row").with_columns(
                pl.Series("count", np.isfinite(block).sum(axis=1)),
                pl.Series("high", high, dtype=pl.List(pl.Float64)),
            )
        )
    return pl.concat(frames)


def corrections(folds: pl.DataFrame, shapes: pl.DataFrame) -> pl.DataFrame:
    """The correct p-values of each rung: columns rung, `p` and `corrected`, with falling p.

    `folds` as in `folds_of`, with device, tag and rung; `shapes` the `shape` of each device and tag.
    A factor between TOLERATED and 1 is left out, because slightly too few alarms do no harm, and so
    is a factor below 1 for a p less than LOWERED_FROM, for which there are few independent scores. Below the p that
    fewer than 50 of the scores are expected to reach, the factor is constant.
    """
    blocks = folds.join(shapes.select("device", "tag", "shape"), on=["device", "tag"], how="inner")
    blocks = blocks.filter(pl.col("k").is_not_null()).with_columns(_scale()).sort("rung", "device", "tag")
    frames = []
    for (rung,), part in blocks.group_by("rung", maintain_order=True):
        total = int(part["count"].sum())
        high = part["high"]
        row = np.repeat(np.arange(part.height), high.list.len().to_numpy().astype(np.int64))
        scores = high.explode(empty_as_null=False).to_numpy()
        p = np.sort(Tails.of(part[row]).p_values(scores[:, None])[:, 0])
        share = np.searchsorted(p, _GRID, side="right") / max(total, 1)
        factor = share / _GRID
        is_lowered = (factor < TOLERATED) & (_GRID >= LOWERED_FROM)
        factor = np.where(is_lowered, np.maximum(factor, LEAST_FACTOR), np.maximum(factor, 1.0))
        enough = np.maximum(int((total * _GRID >= _FEWEST_EXPECTED).sum()), 1)
        factor[enough:] = factor[enough - 1]
        corrected_p = np.minimum.accumulate(np.minimum(factor * _GRID, 0.25))
        frames.append(pl.DataFrame({"rung": [rung] * len(_GRID), "p": _GRID, "corrected": corrected_p}))
    return (
        pl.concat(frames)
        if frames
        else pl.DataFrame(schema={"rung": pl.String, "p": pl.Float64, "corrected": pl.Float64})
    )


def corrected_p_values(p: Floats, correction: pl.DataFrame) -> Floats:
    """p-values of one rung, corrected by its rows of `corrections`; unchanged if there are none."""
    if correction.is_empty():
        return p
    grid, value = correction["p"].to_numpy(), correction["corrected"].to_numpy()
    logs = np.log(np.maximum(p, P_FLOOR))
    inside = np.interp(logs, np.log(grid[::-1]), np.log(value[::-1]))
    below = logs + np.log(value[-1] / grid[-1])
    result = np.exp(np.where(logs < np.log(grid[-1]), below, inside))
    return np.where(p >= grid[0], np.maximum(p, value[0]), result)


def p_value_before_correction(alpha: float, correction: pl.DataFrame) -> float:
    """The greatest p-value that becomes at most `alpha` when corrected."""
    if correction.is_empty():
        return alpha
    grid, value = correction["p"].to_numpy(), correction["corrected"].to_numpy()
    if alpha <= value[-1]:
        return float(alpha * grid[-1] / value[-1])
    return float(np.exp(np.interp(np.log(alpha), np.log(value[::-1]), np.log(grid[::-1]))))
