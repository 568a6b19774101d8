"""The readings of sensors that are watched for drift, by hour and relative to each sensor's usual values."""

from datetime import datetime, timedelta

import polars as pl

from models.devices.contracts import KEY
from models.drift import CYCLE, every_cycle

HOUR = timedelta(hours=1)
SILENT_HOURS = 24
"""A sensor that is silent for longer is no longer expected to send."""
FEWEST_HOURS = 12
"""A sensor with fewer hours in the training has no usual values."""

_NOT_KNOWN = float("nan")
_MAD = 1.4826


def watched_inputs(
    readings: pl.LazyFrame, since: datetime, trained_as_of: datetime, as_of: datetime
) -> pl.LazyFrame:
    """One row per device and hour from `since` to `as_of`; `cycle` is the end of the hour.

    Each tag has three columns: `<tag>`, the distance of the hour's mean from the sensor's usual mean, in its usual
    deviations; `<tag> spread`, the logarithm of the ratio of the standard deviation within the hour to the usual
    one; `<tag> readings`, the same for the number of intervals with a reading. Usual values are medians of the hours
    up to `trained_as_of`. NaN for a tag that a device lacks, or that had no reading then; an hour without a
    reading has only a number of readings. `new` is 1 for a device without any reading then.
    """
    sent = _hourly(readings, since, as_of)
    hourly = every_cycle(sent, KEY, "n", HOUR, SILENT_HOURS, as_of).collect(engine="streaming").lazy()
    past = hourly.filter(pl.col(CYCLE) <= trained_as_of)
    both = hourly.join(_usual(past), on=list(KEY), how="left")
    scale = pl.max_horizontal("scale", 1e-6 * pl.col("centre").abs(), 1e-9)
    values = {
        "": (pl.col("mean") - pl.col("centre")) / scale,
        " spread": ((pl.col("std") + 1e-6 * scale) / (pl.col("usual_std") + 1e-6 * scale)).log(),
        " readings": ((pl.col("n") + 1) / (pl.col("usual_n") + 1)).log(),
    }
    columns = [value.fill_null(_NOT_KNOWN).alias(name) for name, value in values.items()]
    long = both.select("device", "tag", CYCLE, *columns).unpivot(
        on=list(values), index=["device", "tag", CYCLE], variable_name="of"
    )
    wide = (
        long.select("device", CYCLE, pl.concat_str("tag", "of").alias("feature"), "value")
        .collect()
        .pivot("feature", index=["device", CYCLE], values="value", sort_columns=True)
    )
    features = [name for name in wide.columns if name not in ("device", CYCLE)]
    devices = past.select("device").unique().collect()["device"]
    new = (~pl.col("device").is_in(devices.implode())).cast(pl.Float64).alias("new")
    return wide.lazy().with_columns(pl.col(features).fill_null(_NOT_KNOWN), new)


def _hourly(readings: pl.LazyFrame, since: datetime, as_of: datetime) -> pl.LazyFrame:
    """Readings by sensor and hour: `n`, `mean`, and `std` of the intervals' means, null for a single one."""
    time = pl.col("time")
    return (
        readings.filter(time >= since, time < as_of)
        .group_by(*KEY, (time.dt.truncate("1h") + HOUR).alias(CYCLE))
        .agg(pl.len().alias("n"), pl.col("mean").mean(), pl.col("mean").std().alias("std"))
    )


def _usual(past: pl.LazyFrame) -> pl.LazyFrame:
    """By sensor: centre and scale of the hours' means (median and median deviation), and medians of std and n.

    Not by hour of the day: with so few days, that would overfit the training data.
    """
    mean = pl.col("mean")
    return (
        past.filter(pl.col("n") > 0)
        .group_by(KEY)
        .agg(
            mean.median().alias("centre"),
            ((mean - mean.median()).abs().median() * _MAD).alias("scale"),
            pl.col("std").median().alias("usual_std"),
            pl.col("n").median().alias("usual_n"),
            pl.len().alias("hours"),
        )
        .filter(pl.col("hours") >= FEWEST_HOURS)
        .drop("hours")
    )
