"""The process from which local workers are forked, with the imports that all of them need.

A forked worker is ready in a fiftieth of a second; a new interpreter spends two processor seconds on imports. A command
that has imported its flow forks that process from itself; a flow that another program runs starts one, which imports
everything anew. Nothing is computed before the fork: threads and runtimes of polars, Delta Lake and LightGBM start in
the worker. Only Linux forks safely after such imports; elsewhere workers are new interpreters.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker, util
from typing import NoReturn

FORKED = sys.platform == "linux"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment in which numerical libraries use one thread. They read it when they are imported."""

WORKER_ENVIRONMENT = ONE_THREAD | {"POLARS_MAX_THREADS": "1"}
"""Environment of a worker process, which computes on one core."""

_PRELOADED = "flows._preloaded"


def fork_from_here(module: str) -> None:
    """Make a copy of this process, with its imports, from which workers are forked; return at once.

    The numerical libraries must have been imported with `ONE_THREAD`. A process with several threads cannot be copied
    safely; in that case the new process imports `module`, as in `begin_imports`.
    """
    if not FORKED or threading.active_count() > 1:
        begin_imports(module)
        return
    forkserver.set_forkserver_preload([module, _PRELOADED])
    resource_tracker.ensure_running()
    new_interpreter = util.spawnv_passfds
    util.spawnv_passfds = lambda *arguments: _fork(*arguments[-1])
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = new_interpreter


def _fork(listener: int, alive: int) -> int:
    """Start the server in a copy of this process; return its process id."""
    gc.freeze()
    pid = os.fork()
    if not pid:
        _serve(listener, alive)
    gc.unfreeze()
    return pid


def _serve(listener: int, alive: int) -> NoReturn:
    """Fork a worker at each request until the run has closed the other end of `alive`.

    Files and sockets of the run are closed, as in a new interpreter; nothing else of the run is cleaned up here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the descriptor of the folder itself is already closed
                if int(name) not in (listener, alive) and not os.get_inheritable(int(name)):
                    os.close(int(name))
        forkserver.main(listener, alive, [_PRELOADED])
    finally:
        os._exit(0)


def begin_imports(module: str) -> None:
    """Start the process, unless it is running, and make it import `module` and the needs of tasks; return at once.

    Workers import what cannot be imported there. The process ends with this one.
    """
    if not FORKED:
        return
    forkserver.set_forkserver_preload([module, _PRELOADED])
    with environment(WORKER_ENVIRONMENT):
        forkserver.ensure_running()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables are set in this context; processes that are started in it inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
