"""Reads many shards of a small store in worker processes, and counts those that never end.

    python -m benchmarks.stalls --shards 2000
    python -m benchmarks.stalls --shards 2000 --profiled    # with Dask's profiler on, as it is by default

Workers are those of a run (`flows.cluster`), forked from this process as from a command. A shard also leaves work for
the garbage collector, as Prefect's tasks do. If no shard ends for `--silent` seconds, those on a worker count as stuck,
and the rest are not read.
"""

import json
import tempfile
import threading
import time
from datetime import date, timedelta
from typing import Any

import dask
import polars as pl
from distributed import Client

import flows.sales  # noqa: F401
from benchmarks.command_line import run_benchmark
from flows import cluster
from flows.workers import fork_from_here
from models.scenario import with_shard
from tasks.storage.store import Store

_SHARDS = 24


class _Garbage:
    """An object that refers to itself, with a value per thread."""

    def __init__(self) -> None:
        self.local, self.itself = threading.local(), self
        self.local.value = 1


def read(folder: str, number: int) -> int:
    """Read a shard as a forecast does, and return its number of rows."""
    rows = Store(folder).scan("sales/history", None, number % _SHARDS)
    skus = rows.select("sku").unique()
    for many in range(0, 200, 10):  # up to nearly one collection's worth
        for _ in range(many):
            _Garbage()
        rows.join(skus, on="sku", how="semi").collect()
    return rows.collect().height


def _make(folder: str) -> None:
    from deltalake import write_deltalake

    weeks = pl.DataFrame({"week": [date(2023, 1, 2) + timedelta(weeks=week) for week in range(120)]})
    keys = pl.DataFrame(
        [(f"sku{sku:02d}", f"store{store:02d}") for sku in range(20) for store in range(12)],
        schema=["sku", "store"],
        orient="row",
    )
    table = with_shard(keys.join(weeks, how="cross").with_columns(units=1.0), ["sku", "store"], _SHARDS)
    write_deltalake(f"{folder}/sales/history", table, partition_by=["shard"])


def _read_all(folder: str, shards: int, silent: float) -> dict[str, Any]:
    start = heard = time.monotonic()
    count = 0
    with cluster.local_or_named() as workers, Client(workers) as client:
        futures = client.map(read, [folder] * shards, range(shards), pure=False)
        while count < shards and time.monotonic() - heard < silent:
            time.sleep(0.2)
            now = sum(future.done() for future in futures)
            heard, count = time.monotonic() if now > count else heard, now
        stuck = sum(len(keys) for keys in client.processing().values())
    return {"shards": count, "stuck": stuck, "seconds": round(time.monotonic() - start, 1)}


def main(*, shards: int = 2000, silent: float = 60, profiled: bool = False) -> None:
    """Print how many shards ended, how many are stuck, and the seconds.

    Args:
        shards: Shards to read.
        silent: Seconds without a shard that ends, after which shards count as stuck.
        profiled: Leave Dask's profiler on.
    """
    if profiled:
        cluster.DASK_SETTINGS["distributed.worker.profile.enabled"] = True
    fork_from_here("flows.sales")
    with tempfile.TemporaryDirectory() as folder, dask.config.set(cluster.DASK_SETTINGS):
        _make(folder)
        print(json.dumps(_read_all(folder, shards, silent)))


if __name__ == "__main__":
    run_benchmark(main, __doc__)
