"""Progress of mapped tasks: a bar on a terminal, a progress artifact in the Prefect UI."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def _raise(_: int, error: Exception) -> Any:
    raise error


def gather(
    label: str, futures: Sequence[PrefectFuture[Any]], on_error: Callable[[int, Exception], Any] = _raise
) -> list[Any]:
    """The results of mapped tasks in their order; `on_error(position, error)` stands in for a failed one.

    Without it the error of the first that fails is raised.
    """
    if not futures:
        return []
    positions = {future.task_run_id: position for position, future in enumerate(futures)}
    results: list[Any] = [None] * len(futures)
    artifact = cast(UUID, create_progress_artifact(0.0, description=label))
    step = max(1, len(futures) // 10)
    with _bar() as bar:
        shown = bar.add_task(label, total=len(futures))
        for done, future in enumerate(as_completed(list(futures)), start=1):
            position = positions[future.task_run_id]
            try:
                results[position] = future.result()
            except Exception as error:
                results[position] = on_error(position, error)
            bar.advance(shown)
            if done % step == 0 or done == len(futures):
                update_progress_artifact(artifact, progress=100.0 * done / len(futures))
    return results


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
