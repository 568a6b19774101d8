"""New data starts a scoring run by itself: a real Prefect server, a served deployment, ingests as a user runs them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from flows.server import free_port
from tasks.storage.store import Store
from tests.conftest import ROOT, wait_until
from tests.fleet import CUT, END, OPTIONS, after_cut, fleet, sources, until_cut
from tests.on_new_data import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

QUIET_SECONDS = 15
"""Longer than the server takes from an event to the run that it starts."""


class Server:
    """A Prefect server of its own, asked over HTTP, and processes that use it."""

    def __init__(self, folder: Path, scheduler: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        threads = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
        self.environment = {**os.environ, **threads, "PREFECT_HOME": str(folder / "home")}
        self.folder, self.processes = folder, []
        words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self.start("server", *words)
        self.environment |= {"PREFECT_API_URL": self.url, "ALMANAC_SCHEDULER": scheduler}
        wait_until(self.answers, 120, "the Prefect server answers")

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def ask(self, path: str, **filters: Any) -> list[dict[str, Any]]:
        return httpx.post(f"{self.url}/{path}/filter", json=filters, timeout=30).raise_for_status().json()

    def start(self, name: str, *words: str) -> None:
        """Start `python` with `words`, until the end of the tests; what it says is kept as `name.log`."""
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=self.environment, stdout=log, stderr=log
        )
        self.processes.append(process)

    def machines(self, *words: Any) -> dict[str, Any]:
        """The result of a command that has to succeed, run as a user does."""
        command = [sys.executable, "-m", "flows", "machines", *map(str, words), "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def started_by(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment, by its name."""
        deployed = {"deployments": {"name": {"any_": [name]}}}
        return self.ask("flow_runs", **deployed, sort="START_TIME_ASC")

    def stop(self) -> None:
        """End the processes, the newest first: what is served says goodbye to a server that still answers."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory, dask_cluster) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), dask_cluster.scheduler_address)
    try:
        yield server
    finally:
        server.stop()


def test_new_data_starts_one_scoring_run_of_its_range_and_an_ingest_without_any_starts_none(server, tmp_path):
    tables, store = fleet(6), tmp_path / "store"
    late = sources(tmp_path / "late", after_cut(tables))
    where = ["--store", store]
    server.machines("ingest", *sources(tmp_path / "early", until_cut(tables)), "--shards", "2", *where)
    server.machines("train", *OPTIONS, *where)
    server.start("serve", "-m", "tests.on_new_data")
    wait_until(lambda: server.ask("automations"), 90, "the deployment's trigger is there")

    server.machines("ingest", *late, *where)
    wait_until(lambda: server.started_by(NAME), 60, "the event starts a run")
    wait_until(
        lambda: server.started_by(NAME)[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"),
        240,
        "it ends",
    )
    (run,) = server.started_by(NAME)
    assert run["state_type"] == "COMPLETED", (server.folder / "serve.log").read_text()[-4000:]
    assert run["parameters"]["store"] == str(store)
    assert datetime.fromisoformat(run["parameters"]["from_"]) == CUT + timedelta(hours=4)
    assert datetime.fromisoformat(run["parameters"]["to"]) == END
    rows = Store(str(store)).scan("machines/risks").collect()
    assert rows["as_of"].unique().to_list() == [END]
    assert rows["time"].min() == CUT + timedelta(hours=12)
    assert rows["time"].max() == END
    known = {e["resource"]["prefect.resource.id"] for e in events(server, "almanac.machines.at_risk")}
    alarms = rows.filter(pl.col("time") == END, pl.col("above_threshold"))
    assert {name.split(".")[2] for name in known} == set(alarms["machine_id"])

    server.machines("ingest", *late, *where)
    time.sleep(QUIET_SECONDS)
    assert len(server.started_by(NAME)) == 1
    assert len(events(server, "almanac.machines.ingested")) == 2


def events(server: Server, name: str) -> list[dict[str, Any]]:
    answer = httpx.post(
        f"{server.url}/events/filter", json={"filter": {"event": {"name": [name]}}}, timeout=30
    )
    return answer.raise_for_status().json()["events"]
