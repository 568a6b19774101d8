"""How well faults are detected: precision, recall and delay per kind of fault, compared with two baselines.

A fault is detected if a row of its sensor, or of its device's joint detector, is called an anomaly
during the fault; the delay is the number of intervals until then. Precision is the share of the called
rows of devices with this kind of fault that lie within the fault or up to 30 intervals after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.alarms import evidence, level
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.grid import DAY, Floats, Grid, lagged
from models.devices.model import Model
from models.devices.options import Options
from models.devices.scoring import score_span
from models.devices.simulation import FAULTS, Faulty, Simulated, inject, readings_of, simulate
from models.devices.training import files_of, prepare

AFTERMATH = 30
"""Intervals after a fault in which its traces are not counted as false."""
_WINDOW = 60


def outcomes(anomalies: pl.DataFrame, faulty: Faulty) -> pl.DataFrame:
    """Per kind of fault: fault, `faults`, `precision`, `recall`, `delay` (median of detected faults, in intervals).

    `anomalies` has the device, tag and time of each anomaly. Null if the denominator is zero.
    """
    grid = faulty.grid
    moment = {c: grid.start + pl.col(c) * grid.interval for c in ("start", "end")}
    faults = faulty.faults.rename({"tag": "fault_tag"}).with_columns(**moment)
    pairs = anomalies.select(*KEY, "time").join(faults, on="device", how="inner")
    concerns = (pl.col("tag") == pl.col("fault_tag")) | (pl.col("tag") == JOINT_TAG)
    pair = (pl.col("fault") == "correlation") & pl.col("tag").is_in(["speed", "current"])
    inside = (concerns | pair) & (pl.col("time") >= pl.col("start"))
    pairs = pairs.with_columns(
        (inside & (pl.col("time") < pl.col("end"))).alias("during"),
        (inside & (pl.col("time") < pl.col("end") + AFTERMATH * grid.interval)).alias("true"),
    )
    first = pairs.filter("during").group_by("device").agg(pl.col("time").min().alias("first"))
    by_fault = (
        faults.join(first, on="device", how="left")
        .group_by("fault")
        .agg(
            pl.len().alias("faults"),
            pl.col("first").is_not_null().mean().alias("recall"),
            ((pl.col("first") - pl.col("start")) / grid.interval).median().alias("delay"),
        )
    )
    precision = pairs.group_by("fault").agg(pl.col("true").mean().alias("precision"))
    order = pl.DataFrame({"fault": list(FAULTS)})
    columns = ["fault", "faults", "precision", "recall", "delay"]
    by_order = order.join(by_fault, on="fault", maintain_order="left")
    return by_order.join(precision, on="fault", how="left", maintain_order="left").select(columns)


def called_by_scores(rows: pl.DataFrame, alpha: float) -> pl.DataFrame:
    """The published rows whose p-value is at most `alpha`."""
    return rows.filter(pl.col("p_value") <= alpha).select(*KEY, "time")


def plain_one_class_svms(past: Grid) -> list[Any]:
    """Baseline: scikit-learn's `OneClassSVM` behind a standard scaler, with its defaults, one per sensor of `past`."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    columns = [values[~np.isnan(values), None] for values in past.values]
    return [make_pipeline(StandardScaler(), OneClassSVM()).fit(x) for x in columns]


def called_by_models(models: Sequence[Any], now: Grid) -> pl.DataFrame:
    """The readings of `now` that its sensors' models call -1: a loop over one model per sensor."""
    is_anomaly = np.zeros(now.values.shape, bool)
    for s, (model, after) in enumerate(zip(models, now.values, strict=True)):
        present = ~np.isnan(after)
        if present.any():
            is_anomaly[s, present] = model.predict(after[present, None]) == -1
    return _rows(now, is_anomaly)


def rolling_z_score(grid: Grid, first: int, threshold: float = 3.0) -> pl.DataFrame:
    """Baseline: readings more than `threshold` standard deviations from the mean of the 60 intervals before."""
    count, total, squares = (np.zeros(grid.values.shape) for _ in range(3))
    for lag in range(1, _WINDOW + 1):
        before: Floats = lagged(grid.values, lag)
        present = ~np.isnan(before)
        values = np.where(present, before, 0.0)
        count, total, squares = count + present, total + values, squares + values**2
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        is_anomaly = (np.abs(grid.values - mean) > threshold * deviation) & (count >= _WINDOW / 2)
    return _rows(
        replace(grid, values=grid.values[:, first:], start=grid.start + first * grid.interval),
        is_anomaly[:, first:],
    )


def _rows(grid: Grid, is_anomaly: NDArray[np.bool_]) -> pl.DataFrame:
    row, column = np.nonzero(is_anomaly)
    return pl.DataFrame([*(grid.keys[c].gather(row).alias(c) for c in KEY), grid.times.gather(column)])


def trained_model(readings: pl.LazyFrame, start: datetime, as_of: datetime, options: Options) -> Model:
    """The model of simulated readings from `start` to `as_of`, all in one shard."""
    devices = readings.select(pl.col("device").n_unique().cast(pl.Int64)).collect().item()
    fleet = pl.DataFrame({"first": [start], "devices": [devices]})
    return Model.of(files_of(prepare({"readings": readings}, {"fleet": fleet}, as_of, options), options))


@dataclass(frozen=True)
class Trial:
    """Simulated devices: a model of the past without faults, and the `hours` after it, with and without faults."""

    simulation: Simulated
    faulty: Faulty
    past: int
    model: Model
    options: Options
    fine: pl.DataFrame
    """The scored rows without faults."""
    with_faults: pl.DataFrame
    """The scored rows with a fault in each device."""


def trial(
    devices: int, start: datetime, *, days: int = 1, hours: int = 3, detector: str = "auto", seed: int = 7
) -> Trial:
    """Train on `days` without faults, then score the `hours` after them without faults and with all kinds in turn."""
    past = days * (DAY // timedelta(minutes=1))
    simulation = simulate(devices, start, past + 60 * hours, seed=seed)
    faulty = inject(simulation, list(FAULTS), past, seed=seed)
    as_of, until = start + DAY * days, start + DAY * days + timedelta(hours=hours)
    options = Options.of({"detector": detector, "seed": seed})
    model = trained_model(readings_of(simulation.grid).lazy(), start, as_of, options)
    keys = pl.concat(
        [simulation.grid.keys, simulation.grid.keys.select("device", pl.lit(JOINT_TAG).alias("tag")).unique()]
    )
    fine, scores = (
        score_span(model, readings_of(grid).lazy(), keys, as_of, until, options).rows
        for grid in (simulation.grid, faulty.grid)
    )
    return Trial(simulation, faulty, past, model, options, fine, scores)


def compare(trial: Trial, alphas: Sequence[float] = (0.01, 0.001), *, baselines: bool = True) -> pl.DataFrame:
    """The faults that the scenario detects, and those of two baselines.

    Long: `method`, then as `outcomes`, and `alarm_rate`: the share of the readings of the same devices,
    without faults, that are called anomalies; a lost reading does not count as a reading.
    """
    frames = []
    for alpha in alphas:
        p_values = trial.fine.filter(pl.col("rung") != "missing")["p_value"].to_numpy()
        rate = float((p_values <= alpha).mean())
        summary = outcomes(called_by_scores(trial.with_faults, alpha), trial.faulty)
        frames.append(_lines_of(f"{trial.options.detector}, alpha {alpha:g}", summary, rate))
    if not baselines:
        return pl.concat(frames)
    past, grid = trial.past, trial.simulation.grid
    svms = plain_one_class_svms(replace(grid, values=grid.values[:, :past]))
    cells = int(np.isfinite(grid.values[:, past:]).sum())
    for method, rows_of in (
        ("plain one-class SVM", lambda grid: called_by_models(svms, _after(grid, past))),
        ("rolling z-score above 3", lambda grid: rolling_z_score(grid, past)),
    ):
        summary = outcomes(rows_of(trial.faulty.grid), trial.faulty)
        frames.append(_lines_of(method, summary, rows_of(grid).height / cells))
    return pl.concat(frames)


def alarm_outcomes(trial: Trial, per_device_and_day: float) -> pl.DataFrame:
    """The faults that alarms detect, with a budget of false alarms.

    As `outcomes`, with `false_alarms`: of devices without faults, the alarms that begin in an hour, per device and
    day. A fault must reach the level of the hour without faults, as if it were the only one of its fleet.
    """
    hour = pl.col("time").dt.truncate("1h")
    devices, hours = trial.fine["device"].n_unique(), trial.fine.select(hour).n_unique()
    calls, false = [], 0
    for (begin,), rows in trial.with_faults.group_by(hour, maintain_order=True):
        chances = evidence(trial.fine.lazy().filter(hour == begin))
        is_alarm = pl.col("evidence") <= level(chances, per_device_and_day * devices)
        false += chances.filter(is_alarm)["device"].n_unique()
        calls.append(
            rows.filter("is_anomaly").join(evidence(rows.lazy()).filter(is_alarm), on=list(KEY), how="semi")
        )
    rate = pl.lit(24 * false / (devices * hours)).alias("false_alarms")
    return outcomes(pl.concat(calls), trial.faulty).with_columns(rate)


def false_alarms(fine: pl.DataFrame, alphas: Sequence[float] = (0.01, 0.001)) -> pl.DataFrame:
    """Per device without faults and rung: the number of scored `rows`, and the number with p <= each alpha.

    Columns device, rung, rows and `at_<alpha>`. Lost readings have the rung `missing`.
    """
    alarms = [(pl.col("p_value") <= alpha).sum().alias(f"at_{alpha:g}") for alpha in alphas]
    counts = fine.group_by("device", "rung").agg(pl.len().alias("rows"), *alarms)
    return counts.sort("device", "rung")


def rate_with_error(alarms: pl.Series, rows: pl.Series) -> tuple[float, float]:
    """Alarms per row over all devices, and half the width of the 95 % interval.

    One element per device: all rows of a device are one observation, because neighbouring
    anomalies have one cause. The interval is that of a ratio of two means (Cochran 1977, Sampling
    Techniques, chapter 6).
    """
    k, n = alarms.to_numpy().astype(float), rows.to_numpy().astype(float)
    rate = float(k.sum() / n.sum())
    many = len(k) / max(1, len(k) - 1)
    return rate, float(1.96 * np.sqrt(many * ((k - rate * n) ** 2).sum()) / n.sum())


def _lines_of(method: str, frame: pl.DataFrame, rate: float) -> pl.DataFrame:
    return frame.select(pl.lit(method).alias("method"), pl.all(), pl.lit(rate).alias("alarm_rate"))


def _after(grid: Grid, first: int) -> Grid:
    return replace(grid, values=grid.values[:, first:], start=grid.start + first * grid.interval)
