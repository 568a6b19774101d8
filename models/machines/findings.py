"""Oddities across the tables, which are reported and not corrected.

Each finding is a frame of `FINDINGS`: its name, table, machine (null: several), a description, and the
number of rows or events that it concerns.
"""

from datetime import datetime, timedelta

import polars as pl

from models.machines.clocks import span
from models.machines.contracts import sensors, tables_at
from models.machines.next_in_time import with_next
from models.machines.service import failures_until, record_ends
from models.scenario import Frames

FINDINGS = {
    "finding": pl.String,
    "table": pl.String,
    "machine_id": pl.String,
    "detail": pl.String,
    "count": pl.Int64,
}

SUMMARY = {
    "finding": pl.String,
    "table": pl.String,
    "machines": pl.Int64,
    "examples": pl.String,
    "effect": pl.String,
}

_JITTER = 0.1
_EXAMPLES = 5
MAINTAINED_WITHIN = timedelta(hours=24)

EFFECTS = {
    "unknown machine": "scored without model and age",
    "failure logged again": "counts once, from its first record",
    "failure without maintenance record": "the failure counts as the replacement",
    "duplicate timestamps": "the later row is used",
    "stray clock": "the rows are left out",
    "uneven interval": "windows hold fewer readings",
    "constant sensor": "its deviation from normal is missing",
    "missing sensor": "its features are missing, not zero",
    "without component": "not scored for it: no machine of its type has ever had it replaced or failed",
    "no telemetry": "scored without telemetry, as a fallback",
    "failure without telemetry": "nothing is learnt from it",
    "record of failures ends early": "rows after it are neither failing nor healthy",
    "range before the data": "scored from the first telemetry",
}
"""The effect of each finding on a run."""


def findings(tables: Frames, as_of: datetime, days: int = 14) -> pl.DataFrame:
    """All findings in the rows of the last `days` that are known at `as_of`.

    A failure of the last day may still be recorded as maintenance, so it is not a finding yet.
    """
    visible = tables_at(tables, as_of)
    since = as_of - timedelta(days=days)
    again, history = failures_logged_again(tables, visible, since, as_of), visible["telemetry"]
    orphans = failures_without_telemetry(visible)
    visible = {
        name: frame.filter(pl.col("time") > as_of - timedelta(days=days))
        if "time" in frame.collect_schema()
        else frame
        for name, frame in visible.items()
    }
    recent = visible["telemetry"]
    parts = [duplicate_timestamps(recent), uneven_interval(recent), *silent_sensors(recent, days, history)]
    if "machines" in visible:
        parts += [unknown_machines(visible), machines_without_telemetry(visible["machines"], recent, days)]
    if "failures" in visible and "maintenance" in visible:
        overdue = visible["failures"].filter(pl.col("time") <= as_of - MAINTAINED_WITHIN)
        parts.append(failures_without_maintenance(overdue, visible["maintenance"]))
    parts += [again, orphans]
    return pl.concat([pl.DataFrame(schema=FINDINGS), *parts])


def before_the_data(telemetry: pl.LazyFrame, since: datetime | None) -> pl.DataFrame:
    """A line as in `summary` if the requested range begins before the first telemetry; else none."""
    name = "range before the data"
    first = span(telemetry).first if since else None
    if since is None or first is None or since >= first:
        return pl.DataFrame(schema=SUMMARY)
    examples = (
        f"requested from {since:%Y-%m-%d %H:%M} UTC; the first telemetry is from {first:%Y-%m-%d %H:%M} UTC"
    )
    return pl.DataFrame([(name, "telemetry", 0, examples, EFFECTS[name])], schema=SUMMARY, orient="row")


def stray_clocks(telemetry: pl.LazyFrame) -> pl.DataFrame:
    """Machines with rows years before or after all others of the fleet, see `clocks.span`."""
    times = span(telemetry)
    strays = telemetry.filter(~times.holds()).group_by("machine_id")
    counts = strays.agg(pl.len().cast(pl.Int64).alias("count"), pl.col("time").min())
    detail = pl.format("first {}", pl.col("time").dt.strftime("%Y-%m-%d %H:%M"))
    return _finding("stray clock", "telemetry", counts, detail)


def without_component(gaps: pl.DataFrame) -> pl.DataFrame:
    """A line as in `findings` for each machine of `gaps`, components that a machine does not have: machine_id, component."""
    names = gaps.lazy().group_by("machine_id").agg(pl.col("component").sort(), pl.len().alias("count"))
    detail = pl.format("no {}", pl.col("component").list.join(", "))
    return _finding("without component", "machines", names, detail)


def record_ends_early(tables: Frames, as_of: datetime) -> pl.DataFrame:
    """A line as in `summary` if failures are not on record up to `as_of`; else none."""
    until, name = failures_until(tables, as_of), "record of failures ends early"
    if until == as_of:
        return pl.DataFrame(schema=SUMMARY)
    row = (name, "failures", 0, record_ends(until, as_of), EFFECTS[name])
    return pl.DataFrame([row], schema=SUMMARY, orient="row")


def unknown_machines(tables: Frames) -> pl.DataFrame:
    """Machines in telemetry, errors, maintenance or failures that the table of machines lacks."""
    parts = []
    for name in ("telemetry", "errors", "maintenance", "failures"):
        if name in tables:
            strange = tables[name].join(tables["machines"], on="machine_id", how="anti")
            counts = strange.group_by("machine_id").agg(pl.len().cast(pl.Int64).alias("count"))
            parts.append(_finding("unknown machine", name, counts, pl.lit("not in the table of machines")))
    return pl.concat(parts)


def machines_without_telemetry(machines: pl.LazyFrame, recent: pl.LazyFrame, days: int) -> pl.DataFrame:
    """Machines on record that sent nothing in the last `days`."""
    silent = machines.join(recent, on="machine_id", how="anti").with_columns(count=pl.lit(0))
    return _finding("no telemetry", "telemetry", silent, pl.lit(f"none in {days} days"))


def failures_without_telemetry(visible: Frames) -> pl.DataFrame:
    """Machines with failures but without any telemetry, for example because tables name them differently."""
    if "failures" not in visible:
        return pl.DataFrame(schema=FINDINGS)
    machines = visible["telemetry"].select("machine_id").unique()
    orphans = visible["failures"].join(machines, on="machine_id", how="anti")
    counts = orphans.group_by("machine_id").agg(pl.len().cast(pl.Int64).alias("count"))
    return _finding("failure without telemetry", "failures", counts, pl.format("{} times", "count"))


def failures_logged_again(tables: Frames, visible: Frames, since: datetime, until: datetime) -> pl.DataFrame:
    """Records from `since` to `until` that repeat a failure before its repair; `visible` lacks them."""
    if "failures" not in tables:
        return pl.DataFrame(schema=FINDINGS)
    place = ["machine_id", "component", "time"]
    repeats = (
        tables["failures"]
        .filter(pl.col("time").is_between(since, until))
        .join(visible["failures"], on=place, how="anti")
    )
    counts = repeats.group_by("machine_id").agg(pl.len().cast(pl.Int64).alias("count"))
    return _finding("failure logged again", "failures", counts, pl.format("{} times", "count"))


def failures_without_maintenance(failures: pl.LazyFrame, maintenance: pl.LazyFrame) -> pl.DataFrame:
    """Failures of a component without a recorded replacement from the failure until `MAINTAINED_WITHIN` after it."""
    replacements = maintenance.select("machine_id", "component", "time", replaced_at="time").sort("time")
    open_ones = (
        with_next(failures.sort("time"), replacements, ("machine_id", "component"), MAINTAINED_WITHIN)
        .filter(pl.col("replaced_at").is_null())
        .group_by("machine_id", "component")
        .agg(pl.len().cast(pl.Int64).alias("count"), pl.col("time").min().alias("first"))
    )
    detail = pl.format("{}, first {}", "component", pl.col("first").dt.strftime("%Y-%m-%d %H:%M"))
    return _finding("failure without maintenance record", "failures", open_ones, detail)


def duplicate_timestamps(telemetry: pl.LazyFrame) -> pl.DataFrame:
    """Rows of a machine with the same time as another of its rows."""
    repeats = (
        telemetry.group_by("machine_id", "time")
        .agg((pl.len() - 1).cast(pl.Int64).alias("count"))
        .filter(pl.col("count") > 0)
        .group_by("machine_id")
        .agg(pl.col("count").sum(), pl.col("time").min())
    )
    detail = pl.format("first {}", pl.col("time").dt.strftime("%Y-%m-%d %H:%M"))
    return _finding("duplicate timestamps", "telemetry", repeats, detail)


def uneven_interval(telemetry: pl.LazyFrame) -> pl.DataFrame:
    """Machines with distances between rows far from their most common one: gaps, and hours at clock changes."""
    distance = pl.col("time").diff().over("machine_id").dt.total_minutes()
    distances = (
        telemetry.select("machine_id", "time")
        .sort("machine_id", "time")
        .with_columns(distance.alias("minutes"))
        .filter(pl.col("minutes") > 0)
        .group_by("machine_id", "minutes")
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .sort("machine_id", "count", "minutes", descending=[False, True, False])
    )
    usual = pl.col("minutes").first()
    other = (pl.col("minutes") - usual).abs() > _JITTER * usual
    odd = distances.group_by("machine_id").agg(
        usual.alias("usual"),
        pl.col("count").filter(other).sum().alias("count"),
        pl.col("minutes").filter(other).max().alias("longest"),
    )
    detail = pl.format("usually {} minutes, once up to {}", "usual", "longest")
    return _finding("uneven interval", "telemetry", odd.filter(pl.col("count") > 0), detail)


def silent_sensors(telemetry: pl.LazyFrame, days: int, history: pl.LazyFrame) -> list[pl.DataFrame]:
    """Sensors of a machine without readings, or with a single value, in `telemetry` of the last `days`.

    A sensor without readings in all of the machine's `history` is not one of its sensors.
    """
    names = {sensor: f"{sensor}|" for sensor in sensors(telemetry)}
    values = (pl.col(sensor).drop_nulls().drop_nans().n_unique().alias(own) for sensor, own in names.items())
    readings = telemetry.group_by("machine_id").agg(pl.len().cast(pl.Int64).alias("count"), *values).collect()
    parts = []
    for sensor, own in names.items():
        quiet = readings.filter(pl.col(own) == 0).lazy()
        if readings[own].min() == 0:
            ever = history.filter(pl.col(sensor).is_not_null()).select("machine_id").unique()
            quiet = quiet.join(ever, on="machine_id", how="semi")
        silence = pl.lit(f"{sensor}: no reading in {days} days")
        parts.append(_finding("missing sensor", "telemetry", quiet, silence))
        still = readings.filter(pl.col(own) == 1, pl.col("count") > 2).lazy()
        constant = pl.lit(f"{sensor}: one value in {days} days")
        parts.append(_finding("constant sensor", "telemetry", still, constant))
    return parts


def summary(rows: pl.DataFrame) -> pl.DataFrame:
    """One line per finding and table: finding, table, machines, examples, effect; empty if there are no findings."""
    return (
        rows.group_by("finding", "table")
        .agg(
            pl.col("machine_id").n_unique().cast(pl.Int64).alias("machines"),
            pl.format("{}: {}", "machine_id", "detail")
            .sort()
            .head(_EXAMPLES)
            .str.join("; ")
            .alias("examples"),
        )
        .with_columns(pl.col("finding").replace_strict(EFFECTS).alias("effect"))
        .sort("finding", "table")
    )


def _finding(name: str, table: str, rows: pl.LazyFrame, detail: pl.Expr) -> pl.DataFrame:
    return (
        rows.select(
            pl.lit(name).alias("finding"),
            pl.lit(table).alias("table"),
            "machine_id",
            detail.cast(pl.String).alias("detail"),
            pl.col("count").cast(pl.Int64),
        )
        .sort("machine_id", "detail")
        .collect()
    )
