"""A deployment that a process of its own serves, so that events start its runs, on the server of the other tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, wait_until

ENDED = ("COMPLETED", "FAILED", "CRASHED")


@dataclass(frozen=True)
class Served:
    """A deployment, by its name, and its state on the server; `events` are those since it was served."""

    url: str
    name: str
    log: Path
    since: datetime

    def ask(self, path: str, **filters: Any) -> Any:
        return httpx.post(f"{self.url}/{path}/filter", json=filters, timeout=30).raise_for_status().json()

    def deployments(self) -> list[dict[str, Any]]:
        return self.ask("deployments", deployments={"name": {"any_": [self.name]}})

    def runs(self) -> list[dict[str, Any]]:
        return self.ask("flow_runs", deployments={"name": {"any_": [self.name]}}, sort="START_TIME_ASC")

    def completed(self) -> dict[str, Any]:
        """Its only run, once it has succeeded."""
        wait_until(self.runs, 120, "an event starts a run")
        wait_until(lambda: self.runs()[0]["state_type"] in ENDED, 240, "it ends")
        (run,) = self.runs()
        assert run["state_type"] == "COMPLETED", self.log.read_text()[-4000:]
        return run

    def events(self, name: str) -> list[dict[str, Any]]:
        query = {"event": {"name": [name]}, "occurred": {"since": self.since.isoformat()}}
        return self.ask("events", filter=query)["events"]


@pytest.fixture
def serve(
    prefect_api: str, dask_cluster: Any, mlflow_records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], Served]]:
    """`serve(module, name)`: `python -m module` until the end of the test, once the trigger of its deployment is there."""
    monkeypatch.setenv("ALMANAC_SCHEDULER", dask_cluster.scheduler_address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_records)
    with ExitStack() as stack:
        yield lambda module, name: stack.enter_context(_serving(module, name, prefect_api, tmp_path))


@contextmanager
def _serving(module: str, name: str, url: str, folder: Path) -> Iterator[Served]:
    served = Served(url, name, folder / f"{name}.log", datetime.now(UTC))
    with served.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: served.ask("automations"), 90, "the deployment's trigger is there")
        yield served
    finally:
        process.terminate()
        process.wait(120)
        for deployment in served.deployments():
            httpx.delete(f"{url}/automations/owned-by/prefect.deployment.{deployment['id']}")
            httpx.delete(f"{url}/deployments/{deployment['id']}")
