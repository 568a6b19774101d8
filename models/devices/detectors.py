"""The detectors that can replace the robust channels, with one interface.

A detector is two functions. `fit(grid, part, seed, ...)`, which may have one more parameter, returns a frame of
plain columns and lists with one row per sensor of `grid` (device and tag first), fitted
to the columns selected by `part`. `score(params, grid, first)` returns the scores of all sensors at once, shape
(S, T - first), for the columns from `first` on: higher is more anomalous, NaN without a reading. A sensor's scores
depend only on its own row and readings. Calibration turns them into p-values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from models.devices import isolation_forest, one_class_svm
from models.devices.grid import Floats, Grid


@dataclass(frozen=True)
class Detector:
    """See the module."""

    fit: Callable[..., pl.DataFrame]
    score: Callable[[pl.DataFrame, Grid, int], Floats]


DETECTORS: Mapping[str, Detector] = {
    "one_class_svm": Detector(one_class_svm.fit, one_class_svm.score),
    "isolation_forest": Detector(isolation_forest.fit, isolation_forest.score),
}
