"""Sensors with one value or a few: how rare a value is, and how long it has lasted.

The p-value of a value is the share of readings, past and new, whose value is at least
as rare (full conformal prediction; Vovk et al. 2005): 1 / (n + 1) for a value never seen, 1 / C(n + k, k) for
the k-th such value in a row. The p-value of a value beyond the extremes is divided by 1 plus its distance
from them in widths of the past values. A quantity that drifts in steps shows new values all the time: if some
occurred for the first time in the second half of the history, a new value that is no further from a past value than the
nearest past values are from each other is as likely as these were, however long it stays. The p-value of a run
of the same value is the share of readings at which this value had lasted at least as long (`grid.age_chances`), times the
number of values: a door may be shut all night, but not open. If two or more
numbers are new in the second half, they may last as long as any other. That of the number of
changes in the last `CHANGES` intervals, the share of readings with at least as many (`_p_of_changes`). The least of the
three counts, and the score is sqrt(-2 ln p); higher is more anomalous. Values are so coarse that there
are often fewer alarms than alpha.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels, words
from models.devices.calibration import P_FLOOR
from models.devices.grid import LOOKBACK, Floats, Grid, age_chances, ages, exchangeable, matrix_of

MOST_VALUES = 12
CHANGES = 20
"""Number of intervals, up to that of a reading, in which changes of the value are counted."""
FEWEST_TIMES = 5
"""The share of readings with many changes is that of the past up to the number that was reached this often."""
STATE, VARYING = "state", ("level", "daily", "levels", "wanders", "varies")
"""Kinds that can be set (`models.devices.contracts.KINDS`): with few values, and with many."""
_UNSEEN = MOST_VALUES
_FEWEST_STEPS = 2
"""A quantity drifts in steps if at least this many values are new in the second half of the history."""


def is_discrete(x: Floats, kind: pl.Series) -> NDArray[np.bool_]:
    """Which rows have at most `MOST_VALUES` different values, each five times on average.

    Words and rows of the `kind` state are states, however rare their values; rows of a kind in `VARYING` never are.
    """
    different = _changes(np.sort(x, axis=1)).sum(axis=1)
    often = (~np.isnan(x)).sum(axis=1) >= 5 * different
    state = (kind == STATE).fill_null(value=False).to_numpy() | words.has_words(x)
    varies = kind.is_in(VARYING).fill_null(value=False).to_numpy()
    result: NDArray[np.bool_] = (different > 0) & (different <= MOST_VALUES) & (state | (often & ~varies))
    return result


def is_coarse(x: Floats) -> NDArray[np.bool_]:
    """Which rows of at most `MOST_VALUES` different values are those of a quantity in coarse steps.

    They have three or more values, which are rarer the further they are from the most frequent one; the lowest and the
    highest are at most half as frequent as that one.
    """
    result = np.zeros(len(x), bool)
    for s, row in enumerate(x):
        _, counts = np.unique(row[~np.isnan(row)], return_counts=True)
        rises = np.diff(counts) > 0
        one_top = not (~rises[:-1] & rises[1:]).any()
        result[s] = 3 <= len(counts) <= MOST_VALUES and one_top and 2 * counts[[0, -1]].max() <= counts.max()
    return result


def _changes(sorted_values: Floats) -> NDArray[np.bool_]:
    """First cell of each group of equal values in sorted rows."""
    starts = np.ones(sorted_values.shape, bool)
    starts[:, 1:] = sorted_values[:, 1:] != sorted_values[:, :-1]
    return starts & ~np.isnan(sorted_values)


def fit(grid: Grid) -> pl.DataFrame:
    """One row per sensor: its values, the p-values of values, and those of runs by value and length.

    `values` are in rising order, NaN beyond the last; `p_of_value` has one more entry, for a value never
    seen. `p_of_runs` are lists of LOOKBACK numbers for each value. The whole history counts.
    """
    x = grid.values
    absent = np.isnan(x)
    n = (~absent).sum(axis=1)
    values = np.full((len(x), MOST_VALUES), np.nan)
    for s, row in enumerate(x):
        distinct = np.unique(row[~np.isnan(row)])
        values[s, : len(distinct)] = distinct
    counts = np.stack([(x == values[:, j : j + 1]).sum(axis=1) for j in range(MOST_VALUES)], axis=1)
    as_rare = [np.where(counts <= counts[:, j : j + 1], counts, 0).sum(axis=1) for j in range(MOST_VALUES)]
    runs = np.where(absent, 0, channels.runs(x)).astype(np.int16)
    late = _late(x, values)
    return grid.keys.with_columns(
        _array("values", values),
        _array(
            "p_of_value", (1 + np.stack([*as_rare, np.zeros(len(x), np.int64)], axis=1)) / (n[:, None] + 1)
        ),
        _p_of_runs(x, runs, values, n, late),
        _array("p_of_changes", _p_of_changes(changes(x), ~absent)),
        pl.Series("p_of_late", _p_of_late(x, late)),
        pl.Series("distinct", (counts > 0).sum(axis=1)),
        pl.Series("usual", values[np.arange(len(x)), counts.argmax(axis=1)]),
        pl.Series("low", values[:, 0]),
        pl.Series("high", np.nanmax(values, axis=1)),
    )


def _p_of_runs(
    x: Floats, runs: NDArray[np.int16], values: Floats, n: NDArray[np.int64], late: NDArray[np.bool_]
) -> pl.Series:
    lists: list[list[float]] = [[] for _ in x]
    distinct = (~np.isnan(values)).sum(axis=1)
    of_any, drifts = age_chances(runs, n), (late.sum(axis=1) >= _FEWEST_STEPS) & ~words.has_words(x)
    for j in range(MOST_VALUES):
        rows = np.flatnonzero(distinct > j)
        same = np.where(x[rows] == values[rows, j : j + 1], runs[rows], 0).astype(np.int16)
        chances = np.minimum(distinct[rows, None] * age_chances(same, n[rows]), 1.0)
        is_new_step = late[rows, j] & drifts[rows]
        chances = np.where(is_new_step[:, None], np.maximum(chances, of_any[rows]), chances)
        for s, p in zip(rows, chances, strict=True):
            lists[s] += p.tolist()
    return pl.Series("p_of_runs", lists, dtype=pl.List(pl.Float32))


def p_of_runs(params: pl.DataFrame) -> Floats:
    """p-values of runs by value and length, shape (S, MOST_VALUES + 1, LOOKBACK); 1 for a value never seen.

    Models of an earlier version have the same ones for all values.
    """
    table = np.ones((params.height, MOST_VALUES + 1, LOOKBACK))
    if "p_of_runs" in params.columns:
        lists = matrix_of(params["p_of_runs"], MOST_VALUES * LOOKBACK)
        table[:, :MOST_VALUES] = lists.reshape(-1, MOST_VALUES, LOOKBACK)
    else:
        table[:] = params["p_of_run"].to_numpy()[:, None, :]
    return np.maximum(table, P_FLOOR)


def _late(x: Floats, values: Floats) -> NDArray[np.bool_]:
    """Which values occurred for the first time in each row's second half, shape (S, MOST_VALUES)."""
    count_so_far = np.cumsum(~np.isnan(x), axis=1)
    early = np.where(count_so_far <= count_so_far[:, -1:] // 2, x, np.nan)
    columns = np.split(values, MOST_VALUES, axis=1)
    return np.stack([(x == v).any(axis=1) & ~(early == v).any(axis=1) for v in columns], axis=1)


def _p_of_late(x: Floats, late: NDArray[np.bool_]) -> Floats:
    """The chance that a reading shows a value for the first time, by how many did in each row's second half; 0 for none."""
    n, count = (~np.isnan(x)).sum(axis=1), late.sum(axis=1)
    return np.where(count > 0, (1 + count) / (1 + n - n // 2), 0.0)


def changes(x: Floats) -> NDArray[np.int64]:
    """How often the value changed from one reading to the next, of the readings in each cell's last `CHANGES` intervals.

    >>> changes(np.array([[0, np.nan, 1, 1, 0]])).tolist()
    [[0, 0, 1, 1, 2]]
    """
    columns = np.arange(x.shape[1])
    present = ~np.isnan(x)
    last = np.maximum.accumulate(np.where(present, columns, -1), axis=1)
    before = np.concatenate([np.full((len(x), 1), -1), last[:, :-1]], axis=1)
    rows = np.arange(len(x))[:, None]
    changed = present & (before >= 0) & (x != x[rows, np.maximum(before, 0)])
    total = changed.cumsum(axis=1)
    onward = np.where(present, columns, x.shape[1] - 1)[:, ::-1]
    first = np.minimum.accumulate(onward, axis=1)[:, ::-1][:, np.maximum(columns - CHANGES + 1, 0)]
    return np.maximum(total - total[rows, first], 0)


def _p_of_changes(counts: NDArray[np.int64], present: NDArray[np.bool_]) -> Floats:
    """p-values of the numbers of `changes` from 0 to CHANGES - 1, shape (S, CHANGES).

    The share of the past readings with at least as many, plus one more time of average length. Beyond the greatest number
    that was reached `FEWEST_TIMES`, or beyond one, it is at least that share, and the next change follows with the
    probability of past ones (Beta prior of 1/2 each). Of a sensor that never changed, the new value counts, not the change.
    """
    before = np.concatenate([np.zeros((len(counts), 1), np.int64), counts[:, :-1]], axis=1)
    numbers = range(1, CHANGES)
    at_least = np.stack([((counts >= c) & present).sum(axis=1) for c in numbers], axis=1)
    times = np.stack([((counts >= c) & (before < c)).sum(axis=1) for c in numbers], axis=1)
    n = present.sum(axis=1)[:, None]
    mean = np.where(times > 0, at_least / np.maximum(times, 1), CHANGES)
    p = np.minimum((mean + at_least) / (n + mean), 1.0)
    base = np.maximum((times >= FEWEST_TIMES).sum(axis=1), 1) - 1
    column = np.arange(CHANGES - 1)[None, :]
    further = column - base[:, None]
    k = times[np.arange(len(times)), base][:, None]
    more = np.where(further > 0, times, 0).sum(axis=1)[:, None]
    steps = np.maximum(further - 1, 0)
    onward = np.where(further > 0, (more + 0.5 + steps) / (more + k + 1 + steps), 1.0)
    tail = np.take_along_axis(p, base[:, None], axis=1) * onward.cumprod(axis=1)
    p = np.where(further > 0, np.maximum(np.maximum(tail, at_least / n), P_FLOOR), p)
    p = np.where(k > 0, p, 1.0)
    return np.concatenate([np.ones((len(p), 1)), np.minimum.accumulate(p, axis=1)], axis=1)


def _array(name: str, values: Floats) -> pl.Series:
    return pl.Series(name, values, dtype=pl.Array(pl.Float64, values.shape[1]))


def p_of_new(params: pl.DataFrame) -> Floats:
    """p-values of values never seen by how many there are in a row, shape (S, LOOKBACK)."""
    of_value = params["p_of_value"].to_numpy()
    n = np.rint(1 / of_value[:, _UNSEEN]).astype(np.int64) - 1
    return exchangeable(n, LOOKBACK)


def p_of_changes(params: pl.DataFrame) -> Floats:
    """p-values of the numbers of `changes`, shape (S, CHANGES); 1 in models of an earlier version."""
    if "p_of_changes" not in params.columns:
        return np.ones((params.height, CHANGES))
    return params["p_of_changes"].to_numpy()


def p_of_step(params: pl.DataFrame) -> tuple[Floats, Floats]:
    """The p-value of a value never seen that is no further from a past one than a step, and that step; for each sensor."""
    values = params["values"].to_numpy()
    gaps = np.diff(values, axis=1)
    steps = (1 + 1e-6) * np.where(np.isnan(gaps), np.inf, gaps).min(axis=1)
    return (params["p_of_late"].to_numpy() if "p_of_late" in params.columns else np.zeros_like(steps)), steps


def beyond(x: Floats, low: Floats, high: Floats) -> Floats:
    """How far values lie outside the range from `low` to `high`, in widths of the range; 0 if it has no width."""
    out = np.maximum(np.maximum(low - x, x - high), 0.0)
    distance: Floats = np.where(high > low, out / np.where(high > low, high - low, 1.0), 0.0)
    return distance


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """Scores, p-values and causes (position in `channels.CHANNELS`) of the columns from `first` on.

    NaN and -1 without a reading.
    """
    x = grid.values
    values, of_value = (params[c].to_numpy() for c in ("values", "p_of_value"))
    which = np.full(x.shape, _UNSEEN, np.int64)
    for j in range(MOST_VALUES):
        which[x == values[:, j : j + 1]] = j
    rows = np.arange(len(x))[:, None]
    absent = np.isnan(x)
    rarity, persistence = (
        of_value[rows, which],
        p_of_runs(params)[rows, which, channels.runs(x).astype(np.int64) - 1],
    )
    new = ~absent & (which == _UNSEEN)
    again = np.maximum(ages(new).astype(np.int64), 1) - 1
    low, high = (params[name].to_numpy()[:, None] for name in ("low", "high"))
    of_new = np.maximum(p_of_new(params)[rows, again] / (1 + beyond(x, low, high)), P_FLOOR)
    late, step = (column[:, None] for column in p_of_step(params))
    drifts = np.zeros_like(new)
    for j in range(MOST_VALUES):
        drifts |= np.abs(x - values[:, j : j + 1]) <= step
    rarity = np.where(new, np.where(drifts, np.maximum(of_new, late), of_new), rarity)
    restless = p_of_changes(params)[rows, changes(x)]
    least = np.minimum(rarity, persistence)
    p = np.where(absent, np.nan, np.minimum(least, restless))[:, first:]
    flat, spread = (channels.CHANNELS.index(name) for name in ("flat", "spread"))
    cause = np.where(persistence < rarity, flat, 0)
    cause = np.where(restless < least, spread, cause)
    cause = np.where(absent, -1, cause).astype(np.int8)
    return np.sqrt(-2 * np.log(p)), p, cause[:, first:]
