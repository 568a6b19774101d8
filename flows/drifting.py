"""The part of every scenario's evaluation that compares the bundle's inputs with its training."""

from typing import Any

from prefect.logging import get_run_logger

from flows.clock import Clock
from flows.driver import driver_step
from flows.progress import over_shards
from models.drift import Rule
from models.moments import shortened, time_text
from models.scenario import Scenario
from tasks.monitoring.drift import (
    accuracy_since,
    announce_drift,
    measure_drift,
    publish_drift,
    reason,
    resolve_watching,
    seen_by_bundle,
    watch_shards,
    watched_shards,
)
from tasks.scoring.shards import plan
from tasks.storage.store import Store

SHOWN = (
    *("rank", "feature", "kind", "drifted", "psi", "limit", "p_value"),
    *("mean_before", "mean_now", "missing_now", "unseen"),
)


def watch(scenario: Scenario, store: Store, *, cooldown_days: float = 28) -> dict[str, Any]:
    """Compare the last cycle with the training data of its bundle; announce drift, then not again for `cooldown_days`.

    A cycle that the bundle was trained on is not compared.
    """
    clock = Clock()
    rule = Rule()
    run = resolve_watching(scenario, store, None, rule)
    result: dict[str, Any] = {"run_id": run.id, "as_of": run.as_of.isoformat(), "bundle": run.bundle}
    if seen_by_bundle(run):
        until = shortened(run.options["trained_as_of"])
        note = f"Bundle {run.bundle} was trained on data up to {until}: there is no newer data."
        return result | {"drifted": [], "announced": False, "notes": [note], "seconds": clock.seconds}
    with driver_step(run, "plan"):
        counts = plan(run)
        shards = watched_shards(counts)
    over_shards("watching", watch_shards, run, {shard: counts[shard] for shard in shards})
    with driver_step(run, "publish"):
        lines = measure_drift(run, shards, rule)
        is_announced = publish_drift(run, lines, cooldown_days)
        accuracy = accuracy_since(run)
        if is_announced:
            announce_drift(run, lines, accuracy)
    alarms = lines.filter("drifted")
    message = reason(run, alarms) if alarms.height else f"Nothing has drifted as of {time_text(run.as_of)}."
    get_run_logger().info(message)
    return result | {
        "drifted": alarms["feature"].to_list(),
        "announced": is_announced,
        "accuracy": accuracy,
        "features": lines.select(SHOWN).to_dicts(),
        "notes": [message],
        "seconds": clock.seconds,
    }
