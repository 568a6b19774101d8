"""When machines are in service, and up to which time failures are on record.

A machine whose telemetry ended long ago, or with a failure that no replacement followed, is out of service: nobody
could observe failures since. Its last rows are censored, neither failing nor healthy, and it is not
ranked. A table of failures may end before the telemetry if it was extracted earlier; the time after its end does not
count as free of failures either.
"""

from datetime import datetime, timedelta

import polars as pl

from models.machines.next_in_time import with_last
from models.scenario import Frames

ENDED = "ended"
"""Column: the last telemetry of a machine that is out of service."""

_SILENCE, _INTERVALS = timedelta(days=28), 3
_BY_CHANCE = 0.001


def longest_silence(interval_hours: float) -> timedelta:
    """How long a machine in service may send nothing: 28 days, or three intervals if that is longer."""
    return max(_SILENCE, timedelta(hours=_INTERVALS * interval_hours))


def out_of_service(tables: Frames, last: datetime, interval_hours: float) -> pl.DataFrame:
    """Machines that are out of service at `last`, the end of `tables`: machine_id, `ended`."""
    newest = tables["telemetry"].group_by("machine_id").agg(pl.col("time").max().alias(ENDED))
    at_last = newest.with_columns(pl.lit(last, pl.Datetime("us", "UTC")).alias("time"))
    machines = at_last.sort("machine_id").collect(engine="streaming")
    return machines.filter(_is_out(machines, tables, interval_hours)).select("machine_id", ENDED)


def silent_since(tables: Frames, rows: pl.DataFrame, interval_hours: float) -> pl.Series:
    """For each of `rows` (machine_id, time, readings), the last telemetry before it if the machine is out of service."""
    place = ["machine_id", "time"]
    nothing = pl.LazyFrame(schema=rows.select(place).schema)
    failures, replacements = (tables.get(name, nothing).select(place) for name in ("failures", "maintenance"))
    quiet = rows.filter(pl.col("readings") == 0).lazy().select(place)
    suspects = pl.concat([quiet, failures.join(replacements, on=place, how="anti")])
    history = tables["telemetry"].join(suspects, on="machine_id", how="semi")
    times = history.select(*place, pl.col("time").alias(ENDED)).sort("time").collect()
    targets = rows.select(place).with_row_index("|row").sort("time")
    places = with_last(targets, times)
    out = pl.when(_is_out(places, tables, interval_hours)).then(ENDED).alias(ENDED)
    return places.with_columns(out).sort("|row")[ENDED]


def _is_out(machines: pl.DataFrame, tables: Frames, interval_hours: float) -> pl.Series:
    """Whether machines are out of service at `time`, by `ended`, their last telemetry before it.

    They are if they have been silent for longer than `longest_silence`, or for an interval since a failure that no
    replacement followed.
    """
    place, time, last = ["machine_id", "time"], pl.col("time"), pl.col(ENDED)
    table = machines.select(*place, ENDED).with_row_index("|row").sort("time")
    nothing = pl.LazyFrame(schema=machines.select(place).schema)
    for name, column in (("failures", "failed"), ("maintenance", "replaced")):
        when = tables.get(name, nothing).select(*place, time.alias(column)).sort("time").collect()
        table = with_last(table, when)
    interval = timedelta(hours=interval_hours)
    silent = last < time - longest_silence(interval_hours)
    is_unrepaired = (pl.col("replaced") < pl.col("failed")).fill_null(value=True)
    has_stopped = (last < pl.col("failed") + interval) & (last <= time - interval) & is_unrepaired
    out = silent.fill_null(value=False) | (has_stopped & (time > pl.col("failed"))).fill_null(value=False)
    return table.select("|row", out.alias("out")).sort("|row")["out"]


def failures_until(tables: Frames, last: datetime) -> datetime:
    """The time up to which failures are on record: `last`, or the last failure if the record ends before it.

    The record ends earlier if all failures, spread randomly over the readings, would be this early less
    than once in a thousand times, and if the time after them is twice as long as the longest time between two.
    """
    if "failures" not in tables or "telemetry" not in tables:
        return last
    time = pl.col("time")
    past = tables["failures"].filter(time <= last)
    days = past.select("machine_id", "component", time.dt.date().alias("day"), "time").collect()
    if days.height < 2:
        return last
    newest = days["time"].max()
    telemetry = tables["telemetry"].filter(time <= last)
    counts = telemetry.select((time <= newest).sum().alias("before"), (time > newest).sum().alias("after"))
    before, after = counts.collect(engine="streaming").row(0)
    failures = days.select("machine_id", "component", "day").n_unique()
    quiet = days["time"].unique().sort().diff().max()
    unlikely = (before / (before + after)) ** failures < _BY_CHANCE
    return newest if unlikely and last - newest > 2 * quiet else last  # type: ignore[operator, return-value]


def record_ends(until: datetime, last: datetime) -> str:
    """The note that failures are on record only up to `until`."""
    return (
        f"failures are on record until {until:%Y-%m-%d %H:%M} UTC, telemetry until {last:%Y-%m-%d %H:%M} UTC: later "
        "failures count as unknown, not as none. Ingest the failures since then"
    )
