"""The cluster of a run: as many local workers as tasks, shared by a flow and the flows that it calls."""

import ast
import logging
import os
import signal
import subprocess
import sys

import httpx
import pytest
from distributed import Client
from prefect import flow, task
from prefect.context import SettingsContext
from prefect.runtime import task_run
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_REQUEST_TIMEOUT, temporary_settings

from flows import _in_worker
from flows.cluster import enough_workers, local_or_named, task_runner
from flows.workers import WORKER_ENVIRONMENT


@pytest.mark.slow
def test_a_cluster_has_the_workers_that_tasks_can_use_and_called_flows_share_it(monkeypatch):
    monkeypatch.setenv("ALMANAC_WORKERS", "2")
    enough_workers(1)
    with local_or_named() as cluster:
        assert len(cluster.worker_spec) == 1
        enough_workers(5)
        assert len(cluster.worker_spec) == 2
        enough_workers(1)
        with local_or_named() as of_a_called_flow:
            assert of_a_called_flow is cluster
            assert len(cluster.worker_spec) == 2
        assert cluster.status.name == "running"
    assert cluster.status.name == "closed"


@pytest.mark.slow
def test_a_worker_begins_with_its_imports_the_runs_environment_and_one_core(monkeypatch):
    monkeypatch.setenv("ALMANAC_WORKERS", "1")
    monkeypatch.setenv("ALMANAC_SOMETHING", "set after the first worker was forked")
    with local_or_named() as cluster, Client(cluster) as client:
        (worker,) = client.run(lambda: (dict(os.environ), "models.boosting" in sys.modules)).values()
    environment, imported = worker
    assert imported
    assert environment["ALMANAC_SOMETHING"] == "set after the first worker was forked"
    assert environment.items() >= WORKER_ENVIRONMENT.items()


@pytest.mark.slow
def test_a_task_has_the_settings_of_its_run_and_two_with_the_same_parameters_run_twice(
    prefect_api, dask_cluster, monkeypatch
):
    monkeypatch.setenv("ALMANAC_SCHEDULER", dask_cluster.scheduler_address)

    @task
    def in_a_worker(_):
        api = SettingsContext.get().settings.api
        return api.request_timeout, api.auth_string.get_secret_value(), task_run.id, os.getpid()

    @flow(task_runner=task_runner())
    def twice():
        return in_a_worker.map([1, 1]).result()

    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 77.0, PREFECT_API_AUTH_STRING: "a:b"}):
        first, second = twice()
    assert first[:2] == second[:2] == (77.0, "a:b")
    assert first[2] != second[2]
    assert os.getpid() not in (first[3], second[3])


@pytest.mark.slow
def test_what_workers_import_leaves_the_exit_status_of_any_other_process_alone():
    code = (
        "import sys; from flows.modules import with_commands; list(with_commands()); "
        "assert 'flows._preloaded' not in sys.modules; import flows._preloaded; raise SystemExit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


@pytest.mark.slow
def test_what_dask_serves_over_http_has_no_pages(monkeypatch):
    monkeypatch.setenv("ALMANAC_WORKERS", "1")
    with local_or_named() as cluster:
        server = cluster.scheduler.http_server
        assert (server.address, server.port) != ("127.0.0.1", 8787)
        for page in ("info/main/workers.html", "json/counts.json", "metrics", "health"):
            assert httpx.get(f"http://{server.address}:{server.port}/{page}").status_code == 404


IN_A_WORKER = """
import multiprocessing, os, sys, threading, time
from flows.workers import ONE_THREAD, fork_from_here
os.environ.update(ONE_THREAD)
import numpy
sys.here = "imported before the fork"
if sys.argv[1] == "threads":
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
fork_from_here("flows.sales")
os.environ["OMP_NUM_THREADS"] = "7"
with multiprocessing.get_context("forkserver").Pool(1) as pool:
    print(pool.map(eval, ["getattr(__import__('sys'), 'here', None)", "dict(__import__('os').environ)"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "here"), [("one", "imported before the fork"), ("threads", None)])
def test_workers_are_copies_of_a_command_only_as_long_as_it_has_one_thread(threads, here):
    command = [sys.executable, "-c", IN_A_WORKER, threads]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    imported, environment = ast.literal_eval(result.stdout)
    assert imported == here
    assert environment.items() >= WORKER_ENVIRONMENT.items()


def test_a_heartbeat_that_no_scheduler_answers_is_not_logged_as_an_error(monkeypatch):
    logger = logging.getLogger("distributed.worker")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    _in_worker.dask_setup(None)
    records = [
        logger.makeRecord(logger.name, logging.ERROR, "worker.py", 1, text, (), None)
        for text in ("Failed to communicate with scheduler during heartbeat.", "Compute Failed")
    ]
    assert [bool(logger.filter(record)) for record in records] == [False, True]
