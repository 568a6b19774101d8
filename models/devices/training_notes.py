"""The notes of a training: alarm rates that its backtest exceeds, and sensors that it cannot judge well."""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from models.devices.aggregation import interval_of
from models.devices.backtest import ALPHAS
from models.devices.contracts import KEY
from models.devices.grid import DAY
from models.devices.options import Options
from models.devices.robust import LEAST_OF_A_DAY
from models.scenario import File

_STEADY = ("robust_level", "robust_seasonal")
"""The rungs of sensors that should not drift."""
_TOO_OFTEN = 3.0
_FEWEST_CALLED = 10
_SLOW = 1.8
_INTERVALS = ("2m", "3m", "4m", "5m", "6m", "10m", "12m", "15m", "20m", "30m", "1h")


def of_backtest(backtest: pl.DataFrame) -> list[str]:
    """A note for each alpha at which the backtest calls more than three times alpha of the normal readings."""
    normal = backtest.filter(~pl.col("injected"))
    notes = []
    for alpha in ALPHAS:
        alarms = int((normal["p_value"] <= alpha).sum())
        if alarms >= _FEWEST_CALLED and alarms > _TOO_OFTEN * alpha * normal.height:
            share = alarms / normal.height
            notes.append(
                f"The backtest calls {share:.2%} of {normal.height:,} readings at alpha {alpha:g}, {share / alpha:.0f} "
                "times the expected share. Label known faults (ingest --labels), or train on a longer history."
            )
    return notes


def of_sensors(files: Mapping[str, File], options: Options) -> list[str]:
    """Notes on sensors that cannot alarm, have a short history, drift, have sentinels, or send more slowly than expected."""
    sensors = files["sensors"]
    if not isinstance(sensors, pl.DataFrame):
        return []
    blind, short = _blind(sensors, files, options), _short(sensors)
    return [*blind, *short, *_drifting(sensors), *_sentinels(sensors), *_slow(sensors, options)]


def _blind(sensors: pl.DataFrame, files: Mapping[str, File], options: Options) -> list[str]:
    blind = sensors.filter(rung="none").select(KEY)
    calibration, pooled = files.get("calibration"), files.get("pooled")
    if isinstance(pooled, pl.DataFrame):
        blind = blind.join(pooled, on="tag", how="anti")
    if isinstance(calibration, pl.DataFrame):
        without = calibration.filter(pl.col("threshold").is_null()).select(KEY)
        blind = pl.concat([blind, without.join(sensors, on=list(KEY), how="semi")])
    if blind.is_empty():
        return []
    return [
        f"{blind.height:,} of {sensors.height:,} sensors have too little history for a value to be called at any alpha "
        f"(fewer than {options.fewest_readings} readings, or too few for calibration), for example {_example(blind)}."
    ]


def _short(sensors: pl.DataFrame) -> list[str]:
    span = pl.col("last") - pl.col("first")
    short = sensors.filter(pl.col("rung") != "none", span < LEAST_OF_A_DAY * DAY)
    if short.is_empty():
        return []
    hours = short.select(span.max()).item() / timedelta(hours=1)
    return [
        f"{short.height:,} of {sensors.height:,} sensors, such as {_example(short)}, have at most {hours:.3g} hours of "
        "history: too little for a daily cycle. Train again once there are two days."
    ]


def _drifting(sensors: pl.DataFrame) -> list[str]:
    some = sensors.filter(pl.col("trend_per_day").is_not_null(), pl.col("rung").is_in(_STEADY)).sort(*KEY)
    if some.is_empty():
        return []
    return [
        f"{some.height:,} of {sensors.height:,} sensors drift, such as {_example(some)} by {some['trend_per_day'][0]:+.3g} "
        "a day. Their normal level moves: train on a schedule."
    ]


def _sentinels(sensors: pl.DataFrame) -> list[str]:
    some = sensors.filter(pl.col("sentinels").list.len() > 0)
    if some.is_empty():
        return []
    codes = some["sentinels"].explode().unique().sort().to_list()
    examples = ", ".join(f"{code:g}" for code in codes[:5]) + (", ..." if len(codes) > 5 else "")
    return [
        f"{some.height:,} sensors have values that stand for a missing reading ({examples}): they count as missing."
    ]


def _slow(sensors: pl.DataFrame, options: Options) -> list[str]:
    notes = []
    for (pace,), some in (
        sensors.sort("pace", *KEY).partition_by("pace", as_dict=True, maintain_order=True).items()
    ):
        if pace > 1:
            minutes = options.step.total_seconds() / 60 * int(pace)
            notes.append(
                f"{some.height:,} of {sensors.height:,} sensors, such as {_example(some)}, send more slowly than every "
                f"{options.interval}: they are judged every {minutes:.3g} minutes."
            )
    return [*notes, *_irregular(sensors.filter(pace=1), options)]


def _irregular(sensors: pl.DataFrame, options: Options) -> list[str]:
    span = (pl.col("last") - pl.col("first")) / options.step
    paces = sensors.filter(pl.col("readings") > 1).select(*KEY, pace=span / (pl.col("readings") - 1))
    slow = paces.filter(pl.col("pace") >= _SLOW)
    if slow.is_empty():
        return []
    pace = options.step * float(slow["pace"].median())  # type: ignore[arg-type]
    intervals = [text for text in _INTERVALS if options.step < interval_of(text) <= 1.1 * pace]
    if not intervals:
        return []
    return [
        f"{slow.height:,} sensors, such as {_example(slow)}, send a reading about every "
        f"{pace.total_seconds() / 60:.3g} minutes, not regularly, but the interval of the store is {options.interval}: "
        f"their jumps, drifts and flat lines are hard to detect. Use a separate store with --interval {intervals[-1]}."
    ]


def _example(sensors: pl.DataFrame) -> str:
    device, tag = sensors.select(KEY).sort(*KEY).row(0)
    return f"{device} {tag}"
