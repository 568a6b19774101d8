"""Tuning: the run of a study, its folds, and a single trial."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import task

from models.errors import AlmanacError
from models.moments import time_text
from models.scenario import AsOf, HasSearch, Scenario, Search
from models.search import given_up, of_options
from tasks.registry import bundles
from tasks.scoring.runs import Run, input_versions, read_context, scans
from tasks.scoring.watchdog import shard_task
from tasks.storage.store import Store, digest
from tasks.training.fit import parts_of, write_parts
from tasks.training.study import COMPLETE, PRUNED, STOPPED, TrialResult

STUDY = "study"
"""The option that names the study that found a bundle's hyperparameters."""
_OF_SEARCH = ("search_seed", "at_once")


class TuningError(AlmanacError):
    """The scenario cannot be tuned, or its stored data is insufficient."""


def search_of(scenario: Scenario) -> Search:
    """The search of a scenario. Raises `TuningError` if it has none."""
    if not isinstance(scenario, HasSearch):
        raise TuningError(
            f"{scenario.name} has no hyperparameters to search. Expected a scenario with `search`; "
            "see docs/own_scenario.md."
        )
    return scenario.search


@task(name="resolve-study")
def resolve_study(
    scenario: Scenario, store: Store, as_of: AsOf | None, defaults: Mapping[str, Any], seed: int, at_once: int
) -> Run:
    """The run that tunes on the newest tables, cut at `as_of`, with the champion's options, else `defaults`.

    Its id depends neither on the champion's hyperparameters nor on the number of trials, so that the study can be
    continued after its winner was promoted, or after it was stopped.
    """
    left_out = {STUDY, *search_of(scenario).space}
    versions = input_versions(scenario, store)
    time = scenario.resolve_as_of(scans(scenario, store, versions), as_of, datetime.now(UTC))
    champion = bundles.champion(store, scenario.name)
    current = defaults if champion is None else bundles.manifest(store, scenario.name, champion)["options"]
    base = {name: value for name, value in current.items() if name not in left_out}
    options = base | {"search_seed": seed, "at_once": at_once}
    return Run(scenario, "tune", store, time, versions, options)


def with_tuned(
    scenario: Scenario, store: Store, options: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Options to train with, and notes: the given options, else the champion's hyperparameters if it was tuned.

    Options of a study are not changed.
    """
    explicit = {name: value for name, value in options.items() if value is not None}
    champion = bundles.champion(store, scenario.name)
    if champion is None or not isinstance(scenario, HasSearch) or STUDY in explicit:
        return explicit, []
    its_options = bundles.manifest(store, scenario.name, champion)["options"]
    if STUDY not in its_options:
        return explicit, []
    hyperparameters = {
        name: its_options[name] for name in (*scenario.search.space, STUDY) if name in its_options
    }
    note = f"Hyperparameters are those of champion {champion}, from study {its_options[STUDY]}."
    return hyperparameters | explicit, [note]


def base_of(run: Run) -> dict[str, Any]:
    """The options of a study that no trial sets."""
    return {name: value for name, value in run.options.items() if name not in _OF_SEARCH}


def incumbent(run: Run) -> dict[str, Any]:
    """The hyperparameters that a training would use now: those of a tuned champion, else the defaults."""
    search = search_of(run.scenario)
    options, _ = with_tuned(run.scenario, run.store, base_of(run))
    return of_options(search.space, search.defaults(options))


def _prepare_shard(run: Run, shard: int) -> list[str]:
    """Write the training parts of a shard for all trials; return their names."""
    return write_parts(run, shard, search_of(run.scenario).prepare)


prepare_study = shard_task(_prepare_shard, "prepare-study", "prepare-study")


@task(name="find-folds")
def find_folds(run: Run, names: Sequence[str]) -> list[str]:
    """The names of the folds; the last one judges. Raises `TuningError` if there are fewer than two."""
    folds = search_of(run.scenario).folds(parts_of(run, names), run.as_of, base_of(run)) if names else []
    if len(folds) < 2:
        raise TuningError(
            f"{run.store.uri}: up to {time_text(run.as_of)} there is too little history of {run.scenario.name} to tune on: "
            f"{len(folds)} fold{'' if len(folds) == 1 else 's'}. Expected at least two, one to search by and one to "
            "judge. Ingest more history, or give a later --as-of."
        )
    return folds


@task(name="try-out", task_run_name="try-out-{number}")
def try_out(
    run: Run,
    names: Sequence[str],
    number: int,
    values: Mapping[str, Any],
    folds: int,
    bars: Sequence[float],
    until: float | None,
) -> TrialResult:
    """Losses of `values` on the first `folds` folds, one after the other until the trial is pruned; see `given_up`.

    Values that were tried before are not tried again, whatever the number of the trial. No fold starts after `until`,
    in seconds since 1970.
    """
    path = run.path(f"trials/{digest([dict(values), folds])[:16]}.json")
    record = run.store.get_json(path)
    if record is not None:
        return TrialResult(record["state"], tuple(record["losses"]), record["seconds"])
    start = time.monotonic()
    losses: list[float] = []
    context = read_context(run.store, run.folder)
    options = base_of(run) | dict(values) | {"threads": 1}
    fold_losses = search_of(run.scenario).losses(parts_of(run, names), context, run.as_of, options)
    state = COMPLETE
    for _ in range(folds):
        if until is not None and time.time() > until:
            return TrialResult(STOPPED, tuple(losses), _since(start))
        loss = next(fold_losses)
        if not math.isfinite(loss):
            raise TuningError(
                f"Fold {len(losses) + 1} has nothing to measure. Expected rows with ground truth."
            )
        losses.append(float(loss))
        if len(losses) < folds and given_up(losses, bars):
            state = PRUNED
            break
    result = TrialResult(state, tuple(losses), _since(start))
    run.store.put_json(path, {"number": number, "values": dict(values), **result.__dict__})
    return result


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)
