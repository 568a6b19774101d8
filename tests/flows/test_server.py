"""The Prefect server of a command: the first starts it, the next finds it, it is closed to others, and ends when unused."""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest
from prefect.events import emit_event
from prefect.events.clients import AssertingEventsClient
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows import server
from tests.conftest import ROOT, wait_until

COMMAND = """
import os, sys
from flows.server import prefect_server
with prefect_server(leave_up=False) as api:
    print(api.url, os.environ["PREFECT_API_AUTH_STRING"], flush=True)
    sys.stdin.read()
"""


class Command:
    """A process that uses a server until it is told to end."""

    def __init__(self, home, idle):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
        own = {"PREFECT_HOME": str(home), "ALMANAC_SERVER_IDLE_SECONDS": str(idle)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            cwd=ROOT,
            env=environment | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url, self.password = self.process.stdout.readline().split()
        self.record = home / "almanac-server.json"
        self.server = psutil.Process(json.loads(self.record.read_text())["server"]["pid"])

    def end(self):
        self.process.communicate("")
        assert self.process.returncode == 0


@pytest.mark.slow
def test_the_next_command_finds_the_server_which_others_cannot_use_and_which_ends_when_idle(tmp_path):
    first = Command(tmp_path, idle=1)
    second = Command(tmp_path, idle=1)
    assert (second.url, second.password, second.server) == (first.url, first.password, first.server)
    assert first.record.stat().st_mode & 0o777 == 0o600
    assert {one.laddr.ip for one in first.server.net_connections()} == {"127.0.0.1"}
    url = f"{first.url}/flows/filter"
    page = {"origin": "http://evil.example"}
    assert httpx.post(url, json={}).status_code == 401
    allowed = httpx.post(url, json={}, headers=page, auth=tuple(first.password.split(":")))
    assert allowed.status_code == 200
    assert "access-control-allow-origin" not in allowed.headers
    first.end()
    assert second.server.is_running()
    second.process.kill()
    second.process.communicate()
    wait_until(
        lambda: not second.server.is_running(), 30, "the server ends after the last command was killed"
    )
    assert not second.record.exists()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Nothing is logged."""


@contextmanager
def listening():
    """A port at which this process answers health checks."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as healthy:
        threading.Thread(target=healthy.serve_forever, daemon=True).start()
        yield healthy.server_port
        healthy.shutdown()


@pytest.fixture
def record(tmp_path):
    """Records a server of this process, as an earlier command would have, and returns whether the next one uses it."""

    def known(port, *, stays=False, leave_up=False, **other):
        description = {
            "port": port,
            "pid": os.getpid(),
            "password": "a:b",
            "started_as": server._started_as(),
        }
        server._write_down({"server": description | other, "stays": stays})
        return server._running_server(leave_up=leave_up) is not None

    with temporary_settings({PREFECT_HOME: tmp_path}):
        yield known


def test_the_password_is_sent_to_no_one_who_has_taken_the_port_of_a_server_that_died(record):
    with listening() as port:
        assert record(port)
        assert not record(port, pid=os.getppid())
        assert not record(port, pid=2**22 + 1)
    assert not record(port)


def test_a_command_lets_others_look_for_the_server_only_once_the_server_knows_that_it_is_used(record):
    events = []

    class Watched(ThreadingHTTPServer):
        def get_request(self):
            events.append("connection")
            return super().get_request()

    class Answering(Healthy):
        def do_GET(self):
            super().do_GET()
            events.append("answer")

    with Watched(("127.0.0.1", 0), Answering) as healthy:
        threading.Thread(target=healthy.serve_forever, daemon=True).start()
        assert record(healthy.server_port)
        with temporary_settings(restore_defaults={PREFECT_API_URL}), server.prefect_server(leave_up=False):
            assert events.count("connection") == events.count("answer") + 1, "one is kept open"
            assert events[-1] == "answer"
        healthy.shutdown()


def test_a_server_that_hangs_is_not_used(record, monkeypatch):
    monkeypatch.setattr(server, "_HANGING_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not record(listener.getsockname()[1])


def test_a_server_that_was_started_otherwise_is_not_used(record):
    with listening() as port:
        assert not record(port, leave_up=True)
        assert record(port, leave_up=True, stays=True)
        assert not record(port, started_as="with another version")
        assert not record(port, unknown="member of a later version")


def test_events_of_a_command_that_ends_with_an_error_are_sent_first_without_a_word(
    prefect_api, caplog, monkeypatch
):
    events = []

    async def emit(_: AssertingEventsClient, event: Event) -> None:
        await asyncio.sleep(0.2)
        events.append(event.event)

    monkeypatch.setattr(AssertingEventsClient, "_emit", emit)

    @server.prefect_server(leave_up=False)
    def fail() -> None:
        for name in "abc":
            emit_event(name, resource={"prefect.resource.id": name})
        raise server.ServerError("the error")

    EventsWorker.set_client_override(AssertingEventsClient)
    try:
        with pytest.raises(server.ServerError, match="the error"):
            fail()
        assert events == ["a", "b", "c"]
        assert "Still processing" not in caplog.text
    finally:
        EventsWorker.set_client_override(None)


def test_a_server_that_goes_away_while_a_command_uses_it_is_told_in_a_sentence(prefect_api):
    @server.prefect_server(leave_up=False)
    def fail() -> None:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(server.ServerError, match=r"has gone away \(connection refused\)"):
        fail()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A PREFECT_HOME whose database has tables of version `aaa`."""
    from prefect.settings import PREFECT_HOME, temporary_settings

    for name in server._OTHER_DATABASE:
        monkeypatch.delenv(name, raising=False)
    tables(tmp_path, "aaa")
    with temporary_settings({PREFECT_HOME: tmp_path}):
        yield tmp_path


def tables(home, version):
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        database.executescript(
            "drop table if exists alembic_version; create table alembic_version (version_num text);"
            f"insert into alembic_version values ('{version}');"
        )


def test_a_database_is_brought_up_to_date_until_a_server_of_this_version_has_done_it(home, monkeypatch):
    assert not server._schema_is_known()
    server._remember_schema()
    assert server._schema_is_known()
    monkeypatch.setattr(server, "prefect_version", "99.0")
    assert not server._schema_is_known()


def test_a_database_that_was_replaced_is_brought_up_to_date_again(home):
    server._remember_schema()
    tables(home, "an older one")
    assert not server._schema_is_known()
    (home / "prefect.db").write_bytes(b"no database")
    assert not server._schema_is_known()
    (home / "prefect.db").unlink()
    assert not server._schema_is_known()


def test_a_database_elsewhere_is_always_brought_up_to_date(home, monkeypatch):
    server._remember_schema()
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://somewhere/else")
    assert not server._schema_is_known()
