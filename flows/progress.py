"""Progress of mapped tasks: a bar on a terminal, a progress artifact in the Prefect UI."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import Task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows.cluster import enough_workers, most_workers
from flows.settings import settings
from models.errors import AlmanacError
from tasks.scoring.runs import Run
from tasks.scoring.shards import shard_groups
from tasks.scoring.watchdog import LIMIT_SECONDS, stuck

T = TypeVar("T")

KEYS_OF_A_TASK = (100, 250)
"""The fewest and the most keys of a task: small shards share one, so that all keys are spread over the workers."""
STUCK_SECONDS = 1800.0
"""A run counts as stuck if no mapped task ends for this long. At scale, the longest tasks take minutes."""


class StuckError(AlmanacError):
    """Mapped tasks do not end."""

    is_temporary = True


def _raise(_: int, error: Exception) -> Any:
    raise error


def gather(
    label: str,
    futures: Sequence[PrefectFuture[Any]],
    on_error: Callable[[int, Exception], Any] = _raise,
    *,
    stuck_seconds: float = STUCK_SECONDS,
) -> list[Any]:
    """The results of mapped tasks in their order; `on_error(position, error)` replaces the result of a failed task.

    By default the first error is raised. Raises `StuckError` if no task ends for `stuck_seconds`.
    """
    if not futures:
        return []
    positions = {future.task_run_id: position for position, future in enumerate(futures)}
    results: list[Any] = [None] * len(futures)
    artifact = _ProgressArtifact(label)
    step = max(1, len(futures) // 10)
    with _bar() as bar:
        bar_task = bar.add_task(label, total=len(futures))
        for count, future in enumerate(_as_completed(label, futures, stuck_seconds), start=1):
            position = positions[future.task_run_id]
            try:
                results[position] = future.result()
            except Exception as error:
                results[position] = on_error(position, error)
            bar.advance(bar_task)
            if count % step == 0 or count == len(futures):
                artifact.progress(100.0 * count / len(futures))
        bar.remove_task(bar_task)
    return results


def steps(label: str, items: Sequence[T]) -> Iterator[T]:
    """The items one by one, with a progress bar and artifact."""
    artifact = _ProgressArtifact(label)
    with _bar() as bar:
        bar_task = bar.add_task(label, total=len(items))
        for count, item in enumerate(items, start=1):
            yield item
            bar.advance(bar_task)
            artifact.progress(100.0 * count / len(items))


def _as_completed(
    label: str, futures: Sequence[PrefectFuture[Any]], stuck_seconds: float
) -> Iterator[PrefectFuture[Any]]:
    """The futures in the order in which they end."""
    rest = {future.task_run_id: future for future in futures}
    while rest:
        before = len(rest)
        try:
            for future in as_completed(list(rest.values()), timeout=stuck_seconds):
                if rest.pop(future.task_run_id, None):
                    yield future
        except TimeoutError:
            if len(rest) == before:
                raise StuckError(
                    f"{label}: no task has ended for {stuck_seconds:,.0f} s; {len(rest):,} of {len(futures):,} "
                    "tasks are left. The run ends, and finished work is kept: start it again."
                ) from None


def in_tasks(counts: Mapping[int, int], alone: Collection[int] = ()) -> list[list[int]]:
    """Shards in groups, one group per task; those in `alone` have their own. `counts` holds each shard's keys."""
    least, most = KEYS_OF_A_TASK
    share = sum(counts.values()) // most_workers() + max(counts.values(), default=0)
    return shard_groups(counts, min(max(share, least), most), alone)


def over_shards(label: str, task: Task[..., Any], run: Run, counts: Mapping[int, int]) -> list[Any]:
    """The results of `task(run, shards)`, mapped over groups of shards, in the order of the shards.

    `counts` has the number of keys of each shard; small shards share a task. If one takes longer than half an hour, or
    `ALMANAC_STUCK_SECONDS`, its process is ended, and another one repeats it.
    """
    groups = in_tasks(counts)
    enough_workers(len(groups))
    limit = settings().stuck_seconds or LIMIT_SECONDS
    futures = task.map(unmapped(run), groups, limit)
    longest = max((len(group) for group in groups), default=1)
    every = [one for some in gather(label, futures, stuck_seconds=6 * limit * longest) for one in some]
    for note in stuck(run):
        get_run_logger().warning(note)
    return every


def name_run(name: str) -> None:
    """Name the flow run after its work, for example `sales-forecast 2025-04-14`; a failure only causes a warning."""
    if not flow_run.id:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), name=name)
    except Exception as error:
        get_run_logger().warning("The run keeps its name: %s: %s", type(error).__name__, error)


class _ProgressArtifact:
    """The progress artifact. A failure never ends a run: if the server is unavailable, one warning says so."""

    def __init__(self, label: str) -> None:
        self._artifact: UUID | None = None
        with self._patience():
            self._artifact = cast(UUID, create_progress_artifact(0.0, description=label))

    def progress(self, percent: float) -> None:
        if self._artifact:
            with self._patience():
                update_progress_artifact(self._artifact, progress=percent)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._artifact = None
            get_run_logger().warning("Progress is no longer shown: %s: %s", type(error).__name__, error)


_SHOWN: ContextVar[Progress | None] = ContextVar("_SHOWN", default=None)


@contextmanager
def _bar() -> Iterator[Progress]:
    """The bars on the terminal: the bar of a step is below the bar of all steps."""
    if outer := _SHOWN.get():
        yield outer
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        token = _SHOWN.set(progress)
        try:
            yield progress
        finally:
            _SHOWN.reset(token)
