"""What a run computes on: the Dask cluster of its flow."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from prefect.context import FlowRunContext
from prefect_dask import DaskTaskRunner

from flows.settings import settings
from flows.workers import FORKED, WORKER_ENVIRONMENT, begin_imports
from models.addresses import refuse_credential
from models.errors import AlmanacError

DASK_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.profile.enabled": False,
}
"""A worker process that died is started again however long that takes: by default Dask gives it up after
15 seconds, and a run without workers waits for ever. A worker is given one shard at a time, so that its
death is blamed on no other. Nothing is profiled: Dask's profiler calls `sys._current_frames` a hundred times a
second, which in CPython before 3.11.9 waits for itself for ever where garbage is collected meanwhile
(python/cpython#106883), with the interpreter's lock.
"""
LOCAL_SETTINGS = DASK_SETTINGS | {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.multiprocessing-method": "forkserver" if FORKED else "spawn",
}
"""Dask always starts servers for HTTP without TLS beside scheduler and workers. They have no pages, so that no other user of
the machine reads the keys in them. For the method see `flows.workers`; a forked worker has the environment of the process
that it is forked from, so that of the run is handed over.
"""


class ClusterError(AlmanacError):
    """Nothing to compute on: the scheduler cannot be reached."""

    passing = True


@contextmanager
def local_or_named() -> Iterator[object]:
    """A Dask cluster: the address that the settings name, or worker processes on this machine.

    Each local worker is one process with one thread, so that two never compete for a core. What they listen to is
    closed to other users of the machine, by certificates that are made for the run and kept in memory. A flow that another
    one calls uses that one's cluster.
    """
    import dask
    from distributed import LocalCluster

    if scheduler := settings().scheduler:
        check_scheduler(scheduler)
        yield scheduler
        return
    if _local.cluster is not None:
        yield _local.cluster
        return
    begin_imports(_module_of_the_flow())
    with (
        dask.config.set(LOCAL_SETTINGS),
        LocalCluster(
            n_workers=_local.workers or most_workers(),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            preload=["flows._in_worker"],
            env={**os.environ, **WORKER_ENVIRONMENT},
            silence_logs="ERROR",
        ) as cluster,
    ):
        _local.cluster = cluster
        try:
            yield cluster
        finally:
            _local.cluster, _local.workers = None, None


def _module_of_the_flow() -> str:
    context = FlowRunContext.get()
    return __name__ if context is None or context.flow is None else context.flow.fn.__module__


@dataclass
class _Local:
    """The cluster of this process and how many workers it shall have; None: there is none yet, no matter."""

    cluster: Any = None
    workers: int | None = None


_local = _Local()


def most_workers() -> int:
    """How many worker processes a local cluster may have."""
    return settings().workers or os.cpu_count() or 1


def enough_workers(tasks: int) -> None:
    """Have a local cluster begin with, or grow to, as many workers as so many tasks can use."""
    workers = min(tasks, most_workers())
    if _local.cluster is None:
        _local.workers = workers
    elif workers > len(_local.cluster.workers):
        _local.cluster.scale(workers)


def task_runner() -> Any:
    """The task runner of a flow. It makes its cluster when the first task is submitted."""
    return DaskTaskRunner(cluster_class=cast(Any, local_or_named))


def check_scheduler(address: str) -> None:
    """Raise `ClusterError` unless something answers at a `tcp://host:port` or `tls://host:port` address.

    Raises `CredentialError` for an address with a password.
    """
    refuse_credential("The address of the scheduler", address, "a certificate of TLS")
    host, _, port = address.removeprefix("tcp://").removeprefix("tls://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}). Expected tcp://HOST:PORT or "
            "tls://HOST:PORT of a running one; start one with `dask scheduler`, or leave --scheduler out to use this "
            "machine."
        ) from None
