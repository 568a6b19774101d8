"""Incidents: the anomalies of a device that belong together, so that one fault is one alarm.

Anomalies of one tag and kind (`missing`, `flat`, or any other cause) form a strand as long as at most
the cooldown lies between them, also from one hour to the next. An incident holds the strands of a device's tags
that are of one kind and begin within `TOGETHER` of each other, or of its start; a strand that begins later on another tag
is a separate incident, so an open incident hides nothing. An incident becomes an alarm in the first hour in which one
of its tags is among the alarming ones (`models.devices.alarms`), and again if its score doubles.
"""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from models.devices.contracts import JOINT_TAG
from models.devices.words import LEAST, shown

COOLDOWN = timedelta(hours=1)
TOGETHER = timedelta(minutes=30)
WORSE = 2.0
_TIME = pl.Datetime("us", "UTC")
_PEAK: dict[str, Any] = {
    "peak_time": _TIME,
    "tag": pl.String,
    "score": pl.Float64,
    "p_value": pl.Float64,
    "cause": pl.String,
    "value": pl.Float64,
    "expected": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
INCIDENTS: dict[str, Any] = {
    "incident": pl.String,
    "device": pl.String,
    "start": _TIME,
    "end": _TIME,
    "anomalies": pl.Int64,
    "tags": pl.List(pl.String),
    **_PEAK,
    "is_alarm": pl.Boolean,
    "is_new_alarm": pl.Boolean,
    "is_open": pl.Boolean,
}
"""`end` is the end of the last anomalous interval. `tag`, `score` (higher is more anomalous), `p_value`, `cause`,
`value`, `expected`, `low` and `high` are those of the most unusual reading, which has the lowest p-value.
`is_new_alarm`: it became an alarm, or a worse one, in this run. `is_open`: an anomaly now would still belong to it."""


def incidents(
    rows: pl.DataFrame,
    previous: pl.DataFrame | None,
    as_of: datetime,
    interval: timedelta,
    alarm_keys: pl.DataFrame,
    cooldown: timedelta = COOLDOWN,
) -> pl.DataFrame:
    """Incidents (see `INCIDENTS`) after the hour that ends at `as_of`, by device and start.

    `rows` are the hour's published rows, `alarm_keys` the keys (device, tag) that alarm. `previous`
    are the incidents of the last run before it; only those that may continue are used. The result has
    the incidents with an anomaly in this hour, and those that are still open.
    """
    past = _still_open(previous, as_of)
    strands = _strands(rows.filter("is_anomaly"), past, interval, cooldown)
    groups = _by_incident(strands, alarm_keys)
    current = groups.join(past, on=["incident", "device"], how="semi")
    quiet = past.join(current, on="incident", how="anti").with_columns(is_new_alarm=pl.lit(value=False))
    past_now = past.join(current, on="incident", how="semi")
    new = groups.join(current, on="incident", how="anti").with_columns(is_alarm="is_new_alarm")
    every = pl.concat([new, _merge(past_now, current), quiet])
    return (
        every.with_columns(is_open=pl.col("end") + cooldown >= as_of)
        .filter(pl.col("is_open") | pl.col("incident").is_in(groups["incident"].implode()))
        .select(list(INCIDENTS))
        .sort("device", "start", "incident")
    )


def _still_open(previous: pl.DataFrame | None, as_of: datetime) -> pl.DataFrame:
    """The previous incidents from before this hour that are still open."""
    if previous is None or previous.is_empty():
        return pl.DataFrame(schema=INCIDENTS)
    before = as_of - timedelta(hours=1)
    return previous.filter(pl.col("is_open"), pl.col("end") <= before).select(list(INCIDENTS))


def _kind() -> pl.Expr:
    own = pl.col("cause").is_in(["missing", "flat"])
    return pl.when(own).then("cause").otherwise(pl.lit("value")).alias("kind")


def _strands(
    anomalies: pl.DataFrame, past: pl.DataFrame, interval: timedelta, cooldown: timedelta
) -> pl.DataFrame:
    """The anomalies with the start of their strand, the run of their tag and kind, and its `earlier` incident, if any."""
    strand = ["device", "kind", "tag"]
    open_ones = past.select(
        "device", _kind(), pl.col("tags").alias("tag"), "incident", pl.col("end").alias("last_end")
    )
    open_ones = open_ones.explode("tag", empty_as_null=False).sort(*strand, "last_end", "incident")
    open_ones = open_ones.unique(strand, keep="last", maintain_order=True)
    rows = anomalies.with_columns(_kind()).join(open_ones, on=strand, how="left").sort(*strand, "time")
    rows = rows.with_columns((pl.col("time") + interval).alias("over"))
    last = pl.coalesce(pl.col("over").shift(1).over(strand), "last_end")
    apart = (last.is_null() | (pl.col("time") - last > cooldown)).cast(pl.Int32)
    rows = rows.with_columns(apart.cum_sum().over(strand).alias("strand"))
    of_strand = [*strand, "strand"]
    return rows.with_columns(
        pl.col("time").min().over(of_strand).alias("strand_start"),
        pl.when(pl.col("strand") == 0).then("incident").alias("earlier"),
    ).pipe(_with_incidents, past, min(TOGETHER, cooldown))


def _with_incidents(strands: pl.DataFrame, past: pl.DataFrame, together: timedelta) -> pl.DataFrame:
    """The strands with the incident of each: an earlier one, one that began a short time ago, or a new one."""
    young = past.select("device", _kind(), pl.col("incident").alias("young"), pl.col("start").alias("since"))
    young = young.sort("since", "young").unique(["device", "kind"], keep="last", maintain_order=True)
    both = strands.join(young, on=["device", "kind"], how="left")
    soon = pl.col("strand_start") - pl.col("since") <= together
    both = both.with_columns(pl.coalesce("earlier", pl.when(soon).then("young")).alias("earlier"))
    start = ["device", "kind", "strand_start"]
    new = both.filter(pl.col("earlier").is_null()).select(start).unique().sort(start)
    apart = (pl.col("strand_start").diff() > together).over("device", "kind").fill_null(True)
    new = new.with_columns(apart.cum_sum().over("device", "kind").alias("group"))
    new = new.with_columns(pl.col("strand_start").min().over("device", "kind", "group").alias("first"))
    plain = pl.format("{} {}", "device", pl.col("first").dt.strftime("%Y-%m-%dT%H:%MZ"))
    name = pl.when(pl.col("kind") == "value").then(plain).otherwise(pl.format("{} {}", plain, "kind"))
    both = both.join(new.select(*start, name.alias("new")), on=start, how="left")
    return both.with_columns(pl.coalesce("earlier", "new").alias("incident"))


def _by_incident(strands: pl.DataFrame, alarm_keys: pl.DataFrame) -> pl.DataFrame:
    """One row per incident of this hour; `is_new_alarm` if one of its tags alarms."""
    order = ["p_value", "joint_last", "score", "time", "tag"]
    by_peak = strands.join(
        alarm_keys.with_columns(is_alarming=pl.lit(value=True)), on=["device", "tag"], how="left"
    ).with_columns((pl.col("tag") == JOINT_TAG).alias("joint_last"))
    by_peak = by_peak.sort("device", "incident", *order, descending=[False] * 4 + [True, False, False])
    return (
        by_peak.group_by("device", "incident", maintain_order=True)
        .agg(
            pl.col("time").min().alias("start"),
            pl.col("over").max().alias("end"),
            pl.len().cast(pl.Int64).alias("anomalies"),
            pl.col("tag").unique().sort().alias("tags"),
            pl.col("time").first().alias("peak_time"),
            *(pl.col(c).first() for c in _PEAK if c != "peak_time"),
            pl.col("is_alarming").fill_null(False).any().alias("is_new_alarm"),
        )
        .with_columns(is_alarm=pl.lit(value=False), is_open=pl.lit(value=False))
        .select(list(INCIDENTS))
    )


def _merge(past: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Incidents that continue: from their first anomaly to the last, with the peak of the lesser p-value.

    If the alarm rings again, the new peak replaces the old one, so that the score must double once more for the next.
    """
    if past.is_empty():
        return past
    both = past.join(now.select(pl.all().name.suffix("|now")), left_on="incident", right_on="incident|now")
    is_double = (pl.col("tag|now") == pl.col("tag")) & (pl.col("score|now") >= WORSE * pl.col("score"))
    rings = pl.col("is_new_alarm|now") & (~pl.col("is_alarm") | is_double)
    worse = (pl.col("p_value|now") < pl.col("p_value")) | (rings & pl.col("is_alarm"))
    peak = [pl.when(worse).then(f"{c}|now").otherwise(c).alias(c) for c in _PEAK]
    tags = pl.col("tags").list.set_union("tags|now").list.sort().alias("tags")
    return both.with_columns(
        rings.alias("is_new_alarm"),
        pl.col("is_alarm") | rings,
        *peak,
        tags,
        pl.col("end|now").alias("end"),
        pl.col("anomalies") + pl.col("anomalies|now"),
    ).select(list(INCIDENTS))


def what_happened() -> pl.Expr:
    """The observed and the expected value, in words, for rows with the columns of `INCIDENTS`."""
    value, low, high, expected = (shown(c) for c in ("value", "low", "high", "expected"))
    band = pl.format("{}, but {} to {} is normal", value, low, high)
    state = pl.format("in the state {}, which is rare or new for this sensor", value)
    by_cause = {
        "value": pl.when(pl.col("value") >= LEAST).then(state).otherwise(band),
        "jump": pl.format("a jump to {}; {} to {} is normal for a single reading", value, low, high),
        "level": pl.format("around {} for a while, but {} is expected", value, expected),
        "spread": pl.lit("varies more or less than usual"),
        "flat": pl.format("stays at {}", value),
        "missing": pl.lit("sends no readings"),
        "joint": pl.lit("the sensors do not have their usual relations"),
    }
    sentence = pl.coalesce(
        *(
            pl.when(pl.col("cause") == cause).then(pl.coalesce(text, pl.lit(cause)))
            for cause, text in by_cause.items()
        )
    )
    return sentence.fill_null("").alias("what")
