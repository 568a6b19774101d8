"""What a run costs as its store ages, with housekeeping off: requests, seconds and bytes.

    python -m benchmarks.ageing                      # 9,000 hours of devices and 500 weeks of sales, on disk and in Blob
    python -m benchmarks.ageing --scenario devices --ages 1 100 1000 --on disk

A small store is ingested, trained and scored once. For each age it is copied, and given as many commits as that many hours
or weeks leave behind: rows in every input table, a partition in every published one, a row of the ledger. Then the next
hour or week is scored by the command line. Blob is Azurite behind a proxy that keeps each request 30 ms and counts them.
Zero commits are the store before it aged. Bytes on disk are those of the store, in Blob those that the run was sent.
"""

import argparse
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from deltalake import CommitProperties, write_deltalake

from benchmarks.measure import Measured, run, table
from flows.modules import with_commands
from models.scenario import AsOf, Scenario
from tasks.housekeeping.retention import tables
from tasks.registry import ledger
from tasks.storage.store import Store

AGES = {"devices": (0, 1, 100, 1000, 9000), "sales": (0, 1, 100, 500)}
SCORING = {"devices": ("score", "--catch-up", "1"), "sales": ("forecast",)}
DELAY_SECONDS = 0.03
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of every Azurite, which its documentation names."""


def main() -> None:
    """Print a table for each scenario and each kind of store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", choices=sorted(AGES), nargs="+", default=sorted(AGES))
    parser.add_argument("--ages", type=int, nargs="+")
    parser.add_argument("--on", choices=["disk", "blob"], nargs="+", default=["disk", "blob"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="almanac-ageing-") as folder:
        for name in given.scenario:
            base = _begun(name, Path(folder) / name)
            for age in given.ages or AGES[name]:
                aged = Path(folder) / f"{name}-{age}"
                shutil.copytree(base, aged)
                _age(name, Store(str(aged)), age)
                for kind in given.on:
                    measured = _on_disk(name, aged) if kind == "disk" else _in_blob(name, aged)
                    print(table([{"scenario": name, "commits": age, "on": kind, **measured}]), flush=True)
                shutil.rmtree(aged)


def _module(name: str) -> Any:
    return next(one for one in with_commands() if one.__name__ == f"flows.{name}")


def _begun(name: str, folder: Path) -> Path:
    """A store of a scenario's simulated data, trained, and scored for the time before the newest."""
    store, module = Store(str(folder)), _module(name)
    given = module.simulated(store, 7)
    sources = [option for option in ("source", "plan", "stores") if option in given]
    words = [word for option in sources for word in (f"--{option}", given[option])]
    where = ("--store", store.uri)
    run(name, "ingest", *words, "--shards", "2", *where)
    run(name, "train", *where)
    newest = _newest(module.SCENARIO, store)
    before = newest - module.SCENARIO.cadence
    verb, *options = SCORING[name]
    run(name, verb, *(options if name == "sales" else []), "--as-of", before.isoformat(), *where)
    return folder


def _newest(scenario: Scenario, store: Store) -> AsOf:
    paths = {name: f"{scenario.name}/{name}" for name in scenario.tables}
    frames = {name: store.scan(path) for name, path in paths.items() if store.version(path) is not None}
    return scenario.resolve_as_of(frames, None, datetime.now(UTC))


def _age(name: str, store: Store, commits: int) -> None:
    """Give a store so many hours or weeks, oldest first, that end before the one that was scored."""
    scenario: Scenario = _module(name).SCENARIO
    rows = ledger.rows(store)
    assert rows is not None
    row = rows.filter(scenario=name).collect().row(-1, named=True)
    cadence = scenario.cadence or timedelta(hours=1)
    scored = _parsed(row["as_of"], scenario, store)
    inputs = [one for one in tables.fn(store) if one in {f"{name}/{known}" for known in scenario.tables}]
    published = [
        one for one in tables.fn(store) if one.startswith(f"{name}/") and _has_as_of(store, one, scored)
    ]
    copied = {one: store.scan(one).filter(pl.col("as_of") == scored).collect() for one in published}
    lines = {one: store.scan(one).head(1).collect() for one in inputs}
    for number in range(commits, 0, -1):
        as_of = scored - number * cadence
        versions = {
            one.partition("/")[2]: _commit(store, one, lines[one], as_of, cadence, number) for one in inputs
        }
        for one, frame in copied.items():
            frame = frame.with_columns(pl.lit(as_of, dtype=frame.schema["as_of"]).alias("as_of"))
            write_deltalake(store.table(one), frame, mode="append")
        counts = {count: int(row[count]) for count in ledger.COUNTS}
        ledger.record(
            store, run_id=f"aged-{number}", scenario=name, flow=row["flow"], as_of=as_of, bundle=1, versions=versions,
            counts=counts, reasons={}, started=row["started"],
        )  # fmt: skip


def _parsed(text: str, scenario: Scenario, store: Store) -> AsOf:
    return type(_newest(scenario, store)).fromisoformat(text)


def _has_as_of(store: Store, name: str, as_of: AsOf) -> bool:
    return "as_of" in store.table(name).metadata().partition_columns and bool(
        store.scan(name).filter(pl.col("as_of") == as_of).select(pl.len()).collect().item()
    )


def _commit(store: Store, name: str, line: pl.DataFrame, as_of: AsOf, cadence: timedelta, number: int) -> int:
    """Append a row of long ago to an input; the version, whose commit says that it brought what `as_of` ends."""
    moved = [
        (pl.col(column) - timedelta(days=7 * (2000 + number))).alias(column)
        for column, kind in line.schema.items()
        if kind.is_temporal()
    ]
    told = {"changed": "1", "from": (as_of - cadence).isoformat(), "to": as_of.isoformat()}
    target = store.table(name)
    write_deltalake(
        target,
        line.with_columns(moved),
        mode="append",
        commit_properties=CommitProperties(custom_metadata=told),
    )
    return int(store.table(name).version())


def _on_disk(name: str, folder: Path) -> dict[str, Any]:
    copy = folder.with_name(f"{folder.name}-run")
    shutil.copytree(folder, copy)
    size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    measured = run(name, *SCORING[name], "--store", str(copy))
    shutil.rmtree(copy)
    return {"requests": None, **_seconds(measured), "bytes": size}


def _in_blob(name: str, folder: Path) -> dict[str, Any]:
    """The run on a copy of the store in Azurite; requests and bytes are those of the run."""
    with _azurite() as port, _proxy(port) as proxy:
        _upload(folder, port)
        os.environ["AZURE_STORAGE_USE_EMULATOR"] = "true"
        os.environ["AZURITE_BLOB_STORAGE_URL"] = f"http://127.0.0.1:{proxy.server_port}"
        _Counting.requests = _Counting.sent = 0
        measured = run(name, *SCORING[name], "--store", "az://aged/store")
        return {"requests": _Counting.requests, **_seconds(measured), "bytes": _Counting.sent}


def _seconds(measured: Measured) -> dict[str, Any]:
    stages = " ".join(f"{name} {seconds}" for name, seconds in measured.result["stages"].items())
    return {"seconds": measured.seconds, "of them": stages, "cpu": measured.cpu}


def _upload(folder: Path, port: int) -> None:
    from azure.storage.blob import ContainerClient

    url = f"http://127.0.0.1:{port}/devstoreaccount1"
    client = ContainerClient(url, "aged", credential=_KEY)
    client.create_container()
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_blob(f"store/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def _azurite() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    local = Path("node_modules/.bin/azurite-blob")
    words = [str(local.resolve()) if local.exists() else "azurite-blob", "--silent", "--skipApiVersionCheck"]
    words += ["--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                http.client.HTTPConnection("127.0.0.1", port, timeout=2).connect()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait(20)


class _Counting(BaseHTTPRequestHandler):
    """Passes a request on after `DELAY_SECONDS`, and counts it and the bytes of its answer."""

    protocol_version = "HTTP/1.1"
    to: ClassVar[int] = 0
    requests: ClassVar[int] = 0
    sent: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(DELAY_SECONDS)
        there = http.client.HTTPConnection("127.0.0.1", _Counting.to, timeout=60)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        content = answer.read()
        there.close()
        with _Counting.lock:
            _Counting.requests += 1
            _Counting.sent += len(content)
        self.send_response(answer.status)
        left_out = {"transfer-encoding", "connection", "keep-alive", "date", "server"}
        for header, value in answer.getheaders():
            if header.lower() not in left_out and not (
                header.lower() == "content-length" and self.command != "HEAD"
            ):
                self.send_header(header, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Nothing: what it counts is enough."""


@contextmanager
def _proxy(to: int) -> Iterator[ThreadingHTTPServer]:
    _Counting.to = to
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Counting)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
