"""The components of a machine: those on record for machines of its type.

A machine's type is its model or, if that is not on record, the set of its sensors.
"""

from collections.abc import Sequence
from datetime import datetime
from math import comb

import polars as pl

from models.machines.contracts import sensors
from models.scenario import Frames

_BY_CHANCE, _BY_CHANCE_OF_MACHINES = 0.001, 0.01
_EVENTS = ("failures", "maintenance")
Gaps = Sequence[tuple[str, str]]
"""Types of machines, each with a component that they do not have."""

GAPS = {"type": pl.String, "component": pl.String}
_NOBODY = pl.DataFrame(schema={"machine_id": pl.String, "type": pl.String})


def missing_components(tables: Frames, since: datetime, until: datetime) -> pl.DataFrame:
    """Components that a machine does not have: machine_id, component, sorted; as known at `until`.

    Sensors are those with readings after `since`.
    """
    machines = _machines(tables, since, until)
    return _of_machines(machines, _of_types(machines, tables, until))


def missing_by_type(tables: Frames, until: datetime) -> pl.DataFrame:
    """Components that no machine of a type has: `type`, component; as known at `until`."""
    return _of_types(_machines(tables, None, until), tables, until)


def missing_of_types(tables: Frames, gaps: Gaps, until: datetime) -> pl.DataFrame:
    """The components of `gaps`, rows of `missing_by_type`, that machines do not have: machine_id, component, sorted."""
    machines = _machines(tables, None, until) if gaps else _NOBODY
    return _of_machines(machines, pl.DataFrame([*gaps], schema=GAPS, orient="row"))


def _of_machines(machines: pl.DataFrame, gaps: pl.DataFrame) -> pl.DataFrame:
    return machines.join(gaps, on="type").select("machine_id", "component").sort("machine_id", "component")


def _of_types(machines: pl.DataFrame, tables: Frames, until: datetime) -> pl.DataFrame:
    """The components that types lack, `type` and component.

    A type lacks a component if none of its machines has a record of it, and this is not due to chance: the records
    of all machines, spread over their time in service, would miss the type less than once in a thousand times, and
    the machines with a record, drawn from all, less than once in a hundred.
    """
    nothing = pl.LazyFrame(schema={"machine_id": pl.String, "component": pl.String, "day": pl.Date})
    day = pl.col("time").dt.date().alias("day")
    parts = [
        tables[name].filter(pl.col("time") <= until).select("machine_id", "component", day)
        for name in _EVENTS
        if name in tables
    ]
    records = pl.concat([nothing, *parts]).unique().collect().join(machines, on="machine_id")
    types = machines.group_by("type").agg(pl.len().alias("machines"), pl.col("days").sum())
    kinds = records.group_by("component").agg(pl.len().alias("records"), pl.col("machine_id").n_unique())
    pairs = types.join(kinds, how="cross").join(records, on=["type", "component"], how="anti")
    pairs = pairs.filter((1 - pl.col("days") / machines["days"].sum()) ** pl.col("records") < _BY_CHANCE)
    chances = [
        comb(machines.height - of_type, of_component) / comb(machines.height, of_component)
        for of_type, of_component in pairs.select("machines", "machine_id").iter_rows()
    ]
    pairs = pairs.filter(pl.Series(chances, dtype=pl.Float64) < _BY_CHANCE_OF_MACHINES)
    return pairs.select("type", "component").sort("type", "component")


def _machines(tables: Frames, since: datetime | None, until: datetime) -> pl.DataFrame:
    """The machines with telemetry, after `since` if given: machine_id, `type`, `days` in service."""
    telemetry = tables["telemetry"].filter(pl.col("time") <= until)
    has_readings = [pl.col(name).is_not_null().any() for name in sensors(telemetry)]
    own = [pl.when(name).then(pl.lit(name)) for name in sensors(telemetry)]
    names = pl.concat_str([pl.lit(None, pl.String), *own], separator=", ", ignore_nulls=True)
    types = (
        telemetry.filter(pl.lit(value=True) if since is None else pl.col("time") > since)
        .group_by("machine_id")
        .agg(has_readings)
        .select("machine_id", type=names)
    )
    length = (pl.col("time").max() - pl.col("time").min()).dt.total_seconds() / 86_400
    days = telemetry.group_by("machine_id").agg(length.alias("days"))
    machines = types.join(days, on="machine_id").sort("machine_id").collect(engine="streaming")
    if "machines" not in tables:
        return machines
    models = tables["machines"].select("machine_id", "model").collect()
    model = pl.coalesce("model", "type").alias("type")
    return machines.join(models, on="machine_id", how="left", maintain_order="left").select(
        "machine_id", model, "days"
    )
