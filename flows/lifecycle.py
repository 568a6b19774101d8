"""What every scenario has for its bundles and runs: look at them, promote, roll back, export."""

from typing import Annotated, Any

from prefect import Flow
from pydantic import Field

from flows.limits import BY_HAND, limited
from flows.listings import Number, of_scenario
from flows.modules import Direct
from flows.settings import open_store
from models.scenario import Scenario
from tasks.registry import promotion as promoting

Reason = Annotated[str, Field(min_length=3)]


def promotions(scenario: Scenario) -> tuple[Flow[Any, Any], Flow[Any, Any]]:
    """The flows `promote` and `rollback` of a scenario."""

    @limited(BY_HAND, name=f"{scenario.name}-promote")
    def promote(bundle: Number, reason: Reason, store: str | None = None) -> dict[str, Any]:
        """Make a bundle the champion, whatever its comparison said.

        The change is on record with its reason, and MLflow's alias follows. Promoting the champion
        changes nothing.

        Args:
            bundle: Number of the bundle.
            reason: Why, for those who read the registry later.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened = open_store(store)
        return _told(scenario, opened, promoting.promote(scenario, opened, bundle, reason))

    @limited(BY_HAND, name=f"{scenario.name}-rollback")
    def rollback(reason: Reason, store: str | None = None) -> dict[str, Any]:
        """Go back to the champion before the champion.

        Again, it goes one further back. The change is on record with its reason, and MLflow's alias follows.

        Args:
            reason: Why, for those who read the registry later.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened = open_store(store)
        return _told(scenario, opened, promoting.roll_back(scenario, opened, reason))

    return promote, rollback


def _told(scenario: Scenario, store: Any, done: promoting.Promoted) -> dict[str, Any]:
    note = promoting.move_alias(scenario, store, done.champion)
    return {
        "champion": done.champion,
        "before": done.before,
        "changed": done.changed,
        "reason": done.reason,
        "notes": [note] if note else [],
    }


def listings(scenario: Scenario) -> tuple[Direct, ...]:
    """The commands `bundles`, `history` and `export` of a scenario."""
    return of_scenario(scenario.name)
