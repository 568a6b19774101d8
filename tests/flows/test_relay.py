"""The output of a command, passed on and sent to Azure Monitor over HTTP."""

import gzip
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from azure.core.pipeline.policies import SansIOHTTPPolicy

from flows import relay
from tests.conftest import ROOT

TEMPLATE = json.loads((ROOT / "deployments/azure/main.json").read_text())
(RULE,) = [one for one in TEMPLATE["resources"] if one["type"] == "Microsoft.Insights/dataCollectionRules"]


@pytest.fixture
def requests() -> Iterator[tuple[str, list[tuple[str, list[dict[str, str]]]], list[int]]]:
    """An endpoint: its address, the path and lines of each request, and the statuses of its next answers."""
    received: list[tuple[str, list[dict[str, str]]]] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = statuses.pop(0) if statuses else 204
            if status == 204:
                received.append((self.path, json.loads(gzip.decompress(body))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received, statuses
    server.shutdown()


@pytest.fixture
def output(monkeypatch) -> io.BytesIO:
    """What is passed on; signals stay as they are."""
    monkeypatch.setattr(relay.signal, "signal", lambda *_: None)
    return io.BytesIO()


def run(code: str, url: str, output: io.BytesIO) -> int:
    def make() -> relay.Upload:
        return relay.uploader(url, "dcr-1", authentication_policy=SansIOHTTPPolicy())

    return relay.run([sys.executable, "-c", code], relay.Relay("toy-score-1", make), output)


def test_lines_are_passed_on_and_sent_to_the_stream_of_the_rule_with_its_columns(requests, output):
    url, received, _ = requests
    assert run("import sys; print('a line', flush=True); sys.exit('an error')", url, output) == 1
    assert output.getvalue() == b"a line\nan error\n"
    ((path, lines),) = received
    assert path.startswith(f"/dataCollectionRules/dcr-1/streams/{relay.STREAM}?")
    (flow,) = RULE["properties"]["dataFlows"]
    assert flow["streams"] == [relay.STREAM]
    columns = {one["name"] for one in RULE["properties"]["streamDeclarations"][relay.STREAM]["columns"]}
    assert all(one.keys() == columns for one in lines)
    assert [(one["ContainerGroup"], one["Message"]) for one in lines] == [
        ("toy-score-1", "a line"),
        ("toy-score-1", "an error"),
    ]


def test_a_command_that_is_killed_leaves_its_signal(requests, output):
    url, received, _ = requests
    assert run("import os; os.kill(os.getpid(), 9)", url, output) == 128 + 9
    assert received[-1][1][-1]["Message"] == "The run's process was ended by SIGKILL."


def test_lines_that_cannot_be_sent_are_sent_with_the_next_and_are_told_once(
    requests, output, monkeypatch, capsys
):
    url, received, statuses = requests
    statuses += [403, 403]
    monkeypatch.setattr(relay, "_EVERY_SECONDS", 0.2)
    assert run("import time; print('first', flush=True); time.sleep(3); print('last')", url, output) == 0
    assert [one["Message"] for _, lines in received for one in lines] == ["first", "last"]
    assert capsys.readouterr().err.count("cannot be sent to Azure Monitor") == 1


def test_of_too_many_lines_that_cannot_be_sent_the_newest_are_kept(monkeypatch, capsys):
    monkeypatch.setattr(relay, "_MOST_LINES", 3)
    monkeypatch.setattr(relay, "_EVERY_SECONDS", 60.0)
    batches: list[list[str]] = []

    def upload(lines: list[relay.Line]) -> None:
        batches.append([line["Message"] for line in lines])
        sender.add("later")
        raise OSError("away")

    sender = relay.Relay("toy-score-1", lambda: upload)
    for message in ("first", "second", "third"):
        sender.add(message)
    sender.finish()
    assert batches == [["first", "second", "third"]]
    assert [line["Message"] for line in sender._lines] == ["second", "third", "later"]


def test_lines_that_were_sent_are_not_sent_again_if_later_ones_fail(monkeypatch, capsys):
    monkeypatch.setattr(relay, "_AT_ONCE", 2)
    monkeypatch.setattr(relay, "_EVERY_SECONDS", 0.1)
    batches: list[list[str]] = []
    has_failed = threading.Event()

    def upload(lines: list[relay.Line]) -> None:
        batches.append([line["Message"] for line in lines])
        if len(batches) == 2:
            has_failed.set()
            raise OSError("away")

    is_filled = threading.Event()
    sender = relay.Relay("toy-score-1", lambda: is_filled.wait() and upload)
    for message in ("first", "second", "third"):
        sender.add(message)
    is_filled.set()
    assert has_failed.wait(10)
    sender.finish()
    assert batches == [["first", "second"], ["third"], ["third"]]


def test_a_command_does_not_wait_for_an_endpoint_that_is_away(output, monkeypatch, capsys):
    def never() -> Any:
        threading.Event().wait()

    monkeypatch.setattr(relay, "_LAST_SECONDS", 0.2)
    assert relay.run([sys.executable, "-c", "print(1)"], relay.Relay("toy-score-1", never), output) == 0
    assert output.getvalue() == b"1\n"
    assert capsys.readouterr().err == "The output cannot be sent to Azure Monitor: no answer\n"


def test_a_command_whose_output_nobody_takes_ends_as_it_would(requests, output):
    class Closed(io.BytesIO):
        def write(self, _: Any) -> int:
            raise BrokenPipeError

    url, received, _ = requests
    code = "for n in range(20_000): print('a line', n)"
    assert run(code, url, Closed()) == 0
    assert received[-1][1][-1]["Message"] == "a line 19999"


def test_without_an_endpoint_the_command_takes_the_place_of_the_process():
    code = "import os, subprocess; print(os.getpid())"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.relay", sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.communicate()[0].strip() == str(process.pid)


def test_a_signal_to_the_container_reaches_the_command():
    code = "import signal, time; signal.signal(15, lambda *_: exit(7)); print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.relay", sys.executable, "-c", code],
        cwd=ROOT,
        env={"ALMANAC_LOG_ENDPOINT": "https://127.0.0.1:9", "ALMANAC_LOG_RULE": "dcr-1", "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 7
