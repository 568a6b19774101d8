"""Source -> contract: good rows, bad rows, and sources that are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from models.contracts import (
    COLUMNS,
    FILE,
    MARK,
    QUARANTINE,
    ROW,
    RULE,
    AcceptResult,
    is_row_number,
    is_unknown,
)
from models.date_order import DateOrder, shown_order
from models.errors import ContractError
from models.far_times import far_from_others
from models.scenario import Table, with_shard
from tasks.ingest.alike import SUM, alike, sums
from tasks.ingest.batches import Batch, Request, SourceRows, rows_of
from tasks.ingest.quarantine import as_bad, by_rule
from tasks.ingest.sources import SourceError
from tasks.ingest.wide import EACH
from tasks.storage.staging import Staged
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
_STORED_TIMES = 10_000
"""The most stored times that count against a new one that is far from them."""
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

    `read` includes rows that were `merged` into others; `ignored` are names of columns.
    """

    source: SourceRows
    good: Staged
    bad: Staged
    notes: list[str]
    read: int = 0
    merged: int = 0
    ignored: set[str] = field(default_factory=set)


def check_table(request: Request, name: str, tables: Mapping[str, pl.LazyFrame], folder: Path) -> Intake:
    """The checked rows of a table's source. Raises if too many of them, or the source as a whole, are wrong."""
    table = request.scenario.tables[name]
    intake = _check(request, table, folder, tables)
    whole = bool(request.options.get("replace")) and table.rows_at_a_time is None
    _refuse(table, intake, 0.0 if whole else request.max_bad_share, exists=name in tables, whole=whole)
    intake.notes += alike(request.scenario, table, intake.good, tables, request.max_bad_share)
    intake.notes += sums(request.scenario, table, intake.good)
    if table.rows_at_a_time is None and intake.good.height:
        rows = intake.good.rows().drop("shard", strict=False).collect()
        table.check(rows, tables)
        intake.notes += table.notes(rows, tables, request.options)
    return intake


def _check(request: Request, table: Table, folder: Path, stored_tables: Mapping[str, pl.LazyFrame]) -> Intake:
    """All rows of the table's source, split into good and bad.

    The rows of all files are one table: those with the same unique columns are merged.
    """
    schemas = {name: frame.collect_schema() for name, frame in stored_tables.items()}
    tables = request.scenario.tables.values() if table.covariates else [table]
    similar = [one.name for one in tables if one.unique[-1:] == table.unique[-1:]]
    types = {c: kind for one in similar for c, kind in schemas.get(one, {}).items()}
    types |= schemas.get(table.name, {})
    further = types.keys() - {"shard"} if table.covariates else ()
    units = {c: unit for one in similar for c, unit in request.units.get(one, {}).items()}
    source = rows_of(request, table, further, units, folder / "sql")
    spill = table.rows_at_a_time and _STAGED_IN_MEMORY
    intake = Intake(source, Staged(folder / "good", spill), Staged(folder / "bad"), [*source.notes])
    intake.bad.add(pl.DataFrame(schema=QUARANTINE))
    files: list[tuple[int, str, list[str]]] = []
    left_out: dict[str, str] = {}
    orders: dict[DateOrder, str] = {}
    for batch in source.batches:
        _refuse_other_order(orders, batch, table, request.options)
        good, ignored = _accept(batch, table, {**request.options, "types": types}, schemas, intake)
        files.append((intake.good.height, batch.name, good.columns))
        intake.good.add(good)
        if source.files is None:
            intake.ignored |= ignored
            left_out |= dict.fromkeys(_with_values(batch.raw.select(sorted(ignored))), batch.name) | left_out
    for file in source.files or ():
        damage = file.quarantined()
        intake.bad.add(damage)
        intake.read += damage.height
    if intake.read == 0 and source.files is None and not table.may_be_empty:
        raise SourceError(
            f"{request.sources[table.name]}: there is a header but no rows. Expected at least one."
        )
    request.units[table.name] = {**source.units}
    if intake.good.height:
        _make_one_table(request, table, intake, files, folder, stored_tables.get(table.name))
        columns = {*intake.good.rows().collect_schema()} - {"shard"}
        intake.ignored -= columns
        intake.notes += [
            f"{table.name}: '{column}' of {name} is left out: it has words where other rows have numbers, or too many."
            for column, name in left_out.items()
            if column in columns
        ]
    return intake


def _refuse_other_order(
    orders: dict[DateOrder, str], batch: Batch, table: Table, options: Mapping[str, Any]
) -> None:
    """Raise `SourceError` if dates show another order of day and month than another file; `orders` has those files."""
    types = table.schema.columns()
    for column in batch.raw.columns if options.get("dates") is None else ():
        if column not in types or not types[column].dtype.is_temporal():
            continue
        order = shown_order(batch.raw[column])
        others = [name for one, name in orders.items() if order not in (None, one)]
        if others:
            raise SourceError(
                f"{batch.name}: {column} is {order}, but not in {others[0]}. Expected one order in all files of an ingest. "
                "Read these files one by one, or choose --dates day-first or --dates month-first."
            )
        if order:
            orders.setdefault(order, batch.name)


def _accept(
    batch: Batch,
    table: Table,
    options: Mapping[str, Any],
    schemas: Mapping[str, Mapping[str, pl.DataType]],
    intake: Intake,
) -> tuple[pl.DataFrame, set[str]]:
    """The good rows of a batch, and the names of columns that were left out; its bad rows are added to the intake."""
    try:
        result = table.accept(batch.raw, options)
    except ContractError as error:
        raise ContractError(f"{batch.name}: {error}") from None
    if table.amounts and options.get("duplicates") is None:
        _refuse_transactions(batch, result, table)
    bad = _with_footers(result.bad, batch.raw, table) if result.good.height else result.bad
    bad_rows = batch.raw.join(bad, on=ROW, how="inner", maintain_order="left")
    intake.bad.add(as_bad(bad_rows, batch.name, batch.number))
    intake.read += batch.raw.height
    if batch.bad is not None:
        intake.bad.add(batch.bad)
        intake.read += batch.bad.height
    good, no_numbers = _as_before(result.good, options["types"])
    empty = _empty_words(batch.raw.select(result.ignored), schemas) if table.words != 0 else []
    good = good.with_columns(pl.lit(None, pl.String).alias(name) for name in empty)
    good = with_shard(good, table.shard_by, options["shards"]) if table.shard_by else good
    return good, {*result.ignored, *no_numbers} - {*empty}


def _refuse_transactions(batch: Batch, result: AcceptResult, table: Table) -> None:
    """Raise `ContractError` if rows that are the same in the table differ in the file, in a column that is left out or
    in the time of day: they are several sales, and not one that is repeated."""
    types = table.schema.columns()
    raw = batch.raw
    dates = [c for c in table.unique if types[c].dtype == pl.Date and raw[c].dtype == pl.String]
    times = [c for c in dates if raw[c].drop_nulls().head(1).str.contains(r"\d:\d\d").any()]
    others = [*times, *(c for c in result.ignored if not is_row_number(raw, c))]
    if not others:
        return
    raw = raw.join(result.bad, on=ROW, how="anti", maintain_order="left")
    own = result.good.columns
    rows = result.good.hstack(raw.select(pl.col(others).name.prefix(MARK)))
    several = rows.filter(pl.struct(own).is_duplicated()).unique(maintain_order=True)
    several = several.filter(pl.struct(own).is_duplicated()).sort(own, maintain_order=True).head(2)
    if several.is_empty():
        return
    column = next((c for c in others if several[f"{MARK}{c}"].n_unique() > 1), others[0])
    key = ", ".join(f"{c} {several[c][0]}" for c in table.unique)
    one, other = several[f"{MARK}{column}"]
    raise ContractError(
        f"{batch.name}: rows with the same values, such as those of {key}, differ in '{column}': {one} and {other}. They "
        "are several sales, unless they are repeated. Choose: --duplicates add, or --duplicates last, which counts one."
    )


def _with_values(columns: pl.DataFrame) -> list[str]:
    """The names of columns with any known value."""
    is_empty = {c.name: c.dtype == pl.String and is_unknown(c).all() for c in columns}
    return [c.name for c in columns if c.count() and not is_empty[c.name]]


def _make_one_table(
    request: Request,
    table: Table,
    intake: Intake,
    files: Sequence[tuple[int, str, list[str]]],
    folder: Path,
    stored_rows: pl.LazyFrame | None,
) -> None:
    """Merge the good rows of all files that have the same unique columns, and remove those far from all others.

    `files` are the number of the first row, the name and the columns of each file. Those of a table that is read in
    batches are not compared with the stored rows.
    """
    if table.unique_in(request.options):
        rows = _merged(table, intake.good, files, request.options, folder / "merged")
        intake.merged, intake.good = intake.good.height - rows.height, rows
    others = stored_rows if table.rows_at_a_time is None else None
    if len(files) > 1 or others is not None:
        _remove_far(table, intake, request.sources[table.name], folder / "near", others)


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


def _remove_far(
    table: Table, intake: Intake, source: str, folder: Path, stored_rows: pl.LazyFrame | None
) -> None:
    """Move rows to the bad ones whose time is far from those of all files and of `stored_rows`."""
    schema = intake.good.rows().collect_schema()
    for time in (c for c in table.unique if c in schema and schema[c].is_temporal()):
        times = intake.good.rows().select(time).collect(engine="streaming").to_series()
        known = [] if stored_rows is None else [_ends(stored_rows.select(time))]
        far_times = times.filter(far_from_others(pl.concat([times, *known])).head(times.len())).unique()
        if far_times.is_empty():
            continue
        is_far = pl.col(time).is_in(far_times.implode())
        rows = intake.good.rows().filter(is_far).collect()
        rule = pl.lit(f"{time}|far_from_others").alias(RULE)
        intake.bad.add(as_bad(rows.drop("shard", strict=False).with_columns(rule), source, None))
        near = Staged(folder, _STAGED_IN_MEMORY)
        near.add(rows.clear())
        for frame in intake.good.rows().filter(~is_far).collect_batches(maintain_order=True):
            near.add(frame)
        intake.good = near


def _ends(times: pl.LazyFrame) -> pl.Series:
    """The first and the last of stored times, as often as there are times, up to `_STORED_TIMES`."""
    time = pl.first()
    low, high, count = (
        times.select(time.min().alias("low"), time.max().alias("high"), pl.len()).collect().row(0)
    )
    half = min(count, _STORED_TIMES) // 2
    return pl.Series([low] * half + [high] * half, dtype=times.collect_schema().dtypes()[0])


def _with_footers(bad: pl.DataFrame, rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """`bad` with the rule `_SUBTOTAL` for `rows` that lack a value in a unique column and are named like sums, and
    `_FOOTER` for such rows at the end, which may instead lack half of all required columns."""
    columns = [name for name in table.required_columns if name in rows.columns]
    lacks = pl.any_horizontal(pl.col(name).is_null() for name in columns if name in table.unique)
    empty = pl.sum_horizontal(pl.col(columns).is_null()) * 2 >= len(columns)
    is_sum = pl.any_horizontal(pl.col(columns).cast(pl.String).str.contains(_SUM_OF)).fill_null(False)
    last = rows.tail(_FOOTERS).reverse()
    footers = last.filter((lacks & (empty | is_sum)).cum_min())[ROW].implode()
    subtotals = rows.filter(lacks).filter(is_sum)[ROW].implode()
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


def _refuse(table: Table, intake: Intake, max_bad_share: float, *, exists: bool, whole: bool) -> None:
    """Raise `ContractError` if more rows are bad than allowed, or none is good.

    A file that replaces the `whole` table may have no bad rows, because the rows stored in their place would be
    removed. Once the table exists, a few bad messages of a capture are always allowed, unless all messages lack a
    member that a column is mapped from: then the mapping is wrong.
    """
    stream = intake.source.files is not None and exists
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
        available = sorted({name for c in of for name in c.source.columns})
        if source not in (*available, EACH):
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
