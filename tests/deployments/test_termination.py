"""A run whose machine is taken away: it gets SIGTERM, as a container does 30 seconds before its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT, wait_until
from tests.toy.flows.toy import score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GRACE_SECONDS = 30


@pytest.fixture
def start(prefect_api: str, tmp_path: Path) -> Any:
    """`start(run)`: the command of a container, as a process, with the environment that `prefect.yaml` declares."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["environment"]
    own = {name: value for name, value in declared.items() if "{{" not in value}
    processes: list[subprocess.Popen[bytes]] = []

    def run(flow_run: Any) -> subprocess.Popen[bytes]:
        variables = {
            **os.environ,
            **own,
            "PREFECT_API_URL": prefect_api,
            "PREFECT__FLOW_RUN_ID": str(flow_run),
        }
        with (tmp_path / "log").open("ab") as log:
            words = [sys.executable, "-m", "prefect", "flow-run", "execute"]
            processes.append(
                subprocess.Popen(
                    words, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True
                )
            )
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_run_that_is_told_to_end_keeps_its_shards_and_goes_on_when_it_is_started_again(
    start, tmp_path, without_run_logger, dask_cluster, monkeypatch
):
    store = Store(str(tmp_path / "store"))
    steps.put(store, shards=10)
    steps.train(store)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow_from_name("toy-score"),
            tmp_path.name,
            entrypoint="tests/toy/flows/toy.py:score",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        )
        parameters = {"seconds": 1.0, "store": store.uri}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id

        def log() -> str:
            return (tmp_path / "log").read_text()[-3000:]

        def results() -> dict[str, float]:
            """The time at which the result of each shard was written."""
            names = [one for one in store.names("toy/runs") if "/shards/" in one and one.endswith(".json")]
            return {one: Path(store.uri_of(one)).stat().st_mtime for one in names}

        process = start(run)
        wait_until(lambda: len(results()) >= 2, 150, f"two shards are scored: {log()}")
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(GRACE_SECONDS)
        assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        assert client.read_flow_run(run).state.is_scheduled(), log()
        assert store.version("toy/doubled") is None
        results_before = results()

        monkeypatch.setenv("ALMANAC_SCHEDULER", dask_cluster.scheduler_address)
        run_flow(score, flow_run=client.read_flow_run(run), parameters=parameters)
        assert client.read_flow_run(run).state.is_completed(), log()
    assert steps.published(store).height == 12
    assert results_before.items() <= results().items()
