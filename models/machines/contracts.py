"""The contracts of the inputs: telemetry, error log, maintenance, failures, machines.

Times are UTC. The names of components, sensors and errors come from the data.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl

from models.contracts import ROW, RULE, AcceptResult, flags
from models.errors import ContractError
from models.machines.chains import first_of_chains
from models.machines.cleaning import tidy_rows, words
from models.machines.layouts import TAGS, VALUES, flag_of_failures
from models.marked_rows import CANCELLED, is_cancelled
from models.scenario import Frames, Table
from models.schemas import dy


class Telemetry(dy.Schema):
    """Readings of a machine over one interval that ended at `time`; further numeric columns are sensors."""

    machine_id = dy.String(min_length=1)
    time = dy.Datetime(time_zone="UTC")


class Errors(Telemetry):
    """Errors that a machine reported at `time` without stopping."""

    error = dy.String(min_length=1)


class Events(Telemetry):
    """Failures of a component, or its replacements, planned or because it failed."""

    component = dy.String(min_length=1)


class Machines(dy.Schema):
    """Attributes of a machine that do not change."""

    machine_id = dy.String(min_length=1)
    model = dy.String(nullable=True)
    age_years = dy.Float64(nullable=True, min=0)


@dataclass(frozen=True)
class MachinesTable(Table):
    """A table whose names are spelled uniformly before the contract is checked, see `cleaning`."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        return super().accept(tidy_rows(raw), options)


@dataclass(frozen=True)
class AttributesTable(MachinesTable):
    """Attributes of machines. A source may lack the model, the age or both: they are then null."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        spellings = {re.sub(r"[\s_-]", "", name).casefold(): name for name in raw.columns}
        sources = {name: spellings.get(name.replace("_", "")) for name in ("model", "age_years")}
        null = pl.lit(None, pl.String)
        columns = {name: pl.col(old) if old else null for name, old in sources.items()}
        return super().accept(raw.with_columns(**columns), options)


@dataclass(frozen=True)
class EventsTable(MachinesTable):
    """Failures or replacements; a record with a corrected time or component replaces the original."""

    def notes(
        self,
        frame: pl.DataFrame,
        stored_tables: Frames,
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> tuple[str, ...]:
        """A note that names texts that are read as one component because they have the same words."""
        before = [stored_tables[self.name].select("component")] if self.name in stored_tables else []
        texts = pl.concat([frame.lazy().select("component"), *before]).unique().sort("component")
        kinds = (
            texts.group_by(words(pl.col("component")).alias("words"), maintain_order=True)
            .agg("component")
            .collect()
        )
        several = kinds.filter(pl.col("component").list.len() > 1)
        if several.is_empty():
            return ()
        examples = "; ".join(
            " = ".join(f"'{text}'" for text in row) for row in several["component"].head(_SHOWN)
        )
        more = f" and {several.height - _SHOWN:,} more" if several.height > _SHOWN else ""
        many = kinds["component"].list.len().sum()
        return (f"{self.name}: {many:,} texts are read as {kinds.height:,} components: {examples}{more}.",)

    def corrections(self, stored_rows: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        """Stored records that `rows` lack, if `rows` repeat the stored records and have a new record within a day.

        They repeat them if they include at least half of the records stored for their machines and time.
        """
        near = timedelta(hours=24)
        low, high = rows.select(pl.col("time").min().alias("low"), pl.col("time").max()).collect().row(0)
        of_time = pl.col("time").is_between(low, high)
        before = (
            stored_rows.filter(of_time).join(rows.select("machine_id"), on="machine_id", how="semi").collect()
        )
        news = rows.collect().join(before, on=list(self.unique), how="anti")
        missing_rows = before.join(rows.collect(), on=list(self.unique), how="anti")
        if 2 * missing_rows.height > before.height:
            return missing_rows.head(0).select(self.identity)
        times = news.select("machine_id", "time", pl.lit(True).alias("|new")).sort("time")
        nearest = missing_rows.sort("time").join_asof(
            times, on="time", by="machine_id", strategy="nearest", tolerance=near, check_sortedness=False
        )
        return nearest.filter("|new").select(self.identity)


@dataclass(frozen=True)
class FailuresTable(EventsTable):
    """Failures: a row for each failure, not a flag for each reading. Preventive work, as a column for the type of work or
    the component itself says, and cancelled work are no failures."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """Raises `ContractError` if a flag, mostly 0, says that rows are no failures: the component, or another column."""
        for column in ("component", flag_of_failures(raw.columns)):
            zeros = _zeros(raw[column]) if column else 0
            if 2 * zeros > raw.height:
                raise ContractError(
                    f"{column} is 0 in {zeros:,} of {raw.height:,} rows, so it is a flag. Expected a row for each failure. "
                    "If the files have readings, too, read them with --layout failure-flag. Otherwise, keep only the rows "
                    "in which it is 1, and name the failed component with --column component==NAME."
                )
        rule = (
            pl.when(is_cancelled(raw))
            .then(pl.lit(CANCELLED))
            .when(_is_preventive(raw))
            .then(pl.lit(_PREVENTIVE))
        )
        others = raw.select(ROW, rule.alias(RULE)).drop_nulls(RULE)
        result = super().accept(raw.join(others, on=ROW, how="anti", maintain_order="left"), options)
        return dataclasses.replace(result, bad=pl.concat([result.bad, others]))

    def check(self, frame: pl.DataFrame, stored_tables: Frames) -> None:
        """Raises `ContractError` if more than half of the readings have a failure at their time: the rows are readings."""
        super().check(frame, stored_tables)
        readings = stored_tables.get("telemetry")
        if readings is None or 2 * frame.height <= readings.select(pl.len()).collect().item():
            return
        at = readings.select("machine_id", "time").collect()
        count = at.join(frame, on=["machine_id", "time"], how="semi").height
        if 2 * count > at.height and count > _COINCIDENCES:
            raise ContractError(
                f"{self.name}: {count:,} of the {at.height:,} readings have a failure at their time, so the rows are "
                "readings. Expected a row for each failure. If a column says which readings are failures, read both with "
                "--layout failure-flag --column failure=COLUMN."
            )

    def notes(
        self, frame: pl.DataFrame, stored_tables: Frames, options: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Also a note where telemetry is dated by days, and failures are not: its rows may know what follows."""
        notes = (*super().notes(frame, stored_tables, options), *_outside(frame, stored_tables))
        zone = options.get("timezone") or "UTC"
        if options.get("telemetry_marks") == "start" or is_dated(frame.lazy(), zone) is not False:
            return notes
        if "telemetry" not in stored_tables or not is_dated(stored_tables["telemetry"], zone):
            return notes
        return (
            *notes,
            "telemetry: all times are 00:00, so a row is of the day that ended then. If rows are of the day that begins, "
            "they know of failures of that day: read them into another store with --telemetry-marks start.",
        )


@dataclass(frozen=True)
class TelemetryTable(MachinesTable):
    """Readings over intervals, stored with the time at which the interval ended.

    Options of the ingest: `timezone`, and `telemetry_marks`, which the first ingest fixes: `end` (the
    default), or `start` if the sources' times mark the start of an interval. `telemetry_hours` is then the interval
    if a source does not show it.
    """

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """Raises `ContractError` if there is no column with readings, if each row is the reading of one tag, or if the
        interval is needed but unknown."""
        names = {c.casefold(): c for c in raw.columns}
        tag = next((names[c] for c in TAGS if c in names and raw[names[c]].dtype == pl.String), None)
        if tag and {*VALUES} & {*names}:
            raise ContractError(
                f"there is a row per reading, with a column '{tag}' for the sensor. Expected a column per "
                "sensor. Read this layout with --layout tag-value."
            )
        times = raw["time"].drop_nulls()
        if len(times) and not times.dtype.is_temporal() and _counts(times.cast(pl.Float64, strict=False)):
            low, high = times.cast(pl.Float64).sort()[[0, -1]].to_list()
            raise ContractError(
                f"time is from {low:g} to {high:g}, so it counts cycles or rows. Expected times. "
                "Read cycles as days with --layout cycles."
            )
        result = super().accept(raw, options)
        good = result.good
        if len(only := sensors(good.lazy())) == 1:
            _refuse_readings(raw, only[0])
        if not only:
            raise ContractError(
                f"{self.name}: no column with readings. Found: {', '.join(c for c in raw.columns if c != ROW)}. "
                "Expected at least one numeric column besides machine_id and time, e.g. vibration. "
                "Check that its values are numbers."
            )
        if options.get("telemetry_marks", "end") == "end" or good.is_empty():
            return result
        hours = options.get("telemetry_hours") or interval_hours(good.lazy())
        if hours is None:
            raise ContractError(
                f"{self.name}: times mark the start of an interval, but no machine has two rows that show "
                "its length. Set it with --telemetry-hours, e.g. 1."
            )
        return dataclasses.replace(result, good=with_end_times(good.lazy(), hours).collect())


def _outside(failures: pl.DataFrame, stored_tables: Frames) -> tuple[str, ...]:
    """A note on failures that are all before or all after the readings: nothing can be learnt from them."""
    if "telemetry" not in stored_tables or failures.is_empty():
        return ()
    ends = (pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
    first, last = stored_tables["telemetry"].select(ends).collect(engine="streaming").row(0)
    own_first, own_last = failures.select(ends).row(0)
    if first is None or (own_last >= first and own_first <= last):
        return ()
    return (
        f"failures: all are from {own_first:%Y-%m-%d} to {own_last:%Y-%m-%d}, but readings from {first:%Y-%m-%d} to "
        f"{last:%Y-%m-%d}. Nothing can be learnt from failures without readings before them.",
    )


def _refuse_readings(raw: pl.DataFrame, value: str) -> None:
    """Raise `ContractError` if the only column of numbers has the readings of several sensors, which a text names."""
    texts = (c for c in raw.columns if raw[c].dtype == pl.String and c not in ("machine_id", "time"))
    tag = next((c for c in texts if re.search(_TAG, c) and raw[c].n_unique() > 1), None)
    if tag:
        raise ContractError(
            f"'{value}' is the only column of readings, and '{tag}' names several, such as {raw[tag].drop_nulls()[0]}. If "
            f"these are sensors, add --layout tag-value --column tag={tag} --column value={value}; otherwise remove '{tag}'."
        )


def is_dated(rows: pl.LazyFrame, timezone: str) -> bool | None:
    """Whether all times are the start of a day, in UTC or in `timezone`; None where there are hardly any."""
    rows = rows.select("time")
    if rows.head(_FEW).collect(engine="streaming").height < _FEW:
        return None
    clocks = (pl.col("time").dt.convert_time_zone(zone).dt.time() for zone in ("UTC", timezone))
    return any(
        rows.filter(clock != time()).head(1).collect(engine="streaming").is_empty() for clock in clocks
    )


def _counts(numbers: pl.Series) -> bool:
    """Whether all are numbers that are no times: smaller than days in Excel's count, or from there to far above them."""
    if numbers.null_count():
        return False
    low, high = numbers.sort()[[0, -1]].to_list()
    return 0 <= low <= _FIRST_DAY and (high <= _FIRST_DAY or _LAST_DAY < high < _FIRST_DATE)


_FIRST_DAY, _LAST_DAY, _FIRST_DATE = 20_000, 60_000, 10_000_000
"""Days in Excel's count of the years 1954 and 2064; dates without separators, such as 20240129, are above all."""


def _zeros(values: pl.Series) -> int:
    """The number of zeros in a column of zeros and ones, also if these are words; 0 for other columns."""
    numbers = flags(values)
    is_flag = numbers.is_in([0.0, 1.0]) | values.is_null()
    return int((numbers == 0.0).sum()) if is_flag.fill_null(False).all() else 0


def _is_preventive(raw: pl.DataFrame) -> pl.Expr:
    """Whether rows are preventive work, such as a work order of the type PM, or one with yes in a column `planned`."""
    types = [c for c in raw.columns if c == "component" or re.search(_TYPE, c)]
    marks = [c for c in raw.columns if re.fullmatch(_PLANNED, c)]
    return pl.any_horizontal(
        pl.col(types).cast(pl.String).str.strip_chars().str.contains(_PREVENTIVE_WORK).fill_null(False),
        *((flags(pl.col(mark)) == 1.0).fill_null(False) for mark in marks),
    )


_COINCIDENCES = 3
"""More failures than these at the times of readings are no chance."""
_PREVENTIVE = "preventive_work"
_PLANNED = r"(?i)(is[ _-]?)?(planned|scheduled|preventive|geplant)"
_TYPE = r"(?i)type|class|categ|kind|activity|(work|auftrags)_?art"
_PREVENTIVE_WORK = (
    r"(?i)^(pm|ppm|pdm|(planned |scheduled )?(preventive|preventative|predictive|routine|inspection|calibration)"
    r"( maintenance| work)?|(planned|scheduled|periodic) (maintenance|service)|wartung|vorbeugend\w*|inspektion|"
    r"préventif|préventive|preventivo|preventiva)$"
)
"""Matches the names of columns for the type of work, and the types that are no repair, as in maintenance systems."""
_TAG = r"(?i)tag|sensor|signal|param|variable|measur|channel|metric|reading|point|quantity"
_REGULAR = 0.25
_SHOWN, _FEW = 5, 3
_ALIKE = 1.1
_MACHINE = {"machine_id": "machineID"}
_EVENT = {**_MACHINE, "time": "datetime"}
_BY_MACHINE = ("machine_id",)

TABLES: dict[str, Table] = {
    "telemetry": TelemetryTable(
        "telemetry",
        Telemetry,
        unique=("machine_id", "time"),
        shard_by=_BY_MACHINE,
        covariates=True,
        aliases=_EVENT,
        rows_at_a_time=2_000_000,
    ),
    "errors": MachinesTable(
        "errors",
        Errors,
        unique=("machine_id", "time", "error"),
        may_be_empty=True,
        shard_by=_BY_MACHINE,
        required=False,
        aliases={**_EVENT, "error": "errorID"},
    ),
    "maintenance": EventsTable(
        "maintenance",
        Events,
        unique=("machine_id", "time", "component"),
        may_be_empty=True,
        shard_by=_BY_MACHINE,
        required=False,
        aliases={**_EVENT, "component": "comp"},
    ),
    "failures": FailuresTable(
        "failures",
        Events,
        unique=("machine_id", "time", "component"),
        may_be_empty=True,
        shard_by=_BY_MACHINE,
        aliases={**_EVENT, "component": "failure"},
        harmless=(_PREVENTIVE, CANCELLED),
        advice={
            _PREVENTIVE: "Preventive work is no failure. Replacements of components belong in --maintenance."
        },
    ),
    "machines": AttributesTable(
        "machines",
        Machines,
        unique=_BY_MACHINE,
        optional=("model", "age_years"),
        shard_by=_BY_MACHINE,
        required=False,
        aliases={**_MACHINE, "age_years": "age"},
    ),
}
"""The tables; without a mapping, a source's columns may have the names of the public data set."""


def sensors(telemetry: pl.LazyFrame) -> list[str]:
    """Names of the sensors, sorted: the numeric columns of `telemetry` except the shard."""
    schema = telemetry.collect_schema()
    return sorted(name for name, dtype in schema.items() if dtype.is_numeric() and name != "shard")


def tables_at(tables: Frames, as_of: datetime) -> dict[str, pl.LazyFrame]:
    """The tables as known at `as_of`: rows with a later time are left out.

    If a failure is logged again until it is repaired, only the first record is kept, see `chains`.
    """
    visible = {
        name: frame.filter(pl.col("time") <= as_of) if "time" in frame.collect_schema() else frame
        for name, frame in tables.items()
    }
    if "failures" in visible:
        visible["failures"] = first_of_chains(visible["failures"], visible.get("maintenance"))
    return visible


def repeats(tables: Frames, as_of: datetime) -> int:
    """The number of records of failures up to `as_of` that repeat a failure before its repair."""
    if "failures" not in tables:
        return 0
    every = tables["failures"].filter(pl.col("time") <= as_of).select(pl.len()).collect().item()
    return int(every - tables_at(tables, as_of)["failures"].select(pl.len()).collect().item())


def interval_hours(telemetry: pl.LazyFrame) -> float | None:
    """The interval of the telemetry: the most common distance between a machine's consecutive rows.

    Uses up to 20 machines. None if no machine has two rows; the shorter of two equally common distances.
    If clocks jitter, so that hardly any two distances are equal, distances that differ by less than a
    tenth count as equal, and their median is rounded to whole hours, minutes or seconds.
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
        .collect()
    )
    if counts.is_empty():
        return None
    if counts["len"][0] >= _REGULAR * int(counts["len"].sum()):
        return float(counts["distance"][0]) / 3.6e9
    return _jittered(counts)


def _jittered(distances: pl.DataFrame) -> float:
    """The interval in hours, from distances (microseconds) and the number of times each occurs (`len`)."""
    by_length = distances.sort("distance")
    distance, count = by_length["distance"].to_numpy(), by_length["len"].to_numpy().astype(np.int64)
    before = np.concatenate([[0], np.cumsum(count)])
    end = np.searchsorted(distance, distance * _ALIKE, side="right")
    start = int(np.argmax(before[end] - before[:-1]))
    group = slice(start, int(end[start]))
    middle = float(np.median(np.repeat(distance[group], count[group]))) / 3.6e9
    for unit in (1.0, 1 / 60, 1 / 3600):
        whole = round(middle / unit) * unit
        if abs(whole - middle) <= 0.01 * middle:
            return whole
    return middle


def with_end_times(telemetry: pl.LazyFrame, hours: float) -> pl.LazyFrame:
    """Telemetry whose times marked the start of intervals of `hours`, with the end instead."""
    return telemetry.with_columns(pl.col("time") + pl.duration(microseconds=round(hours * 3.6e9)))
