"""Outcomes: what was published, judged by what then happened, as soon as that is known.

`evaluations` holds the judged rows, by the `as_of` that they were published for. `judged` has one row per
judged `as_of`: by which run it was published, from which tables it was judged, how many rows are pending,
and what it adds to the control charts. It is written last: what is not in it is judged again, with the
same result.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from deltalake import CommitProperties, write_deltalake
from prefect import task

from models.scenario import TALLIES, AsOf, HasControlCharts, HasGroundTruth, Outcomes, Scenario
from models.times import as_moment, end_of
from tasks.registry import bundles, ledger, tracking
from tasks.scoring.publishing import Part, Publication, replace_partitions, scan_parts, write_part
from tasks.scoring.runs import Run, RunError, input_versions, scans
from tasks.storage.commits import spans
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.training.fit import EVALUATIONS

JUDGED, MEASURES = "judged", "measures"
_GROUPS = 32
"""Tasks of a run, at most: a task costs some tenths of a second, whatever it does."""
_MANY = 100


@dataclass(frozen=True)
class Target:
    """A published `as_of`: by which run, and with which bundle."""

    as_of: AsOf
    run_id: str
    bundle: int


@dataclass(frozen=True)
class Judging:
    """What a run is to judge, in groups of one task each; `settled` need not be looked at again.

    `left` so many more are due, and left for the next run.
    """

    run: Run
    groups: tuple[tuple[Target, ...], ...]
    settled: tuple[AsOf, ...]
    left: int

    @property
    def targets(self) -> list[Target]:
        return [target for group in self.groups for target in group]


@dataclass(frozen=True)
class Judged:
    """What became of one target: where its rows lie, how many there are, and what is to be kept of them."""

    target: Target
    part: Part
    pending: int
    since: AsOf | None
    until: AsOf | None
    tallies: tuple[Mapping[str, Any], ...]


@task(name="resolve-outcomes")
def resolve_outcomes(
    scenario: Scenario,
    store: Store,
    since: AsOf | None,
    until: AsOf | None,
    at_most: int,
    hint: str = "",
    given: Mapping[str, Any] | None = None,
) -> Judging:
    """What there is to judge: all that was published from `since` to `until`, or what is due where neither is given.

    Due is an `as_of` that was never judged or was published anew since; one with pending rows when its
    tables have changed or time has passed; and one whose outcomes may have been restated. Of those at
    most `at_most`, least recently judged first. `given` options stand before those of
    the bundle in the measures. Raises `RunError` where nothing was published.
    """
    if not isinstance(scenario, HasGroundTruth):
        raise RunError(
            f"{scenario.name}: there is nothing to evaluate: no table of this scenario tells what became of "
            "what it publishes. A scenario that is a `HasGroundTruth` can be evaluated; see docs/own_scenario.md."
        )
    versions = input_versions(scenario, store)
    newest = scenario.resolve_as_of(scans(scenario, store, versions), None, datetime.now(UTC))
    table, published = _published(scenario, store)
    within = [target for target in published if _within(target.as_of, since, until)]
    if not within:
        raise RunError(_nothing(scenario, store, published, since, until) + hint)
    known = _known(store, scenario.name)
    touched = _Touched(store, scenario, scenario.outcomes, versions, newest, known)
    due = [target for target in published if touched(target, known.get(target.as_of))]
    settled = tuple(target.as_of for target in published if target not in due)
    chosen = within
    if since is None and until is None:
        chosen = sorted(due, key=lambda t: (_last(known.get(t.as_of)), t.as_of))[:at_most]
    chosen = sorted(chosen, key=lambda target: target.as_of)
    options: dict[str, Any] = {
        "published": {table: store.version(Layout(scenario.name).table(table))},
        "judged": [[target.as_of.isoformat(), target.run_id] for target in chosen],
        **({"given": dict(given)} if given else {}),
    }
    run = Run(scenario.name, "evaluate", store, newest, versions, options, EVALUATIONS)
    size = -(-len(chosen) // _GROUPS) or 1
    groups = tuple(tuple(chosen[start : start + size]) for start in range(0, len(chosen), size))
    return Judging(run, groups, settled, len({t.as_of for t in due} - {t.as_of for t in chosen}))


@task(name="judge", retries=1, retry_delay_seconds=1)
def judge(scenario: Scenario, run: Run, targets: Sequence[Target]) -> list[Judged]:
    """Write the judged rows of each target beside the files of the table; what is done is kept."""
    return [_judge(scenario, run, target) for target in targets]


def _judge(scenario: Scenario, run: Run, target: Target) -> Judged:
    own = dataclasses.replace(run, as_of=target.as_of)
    name = own.as_of_text.replace(" ", "T").replace(":", "")
    marker = run.path(f"judged/{name}.json")
    kept = run.store.get_json(marker)
    if kept and (part := Part(**kept["part"])) and _in_place(run, part):
        since, until = (_parsed(kept[end], target.as_of) for end in ("since", "until"))
        points = tuple({**row, "period": date.fromisoformat(row["period"])} for row in kept["tallies"])
        return Judged(target, part, kept["pending"], since, until, points)
    assert isinstance(scenario, HasGroundTruth), "checked when the run was resolved"
    ((table, version),) = run.options["published"].items()
    options = bundles.manifest(run.store, scenario.name, target.bundle)["options"]
    published = run.store.scan(Layout(scenario.name).table(table), version).filter(
        pl.col("as_of") == target.as_of
    )
    rows = scenario.judge(published, run.tables(scenario), run.as_of, options)
    tallies: list[dict[str, Any]] = []
    if isinstance(scenario, HasControlCharts):
        tallies = scenario.tallies(rows.filter(~pl.col("pending")), options).select(list(TALLIES)).to_dicts()
    part = write_part(own, run.table, name, rows) if rows.height else Part("", 0, 0)
    judged = Judged(target, part, int(rows["pending"].sum()), *_span(scenario, rows, target), tuple(tallies))
    run.store.put_json(marker, _json(judged))
    return judged


@task(name="publish-outcomes")
def publish_outcomes(run: Run, judged: Sequence[Judged]) -> Publication:
    """Swap the judged rows into the table, all partitions in one commit."""
    parts = {one.target.as_of: [one.part] if one.part.rows else [] for one in judged}
    by_bundle = {one.target.bundle: one.part for one in judged if one.part.rows}
    schema: dict[str, Any] = {}
    for part in by_bundle.values():
        schema |= scan_parts(run, [part]).collect_schema()
    if not schema:
        raise RunError(f"{run.scenario}: what was published has no rows. There is nothing to evaluate.")
    return replace_partitions(run, run.table, schema, parts)


@task(name="measure-outcomes")
def measure_outcomes(scenario: Scenario, run: Run, targets: Sequence[Target], version: int) -> pl.DataFrame:
    """The metrics of the judged rows of `targets`, by the options of the newest bundle; kept in `measures`."""
    assert isinstance(scenario, HasGroundTruth), "checked when the run was resolved"
    as_ofs = [target.as_of for target in targets]
    number = max(targets, key=lambda target: target.as_of).bundle
    options = {
        **bundles.manifest(run.store, scenario.name, number)["options"],
        **run.options.get("given", {}),
    }
    column = pl.col("as_of")
    rows = run.store.scan(run.table, version).filter(
        column.is_between(min(as_ofs), max(as_ofs)), column.is_in(as_ofs), ~pl.col("pending")
    )
    found = scenario.measures(rows, options)
    about = {"run_id": run.id, "first": min(as_ofs), "last": max(as_ofs), "observed": run.as_of}
    kept = found.with_columns(pl.lit(value).alias(name) for name, value in about.items())
    if kept.height:
        run.store.append(Layout(scenario.name).table(MEASURES), kept, once=run.id)
    return found


def track_outcomes(run: Run, metrics: pl.DataFrame) -> str | None:
    """Log the evaluation to MLflow; the address of its record. Slices with more than `_MANY` values stay in the store."""
    params = {
        "observed_until": run.as_of_text,
        "first": run.options["judged"][0][0],
        "last": run.options["judged"][-1][0],
        "judged": len(run.options["judged"]),
        **{
            f"{name}_version": number for name, number in {**run.versions, **run.options["published"]}.items()
        },
    }
    short = metrics.filter(pl.col("value_of_slice").n_unique().over("slice") <= _MANY)
    whole = short.filter(pl.col("slice") == "all").drop_nulls("value")
    headline = dict(whole.select("metric", "value").iter_rows())
    return tracking.track_run(
        run.store,
        scenario=run.scenario,
        kind="evaluate",
        run_id=run.id,
        params=params,
        metrics=headline,
        sliced=short,
    )


@task(name="remember-outcomes")
def remember_outcomes(judging: Judging, judged: Sequence[Judged]) -> None:
    """Write down what was judged, from which tables: the next run goes on from there."""
    run = judging.run
    seen = {"versions": json.dumps(dict(run.versions), sort_keys=True), "observed": run.as_of}
    rows = [
        {
            "as_of": one.target.as_of,
            "published_by": one.target.run_id,
            "bundle": one.target.bundle,
            "rows": one.part.rows,
            "pending": one.pending,
            "since": one.since,
            "until": one.until,
            "tallies": list(one.tallies),
            "run_id": run.id,
            "at": datetime.now(UTC),
            **seen,
        }
        for one in judged
    ]
    run.store.retrying(JUDGED, lambda: _remember(run, rows, judging.settled, seen))


def judged_so_far(store: Store, scenario: str) -> pl.DataFrame | None:
    """One row per judged `as_of`, oldest first; None where nothing was evaluated yet."""
    path = Layout(scenario).table(JUDGED)
    return None if store.version(path) is None else store.scan(path).sort("as_of").collect()


def _remember(
    run: Run, rows: Sequence[Mapping[str, Any]], settled: Sequence[AsOf], seen: Mapping[str, Any]
) -> None:
    path = Layout(run.scenario).table(JUDGED)
    known = judged_so_far(run.store, run.scenario)
    like = pl.select(pl.lit(run.as_of).alias("as_of")).schema["as_of"]
    schema: dict[str, Any] = {
        "as_of": like,
        "published_by": pl.String,
        "bundle": pl.Int64,
        "rows": pl.Int64,
        "pending": pl.Int64,
        "since": like,
        "until": like,
        "tallies": pl.List(pl.Struct(TALLIES)),
        "run_id": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "versions": pl.String,
        "observed": like,
    }
    fresh = pl.DataFrame(list(rows), schema=schema)
    if known is not None:
        late = pl.col("as_of").is_in(pl.Series(list(settled), dtype=like).implode())
        bumped = known.with_columns(
            pl.when(late).then(pl.lit(seen[name], schema[name])).otherwise(name).alias(name) for name in seen
        )
        if fresh.is_empty() and bumped.equals(known):
            return
        fresh = pl.concat([bumped.join(fresh, on="as_of", how="anti"), fresh]).sort("as_of")
    if fresh.height:
        write_deltalake(
            run.store.url_of(path) if known is None else run.store.table(path),
            fresh,
            mode="error" if known is None else "overwrite",
            commit_properties=CommitProperties(max_commit_retries=0),
        )


def _published(scenario: Scenario, store: Store) -> tuple[str, list[Target]]:
    """Name of the published table, and its partitions that the ledger knows, oldest first."""
    table = scenario.published({}).name
    path = Layout(scenario.name).table(table)
    entries = ledger.rows(store)
    if entries is None or store.version(path) is None:
        return table, []
    there = {as_of.isoformat(): as_of for as_of in store.as_ofs(path)}
    runs = entries.filter(scenario=scenario.name).sort("ended").unique("as_of", keep="last").collect()
    found = [
        Target(there[row["as_of"]], row["run_id"], row["bundle"])
        for row in runs.iter_rows(named=True)
        if row["as_of"] in there
    ]
    return table, sorted(found, key=lambda target: target.as_of)


def _known(store: Store, scenario: str) -> dict[AsOf, dict[str, Any]]:
    found = judged_so_far(store, scenario)
    return {} if found is None else {row["as_of"]: row for row in found.iter_rows(named=True)}


def _last(known: Mapping[str, Any] | None) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if known is None else known["at"]


class _Touched:
    """Whether a published `as_of` is due; what commits of the tables changed is looked up once."""

    def __init__(
        self,
        store: Store,
        scenario: Scenario,
        told: Outcomes,
        versions: Mapping[str, int],
        newest: AsOf,
        known: Mapping[AsOf, Mapping[str, Any]],
    ) -> None:
        self._store, self._scenario, self._newest = store, scenario, newest
        self._versions = {name: versions[name] for name in told.tables if name in versions}
        read = [json.loads(row["versions"]) for row in known.values()]
        self._oldest = {name: min((one.get(name, -1) for one in read), default=-1) for name in self._versions}
        self._spans: dict[str, list[tuple[int, str, str]]] = {}
        self._changes: dict[tuple[str, int], tuple[str, str] | None] = {}

    def __call__(self, target: Target, known: Mapping[str, Any] | None) -> bool:
        if known is None or known["published_by"] != target.run_id:
            return True
        before = json.loads(known["versions"])
        changed = {name: before.get(name, -1) for name, v in self._versions.items() if before.get(name) != v}
        if known["pending"] and (changed or known["observed"] != self._newest):
            return True
        return any(self._touches(name, after, known) for name, after in changed.items())

    def _touches(self, name: str, after: int, known: Mapping[str, Any]) -> bool:
        """Whether commits after a version changed rows of a time that the verdict depends on."""
        if (name, after) not in self._changes:
            later = [span for span in self._commits(name) if span[0] > after]
            ends = (min(begin for _, begin, _ in later), max(end for *_, end in later)) if later else None
            self._changes[name, after] = ends
        found = self._changes[name, after]
        if found is None or not known["rows"]:
            return False
        first, last = (_parsed(end, self._newest) for end in found)
        since, until = known["since"], known["until"]
        return bool((until is None or first <= until) and (since is None or last >= since))

    def _commits(self, name: str) -> list[tuple[int, str, str]]:
        """All commits of a table that any verdict is older than, read once."""
        if name not in self._spans:
            path = Layout(self._scenario.name).table(name)
            self._spans[name] = spans(self._store, path, self._oldest[name])
        return self._spans[name]


def _span(scenario: HasGroundTruth, rows: pl.DataFrame, target: Target) -> tuple[AsOf | None, AsOf | None]:
    told = scenario.outcomes
    if rows.is_empty():
        return None, None
    dated = rows.with_columns(pl.lit(target.as_of).alias("as_of"))
    ends = [None if end is None else dated.select(end).item() for end in (told.since, told.until)]
    return ends[0], ends[1]


def _within(as_of: AsOf, since: AsOf | None, until: AsOf | None) -> bool:
    if not isinstance(as_of, datetime):
        return (since is None or as_of >= _day(since)) and (until is None or as_of <= _day(until))
    begin = None if since is None else as_moment(since)
    end = None if until is None else as_moment(until, end_of)
    return (begin is None or as_of >= begin) and (end is None or as_of <= end)


def _day(when: AsOf) -> date:
    return when.date() if isinstance(when, datetime) else when


def _nothing(
    scenario: Scenario, store: Store, published: Sequence[Target], since: AsOf | None, until: AsOf | None
) -> str:
    if not published:
        return (
            f"{store.uri}: {scenario.name} has published nothing yet. There is something to evaluate after a "
            f"scoring run: python -m flows {scenario.name} --help."
        )
    begin = since.isoformat() if since else "the first"
    end = until.isoformat() if until else "the last"
    return (
        f"{scenario.name}: nothing was published from {begin} to {end}. There are {len(published)} from "
        f"{published[0].as_of.isoformat()} to {published[-1].as_of.isoformat()}: give another --from or --to."
    )


def _in_place(run: Run, part: Part) -> bool:
    return not part.rows or run.store.size(f"{run.table}/{part.path}") == part.bytes


def _parsed(text: str | None, like: AsOf) -> AsOf | None:
    return None if text is None else type(like).fromisoformat(text)


def _json(judged: Judged) -> dict[str, Any]:
    ends = {"since": judged.since, "until": judged.until}
    return {
        "part": asdict(judged.part),
        "pending": judged.pending,
        **{name: None if end is None else end.isoformat() for name, end in ends.items()},
        "tallies": [{**row, "period": row["period"].isoformat()} for row in judged.tallies],
    }
