"""New levels: sensors whose lasting change has become normal (`models.devices.new_normal`), each reported once.

A sensor is on a new level from the first hour that is judged by it. `since` is the start of the first incident that led
to it, or of the hours from which it was learnt. It is reported again if the sensor was not on a new level for `FORGOTTEN`.
"""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from models.devices.contracts import JOINT_TAG, KEY
from models.scenario import Event

FORGOTTEN = timedelta(hours=24)
_BEFORE = timedelta(hours=24)
_TIME = pl.Datetime("us", "UTC")
LEVELS: dict[str, Any] = {
    "device": pl.String,
    "tag": pl.String,
    "since": _TIME,
    "incident": pl.String,
    "last": _TIME,
    "is_new": pl.Boolean,
}
"""`since`: its start; `incident`: the name of the incident that began then, if there was one; `last`: the end of the last
hour that was judged by the new level; `is_new`: in this hour for the first time."""


def levels(
    rows: pl.LazyFrame, previous: pl.DataFrame | None, incidents: pl.LazyFrame | None, as_of: datetime
) -> pl.DataFrame:
    """The new levels (see `LEVELS`) after the hour that ends at `as_of`, by device and tag.

    `rows` are the hour's published rows, `previous` the levels of the last run before it, `incidents` those of earlier
    runs. A joint detector has a row only if none of its device's sensors has one.
    """
    here = rows.filter(pl.col("normal_since").is_not_null()).group_by(KEY).agg(pl.col("normal_since").min())
    now = here.collect(engine="streaming")
    own = now.filter(pl.col("tag") != JOINT_TAG)
    now = pl.concat([own, now.filter(pl.col("tag") == JOINT_TAG).join(own, on="device", how="anti")])
    past = pl.DataFrame(schema=LEVELS) if previous is None else previous.select(list(LEVELS))
    past = past.filter(pl.col("last") >= as_of - FORGOTTEN, pl.col("last") < as_of)
    goes_on = past.join(now, on=list(KEY), how="semi").with_columns(last=pl.lit(as_of, _TIME))
    rests = past.join(now, on=list(KEY), how="anti")
    new = now.join(past, on=list(KEY), how="anti")
    earlier = pl.concat([goes_on, rests]).with_columns(is_new=pl.lit(value=False))
    return pl.concat([earlier, _first_rows(new, incidents, as_of)]).select(list(LEVELS)).sort(*KEY)


def _first_rows(new: pl.DataFrame, incidents: pl.LazyFrame | None, as_of: datetime) -> pl.DataFrame:
    """The rows of `new` levels: device, tag, normal_since."""
    first = pl.DataFrame(schema={**dict.fromkeys((*KEY, "incident"), pl.String), "start": _TIME})
    if incidents is not None and new.height:
        since = new["normal_since"].min() - _BEFORE  # type: ignore[operator]
        near = incidents.filter(pl.col("as_of") >= since, pl.col("start") >= since)
        each = near.select("device", "incident", "start", tag="tags").explode("tag").collect()
        each = each.join(new, on=list(KEY)).filter(pl.col("start") >= pl.col("normal_since") - _BEFORE)
        first = each.sort("start", "incident").unique(KEY, keep="first").select(*KEY, "incident", "start")
    rows = new.join(first, on=list(KEY), how="left")
    return rows.select(
        *KEY,
        pl.coalesce("start", "normal_since").alias("since"),
        "incident",
        pl.lit(as_of, _TIME).alias("last"),
        pl.lit(value=True).alias("is_new"),
    )


def events(shifts: pl.DataFrame) -> list[Event]:
    """An event for each new level: device, tag, since, and the name of the incident that led to it."""
    return [
        Event(
            "new_level",
            f"devices.{row['device']}.{row['tag']}.{row['since']:%Y-%m-%dT%H:%MZ}",
            {name: row[name] for name in (*KEY, "incident")} | {"since": row["since"].isoformat()},
        )
        for row in shifts.filter("is_new").sort(*KEY).iter_rows(named=True)
    ]
