"""Bringing rows into a table: what is new is appended, what replaces stored rows is merged."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.table import TableMerger

from models.contracts import Folded
from models.scenario import Table
from tasks.storage.commits import facts
from tasks.storage.staging import Staged, reader
from tasks.storage.store import Store
from tasks.storage.tables import FILE_BYTES, ROW_GROUP, concat_lazy

_FEW = 1_000_000
"""So many rows are held in memory."""


@dataclass(frozen=True)
class Brought:
    """What became of rows: `changed` rows of the table are new or other than before.

    `repeated` counts rows that changed nothing, `superseded` those that later ones replace; `refused`
    are rows that came too late to be taken. `removed` stored rows are not in the table any more.
    """

    changed: int
    repeated: int
    superseded: int
    refused: pl.DataFrame
    removed: int = 0


def upsert(
    store: Store, path: str, table: Table, rows: pl.LazyFrame, folder: Path, *, whole: bool = False
) -> Brought:
    """Bring accepted `rows` into a table, as the table folds them into what is stored.

    All of it becomes visible in one commit; of more rows than fit into memory, those that replace
    others do so in a commit before that of the new ones. There is none where nothing changes. Where
    another writer commits in between, all is folded anew. Rows are looked at some shards at a time,
    and next to stored rows of these shards only; `folder` is for what does not fit into memory meanwhile.

    Stored rows that are `obsolete` are removed in a commit after that. One that does not happen is made up for
    when the same rows are brought again.
    """
    partition = "shard" if table.shard_by else None

    def attempt() -> Brought:
        target = store.find_table(path)
        found = Staged(folder / "new", _FEW), Staged(folder / "changed", _FEW)
        repeated, superseded, refused = 0, 0, []
        gone = None if target is None else obsolete(table, pl.scan_delta(target), rows, whole=whole)
        for folded in _folded(table, target, rows, whole=whole):
            found[0].add(folded.new)
            found[1].add(folded.changed)
            repeated += folded.repeated
            superseded += folded.superseded
            refused.append(folded.refused)
        new, changed = found
        together = changed.height > 0 and new.height + changed.height <= _FEW
        if changed.height and target is not None:
            news = concat_lazy([changed.rows(), new.rows()]) if together else changed.rows()
            _merge(target, table, news)
            target.update_incremental()
        if target is None or (new.height and not together):
            write_deltalake(
                store.url_of(path) if target is None else target,
                reader(new.rows()),
                mode="error" if target is None else "append",
                partition_by=partition,
                schema_mode=None if target is None else "merge",
                target_file_size=FILE_BYTES,
                writer_properties=WriterProperties(max_row_group_size=ROW_GROUP),
                commit_properties=_commit(table, new.rows()),
            )
        if target is not None and gone is not None and gone.height:
            target.update_incremental()
            _remove(target, table, gone.lazy())
        removed = 0 if gone is None else gone.height
        return Brought(new.height + changed.height, repeated, superseded, pl.concat(refused), removed)

    brought = store.retrying(path, attempt)
    if brought.changed or brought.removed:
        store.compact_at_times(path)
    return brought


def obsolete(table: Table, stored: pl.LazyFrame, rows: pl.LazyFrame, *, whole: bool) -> pl.DataFrame:
    """The identifying columns of stored rows that are not to stay beside `rows`.

    With `whole`, `rows` are all there is from their first time to their last, or in a table without times at all:
    other stored rows of that time are obsolete. Else those that the table takes as corrected.
    """
    if not whole:
        return table.corrected(stored, rows)
    times = [c for c, dtype in stored.collect_schema().items() if c in table.unique and dtype.is_temporal()][
        :1
    ]
    for time in times:
        low, high = (
            rows.select(pl.col(time).min().alias("low"), pl.col(time).max().alias("high")).collect().row(0)
        )
        stored = stored.filter(pl.col(time).is_between(low, high))
    others = stored.join(rows.select(table.unique), on=list(table.unique), how="anti")
    return others.select(table.identifying).collect(engine="streaming")


def _folded(table: Table, target: DeltaTable | None, rows: pl.LazyFrame, *, whole: bool) -> Iterator[Folded]:
    stored = None if target is None else pl.scan_delta(target)
    fold = table.replacing if whole else table.fold
    if not table.shard_by or table.rows_at_a_time is None:
        yield fold(stored, rows.collect())
        return
    for shards in _groups(rows, table.rows_at_a_time):
        inside = pl.col("shard").is_in(shards)
        new = rows.filter(inside).collect()
        yield fold(None if stored is None else stored.filter(inside), new)


def _groups(rows: pl.LazyFrame, at_a_time: int) -> Iterator[list[int]]:
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


def _merge(target: DeltaTable, table: Table, changed: pl.LazyFrame) -> None:
    """Have `changed` take the place of the rows with the same unique columns, or be added, in one commit."""
    merger = _merger(target, table, changed, merge_schema=True)
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def _remove(target: DeltaTable, table: Table, gone: pl.LazyFrame) -> None:
    """Remove the rows with the identifying columns of `gone`, in one commit."""
    _merger(target, table, gone, merge_schema=False).when_matched_delete().execute()


def _merger(target: DeltaTable, table: Table, rows: pl.LazyFrame, *, merge_schema: bool) -> TableMerger:
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

    It names the shards and times concerned, so that no other file is looked at.
    """
    keys = table.identifying
    schema = rows.collect_schema()
    ranges = [c for c in keys if schema[c].is_integer() or schema[c].is_temporal()]
    extent = rows.select(
        *(pl.col(c).min().alias(f"low {c}") for c in ranges),
        *(pl.col(c).max().alias(f"high {c}") for c in ranges),
    )
    found = extent.collect(engine="streaming").row(0, named=True) if ranges else {}
    near = [
        f"t.{c} >= {_literal(found[f'low {c}'])} AND t.{c} <= {_literal(found[f'high {c}'])}" for c in ranges
    ]
    return " AND ".join([*near, *(f"t.{c} = s.{c}" for c in keys)])


def _commit(table: Table, rows: pl.LazyFrame) -> CommitProperties:
    """A commit that brings `rows`, and says so; it is not tried again behind our back."""
    return CommitProperties(custom_metadata=facts(table, rows), max_commit_retries=0)


def _literal(value: int | date | datetime) -> str:
    """A value in the SQL of a merge predicate."""
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat()}'"
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else str(value)
