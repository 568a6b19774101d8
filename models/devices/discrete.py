"""Sensors that show one value only, or a few: how rare is this value, how long has it been there.

The score is sqrt(-2 ln f) for a value of frequency f, or for a run of the same value of chance f if
that is less; higher is more anomalous. The p-value is the share of the past readings, with the new one
among them, whose score is at least as high (full conformal prediction; Vovk et al. 2005): 1 / (n + 1)
for a value never seen. It promises no more alarms than alpha, and there are often fewer: equal scores
count as equally high.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.grid import LOOKBACK, Floats, Grid, lagged

MOST_VALUES = 12
_UNSEEN = MOST_VALUES


def is_discrete(x: Floats) -> NDArray[np.bool_]:
    """Which rows show at most `MOST_VALUES` different values, each five times on average."""
    different = _changes(np.sort(x, axis=1)).sum(axis=1)
    return (different > 0) & (different <= MOST_VALUES) & ((~np.isnan(x)).sum(axis=1) >= 5 * different)


def _changes(ordered: Floats) -> NDArray[np.bool_]:
    """First cell of each group of equal values in sorted rows."""
    starts = np.ones(ordered.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return starts & ~np.isnan(ordered)


def fit(grid: Grid) -> pl.DataFrame:
    """One row per sensor: its values and their scores, the p-values of values and of runs, by their length.

    `values` in rising order, NaN beyond the last; `score_of_value` and `p_of_value` have one entry more,
    for a value never seen. All of the history counts.
    """
    x = grid.values
    n = (~np.isnan(x)).sum(axis=1)
    values = np.full((len(x), MOST_VALUES), np.nan)
    for s, row in enumerate(x):
        distinct = np.unique(row[~np.isnan(row)])
        values[s, : len(distinct)] = distinct
    counts = np.stack([(x == values[:, j : j + 1]).sum(axis=1) for j in range(MOST_VALUES)], axis=1)
    shares = np.concatenate([np.maximum(counts, 1) / n[:, None], 1 / (n[:, None] + 1)], axis=1)
    same = ~np.isnan(x) & ~np.isnan(lagged(x, 1))
    again = ((same & (x == lagged(x, 1))).sum(axis=1) + 1) / (same.sum(axis=1) + 2)
    of_value = np.sqrt(-2 * np.log(shares))
    of_run = np.sqrt(-2 * np.log(again)[:, None] * np.arange(LOOKBACK))
    past, _ = _scores(x, values, of_value, of_run)
    past = np.where(np.isnan(x), -np.inf, past)
    return grid.keys.with_columns(
        _array("values", values),
        _array("score_of_value", of_value),
        _array("score_of_run", of_run),
        _array("p_of_value", _p_values(past, of_value, n)),
        _array("p_of_run", _p_values(past, of_run, n)),
        pl.Series("distinct", (counts > 0).sum(axis=1)),
        pl.Series("usual", values[np.arange(len(x)), counts.argmax(axis=1)]),
        pl.Series("low", values[:, 0]),
        pl.Series("high", np.nanmax(values, axis=1)),
    )


def _array(name: str, values: Floats) -> pl.Series:
    return pl.Series(name, values, dtype=pl.Array(pl.Float64, values.shape[1]))


def _p_values(past: Floats, levels: Floats, n: NDArray[np.int64]) -> Floats:
    """p-value of each of a row's score levels, given its past scores."""
    at_least = np.stack([(past >= levels[:, j : j + 1]).sum(axis=1) for j in range(levels.shape[1])], axis=1)
    return (1 + at_least) / (n[:, None] + 1)


def _scores(
    x: Floats, values: Floats, of_value: Floats, of_run: Floats
) -> tuple[Floats, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Scores, and the positions (of the value, of the run) that they come from."""
    which = np.full(x.shape, _UNSEEN, np.int64)
    for j in range(MOST_VALUES):
        which[x == values[:, j : j + 1]] = j
    run = channels.runs(x).astype(np.int64) - 1
    rows = np.arange(len(x))[:, None]
    return np.maximum(of_value[rows, which], of_run[rows, run]), (which, run)


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """Scores, p-values and causes (position in `channels.CHANNELS`) of the columns from `first` on.

    NaN and -1 where there is no reading.
    """
    arrays = {
        c: params[c].to_numpy()
        for c in ("values", "score_of_value", "score_of_run", "p_of_value", "p_of_run")
    }
    of_value, of_run = arrays["score_of_value"], arrays["score_of_run"]
    found, (which, run) = _scores(grid.values, arrays["values"], of_value, of_run)
    rows = np.arange(len(found))[:, None]
    p = np.minimum(arrays["p_of_value"][rows, which], arrays["p_of_run"][rows, run])
    flat = of_run[rows, run] > of_value[rows, which]
    absent = np.isnan(grid.values)
    cause = np.where(absent, -1, np.where(flat, channels.CHANNELS.index("flat"), 0)).astype(np.int8)
    kept = slice(first, None)
    return np.where(absent, np.nan, found)[:, kept], np.where(absent, np.nan, p)[:, kept], cause[:, kept]
