"""Rows, studies and MLflow records that expire; the dates of rows and files are set back."""

import inspect
import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from deltalake import write_deltalake

from tasks.housekeeping.records import (
    expire_ledger,
    expire_quarantine,
    expire_studies,
    expire_tracking,
)
from tasks.housekeeping.retention import scenarios
from tasks.registry import ledger
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("without_run_logger")

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def test_rows_in_quarantine_go_by_their_age_and_no_other(store):
    days = [0, 99, 101, 400]
    moments = [NOW - timedelta(days=one) for one in days]
    write_deltalake(store.uri_of("toy/quarantine"), pl.DataFrame({"row": days, "ingested_at": moments}))
    assert scenarios(store) == ["toy"]
    assert expire_quarantine.fn(store, "toy", 100, NOW, dry_run=True) == 2
    assert store.rows("toy/quarantine") == 4
    assert expire_quarantine.fn(store, "toy", 100, NOW, dry_run=False) == 2
    assert sorted(store.scan("toy/quarantine").collect()["row"]) == [0, 99]
    assert expire_quarantine.fn(store, "toy", 100, NOW, dry_run=False) == 0


def entered(store, run: str, flow: str, days: float) -> None:
    """A row of a run that ended so many days before `NOW`."""
    moment = NOW - timedelta(days=days)
    counts = dict.fromkeys(ledger.COUNTS, 1)
    row = {
        "run_id": run,
        "scenario": "toy",
        "flow": flow,
        "as_of": "2020-01-01",
        "bundle": 1,
        "versions": "{}",
    }
    frame = pl.DataFrame([row | counts | {"reasons": "{}", "started": moment, "ended": moment}])
    write_deltalake(store.uri_of(ledger.PATH), frame, mode="append")


def test_the_ledger_forgets_old_runs_but_the_last_of_each_flow(store):
    assert expire_ledger.fn(store, 365, NOW, dry_run=False) == 0
    for run, flow, days in (
        ("a", "score", 900),
        ("b", "score", 800),
        ("c", "train", 700.123456),
        ("d", "score", 10),
    ):
        entered(store, run, flow, days)
    assert expire_ledger.fn(store, 365, NOW, dry_run=True) == 2
    assert expire_ledger.fn(store, 365, NOW, dry_run=False) == 2
    assert sorted(ledger.rows(store).collect()["run_id"]) == ["c", "d"]


def test_a_study_goes_when_no_trial_was_added_for_long(store):
    for name, days in (("old", 400), ("new", 300)):
        store.put(f"toy/studies/{name}.db", b"trials")
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(store.uri_of(f"toy/studies/{name}.db"), (moment, moment))
    assert expire_studies.fn(store, "toy", 365, NOW, dry_run=False) == ["toy/studies/old.db"]
    assert store.names("toy/studies") == ["toy/studies/new.db"]


@pytest.mark.slow
def test_mlflow_forgets_evaluations_in_time_and_no_training(store, mlflow_database):
    from tasks.registry.tracking import client_of, log_run, tracking_uri

    assert expire_tracking.fn(store, "toy", 1, NOW, dry_run=False) == []
    shutil.copy(mlflow_database, store.uri)
    ids = {
        kind: log_run(store, scenario="toy", kind=kind, run_id="1", params={}, metrics={"loss": 1.0})
        for kind in ("evaluate", "train")
    }
    soon = datetime.now(UTC) + timedelta(days=2)
    assert expire_tracking.fn(store, "toy", 7, soon, dry_run=False) == []
    assert expire_tracking.fn(store, "toy", 1, soon, dry_run=True) == [ids["evaluate"]]
    assert expire_tracking.fn(store, "toy", 1, soon, dry_run=False) == [ids["evaluate"]]
    client = client_of(tracking_uri(store))
    experiment = client.get_experiment_by_name("almanac-toy").experiment_id
    every = client.search_runs([experiment], run_view_type=3)
    assert [run.info.run_id for run in every] == [ids["train"]]


def test_the_page_says_how_long_everything_is_kept_as_the_code_does():
    from flows.housekeeping import housekeeping
    from flows.server import SERVER_DAYS

    page = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) ?\|$", page.partition("## Housekeeping")[2], re.M)
    stated = {
        option.strip("`"): int(number[0])
        for _, period, option in rows
        if (number := re.findall(r"^\d+", period))
    }
    defaults = {
        name: one.default
        for name, one in inspect.signature(housekeeping.fn).parameters.items()
        if name.endswith("_days")
    }
    assert {name: days for name, days in stated.items() if name.endswith("_days")} == defaults
    server = {what: period for what, period, option in rows if option == "of the server"}
    assert [period.split()[0] for period in server.values()] == [str(SERVER_DAYS), "7"]


def test_the_servers_of_laptop_and_azure_keep_their_runs_equally_long():
    from flows.server import KEPT_BY_THE_SERVER

    template = (ROOT / "deployments/azure/main.json").read_text()
    for name, value in KEPT_BY_THE_SERVER.items():
        assert re.search(rf'"name": "{name}",\s*"value": "{value}"', template), name
