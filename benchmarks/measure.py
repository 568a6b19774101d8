"""Runs a command as a user would, and measures wall seconds and peak memory of all its processes."""

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import psutil

os.environ["ALMANAC_SERVER_IDLE_SECONDS"] = "0"
"""The server of a command ends with it, so that the whole command is measured and the next one finds no server."""

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """The JSON result of a command, its seconds, and memory in bytes.

    Memory is the proportional set size: a page that processes share counts once. `peak` is that of
    all processes of the command together, including the local Prefect server; `peak_worker` that
    of the largest worker, a process that the command has not started itself. `cpu` are the processor
    seconds of all of them, which depend less on other load of the machine.
    """

    result: dict[str, Any]
    seconds: float
    peak: int
    peak_worker: int
    cpu: float


def run(*arguments: str, cluster: int = 0) -> Measured:
    """Run `python -m flows ... --json`; raises `RuntimeError` with its messages if it fails.

    With `cluster`, the command uses a Dask scheduler outside it, with that number of workers, which count as its own.
    """
    command = [sys.executable, "-m", "flows", *arguments, "--json"]
    with counted() as usage, _scheduler(cluster) as options:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        watcher = _Watcher(process.pid)
        watcher.start()
        out, err = process.communicate()
        seconds = time.perf_counter() - start
        watcher.stopped.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {process.returncode}:\n{err[-4000:]}")
    return Measured(json.loads(out), seconds, watcher.peak, watcher.peak_worker, usage.seconds)


@dataclass
class Used:
    """Processor seconds."""

    seconds: float = 0.0


@contextmanager
def counted() -> Iterator[Used]:
    """Count the processor seconds of a command that runs in the block, and of all processes that it starts.

    Processes that outlive the command, such as the one that workers are forked from, are adopted (Linux, `prctl(2)`)
    and waited for: the system reports processor seconds only of processes that have been waited for.
    """
    resource_tracker.ensure_running()  # it lasts as long as this process, and is not waited for
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1)
    before = {process.pid for process in psutil.Process().children()}
    start, usage = _cpu_of_children(), Used()
    yield usage
    for process in psutil.Process().children():
        if process.pid not in before:
            os.waitpid(process.pid, 0)
    usage.seconds = _cpu_of_children() - start


def _cpu_of_children() -> float:
    """Processor seconds of all child processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _scheduler(workers: int) -> Iterator[list[str]]:
    """The options for a Dask scheduler with that number of workers; none for 0."""
    if not workers:
        yield []
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None
    ) as dask:
        yield ["--scheduler", dask.scheduler_address]


class _Watcher(threading.Thread):
    """Measures the memory of a command and of all other processes that this one has started."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.command, self.peak, self.peak_worker = pid, 0, 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(_SAMPLE_SECONDS):
            total = 0
            for process in self._tree():
                try:
                    size = process.memory_full_info().pss
                    total += size
                    if self.command not in (process.pid, process.ppid()):
                        self.peak_worker = max(self.peak_worker, size)
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def _tree(self) -> list[psutil.Process]:
        try:
            return psutil.Process().children(recursive=True)
        except psutil.Error:
            return []


def costs(name: str, command: Measured | None) -> dict[str, float | None]:
    """Columns of a table for the cost of a command; null if it was not run."""
    figures = (None,) * 3 if command is None else (command.seconds, command.cpu, command.peak / 1e6)
    return dict(zip((f"{name} s", f"{name} CPU s", f"{name} MB"), figures, strict=True))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text with right-aligned columns."""
    names = list(rows[0])
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    lines = ["  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))]
    lines += [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
    ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "")
