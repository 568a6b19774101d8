"""Publishing: one commit that replaces a table's `as_of` partition with files that are already in place."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable
from deltalake import Schema as DeltaSchema
from prefect import task

from models.scenario import AsOf, CompletesRows
from tasks.registry import ledger
from tasks.scoring.runs import Run, first_start
from tasks.scoring.shards import ShardResult, reasons
from tasks.storage.tables import add_action


@dataclass(frozen=True)
class DataFile:
    """A Parquet file in the folder of a table, invisible to readers until it is committed.

    Its name ends in a digest of its content; see `Store.put_data_file`.
    """

    path: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class Publication:
    """The version of the table that holds the run's rows; `already` if another start had published them."""

    table: str
    version: int
    rows: int
    already: bool


@task(name="complete")
def complete(run: Run, results: Sequence[ShardResult]) -> list[DataFile]:
    """The files to publish: those of the shards or, if rows depend on other shards, a single one made from them."""
    data_files = [DataFile(o.path, o.bytes, o.rows) for o in results if o.rows]
    if not data_files or not isinstance(run.scenario, CompletesRows):
        return data_files
    return _write(run, run.table, run.scenario.complete(scan_data_files(run, data_files)).collect())


@task(name="publish")
def publish(run: Run, data_files: Sequence[DataFile]) -> Publication:
    """Swap the run's files into the published table; see `replace_partition`."""
    schema = {**run.scenario.published_table(run.options).schema, "bundle": pl.Int64, "run_id": pl.String}
    return replace_partition(run, run.table, schema, data_files)


def enter(run: Run, counts: Mapping[str, int], results: Sequence[ShardResult], *, is_published: bool) -> bool:
    """Enter a run into the ledger; see `ledger.record`."""
    return ledger.record(
        run.store,
        run_id=run.id,
        scenario=run.scenario.name,
        flow=run.flow,
        as_of=run.as_of,
        bundle=run.bundle or 0,
        versions=run.versions,
        counts=counts,
        reasons=reasons(results),
        start=first_start(run),
        is_published=is_published,
    )


@task(name="compare-with-replaced-rows")
def replacement_notes(run: Run, publication: Publication, other: Mapping[str, Any] | None) -> list[str]:
    """A note if a publication replaced rows of an `other` run for the same `as_of`, a row of the ledger.

    It says how many rows have other values than before, and whether tables or bundle are others.
    """
    if other is None or publication.already:
        return []
    now, before = (
        run.store.scan(run.table, version)
        .filter(pl.col("as_of") == run.as_of)
        .select(pl.exclude("bundle", "run_id"))
        for version in (publication.version, publication.version - 1)
    )
    columns = now.collect_schema().names()
    changed = now.join(before, on=columns, how="anti", nulls_equal=True)
    heights = [rows.select(pl.len()) for rows in (changed, before)]
    count, earlier = (one.item() for one in pl.collect_all(heights, engine="streaming"))
    differences = [
        f"version {number} of {name} instead of {other['versions'].get(name)}"
        for name, number in run.versions.items()
        if other["versions"].get(name) != number
    ]
    if other["bundle"] != run.bundle:
        differences.append(f"bundle {run.bundle} instead of {other['bundle']}")
    reason = ", ".join(differences) or "the same tables and bundle, but other options or code"
    return [
        f"Replaces the {earlier:,} rows of run {other['run_id']}: {count:,} of {publication.rows:,} rows have other values. "
        f"This run used {reason}."
    ]


def publish_derived(run: Run, name: str, frame: pl.DataFrame) -> Publication:
    """Publish a table derived from the run's rows in the same way."""
    table = run.layout.table(name)
    rows = run.signed(frame)
    return replace_partition(run, table, rows.schema, _write(run, table, rows))


def write_data_file(run: Run, table: str, stem: str, rows: pl.DataFrame) -> DataFile:
    """Write rows beside the files of a table's `as_of` partition; without rows no file is written."""
    if rows.is_empty():
        return DataFile("", 0, 0)
    path, size = run.store.put_data_file(f"{table}/{run.partition}/{stem}", rows)
    return DataFile(path.removeprefix(f"{table}/"), size, rows.height)


def is_in_place(run: Run, data_file: DataFile) -> bool:
    """Whether the file is in the folder of the run's table, as it was written; true for a file without rows."""
    return not data_file.rows or run.store.size(f"{run.table}/{data_file.path}") == data_file.bytes


def _write(run: Run, table: str, rows: pl.DataFrame) -> list[DataFile]:
    data_file = write_data_file(run, table, run.id, rows)
    return [data_file] if data_file.rows else []


def replace_partition(
    run: Run, name: str, schema: Mapping[str, Any], data_files: Sequence[DataFile]
) -> Publication:
    """Replace the run's `as_of` partition; see `replace_partitions`."""
    return replace_partitions(run, name, schema, {run.as_of: data_files})


def replace_partitions(
    run: Run, name: str, schema: Mapping[str, Any], data_files: Mapping[AsOf, Sequence[DataFile]]
) -> Publication:
    """Replace `as_of` partitions in one commit, which readers see whole or not at all.

    If another run commits first, this one checks again: rows of the same run are kept, those of another run are
    replaced. After a bounded number of lost races it raises `StoreError`, and nothing has changed. File names must
    differ between partitions.
    """
    texts = {as_of: dataclasses.replace(run, as_of=as_of).as_of_text for as_of in data_files}
    every = [data_file for some in data_files.values() for data_file in some]
    filters = [("as_of", "in", sorted(texts.values()))]
    rows = sum(data_file.rows for data_file in every)

    def attempt() -> Publication:
        table = _open(run, name, schema)
        if _files(table, filters) == {_name(data_file.path) for data_file in every}:
            return Publication(name, table.version(), rows, already=True)
        table.create_write_transaction(
            [
                add_action(data_file.path, data_file.bytes, data_file.rows, {"as_of": texts[as_of]})
                for as_of, some in data_files.items()
                for data_file in some
            ],
            mode="overwrite",
            schema=table.schema(),
            partition_by=["as_of"],
            partition_filters=filters,
            commit_properties=CommitProperties(custom_metadata=_metadata(run), max_commit_retries=0),
        )
        table.update_incremental()
        return Publication(name, table.version(), rows, already=False)

    return run.store.retrying(name, attempt)


def scan_data_files(run: Run, data_files: Sequence[DataFile]) -> pl.LazyFrame:
    """The rows of the files, lazily, without `as_of`. There must be at least one."""
    uris = [run.store.uri_of(f"{run.table}/{data_file.path}") for data_file in data_files]
    return pl.scan_parquet(uris, hive_partitioning=False, glob=False)


def _open(run: Run, name: str, schema: Mapping[str, Any]) -> DeltaTable:
    """The published table, created if it does not exist, with any missing columns added."""
    frame = pl.DataFrame(schema=schema)
    table = run.store.find_table(name)
    if table is None:
        columns = frame.with_columns(pl.lit(run.as_of).alias("as_of")).to_arrow().schema
        DeltaTable.create(
            run.store.url_of(name),
            schema=DeltaSchema.from_arrow(columns),
            partition_by=["as_of"],
            mode="ignore",
        )
        table = run.store.table(name)
    names = {field.name for field in table.schema().fields}
    new = DeltaSchema.from_arrow(frame.select(c for c in frame.columns if c not in names).to_arrow().schema)
    if new.fields:
        table.alter.add_columns(new.fields)
    return table


def _files(table: DeltaTable, filters: list[tuple[str, str, Any]]) -> set[str]:
    """Names of the files in some partitions."""
    return {_name(uri) for uri in table.file_uris(file_pruning_predicate=filters)}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _metadata(run: Run) -> dict[str, Any]:
    versions = ",".join(f"{name}={number}" for name, number in sorted(run.versions.items()))
    return {"run_id": run.id, "bundle": str(run.bundle), "inputs": versions}
