"""Remaining useful life: when a component fails next, from one hazard for all horizons.

Future time is divided into periods. The hazard of a period is the chance of a failure in it, given that there was none
before. The chance of a failure up to the end of a period follows from the hazards so far, and never falls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.machines import estimators
from models.machines.estimators import Estimator, Floats, Matrix
from models.scenario import File

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Life:
    """The hazard of one component; without `estimator`, `reason` says why there is none.

    `edges` are the ends of the periods in hours, rising: nothing is known beyond the last. The estimator uses the
    features and the end of a period. `levels` are the chances of failure at which the `QUANTILES` are read off,
    calibrated on held-out machines: three for medians up to the first of `bounds`, in hours, three up to the next, ...
    """

    component: str
    reason: str | None = None
    edges: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    levels: tuple[tuple[float, ...], ...] = (QUANTILES,)
    estimator: Estimator | None = None

    def chances(self, X: Matrix) -> Floats:
        """Chance of a failure up to each edge, shape (rows, edges); never falling along a row."""
        if self.estimator is None:
            raise ValueError(f"{self.component} has no hazard: {self.reason}")
        survival = np.ones((len(X), len(self.edges)))
        for i, edge in enumerate(self.edges):
            end = np.full((len(X), 1), edge, dtype=np.float32)
            survival[:, i] = 1 - self.estimator.predict(np.hstack([X, end]))
        return np.asarray(1 - np.cumprod(survival, axis=1), dtype=np.float64)

    def quantiles(self, X: Matrix) -> Floats:
        """Hours to the next failure at the `QUANTILES`, shape (rows, 3), rising; infinite beyond the last edge."""
        chances = self.chances(X)
        group = np.searchsorted(self.bounds, inverse(chances, self.edges, QUANTILES)[:, 1])
        hours = np.empty((len(X), len(QUANTILES)))
        for i, levels in enumerate(self.levels):
            hours[group == i] = inverse(chances[group == i], self.edges, levels)
        return hours

    def entry(self, file: str | None) -> dict[str, Any]:
        """The life as a JSON object of a bundle, which refers to the estimator in `file`."""
        return {
            "component": self.component,
            "reason": self.reason,
            "edges": [*self.edges],
            "bounds": [*self.bounds],
            "levels": [[*levels] for levels in self.levels],
            "file": file,
        }


def inverse(chances: Floats, edges: Sequence[float], levels: Sequence[float]) -> Floats:
    """When each row's chance reaches each of `levels`, linear within a period; infinite if it never does.

    >>> inverse(np.array([[0.2, 0.6]]), [10.0, 20.0], [0.1, 0.4, 0.9]).tolist()
    [[5.0, 15.0, inf]]
    """
    begins = np.concatenate([[0.0], np.asarray(edges, dtype=np.float64)])
    whole = np.hstack([np.zeros((len(chances), 1)), chances])
    hours = np.full((len(chances), len(levels)), np.inf)
    for i, level in enumerate(levels):
        after = (whole < level).sum(axis=1)
        rows = np.flatnonzero(after < whole.shape[1])
        at = after[rows]
        low, high = whole[rows, at - 1], whole[rows, at]
        hours[rows, i] = begins[at - 1] + (begins[at] - begins[at - 1]) * (level - low) / (high - low)
    return hours


def agreeing(quantiles: Floats, probabilities: Mapping[int, Floats]) -> Floats:
    """`quantiles`, moved if they contradict `probabilities` of failure (by horizon in hours); NaN is ignored.

    A quantile lies within a horizon if and only if the probability of that horizon reaches its level.
    """
    result = quantiles.copy()
    for hours, probability in sorted(probabilities.items()):
        for i, level in enumerate(QUANTILES):
            within, beyond = probability >= level, probability < level
            result[within, i] = np.minimum(result[within, i], hours)
            result[beyond, i] = np.maximum(result[beyond, i], hours + 1.0)
    return result


def times(count: int) -> str:
    """
    >>> times(1), times(2)
    ('once', '2 times')
    """
    return "once" if count == 1 else f"{count:,} times"


def load(entry: Mapping[str, Any], files: Mapping[str, File]) -> Life:
    """The inverse of `Life.entry`."""
    estimator = estimators.load(files[entry["file"]]) if entry["file"] else None
    return Life(
        component=entry["component"],
        reason=entry["reason"],
        edges=tuple(entry["edges"]),
        bounds=tuple(entry["bounds"]),
        levels=tuple(tuple(levels) for levels in entry["levels"]),
        estimator=estimator,
    )
