"""Stores and sources in Blob storage: all scenarios, a network that fails, wrong credentials, no container."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from prefect.logging import disable_run_logger

from tasks.registry import ledger
from tasks.scoring.publishing import Publication
from tasks.storage.store import Store
from tests import steps
from tests.acceptance.test_guarantees import CASES, Ready, published, same
from tests.breaking_proxy import proxy_to
from tests.conftest import ROOT, wait_until
from tests.toy import TOY, values

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = "0.3"
"""How long a key of the toy scenario takes where a run is disturbed."""


@pytest.fixture(scope="module")
def blob(azurite: SimpleNamespace, dask_cluster: Any) -> Iterator[SimpleNamespace]:
    """The Blob service; the shared workers use it too."""
    from distributed import Client

    with Client(dask_cluster) as client:
        client.run(os.environ.update, azurite.environment)
        yield azurite


@pytest.mark.parametrize("name", CASES)
def test_a_scenario_runs_in_blob_as_on_this_machine_and_a_repeat_changes_nothing(
    blob, command, made_once, name
):
    on_this_machine = published(name, command, made_once)
    case, store = CASES[name], Store(blob.container() + "/store")
    sources = Store(blob.container())
    words = []
    for table, frame in case.data()[0].items():
        words += [f"--{table}", sources.write_source(f"{table}.parquet", frame)]

    def run(*words: str) -> dict[str, Any]:
        output = command(name, *words, "--store", store.uri, "--json")
        assert output.status == 0, output.err
        assert "Eby8vdM02xNO" not in output.out + output.err, "the key of the account is shown"
        return dict(output.json)

    run("ingest", *words, "--shards", "2")
    run("train", *case.training)
    first = run(case.score, *case.newest)
    same(Ready(case, store, first["as_of"], ()), on_this_machine)
    table = f"{name}/{case.scenario.published_table({}).name}"
    rows = store.scan(table).collect()
    assert first["requested"] == first["scored"] + first["fallback"] + first["skipped"] + first["failed"]
    assert first["scored"] > 0
    assert rows.filter(run_id=first["run_id"]).height == first["rows"] > 0
    assert store.get(f"{name}/pages/{first['run_id']}.html").startswith(b"<!doctype html>")

    again = run(case.score, "--as-of", first["as_of"])
    assert "These rows had been published before." in again["notes"]
    assert store.version(table) == first["version"]
    assert ledger.rows(store).collect().height >= 1
    assert_frame_equal(store.scan(table).collect(), rows, check_row_order=False)


def toys(uri: str, folder: Path) -> Store:
    """A store in which the toy scenario can be scored, from a source in a folder."""
    store = Store(uri)
    values().write_parquet(folder / "values.parquet")
    steps.read(store, "values", str(folder / "values.parquet"), TOY, 10)
    steps.train(store)
    return store


@pytest.fixture
def ready(azurite, without_run_logger, tmp_path) -> tuple[Store, pl.DataFrame]:
    """A store in Blob in which the toy scenario can be scored, and the rows that an undisturbed run publishes."""
    undisturbed = toys(str(tmp_path / "undisturbed"), tmp_path)
    steps.score(undisturbed)
    return toys(azurite.container() + "/store", tmp_path), steps.published(undisturbed).drop("run_id")


def started(store: Store, **environment: str) -> subprocess.Popen[str]:
    """A run with workers of its own, as a process group."""
    words = ["--store", store.uri, "--seconds", SECONDS, "--workers", "2", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.toy", "toy", "score", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The output of a run, once it has succeeded."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return dict(json.loads(out))


def scored(store: Store) -> int:
    """The number of shards that are done."""
    return sum("/shards/" in name and name.endswith(".json") for name in store.names("toy/runs"))


def height(store: Store) -> int:
    """The number of rows that readers see."""
    return 0 if store.version("toy/doubled") is None else steps.published(store).height


def wait_for_a_shard(store: Store, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: scored(store) > 0 or process.poll() is not None, 120, "the first shard is scored")
    assert process.poll() is None, process.communicate()[1][-3000:]


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def test_a_network_that_fails_for_seconds_loses_nothing_and_publishes_nothing_by_half(
    azurite, prefect_api, ready
):
    store, undisturbed = ready
    heights: set[int] = set()
    with proxy_to(urlsplit(azurite.environment["AZURITE_BLOB_STORAGE_URL"]).port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        process = started(store, AZURITE_BLOB_STORAGE_URL=url, PREFECT_API_URL=prefect_api)
        try:
            wait_for_a_shard(store, process)
            broken = threading.Thread(target=proxy.break_for, args=(5.0,))
            broken.start()
            while process.poll() is None:
                heights.add(height(store))
                time.sleep(0.2)
            broken.join()
        finally:
            end(process)
        summary = result(process)
    assert proxy.refused > 0, "nobody noticed that the network had failed"
    assert summary["scored"] == summary["requested"] == 12
    assert heights <= {0, 12}
    assert_frame_equal(steps.published(store).drop("run_id"), undisturbed)
    assert ledger.rows(store).collect().height == 1


def test_a_run_killed_in_the_middle_shows_nothing_and_is_continued(blob, command, prefect_api, ready):
    store, undisturbed = ready
    process = started(store, PREFECT_API_URL=prefect_api)
    try:
        wait_for_a_shard(store, process)
    finally:
        end(process)
    process.communicate()
    count = scored(store)
    assert height(store) == 0
    assert count < 9, "the run was over before it could be killed"
    continued = command("toy", "score", "--store", store.uri, "--seconds", SECONDS, "--json")
    assert continued.status == 0, continued.err
    assert continued.json["reused_shards"] >= count
    assert_frame_equal(steps.published(store).drop("run_id"), undisturbed)


def test_of_two_writers_one_publishes_and_the_other_says_so(together, ready):
    store, undisturbed = ready
    publications = together(_score, [(store,)] * 2)
    assert publications[0].version == publications[1].version == store.version("toy/doubled")
    assert sum(one.already for one in publications) == 1
    assert_frame_equal(steps.published(store).drop("run_id"), undisturbed)
    assert ledger.rows(store).collect().height == 1


def _score(store: Store) -> Publication:
    with disable_run_logger():
        return steps.score(store)


# What cannot be opened


@pytest.fixture
def quickly(command) -> Callable[..., SimpleNamespace]:
    """`quickly(*words)`: the output of a command that must fail, and quickly."""

    def fail(*words: str) -> SimpleNamespace:
        start = time.monotonic()
        output = command(*words)
        seconds = time.monotonic() - start
        assert output.status == 1, output.out
        assert "Traceback" not in output.err
        assert seconds < 30, f"{seconds:.0f} s until it was said: {output.err}"
        return output

    return fail


WRONG = base64.b64encode(b"this is not the key of the account").decode()

USES = {
    "store of an ingest": ("sales", "ingest", "--source", "{file}", "--store", "{blob}"),
    "store of a training": ("sales", "train", "--store", "{blob}"),
    "store of a run": ("sales", "forecast", "--store", "{blob}"),
    "source": ("sales", "ingest", "--source", "{blob}/sales.parquet", "--store", "{folder}"),
    "source that is a folder": ("devices", "ingest", "--source", "{blob}/readings/", "--store", "{folder}"),
}


ONE_STORE = pytest.mark.parametrize("words", ["store of a run", *list(USES)[3:]], indirect=True)
"""For what is the same code for the store of every command."""


@pytest.fixture(params=USES)
def words(request, tmp_path) -> Callable[[str], list[str]]:
    """Arguments that use a URI in Blob as a store or as a source."""
    file = tmp_path / "sales.csv"
    file.write_text("sku,store,week,units\nA,1,2024-01-01,3\n")

    def use(uri: str) -> list[str]:
        return [word.format(file=file, blob=uri, folder=tmp_path / "store") for word in USES[request.param]]

    return use


def test_a_container_that_is_missing_is_said_within_seconds(blob, quickly, words):
    message = quickly(*words("az://no-such-container/x")).err
    assert "no-such-container" in message
    assert "container does not exist" in message


@ONE_STORE
def test_wrong_credentials_are_said_within_seconds_and_not_shown(blob, quickly, words, monkeypatch):
    uri = blob.container() + "/x"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", WRONG)
    message = quickly(*words(uri)).err
    assert uri in message
    assert "authenticat" in message.lower() or "authoriz" in message.lower()
    assert WRONG not in message


@ONE_STORE
def test_a_service_that_does_not_answer_is_said_within_seconds(blob, quickly, words, monkeypatch):
    from flows.server import free_port

    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{free_port()}")
    message = quickly(*words("az://almanac-0/x")).err
    assert "az://almanac-0/x" in message
