"""What a run computes on: the Dask cluster of its flow, and a local Prefect server where none is named."""

import ctypes
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, cast

import httpx
from prefect import __version__ as prefect_version
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_dask import DaskTaskRunner

from flows.settings import settings
from flows.workers import FORKED, WORKER_ENVIRONMENT, begin_imports
from models.addresses import refuse_credential
from models.errors import AlmanacError

_SERVER_START_SECONDS = 120
_IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "TRIGGERS")
"""Services of a Prefect server that have nothing to do for one run: deployments, work pools, automations."""

_SCHEMA = "almanac-schema.txt"
"""The file in PREFECT_HOME that says which tables the database had when a server had last brought it up to date."""
_OTHER_DATABASE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


DASK_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.profile.enabled": False,
}
"""A worker process that died is started again however long that takes: by default Dask gives it up after
15 seconds, and a run without workers waits for ever. A worker is given one shard at a time, so that its
death is blamed on no other. Nothing is profiled: Dask's profiler calls `sys._current_frames` a hundred times a
second, which in CPython before 3.11.9 waits for itself for ever where garbage is collected meanwhile
(python/cpython#106883), with the interpreter's lock.
"""
LOCAL_SETTINGS = DASK_SETTINGS | {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.multiprocessing-method": "forkserver" if FORKED else "spawn",
}
"""Dask always starts servers for HTTP without TLS beside scheduler and workers. They have no pages, so that no other user of
the machine reads the keys in them. For the method see `flows.workers`; a forked worker has the environment of the process
that it is forked from, so that of the run is handed over.
"""


class ClusterError(AlmanacError):
    """Nothing to compute on: the scheduler or the local server cannot be reached."""

    passing = True


@contextmanager
def local_or_named() -> Iterator[object]:
    """A Dask cluster: the address that the settings name, or worker processes on this machine.

    Each local worker is one process with one thread, so that two never compete for a core. What they listen to is
    closed to other users of the machine, by certificates that are made for the run and kept in memory. A flow that another
    one calls uses that one's cluster.
    """
    import dask
    from distributed import LocalCluster

    if scheduler := settings().scheduler:
        check_scheduler(scheduler)
        yield scheduler
        return
    if _local.cluster is not None:
        yield _local.cluster
        return
    begin_imports(_module_of_the_flow())
    with (
        dask.config.set(LOCAL_SETTINGS),
        LocalCluster(
            n_workers=_local.wanted or most_workers(),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            preload=["flows._in_worker"],
            env={**os.environ, **WORKER_ENVIRONMENT},
            silence_logs="ERROR",
        ) as cluster,
    ):
        _local.cluster = cluster
        try:
            yield cluster
        finally:
            _local.cluster, _local.wanted = None, None


def _module_of_the_flow() -> str:
    context = FlowRunContext.get()
    return __name__ if context is None or context.flow is None else context.flow.fn.__module__


@dataclass
class _Local:
    """The cluster of this process and how many workers it shall have; None: there is none yet, no matter."""

    cluster: Any = None
    wanted: int | None = None


_local = _Local()


def most_workers() -> int:
    """How many worker processes a local cluster may have."""
    return settings().workers or os.cpu_count() or 1


def enough_workers(tasks: int) -> None:
    """Have a local cluster begin with, or grow to, as many workers as so many tasks can use."""
    wanted = min(tasks, most_workers())
    if _local.cluster is None:
        _local.wanted = wanted
    elif wanted > len(_local.cluster.workers):
        _local.cluster.scale(wanted)


def task_runner() -> Any:
    """The task runner of a flow. It makes its cluster when the first task is submitted."""
    return DaskTaskRunner(cluster_class=cast(Any, local_or_named))


@contextmanager
def prefect_server(*, leave_up: bool, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The API of a Prefect server: the one that `PREFECT_API_URL` names, or one on this machine.

    The local server listens on the loopback interface only. It ends with this process, however that
    ends, unless `leave_up`. `meanwhile` is called while it starts, or at once.
    """
    spare_loopback()
    named = PREFECT_API_URL.value()
    if named:
        check_api(
            named,
            "Start it with `prefect server start`, or unset the variable to use a server of this run's own.",
        )
        meanwhile()
        yield named
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with _one_at_a_time():
        process = _start_server(port, url, leave_up=leave_up)
        try:
            meanwhile()
            _wait_for(url, process)
            _remember_schema()
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
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(home / "starting.db", timeout=_SERVER_START_SECONDS, isolation_level=None)
    except (OSError, sqlite3.OperationalError) as error:
        raise ClusterError(
            f"PREFECT_HOME={home} cannot be written ({error}). Set PREFECT_HOME to a folder that this user may write."
        ) from None
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
        "OTEL_SDK_DISABLED": "true",
    }
    if not leave_up:
        quiet |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _IDLE_SERVICES}
    if _schema_is_known():
        quiet |= {
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
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


def _schema_is_known() -> bool:
    """Whether this version of Prefect has brought the database up to date before: it need not look again."""
    found = _schema()
    known = PREFECT_HOME.value() / _SCHEMA
    return found is not None and known.exists() and known.read_text() == found


def _remember_schema() -> None:
    if found := _schema():
        with suppress(OSError):
            (PREFECT_HOME.value() / _SCHEMA).write_text(found)


def _schema() -> str | None:
    """The version of Prefect, and that of the tables of its database in PREFECT_HOME; None where it has another place."""
    place = PREFECT_HOME.value() / "prefect.db"
    if not place.exists() or any(os.environ.get(name) for name in _OTHER_DATABASE):
        return None
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (number,) = database.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError):
        return None
    return f"{prefect_version} {number}"


def _die_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, even by SIGKILL (`prctl(2)`)."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SERVER_START_SECONDS
    # A client for each question would read all certificates each time: a twentieth of a processor second.
    with httpx.Client(timeout=2, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ClusterError(
                    f"The local Prefect server ended with status {process.returncode} before it answered. "
                    "Start one by hand with `prefect server start` to see why, and set PREFECT_API_URL."
                )
            try:
                if client.get(f"{url}/health").status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    raise ClusterError(
        f"The local Prefect server did not answer at {url} within {_SERVER_START_SECONDS} s. "
        "Try again, or start one with `prefect server start` and set PREFECT_API_URL."
    )


def check_api(url: str, advice: str) -> None:
    """Raise `ClusterError`, with what to do, unless a Prefect server answers at the API's address and lets us in.

    Raises `CredentialError` for an address with a password, which the worker would hand on to runs and logs would show.
    """
    refuse_credential("PREFECT_API_URL", url, "PREFECT_API_AUTH_STRING or PREFECT_API_KEY")
    spare_loopback()
    try:
        health = httpx.get(f"{url.rstrip('/')}/health", timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClusterError(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({error}). {advice}"
        ) from None
    if health.text.strip() != "true" and health.status_code not in _REFUSED:
        raise ClusterError(
            f"PREFECT_API_URL={url}: what answers there, with status {health.status_code}, is not the API of a Prefect "
            f"server. Expected an address that ends in /api, such as {_with_api(url)}"
        )
    _check_admission(url)


_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


def _check_admission(url: str) -> None:
    """Raise `ClusterError` where the server asks for a password or key that is not given, or is another one."""
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    own = {PREFECT_API_URL: url} | ({PREFECT_API_AUTH_STRING: password} if password else {})
    other = {setting: value for setting, value in own.items() if setting.value() != value}
    # To read all of Prefect's settings again takes half a processor second.
    with temporary_settings(other) if other else nullcontext(), get_client(sync_client=True) as client:
        try:
            client.api_version()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _REFUSED:
                raise ClusterError(
                    f"PREFECT_API_URL={url}: the server refuses us with status {error.response.status_code}. Set "
                    "PREFECT_API_AUTH_STRING (USER:PASSWORD, of a server of your own) or PREFECT_API_KEY (Prefect Cloud)."
                ) from None
        except httpx.HTTPError:
            return


def _with_api(url: str) -> str:
    parts = httpx.URL(url)
    return str(parts.copy_with(path="/api", query=None))


def spare_loopback() -> None:
    """Have servers on this machine asked directly, whatever HTTP_PROXY says: no proxy can reach them."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [one for one in os.environ.get(name, "").split(",") if one]
        os.environ[name] = ",".join([*known, *(one for one in _LOOPBACK if one not in known)])


_LOOPBACK = ("127.0.0.1", "localhost")


def check_scheduler(address: str) -> None:
    """Raise `ClusterError` unless something answers at a `tcp://host:port` or `tls://host:port` address.

    Raises `CredentialError` for an address with a password.
    """
    refuse_credential("The address of the scheduler", address, "a certificate of TLS")
    host, _, port = address.removeprefix("tcp://").removeprefix("tls://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}). Expected tcp://HOST:PORT or "
            "tls://HOST:PORT of a running one; start one with `dask scheduler`, or leave --scheduler out to use this "
            "machine."
        ) from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
