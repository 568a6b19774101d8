"""Two flows at once in one store, on one server of their own."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks.registry import ledger
from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def shared(sales_store: SimpleNamespace, tmp_path: Path, without_run_logger: None) -> Store:
    """One store in which sales and the toy have a champion and nothing is published."""
    shutil.copytree(sales_store.uri, tmp_path / "store")
    for name in ("sales/forecasts", "sales/runs", "ledger"):
        shutil.rmtree(tmp_path / "store" / name)
    store = Store(str(tmp_path / "store"))
    steps.put(store)
    steps.train(store)
    return store


def start(store: Store, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.toy", *words, "--store", store.uri, "--json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(store: Store, **environment: str) -> list[subprocess.Popen[str]]:
    return [
        start(store, "sales", "forecast", **environment),
        start(store, "toy", "score", "--seconds", "1.5", **environment),
    ]


def results(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """The output of the runs, which all succeeded."""
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err[-3000:]
        assert "Traceback" not in err, err[-3000:]
    return [json.loads(out) for out, _ in outputs]


def check(store: Store, summaries: list[dict[str, Any]], rows: int) -> None:
    """Assert that both have published, and that the ledger has one row for each."""
    assert [one["published"] for one in summaries] == [True, True]
    entries = ledger.rows(store).sort("scenario").collect()
    assert entries["scenario"].to_list() == ["sales", "toy"]
    assert entries["run_id"].to_list() == [one["run_id"] for one in summaries]
    assert entries["requested"].to_list() == [one["requested"] for one in summaries]
    assert store.scan("ledger").collect().height == 2
    assert store.scan("sales/forecasts").collect().height == rows
    assert store.scan("toy/doubled").collect().height == 12


@pytest.fixture
def home(prefect_database: Path, tmp_path: Path) -> Path:
    """A Prefect home without a server, with an empty database."""
    return Path(shutil.copytree(prefect_database, tmp_path / "prefect"))


def test_two_scenarios_at_once_without_a_named_server_share_one_that_ends_after_them(
    shared, sales_store, home
):
    processes = both(shared, PREFECT_HOME=str(home), ALMANAC_WORKERS="1", ALMANAC_SERVER_IDLE_SECONDS="5")
    record = home / "almanac-server.json"
    servers = set()
    while any(process.poll() is None for process in processes):
        with suppress(FileNotFoundError):
            servers.add(json.loads(record.read_text())["server"]["pid"])
        time.sleep(0.1)
    check(shared, results(processes), sales_store.result["rows"])
    (server,) = servers
    wait_until(lambda: not psutil.pid_exists(server), 60, "the server ends after the last of them")
    with sqlite3.connect(home / "prefect.db") as database:
        query = "select flow.name, state_type, start_time, end_time from flow_run join flow on flow.id = flow_run.flow_id"
        names, states, starts, ends = zip(*database.execute(query), strict=True)
    assert sorted(names) == ["sales-forecast", "toy-score"]
    assert set(states) == {"COMPLETED"}
    assert max(starts) < min(ends), "not at once"
