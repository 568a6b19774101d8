"""The contracts of what is ingested: telemetry, error log, maintenance, failures, machines.

Times are UTC. Which components, sensors and errors there are is read from the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import dataframely as dy
import polars as pl

from models.errors import ContractError
from models.scenario import Frames, Table


class Telemetry(dy.Schema):
    """Readings of a machine over one interval, which ended at `time`; further numeric columns are sensors."""

    machine_id = dy.String(min_length=1)
    time = dy.Datetime(time_zone="UTC")


class Errors(dy.Schema):
    """Errors that a machine reported without stopping."""

    machine_id = dy.String(min_length=1)
    time = dy.Datetime(time_zone="UTC")
    error = dy.String(min_length=1)


class Maintenance(dy.Schema):
    """Replacements of a component, planned or because it failed."""

    machine_id = dy.String(min_length=1)
    time = dy.Datetime(time_zone="UTC")
    component = dy.String(min_length=1)


class Failures(dy.Schema):
    """Failures of a component."""

    machine_id = dy.String(min_length=1)
    time = dy.Datetime(time_zone="UTC")
    component = dy.String(min_length=1)


class Machines(dy.Schema):
    """What is known of a machine that does not change."""

    machine_id = dy.String(min_length=1)
    model = dy.String(nullable=True)
    age_years = dy.Float64(nullable=True, min=0)


@dataclass(frozen=True)
class WithSensors(Table):
    """A table that needs at least one column of readings."""

    def check(self, frame: pl.DataFrame, stored: Frames) -> None:  # noqa: ARG002
        """Raise `ContractError` where `frame` has no sensor, or only empty ones."""
        found = sensors(frame.lazy())
        if not any(frame[name].is_not_null().any() for name in found):
            raise ContractError(
                f"{self.name}: no column with readings. Found: {', '.join(frame.columns)}. "
                "Expected at least one numeric column beside machine_id and time, e.g. vibration. "
                "Check that its values are numbers."
            )


COLUMNS: Mapping[str, Mapping[str, str]] = {
    "telemetry": {"machine_id": "machineID", "time": "datetime"},
    "errors": {"machine_id": "machineID", "time": "datetime", "error": "errorID"},
    "maintenance": {"machine_id": "machineID", "time": "datetime", "component": "comp"},
    "failures": {"machine_id": "machineID", "time": "datetime", "component": "failure"},
    "machines": {"machine_id": "machineID", "age_years": "age"},
}
"""Default mapping of columns by table, canonical -> source: the shape of the public five-table data set."""

TABLES: dict[str, Table] = {
    "telemetry": WithSensors(
        "telemetry",
        Telemetry,
        unique=("machine_id", "time"),
        shard_by=("machine_id",),
        covariates=True,
        aliases=COLUMNS["telemetry"],
    ),
    "errors": Table(
        "errors",
        Errors,
        unique=("machine_id", "time", "error"),
        shard_by=("machine_id",),
        required=False,
        aliases=COLUMNS["errors"],
    ),
    "maintenance": Table(
        "maintenance",
        Maintenance,
        unique=("machine_id", "time", "component"),
        shard_by=("machine_id",),
        aliases=COLUMNS["maintenance"],
    ),
    "failures": Table(
        "failures",
        Failures,
        unique=("machine_id", "time", "component"),
        shard_by=("machine_id",),
        aliases=COLUMNS["failures"],
    ),
    "machines": Table(
        "machines",
        Machines,
        unique=("machine_id",),
        shard_by=("machine_id",),
        required=False,
        aliases=COLUMNS["machines"],
    ),
}


def sensors(telemetry: pl.LazyFrame) -> list[str]:
    """Names of the sensors: the numeric columns of `telemetry` beside the shard, sorted."""
    schema = telemetry.collect_schema()
    return sorted(name for name, dtype in schema.items() if dtype.is_numeric() and name != "shard")


def known(tables: Frames, as_of: datetime) -> dict[str, pl.LazyFrame]:
    """The tables as they were known at `as_of`: rows of a later time are left out."""
    return {
        name: frame.filter(pl.col("time") <= as_of) if "time" in frame.collect_schema() else frame
        for name, frame in tables.items()
    }


def interval_hours(telemetry: pl.LazyFrame) -> float | None:
    """The interval of the telemetry: the commonest distance between a machine's consecutive rows.

    Looks at up to 20 machines. Null where no machine has two rows; the shorter of two equally common.
    """
    machines = telemetry.select(pl.col("machine_id").unique().sort()).collect()["machine_id"]
    some = machines.gather_every(max(1, len(machines) // 20)).head(20)
    distance = pl.col("time").diff().over("machine_id").dt.total_microseconds()
    counts = (
        telemetry.filter(pl.col("machine_id").is_in(some.implode()))
        .select("machine_id", "time")
        .sort("machine_id", "time")
        .select(distance.alias("distance"))
        .filter(pl.col("distance") > 0)
        .group_by("distance")
        .len()
        .sort(["len", "distance"], descending=[True, False])
        .head(1)
        .collect()
    )
    return counts["distance"].item() / 3.6e9 if counts.height else None


def end_labelled(telemetry: pl.LazyFrame, hours: float) -> pl.LazyFrame:
    """Telemetry whose times marked the start of intervals of `hours`, with the end in its place."""
    return telemetry.with_columns(pl.col("time") + pl.duration(microseconds=round(hours * 3.6e9)))
