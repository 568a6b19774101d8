"""A watchdog that ends a task which hangs.

Whatever the cause, for example a library that waits forever in native code, the worker process is ended and the
scheduler retries the task elsewhere; the log shows where it was.
"""

import contextvars
import faulthandler
import gc
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from distributed import get_worker
from prefect import Task, task
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker

from tasks.scoring.runs import Run
from tasks.scoring.shards import ShardResult

T = TypeVar("T")

LIMIT_SECONDS = 1800.0
"""A task counts as stuck after this time if no earlier duration is known. At scale, the longest tasks take minutes."""
_FLOOR_SECONDS = 300.0
_TIMES_THE_LONGEST = 10


def limit_seconds(run: Run, override: float | None = None) -> float:
    """The time after which a shard of `run` counts as stuck: `override`, or ten times the flow's longest so far.

    It is at least five minutes, and half an hour if the flow has never scored a shard.
    """
    if override:
        return override
    longest = (run.store.get_json(run.layout.pace) or {}).get(run.flow)
    return LIMIT_SECONDS if longest is None else max(_FLOOR_SECONDS, _TIMES_THE_LONGEST * longest)


def step_limit_seconds(run: Run, step: str) -> float:
    """The time after which a step of the driver counts as stuck: ten times its longest duration in earlier runs.

    It is at least half an hour, and infinite if nothing is known: then the limit of the flow holds.
    """
    longest = (run.store.get_json(run.layout.pace) or {}).get(f"{run.flow} {step}", math.inf)
    return max(LIMIT_SECONDS, _TIMES_THE_LONGEST * longest)


def remember_pace(run: Run, results: Sequence[ShardResult]) -> None:
    """Store the duration of the run's longest shard for `limit_seconds`."""
    _remember(run, run.flow, max((one.seconds for one in results if not one.reused), default=0.0))


def remember_step(run: Run, step: str, seconds: float) -> None:
    """Store the duration of a step of the driver for `step_limit_seconds`."""
    _remember(run, f"{run.flow} {step}", max(seconds, 1.0))


def _remember(run: Run, what: str, seconds: float) -> None:
    """Store a duration in seconds if it exceeds the stored one or is less than half of it."""
    paces = run.store.get_json(run.layout.pace) or {}
    before = paces.get(what, 0.0)
    if seconds and not before / 2 < seconds <= before:
        run.store.put_json(run.layout.pace, paces | {what: seconds})


@contextmanager
def ended_when_stuck(run: Run, work: str, limit: float = LIMIT_SECONDS) -> Iterator[None]:
    """Kill this worker process if the block takes longer than `limit` seconds.

    The stack is logged and kept in the run's folder; see `stuck`. Outside a Dask worker nothing is watched.
    """
    if not _in_worker():
        yield
        return
    end = threading.Event()
    here = contextvars.copy_context()
    arguments = (_watch, run, work, limit, threading.get_ident(), end)
    threading.Thread(target=here.run, args=arguments, name="watchdog", daemon=True).start()
    # While native code holds the interpreter's lock, the watchdog does not run; `faulthandler` needs no lock.
    faulthandler.dump_traceback_later(1.1 * limit + 5, exit=True, file=2)
    try:
        yield
    finally:
        end.set()
        faulthandler.cancel_dump_traceback_later()


def shard_task(work: Callable[[Run, int], T], name: str, stem: str, **options: Any) -> Task[..., list[T]]:
    """A Prefect task that calls `work(run, shard)` for one of its `shards` after the other, and returns the results.

    If a shard takes longer than `limit` seconds, its process is ended. By default, a failed task is tried once more. Its
    runs are named after `stem` and their shards: `score-shard-3`, or `score-shards-3-to-9` for several.
    """

    def each(run: Run, shards: Sequence[int], limit: float = LIMIT_SECONDS) -> list[T]:
        results = []
        for shard in shards:
            with ended_when_stuck(run, f"Shard {shard}", limit):
                results.append(work(run, shard))
        return results

    def name_of(parameters: dict[str, Any]) -> str:
        first, *more = parameters["shards"]
        return f"{stem}-shards-{first}-to-{more[-1]}" if more else f"{stem}-shard-{first}"

    usual: dict[str, Any] = {"task_run_name": name_of, "retries": 1, "retry_delay_seconds": 1}
    return task(name=name, **usual | options)(each)


def stuck(run: Run) -> list[str]:
    """A note for each task of the run that its watchdog ended."""
    reports = [run.store.get(path) for path in run.store.names(run.path("stuck"))]
    return [content.decode().split("\n")[0] for content in reports if content]


def _in_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _watch(run: Run, work: str, limit: float, thread: int, end: threading.Event) -> None:
    if end.wait(limit):
        return
    gc.disable()  # otherwise `sys._current_frames` may wait for itself, see `flows.cluster.DASK_SETTINGS`
    where = traceback.extract_stack(sys._current_frames()[thread])
    last = where[-1]
    message = (
        f"{work} had not finished after {limit:,.0f} s: its worker process was ended, and it was retried. "
        f"It was in {last.name}, {last.filename}, line {last.lineno}."
    )
    text = f"{message}\n{''.join(traceback.format_list(where))}"
    print(text, file=sys.__stderr__, flush=True)
    threading.Timer(10, os.kill, (os.getpid(), signal.SIGKILL)).start()
    with suppress(Exception):
        run.store.put(run.path(f"stuck/{work.replace(' ', '-')}-{os.getpid()}.txt"), text.encode())
        get_run_logger().error(text)
        APILogWorker.drain_all(timeout=5)
    os.kill(os.getpid(), signal.SIGKILL)
