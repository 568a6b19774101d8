"""Looking at the health of a store again and again, and telling what is late."""

from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_table_artifact

from flows.health import found_in
from flows.limits import BY_HAND, limited
from flows.settings import open_store
from models.scenario import Event
from tasks.scoring.events import emit


@limited(BY_HAND, name="health-watch")
def watch(store: str | None = None) -> dict[str, Any]:
    """Look at every scenario as `health` does, and tell by an event which ones are late.

    `almanac.<scenario>.late` is emitted once for each time that is due and not published; staleness is told by the
    scoring runs themselves.

    Args:
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    opened = open_store(store)
    found = found_in(opened)
    for one in found:
        if one.late:
            told = {"due": one.due, "published": one.published, "store": opened.uri}
            emit(opened, one.scenario, Event("late", one.scenario, told), str(one.due))
    if found:
        create_table_artifact(
            [asdict(one) for one in found], key="health", description="How the scenarios do"
        )
    return {"store": opened.uri, "late": [one.scenario for one in found if one.late]}
