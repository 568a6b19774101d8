"""The new normal: a sensor that has stayed different from what was learnt is judged by its last day as well.

The rule: in each quarter of the hold (`Options.hold_hours`, at least `FEWEST_INTERVALS` intervals) before the
hour, at least a fifth of the sensor's readings are anomalies, at least two. Then a detector is fitted on the
readings of the hold, as in training, and a reading of the hour is as unusual as the lesser of the two
detectors says. So the new level, scale or cycle is normal, a return to the old one is, too, and what departs
from both is not. Joint detectors follow the same rule. All follows from the readings: nothing is kept
between runs.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from models.devices.contracts import KEY
from models.devices.grid import panel_of
from models.devices.model import Model
from models.devices.options import Options
from models.devices.training import files_of, fit_grid, stacked
from models.scenario import Scores

FEWEST_INTERVALS = 240
QUARTERS = 4
STAYED_SHARE, FEWEST_ANOMALIES = 0.2, 2
_SUSPECT_SHARE = 0.05
_JUDGED = ("score", "p_value", "is_anomaly", "rung", "cause", "expected", "low", "high")
REASON = "new normal: in the {:g} hours before, it differed from what was learnt; judged by these, too"

Scorer = Callable[[Model, pl.DataFrame, datetime, datetime], Scores]
"""Scores of keys from one moment up to another, by a model."""


def hold_of(options: Options) -> timedelta:
    """How long a sensor must have been different; 0 for never."""
    if not options.hold_hours:
        return timedelta(0)
    return max(timedelta(hours=options.hold_hours), FEWEST_INTERVALS * options.step)


def relearnt(
    scores: Scores,
    readings: pl.LazyFrame,
    faults: pl.DataFrame,
    first: datetime,
    until: datetime,
    options: Options,
    scorer: Scorer,
    model: Model,
) -> Scores:
    """`scores` of the intervals from `first` up to `until`, with those sensors judged anew that have stayed different.

    Readings in labelled `faults` (device, tag, start, end) never become normal.
    """
    hold = hold_of(options)
    devices = _suspects(scores.rows)
    if not hold or devices.is_empty():
        return scores
    keys = scores.keys.select(*KEY).join(devices, on="device", how="semi")
    stayed = _stayed(scorer(model, keys, first - hold, first).rows, first - hold, hold)
    if stayed.is_empty():
        return scores
    devices = stayed.select("device").unique()
    keys = keys.join(devices, on="device", how="semi")
    again = _fitted(readings, devices, faults, first - hold, first, options)
    rows = scorer(again, keys, first, until).rows.join(stayed, on=list(KEY), how="semi")
    judged = rows.filter(pl.col("p_value").is_not_null()).select(*KEY).unique()
    return Scores(_lesser(scores.rows, rows), _with_reason(scores.keys, judged, hold))


def _values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("value").is_not_null())


def _suspects(rows: pl.DataFrame) -> pl.DataFrame:
    """Devices with a key of which more than a twentieth of the rows are anomalies: others need not be looked at."""
    shares = _values(rows).group_by(KEY).agg(pl.col("is_anomaly").mean())
    return shares.filter(pl.col("is_anomaly") >= _SUSPECT_SHARE).select("device").unique().sort("device")


def _stayed(rows: pl.DataFrame, start: datetime, hold: timedelta) -> pl.DataFrame:
    """Keys that are different in each quarter of the hold."""
    quarter = (
        (pl.col("time") - start).dt.total_microseconds() * QUARTERS // (hold // timedelta(microseconds=1))
    )
    called = pl.col("is_anomaly")
    by_quarter = (
        _values(rows).group_by(*KEY, quarter.alias("quarter")).agg(called.sum().alias("n"), called.mean())
    )
    different = by_quarter.filter(pl.col("n") >= FEWEST_ANOMALIES, called >= STAYED_SHARE)
    return different.group_by(KEY).len().filter(pl.col("len") == QUARTERS).select(*KEY).sort(*KEY)


def _fitted(
    readings: pl.LazyFrame,
    devices: pl.DataFrame,
    faults: pl.DataFrame,
    start: datetime,
    end: datetime,
    options: Options,
) -> Model:
    """Detectors of `devices` from the readings of the hold alone."""
    known = readings.filter(pl.col("time") >= start, pl.col("time") < end)
    known = known.join(devices.lazy(), on="device", how="semi").select(*KEY, "time", "mean")
    keys = known.select(*KEY).unique().sort(*KEY).collect()
    panel = panel_of(known, keys, start, end, options.step)
    nothing = keys.clear()
    parts = stacked([fit_grid(grid, options, nothing, faults) for grid in panel.grids(options.cells)])
    return Model.of(files_of(parts, options))


def _lesser(rows: pl.DataFrame, again: pl.DataFrame) -> pl.DataFrame:
    """Of each row the verdict whose p-value is greater."""
    row = [*KEY, "time"]
    theirs = again.select(*row, pl.col(_JUDGED).name.suffix("|again"))
    both = rows.join(theirs, on=row, how="left", maintain_order="left")
    normal = (pl.col("p_value|again") > pl.col("p_value")).fill_null(False)
    chosen = [pl.when(normal).then(f"{name}|again").otherwise(name).alias(name) for name in _JUDGED]
    return both.with_columns(chosen).select(rows.columns)


def _with_reason(keys: pl.DataFrame, judged: pl.DataFrame, hold: timedelta) -> pl.DataFrame:
    told = pl.lit(REASON.format(hold / timedelta(hours=1)))
    named = keys.join(judged.with_columns(new=pl.lit(True)), on=list(KEY), how="left", maintain_order="left")
    return named.with_columns(
        pl.when("new", pl.col("status") == "scored").then(told).otherwise("reason").alias("reason")
    ).drop("new")
