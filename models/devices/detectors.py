"""The detectors that can replace the robust channels, with one interface.

A detector is a module with two functions. `fit(grid, part, seed, ...)`, which may have one more parameter, returns a frame
of plain columns and lists with one row per sensor of `grid` (device and tag first), fitted to the columns selected by
`part`. `score(params, grid, first)` returns the scores of all sensors at once, shape
(S, T - first), for the columns from `first` on: higher is more anomalous, NaN without a reading. A sensor's scores
depend only on its own row and readings. Calibration turns them into p-values.
"""

from collections.abc import Mapping
from types import ModuleType

from models.devices import isolation_forest, one_class_svm

DETECTORS: Mapping[str, ModuleType] = {
    "one_class_svm": one_class_svm,
    "isolation_forest": isolation_forest,
}
