"""scikit-learn's isolation forest on one sensor's values, as a step function.

The score is the negative of scikit-learn's `decision_function`: higher is more anomalous, 0 is scikit-learn's
threshold. With a single feature, the summed depth of all trees is a step function of the value: its
steps are the trees' thresholds in order. Only they are stored, and scoring looks up a
value among them.

Liu, Ting & Zhou (2008), ICDM.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.grid import Floats, Grid

TREES = 100
SCHEMA: dict[str, Any] = {
    "device": pl.String,
    "tag": pl.String,
    "offset": pl.Float64,
    "normaliser": pl.Float64,
    "threshold": pl.List(pl.Float64),
    "depth": pl.List(pl.Float64),
}


def fit(grid: Grid, part: NDArray[np.bool_], seed: int = 7, *, trees: int = TREES) -> pl.DataFrame:
    """One row per sensor: the steps of its forest. `depth` has one more entry than `threshold`.

    Trained on the readings in the columns selected by `part`.
    """
    from sklearn.ensemble import IsolationForest

    rows = []
    for key, values in zip(grid.keys.iter_rows(), grid.values[:, part], strict=True):
        x = values[~np.isnan(values)][:, None]
        forest = IsolationForest(n_estimators=trees, random_state=seed, n_jobs=1).fit(x)
        threshold, depth = _steps(forest)
        normaliser = trees * float(_average_path(np.array([forest.max_samples_]))[0])
        rows.append((*key, float(forest.offset_), normaliser, threshold.tolist(), depth.tolist()))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _steps(forest: Any) -> tuple[Floats, Floats]:
    """Thresholds of all trees in rising order, and the summed depth below, between and above them.

    scikit-learn numbers the nodes of a tree from left to right, parents first, so the leaves are in
    the order of the values that they hold.
    """
    thresholds, steps, lowest = [], [], 0.0
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        depth = _depths(tree) + _average_path(tree.n_node_samples)
        lowest += depth[leaf][0]
        thresholds.append(np.sort(tree.threshold[~leaf]))
        steps.append(np.diff(depth[leaf]))
    threshold, step = np.concatenate(thresholds), np.concatenate(steps)
    order = np.argsort(threshold, kind="stable")
    return threshold[order], lowest + np.concatenate([[0.0], np.cumsum(step[order])])


def _depths(tree: Any) -> Floats:
    depth = np.zeros(tree.node_count)
    for node in np.flatnonzero(tree.children_left >= 0):
        depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
    return depth


def _average_path(samples: NDArray[np.int64]) -> Floats:
    """Mean depth of a leaf in a fully grown random tree of this many samples."""
    n = samples.astype(float)
    large = np.maximum(n, 3.0)
    length = 2 * (np.log(large - 1) + np.euler_gamma) - 2 * (large - 1) / large
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, length))


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> Floats:
    """Scores (S, T - first) of `grid`'s columns from `first` on; `params` has its sensors in its order.

    NaN without a reading. Values are compared in single precision, as in scikit-learn.
    """
    x = grid.values[:, first:]
    single = x.astype(np.float32).astype(np.float64)
    sizes = params["threshold"].list.len().to_numpy().astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    threshold = params["threshold"].explode(empty_as_null=False).to_numpy()
    depth = params["depth"].explode(empty_as_null=False).to_numpy()
    below = _position(threshold, begin, sizes, single)
    total = depth[(begin + np.arange(len(begin)))[:, None] + below]
    normaliser, offset = params["normaliser"].to_numpy()[:, None], params["offset"].to_numpy()[:, None]
    return np.where(np.isnan(x), np.nan, np.exp2(-total / normaliser) + offset)


def _position(
    steps: Floats, begin: NDArray[np.int64], sizes: NDArray[np.int64], x: Floats
) -> NDArray[np.int64]:
    """The number of a sensor's steps below each of its values: one binary search for all."""
    low = np.repeat(begin[:, None], x.shape[1], axis=1)
    high = low + sizes[:, None]
    end = high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        more = (low < high) & (steps[np.minimum(middle, len(steps) - 1)] < x)
        low, high = np.where(more, middle + 1, low), np.where(more | (low >= high), high, middle)
    return np.minimum(low, end) - begin[:, None]
