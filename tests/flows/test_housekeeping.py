"""The flow `housekeeping` on the command line, against a real Prefect server."""

import time

import pytest
from prefect.client.orchestration import get_client
from prefect.flows import flow
from prefect.states import Running

from tasks.housekeeping.retention import Cleanup
from tasks.storage.store import Store
from tests import steps
from tests.tasks.test_housekeeping import add, age

pytestmark = pytest.mark.slow


@flow(name="never-ends")
def never_ends() -> None:
    """Stands for a flow whose machine has gone."""


@pytest.fixture
def old(store, without_run_logger) -> Store:
    for day in range(11):
        add(store, day)
    steps.train(store)
    steps.score(store)
    age(store, 40)
    return store


def test_it_does_what_a_dry_run_says_that_it_would_do(command, old):
    words = ("housekeeping", "--store", old.uri, "--retention-days", "30", "--json")
    files = old.names("toy")
    preview = command(*words, "--dry-run")
    assert preview.status == 0, preview.err
    assert preview.json["dry_run"] is True
    assert preview.json["files_compacted"] == 44
    assert preview.json["run_folders"] == 2
    assert old.names("toy") == files
    summary = command(*words).json
    assert {**summary, "dry_run": True} == preview.json
    assert old.names("toy/runs") == []
    assert len(old.table("toy/values").file_uris()) == 4
    again = command(*words).json
    assert (again["files_compacted"], again["run_folders"]) == (0, 0)


def test_a_run_that_has_been_running_for_too_long_is_reported(command, prefect_api, old):
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(never_ends)
        client.set_flow_run_state(run.id, Running(), force=True)
    time.sleep(1)
    words = ("housekeeping", "--store", old.uri, "--json")
    stuck = {one["id"]: one for one in command(*words, "--stuck-hours", "0.0001").json["stuck_runs"]}
    assert stuck[str(run.id)]["flow"] == "never-ends"
    assert str(run.id) not in {one["id"] for one in command(*words).json["stuck_runs"]}


def test_what_needs_no_room_is_removed_before_logs_of_tables_are_written(command, old, monkeypatch):
    def tidied(_store: Store, name: str, *_: object, **_options: object) -> Cleanup:
        return Cleanup(name, problem="the disk is full" if old.names("toy/runs") else None)

    monkeypatch.setattr("flows.housekeeping.tidy_table", tidied)
    output = command("housekeeping", "--store", old.uri)
    assert output.status == 0, output.err


def test_a_retention_shorter_than_any_run_is_refused(command, old):
    output = command("housekeeping", "--store", old.uri, "--retention-days", "1")
    assert output.status != 0


def test_a_store_without_anything_is_told_in_words(command, tmp_path):
    output = command("housekeeping", "--store", str(tmp_path / "nowhere"))
    assert output.status == 1
    assert "there is nothing in this store" in output.err
