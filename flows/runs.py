"""The three kinds of run that every scenario has: ingest, train and score."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import polars as pl
from prefect import unmapped
from prefect.logging import get_run_logger

from flows.clock import Clock
from flows.cluster import enough_workers
from flows.driver import driver_step
from flows.progress import gather, in_tasks, name_run, over_shards
from flows.settings import settings
from models.errors import AlmanacError
from models.moments import time_text
from models.scenario import AsOf, Scenario
from tasks.ingest.columns import column_mapping
from tasks.ingest.pipeline import IngestResult, ingest
from tasks.page.run_page import write_page
from tasks.registry import ledger
from tasks.scoring.catch_up import covered_by, skipped, stale
from tasks.scoring.events import announce, announce_ingest, derivation_notes, derive
from tasks.scoring.publishing import complete, enter, publish, replacement_notes
from tasks.scoring.runs import (
    Run,
    RunError,
    begin,
    resolve_scoring,
    resolve_training,
    with_context_notes,
    with_notes,
)
from tasks.scoring.score import finished_result, score_shards, written_result
from tasks.scoring.shards import (
    ShardResult,
    find_gaps,
    gaps_path,
    keys_path,
    plan,
    read_frame,
    reasons,
    reconcile,
)
from tasks.scoring.watchdog import limit_seconds, remember_pace, stuck
from tasks.storage.format import state_format
from tasks.storage.store import Store
from tasks.training.fit import compare, fit, prepare_shards, track, training_shards
from tasks.training.tuning import with_tuned


def ingest_sources(
    scenario: Scenario,
    store: Store,
    sources: Mapping[str, str | None],
    columns: Sequence[str],
    shards: int | None,
    max_bad_share: float,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ingest each given source into its table, in the order of `sources`, and announce what is new."""
    clock = Clock()
    present = {name: uri for name, uri in sources.items() if uri}
    mapping = column_mapping(columns)
    results: list[IngestResult] = ingest(scenario, store, present, mapping, shards, max_bad_share, options)
    for result in results:
        get_run_logger().info(
            "%s: %s rows read, %s in quarantine, %s new or changed, %s removed",
            *(result.table, f"{result.read:,}", f"{result.quarantined:,}", f"{result.changed:,}"),
            f"{result.removed:,}",
        )
    tables = [asdict(result) for result in results]
    if (options or {}).get("dry_run"):
        return {"store": store.uri, "written": False, "tables": tables, "seconds": clock.seconds}
    state_format(store)
    news = announce_ingest(scenario, store)
    return {"store": store.uri, "tables": tables, "announced": news, "seconds": clock.seconds}


def train_bundle(
    scenario: Scenario, store: Store, as_of: AsOf | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Prepare the shards' parts, fit, and let the challenger meet the champion.

    Hyperparameters that `options` omits are those of a tuned champion, else the defaults.
    """
    clock = Clock()
    options, notes = with_tuned(scenario, store, options)
    run = resolve_training(scenario, store, as_of, options)
    name_run(f"{scenario.name}-train {time_text(run.as_of)}")
    with driver_step(run, "plan"):
        begin(run)
        if as_of is None:
            run = with_context_notes(run)
        shards = training_shards(run)
    clock.mark("plan")
    parts = sorted({*chain.from_iterable(over_shards("preparing", prepare_shards, run, shards))})
    clock.mark("prepare")
    with driver_step(run, "fit"):
        challenger = fit(run, parts)
        clock.mark("fit")
        verdict = compare(run, challenger, parts)
        clock.mark("compare")
        record = track(run, challenger, verdict)
        clock.mark("track")
    get_run_logger().info("Bundle %d: %s", challenger.bundle, verdict.reason)
    return {
        "run_id": run.id,
        "as_of": run.as_of.isoformat(),
        "bundle": challenger.bundle,
        "promoted": verdict.promoted,
        "champion": verdict.champion,
        "reason": verdict.reason,
        "loss": challenger.loss,
        "headline": dict(challenger.headline),
        "notes": [*run.notes, *notes, *challenger.notes, *stuck(run)],
        "mlflow_run": record,
        "stages": clock.stages,
        "seconds": clock.seconds,
    }


def score(
    scenario: Scenario,
    store: Store,
    flow: str,
    as_of: AsOf | None,
    bundle: int | None,
    options: Mapping[str, Any],
    *,
    dry_run: bool,
    again: bool = False,
    max_failed_share: float = 0.05,
) -> dict[str, Any]:
    """Resolve, plan, map, reconcile, publish, report: see "A scoring run" in docs/design.md.

    The ledger comes last: a run that is not in it is repeated, so that nothing is missing.
    """
    clock = Clock()
    run = resolve_scoring(scenario, store, flow, as_of, bundle, options, again=again)
    name_run(f"{scenario.name}-{flow} {time_text(run.as_of)}")
    with driver_step(run, "plan"):
        if as_of is None:
            notes = [*stale(scenario, store, run.as_of), *skipped(scenario, store, flow, run.as_of)]
            run = with_notes(run, notes)
        begin(run)
        if as_of is None:
            run = with_context_notes(run)
        shards = plan(run)
        find_gaps(run)
    clock.mark("plan")
    results = _score_shards(run, shards)
    clock.mark("score")
    counts = reconcile(run, results)
    _refuse_failures(run, results, counts, max_failed_share)
    summary = _summary(run, counts)
    if dry_run:
        return summary | _unpublished_summary(
            run, clock, "Dry run: nothing was published; the scored shards are kept."
        )
    other = ledger.other_run(store, scenario.name, flow, run.as_of, run.id)
    if newer := covered_by(run, other):
        note = f"Run {newer} has published {time_text(run.as_of)} from newer data: these rows are no longer needed."
        return summary | _unpublished_summary(run, clock, note) | {"covered_by": newer}
    with driver_step(run, "publish"):
        return _publish(run, results, counts, clock, other)


def _publish(
    run: Run,
    results: list[ShardResult],
    counts: dict[str, int],
    clock: Clock,
    other: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Publish the rows, write the page, report, and copy the rows to a SQL database if one is named; return the summary.

    `other` is the run that has published the same `as_of` before, if there is one.
    """
    data_files = complete(run, results)
    publication = publish(run, data_files)
    run = with_notes(run, replacement_notes(run, publication, other))
    events = derive(run)
    clock.mark("publish")
    page = write_page(run, results, data_files)
    clock.mark("page")
    summary = _summary(run, counts) | {
        "published": True,
        "table": publication.table,
        "version": publication.version,
        "rows": publication.rows,
        "page": page,
        "events": dict(Counter(event.name for event in events)),
        "reused_shards": sum(o.reused for o in results),
        "notes": [
            *run.notes,
            *_failed_keys(run, results, counts),
            *stuck(run),
            *derivation_notes(run),
            *(["These rows had been published before."] if publication.already else []),
        ],
        "stages": clock.stages,
        "seconds": clock.seconds,
    }
    announce(run, summary, publication, events)
    enter(run, counts, results, is_published=not publication.already)
    _log_publication(run.as_of, summary, len(results))
    if url := settings().sql_url:
        from tasks.sql.publish import publish_sql

        summary |= {"sql": publish_sql(run, url)}
    return summary


def _log_publication(as_of: AsOf, summary: Mapping[str, Any], shards: int) -> None:
    """Log the outcome of a published run, and its notes."""
    get_run_logger().info(
        "Published %s rows as of %s in version %d of %s; %d of %d shards are from an earlier start",
        *(f"{summary['rows']:,}", time_text(as_of), summary["version"], summary["table"]),
        *(summary["reused_shards"], shards),
    )
    for note in summary["notes"]:
        get_run_logger().info("%s", note)


def _summary(run: Run, counts: Mapping[str, int]) -> dict[str, Any]:
    gaps = read_frame(run, gaps_path(run)).to_dicts()
    return {"run_id": run.id, "as_of": run.as_of.isoformat(), "bundle": run.bundle, **counts, "gaps": gaps}


def _score_shards(run: Run, shards: Mapping[int, int]) -> list[ShardResult]:
    """One result per shard, from an earlier start of the run if there is one.

    If no attempt could score a shard, because storage did not answer or its workers died, its keys are not to blame:
    once all other shards are done, `RunError` names it. An error that says what to do, such as a bundle that cannot be
    loaded, ends the run at once.
    """
    earlier = [result for shard in shards if (result := finished_result(run, shard))]
    rest = {shard: shards[shard] for shard in shards.keys() - {one.shard for one in earlier}}
    new, shard_errors = _score_pending(run, rest)
    for note in stuck(run):
        get_run_logger().warning(note)
    if shard_errors:
        errors = "\n".join(
            f"  shard {shard}: {error[:500]}" for shard, error in list(shard_errors.items())[:10]
        )
        raise RunError(
            f"{run.scenario.name}: {len(shard_errors):,} of {len(shards):,} shards could not be scored, each tried "
            f"several times. Nothing was published.\n{errors}\n"
            "Shards that were scored are kept: correct the cause and run again."
        )
    return sorted([*earlier, *new], key=lambda result: result.shard)


def _score_pending(run: Run, shards: Mapping[int, int]) -> tuple[list[ShardResult], dict[int, str]]:
    """Results of the shards that could be scored, and the error of each other shard.

    Small shards share a task. If that task fails, the first of its shards without a result is at fault; those after it
    are tried without it.
    """
    again = [shard for shard in shards if written_result(run, shard)]
    groups = in_tasks(shards, alone=again)
    all_results: list[ShardResult] = []
    errors: dict[int, str] = {}
    while groups:
        results, groups = _score_groups(run, groups, errors)
        all_results.extend(replace(one, reused=False) for one in results)
    remember_pace(run, all_results)
    return all_results, errors


def _score_groups(
    run: Run, groups: Sequence[Sequence[int]], errors: dict[int, str]
) -> tuple[list[ShardResult], list[list[int]]]:
    """Results of groups of shards, a task each, and the groups that remain without the shards at fault.

    The errors of shards at fault are entered into `errors`.
    """
    next_groups: list[list[int]] = []

    def keep_error(position: int, error: Exception) -> list[ShardResult]:
        if isinstance(error, AlmanacError):
            raise error
        group = groups[position]
        candidates = [written_result(run, shard) for shard in group] if len(group) > 1 else []
        results = [result for result in candidates if result]
        rest = [shard for shard in group if shard not in {one.shard for one in results}]
        if rest:
            get_run_logger().error("Shard %d: %s", rest[0], error)
            errors[rest[0]] = f"{type(error).__name__}: {error}"
        if rest[1:]:
            next_groups.append(rest[1:])
        return results

    limit = limit_seconds(run, settings().stuck_seconds)
    enough_workers(len(groups))
    futures = score_shards.map(unmapped(run), groups, limit)
    longest = max(len(group) for group in groups)
    by_group = gather("scoring", futures, keep_error, stuck_seconds=6 * limit * longest)
    return [*chain.from_iterable(by_group)], next_groups


def _refuse_failures(
    run: Run, results: Sequence[ShardResult], counts: Mapping[str, int], max_failed_share: float
) -> None:
    """Raise `RunError` if more keys failed than a published run may have."""
    if counts["failed"] > max_failed_share * counts["requested"]:
        lines = "\n".join(f"  {count:,} {reason}" for reason, count in list(reasons(results).items())[:10])
        raise RunError(
            f"{run.scenario.name}: {counts['failed']:,} of {counts['requested']:,} keys failed; "
            f"at most {max_failed_share:.0%} may fail. Nothing was published.\n{lines}\n"
            "Shards that were scored are kept: correct the cause and run again."
        )


def _failed_keys(run: Run, results: Sequence[ShardResult], counts: Mapping[str, int]) -> list[str]:
    """A note that names the first ten failed keys; none if no key failed."""
    if not counts["failed"]:
        return []
    frames = [read_frame(run, keys_path(run, one.shard)) for one in results if one.failed]
    rows = pl.concat(frames).filter(status="failed").sort(run.scenario.key)
    names = [
        " ".join(str(part) for part in key) for key in rows.select(run.scenario.key).head(10).iter_rows()
    ]
    more = f" and {rows.height - 10:,} more" if rows.height > 10 else ""
    return [
        f"{rows.height:,} of {counts['requested']:,} keys failed and have no rows: {', '.join(names)}{more}. "
        f"The first error: {rows['reason'][0]}"
    ]


def _unpublished_summary(run: Run, clock: Clock, note: str) -> dict[str, Any]:
    get_run_logger().info("%s", note)
    return {
        "published": False,
        "table": run.table,
        "version": None,
        "page": None,
        "notes": [*run.notes, note],
        "stages": clock.stages,
        "seconds": clock.seconds,
    }
