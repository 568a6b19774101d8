"""The Dask cluster on which a flow run computes."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect_dask import DaskTaskRunner, PrefectDaskClient

from flows.settings import settings
from flows.workers import FORKED, WORKER_ENVIRONMENT, begin_imports
from models.addresses import refuse_credential
from models.errors import AlmanacError

DASK_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.profile.enabled": False,
}
"""A worker process that died is restarted, however long that takes: by default Dask gives up after
15 seconds, and a run without workers waits forever. A worker gets one shard at a time, so that its
death is not blamed on another shard. Profiling is off: Dask's profiler calls `sys._current_frames` a hundred times a
second, which in CPython before 3.11.9 can deadlock during a garbage collection
(python/cpython#106883) while it holds the interpreter's lock.
"""
LOCAL_SETTINGS = DASK_SETTINGS | {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.multiprocessing-method": "forkserver" if FORKED else "spawn",
}
"""Dask always starts HTTP servers without TLS for scheduler and workers. Their pages are removed, so that no other user
of the machine can read keys there. For these pages, every process checks its event loop fifty times a second and the
machine twice: by default, a cluster of two workers uses four processor seconds a minute; with these intervals, one.
For the method, see `flows.workers`; a forked worker inherits the environment of the process it is forked from, so the
run passes on its own.
"""


class ClusterError(AlmanacError):
    """There is nothing to compute on: the scheduler cannot be reached."""

    is_temporary = True


@contextmanager
def local_or_named() -> Iterator[object]:
    """A Dask cluster: the one at the address in the settings, or worker processes on this machine.

    Each local worker is one process with one thread, so that two never compete for a core. Certificates that are made
    for the run and kept in memory close its ports to other users of the machine. A flow called by another flow uses
    that flow's cluster.
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
    """The cluster of this process, and the number of workers to start it with; None: none yet, no preference."""

    cluster: Any = None
    workers: int | None = None


_local = _Local()


def most_workers() -> int:
    """The maximum number of worker processes of a local cluster."""
    return settings().workers or os.cpu_count() or 1


def enough_workers(tasks: int) -> None:
    """Start a local cluster with as many workers as this number of tasks can use, or scale it up to them."""
    workers = min(tasks, most_workers())
    if _local.cluster is None:
        _local.workers = workers
    elif workers > len(_local.cluster.workers):
        _local.cluster.scale(workers)


def task_runner() -> Any:
    """The task runner of a flow. It creates its cluster when the first task is submitted."""
    return _TaskRunner(cluster_class=cast(Any, local_or_named))


class _TaskRunner(DaskTaskRunner):
    """Prefect's runner with 0.15 processor seconds less for each task.

    That one writes out all settings for each task, which its worker validates, and Dask hashes what it submits, in case
    it has the result already, which no two runs of a task share.
    """

    @property
    def client(self) -> Any:
        client: Any = super().client
        client.submit = partial(PrefectDaskClient.submit, client, pure=False)
        return client

    def submit(self, *arguments: Any, **options: Any) -> Any:
        current = get_settings_context()
        with _SettingsAsObjects(profile=current.profile, settings=current.settings):
            return super().submit(*arguments, **options)


class _SettingsAsObjects(SettingsContext):
    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:  # noqa: ARG002
        return {"profile": self.profile, "settings": self.settings}


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
            "tls://HOST:PORT of a running scheduler; start one with `dask scheduler`, or omit --scheduler to use this "
            "machine."
        ) from None
