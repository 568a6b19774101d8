"""Bringing rows into a table: new rows are appended, rows that replace stored ones are merged."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.table import TableMerger

from models.contracts import FoldResult
from models.scenario import Table
from tasks.storage.commits import facts
from tasks.storage.staging import Staged, reader
from tasks.storage.store import Store
from tasks.storage.tables import FILE_BYTES, ROW_GROUP, concat_lazy

_FEW = 1_000_000
"""The number of rows that are held in memory."""


@dataclass(frozen=True)
class UpsertResult:
    """The result of an upsert: `changed` rows of the table are new or differ from before.

    `repeated` counts rows that changed nothing; `refused` are rows that arrived too late. `removed` counts stored rows that
    are no longer in the table.
    """

    changed: int
    repeated: int
    refused: pl.DataFrame
    removed: int = 0


def upsert(
    store: Store, path: str, table: Table, rows: pl.LazyFrame, folder: Path, *, whole: bool = False
) -> UpsertResult:
    """Bring accepted `rows` into a table, as the table folds them into the stored rows.

    All rows become visible in one commit. If they do not fit into memory, rows that replace others are committed before
    the new ones. Nothing is committed if nothing changes. If another writer commits in between, all rows are folded
    again. They are compared with stored rows a few shards at a time; `folder` holds what does not fit into memory
    meanwhile.

    `obsolete` stored rows are removed in a later commit. If that commit fails, it is repeated when the same rows are
    ingested again.
    """
    result = store.retrying(path, lambda: _attempt(store, path, table, rows, folder, whole=whole))
    if result.changed or result.removed:
        store.compact_at_times(path)
    return result


def _attempt(
    store: Store, path: str, table: Table, rows: pl.LazyFrame, folder: Path, *, whole: bool
) -> UpsertResult:
    """Fold the rows into the table as it is now, and commit; see `upsert`."""
    target = store.find_table(path)
    new, changes = Staged(folder / "new", _FEW), Staged(folder / "changed", _FEW)
    repeats, late = 0, []
    removals = pl.DataFrame() if target is None else obsolete(table, pl.scan_delta(target), rows, whole=whole)
    for step in _fold_results(table, target, rows, whole=whole):
        new.add(step.new)
        changes.add(step.changed)
        repeats += step.repeated
        late.append(step.refused)
    together = changes.height > 0 and new.height + changes.height <= _FEW
    if changes.height and target is not None:
        news = concat_lazy([changes.rows(), new.rows()]) if together else changes.rows()
        merger = _merger(target, table, news, merge_schema=True)
        merger.when_matched_update_all().when_not_matched_insert_all().execute()
        target.update_incremental()
    if target is None or (new.height and not together):
        _append(store.url_of(path) if target is None else target, table, new.rows())
    if target is not None and removals.height:
        target.update_incremental()
        _merger(target, table, removals.lazy(), merge_schema=False).when_matched_delete().execute()
    return UpsertResult(new.height + changes.height, repeats, pl.concat(late), removals.height)


def _append(target: str | DeltaTable, table: Table, rows: pl.LazyFrame) -> None:
    """Commit new rows to a table, or to the address of one that does not exist yet."""
    exists = isinstance(target, DeltaTable)
    write_deltalake(
        target,
        reader(rows),
        mode="append" if exists else "error",
        partition_by="shard" if table.shard_by else None,
        schema_mode="merge" if exists else None,
        target_file_size=FILE_BYTES,
        writer_properties=WriterProperties(max_row_group_size=ROW_GROUP),
        commit_properties=_commit(table, rows),
    )


def obsolete(table: Table, before: pl.LazyFrame, rows: pl.LazyFrame, *, whole: bool) -> pl.DataFrame:
    """The identifying columns of stored rows, `before`, that `rows` make obsolete.

    With `whole`, `rows` are complete from their first time to their last, or altogether in a table without times: other
    stored rows of that range are obsolete. Otherwise, those that the table considers corrected are.
    """
    if not whole:
        return table.corrections(before, rows)
    schema = before.collect_schema()
    if time := next((c for c in schema if c in table.unique and schema[c].is_temporal()), None):
        ends = rows.select(pl.col(time).min().alias("low"), pl.col(time).max().alias("high")).collect()
        before = before.filter(pl.col(time).is_between(*ends.row(0)))
    others = before.join(rows.select(table.unique), on=list(table.unique), how="anti")
    return others.select(table.identity).collect(engine="streaming")


def _fold_results(
    table: Table, target: DeltaTable | None, rows: pl.LazyFrame, *, whole: bool
) -> Iterator[FoldResult]:
    before = None if target is None else pl.scan_delta(target)
    fold = table.replace if whole else table.fold
    if not table.shard_by or table.rows_at_a_time is None:
        yield fold(before, rows.collect())
        return
    for shards in groups_of_shards(rows, table.rows_at_a_time):
        inside = pl.col("shard").is_in(shards)
        new = rows.filter(inside).collect()
        yield fold(None if before is None else before.filter(inside), new)


def groups_of_shards(rows: pl.LazyFrame, at_a_time: int) -> Iterator[list[int]]:
    """Shards with at most `at_a_time` rows together, or a single one."""
    counts = rows.group_by("shard").len().sort("shard").collect(engine="streaming")
    group: list[int] = []
    size = 0
    for shard, count in counts.iter_rows():
        if group and size + count > at_a_time:
            yield group
            group, size = [], 0
        group.append(shard)
        size += count
    if group:
        yield group


def _merger(target: DeltaTable, table: Table, rows: pl.LazyFrame, *, merge_schema: bool) -> TableMerger:
    """What one commit does with the stored rows that have the same identifying columns as `rows`."""
    return target.merge(
        reader(rows),
        predicate=_same(table, rows),
        source_alias="s",
        target_alias="t",
        merge_schema=merge_schema,
        commit_properties=_commit(table, rows),
    )


def _same(table: Table, rows: pl.LazyFrame) -> str:
    """The predicate of a merge by the identifying columns.

    It bounds shards and times, so that no other files are read.
    """
    keys = table.identity
    schema = rows.collect_schema()
    ranges = [c for c in keys if schema[c].is_integer() or schema[c].is_temporal()]
    extent = rows.select(
        *(pl.col(c).min().alias(f"low {c}") for c in ranges),
        *(pl.col(c).max().alias(f"high {c}") for c in ranges),
    )
    bounds = extent.collect(engine="streaming").row(0, named=True) if ranges else {}
    near = [
        f"t.{c} >= {_literal(bounds[f'low {c}'])} AND t.{c} <= {_literal(bounds[f'high {c}'])}"
        for c in ranges
    ]
    return " AND ".join([*near, *(f"t.{c} = s.{c}" for c in keys)])


def _commit(table: Table, rows: pl.LazyFrame) -> CommitProperties:
    """A commit with the facts of `rows`; delta-rs does not retry it, our callers do."""
    return CommitProperties(custom_metadata=facts(table, rows), max_commit_retries=0)


def _literal(value: int | date | datetime) -> str:
    """A value in the SQL of a merge predicate."""
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat()}'"
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else str(value)
