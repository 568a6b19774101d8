"""Changing the champion by hand: promoting a bundle, and going back to the one before."""

from dataclasses import dataclass

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from models.scenario import Scenario
from tasks.registry import bundles, registered_models
from tasks.registry.bundles import BundleError
from tasks.storage.store import Store


@dataclass(frozen=True)
class Promoted:
    """The champion now and before; `changed` is false where it was the champion already."""

    champion: int
    before: int | None
    changed: bool
    reason: str


@task(name="promote")
def promote(scenario: Scenario, store: Store, number: int, reason: str) -> Promoted:
    """Make a bundle the champion, whatever its comparison said.

    Raises `BundleError` for a bundle that does not exist, was changed since it was saved, or was saved by
    another version and cannot score.
    """
    before = _champion(scenario, store)
    bundles.loaded(scenario, store, number)
    if before == number:
        return Promoted(number, before, False, f"Bundle {number} is the champion already.")
    bundles.promote(store, scenario.name, number, reason)
    return Promoted(number, before, True, reason)


@task(name="roll-back")
def roll_back(scenario: Scenario, store: Store, reason: str) -> Promoted:
    """Make the champion before the champion again: that of the last promotion that was not rolled back.

    Raises `BundleError` where there is none before, and as `promote` where it cannot be used.
    """
    champion = _champion(scenario, store)
    before = _before(bundles.events(store, scenario.name))
    if champion is None or before is None:
        raise BundleError(
            f"{store.uri}: {scenario.name} has no champion before bundle {champion}. "
            f"Name one: python -m flows {scenario.name} promote --bundle N --reason TEXT"
        )
    bundles.loaded(scenario, store, before)
    bundles.roll_back(store, scenario.name, champion, before, reason)
    return Promoted(before, champion, True, reason)


@task(name="move-alias")
def move_alias(scenario: Scenario, store: Store, number: int) -> str | None:
    """Have MLflow's alias follow the champion; what it could not do in words, None where all is well.

    A tracking server that fails does not undo a promotion: the store's registry is what counts.
    """
    try:
        return registered_models.move_alias(store, scenario.name, number)
    except Exception as error:
        get_run_logger().warning("MLflow: the alias was not moved: %s", error)
        return f"MLflow's alias was not moved: {type(error).__name__}. The store's champion is what counts."


def _champion(scenario: Scenario, store: Store) -> int | None:
    if bundles.events(store, scenario.name) is None:
        raise BundleError(bundles.no_bundle(store, scenario.name))
    return bundles.champion(store, scenario.name)


def _before(events: pl.DataFrame | None) -> int | None:
    """The champion before the champion, as promotions and the ones taken back leave it."""
    champions: list[int] = []
    for event, number in events.select("event", "bundle").iter_rows() if events is not None else ():
        if event == "promoted" and champions[-1:] != [number]:
            champions.append(number)
        elif event == bundles.ROLLED_BACK and champions[-1:] == [number]:
            champions.pop()
    return champions[-2] if len(champions) > 1 else None
