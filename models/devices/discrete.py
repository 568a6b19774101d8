"""Sensors that show one value only, or a few: how rare is this value, how long has it been there.

The p-value of a value is the share of the past readings, with the new one among them, whose value is
as rare (full conformal prediction; Vovk et al. 2005): 1 / (n + 1) for a value never seen. That of a run
of the same value is the share of readings after a run as long (`grid.age_chances`). The lesser of the
two counts, and the score is sqrt(-2 ln p); higher is more anomalous. Values are so coarse that there
are often fewer alarms than alpha.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.grid import Floats, Grid, age_chances

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
    """One row per sensor: its values, and the p-values of values and of runs by their length.

    `values` in rising order, NaN beyond the last; `p_of_value` has one entry more, for a value never
    seen. All of the history counts.
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
    return grid.keys.with_columns(
        _array("values", values),
        _array(
            "p_of_value", (1 + np.stack([*as_rare, np.zeros(len(x), np.int64)], axis=1)) / (n[:, None] + 1)
        ),
        _array("p_of_run", age_chances(runs, n)),
        pl.Series("distinct", (counts > 0).sum(axis=1)),
        pl.Series("usual", values[np.arange(len(x)), counts.argmax(axis=1)]),
        pl.Series("low", values[:, 0]),
        pl.Series("high", np.nanmax(values, axis=1)),
    )


def _array(name: str, values: Floats) -> pl.Series:
    return pl.Series(name, values, dtype=pl.Array(pl.Float64, values.shape[1]))


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """Scores, p-values and causes (position in `channels.CHANNELS`) of the columns from `first` on.

    NaN and -1 where there is no reading.
    """
    x = grid.values
    values, of_value, of_run = (params[c].to_numpy() for c in ("values", "p_of_value", "p_of_run"))
    which = np.full(x.shape, _UNSEEN, np.int64)
    for j in range(MOST_VALUES):
        which[x == values[:, j : j + 1]] = j
    rows = np.arange(len(x))[:, None]
    rarity, lasting = of_value[rows, which], of_run[rows, channels.runs(x).astype(np.int64) - 1]
    absent = np.isnan(x)
    p = np.where(absent, np.nan, np.minimum(rarity, lasting))[:, first:]
    flat = channels.CHANNELS.index("flat")
    cause = np.where(absent, -1, np.where(lasting < rarity, flat, 0)).astype(np.int8)
    return np.sqrt(-2 * np.log(p)), p, cause[:, first:]
