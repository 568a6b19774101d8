"""Scoring runs that catch up on what was missed since the last published one."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import polars as pl
from prefect import task

from models.moments import as_moment, in_words, time_text
from models.scenario import AsOf, CatchesUp, Event, Frames, Scenario
from tasks.ingest.status import is_stale, paced
from tasks.registry import bundles, ledger
from tasks.scoring.events import emit
from tasks.scoring.runs import Run, input_versions, scans
from tasks.storage.commits import moment_spans
from tasks.storage.faults import VersionError
from tasks.storage.layout import Layout
from tasks.storage.store import Store

LOOK_BACK = timedelta(days=31)
"""How far back published rows are checked for later changes of their inputs."""


@dataclass(frozen=True)
class Due:
    """The `as_of`s that a run without one scores, oldest first, those left for later runs, and the last complete one."""

    as_ofs: Sequence[AsOf]
    rest: Sequence[AsOf]
    newest: AsOf
    again: Sequence[AsOf] = ()
    """Those of `as_ofs` that were published before and have received rows since."""

    @property
    def notes(self) -> list[str]:
        """Notes on `as_of`s that are scored again and on those that are left; empty if there are none."""
        return [*self._again(), *self._rest()]

    def _again(self) -> list[str]:
        if not self.again:
            return []
        return [
            f"{len(self.again):,} of the periods had been scored before, {_range(self.again)}: some of their rows arrived "
            "later."
        ]

    def _rest(self) -> list[str]:
        if not self.rest:
            return []
        count = f"{len(self.rest):,} complete periods are" if len(self.rest) > 1 else "1 complete period is"
        return [
            f"{count} not scored yet, {_range(self.rest)}: the next runs score them, newest first, or this one "
            f"with --catch-up {len(self.rest) + len(self.as_ofs)}."
        ]


def _range(as_ofs: Sequence[AsOf]) -> str:
    return f"from {time_text(as_ofs[0])} to {time_text(as_ofs[-1])}"


@task(name="due")
def due(scenario: Scenario, store: Store, flow: str, at_most: int) -> Due:
    """The newest `at_most` complete `as_of`s that are not published. An event reports those that are left."""
    tables = scans(scenario, store, input_versions(scenario, store))
    newest = scenario.resolve_as_of(tables, None, datetime.now(UTC))
    if not isinstance(scenario, CatchesUp):
        return Due([newest], [], newest)
    past = published_as_ofs(scenario, store, flow, newest)
    again = _changed_as_ofs(scenario, store, flow, tables, [one for one in past if one <= newest])
    every = sorted({*scenario.due_as_ofs(tables, newest, past, at_most), *again})
    batch = every[-at_most:]
    result = Due(batch, every[:-at_most], newest, [one for one in again if one in batch])
    if result.rest:
        payload = {"from": str(result.rest[0]), "to": str(result.rest[-1]), "count": len(result.rest)}
        emit(store, scenario.name, Event("left_out", scenario.name, payload), str(sorted(payload.items())))
    return result


def published_as_ofs(scenario: Scenario, store: Store, flow: str, like: AsOf) -> list[AsOf]:
    """The `as_of`s of a flow in the ledger, ascending, of the type of `like`."""
    rows = ledger.rows(store)
    if rows is None:
        return []
    texts = rows.filter(scenario=scenario.name, flow=flow).select("as_of").collect()["as_of"]
    return sorted(type(like).fromisoformat(text) for text in texts.unique())


def _changed_as_ofs(
    scenario: Scenario, store: Store, flow: str, tables: Frames, past: Sequence[AsOf]
) -> list[AsOf]:
    """The published `as_of`s of the last month whose rows in a table have changed since they were scored."""
    assert isinstance(scenario, CatchesUp)
    cadence = scenario.cadence or timedelta(0)
    first = past[-1] - LOOK_BACK if past else None
    recent = [one for one in past if first is not None and one > first]
    versions = ledger.versions(store, scenario.name, flow, [one.isoformat() for one in recent])
    as_ofs: set[AsOf] = set()
    for name in scenario.tables:
        by_version: dict[int, list[AsOf]] = {}
        for one in recent:
            number = versions.get(one.isoformat(), {}).get(name)
            if number is not None:
                by_version.setdefault(number, []).append(one)
        if not by_version:
            continue
        path = Layout(scenario.name).table(name)
        commits = moment_spans(store, path, min(by_version))
        for number, some in by_version.items():
            near = _touched(
                some, cadence, [(begin, end) for version, begin, end in commits if version > number]
            )
            if near:
                as_ofs |= {*_changed(scenario, store, path, number, tables, near)}
    return sorted(as_ofs)


def _changed(
    scenario: CatchesUp, store: Store, path: str, version: int, tables: Frames, as_ofs: Sequence[AsOf]
) -> Sequence[AsOf]:
    """Those of `as_ofs` whose rows differ from those in a version of a table; all if the version is gone.

    delta-rs removes versions after 30 days unless housekeeping keeps them for longer.
    """
    try:
        before = store.scan(path, version)
    except VersionError:
        return as_ofs
    return scenario.changed_as_ofs({**tables, path.rpartition("/")[2]: before}, tables, as_ofs)


def _touched(
    as_ofs: Sequence[AsOf], cadence: timedelta, spans: Sequence[tuple[datetime, datetime]]
) -> list[AsOf]:
    """The `as_of`s whose last `cadence` overlaps one of the spans; each is found by bisection, as spans grow with age."""
    spans = sorted(spans)
    begins = [begin for begin, _ in spans]
    latest = [*accumulate((end for _, end in spans), max)]
    before = {one: bisect_left(begins, as_moment(one)) for one in as_ofs}
    return [one for one, count in before.items() if count and latest[count - 1] >= as_moment(one) - cadence]


@task(name="stale")
def stale(scenario: Scenario, store: Store, newest: AsOf) -> list[str]:
    """A note if the data end more than two cadences ago, which the event `stale` reports once a day."""
    now = datetime.now(UTC)
    if not is_stale(scenario, newest, now) or not is_stale(scenario := paced(scenario, store), newest, now):
        return []
    age = now - as_moment(newest)
    payload = {
        "as_of": newest.isoformat(),
        "age_hours": round(age / timedelta(hours=1), 1),
        "store": store.uri,
    }
    emit(store, scenario.name, Event("stale", scenario.name, payload), f"{newest}/{now:%Y-%m-%d}")
    return [
        f"The data is stale: it is complete up to {time_text(newest)}, {in_words(age)} ago. New data is expected every "
        f"{in_words(scenario.cadence or age)}. See what was ingested: python -m flows ingest-status"
    ]


@task(name="skipped")
def skipped(scenario: Scenario, store: Store, flow: str, as_of: AsOf) -> list[str]:
    """A note on complete times between `as_of` and the last published one before it; an event also reports them."""
    past = [one for one in published_as_ofs(scenario, store, flow, as_of) if one < as_of]
    if not past or _between(scenario, past[-1], as_of) < 1:
        return []
    scenario = paced(scenario, store)
    count = _between(scenario, past[-1], as_of)
    if scenario.cadence is None or count < 1:
        return []
    first, last = past[-1] + scenario.cadence, as_of - scenario.cadence
    payload = {"from": str(first), "to": str(last), "count": count}
    emit(store, scenario.name, Event("left_out", scenario.name, payload), str(sorted(payload.items())))
    periods = f"{count:,} complete periods were" if count > 1 else "1 complete period was"
    return [
        f"{periods} never scored, from {time_text(first)} to {time_text(last)}. To score them: "
        f"python -m flows {scenario.name} backfill --from {time_text(first)} --to {time_text(last)}"
    ]


def _between(scenario: Scenario, last: AsOf, as_of: AsOf) -> int:
    """The number of times at the scenario's cadence between two; none without a cadence."""
    return round((as_moment(as_of) - as_moment(last)) / scenario.cadence) - 1 if scenario.cadence else 0


def bundle_for(scenario: Scenario, store: Store, as_of: AsOf) -> int | None:
    """The first champion, for an `as_of` before all trainings. None if the run chooses its bundle."""
    events = bundles.events(store, scenario.name)
    if events is None or events.filter(pl.col("as_of") <= as_of.isoformat()).height:
        return None
    promotions = events.filter(event="promoted")
    return int(promotions["bundle"][0]) if promotions.height else None


def covered_by(run: Run, other: Mapping[str, Any] | None) -> str | None:
    """The id of the `other` run that has published the same `as_of`, if it used newer data; else None.

    This run began with older tables and must not replace those rows.
    """
    if other is None:
        return None
    theirs: Mapping[str, int] = other["versions"]
    newer = any(theirs.get(name, -1) > number for name, number in run.versions.items())
    older = any(theirs.get(name, -1) < number for name, number in run.versions.items())
    return str(other["run_id"]) if newer and not older else None
