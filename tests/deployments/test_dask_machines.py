"""A Dask scheduler and workers as processes of their own, as on several machines, with TLS; one is killed during a run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from distributed import LocalCluster
from distributed.security import Security
from polars.testing import assert_frame_equal

from benchmarks.azurite import answers
from deployments.dask.tls import save_certificates
from flows.server import free_port
from tasks.registry import ledger
from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for all, in files that the environment names as deployments/dask/kubernetes.yaml does."""
    security = Security.temporary()
    (tmp_path / "ca.crt").write_text(security.tls_ca_file)
    (tmp_path / "tls.crt").write_text(security.tls_worker_cert)
    (tmp_path / "tls.key").write_text(security.tls_worker_key)
    for name, value in environment_of("scheduler").items():
        if name.startswith("DASK_DISTRIBUTED__COMM__"):
            monkeypatch.setenv(name, value.replace("/tls/", f"{tmp_path}/"))


def environment_of(container: str) -> dict[str, str]:
    documents = yaml.safe_load_all((ROOT / "deployments/dask/kubernetes.yaml").read_text())
    (cluster,) = [one["spec"] for one in documents if one["kind"] == "DaskCluster"]
    return {one["name"]: one["value"] for one in cluster[container]["spec"]["containers"][0]["env"]}


@pytest.fixture
def machines(certificates: None, prefect_api: str, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A scheduler at `address` and two workers, started by Dask's own commands; each writes a log."""
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *words],
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            )
        return processes[-1]

    try:
        start(
            "scheduler",
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--protocol",
            "tls",
            "--no-dashboard",
        )
        wait_until(lambda: answers(port), 60, "the scheduler answers")
        options = (
            "--protocol",
            "tls",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--memory-limit",
            "0",
        )
        names = ("one", "two")
        local = ("--local-directory", str(tmp_path))
        workers = [start(name, "worker", address, "--name", name, *options, *local) for name in names]
        yield SimpleNamespace(address=address, workers=workers, told=lambda: told(tmp_path))
    finally:
        for process in processes:
            process.kill()
            process.wait(20)


def told(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))


def score(store: Store, scheduler: str, *words: str) -> subprocess.Popen[str]:
    command = ["-m", "tests.toy", "toy", "score", "--store", store.uri, "--scheduler", scheduler, "--json"]
    return subprocess.Popen(
        [sys.executable, *command, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def twins(tmp_path: Path, without_run_logger: None) -> list[Store]:
    """Two stores with the same values and the same champion."""
    stores = [Store(str(tmp_path / name / "store")) for name in ("killed", "undisturbed")]
    for store in stores:
        Path(store.uri).parent.mkdir()
        steps.put(store, shards=12)
        steps.train(store)
    return stores


def test_a_worker_killed_during_a_run_on_a_separate_scheduler_costs_nothing_but_time(machines, twins):
    killed, undisturbed = twins
    run = score(killed, machines.address, "--seconds", "1")
    shards = Path(killed.uri, "toy", "runs")
    wait_until(
        lambda: list(shards.glob("*/shards/*.json")) or run.poll() is not None, 120, "a shard is scored"
    )
    assert run.poll() is None, run.communicate()[1]
    victim, other = machines.workers
    victim.kill()
    assert victim.wait(20) == -9
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err[-2000:] + machines.told()
    assert other.poll() is None
    result = json.loads(out)
    assert (result["scored"], result["failed"], result["published"]) == (12, 0, True)
    steps.score(undisturbed)
    rows = [steps.published(store) for store in twins]
    assert_frame_equal(rows[0].drop("run_id"), rows[1].drop("run_id"))
    assert [ledger.rows(store).collect().height for store in twins] == [1, 1]


def test_the_certificates_of_machines_in_a_file_of_the_owners_let_a_run_in_and_no_one_without_them(
    prefect_api, tmp_path, without_run_logger
):
    store, path = Store(str(tmp_path / "store")), tmp_path / "dask.yaml"
    steps.put(store, shards=2)
    steps.train(store)
    with LocalCluster(n_workers=1, threads_per_worker=1, security=True, dashboard_address=None) as cluster:
        save_certificates(cluster.security, path)
        assert path.stat().st_mode & 0o777 == 0o600
        runs = {}
        for name, environment in {"without": {}, "with": {"DASK_CONFIG": str(path)}}.items():
            words = ["toy", "score", "--store", store.uri, "--scheduler", cluster.scheduler_address, "--json"]
            runs[name] = subprocess.run(
                [sys.executable, "-m", "tests.toy", *words],
                cwd=ROOT,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=200,
            )
    assert runs["without"].returncode != 0
    assert runs["with"].returncode == 0, runs["with"].stderr
    assert json.loads(runs["with"].stdout)["published"]
