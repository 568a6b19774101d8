"""The cost of a run as its store ages, without housekeeping: requests, seconds and bytes.

    python -m benchmarks.ageing                                        # 9,000 hours of devices, 500 weeks of sales
    python -m benchmarks.ageing --scenario devices --ages 1 100        # smaller, in two minutes
    python -m benchmarks.ageing --folder FOLDER                        # keep the trained stores there, and use them again

A small store is ingested, trained and scored once. Then it gets the commits of that many hours or weeks:
a row in each input table with times, a partition in each published one, a row of the ledger. At each age the next hour or
week is scored on the command line, on a copy on disk, and on one in Azurite behind a proxy that delays each request by
30 ms and counts them. `bytes` is the size of the store on disk, or the bytes that the run received from Blob.
"""

import asyncio
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import httpx
import polars as pl
import uvicorn
from deltalake import DeltaTable
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import azurite
from benchmarks.command_line import run_benchmark
from benchmarks.measure import Measured, run, table
from flows.server import free_port, prefect_server
from models.scenario import Scenario
from tasks.housekeeping.retention import tables
from tasks.registry import ledger
from tasks.storage import commits
from tasks.storage.store import Store
from tasks.storage.tables import FILES_OF_A_PARTITION

AGES = {"devices": (1, 100, 1000, 9000), "sales": (1, 100, 500)}
SCORING = {"devices": ("score", "--catch-up", "1"), "sales": ("forecast",)}
CADENCE = {"devices": timedelta(hours=1), "sales": timedelta(days=7)}
DELAY_SECONDS = 0.03
_START_SECONDS = 60
_CHECKPOINT = 100
"""delta-rs writes a checkpoint after this many commits."""


def main(
    *,
    scenario: tuple[Literal["devices", "sales"], ...] = ("devices", "sales"),
    ages: tuple[int, ...] | None = None,
    on: tuple[Literal["disk", "blob"], ...] = ("disk", "blob"),
    folder: Path | None = None,
) -> None:
    """Print a line for each scenario, age and kind of store."""
    os.environ["ALMANAC_WORKERS"] = "1"
    with tempfile.TemporaryDirectory(prefix="almanac-ageing-") as copies, prefect_server(leave_up=False):
        rows = []
        for name in scenario:
            template = (folder or Path(copies)) / f"{name}-trained"
            if not template.exists():
                _begin(name, template)
            copy = Path(copies, name)
            shutil.copytree(template, copy)
            ageing = _Ageing(name, Store(str(copy)))
            for age in sorted(ages or AGES[name]):
                ageing.go_on(age)
                for kind in on:
                    figures = _on_disk(name, copy) if kind == "disk" else _in_blob(name, copy, age)
                    rows.append({"scenario": name, "commits": age, "on": kind, **figures})
                    print(json.dumps(rows[-1]), flush=True)
        print(table(rows))


def _module(name: str) -> Any:
    from flows.modules import with_commands

    return next(one for one in with_commands() if one.__name__ == f"flows.{name}")


def _begin(name: str, folder: Path) -> None:
    """Create a store of a scenario's simulated data, trained, and scored for the time before the newest."""
    store, module = Store(str(folder)), _module(name)
    options = module.simulated(store, 7)
    sources = [
        word for one in ("source", "plan", "stores") if one in options for word in (f"--{one}", options[one])
    ]
    where = ("--store", store.uri)
    run(name, "ingest", *sources, "--shards", "2", *where)
    before = (_newest(module.SCENARIO, store) - CADENCE[name]).isoformat()
    run(name, "train", "--as-of", before, *where)
    run(name, SCORING[name][0], "--as-of", before, *where)


def _newest(scenario: Scenario, store: Store) -> Any:
    paths = {name: f"{scenario.name}/{name}" for name in scenario.tables}
    frames = {name: store.scan(path) for name, path in paths.items() if store.version(path) is not None}
    return scenario.resolve_as_of(frames, None, datetime.now(UTC))


class _Ageing:
    """Adds commits of earlier hours or weeks to a store, going back in time from the one that was scored.

    Commits are written as delta-rs writes them, and checkpoints by delta-rs itself; only the logs are longer than in
    practice, since delta-rs removes files of the log after 30 days.
    """

    def __init__(self, name: str, store: Store) -> None:
        scenario: Scenario = _module(name).SCENARIO
        self.name, self.store, self.age = name, store, 0
        self.entry = ledger.rows(store).collect().tail(1)  # type: ignore[union-attr]
        self.as_of = type(_newest(scenario, store)).fromisoformat(self.entry["as_of"].item())
        names = [one for one in tables.fn(store) if one.startswith(f"{name}/")]
        lines = {
            one: store.scan(one).head(1).collect()
            for one in names
            if one.partition("/")[2] in scenario.tables
        }
        self.inputs = {
            one: line for one, line in lines.items() if any(kind.is_temporal() for kind in line.dtypes)
        }
        with_as_of = [one for one in names if "as_of" in store.table(one).metadata().partition_columns]
        self.published = {one: adds[-1] for one in with_as_of if (adds := _adds(store, one))}
        self.versions = {one: store.version(one) or 0 for one in [*self.inputs, *self.published, ledger.PATH]}
        self.scored = {one: self.versions[one] for one in self.inputs}
        self.first = {one: self._first_time(one) for one in self.inputs}

    def _first_time(self, path: str) -> dict[str, Any]:
        times = [column for column, kind in self.inputs[path].schema.items() if kind.is_temporal()]
        return self.store.scan(path).select(pl.col(times).min()).collect().to_dicts()[0]

    def go_on(self, age: int) -> None:
        """Add commits until the store has `age` of them."""
        for number in range(self.age + 1, age + 1):
            back = number * CADENCE[self.name]
            for one, line in self.inputs.items():
                self._bring(one, line, back, number)
            for one, add in self.published.items():
                self._publish(one, add, back, number)
            self._enter(back, number)
            if number % FILES_OF_A_PARTITION == 0:
                self._compact()
        self.age = max(age, self.age)
        for one in self.versions:
            DeltaTable(self.store.uri_of(one)).create_checkpoint()
        for one, version in self.scored.items():
            commits.spans(self.store, one, version)  # a run has read the commits up to the one before it

    def _compact(self) -> None:
        """Compact tables as an ingest and a run do after writing."""
        for path in (*self.inputs, ledger.PATH):
            self.store.compact_at_times(path)
            self.versions[path] = self.store.version(path) or 0

    def _bring(self, path: str, line: pl.DataFrame, back: timedelta, number: int) -> None:
        times = self.first[path]
        rows = line.with_columns(
            pl.lit(time - back, dtype=line.schema[column]).alias(column) for column, time in times.items()
        )
        partitions = {"shard": str(line["shard"][0])} if "shard" in line.columns else {}
        time = (next(iter(times.values())) - back).isoformat()
        facts = {"changed": "1", "from": time, "to": time}
        bounds = {column: (time - back).isoformat() for column, time in times.items()}
        self._commit(path, [self._added(path, rows.drop(partitions), partitions, number, bounds)], facts)

    def _publish(self, path: str, add: dict[str, Any], back: timedelta, number: int) -> None:
        before = self.as_of - back
        text = before.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(before, datetime) else before.isoformat()
        copy = f"as_of={quote(text)}/aged-{number}.parquet"
        there = Path(self.store.uri_of(f"{path}/{copy}"))
        there.parent.mkdir()
        os.link(self.store.uri_of(f"{path}/{unquote(add['path'])}"), there)
        action = {"add": {**add, "path": quote(copy), "partitionValues": {"as_of": text}}}
        self._commit(path, [action], {"run_id": f"aged-{number}"})

    def _enter(self, back: timedelta, number: int) -> None:
        """Add a row to the ledger."""
        row = self.entry.with_columns(
            pl.lit(f"aged-{number}").alias("run_id"),
            pl.lit((self.as_of - back).isoformat()).alias("as_of"),
            pl.col("started", "ended") - back,
        )
        self._commit(ledger.PATH, [self._added(ledger.PATH, row, {}, number, {})], {})

    def _added(
        self, path: str, frame: pl.DataFrame, partitions: dict[str, str], number: int, bounds: dict[str, str]
    ) -> dict[str, Any]:
        """Write a file with these rows, and return the action that adds it."""
        name = "".join(f"{column}={value}/" for column, value in partitions.items()) + f"aged{number}.parquet"
        file = Path(self.store.uri_of(f"{path}/{name}"))
        frame.write_parquet(file)
        stats = {
            "numRecords": frame.height,
            "minValues": bounds,
            "maxValues": bounds,
            "nullCount": dict.fromkeys(bounds, 0),
        }
        size = file.stat().st_size
        return {
            "add": {
                "path": name, "partitionValues": partitions, "size": size, "modificationTime": _now(),
                "dataChange": True, "stats": json.dumps(stats),
            }
        }  # fmt: skip

    def _commit(self, path: str, actions: Sequence[dict[str, Any]], facts: dict[str, str]) -> None:
        self.versions[path] += 1
        version = self.versions[path]
        about = {"commitInfo": {"timestamp": _now(), "operation": "WRITE", **facts}}
        lines = "\n".join(json.dumps(one) for one in [*actions, about])
        Path(self.store.uri_of(f"{path}/_delta_log/{version:020}.json")).write_text(lines)
        if version % _CHECKPOINT == 0:
            DeltaTable(self.store.uri_of(path)).create_checkpoint()


def _now() -> int:
    return int(time.time() * 1000)


def _adds(store: Store, path: str) -> list[dict[str, Any]]:
    """The actions of a table's log that added files."""
    log = Path(store.uri_of(f"{path}/_delta_log"))
    every = [
        json.loads(line) for file in sorted(log.glob("*.json")) for line in file.read_text().splitlines()
    ]
    return [one["add"] for one in every if "add" in one]


def _on_disk(name: str, folder: Path) -> dict[str, Any]:
    copy = folder.with_name(f"{folder.name}-run")
    shutil.copytree(folder, copy)
    size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    command = run(name, *SCORING[name], "--store", str(copy))
    shutil.rmtree(copy)
    return {"requests": None, **_seconds(command), "bytes": size}


def _in_blob(name: str, folder: Path, age: int) -> dict[str, Any]:
    """Figures of the run on a copy of the store in Azurite; requests and bytes are those of the run."""
    os.environ["AZURE_STORAGE_USE_EMULATOR"] = "true"
    with (
        tempfile.TemporaryDirectory() as log,
        azurite.serving(azurite.executable() or "azurite-blob", Path(log)) as url,
        _proxy(int(url.rpartition(":")[2])) as (proxy, requests, traffic),
    ):
        os.environ["AZURITE_BLOB_STORAGE_URL"] = url
        azurite.create_container(url, "aged")
        store = Store(f"az://aged/{age}")
        paths = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: store.put(str(path.relative_to(folder)), path.read_bytes()), paths))
        os.environ["AZURITE_BLOB_STORAGE_URL"] = f"http://127.0.0.1:{proxy}"
        command = run(name, *SCORING[name], "--store", store.uri)
        return {"requests": requests.value, **_seconds(command), "bytes": traffic.value}


def _seconds(command: Measured) -> dict[str, Any]:
    stages = " ".join(f"{name} {seconds}" for name, seconds in command.result["stages"].items())
    return {"seconds": command.seconds, "cpu": command.cpu, "of them": stages}


@contextmanager
def _proxy(to: int) -> Iterator[tuple[int, Any, Any]]:
    """A proxy in its own process: its port, and the numbers of requests and bytes that it passed on."""
    context = multiprocessing.get_context("spawn")
    requests, traffic, port = context.Value("q", 0), context.Value("q", 0), free_port()
    process = context.Process(target=_pass_on, args=(port, to, requests, traffic), daemon=True)
    process.start()
    try:
        if not azurite.answers_in_time(port, _START_SECONDS):
            raise RuntimeError(f"the proxy does not answer on port {port}")
        yield port, requests, traffic
    finally:
        process.terminate()
        process.join(20)


def _pass_on(port: int, to: int, requests: Any, traffic: Any) -> None:
    """Pass on HTTP requests, each after `DELAY_SECONDS`, with their paths and headers as they came."""
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{to}", timeout=None)

    async def pass_on(request: Request) -> Response:
        await asyncio.sleep(DELAY_SECONDS)
        target = httpx.URL(raw_path=request.scope["raw_path"] + b"?" + request.scope["query_string"])
        body, headers = await request.body(), request.headers.raw
        async with client.stream(request.method, target, content=body, headers=headers) as answer:
            content = b"".join([part async for part in answer.aiter_raw()])
        requests.value += 1
        traffic.value += len(content)
        result = Response(content, answer.status_code)
        result.raw_headers = [one for one in answer.headers.raw if one[0].lower() != b"transfer-encoding"]
        return result

    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    application = Starlette(routes=[Route("/{path:path}", pass_on, methods=methods)])
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="critical", access_log=False)


if __name__ == "__main__":
    run_benchmark(main, __doc__)
