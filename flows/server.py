"""The Prefect server of a command: the one that `PREFECT_API_URL` names, or one on this machine.

The first command starts it, later ones find it, and it ends when no command has used it for a while. It listens only on
the loopback interface, requires its password, and lets no web page except its own UI read its answers.
"""

import hashlib
import json
import logging
import os
import secrets
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect import __version__ as prefect_version
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    temporary_settings,
)

from flows.settings import settings
from flows.workers import environment
from models.addresses import refuse_credential
from models.errors import AlmanacError

_START_SECONDS, _NEWS_SECONDS, _HANGING_SECONDS = 900, 20, 20
_IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "TRIGGERS")
"""Services of a Prefect server that runs of commands do not need: for deployments, work pools and automations."""

SERVER_DAYS = 90
KEPT_BY_THE_SERVER = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(SERVER_DAYS * 86400),
}
"""How long the server keeps finished runs with their logs and artifacts; by default Prefect keeps them forever."""

RECORDED_TOGETHER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""States of task runs that arrive within a second enter the database in one statement; by default each takes its own."""

_SCHEMA = "almanac-schema.txt"
"""The file in PREFECT_HOME with the schema version to which a server last migrated the database."""
_OTHER_DATABASE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


class ServerError(AlmanacError):
    """No Prefect server can be reached or started."""

    is_temporary = True


@dataclass(frozen=True)
class Api:
    """The API of a Prefect server. The password of our own server is in a file that only its owner can read."""

    url: str
    password_file: Path | None = None

    def ui(self) -> str:
        """The address of the UI, for a person."""
        asks = f", which asks for the password in {self.password_file}" if self.password_file else ""
        return f"Prefect UI: {self.url.removesuffix('/api')}{asks}"


@dataclass(frozen=True)
class _Server:
    """A server on this machine. `started_as` identifies the settings with which it was started."""

    port: int
    pid: int
    password: str
    started_as: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def is_there(self) -> bool:
        """Whether that process is really listening: after it has ended, any process may take its port."""
        try:
            connections = psutil.Process(self.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in connections)


@contextmanager
def prefect_server(*, leave_up: bool, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Api]:
    """The API of a Prefect server: the one that `PREFECT_API_URL` names, or one on this machine.

    The latter is found or started; it ends `ALMANAC_SERVER_IDLE_SECONDS` after the last command that used it, however
    that command ends; with `leave_up` it does not end. `meanwhile` is called while it starts, or at once.
    """
    spare_loopback()
    url = PREFECT_API_URL.value()
    if url:
        check_api(
            url,
            "Start it with `prefect server start`, or unset the variable to use a server of the command's own.",
        )
        meanwhile()
        with _in_a_sentence(url):
            yield Api(url)
        return
    with _one_at_a_time():
        server = _running_server(leave_up=leave_up)
        if server:
            meanwhile()
        else:
            server = _start(meanwhile, leave_up=leave_up)
        # While this connection is open, the server stays. Its answer to a later one shows that it knows this one; until
        # then an idle server, for example with ALMANAC_SERVER_IDLE_SECONDS=0, may end as soon as it gets the lock.
        use = socket.create_connection(("127.0.0.1", server.port))
        _answers(server.url, _HANGING_SECONDS)
    own = {PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.password}
    with (
        closing(use),
        environment({one.name: value for one, value in own.items()}),
        _in_a_sentence(server.url),
        # This server does not use heartbeats, and a run would wait at its end, for up to a second, until they stop.
        temporary_settings({**own, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield Api(server.url, _record())


@contextmanager
def _in_a_sentence(url: str) -> Iterator[None]:
    """Use a server in the block; then wait for what is left to send. Raises `ServerError` if the server has gone away."""
    try:
        yield
    except httpx.TransportError as error:
        raise ServerError(
            f"The Prefect server at {url} has gone away ({error}), so the run cannot report its end. What it wrote is kept: "
            "start it again with the same parameters."
        ) from None
    finally:
        _send_what_is_left()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one command at a time look for a server or start one, and keep servers from ending meanwhile.

    The lock is that of a SQLite file, which the operating system releases however a process ends.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(_lock(), timeout=_START_SECONDS, isolation_level=None)
    except (OSError, sqlite3.OperationalError) as error:
        raise ServerError(
            f"PREFECT_HOME={home} cannot be written ({error}). Set PREFECT_HOME to a folder that this user may write."
        ) from None
    try:
        lock.execute("begin exclusive")
        yield
    except sqlite3.OperationalError as error:
        raise ServerError(
            f"Another command has been starting a local Prefect server for {_START_SECONDS} s ({error}: {_lock()}). "
            "Try again, or start one with `prefect server start` and set PREFECT_API_URL."
        ) from None
    finally:
        lock.close()


def _lock() -> Path:
    return PREFECT_HOME.value() / "starting.db"


def _send_what_is_left() -> None:
    """Wait until the logs and events of this process have reached the server.

    A worker of Prefect that is told to stop warns, at its next event, of what it still has to send, however short the
    wait.
    """
    logging.getLogger(EventsWorker.__name__).setLevel(logging.ERROR)
    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def _running_server(*, leave_up: bool) -> _Server | None:
    """The server that an earlier command started in PREFECT_HOME, if it answers and has the same settings."""
    try:
        record = json.loads(_record().read_text())
        server, stays = _Server(**record["server"]), record["stays"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = server.started_as == _started_as() and (stays or not leave_up)
    return server if fits and server.is_there() and _answers(server.url, _HANGING_SECONDS) else None


def _record() -> Path:
    return PREFECT_HOME.value() / "almanac-server.json"


def _started_as() -> str:
    """A digest of the settings with which a server is started, without those that each command sets itself."""
    own = {k: v for k, v in os.environ.items() if k.startswith(("PREFECT_SERVER_", "PREFECT_API_DATABASE_"))}
    return hashlib.sha256(
        json.dumps([prefect_version, sys.executable, sorted(own.items())]).encode()
    ).hexdigest()


def _start(meanwhile: Callable[[], object], *, leave_up: bool) -> _Server:
    """Start a server, call `meanwhile`, wait until the server answers, and record its address for the next command."""
    port, password = free_port(), f"almanac:{secrets.token_urlsafe(24)}"
    url = f"http://127.0.0.1:{port}"
    variables = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "OTEL_SDK_DISABLED": "true",
        **KEPT_BY_THE_SERVER,
        **RECORDED_TOGETHER,
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _IDLE_SERVICES},
    }
    if _schema_is_known():
        variables |= {
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
            # The digest of all blocks imports every integration, a quarter of the start-up time.
            "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        }
    idle = "inf" if leave_up else str(settings().server_idle_seconds)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows._server", str(port), idle, str(_lock()), str(_record())],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = _Server(port, process.pid, password, _started_as())
    try:
        meanwhile()
        _wait_for(server.url, process)
        _remember_schema()
        _write_down({"server": asdict(server), "stays": leave_up})
    except BaseException:
        process.kill()
        raise
    return server


def _write_down(record: object) -> None:
    """Write the record so that only its owner can read it: it contains the password."""
    new = _record().with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(record, file)
    new.replace(_record())


def _schema_is_known() -> bool:
    """Whether this version of Prefect has migrated the database before, so that it need not check again."""
    schema = _schema()
    record = PREFECT_HOME.value() / _SCHEMA
    return schema is not None and record.exists() and record.read_text() == schema


def _remember_schema() -> None:
    if schema := _schema():
        with suppress(OSError):
            (PREFECT_HOME.value() / _SCHEMA).write_text(schema)


def _schema() -> str | None:
    """The versions of Prefect and of the schema of its database in PREFECT_HOME; None for a database elsewhere."""
    place = PREFECT_HOME.value() / "prefect.db"
    if not place.exists() or any(os.environ.get(name) for name in _OTHER_DATABASE):
        return None
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (number,) = database.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError):
        return None
    return f"{prefect_version} {number}"


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    if wait_for_start(lambda: _answers(url, 2), lambda: process.poll() is None):
        return
    if process.returncode is not None:
        raise ServerError(
            f"The local Prefect server ended with status {process.returncode} before it answered. "
            "Start one by hand with `prefect server start` to see why, and set PREFECT_API_URL."
        )
    raise ServerError(
        f"The local Prefect server did not answer at {url} within {_START_SECONDS} s. "
        "Try again, or start one with `prefect server start` and set PREFECT_API_URL."
    )


def wait_for_start(answers: Callable[[], bool], is_running: Callable[[], bool]) -> bool:
    """Wait until a server that is starting answers, as long as it runs; return whether it does.

    On a busy machine that takes minutes: lines on standard error say for how long it has been starting.
    """
    start = news = time.monotonic()
    while not answers():
        now = time.monotonic()
        if now > start + _START_SECONDS or not is_running():
            return False
        if now >= news + _NEWS_SECONDS:
            news = now
            print(
                f"The Prefect server has been starting for {now - start:,.0f} s", file=sys.stderr, flush=True
            )
        time.sleep(0.1)
    return True


def _answers(url: str, seconds: float) -> bool:
    # With the default context, every client reads all certificates, which takes a twentieth of a processor second.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.get(f"{url}/health", timeout=seconds, verify=context).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def check_api(url: str, advice: str) -> None:
    """Raise `ServerError`, with `advice`, unless a Prefect server answers at the API's address and admits us.

    Raises `CredentialError` for an address with a password, which the worker would pass on to runs and logs would show.
    """
    refuse_credential("PREFECT_API_URL", url, "PREFECT_API_AUTH_STRING or PREFECT_API_KEY")
    spare_loopback()
    try:
        health = httpx.get(f"{url.rstrip('/')}/health", timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerError(
            f"PREFECT_API_URL={url}: no Prefect server answers there ({error}). {advice}"
        ) from None
    if health.text.strip() != "true" and health.status_code not in _REFUSED:
        address = httpx.URL(url).copy_with(path="/api", query=None)
        raise ServerError(
            f"PREFECT_API_URL={url}: the answer, with status {health.status_code}, is not that of a Prefect "
            f"API. Expected an address that ends in /api, such as {address}"
        )
    _check_admission(url)


_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


def admission(url: str) -> dict[Any, str]:
    """The settings of a client of the API at `url`, with the password of the environment if there is one."""
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    return {PREFECT_API_URL: url} | ({PREFECT_API_AUTH_STRING: password} if password else {})


def _check_admission(url: str) -> None:
    """Raise `ServerError` if the password or key that the server requires is missing or wrong."""
    other = {setting: value for setting, value in admission(url).items() if setting.value() != value}
    # Reading all of Prefect's settings again takes half a processor second.
    with temporary_settings(other) if other else nullcontext(), get_client(sync_client=True) as client:
        try:
            client.api_version()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _REFUSED:
                raise ServerError(
                    f"PREFECT_API_URL={url}: the server refuses us with status {error.response.status_code}. Set "
                    "PREFECT_API_AUTH_STRING (USER:PASSWORD, of a server of your own) or PREFECT_API_KEY (Prefect Cloud)."
                ) from None
        except httpx.HTTPError:
            return


def spare_loopback() -> None:
    """Connect to servers on this machine directly, whatever HTTP_PROXY says: no proxy can reach them."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [one for one in os.environ.get(name, "").split(",") if one]
        os.environ[name] = ",".join([*hosts, *(one for one in _LOOPBACK if one not in hosts)])


_LOOPBACK = ("127.0.0.1", "localhost")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
