"""How many alarms were right, by the verdicts of people and the labels of known faults."""

from datetime import datetime, timedelta

import polars as pl

from models.devices.contracts import FAULT, JOINT_TAG, MUTED
from models.scenario import Frames

RECENT = timedelta(days=30)


def precision(incidents: pl.LazyFrame, tables: Frames, until: datetime) -> pl.DataFrame:
    """By `tag` of the most unusual reading, and of `all`, the alarms of the last `RECENT` time up to `until`.

    `alarms`, and of these `labelled` ones; by label `fault`, `false_alarm`, `new_normal`; `precision`, the share of faults
    among those with a label, null where none has one. Of several labels the last that was given counts; a verdict more
    than a known fault. `incidents` are rows of `models.devices.incidents.INCIDENTS` with `as_of`; they are not read where
    there is no label at all, and there are no rows.
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
    """Known faults and verdicts: device, `of` which tag, `since`, `over`, verdict, and the time `at` which it was given."""
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
