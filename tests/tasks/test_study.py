import sqlite3

import pytest

from models.search import OneOf, Real, Whole
from tasks.training.study import COMPLETE, FAILED, PRUNED, STOPPED, TrialResult, open_study

SPACE = {
    "kind": OneOf(("round", "exact")),
    "near": Real(0.01, 10, log=True),
    "far": Whole(1, 9, when={"kind": ("exact",)}),
    "windows": OneOf(((12, 24), (24,))),
}
PATH = "toy/studies/one.db"


def study(store):
    return open_study(store, PATH, "one", SPACE, 7)


def loss(values):
    return abs(values["near"] - 0.1) + abs(values.get("far", 20) - 7) + (values["windows"] == (24,))


def go_on(store, until, stopping=()):
    """Run trials until the study has `until` of them; those whose number is in `stopping` are stopped the first time."""
    with study(store) as (current, save):
        while current.done < until:
            trials = current.ask(min(4, until - current.done))
            save()
            for trial in trials:
                value = loss(trial.values)
                stopped = trial.number in stopping
                current.tell(
                    trial.number,
                    TrialResult(STOPPED if stopped else COMPLETE, () if stopped else (value, value)),
                )
            save()
        return current.trials().drop("seconds", "number")


@pytest.mark.slow
def test_a_study_is_the_same_however_often_it_was_closed_and_stopped(store, tmp_path):
    from tasks.storage.store import Store

    at_once = go_on(store, 16)
    other = Store(str(tmp_path / "other"))
    go_on(other, 8)
    with study(other) as (current, save):
        current.ask(4)
        save()
    in_parts = go_on(other, 16)
    assert in_parts.equals(at_once)
    third = go_on(Store(str(tmp_path / "third")), 16, stopping=[12, 13, 14, 15])
    assert third.equals(at_once)
    assert at_once["loss"].min() < at_once["loss"][:8].min()


def test_trials_that_were_running_when_it_was_closed_are_marked_as_failed_and_asked_for_again(store):
    with study(store) as (current, save):
        running = current.ask(3)
        save()
    with study(store) as (current, _):
        again = current.ask(3)
        assert [trial.values for trial in again] == [trial.values for trial in running]
        assert [trial.number for trial in again] == [3, 4, 5]
        assert current.done == 0
    with sqlite3.connect(f"file:{store.uri}/{PATH}?mode=ro", uri=True) as database:
        assert database.execute("select distinct state from trials").fetchall() == [("RUNNING",)]


def test_it_begins_with_what_it_is_told_to_once_and_not_with_what_lies_outside(store):
    initial = {"kind": "exact", "near": 1.0, "far": 2, "windows": (12, 24)}
    with study(store) as (current, _):
        current.begin_with(initial | {"near": 100.0})
        current.begin_with(initial)
        first, second = current.ask(2)
        assert first.values == initial
        current.tell(first.number, TrialResult(COMPLETE, (1.0, 2.0)))
        current.begin_with(initial)
        assert second.values != initial
        assert current.ask(1)[0].values != initial


def test_it_tells_what_became_of_each_trial(store):
    with study(store) as (current, _):
        trials = current.ask(4)
        current.tell(0, TrialResult(COMPLETE, (1.0, 2.0), 0.5))
        current.tell(1, TrialResult(PRUNED, (4.0,), 0.5))
        current.tell(2, TrialResult(FAILED, (), 0.5, "ValueError: no"))
        current.tell(3, TrialResult(STOPPED, (1.0,), 0.5))
        table = current.trials()
        assert table.select("number", "state", "loss", "folds", "reason").rows() == [
            *[(0, COMPLETE, 1.5, 2, None), (1, PRUNED, 4.0, 1, None), (2, FAILED, None, 0, "ValueError: no")],
        ]
        assert current.counts == {COMPLETE: 1, PRUNED: 1, FAILED: 1}
        ((best, losses),) = current.complete()
        assert (best.values, losses) == (trials[0].values, (1.0, 2.0))


def test_what_mattered_is_said_once_there_are_enough_trials(store):
    go_on(store, 6)
    with study(store) as (current, _):
        assert current.importance() == {}
    go_on(store, 24)
    with study(store) as (current, _):
        shares = current.importance()
    assert set(shares) == set(SPACE)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=shares.get) in ("near", "far")
