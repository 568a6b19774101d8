"""The published rows that are due to be judged, and the judgements so far."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import polars as pl
from prefect import task

from models.moments import as_moment, end_of, time_text
from models.scenario import AsOf, HasGroundTruth, Scenario
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
    truth = {name: versions[name] for name in scenario.ground_truth.tables if name in versions}
    due = _due(store, scenario, truth, newest, targets, verdicts)
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


def _due(
    store: Store,
    scenario: Scenario,
    versions: Mapping[str, int],
    newest: AsOf,
    targets: Sequence[Target],
    verdicts: Mapping[AsOf, Mapping[str, Any]],
) -> list[Target]:
    """The targets to judge, see `resolve_judging`; `versions` are those of the tables with ground truth."""
    inputs = {as_of: json.loads(verdict["versions"]) for as_of, verdict in verdicts.items()}

    @cache
    def commits(name: str) -> list[tuple[int, str, str]]:
        oldest = min((one.get(name, -1) for one in inputs.values()), default=-1)
        return spans(store, Layout(scenario.name).table(name), oldest)

    @cache
    def changes(name: str, after: int) -> tuple[AsOf | None, AsOf | None] | None:
        """The first and the last time of the rows that commits after a version changed; None if there are none."""
        later = [span for span in commits(name) if span[0] > after]
        ends = (min(begin for _, begin, _ in later), max(end for *_, end in later)) if later else None
        return ends and (as_of_from(ends[0], newest), as_of_from(ends[1], newest))

    def is_due(target: Target) -> bool:
        verdict = verdicts.get(target.as_of)
        if verdict is None or verdict["published_by"] != target.run_id:
            return True
        before = inputs[target.as_of]
        differences = {name: before.get(name, -1) for name, v in versions.items() if before.get(name) != v}
        if verdict["pending"] and (differences or verdict["observed"] != newest):
            return True
        return bool(verdict["rows"]) and any(
            _overlap(span, verdict["since"], verdict["until"])
            for name, after in differences.items()
            if (span := changes(name, after))
        )

    return [target for target in targets if is_due(target)]


def _overlap(span: tuple[Any, Any], since: AsOf | None, until: AsOf | None) -> bool:
    """Whether a span of time and that from `since` to `until`, each None if it is open, have a time in common."""
    return (until is None or span[0] <= until) and (since is None or span[1] >= since)


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
    begin = time_text(since) if since else "the first"
    end = time_text(until) if until else "the last"
    return (
        f"{scenario.name}: nothing was published from {begin} to {end}. There are {len(targets)} published times from "
        f"{time_text(targets[0].as_of)} to {time_text(targets[-1].as_of)}: give another --from or --to."
    )


def as_of_from(text: str | None, like: AsOf) -> AsOf | None:
    """The moment or day that `text` states in ISO 8601, of the type of `like`; None for None."""
    return None if text is None else type(like).fromisoformat(text)
