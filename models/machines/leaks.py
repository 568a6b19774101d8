"""Columns that reveal the outcome, such as a remaining useful life that was computed afterwards."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from models.machines.features import replaced_column
from models.machines.labels import next_failure_column
from models.machines.sampling import DRAWN
from models.machines.vocabulary import Vocabulary

_CORRELATION, _RANKING = 0.95, 0.995
_ROWS = 50_000
_LEAST_ROWS = 50
_LEAST_FAILING = 20
_MOMENT_HOURS = 0.01
_MOST_STATES = 25
"""A flag has at most so many different means over a window."""


def leaks(
    rows: pl.LazyFrame, vocabulary: Vocabulary, window_hours: int, horizons_hours: Sequence[int]
) -> dict[str, str]:
    """Sensors that reveal the next failure by themselves, with the reason; by their mean over `window_hours`.

    A sensor leaks where it falls (or rises) with the time to the next failure with a rank correlation of 0.95, or
    ranks the rows that some component fails after within the longest of the horizons above the others in 99.5 % of pairs;
    a flag, of few different values, also where it does so for another one. No
    sensor of a real machine is known to come near: the best on NASA's engines (C-MAPSS) has 0.72 and 98.3 %. Rows
    whose window holds a failure are left out: a remaining life is 0 there, and the next failure far away.
    """
    share = _ROWS / max(int(rows.select(pl.len()).collect().item()), 1)
    failure = pl.min_horizontal(next_failure_column(c) for c in vocabulary.components)
    since = pl.min_horizontal(replaced_column(c) for c in vocabulary.components)
    after = (since * 24 < window_hours - _MOMENT_HOURS).fill_null(value=False)
    reasons = {}
    for sensor in vocabulary.sensors:
        name = f"{sensor}_mean_{window_hours}h"
        if name not in rows.collect_schema():
            continue
        sample = (
            rows.filter(pl.col(DRAWN) < share, ~after)
            .select(value=name, hours=failure)
            .drop_nulls("value")
            .collect()
        )
        if reason := _leak(sample, sorted(horizons_hours)):
            reasons[sensor] = reason
    return reasons


def _leak(sample: pl.DataFrame, horizons_hours: Sequence[int]) -> str | None:
    before = sample.drop_nulls("hours")
    if before.height >= _LEAST_ROWS:
        rho = before.select(pl.corr("value", "hours", method="spearman")).item()
        if abs(rho) >= _CORRELATION:
            return f"its rank correlation with the time to the next failure is {rho:.2f}"
    is_flag = sample["value"].n_unique() <= _MOST_STATES
    area = max(_area(sample, hours) for hours in (horizons_hours if is_flag else horizons_hours[-1:]))
    if area >= _RANKING:
        return f"alone it separates rows before a failure from others in {area:.1%} of pairs"
    return None


def _area(sample: pl.DataFrame, hours: int) -> float:
    """The share of pairs of a row before a failure and another one that the value ranks alike; 0 if there are few."""
    failing = (sample["hours"] <= hours).fill_null(value=False).to_numpy()
    positives, negatives = int(failing.sum()), int((~failing).sum())
    if min(positives, negatives) < _LEAST_FAILING:
        return 0.0
    ranks = sample["value"].rank().to_numpy()[failing]
    area = float(np.sum(ranks) - positives * (positives + 1) / 2) / (positives * negatives)
    return max(area, 1 - area)
