"""Columns that reveal the outcome, such as a remaining useful life that was computed afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import gt, lt

import numpy as np
import polars as pl

from models.machines.features import replaced_column, windows
from models.machines.labels import fails_within, next_failure, some_fails_within
from models.machines.options import Options
from models.machines.rates import failures_after
from models.machines.sampling import DRAWN
from models.machines.vocabulary import Vocabulary

_CORRELATION, _RANKING = 0.95, 0.995
_ROWS = 50_000
_LEAST_ROWS = 50
_LEAST_FAILING = 20
_MOMENT_HOURS = 0.01
_MOST_STATES = 25
"""A flag has at most this many different means over a window."""
_SURE, _LEAST_FAILURES, _LEAST_SHARE = 0.995, 10, 0.5
_DAY_HOURS = 24


def without_leaks(
    rows: pl.LazyFrame, vocabulary: Vocabulary, options: Options
) -> tuple[Vocabulary, list[str]]:
    """`vocabulary` without sensors and errors that reveal the outcome, except those in `keep_columns`, and notes on them."""
    components, hours = vocabulary.components, min(options.horizons_hours)
    errors = {e: f"{e}_count_{options.error_windows_hours[0]}h" for e in vocabulary.errors}
    reasons = {
        "sensors": {},
        "errors": only_before_failures(rows, components, errors, options.error_windows_hours[0], hours),
    }
    if window_hours := windows(vocabulary.interval_hours, options).hours:
        means = {s: f"{s}_mean_{window_hours[0]}h" for s in vocabulary.sensors}
        flags = only_before_failures(rows, components, means, window_hours[0], hours)
        reasons["sensors"] = flags | leaks(rows, vocabulary, window_hours[0], options.horizons_hours)
    notes = [
        f"{word} {name}: {reason}; it is "
        + (
            "kept"
            if name in options.keep_columns
            else f"left out. If it is known at that time, use --keep-column {name}"
        )
        for word, kind in (("sensor", "sensors"), ("error", "errors"))
        for name, reason in sorted(reasons[kind].items())
    ]
    strange = {*options.keep_columns} - {*vocabulary.sensors, *vocabulary.errors}
    notes += [f"--keep-column {name}: no sensor or error has this name" for name in sorted(strange)]
    rest = {
        kind: tuple(n for n in getattr(vocabulary, kind) if n not in names or n in options.keep_columns)
        for kind, names in reasons.items()
    }
    left_out = tuple(name for name in vocabulary.errors if name not in rest["errors"])
    return replace(vocabulary, sensors=rest["sensors"], errors=rest["errors"], left_out=left_out), notes


def leaks(
    rows: pl.LazyFrame, vocabulary: Vocabulary, window_hours: int, horizons_hours: Sequence[int]
) -> dict[str, str]:
    """Sensors whose mean over `window_hours` alone reveals the next failure, with the reason.

    A sensor leaks if it falls (or rises) with the time to the next failure with a rank correlation of 0.95, or if it
    ranks rows before a failure of some component within the longest horizon above the others in 99.5 % of pairs;
    a flag, with few different values, also if it does so for another horizon. No
    sensor of a real machine is known to come near: the best on NASA's engines (C-MAPSS) has 0.72 and 98.3 %. Rows
    whose window holds a failure are left out: a remaining life is 0 there, and the next failure far away.
    """
    share = _ROWS / max(int(rows.select(pl.len()).collect().item()), 1)
    failure = pl.min_horizontal(next_failure(c) for c in vocabulary.components)
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


def only_before_failures(
    rows: pl.LazyFrame, components: Sequence[str], columns: Mapping[str, str], window_hours: int, hours: int
) -> dict[str, str]:
    """The `columns` (flag or error -> feature) that are on only before failures, with the reason.

    A feature is on if it is not at its minimum (or maximum). It leaks if a failure follows within `hours` after
    99.5 % of such rows, and they precede half of a component's failures, at least ten: it is a label, or a record of the
    failure, that is dated by its day. Rows of the day after a replacement, whose window holds the flag, are left out.
    """
    if not columns:
        return {}
    since = pl.min_horizontal(replaced_column(c) for c in components) * 24
    later = rows.filter((since >= window_hours + _DAY_HOURS).fill_null(value=True))
    values = pl.col(columns.values())
    ends = pl.collect_all([later.select(values.min()), later.select(values.max())])
    least, most = (end.row(0, named=True) for end in ends)
    states = [
        (name, f"{word} {end:g}", is_beyond(pl.col(column), end))
        for name, column in columns.items()
        for word, end, is_beyond in (("above", least[column], gt), ("below", most[column], lt))
        if end is not None
    ]
    if not states:
        return {}
    fails = some_fails_within(components, hours)
    shares = (
        later.select(fails.filter(on).mean().alias(f"{i}") for i, (*_, on) in enumerate(states))
        .collect()
        .row(0)
    )
    reasons = {}
    for (name, state, is_on), share in zip(states, shares, strict=True):
        for component in components if (share or 0.0) >= _SURE else ():
            due = later.filter(fails_within(component, hours))
            every, hits = (failures_after(some, [component])[component] for some in (due, due.filter(is_on)))
            if hits >= max(_LEAST_FAILURES, _LEAST_SHARE * every):
                reasons[name] = (
                    f"it is {state} only before failures, {hits:,} of {every:,} of {component} within {hours} h"
                )
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
        return f"it alone separates rows before a failure from others in {area:.1%} of pairs"
    return None


def _area(sample: pl.DataFrame, hours: int) -> float:
    """The share of pairs (a row before a failure, another row) that the value ranks in the same way; 0 if there are few."""
    is_failing = (sample["hours"] <= hours).fill_null(value=False).to_numpy()
    positives, negatives = int(is_failing.sum()), int((~is_failing).sum())
    if min(positives, negatives) < _LEAST_FAILING:
        return 0.0
    ranks = sample["value"].rank().to_numpy()[is_failing]
    area = float(np.sum(ranks) - positives * (positives + 1) / 2) / (positives * negatives)
    return max(area, 1 - area)
