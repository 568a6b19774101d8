"""What people say about devices, as rows of `devices/verdicts`: what an incident was, and what is muted."""

import getpass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from flows.parameters import ParameterError
from flows.runs import ingest_sources
from models.devices.options import moment_of
from models.devices.scenario import DEVICES
from models.scenario import AsOf
from tasks.storage.layout import Layout
from tasks.storage.store import Store

_LAYOUT = Layout(DEVICES.name)


def at_site(store: Store, site: str) -> list[str]:
    """Names of the devices at a site. Raises `ParameterError` for an unknown site."""
    table = store.find(_LAYOUT.table("sites"))
    sites = pl.DataFrame({"site": []}) if table is None else table.collect()
    devices = sites.filter(pl.col("site") == site)
    if devices.is_empty():
        names = ", ".join(sites["site"].drop_nulls().unique().sort()) or "none"
        raise ParameterError(f"--site is '{site}'. Expected one that ingest --sites named: {names}.")
    return devices["device"].sort().to_list()


def of_incident(store: Store, name: str) -> pl.DataFrame:
    """A row (device, tag, start, end) for each tag of the incident, as it was last published.

    Raises `ParameterError` if there is no such incident.
    """
    table = _LAYOUT.table("incidents")
    incidents = store.find(table)
    rows = pl.DataFrame()
    if incidents is not None:
        rows = incidents.filter(incident=name).sort("as_of").tail(1).collect()
    if rows.is_empty():
        raise ParameterError(
            f"--incident is '{name}'. Expected the name of one in {table}, such as 'PUMP-7 2026-03-02T07:50Z'."
        )
    return rows.select("device", pl.col("tags").alias("tag"), "start", "end").explode(
        "tag", empty_as_null=False
    )


def of_range(
    device: str | None, tag: str, start: AsOf | None, end: AsOf | None, verdict: str
) -> pl.DataFrame:
    """One row: device, tag, start, end, verdict.

    Raises `ParameterError` if one of them is missing, or the end is not after the start.
    """
    if device is None or start is None or end is None:
        raise ParameterError("Expected --incident, or --device, --start and --end.")
    begin, until = moment_of(start), moment_of(end)
    if begin >= until:
        raise ParameterError(f"--start is {begin}, --end is {until}. Expected an end after the start.")
    row = {"device": device, "tag": tag, "start": begin, "end": until, "verdict": verdict}
    return pl.DataFrame([row])


def keep(store: Store, rows: pl.DataFrame, reason: str, by: str | None) -> dict[str, Any]:
    """Ingest the rows into the table of verdicts, with author and time; returns the result of the ingest."""
    who = by or getpass.getuser()
    at = datetime.now(UTC)
    full = rows.with_columns(reason=pl.lit(reason), by=pl.lit(who), at=pl.lit(at))
    source = store.write_source(f"{DEVICES.name}/verdicts-said/{at:%Y%m%dT%H%M%S%f}.parquet", full)
    result = ingest_sources(DEVICES, store, {"verdicts": source}, [], None, 0.0, {"duplicates": "last"})
    return {"rows": rows.height, "by": who, "at": at.isoformat(), **result}
