"""The backtest: how often a detector calls normal readings anomalies, and how often it misses changed ones.

On a sample of devices, detectors are trained without the last two hours (or the last fifth of a short
history) and score them. Readings in labelled faults are left out, and few of the others are faults, so the
share of alarms should be about alpha. In a copy, every tenth reading is moved by four standard deviations of the
sensor's short-term noise: as few of these as possible should be missed.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl

from models.devices import conversion
from models.devices.channels import recent_level, robust_scale
from models.devices.contracts import KEY
from models.devices.grid import LOOKBACK, Floats, Grid, Panel
from models.devices.left_out import in_faults
from models.devices.model import Model
from models.devices.options import Options
from models.devices.scoring import score_span
from models.devices.training import files_of, fit_grid, frames_of
from models.metrics import by_slice

HELD_OUT = timedelta(hours=2)
HELD_OUT_SHARE = 0.2
INJECTED_SCALES = 4.0
_EVERY = 10
ALPHAS = (0.01, 0.001)
LOSS_ALPHA = 0.01
_PREFIX = "backtest_"
COLUMNS = (*KEY, "time", "injected", "value", "score", "p_value", "rung")


def part_of_shard(
    panel: Panel,
    sample: pl.DataFrame,
    options: Options,
    faults: pl.DataFrame,
    kinds: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """Detectors of the sampled devices without the last hours, and these hours' readings with and without changes.

    `backtest_readings` has device, tag, time, mean, `moved` (the changed copy), `injected` (a changed
    reading) and `held_out` (false: only for looking back). The frames of the detectors are those of
    `training.fit_grid`, prefixed with `backtest_`. Readings in labelled `faults` are left out.
    Counters and angles are already converted, so the detectors do not convert them.
    """
    held_out = min(HELD_OUT // panel.interval, int(HELD_OUT_SHARE * panel.columns))
    if held_out < 1 or sample.is_empty():
        return {}
    parts = []
    for grid in panel.only(sample).grids(options.cells):
        grid, types = conversion.beforehand(grid, kinds)
        past = replace(grid, values=grid.values[:, :-held_out])
        normal = replace(grid, values=np.where(in_faults(grid, faults), np.nan, grid.values))
        frames = fit_grid(past, options, sample, faults, types) | {"readings": _readings(normal, held_out)}
        parts.append({_PREFIX + name: frame for name, frame in frames.items()})
    return frames_of(parts)


def _readings(grid: Grid, held_out: int) -> pl.DataFrame:
    """The last intervals and those before them that scoring needs: unchanged, and with injected changes."""
    first = max(0, grid.intervals - held_out - LOOKBACK)
    x = grid.values[:, first:]
    cells = np.zeros(x.shape, bool)
    turn = np.array([crc32(" ".join(key).encode()) for key in grid.keys.iter_rows()], np.int64)[:, None]
    cells[:, -held_out:] = (grid.index[-held_out:] + turn) % _EVERY == 0
    sign = np.where((grid.index[first:] // _EVERY + turn) % 2, 1.0, -1.0)
    scale = robust_scale(grid.values - recent_level(grid.values))
    with_changes = np.where(cells, x + INJECTED_SCALES * sign * scale[:, None], x)
    as_is = _long(grid, x, first, np.zeros_like(cells), is_moved=False)
    frame = pl.concat([as_is, _long(grid, with_changes, first, cells, is_moved=True)])
    begin = grid.times[grid.intervals - held_out]
    return frame.with_columns((pl.col("time") >= begin).alias("held_out"))


def _long(grid: Grid, x: Floats, first: int, is_injected: Any, is_moved: bool) -> pl.DataFrame:
    row, column = np.nonzero(~np.isnan(x))
    return pl.DataFrame(
        [
            *(grid.keys[c].gather(row).alias(c) for c in KEY),
            grid.times.gather(column + first),
            pl.Series("mean", x[row, column]),
            pl.Series("moved", np.full(len(row), is_moved)),
            pl.Series("injected", is_injected[row, column]),
        ]
    )


def predictions(parts: Mapping[str, pl.DataFrame], options: Options) -> pl.DataFrame:
    """The backtest: one row per unchanged held-out reading, and per changed one; see `COLUMNS`."""
    frames = {name.removeprefix(_PREFIX): frame for name, frame in parts.items() if name.startswith(_PREFIX)}
    if "readings" not in frames or not frames["readings"]["held_out"].any():
        return pl.DataFrame(schema=dict(zip(COLUMNS, _TYPES, strict=True)))
    model = Model.of(files_of(frames, options))
    return predictions_of(model, frames["readings"], options)


_TYPES = (
    pl.String,
    pl.String,
    pl.Datetime("us", "UTC"),
    pl.Boolean,
    pl.Float64,
    pl.Float64,
    pl.Float64,
    pl.String,
)


def predictions_of(model: Model, readings: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The scores of the backtest's readings by `model`, without joint detectors and missing readings."""
    model = replace(
        model, frames={**model.frames, "sensors": conversion.as_they_are(model.frames["sensors"])}
    )
    keys = readings.select(KEY).unique().sort(*KEY)
    time, held_out = pl.col("time"), pl.col("held_out")
    first, last = readings.filter(held_out).select(time.min().alias("first"), time.max().alias("last")).row(0)
    rows = []
    for is_moved in (False, True):
        part = readings.filter(moved=is_moved)
        scores = score_span(model, part.lazy(), keys, first, last + options.step, options).rows
        part = part.filter("held_out")
        rows.append(scores.join(part.select(*KEY, "time", "injected"), on=[*KEY, "time"], how="inner"))
    result = pl.concat([rows[0], rows[1].filter("injected")])
    return result.filter(pl.col("p_value").is_not_null()).select(COLUMNS).sort(*KEY, "time", "injected")


def loss(backtest: pl.DataFrame) -> float:
    """Share of changed readings missed at alpha 0.01, plus ten times the error of the alarm rate.

    Between 0 and about 1 for a detector whose alarm rate is alpha; infinite without rows.
    """
    if backtest.is_empty():
        return float("inf")
    alarm = (backtest["p_value"] <= LOSS_ALPHA).to_numpy()
    is_injected = backtest["injected"].to_numpy()
    missed_share = 1 - alarm[is_injected].mean() if is_injected.any() else 0.0
    rate = alarm[~is_injected].mean() if (~is_injected).any() else LOSS_ALPHA
    return float(missed_share + 10 * abs(rate - LOSS_ALPHA))


def metrics(backtest: pl.DataFrame) -> pl.DataFrame:
    """Long: slice, value_of_slice, metric, value; the alarm rates and missed shares of all rows and by rung."""
    measures = {"readings": pl.len(), **_measures()}
    return by_slice(backtest, measures, [None, "rung"]).drop_nulls("value")


def _measures() -> dict[str, pl.Expr]:
    p, is_injected = pl.col("p_value"), pl.col("injected")
    measures = {}
    for alpha in ALPHAS:
        measures[f"alarm_rate_at_{alpha:g}"] = (p.filter(~is_injected) <= alpha).mean()
        measures[f"missed_at_{alpha:g}"] = (p.filter(is_injected) > alpha).mean()
    return measures
