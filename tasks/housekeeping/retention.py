"""Tidying up: tables are compacted and vacuumed after a retention, and files that nothing needs are removed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable, PostCommitHookProperties
from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort

from models.errors import AlmanacError
from tasks.registry import ledger
from tasks.storage.faults import StoreError, lasting_error
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.storage.tables import compact, crowded_partitions, partition_column
from tasks.storage.uris import is_remote

_LOG = "_delta_log"
_LOG_RETENTION = "delta.logRetentionDuration"
_MANY_FILES = 10
"""A partition with this many small files is compacted."""

_FINISHED_DAYS = 1
"""The days for which the folder of a published run is kept, because another start of the run may be reading it."""


@dataclass(frozen=True)
class Cleanup:
    """The result of tidying a table: the numbers of files `compacted` and `removed`, or that would be, and `kept` versions.

    `kept` are the versions that runs within the retention recorded. `problem` says why something was left undone.
    """

    table: str
    compacted: int = 0
    removed: int = 0
    kept: list[int] = field(default_factory=list)
    problem: str | None = None


@task(name="tables")
def tables(store: Store) -> list[str]:
    """Names of the Delta tables in a store, at most two folders deep, sorted."""
    names = []
    for folder in _folders(store, None):
        inside = [folder, *_folders(store, folder)]
        names += [
            name for name in inside if _LOG in {path.rpartition("/")[2] for path in _folders(store, name)}
        ]
    return sorted(set(names))


@task(name="tidy-table")
def tidy_table(store: Store, name: str, retention_days: int, now: datetime, *, dry_run: bool) -> Cleanup:
    """Compact a table, and remove files that no version within the retention refers to.

    A version is within the retention if it was the newest at any time in it, or if the ledger names it for a run that
    ended in it, however old the version is. Partitions by `as_of` are compacted only once they are older than the
    retention: until then a repeated run finds its own files there. If other writers always commit first, the table is
    left for the next time.
    """
    since = now - timedelta(days=retention_days)
    versions = recorded_versions(store, name, since)
    compacted = removed = 0
    problem = None
    try:
        _check_links(store, name)
        compacted = store.retrying(name, lambda: _compact(store.table(name), since, dry_run=dry_run))
        table = store.table(name)
        if not dry_run:
            _keep_log(table, retention_days)
        removed = len(
            table.vacuum(
                retention_hours=24 * retention_days,
                dry_run=dry_run,
                enforce_retention_duration=False,
                full=True,
                keep_versions=[version for version in versions if version < table.version()] or None,
            )
        )
    except StoreError as error:
        problem = str(error)
    except Exception as error:
        other = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
        problem = str(lasting_error(store.uri, error) or other)
    return Cleanup(name, compacted, removed, versions, problem)


def _check_links(store: Store, name: str) -> None:
    """Raise `StoreError` for a table with a link in its folder: delta-rs would remove files where the link leads."""
    paths = () if is_remote(store.uri) else Path(store.uri_of(name)).rglob("*")
    if link := next((path for path in paths if path.is_symlink()), None):
        raise StoreError(f"{link}: a link in the folder of a table, which is not tidied. Remove the link.")


def recorded_versions(store: Store, name: str, since: datetime) -> list[int]:
    """Versions of a table that runs which ended after `since` read, according to the ledger."""
    entries = ledger.rows(store)
    scenario, _, table = name.partition("/")
    if entries is None or not table:
        return []
    recent = entries.filter(pl.col("scenario") == scenario, pl.col("ended") >= since)
    versions = recent.select(pl.col("versions").str.json_path_match(f"$.{table}").cast(pl.Int64)).unique()
    return sorted(versions.collect().drop_nulls().to_series().to_list())


@task(name="expire-pages")
def expire_pages(store: Store, scenario: str, page_days: int, now: datetime, *, dry_run: bool) -> list[str]:
    """Remove the pages of a scenario that are older than `page_days`, except the newest; return their paths."""
    pages = sorted(files_under(store, Layout(scenario).pages), key=lambda file: file[1])
    old = [path for path, time in pages[:-1] if time < now - timedelta(days=page_days)]
    return remove(store, old, dry_run=dry_run)


@task(name="expire-runs")
def expire_runs(store: Store, scenario: str, run_days: int, now: datetime, *, dry_run: bool) -> list[str]:
    """Remove the folders of a scenario's runs that are published or unchanged for `run_days`; return their paths.

    The folder of a published run is kept for a day after its last change. If this is interrupted, a run that is started
    again recreates the missing files.
    """
    entries = ledger.rows(store)
    run_ids = (
        set()
        if entries is None
        else set(entries.filter(scenario=scenario).select("run_id").collect()["run_id"])
    )
    old = []
    for folder in _folders(store, Layout(scenario).runs):
        files = list(files_under(store, folder))
        days = _FINISHED_DAYS if folder.rpartition("/")[2] in run_ids else run_days
        if files and max(time for _, time in files) < now - timedelta(days=min(days, run_days)):
            old.append(folder)
            first = f"{folder}/context.json"
            paths = [path for path, _ in files]
            remove(store, [path for path in paths if path == first], dry_run=dry_run)
            remove(store, [path for path in paths if path != first], dry_run=dry_run)
    return old


@task(name="stuck-runs")
def stuck_runs(stuck_hours: float, now: datetime) -> list[dict[str, Any]]:
    """Flow runs that have been Running on the Prefect server for longer than `stuck_hours`, oldest first."""
    query = FlowRunFilter.model_validate(
        {
            "state": {"type": {"any_": ["RUNNING"]}},
            "start_time": {"before_": now - timedelta(hours=stuck_hours)},
        }
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=query, sort=FlowRunSort.START_TIME_ASC)
        names = {run.flow_id: client.read_flow(run.flow_id).name for run in runs}
    return [
        {
            "flow": names[run.flow_id],
            "run": run.name,
            "id": str(run.id),
            "since": run.start_time.isoformat(timespec="seconds") if run.start_time else "",
        }
        for run in runs
    ]


def scenarios(store: Store) -> list[str]:
    """Top-level folders of a store that hold expiring files."""
    kinds = {"runs", "pages", "studies", "quarantine"}
    return [
        folder
        for folder in _folders(store, None)
        if {path.rpartition("/")[2] for path in _folders(store, folder)} & kinds
    ]


def check_store(store: Store) -> None:
    """Raise `StoreError` for an empty store: its address is probably wrong."""
    if not _folders(store, None):
        raise StoreError(
            f"{store.uri}: there is nothing in this store. Name another with --store or ALMANAC_STORE."
        )


def _compact(table: DeltaTable, since: datetime, *, dry_run: bool) -> int:
    """The number of files that were rewritten into fewer, or would be."""
    count = crowded_partitions(table, _MANY_FILES)
    if partition_column(table) == "as_of":
        count = count.filter(pl.Series([_before(one, since) for one in count["partition"]], dtype=pl.Boolean))
    if dry_run or not count.height:
        return int(count["files"].sum())
    return compact(table, count["partition"].to_list())


def _before(as_of: date, moment: datetime) -> bool:
    if not isinstance(as_of, datetime):
        return as_of < moment.date()
    return (as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)) < moment


def _keep_log(table: DeltaTable, days: int) -> None:
    """Keep the table's log as long as its files; the default is 30 days."""
    interval = f"interval {max(days, 30)} days"
    if table.metadata().configuration.get(_LOG_RETENTION) != interval and days > 30:
        table.alter.set_table_properties(
            {_LOG_RETENTION: interval},
            post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
        )


def _folders(store: Store, folder: str | None) -> list[str]:
    """Paths of the folders directly under a folder."""
    listing = store.files.list_with_delimiter(None if folder is None else f"{folder}/")
    return sorted(str(path).rstrip("/") for path in listing["common_prefixes"])


def files_under(store: Store, folder: str) -> Iterator[tuple[str, datetime]]:
    """Paths of all files under a folder of a scenario, and the times of their last change.

    Files elsewhere, to which a link in that folder leads, are left out.
    """
    root = Path(store.uri, *folder.split("/")[:2]).resolve()
    for batch in store.files.list(f"{folder}/"):
        for item in batch:
            path = str(item["path"])
            if is_remote(store.uri) or Path(store.uri, path).resolve().is_relative_to(root):
                yield path, item["last_modified"]


def remove(store: Store, paths: Iterable[str], *, dry_run: bool) -> list[str]:
    """Remove files; return their paths."""
    batch = list(paths)
    if batch and not dry_run:
        store.files.delete(batch)
    return batch


class HousekeepingError(AlmanacError):
    """Something could not be tidied up."""
