"""Changing the champion by hand: promoting a bundle, and reverting to the previous champion."""

from dataclasses import dataclass

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from models.scenario import Scenario
from tasks.registry import bundles, registered_models
from tasks.registry.bundles import BundleError
from tasks.storage.store import Store


@dataclass(frozen=True)
class Promotion:
    """The champion now and before; `changed` is false if the bundle already was the champion."""

    champion: int
    before: int | None
    changed: bool
    reason: str


@task(name="promote")
def promote(scenario: Scenario, store: Store, number: int, reason: str) -> Promotion:
    """Make a bundle the champion, whatever the comparison decided.

    Raises `BundleError` if the bundle does not exist, has changed since it was saved, or cannot be loaded by this
    version.
    """
    before = _champion(scenario, store)
    bundles.load_model(scenario, store, number)
    if before == number:
        return Promotion(number, before, False, f"Bundle {number} is already the champion.")
    bundles.promote(store, scenario.name, number, reason)
    return Promotion(number, before, True, reason)


@task(name="roll-back")
def roll_back(scenario: Scenario, store: Store, reason: str) -> Promotion:
    """Revert to the previous champion.

    Raises `BundleError` if there is no previous champion, or for the reasons of `promote` if it cannot be used.
    """
    champion = _champion(scenario, store)
    before = _before(bundles.events(store, scenario.name))
    if champion is None or before is None:
        raise BundleError(
            f"{store.uri}: {scenario.name} has no champion before bundle {champion}. "
            f"Name one: python -m flows {scenario.name} promote --bundle N --reason TEXT"
        )
    bundles.load_model(scenario, store, before)
    bundles.roll_back(store, scenario.name, champion, before, reason)
    return Promotion(before, champion, True, reason)


@task(name="move-alias")
def move_alias(scenario: Scenario, store: Store, number: int) -> str | None:
    """Move MLflow's alias to the champion; return a note if that failed, else None.

    A failing tracking server does not undo a promotion: the store's registry is authoritative.
    """
    try:
        return registered_models.move_alias(store, scenario.name, number)
    except Exception as error:
        get_run_logger().warning("MLflow: the alias was not moved: %s", error)
        return f"MLflow's alias was not moved: {type(error).__name__}. The champion in the store is authoritative."


def _champion(scenario: Scenario, store: Store) -> int | None:
    if bundles.events(store, scenario.name) is None:
        raise BundleError(bundles.no_bundle(store, scenario.name))
    return bundles.champion(store, scenario.name)


def _before(events: pl.DataFrame | None) -> int | None:
    """The previous champion: that of the second-to-last promotion that was not rolled back."""
    champions: list[int] = []
    for event, number in events.select("event", "bundle").iter_rows() if events is not None else ():
        if event == "promoted" and champions[-1:] != [number]:
            champions.append(number)
        elif event == bundles.ROLLED_BACK and champions[-1:] == [number]:
            champions.pop()
    return champions[-2] if len(champions) > 1 else None
