"""Evaluating published rows, or the rows of any bundle, against ground truth."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import polars as pl
from prefect import Flow, unmapped
from prefect.logging import get_run_logger
from pydantic import Field

from flows.clock import Clock
from flows.cluster import enough_workers, task_runner
from flows.drifting import watch
from flows.driver import driver_step
from flows.limits import SCORING, limited
from flows.parameters import Moment
from flows.progress import gather, over_shards
from flows.settings import open_store
from models.control import newest
from models.scenario import AsOf, EvaluatesBundles, Scenario
from tasks.monitoring.control_charts import announce_degraded, control_points
from tasks.monitoring.due import Judging, resolve_judging
from tasks.monitoring.evaluation import (
    evaluate_shards,
    measure,
    publish_evaluation,
    resolve_evaluation,
)
from tasks.monitoring.ground_truth import (
    judge,
    measure_judgements,
    publish_judgements,
    remember_judgements,
    track_judgements,
)
from tasks.scoring.runs import begin
from tasks.scoring.shards import plan
from tasks.storage.store import Store

AT_MOST, COOLDOWN_DAYS = 500, 14
_SHOWN = 26
"""The maximum number of values of a slice in a result; the table of measures has all of them."""

Count = Annotated[int, Field(ge=1, le=10_000)]
Days = Annotated[int, Field(ge=0, le=366)]


def flow_of(scenario: Scenario) -> Flow[..., dict[str, Any]]:
    """The flow `<scenario>-evaluate`."""

    def evaluate(
        from_: Moment | None = None,
        to: Moment | None = None,
        at_most: Count = AT_MOST,
        cooldown_days: Days = COOLDOWN_DAYS,
        store: str | None = None,
    ) -> dict[str, Any]:
        """Judge published rows by what happened later, and check the inputs for drift.

        Judges every published time that is due: never judged, published again, with ground truth that was pending, or
        with ground truth that was corrected. Judging twice gives the same rows. If published rows have become worse
        than chance explains, the event `almanac.<scenario>.degraded` is emitted.

        Args:
            from_: First published time or day to judge, due or not; default: those that are due.
            to: Last published time or day (all of it) to judge, due or not; default: those that are due.
            at_most: Maximum number of times to judge without from and to; the others are left for the next run.
            cooldown_days: Days after an announced degradation in which no other one is announced.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        return evaluate_published(scenario, open_store(store), from_, to, at_most, cooldown_days)

    return limited(SCORING, name=f"{scenario.name}-evaluate", task_runner=task_runner())(evaluate)


def evaluate_published(
    scenario: Scenario,
    store: Store,
    since: AsOf | None,
    until: AsOf | None,
    at_most: int,
    cooldown_days: int,
    hint: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Resolve, judge, publish, measure, track, remember: in that order, so that a stopped run is repeated.

    The control charts of all judged rows follow. `hint` is part of the error if nothing has been published. `overrides`
    take precedence over the bundle's options in the measures.
    """
    clock = Clock()
    judging = resolve_judging(scenario, store, since, until, at_most, hint, overrides)
    clock.mark("resolve")
    summary = _judging_summary(judging, clock) if judging.groups else _nothing_due(judging)
    with driver_step(judging.run, "control"):
        points = control_points(scenario, store)
        announcement = announce_degraded(scenario, store, points, cooldown_days)
    clock.mark("control")
    latest = newest(points)
    summary |= {
        "control": latest.select("series", "period", "value", "low", "centre", "high", "verdict").to_dicts(),
        "degraded": latest.filter(verdict="degraded")["series"].to_list(),
        "announced": announcement,
    }
    summary |= {"drift": watch(scenario, store)}
    clock.mark("drift")
    return summary | {"left": judging.backlog, "stages": clock.stages, "seconds": clock.seconds}


def evaluate_bundle(
    scenario: EvaluatesBundles,
    store: Store,
    since: datetime | None,
    until: datetime | None,
    bundle: int,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge the rows that a bundle would have published over a range, shard by shard, and publish the judged rows.

    `overrides` take precedence over the bundle's options.
    """
    clock = Clock()
    run = resolve_evaluation(scenario, store, since, until, bundle, overrides)
    with driver_step(run, "plan"):
        begin(run)
        shards = plan(run)
    parts = over_shards("evaluating", evaluate_shards, run, shards)
    clock.mark("evaluate")
    with driver_step(run, "publish"):
        publication = publish_evaluation(run, parts)
        metrics = measure(run, parts)
    clock.mark("publish")
    return {
        "run_id": run.id,
        "bundle": run.bundle,
        "from": run.options["score_from"],
        "to": run.options["score_to"],
        "observed_until": run.as_of.isoformat(),
        "table": publication.table,
        "version": publication.version,
        "rows": publication.rows,
        "notes": list(run.notes),
        "stages": clock.stages,
        "seconds": clock.seconds,
        "metrics": _wide(metrics),
    }


def _judging_summary(judging: Judging, clock: Clock) -> dict[str, Any]:
    run, targets = judging.run, judging.targets
    enough_workers(len(judging.groups))
    futures = judge.map(unmapped(run), [list(group) for group in judging.groups])
    results = [one for group in gather("judging", futures) for one in group]
    clock.mark("judge")
    with driver_step(run, "publish"):
        publication = publish_judgements(run, results)
        metrics = measure_judgements.submit(run, targets, publication.version).result()
        clock.mark("publish")
        record = track_judgements(run, metrics)
        remember_judgements(judging, results)
        clock.mark("track")
    pending_rows = sum(one.pending for one in results)
    get_run_logger().info("%d published times judged, %s rows pending", len(results), f"{pending_rows:,}")
    return {
        "run_id": run.id,
        "judged": len(results),
        "from": targets[0].as_of.isoformat(),
        "to": targets[-1].as_of.isoformat(),
        "observed_until": run.as_of.isoformat(),
        "table": publication.table,
        "version": publication.version,
        "rows": publication.rows,
        "pending": pending_rows,
        "metrics": _lines(metrics) if pending_rows < publication.rows else {},
        "notes": [] if pending_rows < publication.rows else ["No ground truth is known yet."],
        "mlflow_run": record,
    }


def _nothing_due(judging: Judging) -> dict[str, Any]:
    remember_judgements(judging, [])
    note = (
        "Everything published has been judged by what is known now. To judge it again, give --from and --to."
    )
    return {"run_id": judging.run.id, "judged": 0, "notes": [note]}


def _lines(metrics: pl.DataFrame) -> dict[str, Any]:
    """Overall metrics, and by slice a line per value with a column per metric; long slices are left out."""
    tables: dict[str, Any] = {}
    for (name,), rows in metrics.group_by("slice", maintain_order=True):
        wide = rows.pivot("metric", index="value_of_slice", values="value")
        lines = [{c: _rounded(value) for c, value in line.items()} for line in wide.to_dicts()]
        if name == "all":
            tables["all"] = {
                metric: value for metric, value in lines[0].items() if metric != "value_of_slice"
            }
        elif len(lines) <= _SHOWN:
            tables[str(name)] = [{str(name): line.pop("value_of_slice"), **line} for line in lines]
    return tables


def _wide(metrics: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Metrics by slice: a line per metric, a column per value of the slice."""
    tables = {}
    for (name,), rows in metrics.group_by("slice", maintain_order=True):
        wide = rows.pivot("value_of_slice", index="metric", values="value").to_dicts()
        tables[str(name)] = [{c: _rounded(v) for c, v in line.items()} for line in wide]
    return tables


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, 4)
