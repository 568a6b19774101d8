"""The flows that every scenario has for its bundles: promote, roll back."""

from typing import Annotated, Any

from prefect import Flow
from pydantic import Field

from flows.limits import BY_HAND, limited
from flows.parameters import Number
from flows.settings import open_store
from models.scenario import Scenario
from tasks.registry import promotion as promoting

Reason = Annotated[str, Field(min_length=3)]


def promotions(scenario: Scenario) -> tuple[Flow[Any, Any], Flow[Any, Any]]:
    """The flows `promote` and `rollback` of a scenario."""

    @limited(BY_HAND, name=f"{scenario.name}-promote")
    def promote(bundle: Number, reason: Reason, store: str | None = None) -> dict[str, Any]:
        """Make a bundle the champion, whatever its comparison decided.

        The registry records the change with its reason, and MLflow's alias follows. Promoting the champion
        changes nothing.

        Args:
            bundle: Number of the bundle.
            reason: The reason, for later readers of the registry.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        data_store = open_store(store)
        return _result(scenario, data_store, promoting.promote(scenario, data_store, bundle, reason))

    @limited(BY_HAND, name=f"{scenario.name}-rollback")
    def rollback(reason: Reason, store: str | None = None) -> dict[str, Any]:
        """Revert to the previous champion.

        Repeated, it reverts to the one before. The registry records the change with its reason, and MLflow's alias
        follows.

        Args:
            reason: The reason, for later readers of the registry.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        data_store = open_store(store)
        return _result(scenario, data_store, promoting.roll_back(scenario, data_store, reason))

    return promote, rollback


def _result(scenario: Scenario, store: Any, change: promoting.Promotion) -> dict[str, Any]:
    note = promoting.move_alias(scenario, store, change.champion)
    return {
        "champion": change.champion,
        "before": change.before,
        "changed": change.changed,
        "reason": change.reason,
        "notes": [note] if note else [],
    }
