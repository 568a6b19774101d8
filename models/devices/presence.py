"""Missing readings and repeated values: how unusual a gap, or a run, of this length is.

A sensor that sends every minute is silent after one missing reading; one that sends now and then is
not. The p-value of a gap is the share of the past intervals in which the sensor had been silent for at
least as long, including a new gap; that of a run, the share in which it had shown the same value for at least as
long (`grid.age_chances`). The longer a gap lasts beyond all earlier gaps, the less likely it is
(`_beyond`). Gaps and runs of more than `LOOKBACK` intervals count as that long, except for sensors that were silent for
a whole stretch of `STRETCH` intervals: the same rules then apply to the number of such stretches in a row
(`_p_of_silence`), up to `LONGEST` intervals.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.calibration import P_FLOOR
from models.devices.grid import LOOKBACK, Floats, Grid, age_chances, ages, exchangeable

_FEW_GAPS = 20
_OFTEN = 10
"""Nights and other long silences are few: those of two weeks show how much they differ."""
FLAT_LENGTH = 5
"""Number of readings from which a run of the same value can be a flat line by itself."""
_FEWEST_INTERVALS = 60
STRETCH = LOOKBACK // 2
LONGEST = (LOOKBACK + 1) * STRETCH
"""A silence that lasts longer, in intervals, is no less likely."""


def fit(grid: Grid) -> pl.DataFrame:
    """One row per sensor: device, tag, `first` and `last` reading, number of `readings`, and three p-values.

    `p_of_gap` and `p_of_run` are arrays by length, from 1 to LOOKBACK. `p_of_silence` is a list by the number of stretches,
    null for a sensor that never was silent for one. Intervals before the first reading do not count.
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
        _p_of_silence(present),
    )


def _p_of_silence(present: NDArray[np.bool_]) -> pl.Series:
    """p-values of stretches of `STRETCH` intervals without a reading, by their number in a row; null if there was none."""
    starts = np.arange(0, present.shape[1], STRETCH)
    has_reading = np.logical_or.reduceat(present, starts, axis=1)
    since = np.maximum.accumulate(has_reading, axis=1)
    silences = np.where(since, ages(~has_reading), 0).astype(np.int16)
    rows = np.flatnonzero(silences.any(axis=1))
    chances = dict(zip(rows.tolist(), _beyond(silences[rows], since[rows].sum(axis=1)).tolist(), strict=True))
    lists = [chances.get(row) for row in range(len(present))]
    return pl.Series("p_of_silence", lists, dtype=pl.List(pl.Float32))


def _beyond(gaps: NDArray[np.int16], n: NDArray[np.int64]) -> Floats:
    """p-values of gaps by length, with a tail even if there are too few gaps for that of `age_chances`.

    Without any gap in `n` intervals, the p-value of k missing readings in a row is 1 / C(n + k, k): the chance that, of
    n + k exchangeable intervals, these k are the missing ones. Otherwise, beyond the longest gap, a gap continues
    with the probability of past gaps (Beta prior of 1/2 each). Fewer than 60 intervals are too few for that.
    """
    p = age_chances(gaps, n, _OFTEN)
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


def gap_p_values(
    params: pl.DataFrame, grid: Grid, first: int = 0, silent_before: NDArray[np.int64] | None = None
) -> Floats:
    """p-values of the missing readings in the columns from `first` on; NaN if there is a reading.

    `silent_before` is for how many intervals each sensor had been silent before the first column.
    """
    before = np.zeros(len(grid.values), np.int64) if silent_before is None else silent_before
    absent = np.isnan(grid.values)
    gaps = ages(absent, cap=LONGEST).astype(np.int64)
    gaps = (gaps + np.where(np.logical_and.accumulate(absent, axis=1), before[:, None], 0))[:, first:]
    table = params["p_of_gap"].to_numpy()
    p = table[np.arange(len(gaps))[:, None], np.clip(gaps, 1, LOOKBACK) - 1].astype(float)
    for s in may_last(params):
        chances = params["p_of_silence"][int(s)].to_numpy()
        stretches = np.clip(gaps[s] // STRETCH - 1, 1, LOOKBACK)
        p[s] = np.where(gaps[s] > LOOKBACK, np.minimum(p[s], chances[stretches - 1]), p[s])
    return np.where(gaps == 0, np.nan, np.maximum(p, P_FLOOR))


def may_last(params: pl.DataFrame) -> NDArray[np.int64]:
    """The rows of sensors of which a silence of more than LOOKBACK intervals is less likely the longer it lasts."""
    if "p_of_silence" not in params.columns:
        return np.zeros(0, np.int64)
    return np.flatnonzero(params["p_of_silence"].is_not_null())


def run_p_values(params: pl.DataFrame, grid: Grid, first: int = 0) -> Floats:
    """p-values of the runs of one value in the columns from `first` on; 1 for fewer than `FLAT_LENGTH` readings."""
    lengths = channels.runs(grid.values)[:, first:].astype(np.int64)
    table = params["p_of_run"].to_numpy()
    p = table[np.arange(len(lengths))[:, None], lengths - 1].astype(float)
    return np.where(lengths >= FLAT_LENGTH, np.maximum(p, P_FLOOR), 1.0)


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
