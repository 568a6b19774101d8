"""The share of alarms that were right, by the verdicts of people and the labels of known faults."""

from datetime import datetime, timedelta

import polars as pl

from models.devices.contracts import FAULT, JOINT_TAG, MUTED
from models.scenario import Frames

RECENT = timedelta(days=30)


def precision(incidents: pl.LazyFrame, tables: Frames, until: datetime) -> pl.DataFrame:
    """The alarms in the time `RECENT` up to `until`, by `tag` of the most unusual reading, and of `all`.

    The number of `alarms` and of `labelled` ones; by label, `fault`, `false_alarm`, `new_normal`; `precision`, the share
    of faults among labelled alarms, null if there are none. Of several labels, the newest one counts; a verdict takes
    precedence over a known fault. `incidents` are rows of `models.devices.incidents.INCIDENTS` with `as_of`; without any
    label, they are not read, and the result has no rows.
    """
    labels = _labels(tables)
    if labels.is_empty():
        return pl.DataFrame()
    recent = incidents.filter(pl.col("as_of") > until - RECENT, pl.col("as_of") <= until, "is_alarm")
    newest = recent.sort("as_of").unique("incident", keep="last", maintain_order=True)
    alarms = newest.select("incident", "device", "tag", "tags", "start", "end").collect()
    matches = alarms.join(labels, on="device", how="inner").filter(
        pl.col("since") < pl.col("end"),
        pl.col("over") > pl.col("start"),
        (pl.col("of") == JOINT_TAG) | pl.col("tags").list.contains(pl.col("of")),
    )
    last = matches.sort("at", "verdict", nulls_last=False).unique(
        "incident", keep="last", maintain_order=True
    )
    each = alarms.join(last.select("incident", "verdict"), on="incident", how="left")
    whole = pl.concat([each, each.with_columns(tag=pl.lit("all"))])
    by_tag = whole.group_by("tag").agg(
        pl.len().alias("alarms"),
        pl.col("verdict").count().alias("labelled"),
        *((pl.col("verdict") == name).sum().alias(name) for name in (FAULT, "false_alarm", "new_normal")),
        (pl.col("verdict") == FAULT).mean().alias("precision"),
    )
    return by_tag.sort((pl.col("tag") == "all"), "labelled", "tag", descending=[True, True, False])


def _labels(tables: Frames) -> pl.DataFrame:
    """Known faults and verdicts: device, the tag (`of`), `since`, `over`, verdict, and the time `at` which it was given."""
    names = {"device": "device", "tag": "of", "start": "since", "end": "over"}
    place = [pl.col(name).alias(label) for name, label in names.items()]
    never = pl.lit(None, pl.Datetime("us", "UTC")).alias("at")
    parts = []
    if "labels" in tables:
        parts.append(tables["labels"].select(*place, pl.lit(FAULT).alias("verdict"), never))
    if "verdicts" in tables:
        parts.append(
            tables["verdicts"].filter(pl.col("verdict") != MUTED).select(*place, pl.col("verdict", "at"))
        )
    if not parts:
        texts = dict.fromkeys(("device", "of", "verdict"), pl.String)
        return pl.DataFrame(schema=texts | dict.fromkeys(("since", "over", "at"), pl.Datetime("us", "UTC")))
    return pl.concat(parts).collect()
