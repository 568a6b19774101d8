"""Scoring runs that cover what was missed since the last published one."""

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl
from prefect import task

from models.scenario import AsOf, CatchesUp, Scenario
from tasks.registry import bundles, ledger
from tasks.scoring.runs import Run, input_versions
from tasks.storage.store import Store


@task(name="due")
def due(scenario: Scenario, store: Store, flow: str, at_most: int) -> list[AsOf]:
    """The `as_of`s to score, oldest first, at most the newest so many; none where all are published."""
    versions = input_versions(scenario, store)
    tables = {name: store.scan(f"{scenario.name}/{name}", number) for name, number in versions.items()}
    newest = scenario.resolve_as_of(tables, None, datetime.now(UTC))
    if not isinstance(scenario, CatchesUp):
        return [newest]
    return scenario.due(tables, newest, last_published(scenario, store, flow, newest), at_most)


def last_published(scenario: Scenario, store: Store, flow: str, like: AsOf) -> AsOf | None:
    """The latest `as_of` in the ledger, of the type of `like`; None where nothing was published."""
    rows = ledger.rows(store)
    if rows is None:
        return None
    known = rows.filter(scenario=scenario.name, flow=flow).select("as_of").collect()["as_of"]
    return max((type(like).fromisoformat(text) for text in known), default=None)


def bundle_for(scenario: Scenario, store: Store, as_of: AsOf) -> int | None:
    """The bundle for an `as_of` before all trainings: the first champion. None where the run may choose."""
    known = bundles.events(store, scenario.name)
    if known is None or known.filter(pl.col("as_of") <= as_of.isoformat()).height:
        return None
    promoted = known.filter(event="promoted")
    return int(promoted["bundle"][0]) if promoted.height else None


def covered_by(run: Run) -> str | None:
    """Another run that has published the same `as_of` from newer data; None where there is none.

    What it published is not to be replaced by this run, which began with older tables.
    """
    found = ledger.last(run.store, run.scenario, run.flow, run.as_of)
    if found is None or found["run_id"] == run.id:
        return None
    theirs: Mapping[str, int] = found["versions"]
    newer = any(theirs.get(name, -1) > number for name, number in run.versions.items())
    older = any(theirs.get(name, -1) < number for name, number in run.versions.items())
    return str(found["run_id"]) if newer and not older else None
