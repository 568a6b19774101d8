"""Source -> contract: good rows and bad rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from models.contracts import COLUMNS, FILE, QUARANTINE, ROW, RULE, is_unknown
from models.date_order import DateOrder
from models.errors import ContractError
from models.far_times import far_from_others
from models.scenario import Table, with_shard
from tasks.ingest.alike import SUM, alike, sums
from tasks.ingest.batches import Batch, Request, rows_of
from tasks.ingest.intake import Intake
from tasks.ingest.quarantine import FOOTER, SUBTOTAL, as_bad
from tasks.ingest.refusals import refuse_bad_rows, refuse_other_order, refuse_transactions
from tasks.ingest.sources import SourceError
from tasks.storage.staging import Staged
from tasks.storage.upsert import groups_of_shards

T = TypeVar("T")
_STAGED_IN_MEMORY = 1_000_000
_SUM_OF = rf"{SUM}|(?i)\S\s+(total|summe|gesamt|ergebnis)\s*:?\s*$"
"""Matches the names of sums, including those of one key, such as `A1 Total`."""
_FOOTERS = 5
_STORED_TIMES = 10_000
"""The most stored times that count against a new one that is far from them."""


def check_table(request: Request, name: str, tables: Mapping[str, pl.LazyFrame], folder: Path) -> Intake:
    """The checked rows of a table's source. Raises if too many of them, or the source as a whole, are wrong."""
    table = request.scenario.tables[name]
    intake = _check(request, table, folder, tables)
    whole = bool(request.options.get("replace")) and table.rows_at_a_time is None
    allowed = 0.0 if whole else request.max_bad_share
    refuse_bad_rows(table, intake, allowed, exists=name in tables, whole=whole)
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
    types, units = _of_similar(request, table, schemas), _of_similar(request, table, request.units)
    types |= schemas.get(table.name, {})
    further = types.keys() - {"shard"} if table.covariates else ()
    source = rows_of(request, table, further, units, folder / "sql")
    spill = table.rows_at_a_time and _STAGED_IN_MEMORY
    intake = Intake(source, Staged(folder / "good", spill), Staged(folder / "bad"), [*source.notes])
    intake.bad.add(pl.DataFrame(schema=QUARANTINE))
    files: list[tuple[int, str, list[str]]] = []
    left_out: dict[str, str] = {}
    orders: dict[DateOrder, str] = {}
    for batch in source.batches:
        refuse_other_order(orders, batch, table, request.options)
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


def _of_similar(request: Request, table: Table, by_table: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """What `by_table` says of the columns of the tables that share further columns with this one."""
    tables = request.scenario.tables.values() if table.covariates else [table]
    similar = [one.name for one in tables if one.unique[-1:] == table.unique[-1:]]
    return {c: value for name in similar for c, value in by_table.get(name, {}).items()}


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
        refuse_transactions(batch, result, table)
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
    elif len({name for _, name, _ in files}) > 1 and intake.source.files is None:
        table.check_files(intake.good.rows().with_row_index(ROW), _first_rows(files).drop(COLUMNS))
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
    parts = (
        [rows]
        if at_a_time is None
        else (
            rows.filter(pl.col("shard").is_in(shards)) for shards in groups_of_shards(good.rows(), at_a_time)
        )
    )
    for part in parts:
        try:
            result.add(table.one_of_each(part.collect(), _first_rows(files), options).drop(ROW))
        except ContractError as error:
            names = {name for _, name, _ in files}
            raise ContractError(f"{table.name if len(names) > 1 else names.pop()}: {error}") from None
    return result


def _first_rows(files: Sequence[tuple[int, str, list[str]]]) -> pl.DataFrame:
    schema = {ROW: pl.get_index_type(), FILE: pl.String, COLUMNS: pl.List(pl.String)}
    return pl.DataFrame(files, schema=schema, orient="row")


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
    """`bad` with the rule `SUBTOTAL` for `rows` that lack a value in a unique column and are named like sums, and
    `FOOTER` for such rows at the end, which may instead lack half of all required columns."""
    columns = [name for name in table.required_columns if name in rows.columns]
    lacks = pl.any_horizontal(pl.col(name).is_null() for name in columns if name in table.unique)
    empty = pl.sum_horizontal(pl.col(columns).is_null()) * 2 >= len(columns)
    is_sum = pl.any_horizontal(pl.col(columns).cast(pl.String).str.contains(_SUM_OF)).fill_null(False)
    last = rows.tail(_FOOTERS).reverse()
    footers = last.filter((lacks & (empty | is_sum)).cum_min())[ROW].implode()
    subtotals = rows.filter(lacks).filter(is_sum)[ROW].implode()
    rule = pl.when(pl.col(ROW).is_in(footers)).then(pl.lit(FOOTER))
    return bad.with_columns(
        rule.when(pl.col(ROW).is_in(subtotals)).then(pl.lit(SUBTOTAL)).otherwise(RULE).alias(RULE)
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
