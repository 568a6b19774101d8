"""Missing readings and repeated values: how unusual a gap, or a run, of this length is.

A sensor that sends every minute is silent after one missing reading; one that sends now and then is
not. The p-value of a gap is the share of the past intervals in which the sensor had been silent for at
least as long, including a new gap; that of a run, the share in which it had shown the same value for at least as
long (`grid.age_chances`). The longer a gap lasts beyond all earlier gaps, the less likely it is
(`_beyond`). Gaps and runs of more than `LOOKBACK` intervals count as that long.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.calibration import P_FLOOR
from models.devices.grid import LOOKBACK, Floats, Grid, age_chances, ages, exchangeable

_FEW_GAPS = 20
_FEWEST_INTERVALS = 60


def fit(grid: Grid) -> pl.DataFrame:
    """One row per sensor: device, tag, `first` and `last` reading, number of `readings`, `p_of_gap`, `p_of_run`.

    The p-values are arrays by length, from 1 to LOOKBACK. Intervals before the first reading do not count.
    """
    absent = np.isnan(grid.values)
    columns = np.arange(grid.intervals)
    present = ~absent
    begin = np.where(present.any(axis=1), present.argmax(axis=1), grid.intervals)
    end = np.where(present.any(axis=1), grid.intervals - 1 - present[:, ::-1].argmax(axis=1), 0)
    since = columns[None, :] >= begin[:, None]
    gaps = np.where(since, ages(absent), 0).astype(np.int16)
    run_lengths = np.where(absent, 0, channels.runs(grid.values)).astype(np.int16)
    times = grid.times
    return grid.keys.with_columns(
        times.gather(np.minimum(begin, grid.intervals - 1)).alias("first"),
        times.gather(end).alias("last"),
        pl.Series("readings", present.sum(axis=1)),
        pl.Series("p_of_gap", _beyond(gaps, since.sum(axis=1)), dtype=pl.Array(pl.Float32, LOOKBACK)),
        pl.Series(
            "p_of_run", age_chances(run_lengths, present.sum(axis=1)), dtype=pl.Array(pl.Float32, LOOKBACK)
        ),
    )


def _beyond(gaps: NDArray[np.int16], n: NDArray[np.int64]) -> Floats:
    """p-values of gaps by length, with a tail even if there are too few gaps for that of `age_chances`.

    Without any gap in `n` intervals, the p-value of k missing readings in a row is 1 / C(n + k, k): the chance that, of
    n + k exchangeable intervals, these k are the missing ones. Otherwise, beyond the longest gap, a gap continues
    with the probability of past gaps (Beta prior of 1/2 each). Fewer than 60 intervals are too few for that.
    """
    p = age_chances(gaps, n)
    rows = np.flatnonzero(((gaps == 1).sum(axis=1) < _FEW_GAPS) & (n >= _FEWEST_INTERVALS))
    starts = (gaps[rows] == 1).sum(axis=1)
    absent = (gaps[rows] > 0).sum(axis=1)
    longest = gaps[rows].max(axis=1, initial=0)
    beyond = np.maximum(np.arange(LOOKBACK)[None, :] - longest[:, None], 0)
    onward = (absent - starts + 0.5)[:, None] + np.arange(LOOKBACK - 1)[None, :]
    chances = np.concatenate([np.ones((len(rows), 1)), onward / (onward + starts[:, None] + 0.5)], axis=1)
    tail = p[rows] * np.take_along_axis(np.cumprod(chances, axis=1), beyond, axis=1)
    tail = np.where((starts == 0)[:, None], exchangeable(n[rows], LOOKBACK), tail)
    p[rows] = np.minimum(p[rows], np.maximum(tail, P_FLOOR))
    return p


def gap_p_values(params: pl.DataFrame, grid: Grid, first: int = 0) -> Floats:
    """p-values of the missing readings in the columns from `first` on; NaN if there is a reading."""
    gaps = ages(np.isnan(grid.values))[:, first:]
    table = params["p_of_gap"].to_numpy()
    p = table[np.arange(len(gaps))[:, None], np.maximum(gaps, 1) - 1].astype(float)
    return np.where(gaps == 0, np.nan, p)


def last_runs(params: pl.DataFrame, grid: Grid) -> tuple[NDArray[np.int16], Floats]:
    """The length of the run to which each sensor's last reading belongs, and its p-value; 0 and NaN without a reading."""
    lengths = channels.runs(grid.values)
    present = ~np.isnan(grid.values)
    last = grid.intervals - 1 - present[:, ::-1].argmax(axis=1)
    rows = np.arange(len(lengths))
    runs = np.where(present.any(axis=1), np.minimum(lengths[rows, last], LOOKBACK), 0)
    table = params["p_of_run"].to_numpy()
    p = table[rows, np.maximum(runs, 1) - 1].astype(float)
    return runs.astype(np.int16), np.where(runs == 0, np.nan, p)
