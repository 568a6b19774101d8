"""Options that the first ingest into a store fixes, because every stored row depends on them."""

import json
from collections.abc import Mapping
from typing import Any

from models.scenario import Scenario
from tasks.storage.faults import StoreError
from tasks.storage.layout import Layout
from tasks.storage.store import Store

SHARDS = 32


def fixed_options(
    scenario: Scenario, store: Store, requests: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`shards` and the scenario's other fixed options: as in the store, else as `requests`, else the default.

    None: no preference. Raises `StoreError` if a request differs from a fixed value.
    """
    defaults = {"shards": SHARDS, **scenario.fixed_options}
    has_data = any(store.version(Layout(scenario.name).table(name)) is not None for name in scenario.tables)
    facts = (store.get_json(_path(scenario)) or {}) if has_data else {}
    _check(scenario, store, facts, requests or {})
    wishes = {name: (requests or {}).get(name) for name in defaults}
    return defaults | {name: wish for name, wish in wishes.items() if wish is not None} | facts


def fix_options(scenario: Scenario, store: Store, facts: Mapping[str, Any]) -> None:
    """Fix `facts` unless they are fixed already. Raises `StoreError` if another ingest fixed other values."""
    if not store.create(_path(scenario), json.dumps(facts, sort_keys=True).encode()):
        _check(scenario, store, store.get_json(_path(scenario)) or {}, facts)


def _check(scenario: Scenario, store: Store, facts: Mapping[str, Any], requests: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        request = requests.get(name)
        if request not in (None, value):
            fact = f"{value} {name}" if isinstance(value, int) else f"{name} {value}"
            option = name.replace("_", "-")
            raise StoreError(
                f"{store.uri}: {scenario.name} was ingested with {fact}; {request} was requested. "
                f"Leave --{option} out, or ingest into a new --store."
            )


def _path(scenario: Scenario) -> str:
    return Layout(scenario.name).options
