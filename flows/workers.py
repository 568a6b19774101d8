"""The process that local workers are forked from: it imports what all of them need, once, while the run does.

A forked worker is there in a fiftieth of a second; one that begins as a new interpreter imports for two processor
seconds. Nothing is computed before the fork: threads and runtimes of polars, Delta Lake and LightGBM begin in the worker.
Only Linux forks safely after such imports; elsewhere workers begin as new interpreters.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver

FORKED = sys.platform == "linux"

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}
"""Of a worker process, which computes on one core."""


def begin_imports(module: str) -> None:
    """Start the process, unless it is there, and have it import `module` and what its tasks need; returns at once.

    What cannot be imported there is imported by the workers. The process ends with this one.
    """
    if not FORKED:
        return
    forkserver.set_forkserver_preload([module, "flows._preloaded"])
    with _environment(WORKER_ENVIRONMENT):
        forkserver.ensure_running()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started meanwhile have these variables, too."""
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
