"""The process from which local workers are forked: it imports what all of them need, once, while the run imports too.

A forked worker is ready in a fiftieth of a second; a new interpreter spends two processor seconds on imports.
Nothing is computed before the fork: threads and runtimes of polars, Delta Lake and LightGBM start in the worker.
Only Linux forks safely after such imports; elsewhere workers are new interpreters.
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
"""Environment of a worker process, which computes on one core."""


def begin_imports(module: str) -> None:
    """Start the process, unless it is running, and make it import `module` and what tasks need; returns at once.

    The workers import what cannot be imported there. The process ends with this one.
    """
    if not FORKED:
        return
    forkserver.set_forkserver_preload([module, "flows._preloaded"])
    with _environment(WORKER_ENVIRONMENT):
        forkserver.ensure_running()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started meanwhile inherit these variables."""
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
