"""The records of a scoring run in Prefect, and how it survives failing workers."""

import math
import os
import signal
import threading
from types import SimpleNamespace

import httpx
import polars as pl
import pytest
from distributed import Client
from distributed.comm import CommClosedError
from distributed.security import Security
from polars.testing import assert_frame_equal

from flows.cluster import local_or_named
from tasks.registry import ledger
from tasks.scoring.watchdog import step_limit_seconds
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tests import steps, toy
from tests.conftest import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def trained(without_run_logger, tmp_path) -> Store:
    """A store with twelve names in nine shards and a bundle."""
    store = Store(str(tmp_path / "store"))
    steps.put(store, shards=10)
    steps.train(store)
    return store


@pytest.fixture
def undisturbed(trained, tmp_path):
    """The rows of an undisturbed run, in another store."""
    other = Store(str(tmp_path / "other"))
    steps.put(other, shards=10)
    steps.train(other)
    steps.score(other)
    return steps.published(other).drop("run_id")


def score(command, store, *words):
    return command("toy", "score", "--store", store.uri, *words, "--json")


def ask(api: str, what: str, **body):
    """The records that Prefect has of `what`."""
    answer = httpx.post(f"{api}/{what}/filter", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


# workers that die


def test_the_workers_of_a_run_are_closed_to_others_on_the_machine_and_leave_interrupts_to_the_run():
    with local_or_named() as cluster, Client(cluster) as ours:
        assert ours.submit(sum, [1, 2]).result() == 3
        address = cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        ignores = ours.run(lambda: signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
        assert all(ignores.values()), "Ctrl-C is the run's to answer"
        with pytest.raises(CommClosedError):
            Client(address.replace("tls://", "tcp://"), timeout=5)
        with pytest.raises(OSError, match=r"timed out|CERTIFICATE|certificate|EOF"):
            Client(address, security=Security.temporary(), timeout=5)


def test_workers_are_not_profiled_since_the_profiler_can_wait_for_itself_and_seldom_look_at_themselves(
    dask_cluster,
):
    def intervals(dask_worker) -> dict[str, float]:
        return {name: one.callback_time for name, one in dask_worker.periodic_callbacks.items()}

    with Client(dask_cluster) as client:
        workers = [*client.run(intervals).values(), intervals(dask_cluster.scheduler)]
    assert len(workers) == 3
    assert not any(name.startswith("profile") for names in workers for name in names)
    assert all((names["tick"], names["monitor"]) == (1_000, 10_000) for names in workers)


def test_a_worker_that_is_killed_while_it_scores_does_not_stop_the_run(
    command, trained, undisturbed, dask_cluster
):
    workers = {name: worker.process.pid for name, worker in dask_cluster.workers.items()}
    killed, scoring = threading.Event(), []

    def kill_one_when_a_shard_is_done():
        while not any(name.endswith(".json") for name in trained.names("toy/runs") if "/shards/" in name):
            if killed.wait(0.05):
                return
        scoring.extend(one.name for one in dask_cluster.scheduler.workers.values() if one.processing)
        os.kill(workers[scoring[0]], signal.SIGKILL)
        killed.set()

    watching = threading.Thread(target=kill_one_when_a_shard_is_done, daemon=True)
    watching.start()
    output = score(command, trained, "--seconds", "0.5")
    happened = killed.is_set()
    killed.set()
    watching.join(10)
    assert happened, "the run was over before its worker could be killed"
    assert output.status == 0, output.err
    wait_until(
        lambda: dask_cluster.workers[scoring[0]].process.pid not in (None, workers[scoring[0]]),
        60,
        "the worker is back",
    )
    assert (output.json["scored"], output.json["failed"]) == (12, 0)
    assert_frame_equal(steps.published(trained).drop("run_id"), undisturbed)


def test_a_key_that_kills_its_worker_once_does_not_stop_the_run(command, trained, undisturbed, tmp_path):
    output = score(command, trained, "--kills", "n03", "--once", str(tmp_path / "killed"))
    assert (tmp_path / "killed").exists()
    assert output.status == 0, output.err
    assert output.json["failed"] == 0
    assert_frame_equal(steps.published(trained).drop("run_id"), undisturbed)


def test_a_shard_that_kills_every_worker_ends_the_run_and_is_scored_by_the_next_one(
    command, trained, undisturbed, tmp_path
):
    refusal = score(command, trained, "--kills", "n03", "--max-failed-share", "0.5")
    assert refusal.status == 1
    shards = trained.scan("toy/values").collect()["shard"].n_unique()
    assert f"1 of {shards} shards could not be scored" in refusal.err
    assert "KilledWorker" in refusal.err
    assert "Traceback" not in refusal.err
    assert trained.version("toy/doubled") is None
    result_files = [
        name for name in trained.names("toy/runs") if "/shards/" in name and name.endswith(".json")
    ]
    assert len(result_files) == shards - 1


@pytest.mark.parametrize("deed", ["--sleeps", "--spins"])
def test_a_shard_that_never_ends_is_ended_and_scored_again_and_the_notes_say_so(
    command, trained, undisturbed, tmp_path, monkeypatch, deed
):
    monkeypatch.setenv("ALMANAC_STUCK_SECONDS", "3")
    output = score(command, trained, deed, "n03", "--once", str(tmp_path / "stuck"))
    assert output.status == 0, output.err
    assert (output.json["scored"], output.json["failed"]) == (12, 0)
    assert_frame_equal(steps.published(trained).drop("run_id"), undisturbed)
    if deed == "--sleeps":
        (note,) = output.json["notes"]
        assert "had not finished after 3 s" in note
        assert "It was in _sleep" in note


def test_so_is_one_whose_preparation_for_a_training_never_ends(command, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("ALMANAC_STUCK_SECONDS", "3")
    words = ("--sleeps", "n03", "--once", str(tmp_path / "stuck"))
    output = command("toy", "train", "--store", trained.uri, "--json", *words)
    assert output.status == 0, output.err
    assert "had not finished after 3 s" in output.json["notes"][-1]
    assert output.json["bundle"] == 2


def test_each_step_of_the_driver_has_a_limit_from_its_own_history(command, trained):
    score(command, trained)
    place = Layout("toy").pace
    paces = trained.get_json(place)
    assert paces.keys() == {"score", "score plan", "score publish"}
    trained.put_json(place, paces | {"score plan": 600.0})
    run = steps.resolve(trained)
    limits = {name: step_limit_seconds(run, name) for name in ("plan", "publish", "fit")}
    assert limits == {"plan": 6000.0, "publish": 1800.0, "fit": math.inf}


# Prefect


def test_prefect_shows_the_run_with_its_page_summary_and_progress(command, trained, prefect_api):
    summary = score(command, trained).json

    def artifact(key):
        artifacts = ask(prefect_api, "artifacts", artifacts={"key": {"any_": [key]}}, sort="CREATED_DESC")
        return str(artifacts[0]["data"])

    assert summary["page"] in artifact("toy-score-page")
    assert summary["run_id"] in artifact("toy-score-summary")
    assert summary["run_id"] in artifact("toy-score-notes")
    progress = ask(prefect_api, "artifacts", artifacts={"type": {"any_": ["progress"]}}, sort="CREATED_DESC")
    assert (progress[0]["description"], progress[0]["data"]) == ("scoring", 100.0)


def test_a_run_whose_server_goes_away_once_its_rows_are_published_is_repeated_with_its_events(
    command, trained, monkeypatch
):
    def refused(*_, **__):
        raise httpx.ConnectError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.scoring.events.create_table_artifact", refused)
        output = command("toy", "score", "--store", trained.uri)
    assert (output.status, ledger.rows(trained)) == (1, None)
    assert "has gone away (connection refused)" in output.err
    assert "Traceback" not in output.err
    summary = score(command, trained).json
    assert summary["notes"][-1] == "These rows had been published before."
    (entry,) = ledger.rows(trained).collect().to_dicts()
    assert entry["run_id"] == summary["run_id"]


def test_a_run_is_named_after_what_it_does(command, trained, prefect_api):
    score(command, trained)
    (newest,) = ask(prefect_api, "flow_runs", sort="START_TIME_DESC", limit=1)
    assert newest["name"] == "toy-score 2024-01-03"


def test_the_log_of_a_run_ends_with_its_outcome_and_notes(command, trained, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(
        "flows.runs.get_run_logger",
        lambda: SimpleNamespace(info=lambda text, *values: lines.append(text % values)),
    )
    words = ("--raises", "n03", "--max-failed-share", "0.1")
    version = score(command, trained, *words).json["version"]
    outcome, note = lines
    shards = trained.scan("toy/values").collect()["shard"].n_unique()
    assert outcome == (
        f"Published 11 rows as of 2024-01-03 in version {version} of toy/doubled; "
        f"0 of {shards} shards are from an earlier start"
    )
    assert "n03" in note
    lines.clear()
    score(command, trained, *words, "--dry-run")
    assert lines == ["Dry run: nothing was published; the scored shards are kept."]


def test_others_can_act_on_a_published_run(command, trained, prefect_api):
    summary = score(command, trained).json

    def arrived():
        events = ask(prefect_api, "events", filter={"event": {"name": ["almanac.toy.published"]}})["events"]
        return [event for event in events if event["payload"]["page"].endswith(summary["page"])]

    wait_until(arrived, 60, "the event has arrived")
    (event,) = arrived()
    assert event["resource"]["prefect.resource.id"] == "almanac.toy"
    assert (event["payload"]["run_id"], event["payload"]["rows"]) == (summary["run_id"], 12)
    assert (event["payload"]["table"], event["payload"]["version"]) == ("toy/doubled", summary["version"])
    assert event["payload"]["as_of"] == "2024-01-03"


def test_keys_that_failed_are_an_event_of_the_published_run(command, trained, prefect_api):
    words = ("--raises", "n03", "--max-failed-share", "0.1", "--store", trained.uri, "--json")
    summary = command("toy", "score", *words).json

    def arrived():
        answer = ask(prefect_api, "events", filter={"event": {"name": ["almanac.toy.keys_failed"]}})["events"]
        return [event["payload"] for event in answer if event["payload"]["run_id"] == summary["run_id"]]

    wait_until(arrived, 60, "the event has arrived")
    (payload,) = arrived()
    assert (payload["failed"], payload["requested"]) == (1, 12)
    assert "n03 cannot be doubled" in payload["notes"]


@pytest.mark.parametrize("keys", [1, 250])
def test_small_shards_share_a_task_run_and_others_have_their_own(
    command, trained, prefect_api, monkeypatch, keys
):
    monkeypatch.setattr("flows.progress.KEYS_OF_A_TASK", (keys, keys))
    score(command, trained, "--seconds", f"0.00{keys}")
    shards = trained.scan("toy/values").collect()["shard"].unique().sort().to_list()
    together = {f"score-shards-{shards[0]}-to-{shards[-1]}"}
    names = {f"score-shard-{shard}" for shard in shards} if keys == 1 else together

    def completed():
        runs = ask(prefect_api, "task_runs", task_runs={"name": {"any_": sorted(names)}}, sort="ID_DESC")
        return {run["name"] for run in runs if run["state_type"] == "COMPLETED"}

    wait_until(lambda: completed() == names, 60, "the task runs of all shards have arrived")


def test_an_older_day_is_repeated_after_newer_data_has_come(command, trained):
    first = score(command, trained).json
    rows = steps.published(trained)
    steps.put(trained, toy.values(days=5).with_columns(pl.col("value") + 1), shards=10)
    assert score(command, trained).json["as_of"] == "2024-01-05"
    again = score(command, trained, "--as-of", "2024-01-03").json
    assert again["run_id"] == first["run_id"]
    assert any("Repeats run" in note for note in again["notes"])
    assert_frame_equal(steps.published(trained).filter(as_of=rows["as_of"][0]), rows)
