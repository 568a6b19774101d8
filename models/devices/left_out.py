"""Readings from which detectors do not learn: those in labelled faults, and sentinels.

A sentinel that training identifies counts as a missing reading, in training and in scoring; see `models.sentinels`.
"""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.contracts import JOINT_TAG
from models.devices.grid import Grid


def without(grid: Grid, sentinels: list[list[float]]) -> Grid:
    """The grid with sentinels as missing readings; `sentinels` has those of each of its sensors."""
    if not any(sentinels):
        return grid
    values = grid.values.copy()
    for s, codes in enumerate(sentinels):
        if codes:
            values[s, np.isin(values[s], codes)] = np.nan
    return replace(grid, values=values)


def in_faults(grid: Grid, faults: pl.DataFrame) -> NDArray[np.bool_]:
    """Which cells of `grid` lie in one of the labelled `faults` (device, tag, start, end), even partly."""
    cells = np.zeros(grid.values.shape, bool)
    if faults.is_empty():
        return cells
    rows = grid.keys.with_row_index("row").join(faults, on="device", suffix="_of_fault")
    rows = rows.filter((pl.col("tag_of_fault") == JOINT_TAG) | (pl.col("tag_of_fault") == pl.col("tag")))
    for row, start, end in rows.select("row", "start", "end").iter_rows():
        first = (start - grid.start) // grid.interval
        last = -(-(end - grid.start) // grid.interval)
        cells[row, max(0, first) : max(0, last)] = True
    return cells
