"""Scoring runs that cover what was missed since the last published one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
from prefect import task

from models.scenario import AsOf, CatchesUp, Event, Frames, Scenario
from models.times import as_moment, in_words
from tasks.ingest.status import is_stale
from tasks.registry import bundles, ledger
from tasks.scoring.events import emit
from tasks.scoring.runs import Run, input_versions, scans
from tasks.storage.commits import touched
from tasks.storage.layout import Layout
from tasks.storage.store import Store

LOOK_BACK = timedelta(days=31)
"""Rows of what was published longer ago are not looked at again."""


@dataclass(frozen=True)
class Due:
    """What a run without an `as_of` scores, oldest first; what it leaves for the next ones; the last complete one."""

    as_ofs: Sequence[AsOf]
    left: Sequence[AsOf]
    newest: AsOf
    again: Sequence[AsOf] = ()
    """Those of `as_ofs` that were published, and got rows since."""

    @property
    def notes(self) -> list[str]:
        """What is scored again, and what is left, in words; none where nothing is."""
        return [*self._again(), *self._left()]

    def _again(self) -> list[str]:
        if not self.again:
            return []
        count = f"{len(self.again):,} of them" if len(self.again) > 1 else "1 of them"
        return [
            f"{count} had been scored before, from {self.again[0]} to {self.again[-1]}: rows of theirs came later."
        ]

    def _left(self) -> list[str]:
        if not self.left:
            return []
        count = f"{len(self.left):,} complete ones are" if len(self.left) > 1 else "1 complete one is"
        return [
            f"{count} not scored yet, from {self.left[0]} to {self.left[-1]}: the next runs score them, newest first, "
            f"or this one with --catch-up {len(self.left) + len(self.as_ofs)}."
        ]


@task(name="due")
def due(scenario: Scenario, store: Store, flow: str, at_most: int) -> Due:
    """The newest so many of the `as_of`s that are complete and not published. What is left is told by an event."""
    tables = scans(scenario, store, input_versions(scenario, store))
    newest = scenario.resolve_as_of(tables, None, datetime.now(UTC))
    if not isinstance(scenario, CatchesUp):
        return Due([newest], [], newest)
    known = published(scenario, store, flow, newest)
    again = _changed(scenario, store, flow, tables, [one for one in known if one <= newest])
    every = sorted({*scenario.due(tables, newest, known, at_most), *again})
    chosen = every[-at_most:]
    found = Due(chosen, every[:-at_most], newest, [one for one in again if one in chosen])
    if found.left:
        told = {"from": str(found.left[0]), "to": str(found.left[-1]), "count": len(found.left)}
        emit(store, scenario.name, Event("left_out", scenario.name, told), str(sorted(told.items())))
    return found


def published(scenario: Scenario, store: Store, flow: str, like: AsOf) -> list[AsOf]:
    """The `as_of`s in the ledger, of the type of `like`, in order."""
    rows = ledger.rows(store)
    if rows is None:
        return []
    known = rows.filter(scenario=scenario.name, flow=flow).select("as_of").collect()["as_of"]
    return sorted(type(like).fromisoformat(text) for text in known.unique())


def _changed(
    scenario: Scenario, store: Store, flow: str, tables: Frames, published: Sequence[AsOf]
) -> list[AsOf]:
    """The published `as_of`s of the last month whose rows in a table have changed since they were scored."""
    assert isinstance(scenario, CatchesUp)
    cadence = scenario.cadence or timedelta(0)
    first = published[-1] - LOOK_BACK if published else None
    recent = [one for one in published if first is not None and one > first]
    versions = ledger.versions(store, scenario.name, flow, [one.isoformat() for one in recent])
    found: set[AsOf] = set()
    for name in scenario.tables:
        by_version: dict[int, list[AsOf]] = {}
        for one in recent:
            number = versions.get(one.isoformat(), {}).get(name)
            if number is not None:
                by_version.setdefault(number, []).append(one)
        if not by_version:
            continue
        path = Layout(scenario.name).table(name)
        commits = touched(store, path, min(by_version))
        for number, some in by_version.items():
            spans = [(begin, end) for version, begin, end in commits if version > number]
            near = [one for one in some if _touches(as_moment(one), cadence, spans)]
            if near:
                before = {**tables, name: store.scan(path, number)}
                found |= {*scenario.changed(before, tables, near)}
    return sorted(found)


def _touches(end: datetime, cadence: timedelta, spans: Sequence[tuple[datetime, datetime]]) -> bool:
    return any(first < end and last >= end - cadence for first, last in spans)


@task(name="stale")
def stale(scenario: Scenario, store: Store, newest: AsOf) -> list[str]:
    """A note where the data end more than two cadences ago; the event `stale` says so, once a day."""
    now = datetime.now(UTC)
    if not is_stale(scenario, newest, now):
        return []
    age = now - as_moment(newest)
    told = {"as_of": newest.isoformat(), "age_hours": round(age / timedelta(hours=1), 1), "store": store.uri}
    emit(store, scenario.name, Event("stale", scenario.name, told), f"{newest}/{now:%Y-%m-%d}")
    return [
        f"The data are stale: they are complete up to {newest}, {in_words(age)} ago, and new ones are expected every "
        f"{in_words(scenario.cadence or age)}. See what was ingested: python -m flows ingest-status"
    ]


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
