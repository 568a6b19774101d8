"""People's verdicts on devices, as rows of `devices/verdicts`: what an incident was, and what is muted."""

import getpass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Literal

import polars as pl

from flows.limits import BY_HAND, limited
from flows.parameters import Moment, ParameterError
from flows.runs import ingest_sources
from flows.settings import open_store
from models.devices.contracts import JOINT_TAG, MUTED
from models.devices.scenario import DEVICES
from models.moments import as_moment, end_of, time_text
from models.scenario import AsOf
from tasks.storage.layout import Layout
from tasks.storage.store import Store

_LAYOUT = Layout(DEVICES.name)
_NEAR = 3
"""The most names that an error proposes."""


@limited(BY_HAND, name="devices-label")
def label(
    verdict: Literal["fault", "false_alarm", "new_normal"],
    incident: str | None = None,
    device: str | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
    tag: str = JOINT_TAG,
    reason: str = "-",
    by: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Record what an incident was: a fault, a false alarm, or a new normal.

    A fault is neither learnt nor remembered; each false alarm or new normal raises the evidence that the next alarm of
    that sensor needs. The verdict is a row of `devices/verdicts`, with its author and time.

    Args:
        verdict: What it was: fault, false_alarm or new_normal.
        incident: Name of the incident, as in `devices/incidents`; or give a device, start and end instead.
        device: The device, if no incident is named.
        start: When it began; times without an offset are UTC.
        end: When it ended; a day without a time: its end.
        tag: The tag that it concerned; default: all tags of the device.
        reason: What was found, for later readers.
        by: Author of the verdict; default: the user of this computer.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    if incident is not None:
        rows = of_incident(data_store, incident).with_columns(verdict=pl.lit(verdict))
    else:
        rows = of_range(device, tag, start, end, verdict)
        refuse_unknown(data_store, rows)
    return keep(data_store, rows, reason, by)


@limited(BY_HAND, name="devices-mute")
def mute(
    start: Moment,
    end: Moment,
    device: str | None = None,
    site: str | None = None,
    tag: str = JOINT_TAG,
    reason: str = "maintenance",
    by: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Mute the alarms of a device or site for a time, for example during maintenance; readings are still scored.

    Args:
        start: Start of that time; times without an offset are UTC.
        end: End of that time; a day without a time: its end.
        device: The device.
        site: A site from `ingest --sites`, for all devices that are there now.
        tag: The tag; default: all tags of the device.
        reason: The reason, for later readers.
        by: Author of the request; default: the user of this computer.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    if (device is None) == (site is None):
        raise ParameterError("Expected either --device or --site.")
    devices = [device] if site is None else at_site(data_store, site)
    rows = pl.concat(of_range(one, tag, start, end, MUTED) for one in devices)
    if site is None:
        refuse_unknown(data_store, rows)
    return keep(data_store, rows, reason, by)


def at_site(store: Store, site: str) -> list[str]:
    """Names of the devices at a site. Raises `ParameterError` for an unknown site."""
    table = store.find(_LAYOUT.table("sites"))
    sites = pl.DataFrame({"site": []}) if table is None else table.collect()
    devices = sites.filter(pl.col("site") == site)
    if devices.is_empty():
        names = ", ".join(sites["site"].drop_nulls().unique().sort()) or "none"
        raise ParameterError(f"--site is '{site}'. Expected a site from ingest --sites: {names}.")
    return devices["device"].sort().to_list()


def of_incident(store: Store, name: str) -> pl.DataFrame:
    """A row (device, tag, start, end) for each tag of the incident, as last published.

    Raises `ParameterError` if there is no such incident.
    """
    table = _LAYOUT.table("incidents")
    incidents = store.find(table)
    rows = pl.DataFrame()
    if incidents is not None:
        rows = incidents.filter(incident=name).sort("as_of").tail(1).collect()
    if rows.is_empty():
        raise ParameterError(
            f"--incident is '{name}'. Expected the name of an incident in {table}, such as 'PUMP-7 2026-03-02T07:50Z'."
        )
    return rows.select("device", pl.col("tags").alias("tag"), "start", "end").explode(
        "tag", empty_as_null=False
    )


def of_range(
    device: str | None, tag: str, start: AsOf | None, end: AsOf | None, verdict: str
) -> pl.DataFrame:
    """One row: device, tag, start, end, verdict; an end that is a day is the end of that day.

    Raises `ParameterError` if one of them is missing, or the end is not after the start.
    """
    if device is None or start is None or end is None:
        raise ParameterError("Expected --incident, or --device, --start and --end.")
    begin, until = as_moment(start), as_moment(end, end_of)
    if begin >= until:
        raise ParameterError(
            f"--start is {time_text(begin)}, --end is {time_text(until)}. Expected an end after the start."
        )
    row = {"device": device, "tag": tag, "start": begin, "end": until, "verdict": verdict}
    return pl.DataFrame([row])


def refuse_unknown(store: Store, rows: pl.DataFrame) -> None:
    """Raise `ParameterError` if there are no readings of the device and tag in `rows`, which say nothing then."""
    device, tag = rows.select("device", "tag").row(0)
    table = store.find(_LAYOUT.table("readings"))
    if table is None:
        raise ParameterError("There are no readings. Ingest some before you say what they were.")
    tags = _names(table.filter(pl.col("device") == device), "tag")
    if not tags:
        option, name, names = "--device", device, _names(table, "device")
    elif tag not in (*tags, JOINT_TAG):
        option, name, names = "--tag", tag, tags
    else:
        return
    near = get_close_matches(name, names, n=_NEAR) or names[:_NEAR]
    raise ParameterError(
        f"{option} is '{name}', which has no readings. Expected one such as {', '.join(near)}."
    )


def _names(rows: pl.LazyFrame, column: str) -> list[str]:
    return rows.select(pl.col(column).unique()).collect(engine="streaming")[column].sort().to_list()


def keep(store: Store, rows: pl.DataFrame, reason: str, by: str | None) -> dict[str, Any]:
    """Ingest the rows into the table of verdicts, with author and time; return the result of the ingest."""
    who = by or getpass.getuser()
    at = datetime.now(UTC)
    full = rows.with_columns(reason=pl.lit(reason), by=pl.lit(who), at=pl.lit(at))
    source = store.write_source(f"{DEVICES.name}/verdicts-said/{at:%Y%m%dT%H%M%S%f}.parquet", full)
    result = ingest_sources(DEVICES, store, {"verdicts": source}, [], None, 0.0, {"duplicates": "last"})
    return {"rows": rows.height, "by": who, "at": at.isoformat(), **result}
