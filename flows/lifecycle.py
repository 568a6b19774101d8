"""What every scenario has for its bundles and runs: look at them, promote, roll back, export."""

from collections.abc import Mapping
from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import Field

from flows.modules import Direct
from flows.settings import open_store
from models.scenario import Scenario
from tasks.registry import bundles as saved
from tasks.registry import export as exporting
from tasks.registry import promotion as promoting
from tasks.registry.bundles import BundleError
from tasks.registry.listings import bundle_lines, run_lines

Number = Annotated[int, Field(ge=1)]
Reason = Annotated[str, Field(min_length=3)]


def promotions(scenario: Scenario) -> tuple[Flow[Any, Any], Flow[Any, Any]]:
    """The flows `promote` and `rollback` of a scenario."""

    @flow(name=f"{scenario.name}-promote")
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

    @flow(name=f"{scenario.name}-rollback")
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

    def bundles(last: Number = 10, store: str | None = None) -> Mapping[str, Any]:
        """List bundles, newest first: what they were trained on, how good they are, and which is champion.

        Args:
            last: So many, at most.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened = open_store(store)
        lines = bundle_lines(opened, scenario.name, last)
        headlines = {line["bundle"]: line.pop("headline") for line in lines}
        return {
            "store": opened.uri,
            "champion": saved.champion(opened, scenario.name),
            "bundles": lines,
            "headline": _side_by_side(headlines),
            "notes": [] if lines else [saved.no_bundle(opened, scenario.name)],
        }

    def history(last: Number = 20, store: str | None = None) -> Mapping[str, Any]:
        """List published runs, newest first, as the ledger has them.

        Args:
            last: So many, at most.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened = open_store(store)
        lines = run_lines(opened, scenario.name, last)
        nothing = f"{opened.uri}: no run of {scenario.name} has published anything yet."
        return {"store": opened.uri, "runs": lines, "notes": [] if lines else [nothing]}

    def export(
        to: str, bundle: Annotated[int | None, Field(ge=1)] = None, store: str | None = None
    ) -> Mapping[str, Any]:
        """Write a bundle's estimators as ONNX, with what is needed beside them, and its own files.

        Args:
            to: Folder to write to, local, az:// or abfss://. Files of the same names are replaced.
            bundle: Number of the bundle; default: the champion.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened = open_store(store)
        number = bundle or saved.champion(opened, scenario.name)
        if number is None:
            raise BundleError(saved.no_bundle(opened, scenario.name))
        return exporting.export(scenario, opened, number, to)

    return (
        Direct(f"{scenario.name}-bundles", bundles),
        Direct(f"{scenario.name}-history", history),
        Direct(f"{scenario.name}-export", export),
    )


def _side_by_side(headlines: Mapping[int, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A line per figure, a column per bundle."""
    names = list(dict.fromkeys(name for figures in headlines.values() for name in figures))
    return [
        {"figure": name, **{f"bundle {n}": figures.get(name) for n, figures in headlines.items()}}
        for name in names
    ]
