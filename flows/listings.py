"""Commands that list a scenario's bundles and runs. They are not flows and need no server."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flows import catalogue
from flows.modules import Direct
from flows.parameters import Bundle, Number
from flows.settings import open_store
from models.scenario import Scenario
from tasks.registry import bundles as saved
from tasks.registry.bundles import BundleError
from tasks.registry.listings import bundle_lines, run_lines


def listings(scenario: Scenario) -> tuple[Direct, ...]:
    """The commands `bundles`, `history` and `export` of a scenario."""
    name = scenario.name
    return tuple(
        Direct(f"{name}-{function.__name__}", _for(function, name)) for function in (bundles, history, export)
    )


def _for(function: Callable[..., Mapping[str, Any]], name: str) -> Callable[..., Mapping[str, Any]]:
    """The function for one scenario, with its own name and docstring."""
    bound = partial(function, name)
    bound.__name__, bound.__doc__ = function.__name__, function.__doc__  # type: ignore[attr-defined]
    return bound


def bundles(scenario: str, last: Number = 10, store: str | None = None) -> Mapping[str, Any]:
    """List bundles, newest first: what they were trained on, how good they are, and which is champion.

    Args:
        last: Maximum number of bundles.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    lines = bundle_lines(data_store, scenario, last)
    headlines = {line["bundle"]: line.pop("headline") for line in lines}
    return {
        "store": data_store.uri,
        "champion": saved.champion(data_store, scenario),
        "bundles": lines,
        "headline": _side_by_side(headlines),
        "notes": [] if lines else [saved.no_bundle(data_store, scenario)],
    }


def history(scenario: str, last: Number = 20, store: str | None = None) -> Mapping[str, Any]:
    """List published runs from the ledger, newest first.

    Args:
        last: Maximum number of runs.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    lines = run_lines(data_store, scenario, last)
    nothing = f"{data_store.uri}: no run of {scenario} has published anything yet."
    return {"store": data_store.uri, "runs": lines, "notes": [] if lines else [nothing]}


def export(scenario: str, to: str, bundle: Bundle = None, store: str | None = None) -> Mapping[str, Any]:
    """Write a bundle's estimators as ONNX, with what a caller needs to use them, and its own files.

    Args:
        to: Folder to write to, local, az:// or abfss://. Existing files are replaced.
        bundle: Number of the bundle; default: the champion.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    from tasks.registry import export as exporting

    data_store = open_store(store)
    number = bundle or saved.champion(data_store, scenario)
    if number is None:
        raise BundleError(saved.no_bundle(data_store, scenario))
    return exporting.export(catalogue.scenario(scenario), data_store, number, to)


def _side_by_side(headlines: Mapping[int, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A line per figure, a column per bundle."""
    names = list(dict.fromkeys(name for figures in headlines.values() for name in figures))
    return [
        {"figure": name, **{f"bundle {n}": figures.get(name) for n, figures in headlines.items()}}
        for name in names
    ]
