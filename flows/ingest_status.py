"""The contents of the store's input tables, for all scenarios."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.catalogue import scenarios
from flows.modules import Direct, WithStatus
from flows.settings import open_store
from models.moments import in_words
from models.scenario import Scenario
from tasks.ingest.status import TableStatus, freshness, paced, quarantined, table_status
from tasks.storage.store import Store


def status(check: bool = False, store: str | None = None) -> Mapping[str, Any]:
    """Show what was ingested, how fresh it is, and what is in quarantine and why.

    A scenario is fresh if its data ends less than two of its cadences ago; an ingest may take two hours, or a quarter of
    the cadence, longer.

    Args:
        check: Exit with status 3 if the data of a scenario is not fresh, or there is none.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store, now = open_store(store), datetime.now(UTC)
    every = list(scenarios())
    by_scenario = {scenario: _statuses(scenario, data_store) for scenario in every}
    some = {paced(scenario, data_store): statuses for scenario, statuses in by_scenario.items() if statuses}
    summaries = [_scenario(scenario, statuses, now) for scenario, statuses in some.items()]
    notes = [
        f"{one['scenario']}: stale, its data ends {in_words(timedelta(hours=one['age_hours']))} ago; new data is "
        f"expected every {in_words(timedelta(hours=one['every_hours']))}."
        for one in summaries
        if one["fresh"] is False
    ]
    result = {
        "store": data_store.uri,
        "scenarios": summaries,
        "tables": [_table(scenario, one) for scenario, statuses in some.items() for one in statuses],
        "quarantine": [line for scenario in every for line in quarantined(data_store, scenario.name)],
        "notes": notes
        if some
        else [f"{data_store.uri}: nothing has been ingested yet. Start with: python -m flows demo"],
    }
    is_fresh = bool(some) and all(one["fresh"] is not False for one in summaries)
    return WithStatus(result, exit_status=3 if check and not is_fresh else 0)


def _statuses(scenario: Scenario, store: Store) -> list[TableStatus]:
    statuses = [table_status(scenario, store, table) for table in scenario.tables.values()]
    return [status for status in statuses if status is not None]


def _scenario(scenario: Scenario, statuses: list[TableStatus], now: datetime) -> dict[str, Any]:
    age_hours, fresh = freshness(scenario, statuses, now)
    every = scenario.cadence
    return {
        "scenario": scenario.name,
        "every_hours": None if every is None else every.total_seconds() / 3600,
        "age_hours": age_hours,
        "fresh": fresh,
    }


def _table(scenario: Scenario, status: TableStatus) -> dict[str, Any]:
    return {
        "table": f"{scenario.name}/{status.table}",
        "rows": status.rows,
        "keys": status.keys,
        "from": _moment(status.first),
        "to": _moment(status.last),
        "version": status.version,
        "written": _moment(status.written),
    }


def _moment(when: Any) -> str | None:
    if isinstance(when, datetime):
        return when.strftime("%Y-%m-%d %H:%M")
    return None if when is None else str(when)


COMMANDS = (Direct("ingest-status", status),)
