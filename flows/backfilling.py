"""Scoring a range of the past, one time after the other."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import Flow
from prefect.logging import get_run_logger

from flows.clock import Clock
from flows.cluster import task_runner
from flows.limits import BACKFILLING, limited
from flows.parameters import Moment, Number, ParameterError
from flows.progress import name_run, steps
from flows.runs import score
from flows.settings import open_store
from models.errors import AlmanacError, ContractError
from models.moments import as_moment, end_of, time_text
from models.scenario import AsOf, Scenario
from tasks.scoring.catch_up import published_as_ofs
from tasks.scoring.runs import input_versions, scans
from tasks.storage.store import Store

AT_MOST = 10_000


class BackfillError(AlmanacError):
    """Some times in a range could not be scored."""


def flow_of(scenario: Scenario, scores: str) -> Flow[..., dict[str, Any]]:
    """The flow `<scenario>-backfill`, which scores as the flow `<scenario>-<scores>` does."""

    @limited(BACKFILLING, name=f"{scenario.name}-backfill", task_runner=task_runner())
    def backfill(
        from_: Moment, to: Moment | None = None, bundle: Number | None = None, store: str | None = None
    ) -> dict[str, Any]:
        """Score every time in a range that is not published yet, oldest first, each in its own commit.

        A time that cannot be scored does not stop the others: at the end the run fails and names it. Start it again to
        score what is missing.

        Args:
            from_: First day or time to score. Times without an offset are UTC.
            to: Last day (all of it) or time; default: the last complete one.
            bundle: Number of the bundle to score with; default: for each time, the champion trained on no later data.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        return score_range(scenario, open_store(store), scores, from_, to, bundle, {})

    return backfill


def score_range(
    scenario: Scenario,
    store: Store,
    scores: str,
    first: Moment,
    last: Moment | None,
    bundle: int | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Score the unpublished times of a range. Raises `BackfillError` if a time could not be scored."""
    clock = Clock()
    every = as_ofs(scenario, store, first, last)
    past = set(published_as_ofs(scenario, store, scores, every[0]))
    gaps = [one for one in every if one not in past]

    def publish(as_of: AsOf) -> Mapping[str, Any]:
        return score(scenario, store, scores, as_of, bundle, options, dry_run=False)

    rows, errors = _each(gaps, publish)
    name_run(f"{scenario.name}-backfill {time_text(every[0])} to {time_text(every[-1])}")
    if errors:
        lines = "\n".join(f"{time_text(one)}: {error}" for one, error in list(errors.items())[:10])
        raise BackfillError(
            f"{len(errors):,} of {len(gaps):,} times could not be scored; the others are published. Correct the cause "
            f"and start again with the same range.\n{lines}"
        )
    return {
        "from": str(every[0]),
        "to": str(every[-1]),
        "scored": len(gaps),
        "published_before": len(every) - len(gaps),
        "rows": rows,
        "seconds": clock.seconds,
    }


def as_ofs(scenario: Scenario, store: Store, first: Moment, last: Moment | None) -> list[AsOf]:
    """The times in a range, oldest first: the last one, and those a whole number of cadences before it.

    Raises `ParameterError` if there are none, or more than `AT_MOST`.
    """
    if last is not None and first != last and as_moment(last, end_of) <= as_moment(first):
        raise ParameterError(
            f"--from {time_text(first)} is after --to {time_text(last)}. Expected the earlier time first; swap them."
        )
    tables = scans(scenario, store, input_versions(scenario, store))
    try:
        until = scenario.resolve_as_of(tables, last, datetime.now(UTC))
    except ContractError as error:
        raise ParameterError(str(error).replace("--as-of", "--to")) from None
    cadence = scenario.at_pace_of(tables).cadence or timedelta(days=1)
    count = (as_moment(until) - as_moment(first)) // cadence + 1
    if not 0 < count <= AT_MOST:
        raise ParameterError(
            f"From {time_text(first)} to {time_text(until)} there are {max(count, 0):,} times to score. "
            f"Expected 1 to {AT_MOST:,}; the data ends at the last complete time."
        )
    return [until - cadence * back for back in reversed(range(count))]


def _each(times: Sequence[AsOf], one: Callable[[AsOf], Mapping[str, Any]]) -> tuple[int, dict[AsOf, str]]:
    """The number of published rows, and the error of each time that could not be scored."""
    rows, errors = 0, dict[AsOf, str]()
    for as_of in steps("backfill", times):
        try:
            rows += int(one(as_of).get("rows", 0))
        except (AlmanacError, OSError) as error:
            get_run_logger().error("%s: %s", time_text(as_of), error)
            errors[as_of] = f"{type(error).__name__}: {error}"
    return rows, errors
