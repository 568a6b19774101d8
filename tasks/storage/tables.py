"""Delta tables: their files, shards and partitions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties
from deltalake.transaction import AddAction

from tasks.storage.uris import check_holds_tables, encoded, is_remote

FILE_BYTES, ROW_GROUP = 16_000_000, 100_000
"""The size of data files, which are held in memory until they are this large, and the number of rows in a row group."""
FILES_OF_A_PARTITION = 20
"""Once a partition, or a table without partitions, has this many small files, the next writer merges them."""


class Table(DeltaTable):
    """A Delta table whose URI is a plain path, not an encoded URL."""

    def __init__(self, uri: str, version: int | None = None) -> None:
        check_holds_tables(uri)
        super().__init__(encoded(uri), version=version)
        self._uri = uri.rstrip("/")

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        """The addresses of the data files in the form that polars reads, with the table's path unencoded."""
        url = encoded(self._uri)
        root = url if is_remote(url) else url.removeprefix("file://")
        uris = super().file_uris(*arguments, **options)
        return [self._uri + one.removeprefix(root) if one.startswith(f"{root}/") else one for one in uris]


def scan_table(table: DeltaTable, shard: int | None = None) -> pl.LazyFrame:
    """The rows of an open table, lazily; with `shard`, only the files of that shard."""
    frame = pl.scan_delta(table)
    return frame if shard is None else frame.filter(pl.col("shard") == shard)


def partition_column(table: DeltaTable) -> str | None:
    """The column by which a table is partitioned; None if it is not."""
    return next(iter(table.metadata().partition_columns), None)


def crowded_partitions(table: DeltaTable, many: int) -> pl.DataFrame:
    """Partitions with at least `many` small files: `partition`, empty in a table without partitions, and `files`."""
    column = partition_column(table)
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    if files.is_empty():
        return pl.DataFrame(schema={"partition": pl.String, "files": pl.UInt32})
    files = files.filter(pl.col("size_bytes") < FILE_BYTES // 2)
    partition = pl.lit("") if column is None else pl.col(f"partition.{column}")
    count = files.group_by(partition.alias("partition")).agg(files=pl.len())
    return count.filter(pl.col("files") >= many).sort("partition")


def compact(table: DeltaTable, partitions: Sequence[Any]) -> int:
    """Rewrite the small files of these partitions into fewer, in one commit; return the number of files removed."""
    column = partition_column(table)
    metrics = table.optimize.compact(
        partition_filters=[(column, "in", [str(one) for one in partitions])] if column else None,
        target_size=FILE_BYTES,
        writer_properties=WriterProperties(max_row_group_size=ROW_GROUP),
        commit_properties=CommitProperties(max_commit_retries=0),
    )
    return int(metrics["numFilesRemoved"])


def add_action(path: str, size: int, rows: int, partition: Mapping[str, str]) -> AddAction:
    """The action that commits a data file that is already in place."""
    modification_time = int(datetime.now(UTC).timestamp() * 1000)
    return AddAction(path, size, dict(partition), modification_time, True, json.dumps({"numRecords": rows}))


def concat_lazy(frames: Iterable[pl.LazyFrame]) -> pl.LazyFrame:
    """Frames concatenated in order; a missing column is null."""
    return pl.concat(list(frames), how="diagonal")
