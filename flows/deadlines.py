"""Deadlines of the process that drives a run.

Prefect ends a flow at its timeout by a signal, which Python handles only between its own instructions. Native code that
waits forever is never interrupted, while heartbeats go on.
"""

import faulthandler
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ends: list[float] = []


@contextmanager
def process_deadline(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`, with the stacks of its threads on standard error.

    Blocks may be nested, or run in several threads: the earliest deadline counts.
    """
    end = time.monotonic() + seconds
    _ends.append(end)
    _watch()
    try:
        yield
    finally:
        _ends.remove(end)
        _watch()


def _watch() -> None:
    seconds = min(_ends, default=math.inf) - time.monotonic()
    if seconds < math.inf:
        faulthandler.dump_traceback_later(max(seconds, 0.001), exit=True, file=2)
    else:
        faulthandler.cancel_dump_traceback_later()
