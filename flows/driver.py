"""Steps of the process that drives a run, each with a deadline from its own history."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flows.deadlines import process_deadline
from flows.settings import settings
from tasks.scoring.runs import Run
from tasks.scoring.watchdog import remember_step, step_limit_seconds


@contextmanager
def driver_step(run: Run, name: str) -> Iterator[None]:
    """A step of the driver; its deadline follows from how long it took in earlier runs, or is a longer one that is set."""
    start = time.monotonic()
    with process_deadline(max(step_limit_seconds(run, name), settings().stuck_seconds or 0.0)):
        yield
    remember_step(run, name, time.monotonic() - start)
