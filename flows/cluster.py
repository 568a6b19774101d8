"""What a run computes on: the Dask cluster of its flow, and a local Prefect server where none is named."""

import ctypes
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_dask import DaskTaskRunner

from flows.settings import settings
from models.errors import AlmanacError

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
_SERVER_START_SECONDS = 120

DASK_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.worker-saturation": 1.0,
}
"""A worker process that died is started again however long that takes: by default Dask gives it up after
15 seconds, and a run without workers waits for ever. A worker is given one shard at a time, so that its
death is blamed on no other.
"""


class ClusterError(AlmanacError):
    """Nothing to compute on: the scheduler or the local server cannot be reached."""


@contextmanager
def local_or_named() -> Iterator[object]:
    """A Dask cluster: the address that the settings name, or worker processes on this machine.

    Each local worker is one process with one thread, so that two never compete for a core.
    """
    import dask
    from distributed import LocalCluster

    wanted = settings()
    if wanted.scheduler:
        check_scheduler(wanted.scheduler)
        yield wanted.scheduler
        return
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=wanted.workers or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            env=dict.fromkeys(_ONE_THREAD, "1"),
            silence_logs="ERROR",
        ) as cluster,
    ):
        yield cluster


def task_runner() -> Any:
    """The task runner of a flow. It makes its cluster when the first task is submitted."""
    return DaskTaskRunner(cluster_class=cast(Any, local_or_named))


@contextmanager
def prefect_server(*, leave_up: bool, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The API of a Prefect server: the one that `PREFECT_API_URL` names, or one on this machine.

    The local server listens on the loopback interface only. It ends with this process, however that
    ends, unless `leave_up`. `meanwhile` is called while it starts.
    """
    named = PREFECT_API_URL.value()
    if named:
        check_api(
            named,
            "Start it with `prefect server start`, or unset the variable to use a server of this run's own.",
        )
        yield named
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    with _one_at_a_time():
        process = _start_server(port, url, leave_up=leave_up)
        try:
            meanwhile()
            _wait_for(url, process)
        except BaseException:
            process.kill()
            raise
    try:
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        _send_what_is_left()
        os.environ.pop("PREFECT_API_URL", None)
        if not leave_up:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one server start at a time: of two that make the database in PREFECT_HOME at once, one fails.

    The lock is that of an SQLite file, which the operating system releases however a process ends.
    """
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(home / "starting.db", timeout=_SERVER_START_SECONDS, isolation_level=None)
    try:
        lock.execute("begin exclusive")
        yield
    except sqlite3.OperationalError as error:
        raise ClusterError(
            f"Other local Prefect servers have not come up for {_SERVER_START_SECONDS} s ({error}: {home / 'starting.db'}). "
            "Try again, or start one with `prefect server start` and set PREFECT_API_URL."
        ) from None
    finally:
        lock.close()


def _send_what_is_left() -> None:
    """Wait until the logs and events of this process have reached the server."""
    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def _start_server(port: int, url: str, *, leave_up: bool) -> subprocess.Popen[bytes]:
    quiet = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_UI_API_URL": url,
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }
    factory = "prefect.server.api.server:create_app"
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", factory, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=None if leave_up or sys.platform != "linux" else _die_with_parent,
    )


def _die_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, even by SIGKILL (`prctl(2)`)."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SERVER_START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ClusterError(
                f"The local Prefect server ended with status {process.returncode} before it answered. "
                "Start one by hand with `prefect server start` to see why, and set PREFECT_API_URL."
            )
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise ClusterError(
        f"The local Prefect server did not answer at {url} within {_SERVER_START_SECONDS} s. "
        "Try again, or start one with `prefect server start` and set PREFECT_API_URL."
    )


def check_api(url: str, advice: str) -> None:
    """Raise `ClusterError`, with what to do, unless something answers at the API's address."""
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClusterError(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({error}). {advice}"
        ) from None


def check_scheduler(address: str) -> None:
    """Raise `ClusterError` unless something answers at a `tcp://host:port` address."""
    host, _, port = address.removeprefix("tcp://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}). Expected tcp://HOST:PORT of a "
            "running one; start one with `dask scheduler`, or leave --scheduler out to use this machine."
        ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
