"""What does not end is ended: a watchdog over the work of one task.

Whatever the cause, such as a library that waits for ever in native code, its worker process is ended and the
task tried again elsewhere, by the scheduler; the log says where it stood.
"""

import contextvars
import faulthandler
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from distributed import get_worker
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker

from tasks.scoring.runs import Run
from tasks.scoring.shards import Outcome
from tasks.storage.layout import Layout

LIMIT_SECONDS = 1800.0
"""After so long a task counts as stuck where nothing is known of earlier ones. At scale the longest take minutes."""
_FLOOR_SECONDS = 300.0
_TIMES_THE_LONGEST = 10


def limit_seconds(run: Run, wanted: float | None = None) -> float:
    """After how long a shard of `run` counts as stuck: as `wanted`, or ten times the flow's longest one so far.

    At least five minutes; half an hour where no shard of the flow was scored before.
    """
    if wanted:
        return wanted
    longest = (run.store.get_json(Layout(run.scenario).pace) or {}).get(run.flow)
    return LIMIT_SECONDS if longest is None else max(_FLOOR_SECONDS, _TIMES_THE_LONGEST * longest)


def remember_pace(run: Run, outcomes: Sequence[Outcome]) -> None:
    """Keep how long the longest shard of the run took, for `limit_seconds`, where it differs by more than half."""
    longest = max((one.seconds for one in outcomes if not one.reused), default=0.0)
    known = run.store.get_json(Layout(run.scenario).pace) or {}
    before = known.get(run.flow, 0.0)
    if longest and not before / 2 < longest <= before:
        run.store.put_json(Layout(run.scenario).pace, known | {run.flow: longest})


@contextmanager
def ended_when_stuck(run: Run, work: str, limit: float = LIMIT_SECONDS) -> Iterator[None]:
    """End this worker process, by a signal that cannot be ignored, where the block takes longer than `limit` seconds.

    Where it stood is logged and kept in the run's folder, see `stuck`. Outside a Dask worker nothing is watched.
    """
    if not _in_worker():
        yield
        return
    stopped = threading.Event()
    here = contextvars.copy_context()
    arguments = (_watch, run, work, limit, threading.get_ident(), stopped)
    threading.Thread(target=here.run, args=arguments, name="watchdog", daemon=True).start()
    # Where native code keeps the interpreter's lock, that thread does not run: this one needs no lock.
    faulthandler.dump_traceback_later(1.1 * limit + 5, exit=True, file=2)
    try:
        yield
    finally:
        stopped.set()
        faulthandler.cancel_dump_traceback_later()


def stuck(run: Run) -> list[str]:
    """A note for each task of the run that was ended by its watchdog."""
    found = [run.store.get(path) for path in run.store.names(run.path("stuck"))]
    return [content.decode().split("\n")[0] for content in found if content]


def _in_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _watch(run: Run, work: str, limit: float, thread: int, stopped: threading.Event) -> None:
    if stopped.wait(limit):
        return
    gc.disable()  # else `sys._current_frames` may wait for itself, see `flows.cluster.DASK_SETTINGS`
    where = traceback.extract_stack(sys._current_frames()[thread])
    last = where[-1]
    told = (
        f"{work} had not ended after {limit:,.0f} s: its worker process was ended, and it was tried again. "
        f"It stood in {last.name}, {last.filename}, line {last.lineno}."
    )
    text = f"{told}\n{''.join(traceback.format_list(where))}"
    print(text, file=sys.__stderr__, flush=True)
    threading.Timer(10, os.kill, (os.getpid(), signal.SIGKILL)).start()
    with suppress(Exception):
        run.store.put(run.path(f"stuck/{work.replace(' ', '-')}-{os.getpid()}.txt"), text.encode())
        get_run_logger().error(text)
        APILogWorker.drain_all(timeout=5)
    os.kill(os.getpid(), signal.SIGKILL)
