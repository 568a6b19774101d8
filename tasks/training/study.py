"""A study: the trials of a search. Optuna keeps them in a SQLite file of the store.

The values of a trial follow from the seed, its position in the study and the trials recorded before it, so that an
interrupted study continues as if it had not been interrupted. Only the process that runs the study opens the file: it
works on its own copy and writes it back as a whole.
"""

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from models.search import Choice, OneOf, Real, Space, chosen, inside
from tasks.storage.scratch import scratch
from tasks.storage.store import Store, digest

COMPLETE, PRUNED, FAILED, STOPPED = "complete", "pruned", "failed", "stopped"
LEAST_FOR_IMPORTANCE = 10
"""The fewest complete trials for which the importance of choices is reported."""
_LOSSES, _REASON, _SECONDS = "losses", "reason", "seconds"


@dataclass(frozen=True)
class Trial:
    """Values to try, by the number of the trial in its study."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial: `complete`, `pruned` (given up), `failed` for a `reason`, or `stopped` before its end.

    `losses` are those of the folds that it reached.
    """

    state: str
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    reason: str = ""


class Study:
    """The trials of a search in `space`; see `open_study`."""

    def __init__(self, name: str, space: Space, file: Path, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._asked: dict[int, Any] = {}
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        self._study = optuna.create_study(
            study_name=name, storage=self._storage, direction="minimize", load_if_exists=True
        )
        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(trial.params)

    def begin_with(self, values: Mapping[str, Any]) -> None:
        """Make the next trial try `values`, unless one already has; values outside the space are ignored."""
        if inside(self._space, values):
            labels = {name: _label(value) for name, value in values.items()}
            self._study.enqueue_trial(labels, skip_if_exists=True)

    def ask(self, count: int) -> list[Trial]:
        """The next trials: first those that were stopped, then proposals of the tree-structured Parzen estimator."""
        return [self._ask() for _ in range(count)]

    def _ask(self) -> Trial:
        import optuna

        place = self.done + len(self._asked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=int(digest([self._seed, place])[:8], 16), group=True
            )
            trial = self._study.ask()
            values = chosen(self._space, lambda name, choice: _suggested(trial, name, choice))
        self._asked[trial.number] = trial
        return Trial(trial.number, values)

    def tell(self, number: int, result: TrialResult) -> None:
        """Record the result of a trial from `ask`; a stopped trial is proposed again."""
        from optuna.trial import TrialState

        trial = self._asked.pop(number)
        trial.set_user_attr(_LOSSES, list(result.losses))
        trial.set_user_attr(_SECONDS, result.seconds)
        for fold in range(len(result.losses)):
            trial.report(fmean(result.losses[: fold + 1]), fold)
        if result.state == COMPLETE:
            self._study.tell(trial, fmean(result.losses))
        elif result.state == PRUNED:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            if result.state == FAILED:
                trial.set_user_attr(_REASON, result.reason)
            self._study.tell(trial, state=TrialState.FAIL)
        if result.state == STOPPED:
            self._study.enqueue_trial(trial.params)

    @property
    def done(self) -> int:
        """The number of finished trials: complete, pruned or failed."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of complete, pruned and failed trials."""
        states = self.trials()["state"].to_list()
        return {state: states.count(state) for state in (COMPLETE, PRUNED, FAILED)}

    def complete(self) -> list[tuple[Trial, tuple[float, ...]]]:
        """Complete trials with the losses of their folds, in the order of their numbers."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [(Trial(t.number, self._values(t.params)), tuple(t.user_attrs[_LOSSES])) for t in trials]

    def trials(self) -> pl.DataFrame:
        """One row per finished trial: number, state, loss, folds, seconds, reason, and its values as text."""
        rows = []
        for trial in self._study.get_trials(deepcopy=False):
            state = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}.get(trial.state.name)
            reason = trial.user_attrs.get(_REASON)
            if state is None or (state == FAILED and reason is None):
                continue
            losses = trial.user_attrs[_LOSSES]
            head = (trial.number, state, fmean(losses) if losses else None, len(losses))
            values = [None if (v := trial.params.get(name)) is None else str(v) for name in self._space]
            rows.append((*head, trial.user_attrs[_SECONDS], reason, *values))
        types = {"number": pl.Int64, "state": pl.String, "loss": pl.Float64, "folds": pl.Int64}
        types |= {"seconds": pl.Float64, "reason": pl.String} | dict.fromkeys(self._space, pl.String)
        return pl.DataFrame(rows, schema=types, orient="row")

    def importance(self) -> dict[str, float]:
        """The share of each choice in the quality of trials, greatest first; empty if fewer than 10 are complete.

        Watanabe, Bansal & Hutter (2023), PED-ANOVA, IJCAI.
        """
        import optuna

        complete = self.complete()
        if len(complete) < LEAST_FOR_IMPORTANCE or len({fmean(losses) for _, losses in complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            shares = optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in shares.items()}

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return chosen(self._space, lambda name, choice: _value(choice, params[name]))

    def close(self) -> None:
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()


@contextmanager
def open_study(store: Store, path: str, name: str, space: Space, seed: int) -> Iterator[tuple[Study, Any]]:
    """The study stored at `path`, or a new one, and a function that writes it back.

    Trials that were running when it was last written are marked as failed and proposed again.
    """
    with scratch("study") as folder:
        file = folder / "study.db"
        content = store.get(path)
        if content is not None:
            file.write_bytes(content)
        study = Study(name, space, file, seed)

        def save() -> None:
            connection = sqlite3.connect(file)
            try:
                store.put(path, connection.serialize())
            finally:
                connection.close()

        try:
            yield study, save
        finally:
            study.close()


def _label(value: Any) -> Any:
    """A value in a form that Optuna can store: a tuple as JSON."""
    return json.dumps(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _value(choice: Choice, label: Any) -> Any:
    """The inverse of `_label`."""
    if isinstance(choice, OneOf):
        return next(value for value in choice.values if _label(value) == label)
    return label


def _suggested(trial: Any, name: str, choice: Choice) -> Any:
    if isinstance(choice, OneOf):
        return _value(choice, trial.suggest_categorical(name, [_label(value) for value in choice.values]))
    suggest = trial.suggest_float if isinstance(choice, Real) else trial.suggest_int
    return suggest(name, choice.low, choice.high, log=choice.log)
