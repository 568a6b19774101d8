"""Missing readings and repeated values: how unusual is a gap, or a run, as long as this one.

A sensor that sends every minute is silent after one missing reading; one that sends now and then is
not. The p-value of a gap is the share of the past intervals, with this one among them, in which the
sensor had been away at least as long; of a run, in which it had shown the same value at least as
long. Gaps and runs of more than `LOOKBACK` intervals count as that long.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.grid import LOOKBACK, Floats, Grid, ages


def fit(grid: Grid) -> pl.DataFrame:
    """One row per sensor: device, tag, `first` and `last` reading, number of `readings`, `p_of_gap`, `p_of_run`.

    The p-values are arrays by length, from 1 to LOOKBACK. Intervals before the first reading do not count.
    """
    absent = np.isnan(grid.values)
    columns = np.arange(grid.intervals)
    known = ~absent
    begin = np.where(known.any(axis=1), known.argmax(axis=1), grid.intervals)
    end = np.where(known.any(axis=1), grid.intervals - 1 - known[:, ::-1].argmax(axis=1), 0)
    since = columns[None, :] >= begin[:, None]
    gaps = np.where(since, ages(absent), 0)
    repeated = np.where(absent, 0, channels.runs(grid.values))
    times = grid.times
    return grid.keys.with_columns(
        times.gather(np.minimum(begin, grid.intervals - 1)).alias("first"),
        times.gather(end).alias("last"),
        pl.Series("readings", known.sum(axis=1)),
        pl.Series("p_of_gap", _chances(gaps, since.sum(axis=1)), dtype=pl.Array(pl.Float32, LOOKBACK)),
        pl.Series("p_of_run", _chances(repeated, known.sum(axis=1)), dtype=pl.Array(pl.Float32, LOOKBACK)),
    )


def _chances(lengths: NDArray[np.int16], n: NDArray[np.int64]) -> NDArray[np.float32]:
    """p-values of the lengths 1 to LOOKBACK, shape (S, LOOKBACK)."""
    flat = np.arange(len(lengths))[:, None] * (LOOKBACK + 1) + np.minimum(lengths, LOOKBACK)
    counts = np.bincount(flat.ravel(), minlength=len(lengths) * (LOOKBACK + 1)).reshape(-1, LOOKBACK + 1)
    at_least = counts[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return ((1 + at_least) / (n[:, None] + 1)).astype(np.float32)


def gap_p_values(params: pl.DataFrame, grid: Grid, first: int = 0) -> Floats:
    """p-values of the missing readings in the columns from `first` on; NaN where there is a reading."""
    gaps = ages(np.isnan(grid.values))[:, first:]
    table = params["p_of_gap"].to_numpy()
    found = table[np.arange(len(gaps))[:, None], np.maximum(gaps, 1) - 1].astype(float)
    return np.where(gaps == 0, np.nan, found)


def last_runs(params: pl.DataFrame, grid: Grid) -> tuple[NDArray[np.int16], Floats]:
    """Length of the run that each sensor's last reading belongs to, and its p-value; 0 and NaN without reading."""
    lengths = channels.runs(grid.values)
    known = ~np.isnan(grid.values)
    last = grid.intervals - 1 - known[:, ::-1].argmax(axis=1)
    rows = np.arange(len(lengths))
    found = np.where(known.any(axis=1), np.minimum(lengths[rows, last], LOOKBACK), 0)
    table = params["p_of_run"].to_numpy()
    p = table[rows, np.maximum(found, 1) - 1].astype(float)
    return found.astype(np.int16), np.where(found == 0, np.nan, p)
