"""The published rows that are due to be judged, and the judgements so far."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from prefect import task

from models.moments import as_moment, end_of
from models.scenario import AsOf, GroundTruth, HasGroundTruth, Scenario
from tasks.registry import ledger
from tasks.scoring.runs import Run, RunError, input_versions, scans
from tasks.storage.commits import spans
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.training.fit import EVALUATIONS

JUDGED = "judged"
_GROUPS = 32
"""The most tasks of a run: each costs some tenths of a second, whatever it does."""


@dataclass(frozen=True)
class Target:
    """A published `as_of`, with the run and the bundle that published it."""

    as_of: AsOf
    run_id: str
    bundle: int


@dataclass(frozen=True)
class Judging:
    """The targets that a run judges, in groups of one task each.

    The judgements of the `others` still hold. `backlog` is the number of those that are due and wait for the next run.
    """

    run: Run
    groups: tuple[tuple[Target, ...], ...]
    others: tuple[AsOf, ...]
    backlog: int

    @property
    def targets(self) -> list[Target]:
        return [target for group in self.groups for target in group]


@task(name="resolve-judging")
def resolve_judging(
    scenario: Scenario,
    store: Store,
    since: AsOf | None,
    until: AsOf | None,
    at_most: int,
    hint: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Judging:
    """The targets to judge: everything published from `since` to `until`, or what is due if neither is given.

    An `as_of` is due if it was never judged or has been published anew since; if it has pending rows and its tables
    have changed or time has passed; or if its ground truth may have been restated. At most `at_most` of them are
    judged, the least recently judged first. In the measures, `overrides` take precedence over the options of the
    bundle. Raises `RunError` if nothing was published.
    """
    if not isinstance(scenario, HasGroundTruth):
        raise RunError(
            f"{scenario.name}: there is nothing to evaluate: no table of this scenario has the ground truth "
            "of its published rows. A scenario that is a `HasGroundTruth` can be evaluated; see docs/own_scenario.md."
        )
    versions = input_versions(scenario, store)
    newest = scenario.resolve_as_of(scans(scenario, store, versions), None, datetime.now(UTC))
    table, targets = _published_targets(scenario, store)
    within = [target for target in targets if _within(target.as_of, since, until)]
    if not within:
        raise RunError(_nothing(scenario, store, targets, since, until) + hint)
    verdicts = _verdicts(store, scenario.name)
    is_touched = _Touched(store, scenario, scenario.ground_truth, versions, newest, verdicts)
    due = [target for target in targets if is_touched(target, verdicts.get(target.as_of))]
    others = tuple(target.as_of for target in targets if target not in due)
    selection = within
    if since is None and until is None:
        selection = sorted(due, key=lambda t: (_last(verdicts.get(t.as_of)), t.as_of))[:at_most]
    selection = sorted(selection, key=lambda target: target.as_of)
    options: dict[str, Any] = {
        "published": {table: store.version(Layout(scenario.name).table(table))},
        "judged": [[target.as_of.isoformat(), target.run_id] for target in selection],
        **({"given": dict(overrides)} if overrides else {}),
    }
    run = Run(scenario, "evaluate", store, newest, versions, options, EVALUATIONS)
    size = -(-len(selection) // _GROUPS) or 1
    groups = tuple(tuple(selection[start : start + size]) for start in range(0, len(selection), size))
    return Judging(run, groups, others, len({t.as_of for t in due} - {t.as_of for t in selection}))


def judged_so_far(store: Store, scenario: str) -> pl.DataFrame | None:
    """One row per judged `as_of`, oldest first; None if nothing has been evaluated yet."""
    rows = store.find(Layout(scenario).table(JUDGED))
    return None if rows is None else rows.sort("as_of").collect()


def _published_targets(scenario: Scenario, store: Store) -> tuple[str, list[Target]]:
    """Name of the published table, and its partitions that are in the ledger, oldest first."""
    table = scenario.published_table({}).name
    path = Layout(scenario.name).table(table)
    entries = ledger.rows(store)
    if entries is None:
        return table, []
    there = {as_of.isoformat(): as_of for as_of in store.as_ofs(path)}
    runs = entries.filter(scenario=scenario.name).sort("ended").unique("as_of", keep="last").collect()
    targets = [
        Target(there[row["as_of"]], row["run_id"], row["bundle"])
        for row in runs.iter_rows(named=True)
        if row["as_of"] in there
    ]
    return table, sorted(targets, key=lambda target: target.as_of)


def _verdicts(store: Store, scenario: str) -> dict[AsOf, dict[str, Any]]:
    rows = judged_so_far(store, scenario)
    return {} if rows is None else {row["as_of"]: row for row in rows.iter_rows(named=True)}


def _last(verdict: Mapping[str, Any] | None) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if verdict is None else verdict["at"]


class _Touched:
    """Whether a published `as_of` is due; the changes of a table's commits are looked up once."""

    def __init__(
        self,
        store: Store,
        scenario: Scenario,
        ground_truth: GroundTruth,
        versions: Mapping[str, int],
        newest: AsOf,
        verdicts: Mapping[AsOf, Mapping[str, Any]],
    ) -> None:
        self._store, self._scenario, self._newest = store, scenario, newest
        self._versions = {name: versions[name] for name in ground_truth.tables if name in versions}
        inputs = [json.loads(row["versions"]) for row in verdicts.values()]
        self._oldest = {
            name: min((one.get(name, -1) for one in inputs), default=-1) for name in self._versions
        }
        self._spans: dict[str, list[tuple[int, str, str]]] = {}
        self._changes: dict[tuple[str, int], tuple[str, str] | None] = {}

    def __call__(self, target: Target, verdict: Mapping[str, Any] | None) -> bool:
        if verdict is None or verdict["published_by"] != target.run_id:
            return True
        before = json.loads(verdict["versions"])
        differences = {
            name: before.get(name, -1) for name, v in self._versions.items() if before.get(name) != v
        }
        if verdict["pending"] and (differences or verdict["observed"] != self._newest):
            return True
        return any(self._touches(name, after, verdict) for name, after in differences.items())

    def _touches(self, name: str, after: int, verdict: Mapping[str, Any]) -> bool:
        """Whether commits after a version changed rows of a time that the verdict depends on."""
        if (name, after) not in self._changes:
            later = [span for span in self._commits(name) if span[0] > after]
            ends = (min(begin for _, begin, _ in later), max(end for *_, end in later)) if later else None
            self._changes[name, after] = ends
        change = self._changes[name, after]
        if change is None or not verdict["rows"]:
            return False
        first, last = (as_of_from(end, self._newest) for end in change)
        since, until = verdict["since"], verdict["until"]
        return bool((until is None or first <= until) and (since is None or last >= since))

    def _commits(self, name: str) -> list[tuple[int, str, str]]:
        """All commits of a table that are newer than some verdict, read once."""
        if name not in self._spans:
            path = Layout(self._scenario.name).table(name)
            self._spans[name] = spans(self._store, path, self._oldest[name])
        return self._spans[name]


def _within(as_of: AsOf, since: AsOf | None, until: AsOf | None) -> bool:
    if not isinstance(as_of, datetime):
        return (since is None or as_of >= _day(since)) and (until is None or as_of <= _day(until))
    begin = None if since is None else as_moment(since)
    end = None if until is None else as_moment(until, end_of)
    return (begin is None or as_of >= begin) and (end is None or as_of <= end)


def _day(when: AsOf) -> date:
    return when.date() if isinstance(when, datetime) else when


def _nothing(
    scenario: Scenario, store: Store, targets: Sequence[Target], since: AsOf | None, until: AsOf | None
) -> str:
    if not targets:
        return (
            f"{store.uri}: {scenario.name} has published nothing yet. Evaluate after a "
            f"scoring run: python -m flows {scenario.name} --help."
        )
    begin = since.isoformat() if since else "the first"
    end = until.isoformat() if until else "the last"
    return (
        f"{scenario.name}: nothing was published from {begin} to {end}. There are {len(targets)} published times from "
        f"{targets[0].as_of.isoformat()} to {targets[-1].as_of.isoformat()}: give another --from or --to."
    )


def as_of_from(text: str | None, like: AsOf) -> AsOf | None:
    """The moment or day that `text` states in ISO 8601, of the type of `like`; None for None."""
    return None if text is None else type(like).fromisoformat(text)
