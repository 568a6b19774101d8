"""The reference detector: scikit-learn's one-class SVM behind a standard scaler, on one sensor's values.

The score is the negative of scikit-learn's `decision_function`: higher is more anomalous, and 0 is
scikit-learn's threshold, from which it predicts -1. All sensors are scored in one pass over
their support vectors, in the order in which libsvm adds them.

Schölkopf, Platt, Shawe-Taylor, Smola & Williamson (2001), Neural Computation 13(7).
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.grid import Floats, Grid, matrix_of

NU = 0.01
SCHEMA: dict[str, Any] = {
    "device": pl.String,
    "tag": pl.String,
    "center": pl.Float64,
    "scale": pl.Float64,
    "gamma": pl.Float64,
    "intercept": pl.Float64,
    "support": pl.List(pl.Float64),
    "coefficient": pl.List(pl.Float64),
}


def fit(
    grid: Grid,
    part: NDArray[np.bool_],
    seed: int = 0,  # noqa: ARG001
    *,
    nu: float = NU,
) -> pl.DataFrame:
    """One row per sensor: its scaler, and the support vectors, dual coefficients and intercept of its SVM.

    Trained on the readings in the columns selected by `part`; about the share `nu` of them may be outside.
    The fit is deterministic: `seed` has no effect.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    rows = []
    for key, values in zip(grid.keys.iter_rows(), grid.values[:, part], strict=True):
        x = values[~np.isnan(values)][:, None]
        scaler = StandardScaler().fit(x)
        svm = OneClassSVM(nu=nu, gamma="scale").fit(scaler.transform(x))
        support, coefficient = svm.support_vectors_[:, 0].tolist(), svm.dual_coef_[0].tolist()
        scale = float(scaler.scale_[0])
        rows.append(
            (
                *key,
                float(scaler.mean_[0]),
                scale,
                float(svm._gamma),
                float(svm.intercept_[0]),
                support,
                coefficient,
            )
        )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> Floats:
    """Scores (S, T - first) of `grid`'s columns from `first` on; `params` has its sensors in its order.

    NaN without a reading. Sensors with about the same number of support vectors are scored together.
    """
    x = grid.values[:, first:]
    scores = np.empty_like(x)
    sizes = params["support"].list.len().to_numpy().astype(np.int64)
    for size in np.unique(_padded(sizes)):
        rows = np.flatnonzero(_padded(sizes) == size)
        group = params[rows]
        center, scale, gamma, intercept = (
            group[name].to_numpy()[:, None] for name in ("center", "scale", "gamma", "intercept")
        )
        support, coefficient = (matrix_of(group[name], int(size)) for name in ("support", "coefficient"))
        z = (x[rows] - center) / scale
        total = np.zeros_like(z)
        for i in range(int(size)):
            apart = z - support[:, i : i + 1]
            total += coefficient[:, i : i + 1] * np.exp(-gamma * (apart * apart))
        scores[rows] = -(total + intercept)
    return scores


def _padded(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sizes rounded up to a multiple of 8, so that sensors of similar size are scored together."""
    return -(-sizes // 8) * 8
