"""Source -> contract: good rows, bad rows, and sources that are refused."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from models.contracts import COLUMNS, FILE, QUARANTINE, ROW, RULE, is_unknown
from models.errors import ContractError
from models.scenario import Scenario, Table, with_shard
from models.times import far_from_others
from tasks.ingest import capture
from tasks.ingest.alike import SUM, alike, sums
from tasks.ingest.decimals import units_in_names, units_of, with_points
from tasks.ingest.groups import with_group_keys
from tasks.ingest.layouts import laid_out, layout_of, of_messages
from tasks.ingest.quarantine import as_bad, by_rule, held
from tasks.ingest.sources import SourceError, of_table, read, rename, renaming, with_mapped
from tasks.ingest.sql import is_sql, read_sql
from tasks.ingest.wide import as_long
from tasks.storage.staging import Staged
from tasks.storage.store import Store
from tasks.storage.upsert import groups_of_shards

_STAGED_IN_MEMORY = 1_000_000
_FEW_MESSAGES = 100
"""Up to this many bad messages never stop a capture, whatever their share: a stream must go on."""
_FOOTER, _SUBTOTAL = "footer", "subtotal"
"""The rules of up to `_FOOTERS` rows at the end of a file that lack a key or a time, and of sums. They never stop an
ingest."""
_SUM_OF = rf"{SUM}|(?i)\S\s+(total|summe|gesamt|ergebnis)\s*:?\s*$"
"""Matches the names of sums, including those of one key, such as `A1 Total`."""
_FOOTERS = 5
_EARLIER = "earlier files"
_TIMES = (
    "Write dates and times like 2024-01-29, 29.1.2024 14:30 or 2024-W05. If several columns make up one, join them, "
    "for example --column week=Year+Week or --column time=Date+Time."
)
_SHORTENED = (
    "A spreadsheet shortens long numbers: 4.01E+12 has lost its last digits. Save the file again with all digits, as text "
    "or in the number format 0."
)
_NAMELESS = "Words such as NULL, nan and none are not names. Remove these rows, or give them names."
_ADVICE = {
    "date": _TIMES,
    "datetime": _TIMES,
    "time_unparsable": _TIMES,
    "digits_lost": _SHORTENED,
    "no_name": _NAMELESS,
}
"""What to do about rows of any table that break a rule, by the rule without its column."""


@dataclass
class Intake:
    """What was read from one source: `good` rows with their shard, `bad` ones with the columns of the quarantine.

    `read` includes rows that were `merged` into others. `files` are those of a capture. `units` are those that this and
    earlier ingests left out of the numbers of columns.
    """

    good: Staged
    bad: Staged
    read: int = 0
    ignored: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    files: list[capture.Looked] | None = None
    mapping: dict[str, str] = field(default_factory=dict)
    merged: int = 0
    alike: tuple[str, ...] = ()
    units: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    """Unchecked rows of one file, numbered by `ROW`, with the table's column names.

    `bad` are messages that could not be read as rows, with the columns of the quarantine. `number` is the column
    with the row number that people see.
    """

    name: str
    raw: pl.DataFrame
    bad: pl.DataFrame | None = None
    number: str = ROW


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


def check_table(request: Request, name: str, tables: Mapping[str, pl.LazyFrame], folder: Path) -> Intake:
    """The checked rows of a table's source. Raises if too many of them, or the source as a whole, are wrong."""
    table = request.scenario.tables[name]
    intake = _check(request, table, folder, {name: frame.collect_schema() for name, frame in tables.items()})
    whole = bool(request.options.get("replace")) and table.rows_at_a_time is None
    _refuse(table, intake, 0.0 if whole else request.max_bad_share, exists=name in tables, whole=whole)
    intake.alike += alike(request.scenario, table, intake.good, tables, request.max_bad_share)
    intake.alike += sums(request.scenario, table, intake.good)
    if table.rows_at_a_time is None and intake.good.height:
        rows = intake.good.rows().drop("shard", strict=False).collect()
        table.check(rows, tables)
        intake.alike += table.notes(rows, tables, request.options)
    return intake


def _check(
    request: Request, table: Table, folder: Path, schemas: Mapping[str, Mapping[str, pl.DataType]]
) -> Intake:
    """All rows of the table's source, split into good and bad; `schemas` are those of the stored tables.

    The rows of all files are one table: those with the same unique columns are merged.
    """
    options, spill = request.options, table.rows_at_a_time and _STAGED_IN_MEMORY
    intake = Intake(Staged(folder / "good", spill), Staged(folder / "bad"))
    intake.bad.add(pl.DataFrame(schema=QUARANTINE))
    files: list[tuple[int, str, list[str]]] = []
    left_out: dict[str, str] = {}
    tables = request.scenario.tables.values() if table.covariates else [table]
    similar = [one.name for one in tables if one.unique[-1:] == table.unique[-1:]]
    types = {c: kind for one in similar for c, kind in schemas.get(one, {}).items()}
    types |= schemas.get(table.name, {})
    further = types.keys() - {"shard"} if table.covariates else ()
    intake.units = {c: unit for one in similar for c, unit in request.units.get(one, {}).items()}
    for batch in _batches(request, table, intake, further, folder / "sql"):
        try:
            result = table.accept(batch.raw, {**options, "types": types})
        except ContractError as error:
            raise ContractError(f"{batch.name}: {error}") from None
        bad = _with_footers(result.bad, batch.raw, table) if result.good.height else result.bad
        bad_rows = batch.raw.join(bad, on=ROW, how="inner", maintain_order="left")
        intake.bad.add(as_bad(bad_rows, batch.name, batch.number))
        good, no_numbers = _as_before(result.good, types)
        empty = _empty_words(batch.raw.select(result.ignored), schemas) if table.words != 0 else []
        good = good.with_columns(pl.lit(None, pl.String).alias(name) for name in empty)
        if batch.bad is None:
            ignored = {*result.ignored, *no_numbers} - {*empty}
            intake.ignored |= ignored
            left_out |= dict.fromkeys(_with_values(batch.raw.select(sorted(ignored))), batch.name) | left_out
        else:
            intake.bad.add(batch.bad)
        good = with_shard(good, table.shard_by, options["shards"]) if table.shard_by else good
        files.append((intake.good.height, batch.name, good.columns))
        intake.good.add(good)
        intake.read += batch.raw.height + (0 if batch.bad is None else batch.bad.height)
    if intake.read == 0 and intake.files is None and not table.may_be_empty:
        raise SourceError(
            f"{request.sources[table.name]}: there is a header but no rows. Expected at least one."
        )
    request.units[table.name] = intake.units
    if intake.good.height:
        _make_one_table(request, table, intake, files, folder)
        columns = {*intake.good.rows().collect_schema()} - {"shard"}
        intake.ignored -= columns
        intake.alike += tuple(
            f"{table.name}: '{column}' of {name} is left out: it has words where other rows have numbers, or too many."
            for column, name in left_out.items()
            if column in columns
        )
    return intake


def _with_values(columns: pl.DataFrame) -> list[str]:
    """The names of columns with any known value."""
    is_empty = {c.name: c.dtype == pl.String and is_unknown(c).all() for c in columns}
    return [c.name for c in columns if c.count() and not is_empty[c.name]]


def _make_one_table(
    request: Request, table: Table, intake: Intake, files: Sequence[tuple[int, str, list[str]]], folder: Path
) -> None:
    """Merge the good rows of all files that have the same unique columns, and remove those far from all others.

    `files` are the number of the first row, the name and the columns of each file.
    """
    if table.unique_in(request.options):
        rows = _merged(table, intake.good, files, request.options, folder / "merged")
        intake.merged, intake.good = intake.good.height - rows.height, rows
    if len(files) > 1:
        _remove_far(table, intake, request.sources[table.name], folder / "near")


def _merged(
    table: Table,
    good: Staged,
    files: Sequence[tuple[int, str, list[str]]],
    options: Mapping[str, Any],
    folder: Path,
) -> Staged:
    """`good` with one row for each combination of the unique columns; `files` as in `_make_one_table`."""
    at_a_time = table.rows_at_a_time if table.shard_by else None
    if at_a_time is not None:
        keys = (
            good.rows()
            .select(pl.struct(table.unique_in(options)).hash())
            .collect(engine="streaming")
            .to_series()
        )
        if keys.n_unique() == good.height:
            return good
    rows, result = good.rows().with_row_index(ROW), Staged(folder, at_a_time and _STAGED_IN_MEMORY)
    first_rows = pl.DataFrame(
        files, schema={ROW: pl.UInt32, FILE: pl.String, COLUMNS: pl.List(pl.String)}, orient="row"
    )
    parts = (
        [rows]
        if at_a_time is None
        else (
            rows.filter(pl.col("shard").is_in(shards)) for shards in groups_of_shards(good.rows(), at_a_time)
        )
    )
    for part in parts:
        try:
            result.add(table.one_of_each(part.collect(), first_rows, options).drop(ROW))
        except ContractError as error:
            names = {name for _, name, _ in files}
            raise ContractError(f"{table.name if len(names) > 1 else names.pop()}: {error}") from None
    return result


def _remove_far(table: Table, intake: Intake, source: str, folder: Path) -> None:
    """Move rows to the bad ones whose time is far from those of all files."""
    schema = intake.good.rows().collect_schema()
    for time in (c for c in table.unique if c in schema and schema[c].is_temporal()):
        times = intake.good.rows().select(time).collect(engine="streaming").to_series()
        far_times = times.filter(far_from_others(times)).unique()
        if far_times.is_empty():
            continue
        is_far = pl.col(time).is_in(far_times.implode())
        rows = intake.good.rows().filter(is_far).collect()
        rule = pl.lit(f"{time}|far_from_others").alias(RULE)
        intake.bad.add(as_bad(rows.drop("shard", strict=False).with_columns(rule), source, None))
        near = Staged(folder, _STAGED_IN_MEMORY)
        for frame in intake.good.rows().filter(~is_far).collect_batches(maintain_order=True):
            near.add(frame)
        intake.good = near


def _with_footers(bad: pl.DataFrame, rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """`bad` with the rule `_SUBTOTAL` for `rows` that lack a value in a unique column and are named like sums, and
    `_FOOTER` for such rows at the end, which may instead lack half of all required columns."""
    columns = [name for name in table.required_columns if name in rows.columns]
    lacks = pl.any_horizontal(pl.col(name).is_null() for name in columns if name in table.unique)
    empty = pl.sum_horizontal(pl.col(columns).is_null()) * 2 >= len(columns)
    is_sum = pl.any_horizontal(pl.col(columns).cast(pl.String).str.contains(_SUM_OF)).fill_null(False)
    last = rows.tail(_FOOTERS).reverse()
    footers = last.filter((lacks & (empty | is_sum)).cum_min())[ROW].implode()
    subtotals = rows.filter(lacks & is_sum)[ROW].implode()
    rule = pl.when(pl.col(ROW).is_in(footers)).then(pl.lit(_FOOTER))
    return bad.with_columns(
        rule.when(pl.col(ROW).is_in(subtotals)).then(pl.lit(_SUBTOTAL)).otherwise(RULE).alias(RULE)
    )


def _empty_words(columns: pl.DataFrame, schemas: Mapping[str, Mapping[str, pl.DataType]]) -> list[str]:
    """Names of `columns` without a known value that hold words in some table, such as the promotions of a plan without
    any."""
    words = {name for schema in schemas.values() for name, kind in schema.items() if kind == pl.String}
    texts = [each for each in columns if each.name in words and each.dtype in (pl.String, pl.Null)]
    return [each.name for each in texts if is_unknown(each.cast(pl.String)).all()]


def _as_before(good: pl.DataFrame, types: dict[str, pl.DataType]) -> tuple[pl.DataFrame, list[str]]:
    """`good` with columns typed as in earlier rows, also of similar tables, and the names of those left out: text instead
    of numbers.

    Numbers become text in columns that were text before. The types of new columns are added to `types`.
    """
    before = {name: types.setdefault(name, kind) for name, kind in good.schema.items()}
    texts = [name for name, kind in good.schema.items() if kind == pl.String and before[name] != pl.String]
    words = [name for name, kind in good.schema.items() if kind != pl.String and before[name] == pl.String]
    plain = [pl.col(name).cast(pl.String).str.strip_suffix(".0") for name in words]
    return good.with_columns(plain).drop(texts), texts


def _batches(
    request: Request, table: Table, intake: Intake, further: Collection[str], folder: Path
) -> Iterator[_Batch]:
    """The rows of the table's source; of a capture, only those of pending files.

    `further` columns take the names that similar tables have.
    """
    scenario, store, options = request.scenario, request.store, request.options
    source, layout = request.sources[table.name], layout_of(scenario, options.get("layout"))
    mapping = of_table(request.mapping, table.name, scenario.tables)
    if not is_sql(source) and not table.covariates and capture.is_capture(source):
        if options.get("replace"):
            raise SourceError(
                f"{source} is a capture: only new files of it are read. With --replace, expected files that hold "
                "all rows of their time range. Leave --replace out, or export the readings to a file."
            )
        intake.files = []
        again = held(scenario, store, table) if options.get("again") else {}
        files = capture.pending(store, scenario.name, source, again)
        yield from _captured(files, table, {**of_messages(layout, source), **mapping}, intake, again)
        return
    inputs = []
    units = {c: {unit: _EARLIER} for c, unit in {**units_in_names(further), **intake.units}.items()}
    raw_sources = [read_sql(source, options.get("query"), folder)] if is_sql(source) else list(read(source))
    raw_sources = [with_mapped(one, mapping, table.required_columns) for one in raw_sources]
    intake.columns |= {column for file in raw_sources for column in file.columns}
    for one, names_of in laid_out(layout, table, raw_sources, request.sources, mapping, options.get("dates")):
        plain = with_points(one, table, names_of, options.get("decimals"))
        if table.rows_at_a_time is None:
            plain, notes = with_group_keys(plain, table, names_of)
            intake.alike += notes
        long = as_long(plain, table, names_of, options.get("dates"), wide=bool(options.get("wide")))
        inputs.append(rename(long, names_of, table.required_columns, table.aliases, further))
        intake.columns |= {*one.columns}
        intake.mapping |= renaming(long.columns, names_of, table.required_columns, table.aliases, further)
        names = {old: new for new, old in intake.mapping.items()}
        for column, unit in units_of(one, table, names_of).items():
            units.setdefault(names.get(column, column), {})[unit.strip()] = one.name
        for column, unit in units_in_names(one.columns).items():
            units.setdefault(column, {})[unit] = one.name
        further = {*further, *inputs[-1].columns} if table.covariates else further
    intake.alike += _units_in_words(table, units, {column for one in inputs for column in one.columns})
    intake.units |= {column: next(iter(files)) for column, files in units.items()}
    for one in inputs:
        for rows in one.batches(table.rows_at_a_time):
            yield _Batch(one.name, rows)


def _units_in_words(
    table: Table, units: Mapping[str, Mapping[str, str]], columns: Collection[str]
) -> tuple[str, ...]:
    """Notes on units that are left out or that `columns` lack, by column and unit with the first file that has it.

    Raises `SourceError` if a column has another unit in another file, unless its rows are of several sensors.
    """
    for column, files in units.items():
        if table.covariates and len(files) > 1:
            (unit, name), (other, later) = [*files.items()][:2]
            raise SourceError(
                f"{later}: the numbers of '{column}' are in {other}, those of {name} in {unit}. Expected one unit. Convert "
                "one of the files, or read only files of one unit."
            )
    notes = []
    for column, files in units.items():
        unit = " and ".join(files)
        if {*files.values()} != {_EARLIER}:
            note = f"{unit} in the numbers of '{column}' is left out. Other files must have the same unit."
        else:
            note = f"the numbers of '{column}' have no unit; those of {_EARLIER} are in {unit}."
        notes += [f"{table.name}: {note}"] if column in columns else []
    return tuple(notes)


def _captured(
    files: Sequence[capture.CaptureFile],
    table: Table,
    mapping: Mapping[str, str],
    intake: Intake,
    again: Mapping[str, Collection[int | None]],
) -> Iterator[_Batch]:
    """The messages of files; of a file in `again`, only those with the numbers listed there, unless one of these is
    None."""
    columns = {column: mapping.get(column, column) for column in table.required_columns}
    intake.mapping |= columns
    intake.columns |= set(columns.values())
    for file in files:
        capture_file, numbers = capture.Looked(file), again.get(file.uri, (None,))
        for messages in capture.read(capture_file, columns):
            rows, bad = messages.rows.with_row_index(ROW), messages.bad
            if None not in numbers:
                rows = rows.filter(pl.col(capture.SEQUENCE).cast(pl.Int64).is_in(list(numbers)))
                bad = bad.filter(pl.col("row_number").is_in(list(numbers)))
            yield _Batch(file.uri, rows, bad, number=capture.SEQUENCE)
        intake.bad.add(capture_file.quarantined())
        intake.read += capture_file.quarantined().height
        intake.files = [*(intake.files or []), capture_file]


def _refuse(table: Table, intake: Intake, max_bad_share: float, *, exists: bool, whole: bool) -> None:
    """Raise `ContractError` if more rows are bad than allowed, or none is good.

    A file that replaces the `whole` table may have no bad rows, because the rows stored in their place would be
    removed. Once the table exists, a few bad messages of a capture are always allowed, unless all messages lack a
    member that a column is mapped from: then the mapping is wrong.
    """
    stream = intake.files is not None and exists
    if intake.read == 0 or not intake.bad.height:
        return
    bad = intake.bad.rows().collect()
    if intake.good.height:
        bad = bad.filter(~pl.col("rule").is_in([*table.harmless, _FOOTER, _SUBTOTAL]))
    else:
        stream = stream and not bad["rule"].str.starts_with("body|lacks").all()
    limit = max(max_bad_share * intake.read, _FEW_MESSAGES if stream else 0)
    if bad.height <= limit and (stream or intake.good.height):
        return
    rules = "\n".join(f"  {rule}: {count:,}" for rule, count in by_rule(bad).items())
    examples = "\n".join(
        f"  {row['source']}, row {'-' if row['row_number'] is None else row['row_number']}: {row['rule']}: {row['row']}"
        for row in bad.sort("rule", "source", "row_number")
        .group_by("rule", maintain_order=True)
        .first()
        .iter_rows(named=True)
    )
    names = {name for rule in by_rule(bad) for name in (rule, rule.rpartition("|")[2])}
    texts = dict.fromkeys(text for name, text in {**_ADVICE, **table.advice}.items() if name in names)
    advice = "".join(f"\n{text}" for text in texts)
    way = "leave --replace out, which removes stored rows" if whole else "allow more with --max-bad-share"
    raise ContractError(
        f"{table.name}: {bad.height:,} of {intake.read:,} rows ({bad.height / intake.read:.1%}) break the contract; "
        f"{max_bad_share:.1%} are allowed. Nothing was written.\nRules broken:\n{rules}\n"
        f"The first of each:\n{examples}{advice}\n"
        f"Correct the source, map columns with --column, or {way}."
    )


def refuse_unused(mapping: Mapping[str, str], intakes: Mapping[str, Intake]) -> None:
    """Raise `SourceError` if a column is mapped from a column that no source has."""
    for column, source in mapping.items():
        table, dot, _ = column.partition(".")
        of = [intakes[table]] if dot and table in intakes else intakes.values()
        available = sorted({name for c in of for name in c.columns})
        if source not in available:
            raise SourceError(
                f"--column {column}={source}: no source has a column '{source}'. Found: {', '.join(available)}."
            )


def refuse_alike(source: str, columns: Sequence[str]) -> None:
    """Raise `SourceError` if names differ only in upper and lower case, because a table cannot hold both."""
    first: dict[str, str] = {}
    for column in columns:
        other = first.setdefault(column.lower(), column)
        if other != column:
            raise SourceError(
                f"{source}: columns '{other}' and '{column}' differ only in upper and lower case. "
                f"Map one to the other with --column {other}={column}."
            )
