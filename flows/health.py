"""The health of the scenarios of a store, in one line each."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from flows.catalogue import scenarios
from flows.modules import Direct, WithStatus
from flows.settings import open_store
from tasks.monitoring.health import Health, health, prometheus
from tasks.storage.store import Store


def check(metrics: bool = False, store: str | None = None) -> Mapping[str, Any]:
    """Show, for each scenario, what is published and what is due, and the age of its data and its champion.

    The exit status is 3 if a scenario is late, because its last complete time is not published, or stale, because no
    new data arrives; also if nothing has been ingested, because the store may be another one.

    Args:
        metrics: Print the figures in Prometheus's text format.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    reports = all_health(data_store)
    late = [one.scenario for one in reports if one.late]
    stale = [one.scenario for one in reports if one.stale]
    notes = [f"{name}: the last complete time is not published." for name in late]
    notes += [f"{name}: no new data arrives." for name in stale]
    if not reports:
        notes = [f"{data_store.uri}: nothing has been ingested yet. Start with: python -m flows demo"]
    ok = bool(reports) and not (late or stale)
    result = {
        "store": data_store.uri,
        "ok": ok,
        "scenarios": [asdict(one) for one in reports],
        "notes": notes,
    }
    lines = [*map(str, reports), *notes]
    text = prometheus(reports) if metrics else "\n".join(lines) + "\n"
    return WithStatus(result, exit_status=0 if ok else 3, text=text)


def all_health(store: Store) -> list[Health]:
    """The current health of each scenario with ingested data."""
    now = datetime.now(UTC)
    return [one for scenario in scenarios() if (one := health(scenario, store, now)) is not None]


COMMANDS = (Direct("health", check),)
