"""Common file layouts of machine data, arranged as the tables of this scenario."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial, reduce

import polars as pl

from models.contracts import flags, is_unknown
from models.errors import ContractError
from models.layouts import (
    TIMES,
    Layout,
    LayoutRequest,
    SourceFile,
    has_tags,
    time_and_others,
    time_and_tags,
    with_header,
)

TAGS = ("tag", "sensor", "variable", "parameter", "metric", "signal")
VALUES = ("value", "reading", "measurement")
UNITS = ("unit", "unit_number", "unit_nr", "unit_id", "engine", "engine_id", "machine_id", "id")
CYCLES = ("cycle", "cycles", "time_in_cycles", "time_cycles", "time")
FIRST_CYCLE = datetime(2000, 1, 1, tzinfo=UTC)
"""Cycles are days after this one."""
_MOST_CYCLES = 9_000
"""Days after `FIRST_CYCLE` that are over."""
_COMPONENTS = ("component", "comp")
_NASA = ("unit", "cycle", *(f"setting{n}" for n in (1, 2, 3)), *(f"s{n}" for n in range(1, 22)))
"""Columns of the files without a header."""
_MACHINE = "machine"
"""The component of failures without one."""
_MACHINE_IDS = ("machine_id", "machineID")
_RANGE = ("start", "end")
_FLAG = r"(?i)(is[ _-]?|has[ _-]?|machine[ _-]?|equipment[ _-]?)?(failures?|failed|fail|breakdown|broken|fault)([ _-]?flag)?"

_FAILED = r"(?i)^(broken|failed|failure|fault|breakdown)$"
"""The state of a machine in a row of a failure."""
_SOUND = r"(?i)^(normal|ok|good|healthy|running|operational|recovering)$"
"""Its state in other rows, also in files without any failure."""


def _by_tag(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Telemetry with a row per reading, converted to a row per machine and time with a column per tag.

    Raises `ContractError` if a tag has two values at one time, also in two files.
    """
    if request.table != "telemetry":
        return list(files)
    rows = pl.concat([_readings(file, request) for file in files], how="diagonal_relaxed")
    readings = rows.unique(maintain_order=True).collect()
    place = [c for c in readings.columns if c in ("machine_id", "time")]
    several = readings.filter(pl.struct(*place, "tag").is_duplicated()).sort(
        *place, "tag", maintain_order=True
    )
    if several.height:
        at = " ".join(map(str, several.select(place).row(0)))
        raise ContractError(
            f"{request.source}: {several['tag'][0]} of {at} has several values: "
            f"{' and '.join(map(str, several['value'].head(2)))}. Expected one value. Remove the others."
        )
    wide = readings.pivot("tag", index=place, values="value", maintain_order=True)
    return [SourceFile(files[0].name if len(files) == 1 else request.source, wide.lazy())]


def _readings(file: SourceFile, request: LayoutRequest) -> pl.LazyFrame:
    """The machine, time, tag and value of each reading. Raises `ContractError` if the tag or value is missing."""
    columns = file.columns
    usual = {
        "machine_id": _MACHINE_IDS,
        "time": ("datetime", *TIMES),
        "tag": TAGS,
        "value": VALUES,
    }
    sources = {
        new: next((c for c in (request.mapping.get(new), *names) if c in columns), None)
        for new, names in usual.items()
    }
    tag, value = sources["tag"], sources["value"]
    if tag is None or value is None:
        name = "tag" if tag is None else "value"
        raise ContractError(
            f"{file.name}: column '{name}' is missing. Found: {', '.join(columns)}. "
            f"Map it with --column {name}=NAME_IN_THE_FILE."
        )
    present = {new: name for new, name in sources.items() if name}
    return file.frame.select(pl.col(name).alias(new) for new, name in present.items()).drop_nulls("tag")


def _by_file(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Telemetry with a file per machine, named after the machine."""
    if request.table != "telemetry":
        return list(files)
    return [SourceFile(p.name, p.frame.with_columns(machine_id=pl.lit(p.stem))) for p in files]


def _by_tag_of_machine(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Telemetry with a column per machine and sensor, converted to a row per machine and time."""
    if request.table != "telemetry":
        return list(files)
    return [SourceFile(file.name, _by_machine(file, request)) for file in files]


def _by_machine(file: SourceFile, request: LayoutRequest) -> pl.LazyFrame:
    time, tags = time_and_tags(file, request)
    frames = []
    for machine in dict.fromkeys(machine for machine, _ in tags.values()):
        sensors = [pl.col(name).alias(sensor) for name, (of, sensor) in tags.items() if of == machine]
        frames.append(
            file.frame.select(pl.lit(machine).alias("machine_id"), pl.col(time).alias("time"), *sensors)
        )
    return pl.concat(frames, how="diagonal_relaxed")


def flag_of_failures(columns: Sequence[str]) -> str | None:
    """The first column that is named like a flag of failures.

    >>> flag_of_failures(["time", "Machine failure", "temp"]), flag_of_failures(["failure_code"])
    ('Machine failure', None)
    """
    return next((name for name in columns if re.fullmatch(_FLAG, name)), None)


def _by_flag(
    files: Sequence[SourceFile], request: LayoutRequest, component: str = _MACHINE
) -> list[SourceFile]:
    """Telemetry with a flag that is 1 in rows of failures; those are the failures of `component`, unless it is mapped."""
    if request.table not in ("telemetry", "failures"):
        return list(files)
    names = {file.name: _flag(file.columns, request) for file in files}
    if request.table == "telemetry":
        return [SourceFile(p.name, p.frame.drop(names[p.name] or [])) for p in files]
    of = [] if "component" in request.mapping else [pl.lit(component).alias("component")]
    are_states = any(_has_failures(p, flag) for p in files if (flag := names[p.name]))
    return [
        SourceFile(p.name, _failures(p, flag, are_states=are_states).with_columns(of))
        if (flag := names[p.name])
        else p
        for p in files
    ]


def _flag(columns: Sequence[str], request: LayoutRequest) -> str | None:
    """The column of the flag: the one that the user maps to `failure`, else the first that is named like one."""
    own = request.mapping.get("failure")
    return own if own in columns else flag_of_failures(columns)


def _has_failures(file: SourceFile, flag: str) -> bool:
    """Whether `flag` has a state such as BROKEN."""
    return bool(file.frame.select(_text(flag).str.contains(_FAILED).any()).collect().item())


def _text(flag: str) -> pl.Expr:
    return pl.col(flag).cast(pl.String).str.strip_chars()


def _failures(file: SourceFile, flag: str, *, are_states: bool) -> pl.LazyFrame:
    """The rows in which `flag` is 1 or a state such as BROKEN, without it.

    Raises `ContractError` for other values than 1, 0, unknown ones and states such as NORMAL, unless `are_states`: any
    file has a state such as BROKEN.
    """
    text = _text(flag)
    if are_states:
        has_failed = text.str.contains(_FAILED) | (text.cast(pl.Float64, strict=False) == 1.0)
        return file.frame.filter(has_failed).drop(flag)
    values = file.frame.select(text.drop_nulls().unique().sort()).collect()[flag]
    is_flag = flags(values).is_in([0.0, 1.0]).fill_null(False)
    odd = values.filter(~(is_flag | is_unknown(values) | values.str.contains(_SOUND)))
    if odd.len():
        raise ContractError(
            f"{file.name}: '{flag}' is {odd[0]}. Expected 0 or 1, words such as yes and no, or a state such as BROKEN. "
            "Rename the column if it is no flag of failures."
        )
    return file.frame.filter(flags(pl.col(flag)) == 1.0).drop(flag)


def _equipment(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """An asset's folder with a file or folder per component, joined by time; label ranges become failures."""
    machine = pl.lit(request.sources.get("telemetry")).alias("machine_id")
    if request.table == "failures":
        ranges = [with_header(file, _RANGE) for file in files]
        component = pl.lit(_MACHINE).alias("component")
        return [
            SourceFile(p.name, p.frame.select(machine, pl.col("start").alias("time"), component))
            for p in ranges
        ]
    if request.table != "telemetry":
        return list(files)
    components: dict[str, list[pl.LazyFrame]] = {}
    for file in files:
        time, sensors = time_and_others(file, request)
        name = file.folder if file.folder not in (None, request.source) else file.stem
        frame = file.frame.select(
            pl.col(time).alias("time"), *(pl.col(s).alias(f"{name}.{s}") for s in sensors)
        )
        components.setdefault(str(name), []).append(frame)
    tables = [pl.concat(frames, how="diagonal_relaxed") for frames in components.values()]
    beside = reduce(lambda one, other: one.join(other, on="time", how="full", coalesce=True), tables)
    return [SourceFile(request.source, beside.with_columns(machine))]


def _by_cycle(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Readings and failures by cycle.

    Each row of a file of failures is one if the file names components or has no readings; otherwise the last cycle of
    each machine is.
    """
    if request.table not in ("telemetry", "failures"):
        return list(files)
    return [SourceFile(file.name, _with_dates(file, request)) for file in files]


def _with_dates(file: SourceFile, request: LayoutRequest) -> pl.LazyFrame:
    """Raises `ContractError` if the column of the machine or of the cycle is missing, or if there are too many cycles."""
    frame = file.frame
    if file.columns == [f"column {n}" for n in range(1, len(_NASA) + 1)]:
        frame = frame.rename(dict(zip(file.columns, _NASA, strict=True)))
    columns = frame.collect_schema().names()
    unit, cycle = (
        next((c for c in (request.mapping.get(new), *names) if c in columns), None)
        for new, names in (("machine_id", UNITS), ("time", CYCLES))
    )
    if unit is None or cycle is None:
        name = "machine_id" if unit is None else "time"
        raise ContractError(
            f"{file.name}: the column of the {'machine' if unit is None else 'cycle'} is missing. Found: "
            f"{', '.join(columns)}. Map it with --column {name}=NAME_IN_THE_FILE."
        )
    number = pl.col(cycle).cast(pl.Float64, strict=False)
    if (most := frame.select(number.max()).collect().item() or 0) > _MOST_CYCLES:
        raise ContractError(
            f"{file.name}: {cycle} goes up to {most:,.0f}. Expected at most {_MOST_CYCLES:,}, because a cycle is read as a "
            "day. Divide the cycles of all files by the distance between two readings, such as 1,000."
        )
    days = pl.duration(days=number.round().cast(pl.Int64))
    time = (pl.lit(FIRST_CYCLE).cast(pl.Datetime("us", "UTC")) + days).alias(cycle)
    if request.table == "telemetry":
        return frame.with_columns(time)
    names = {request.mapping.get("component"), *_COMPONENTS} & {*columns}
    if not names and {*columns} > {unit, cycle}:
        frame = (
            frame.select(unit, cycle)
            .group_by(unit, maintain_order=True)
            .agg(pl.col(cycle).sort_by(number).last())
        )
    return frame.with_columns(time, *([] if names else [pl.lit(_MACHINE).alias("component")]))


LAYOUTS = {
    "azure-pdm": Layout(
        "The tables of Azure's predictive maintenance example: machineID, datetime, volt, ..., errorID, comp, failure, "
        "age; they can also be read without a layout",
        {
            "machine_id": ("machineID",),
            "time": ("datetime",),
            "error": ("errorID",),
            "component": ("comp", "failure"),
            "age_years": ("age",),
        },
    ),
    "tag-value": Layout(
        "Telemetry with a row per reading: machine_id, time, tag (the sensor) and value",
        {"time": TIMES},
        arrange=_by_tag,
        names=(*_MACHINE_IDS, "datetime", *TAGS, *VALUES),
    ),
    "machine-tag": Layout(
        "Telemetry with a column per machine and sensor, such as P-101.vibration: a time, and the readings of both",
        arrange=_by_tag_of_machine,
        names=TIMES,
        recognises=has_tags,
    ),
    "file-per-machine": Layout(
        "Telemetry with a file per machine and a column per sensor; the file's name is the machine",
        {"time": TIMES},
        arrange=_by_file,
    ),
    "backblaze": Layout(
        "Backblaze's drive statistics: date, serial_number, failure, smart_1_raw, ...; the rows of the"
        " same files in which failure is 1 are the failures of the component drive",
        {"machine_id": ("serial_number",), "time": ("date",)},
        arrange=partial(_by_flag, component="drive"),
        names=("failure",),
    ),
    "failure-flag": Layout(
        "Telemetry with a column such as failure or Machine failure, or --column failure=COLUMN; the rows of the same files "
        "in which it is 1, or a state such as BROKEN, are the failures, of the component machine unless a column is mapped "
        "to component",
        {"time": TIMES},
        arrange=_by_flag,
        names=(*_MACHINE_IDS, "datetime"),
    ),
    "cycles": Layout(
        "C-MAPSS and other machines that run to failure by cycles: unit, cycle and readings, with or without a header; a "
        "cycle is read as a day; in the files of failures a unit's last cycle is its failure or, if they have a component "
        "column or no readings, each row is one",
        {"machine_id": UNITS, "time": CYCLES},
        arrange=_by_cycle,
    ),
    "lookout-equipment": Layout(
        "AWS Lookout for Equipment: an asset's folder with a CSV or folder per component, and label ranges (start, end); "
        "the folder's name is the machine, sensors are component.sensor, and a range is a failure at its start",
        arrange=_equipment,
        names=(*TIMES, *_RANGE),
    ),
}
