"""Tuning: what a study uses, one trial, and what judges the winner."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import task

from models.errors import AlmanacError
from models.scenario import AsOf, HasSearch, Scenario, Search
from models.search import given_up, of_options
from tasks.registry import bundles
from tasks.scoring.runs import Run, context, input_versions, scans
from tasks.scoring.shards import name_of_shards
from tasks.storage.store import Store, digest
from tasks.training.fit import names_of_parts, parts_of, write_parts
from tasks.training.study import COMPLETE, PRUNED, STOPPED, Tried

STUDY = "study"
"""Option that names the study a bundle's hyperparameters come from."""
_OF_SEARCH = ("search_seed", "at_once")


class TuningError(AlmanacError):
    """The scenario, or what is stored of it, cannot be tuned."""


def search_of(scenario: Scenario) -> Search:
    """How the scenario is searched. Raises `TuningError` where it cannot be."""
    if not isinstance(scenario, HasSearch):
        raise TuningError(
            f"{scenario.name} has no hyperparameters to search. Expected a scenario with `search`; "
            "see docs/own_scenario.md."
        )
    return scenario.search


@task(name="resolve-study")
def resolve_study(
    scenario: Scenario,
    store: Store,
    as_of: AsOf | None,
    defaults: Mapping[str, Any],
    seed: int,
    at_once: int,
) -> Run:
    """The run that tunes on the newest tables, cut at `as_of`, with the champion's options, else `defaults`.

    Neither the hyperparameters of the champion are part of it, nor how many trials there are to be: so the
    study goes on after its winner was promoted, and where it was stopped.
    """
    left_out = {STUDY, *search_of(scenario).space}
    versions = input_versions(scenario, store)
    resolved = scenario.resolve_as_of(scans(scenario, store, versions), as_of, datetime.now(UTC))
    champion = bundles.champion(store, scenario.name)
    known = defaults if champion is None else bundles.manifest(store, scenario.name, champion)["options"]
    kept = {name: value for name, value in known.items() if name not in left_out}
    options = kept | {"search_seed": seed, "at_once": at_once}
    return Run(scenario.name, "tune", store, resolved, versions, options)


def with_tuned(
    scenario: Scenario, store: Store, options: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Options to train with, and a note: those given, else the champion's hyperparameters where it was tuned.

    Options of a study are left as they are.
    """
    given = {name: value for name, value in options.items() if value is not None}
    champion = bundles.champion(store, scenario.name)
    if champion is None or not isinstance(scenario, HasSearch) or STUDY in given:
        return given, []
    known = bundles.manifest(store, scenario.name, champion)["options"]
    if STUDY not in known:
        return given, []
    tuned = {name: known[name] for name in (*scenario.search.space, STUDY) if name in known}
    note = f"Hyperparameters are those of champion {champion}, from study {known[STUDY]}."
    return tuned | given, [note]


def base_of(run: Run) -> dict[str, Any]:
    """The options of a study that no trial sets."""
    return {name: value for name, value in run.options.items() if name not in _OF_SEARCH}


def incumbent(scenario: Scenario, run: Run) -> dict[str, Any]:
    """The hyperparameters that a training would use now: the champion's where it was tuned, else the defaults."""
    search = search_of(scenario)
    options, _ = with_tuned(scenario, run.store, base_of(run))
    return of_options(search.space, search.defaults(options))


@task(name="prepare-study", task_run_name=name_of_shards("prepare-study"), retries=1, retry_delay_seconds=1)
def prepare_study(scenario: Scenario, run: Run, shards: Sequence[int]) -> list[str]:
    """Write what shards contribute to all trials; the names of their parts. Done parts are kept."""
    prepare = search_of(scenario).prepare
    return names_of_parts(write_parts(scenario, run, shard, prepare) for shard in shards)


@task(name="find-folds")
def find_folds(scenario: Scenario, run: Run, names: Sequence[str]) -> list[str]:
    """What the folds are called, the judging one last. Raises `TuningError` for fewer than two."""
    folds = search_of(scenario).folds(parts_of(run, names), run.as_of, base_of(run)) if names else []
    if len(folds) < 2:
        raise TuningError(
            f"{run.store.uri}: up to {run.as_of} there is too little history of {run.scenario} to tune on: "
            f"{len(folds)} fold{'' if len(folds) == 1 else 's'}. Expected two at least, one to search by and one to "
            "judge. Ingest more history, or give a later --as-of."
        )
    return folds


@task(name="try-out", task_run_name="try-out-{number}")
def try_out(
    scenario: Scenario,
    run: Run,
    names: Sequence[str],
    number: int,
    values: Mapping[str, Any],
    folds: int,
    bars: Sequence[float],
    until: float | None,
) -> Tried:
    """Losses of `values` at the first `folds` folds, one after the other until one says to give up; see `bars`.

    A trial that was tried before is not tried again, whatever its number. After `until`, in seconds since
    1970, no fold is begun.
    """
    path = run.path(f"trials/{digest([dict(values), folds])[:16]}.json")
    known = run.store.get_json(path)
    if known is not None:
        return Tried(known["state"], tuple(known["losses"]), known["seconds"])
    begun = time.monotonic()
    losses: list[float] = []
    shared = context(run.store, run.folder)
    options = base_of(run) | dict(values) | {"threads": 1}
    coming = search_of(scenario).losses(parts_of(run, names), shared, run.as_of, options)
    state = COMPLETE
    for _ in range(folds):
        if until is not None and time.time() > until:
            return Tried(STOPPED, tuple(losses), _since(begun))
        loss = next(coming)
        if not math.isfinite(loss):
            raise TuningError(
                f"Fold {len(losses) + 1} has nothing to measure. Expected rows with an outcome."
            )
        losses.append(float(loss))
        if len(losses) < folds and given_up(losses, bars):
            state = PRUNED
            break
    tried = Tried(state, tuple(losses), _since(begun))
    run.store.put_json(path, {"number": number, "values": dict(values), **tried.__dict__})
    return tried


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)
