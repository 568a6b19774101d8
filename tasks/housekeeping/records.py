"""Records that grow with every run: quarantine, ledger, studies, MLflow."""

import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from deltalake import CommitProperties
from prefect import task

from tasks.housekeeping.retention import HousekeepingError, files_under, remove
from tasks.registry import ledger
from tasks.registry.tracking import client_of, model_name, tracking_uri
from tasks.storage.faults import first_line
from tasks.storage.layout import Layout
from tasks.storage.store import Store

_EXPIRING = ("evaluate", "tune")
"""Kinds of MLflow runs that expire; the run of a training belongs to its bundle and stays with it."""
_PAGE = 200


@task(name="expire-quarantine")
def expire_quarantine(
    store: Store, scenario: str, quarantine_days: int, now: datetime, *, dry_run: bool
) -> int:
    """Remove the rows of a scenario's quarantine that are older than `quarantine_days`; return their number."""
    table = Layout(scenario).table("quarantine")
    before = now - timedelta(days=quarantine_days)
    old = f"ingested_at < {_sql(before)}"
    return _expire(store, table, "ingested_at", before, old, dry_run=dry_run)


@task(name="expire-ledger")
def expire_ledger(store: Store, ledger_days: int, now: datetime, *, dry_run: bool) -> int:
    """Remove the rows of the ledger that are older than `ledger_days`; return their number.

    The last run of each flow stays, however old it is: it records what was published last.
    """
    entries = ledger.rows(store)
    if entries is None:
        return 0
    last = entries.sort("ended").unique(["scenario", "flow"], keep="last").select("ended").collect()
    before = now - timedelta(days=ledger_days)
    spare = [moment for moment in last["ended"] if moment < before]
    old = f"ended < {_sql(before)}"
    old += "".join(f" AND ended <> {_sql(moment)}" for moment in spare)
    return _expire(store, ledger.PATH, "ended", before, old, spare, dry_run=dry_run)


@task(name="expire-studies")
def expire_studies(
    store: Store, scenario: str, study_days: int, now: datetime, *, dry_run: bool
) -> list[str]:
    """Remove the studies of a scenario without a new trial for `study_days`; return their paths.

    The result of a study stays on its page and in the manifest of the bundle that uses it.
    """
    before = now - timedelta(days=study_days)
    old = [path for path, time in files_under(store, Layout(scenario).studies) if time < before]
    return remove(store, old, dry_run=dry_run)


@task(name="expire-tracking")
def expire_tracking(
    store: Store, scenario: str, tracking_days: int, now: datetime, *, dry_run: bool
) -> list[str]:
    """Remove the MLflow runs of a scenario's evaluations and studies that are older than `tracking_days`; return their ids.

    Runs of trainings stay as long as their bundles. On a tracking server, runs are only marked as deleted, and `mlflow
    gc` on that server frees their space; in the file of a local store it is freed here. Raises `HousekeepingError` if
    MLflow refuses.
    """
    uri = tracking_uri(store)
    if uri is None or (uri.startswith("sqlite:///") and store.size("mlflow.db") is None):
        return []
    client = client_of(uri)
    try:
        old = _ended_before(client, scenario, now - timedelta(days=tracking_days))
        if dry_run or not old:
            return old
        for run in old:
            client.delete_run(run)
        if uri.startswith("sqlite:///"):
            _free(uri, old)
    except Exception as error:
        raise HousekeepingError(
            f"MLflow at {uri}: {first_line(error)}\nExpected a tracking server whose runs may be deleted. Nothing "
            "else depends on it; run it again."
        ) from None
    return old


def _ended_before(client: Any, scenario: str, before: datetime) -> list[str]:
    experiment = client.get_experiment_by_name(model_name(scenario))
    if experiment is None:
        return []
    run_ids: list[str] = []
    for kind in _EXPIRING:
        query = f"tags.kind = '{kind}' and attributes.end_time < {int(before.timestamp() * 1000)}"
        token = None
        while True:
            page = client.search_runs([experiment.experiment_id], query, max_results=_PAGE, page_token=token)
            run_ids += [run.info.run_id for run in page]
            token = page.token
            if not token:
                break
    return sorted(run_ids)


def _free(uri: str, runs: list[str]) -> None:
    """Make MLflow remove runs that are marked as deleted, with their files."""
    for first in range(0, len(runs), _PAGE):
        words = ["-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
        words += ["--run-ids", ",".join(runs[first : first + _PAGE])]
        process = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        if process.returncode != 0:
            raise HousekeepingError(
                f"mlflow gc ended with status {process.returncode}: {process.stderr[-300:]}"
            )


def _expire(
    store: Store,
    table: str,
    column: str,
    before: datetime,
    predicate: str,
    spare: list[datetime] | None = None,
    *,
    dry_run: bool,
) -> int:
    """Delete the rows of a table that are older than `before`, except `spare`; return their number.

    `predicate` is the same condition in SQL.
    """
    if (rows := store.find(table)) is None:
        return 0
    old = pl.col(column) < before
    if spare:
        old &= ~pl.col(column).is_in(spare)
    count = int(rows.filter(old).select(pl.len()).collect().item())
    if count and not dry_run:
        once = CommitProperties(max_commit_retries=0)
        store.retrying(table, lambda: store.table(table).delete(predicate, commit_properties=once))
    return count


def _sql(moment: datetime) -> str:
    """A moment as a literal of the type that tables use."""
    return f"arrow_cast('{moment:%Y-%m-%dT%H:%M:%S.%f}Z', 'Timestamp(Microsecond, Some(\"UTC\"))')"
