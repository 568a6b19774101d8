"""Tuning: a study of trials, and its winner as a challenger. One flow for every scenario."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Annotated, Any

from prefect import Flow, unmapped
from prefect.logging import get_run_logger
from pydantic import Field

from flows.clock import Clock
from flows.cluster import enough_workers, task_runner
from flows.driver import driver_step
from flows.limits import TUNING, limited
from flows.parameters import Moment, seconds
from flows.progress import gather, over_shards
from flows.runs import train_bundle
from flows.settings import open_store
from models.page.study import StudyView, choices, sections
from models.scenario import AsOf, Scenario
from models.search import bars
from tasks.page.study_page import announce_study, write_study_page
from tasks.registry.tracking import track_run
from tasks.scoring.runs import Run, begin
from tasks.storage.store import Store, digest
from tasks.training.fit import training_shards
from tasks.training.study import FAILED, Study, TrialResult, open_study
from tasks.training.tuning import (
    STUDY,
    TuningError,
    base_of,
    find_folds,
    incumbent,
    prepare_study,
    resolve_study,
    search_of,
    try_out,
)

Trials = Annotated[int, Field(ge=1, le=10_000)]
AtOnce = Annotated[int, Field(ge=1, le=1_000)]


def flow_of(
    scenario: Scenario, defaults: Callable[[Store], Mapping[str, Any]] = lambda _: {}
) -> Flow[..., dict[str, Any]]:
    """The flow `<scenario>-tune`; `defaults(store)` are the options to start from if there is no champion."""

    @limited(TUNING, name=f"{scenario.name}-tune", task_runner=task_runner())
    def tune(
        as_of: Moment | None = None,
        trials: Trials = 50,
        timeout: str | None = None,
        at_once: AtOnce = 4,
        seed: int = 7,
        store: str | None = None,
    ) -> dict[str, Any]:
        """Search for better hyperparameters; a winner that is better on unseen data becomes a challenger.

        Start an interrupted study again with the same parameters to continue it: finished trials are kept. It
        also continues with a larger number of trials.

        Args:
            as_of: Time up to which data is used; default: the last complete week, hour or telemetry.
            trials: Total number of trials of the study.
            timeout: When to stop, counted from now: 90s, 10m or 2h. Default: when there are enough trials.
            at_once: Number of trials that are proposed together; at least the number of workers. The
                result depends on it, not on the workers.
            seed: Seed of the search.
            store: URI of the store; default: ALMANAC_STORE, or ./store.
        """
        opened_store = open_store(store)
        options = defaults(opened_store)
        return tune_scenario(scenario, opened_store, as_of, options, trials, timeout, at_once, seed)

    return tune


@dataclass(frozen=True)
class _Searching:
    """Values shared by all trials of a study."""

    run: Run
    parts: list[str]
    folds: list[str]

    def try_out(
        self,
        numbers: Sequence[int],
        values: Sequence[Mapping[str, Any]],
        folds: int,
        limits: Sequence[float],
        until: float | None,
    ) -> list[TrialResult]:
        """The results of trying each of the `values`, in parallel."""
        enough_workers(len(values))
        futures = try_out.map(
            unmapped(self.run),
            unmapped(self.parts),
            [*numbers],
            [dict(each) for each in values],
            unmapped(folds),
            unmapped(limits),
            unmapped(until),
        )
        return gather(f"trials {numbers[0]} to {numbers[-1]}", futures, self._failed)

    def _failed(self, _: int, error: Exception) -> TrialResult:
        get_run_logger().warning("A trial failed: %s", error)
        return TrialResult(FAILED, reason=f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Verdict:
    """The winner against the incumbent: values, losses on all folds, and whether it is better on the unseen fold."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    losses_before: Sequence[float] = ()
    losses_after: Sequence[float] = ()
    better: bool = False
    reason: str = ""

    def summary(self, unseen_fold: str) -> dict[str, Any]:
        """The losses before and after on the folds of the search and on the unseen one, each None without a winner."""
        unseen = self._figures(lambda losses: losses[-1])
        return {
            "loss": self._figures(lambda losses: fmean(losses[:-1])),
            "unseen": unseen and {"fold": unseen_fold, **unseen},
            "better": self.better,
            "reason": self.reason,
        }

    def _figures(self, of: Callable[[Sequence[float]], float]) -> dict[str, Any] | None:
        if not self.losses_after:
            return None
        return {"before": round(of(self.losses_before), 5), "after": round(of(self.losses_after), 5)}


def tune_scenario(
    scenario: Scenario,
    store: Store,
    as_of: AsOf | None,
    defaults: Mapping[str, Any],
    trials: int,
    timeout: str | None,
    at_once: int,
    seed: int,
) -> dict[str, Any]:
    """Search, judge the winner on the unseen fold, and train a bundle with it if it is better."""
    clock = Clock()
    until = None if timeout is None else time.time() + seconds(timeout)
    run = resolve_study(scenario, store, as_of, defaults, seed, at_once)
    with driver_step(run, "plan"):
        begin(run)
        shards = training_shards(run)
    parts = sorted({*chain.from_iterable(over_shards("preparing", prepare_study, run, shards))})
    with driver_step(run, "folds"):
        searching = _Searching(run, parts, find_folds(run, parts))
    clock.mark("prepare")
    path = run.layout.study(run.id)
    with open_study(store, path, run.id, search_of(scenario).space, seed) as (study, save):
        earlier = study.done
        study.begin_with(incumbent(run))
        _search(searching, study, save, trials, at_once, until)
        clock.mark("search")
        verdict = _judge(searching, study)
        clock.mark("judge")
        with driver_step(run, "view"):
            view, counts = _view(searching, study, verdict), study.counts
    get_run_logger().info(verdict.reason)
    challenger = _challenger(searching, verdict) if verdict.better else None
    clock.mark("train")
    with driver_step(run, "report"):
        page = write_study_page(run, sections(view))
        announce_study(run, page, view.choices.to_dicts(), verdict.reason)
        clock.mark("page")
        record = _track(run, view, challenger)
        clock.mark("track")
    return {
        "run_id": run.id,
        "as_of": run.as_of.isoformat(),
        "study": store.uri_of(path),
        "trials": counts | {"kept": earlier},
        **verdict.summary(searching.folds[-1]),
        "choices": view.choices.to_dicts(),
        "challenger": challenger,
        "page": page,
        "mlflow_run": record,
        "stages": clock.stages,
        "seconds": clock.seconds,
    }


def _search(
    searching: _Searching,
    study: Study,
    save: Callable[[], None],
    trials: int,
    at_once: int,
    until: float | None,
) -> None:
    """Extend the study to `trials` in batches; proposals depend on earlier batches only."""
    while study.done < trials and (until is None or time.time() < until):
        with driver_step(searching.run, "propose"):
            batch = study.ask(min(at_once, trials - study.done))
            save()
            limits = bars([losses for _, losses in study.complete()])
        numbers, values = [trial.number for trial in batch], [trial.values for trial in batch]
        results = searching.try_out(numbers, values, len(searching.folds) - 1, limits, until)
        with driver_step(searching.run, "record"):
            for number, result in zip(numbers, results, strict=True):
                study.tell(number, result)
            save()
        if results and all(result.state == FAILED for result in results) and not study.complete():
            raise TuningError(
                f"{searching.run.scenario.name}: the first {len(results)} trials failed, so the study ends. "
                f"{results[0].reason}"
            )


def _judge(searching: _Searching, study: Study) -> _Verdict:
    """The best trial against the incumbent, both on all folds; it must also be better on the last fold."""
    before = incumbent(searching.run)
    complete = study.complete()
    if not complete:
        return _Verdict(
            before, before, reason="No trial finished in the given time. Start again to continue."
        )
    winner = min(complete, key=lambda each: (fmean(each[1]), each[0].number))[0]
    if dict(winner.values) == before:
        return _Verdict(
            before, before, reason="The search found nothing better than the current hyperparameters."
        )
    folds = len(searching.folds)
    old, new = searching.try_out([0, winner.number], [before, winner.values], folds, (), None)
    for result in (old, new):
        if result.state == FAILED:
            raise TuningError(f"{searching.run.scenario.name}: the winner cannot be judged. {result.reason}")
    better = new.losses[-1] < old.losses[-1] and fmean(new.losses[:-1]) < fmean(old.losses[:-1])
    reason = (
        f"Trial {winner.number}: loss {fmean(new.losses[:-1]):.4f} instead of {fmean(old.losses[:-1]):.4f} on the folds "
        f"of the search, {new.losses[-1]:.4f} instead of {old.losses[-1]:.4f} on {searching.folds[-1]}, which took no "
        "part in it."
    )
    reason += "" if better else " It is not better there, so no bundle is trained with it."
    return _Verdict(before, winner.values, old.losses, new.losses, better, reason)


def _challenger(searching: _Searching, verdict: _Verdict) -> dict[str, Any]:
    """Train a challenger with the winner's values; once for each winner of a study."""
    run = searching.run
    path = run.path(f"challengers/{digest(dict(verdict.after))[:16]}.json")
    record = run.store.get_json(path)
    if record is not None:
        return dict(record)
    options = base_of(run) | dict(verdict.after) | {STUDY: run.id}
    training = train_bundle(run.scenario, run.store, run.as_of, options)
    summary = {name: training[name] for name in ("bundle", "promoted", "champion", "reason", "loss")}
    run.store.put_json(path, summary)
    return summary


def _view(searching: _Searching, study: Study, verdict: _Verdict) -> StudyView:
    space = search_of(searching.run.scenario).space
    table = choices(list(space), verdict.before, verdict.after, study.importance())
    return StudyView(
        trials=study.trials(),
        folds=searching.folds,
        before=verdict.losses_before,
        after=verdict.losses_after,
        choices=table,
        reason=verdict.reason,
        logarithmic=[name for name, choice in space.items() if getattr(choice, "log", False)],
    )


def _track(run: Run, view: StudyView, challenger: Mapping[str, Any] | None) -> str | None:
    """Log the study to MLflow; a continued study is another run, named by its number of trials."""
    metrics = {"trials": float(view.trials.height)}
    if view.after:
        metrics |= {"loss_before": fmean(view.before[:-1]), "loss_after": fmean(view.after[:-1])}
        metrics |= {"unseen_before": view.before[-1], "unseen_after": view.after[-1]}
    versions = {f"{name}_version": number for name, number in run.versions.items()}
    return track_run(
        run.store,
        scenario=run.scenario.name,
        kind="tune",
        run_id=f"{run.id}-{view.trials.height}-trials",
        params={**run.options, "as_of": run.as_of_text, **versions},
        metrics=metrics,
        tags={"reason": view.reason, "bundle": str(challenger["bundle"]) if challenger else "none"},
        files={"trials.csv": view.trials.write_csv(), "choices.csv": view.choices.write_csv()},
    )
