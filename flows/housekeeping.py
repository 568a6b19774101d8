"""Housekeeping: removing what a store no longer needs, and reporting runs that do not end."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect.artifacts import create_table_artifact
from pydantic import Field

from flows.limits import TIDYING, limited
from flows.parameters import Number
from flows.settings import open_store
from models.errors import AlmanacError
from tasks.housekeeping.container_groups import expire_deployment_records, orphaned_container_groups, parts
from tasks.housekeeping.records import (
    expire_ledger,
    expire_quarantine,
    expire_studies,
    expire_tracking,
)
from tasks.housekeeping.retention import (
    Cleanup,
    HousekeepingError,
    check_store,
    expire_pages,
    expire_runs,
    scenarios,
    stuck_runs,
    tables,
    tidy_table,
)
from tasks.scoring.events import showing
from tasks.storage.store import Store


@limited(TIDYING, name="housekeeping")
def housekeeping(
    retention_days: Annotated[int, Field(ge=7)] = 90,
    page_days: Number = 365,
    run_days: Number = 30,
    quarantine_days: Number = 365,
    study_days: Number = 365,
    tracking_days: Number = 730,
    ledger_days: Annotated[int, Field(ge=365)] = 1825,
    stuck_hours: Annotated[float, Field(gt=0)] = 24,
    record_days: Number = 7,
    resource_group: str | None = None,
    dry_run: bool = False,
    store: str | None = None,
) -> dict[str, Any]:
    """Remove what a store no longer needs; with `--dry-run` only report it.

    Tables are compacted and vacuumed; every version that a run within the retention has read stays readable.

    Args:
        retention_days: Days for which earlier versions of tables stay readable; older ones are removed.
        page_days: Days after which a run's page is removed; the newest of a scenario stays.
        run_days: Days after which the intermediate files of an unpublished run are removed; those of
            a published run are removed after a day.
        quarantine_days: Days after which a row in quarantine is removed.
        study_days: Days after the last trial of a study after which its trials are removed.
        tracking_days: Days after which MLflow's records of evaluations and studies are removed; those of trainings
            stay, as their bundles do.
        ledger_days: Days after which a run's row in the ledger is removed; the last one of each flow stays. An
            `as_of` without a row is no longer repeated, but scored as if it had not been published.
        stuck_hours: Hours in Running after which a flow run is reported as stuck; it is not stopped.
        record_days: Days after which the deployment record of a run is removed from the resource group.
        resource_group: Resource ID of the Azure resource group of the runs; container groups without a run are
            reported. Default: Azure is not checked.
        dry_run: Report what would be done, and change nothing.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store, now = open_store(store), datetime.now(UTC)
    check_store(data_store)
    if resource_group:
        parts(resource_group)
    names = scenarios(data_store)
    # First what needs no room: to tidy a table, its log must be written, also on a full disk.
    pages = [path for one in names for path in expire_pages(data_store, one, page_days, now, dry_run=dry_run)]
    runs = [path for one in names for path in expire_runs(data_store, one, run_days, now, dry_run=dry_run)]
    cleanups = [
        tidy_table(data_store, name, retention_days, now, dry_run=dry_run) for name in tables(data_store)
    ]
    days = (quarantine_days, study_days, tracking_days, ledger_days)
    records, problems = _expire_records(data_store, names, days, now, dry_run=dry_run)
    stuck = stuck_runs(stuck_hours, now)
    azure = _tidy_azure(resource_group, record_days, now, dry_run=dry_run) if resource_group else {}
    result = {
        "dry_run": dry_run,
        "store": data_store.uri,
        "files_compacted": sum(one.compacted for one in cleanups),
        "files_vacuumed": sum(one.removed for one in cleanups),
        "pages": len(pages),
        "run_folders": len(runs),
        **records,
        **azure,
        "stuck_runs": stuck,
        "tables": _changed(cleanups),
    }
    _report(result)
    _refuse_problems([*cleanups, *problems])
    return result


def _tidy_azure(resource_group: str, days: int, now: datetime, *, dry_run: bool) -> dict[str, Any]:
    """The number of deployment records that were removed, or would be, and the container groups without a run."""
    old = expire_deployment_records(resource_group, days, now, dry_run=dry_run)
    orphans = orphaned_container_groups(resource_group, now)
    return {"deployment_records": len(old), "orphaned_container_groups": orphans}


def _expire_records(
    store: Store, scenarios: Sequence[str], days: tuple[int, int, int, int], now: datetime, *, dry_run: bool
) -> tuple[dict[str, int], list[Cleanup]]:
    """The number of records of each kind that were removed, or would be, and the errors of MLflow."""
    quarantine, study, tracking, entry = days
    count = {"quarantined_rows": 0, "studies": 0, "tracked_runs": 0}
    problems = []
    for one in scenarios:
        count["quarantined_rows"] += expire_quarantine(store, one, quarantine, now, dry_run=dry_run)
        count["studies"] += len(expire_studies(store, one, study, now, dry_run=dry_run))
        try:
            count["tracked_runs"] += len(expire_tracking(store, one, tracking, now, dry_run=dry_run))
        except AlmanacError as error:
            problems.append(Cleanup(f"{one}, MLflow", problem=str(error)))
    return count | {"ledger_rows": expire_ledger(store, entry, now, dry_run=dry_run)}, problems


def _changed(cleanups: Sequence[Cleanup]) -> list[dict[str, Any]]:
    """A line for each table that was changed."""
    return [
        {**asdict(one), "kept": ", ".join(map(str, one.kept))}
        for one in cleanups
        if one.compacted or one.removed
    ]


def _report(result: dict[str, Any]) -> None:
    rows = [
        {"figure": name, "value": value} for name, value in result.items() if isinstance(value, int | str)
    ]
    descriptions = {
        "stuck_runs": "Runs that are stuck in Running",
        "orphaned_container_groups": "Container groups whose run is over; they cost money until they are deleted",
    }
    with showing("The results"):
        create_table_artifact(rows, key="housekeeping", description="Results of housekeeping")
        for name, description in descriptions.items():
            if result.get(name):
                key = f"housekeeping-{name.replace('_', '-')}"
                create_table_artifact(result[name], key=key, description=description)


def _refuse_problems(cleanups: Sequence[Cleanup]) -> None:
    """Raise `HousekeepingError`, which names what could not be tidied up."""
    lines = "\n".join(f"  {one.table}: {one.problem}" for one in cleanups if one.problem)
    if lines:
        raise HousekeepingError(
            f"Some things could not be tidied up; everything else was.\n{lines}\nRun it again."
        )


COMMANDS = (housekeeping,)
