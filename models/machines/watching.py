"""The inputs of failure probabilities that are watched for drift, by day and relative to each machine's usual values."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import polars as pl

from models.drift import CYCLE, every_cycle
from models.machines.contracts import sensors

DAY = timedelta(days=1)
SILENT_DAYS = 7
"""After this many days without telemetry, a machine is no longer expected to send any."""
FEWEST_DAYS = 7
"""A machine with fewer days of telemetry in the training has no usual level."""

_NOT_KNOWN = float("nan")
_MAD = 1.4826
_MACHINE = "machine_id"
_OURS = ("telemetry", "errors", "model", "age_years", CYCLE)


def watched_inputs(
    tables: Mapping[str, pl.LazyFrame], since: datetime | None, trained_as_of: datetime, as_of: datetime
) -> pl.LazyFrame:
    """One row per machine and day; days end at `as_of`, and `cycle` is a day's end.

    For each sensor, the distance of the day's mean from the machine's usual level, in its usual deviations; the usual
    level is the median of the days up to `trained_as_of`, NaN for a machine that has none. `telemetry` is the
    number of rows as a share of the maximum, `errors` the number of errors; `model` and `age_years` are as on record.
    """
    columns = sensors(tables["telemetry"])
    names = [f"{name}|" for name in columns]
    rows = tables["telemetry"].rename(dict(zip(columns, names, strict=True))).filter(pl.col("time") <= as_of)
    if since is not None:
        rows = rows.filter(pl.col("time") > since)
    daily = rows.group_by(_MACHINE, _day(as_of)).agg(pl.len().alias("telemetry"), pl.col(names).mean())
    days = every_cycle(daily, [_MACHINE], "telemetry", DAY, SILENT_DAYS, as_of)
    days = days.collect(engine="streaming").lazy()
    usual = _usual(days.filter(pl.col(CYCLE) <= trained_as_of), names)
    table = days.join(usual, on=_MACHINE, how="left")
    most = pl.col("telemetry").max()
    features = [(pl.col("telemetry") / most).alias("telemetry")]
    for sensor, name in zip(columns, names, strict=True):
        scale = pl.max_horizontal(f"{name} scale", 1e-6 * pl.col(f"{name} centre").abs(), 1e-9)
        deviation = ((pl.col(name) - pl.col(f"{name} centre")) / scale).fill_null(_NOT_KNOWN)
        features.append(deviation.alias(f"sensor {sensor}" if sensor in _OURS else sensor))
    if "errors" in tables:
        errors = tables["errors"].filter(pl.col("time") <= as_of)
        counts = errors.group_by(_MACHINE, _day(as_of)).agg(pl.len().cast(pl.Float64).alias("errors"))
        table = table.join(counts, on=[_MACHINE, CYCLE], how="left")
        features.append(pl.col("errors").fill_null(0.0))
    if "machines" in tables:
        table = table.join(tables["machines"].select(_MACHINE, "model", "age_years"), on=_MACHINE, how="left")
        features += [pl.col("model"), pl.col("age_years")]
    return table.select(_MACHINE, CYCLE, *features)


def _day(as_of: datetime) -> pl.Expr:
    """The end of the day of a row; days are counted back from `as_of`."""
    before = (pl.lit(as_of) - pl.col("time")).dt.total_microseconds() // (DAY // timedelta(microseconds=1))
    return (pl.lit(as_of) - before * DAY).alias(CYCLE)


def _usual(days: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
    """The centre and scale of each sensor's daily means by machine: median and median deviation."""
    active = days.filter(pl.col("telemetry") > 0)
    measures = [
        one
        for name in names
        for one in (
            pl.col(name).median().alias(f"{name} centre"),
            (_MAD * (pl.col(name) - pl.col(name).median()).abs().median()).alias(f"{name} scale"),
        )
    ]
    return (
        active.group_by(_MACHINE).agg(*measures, pl.len().alias("days")).filter(pl.col("days") >= FEWEST_DAYS)
    )
