"""Reads shards of a small store in fresh worker processes, many in a row, and counts those that never end.

    python -m benchmarks.shard_reads --shards 2000

Each process has the environment of a worker and reads 24 shards from a thread of its own, as a Dask worker does.
One that is silent for `--silent` seconds and uses no processor counts as hanging; py-spy, where it is there,
prints its stack.
"""

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl
import psutil

from flows.cluster import WORKER_ENVIRONMENT

_SHARDS = 24
_WORKER = """
import sys, threading
def read():
    import polars as pl
    from tasks.storage.store import Store
    store = Store(sys.argv[1])
    for shard in range(int(sys.argv[2])):
        rows = store.scan("sales/history", None, shard)
        skus = store.scan("sales/history", None, shard).select("sku").unique()
        rows.join(skus, on="sku", how="semi").select("sku", "store").unique().collect()
        print(shard, flush=True)
thread = threading.Thread(target=read)
thread.start()
thread.join()
"""


@dataclass
class _Reader:
    process: subprocess.Popen[bytes]
    heard: float = field(default_factory=time.monotonic)
    processor: float = 0.0

    def is_hanging(self, silent: float) -> bool:
        """Whether it was silent for so long, and used no processor meanwhile."""
        if time.monotonic() - self.heard < silent:
            return False
        used = sum(psutil.Process(self.process.pid).cpu_times()[:2])
        idle, self.processor, self.heard = used - self.processor < 0.05 * silent, used, time.monotonic()
        return idle


def main() -> None:
    """Read, count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--silent", type=float, default=60)
    parser.add_argument("--threads", help="POLARS_MAX_THREADS, and of its reader; default: as in a worker")
    given = parser.parse_args()
    environment = {**os.environ, **WORKER_ENVIRONMENT}
    if given.threads:
        environment |= {"POLARS_MAX_THREADS": given.threads, "POLARS_ASYNC_THREAD_COUNT": given.threads}
    with tempfile.TemporaryDirectory() as folder:
        _make(folder)
        found = _read(folder, environment, given.shards, given.at_once, given.silent)
    print(json.dumps(found))


def _make(folder: str) -> None:
    from deltalake import write_deltalake

    from tasks.storage.store import with_shard

    weeks = [date(2023, 1, 2) + timedelta(weeks=week) for week in range(120)]
    keys = [(f"sku{sku:02d}", f"store{store:02d}") for sku in range(20) for store in range(12)]
    rows = [(*key, week, float(number % 11)) for key in keys for number, week in enumerate(weeks)]
    frame = pl.DataFrame(rows, schema=["sku", "store", "week", "units"], orient="row")
    table = with_shard(frame, ["sku", "store"], _SHARDS)
    write_deltalake(f"{folder}/sales/history", table, partition_by=["shard"])


def _read(
    folder: str, environment: dict[str, str], wanted: int, at_once: int, silent: float
) -> dict[str, float]:
    begun, left, read, hanging = time.monotonic(), -(-wanted // _SHARDS), 0, 0
    processes = left
    readers: list[_Reader] = []
    selector = selectors.DefaultSelector()
    while left or readers:
        while left and len(readers) < at_once:
            words = [sys.executable, "-c", _WORKER, folder, str(_SHARDS)]
            reader = _Reader(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE))
            assert reader.process.stdout
            os.set_blocking(reader.process.stdout.fileno(), False)
            selector.register(reader.process.stdout, selectors.EVENT_READ, reader)
            readers.append(reader)
            left -= 1
        for key, _ in selector.select(1.0):
            if lines := key.fileobj.read():  # type: ignore[union-attr]
                read += lines.count(b"\n")
                key.data.heard = time.monotonic()
        for reader in list(readers):
            over = reader.process.poll() is not None
            if not over and reader.is_hanging(silent):
                hanging += 1
                _print_stack(reader.process.pid)
                reader.process.kill()
                over = True
            if over:
                assert reader.process.stdout
                read += (reader.process.stdout.read() or b"").count(b"\n")
                selector.unregister(reader.process.stdout)
                readers.remove(reader)
    seconds = round(time.monotonic() - begun, 1)
    return {"processes": processes, "shards_read": read, "hanging": hanging, "seconds": seconds}


def _print_stack(pid: int) -> None:
    if tool := shutil.which("py-spy", path=os.path.dirname(sys.executable)):
        subprocess.run([tool, "dump", "--native", "--pid", str(pid)], stdout=sys.stderr, check=False)


if __name__ == "__main__":
    main()
