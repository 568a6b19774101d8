"""A source as batches of rows with the column names of its table, before they are checked."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from models.contracts import ROW
from models.scenario import Scenario, Table
from tasks.ingest import capture
from tasks.ingest.columns import of_table, rename, renaming, with_mapped, with_offset_of_name
from tasks.ingest.decimals import units_in_names, units_of, with_names, with_points
from tasks.ingest.groups import with_group_keys
from tasks.ingest.layouts import laid_out, layout_of, of_messages
from tasks.ingest.quarantine import held
from tasks.ingest.sources import Source, SourceError, read
from tasks.ingest.sql import is_sql, read_sql
from tasks.ingest.wide import EACH, as_long
from tasks.storage.store import Store

_EARLIER = "earlier files"


@dataclass(frozen=True)
class Request:
    """The request for an ingest: sources by table, the mapping of their columns, and options, including fixed ones.

    `units` are those of the columns of each table, from earlier ingests and from tables that are already checked.
    """

    scenario: Scenario
    store: Store
    sources: Mapping[str, str]
    mapping: Mapping[str, str]
    options: Mapping[str, Any]
    max_bad_share: float
    units: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Unchecked rows of one file, numbered by `ROW`, with the table's column names.

    `bad` are messages that could not be read as rows, with the columns of the quarantine. `number` is the column
    with the row number that people see.
    """

    name: str
    raw: pl.DataFrame
    bad: pl.DataFrame | None = None
    number: str = ROW


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source in batches, which can be read once, and what is known of all of them.

    `columns` are those of the files, and `mapping` names the column of each of the table's. `units` are those that this
    and earlier ingests left out of the numbers of columns. `files` are those of a capture, and complete once their
    batches have been read; None for other sources.
    """

    batches: Iterator[Batch]
    columns: Collection[str]
    mapping: Mapping[str, str]
    units: Mapping[str, str]
    notes: Sequence[str] = ()
    files: Sequence[capture.Looked] | None = None


def rows_of(
    request: Request, table: Table, further: Collection[str], units: Mapping[str, str], folder: Path
) -> SourceRows:
    """The rows of a table's source; of a capture, only those of its pending files.

    `further` columns take the names that similar tables have; `units` are those of their columns.
    """
    source = request.sources[table.name]
    if not is_sql(source) and not table.covariates and capture.is_capture(source):
        return _of_capture(request, table, units)
    return _of_files(request, table, further, units, folder)


def _advice(scenario: Scenario, table: Table, columns: Collection[str]) -> str:
    """Further advice for a file without the table's columns: the layouts that it fits, and `--wide`."""
    names = [f"--layout {name}" for name, layout in scenario.layouts.items() if layout.fits([*columns])]
    text = f"\nOr read such files with {' or '.join(names)}." if names else ""
    if not names and table.wide and table.wide[1] not in (present := {c.casefold() for c in columns}):
        if table.rows_at_a_time is None:
            ways = " or ".join(f"--column '{column}={EACH}'" for column in scenario.key)
            text += f"\nIf it has a column per {' or '.join(scenario.key)}, map only the others, and add --wide {ways}."
        elif table.wide[0] not in present:
            text += "\nIf it has a column per sensor, map only the others, and add --wide."
    return text


def _of_files(
    request: Request, table: Table, further: Collection[str], units: Mapping[str, str], folder: Path
) -> SourceRows:
    source, options = request.sources[table.name], request.options
    given = of_table(request.mapping, table.name, request.scenario.tables)
    plain = (
        [read_sql(source, options.get("query"), folder)]
        if is_sql(source)
        else list(read(source, options.get("encoding")))
    )
    plain = [with_mapped(with_names(one, table, given), given, table.required_columns) for one in plain]
    columns = {column for one in plain for column in one.columns}
    layout, order = layout_of(request.scenario, options.get("layout")), options.get("dates")
    files, mapping, notes = list[Source](), dict[str, str](), list[str]()
    all_units = {c: {unit: _EARLIER} for c, unit in {**units_in_names(further), **units}.items()}
    for one, names in laid_out(layout, table, plain, request.sources, given, order):
        columns |= {*one.columns}
        long = with_points(one, table, names, options.get("decimals"))
        if table.rows_at_a_time is None:
            long, group_notes = with_group_keys(long, table, names)
            notes += group_notes
        long = as_long(long, table, names, order, wide=bool(options.get("wide")))
        mapping |= renaming(long.columns, names, table.required_columns, table.aliases, further)
        table.check_names(mapping, options)
        advice = "" if layout else _advice(request.scenario, table, one.columns)
        renamed = rename(long, names, table.required_columns, table.aliases, further, advice)
        files.append(with_offset_of_name(renamed, mapping))
        of_source = {old: new for new, old in mapping.items()}
        for column, unit in units_of(one, table, names).items():
            all_units.setdefault(of_source.get(column, column), {})[unit.strip()] = one.name
        for column, unit in units_in_names(one.columns).items():
            all_units.setdefault(column, {})[unit] = one.name
        further = {*further, *files[-1].columns} if table.covariates else further
    return SourceRows(
        (Batch(one.name, rows) for one in files for rows in one.batches(table.rows_at_a_time)),
        columns,
        mapping,
        {**units, **{column: next(iter(names_of)) for column, names_of in all_units.items()}},
        [*notes, *_unit_notes(table, all_units, {*columns, *(c for one in files for c in one.columns)})],
    )


def _unit_notes(
    table: Table, units: Mapping[str, Mapping[str, str]], columns: Collection[str]
) -> Iterator[str]:
    """Notes on units that are left out or that `columns` lack, by column and unit with the first file that has it.

    Raises `SourceError` if a column has another unit in another file, unless its rows are of several sensors.
    """
    for column, files in units.items():
        if (table.covariates or column not in table.required_columns) and len(files) > 1:
            (unit, name), (other, later) = [*files.items()][:2]
            raise SourceError(
                f"{later}: the numbers of '{column}' are in {other}, those of {name} in {unit}. Expected one unit. Convert "
                "one of the files, or read only files of one unit."
            )
    for column, files in units.items():
        if column not in columns:
            continue
        unit = " and ".join(files)
        if {*files.values()} != {_EARLIER}:
            note = f"{unit} in the numbers of '{column}' is left out. Other files must have the same unit."
        else:
            note = f"the numbers of '{column}' have no unit; those of {_EARLIER} are in {unit}."
        yield f"{table.name}: {note}"


def _of_capture(request: Request, table: Table, units: Mapping[str, str]) -> SourceRows:
    scenario, store, options = request.scenario, request.store, request.options
    source = request.sources[table.name]
    if options.get("replace"):
        raise SourceError(
            f"{source} is a capture: only new files of it are read. With --replace, expected files that hold "
            "all rows of their time range. Leave --replace out, or export the readings to a file."
        )
    again = held(scenario, store, table) if options.get("again") else {}
    given = {
        **of_messages(layout_of(scenario, options.get("layout")), source),
        **of_table(request.mapping, table.name, scenario.tables),
    }
    mapping = {column: given.get(column, column) for column in table.required_columns}
    files = [capture.Looked(file) for file in capture.pending(store, scenario.name, source, again)]
    batches = (batch for one in files for batch in _messages(one, mapping, again.get(one.file.uri, (None,))))
    return SourceRows(batches, {*mapping.values()}, mapping, units, files=files)


def _messages(
    file: capture.Looked, mapping: Mapping[str, str], numbers: Collection[int | None]
) -> Iterator[Batch]:
    """The messages of a file; only those with one of the `numbers`, unless one of these is None."""
    for messages in capture.read(file, mapping):
        rows, bad = messages.rows.with_row_index(ROW), messages.bad
        if None not in numbers:
            rows = rows.filter(pl.col(capture.SEQUENCE).cast(pl.Int64).is_in(list(numbers)))
            bad = bad.filter(pl.col("row_number").is_in(list(numbers)))
        yield Batch(file.file.uri, rows, bad, number=capture.SEQUENCE)
