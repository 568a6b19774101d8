"""Concurrency limits under contention: a real worker, and runs that are due while another is running."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, wait_until
from tests.deployments.conftest import access

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STORE = "az://almanac/store"
ONE_AFTER_THE_OTHER, SKIPPED_WHILE_ONE_RUNS = "flows/sales.py:forecast", "flows/devices.py:score"
"""Deployments of the file with each kind of limit."""


def waiting(kept: list[dict[str, Any]]) -> None:
    """The file's deployments with all their limits, but with a flow that a test can hold."""
    kept[:] = [one for one in kept if one["entrypoint"] in (ONE_AFTER_THE_OTHER, SKIPPED_WHILE_ONE_RUNS)]
    for one in kept:
        one |= {"entrypoint": "tests/deployments/waiting.py:waiting", "parameters": {}, "schedules": []}


@pytest.fixture
def pool(deployments: Any, few: Any, local: Any, tmp_path: Path) -> Iterator[str]:
    """A work pool with both deployments, and a worker that could run four flows at once."""
    name = tmp_path.name
    file = few("forecast", "score", change=waiting)
    output = deployments("deploy", "--prefect-file", file, ALMANAC_STORE=STORE, ALMANAC_POOL=name)
    assert output.status == 0, output.out + output.err
    words = ["worker", "start", "--pool", name, "--type", "process", "--limit", "4"]
    quick = {**access(local), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            cwd=ROOT,
            env={**os.environ, **quick},
            stdout=log,
            stderr=log,
        )
    yield name
    worker.terminate()
    worker.wait(60)


def test_while_one_runs_another_is_queued_or_cancelled_as_its_deployment_says(client, pool, tmp_path):
    go_on, names = tmp_path / "go-on", {"queue": f"weekly-{pool}", "cancel": f"hourly-{pool}"}
    ids = {kind: client.read_deployment_by_name(f"waiting/{name}").id for kind, name in names.items()}

    def start(kind: str) -> Any:
        parameters = {"until": str(go_on)}
        return client.create_flow_run_from_deployment(ids[kind], parameters=parameters).id

    def state(run: Any) -> Any:
        return client.read_flow_run(run).state

    def log() -> str:
        return (tmp_path / "worker.log").read_text()[-3000:]

    first = {kind: start(kind) for kind in ids}
    wait_until(lambda: all(state(run).is_running() for run in first.values()), 120, f"both run: {log()}")
    second = {kind: start(kind) for kind in ids}
    wait_until(lambda: state(second["cancel"]).is_cancelled(), 60, "the second is cancelled")
    wait_until(lambda: state(second["queue"]).name == "AwaitingConcurrencySlot", 60, "the second is queued")
    assert all(state(run).is_running() for run in first.values())

    go_on.touch()
    wait_until(lambda: state(second["queue"]).is_completed(), 120, f"the queued one runs: {log()}")
    assert all(state(run).is_completed() for run in first.values())
    end = client.read_flow_run(first["queue"]).end_time
    assert client.read_flow_run(second["queue"]).start_time >= end
    assert client.read_flow_run(second["cancel"]).run_count == 0
    assert state(second["cancel"]).is_cancelled()
    limits = [client.read_deployment(one).global_concurrency_limit for one in ids.values()]
    assert [(one.limit, one.active_slots) for one in limits] == [(1, 0)] * 2, "the slots are free again"
