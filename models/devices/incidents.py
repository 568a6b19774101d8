"""Incidents: the anomalies of a device that belong together, so that one fault is one alarm.

Anomalies of a device, on whatever tags, belong to one incident as long as no more than the cooldown
lies between them, also from one hour to the next: the incidents of the last run are what the next
one goes on from. An incident is an alarm once there are two anomalies in it, or one whose p-value is a
tenth of alpha; it becomes one once only.
"""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from models.devices.contracts import JOINT_TAG

COOLDOWN = timedelta(hours=1)
FEWEST_ANOMALIES = 2
STRONG = 0.1
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
"""`end` is that of the last anomalous interval. `tag`, `score` (higher is more anomalous), `p_value`, `cause`,
`value`, `expected`, `low` and `high` are those of the most unusual reading, the one of the least p-value.
`is_new_alarm`: it became an alarm in this run. `is_open`: an anomaly now would still belong to it."""


def incidents(
    rows: pl.DataFrame,
    previous: pl.DataFrame | None,
    as_of: datetime,
    interval: timedelta,
    alpha: float,
    cooldown: timedelta = COOLDOWN,
) -> pl.DataFrame:
    """Incidents (see `INCIDENTS`) after the hour that ends at `as_of`, by device and start.

    `rows` are the hour's published rows. `previous` are the incidents that the last run before it
    returned; of those only the ones that may go on are used. Returned are the incidents with an
    anomaly in this hour, and those that are still open.
    """
    past = _carried(previous, as_of)
    found = _grouped(rows.filter("is_anomaly"), past, interval, cooldown)
    touched = found.join(past, on=["incident", "device"], how="semi")
    quiet = past.join(touched, on="incident", how="anti")
    known = past.join(touched, on="incident", how="semi")
    merged = pl.concat([found.join(touched, on="incident", how="anti"), _merge(known, touched), quiet])
    strong = (pl.col("anomalies") >= FEWEST_ANOMALIES) | (pl.col("p_value") <= STRONG * alpha)
    return (
        merged.with_columns(
            is_new_alarm=~pl.col("is_alarm") & strong,
            is_alarm=pl.col("is_alarm") | strong,
            is_open=pl.col("end") + cooldown >= as_of,
        )
        .filter(pl.col("is_open") | pl.col("incident").is_in(found["incident"].implode()))
        .select(list(INCIDENTS))
        .sort("device", "start")
    )


def _carried(previous: pl.DataFrame | None, as_of: datetime) -> pl.DataFrame:
    """The previous incidents of before this hour, as far as they were open."""
    if previous is None or previous.is_empty():
        return pl.DataFrame(schema=INCIDENTS)
    before = as_of - timedelta(hours=1)
    return previous.filter(pl.col("is_open"), pl.col("end") <= before).select(list(INCIDENTS))


def _grouped(
    anomalies: pl.DataFrame, past: pl.DataFrame, interval: timedelta, cooldown: timedelta
) -> pl.DataFrame:
    """One row per incident of this hour; one that goes on from `past` has its name."""
    before = past.select("device", "incident", pl.col("end").alias("last_end"))
    before = before.sort("device", "last_end").unique("device", keep="last", maintain_order=True)
    joint_last = pl.col("tag") == JOINT_TAG
    ordered = anomalies.join(before, on="device", how="left").sort("device", "time", "tag")
    end = pl.col("time") + interval
    last = pl.coalesce(end.shift(1).over("device"), "last_end")
    apart = (last.is_null() | (pl.col("time") - last > cooldown)).cast(pl.Int32)
    ordered = ordered.with_columns(apart.cum_sum().over("device").alias("group"))
    order = ["p_value", "joint_last", "score", "time", "tag"]
    by_peak = ordered.with_columns(joint_last.alias("joint_last")).sort(
        "device", "group", *order, descending=[False] * 4 + [True, False, False], maintain_order=True
    )
    name = pl.format("{} {}", "device", pl.col("start").dt.strftime("%Y-%m-%dT%H:%MZ"))
    return (
        by_peak.group_by("device", "group", maintain_order=True)
        .agg(
            pl.col("time").min().alias("start"),
            pl.col("time").max().alias("end") + interval,
            pl.len().cast(pl.Int64).alias("anomalies"),
            pl.col("tag").unique().sort().alias("tags"),
            pl.col("time").first().alias("peak_time"),
            *(
                pl.col(c).first()
                for c in ("tag", "score", "p_value", "cause", "value", "expected", "low", "high")
            ),
            pl.col("incident").first().alias("known"),
        )
        .with_columns(pl.when(pl.col("group") == 0).then("known").otherwise(name).alias("incident"))
        .with_columns(pl.lit(False).alias(c) for c in ("is_alarm", "is_new_alarm", "is_open"))
        .select(list(INCIDENTS))
    )


def _merge(past: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Incidents that go on: from their first anomaly to the last, with the lesser of the two p-values."""
    if past.is_empty():
        return past
    both = past.join(now.select(pl.all().name.suffix("|now")), left_on="incident", right_on="incident|now")
    worse = pl.col("p_value|now") < pl.col("p_value")
    peak = [pl.when(worse).then(f"{c}|now").otherwise(c).alias(c) for c in _PEAK]
    tags = pl.col("tags").list.set_union("tags|now").list.sort().alias("tags")
    return both.with_columns(
        *peak, tags, pl.col("end|now").alias("end"), pl.col("anomalies") + pl.col("anomalies|now")
    ).select(list(INCIDENTS))


def what_happened() -> pl.Expr:
    """What was seen and what was expected, in words, for rows with the columns of `INCIDENTS`."""
    seen, low, high = (pl.col(c).round_sig_figs(4).cast(pl.String) for c in ("value", "low", "high"))
    band = pl.format("{} where {} to {} is normal", seen, low, high)
    by_cause = {
        "value": band,
        "jump": pl.format("a jump to {}, normal by itself is {} to {}", seen, low, high),
        "level": pl.format("around {} for a while, where {} is expected", seen, _short("expected")),
        "spread": pl.lit("varies more or less than usual"),
        "flat": pl.format("stays at {}", seen),
        "missing": pl.lit("sends no readings"),
        "joint": pl.lit("the sensors do not go together as usual"),
    }
    said = pl.coalesce(
        *(
            pl.when(pl.col("cause") == cause).then(pl.coalesce(text, pl.lit(cause)))
            for cause, text in by_cause.items()
        )
    )
    return said.fill_null("").alias("what")


def _short(column: str) -> pl.Expr:
    return pl.col(column).round_sig_figs(4).cast(pl.String)
