"""Watching the health of a store on a schedule, and reporting what is late."""

from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_table_artifact

from flows.health import all_health
from flows.limits import BY_HAND, limited
from flows.settings import open_store
from models.scenario import Event
from tasks.scoring.events import emit, showing


@limited(BY_HAND, name="health-watch")
def watch(store: str | None = None) -> dict[str, Any]:
    """Check every scenario as `health` does, and emit an event for those that are late.

    `almanac.<scenario>.late` is emitted once for each time that is due and not published; the scoring runs report stale
    data themselves.

    Args:
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    reports = all_health(data_store)
    for one in reports:
        if one.late:
            payload = {"due": one.due, "published": one.published, "store": data_store.uri}
            emit(data_store, one.scenario, Event("late", one.scenario, payload), str(one.due))
    if reports:
        rows = [asdict(one) for one in reports]
        with showing("The health of the scenarios"):
            create_table_artifact(rows, key="health", description="Health of the scenarios")
    return {"store": data_store.uri, "late": [one.scenario for one in reports if one.late]}
