import time
from dataclasses import replace
from itertools import chain

import pytest

from tasks.registry import bundles
from tasks.scoring.runs import begin
from tasks.scoring.shards import plan
from tasks.training.study import COMPLETE, PRUNED, STOPPED
from tasks.training.tuning import (
    STUDY,
    TuningError,
    base_of,
    find_folds,
    incumbent,
    prepare_study,
    resolve_study,
    try_out,
    with_tuned,
)
from tests import steps
from tests.toy import TOY, Plain, Toy, distance, values

pytestmark = pytest.mark.usefixtures("without_run_logger")
FAR = {"kind": "exact", "near": 1.0, "far": 7}


@pytest.fixture
def study(store):
    """The run of a study that has been prepared, and the names of its parts."""
    steps.put(store, values(days=5))
    run = resolve_study.fn(TOY, store, None, {}, 7, 4)
    begin.fn(run)
    return run, [*chain.from_iterable(prepare_study.fn(run, list(plan.fn(run))))]


def test_the_days_but_the_first_are_folds_and_one_is_too_few(store, study):
    run, names = study
    assert find_folds.fn(run, names) == [f"2024-01-0{day}" for day in range(2, 6)]
    for fold_names in ([], ["one"]):

        class Short(Toy):
            @property
            def search(self, fold_names=fold_names):
                class Found(type(TOY.search)):
                    def folds(self, *arguments):
                        return fold_names

                return Found()

        with pytest.raises(TuningError, match=f"{len(fold_names)} fold.*Expected at least two"):
            find_folds.fn(replace(run, scenario=Short()), names)


def test_a_trial_has_the_losses_of_its_folds_in_order(study):
    tried = try_out.fn(*study, 0, FAR, 3, (), None)
    assert tried.state == COMPLETE
    assert tried.losses == pytest.approx([distance(FAR) + 0.01 * fold for fold in range(3)])


def test_a_trial_is_given_up_where_its_bar_is_and_not_before_nor_at_the_last_fold(study):
    limit = distance(FAR) + 0.001
    tried = try_out.fn(*study, 0, FAR, 3, (limit, limit, float("inf")), None)
    assert (tried.state, len(tried.losses)) == (PRUNED, 2)


def test_what_was_tried_is_not_tried_again_and_what_was_stopped_is(study):
    run, names = study
    stopped = try_out.fn(run, names, 0, FAR, 3, (), time.time() - 1)
    assert (stopped.state, stopped.losses) == (STOPPED, ())
    first = try_out.fn(run, names, 1, FAR, 3, (), None)

    class Counted(Toy):
        @property
        def search(self):
            raise AssertionError("it was tried before")

    assert try_out.fn(replace(run, scenario=Counted()), names, 2, FAR, 3, (), time.time() - 1) == first


def test_a_fold_without_anything_to_measure_is_said(study):
    run, names = study

    class Empty(Toy):
        @property
        def search(self):
            class Nothing(type(TOY.search)):
                def losses(self, *arguments):
                    yield float("nan")

            return Nothing()

    with pytest.raises(TuningError, match="Fold 1 has nothing to measure"):
        try_out.fn(replace(run, scenario=Empty()), names, 0, FAR, 3, (), None)


def test_a_study_is_the_same_after_its_winner_was_promoted_and_another_with_other_options_or_data(store):
    steps.put(store, values(days=5))

    def name(**options):
        return resolve_study.fn(TOY, store, None, options, 7, 4).id

    first = name()
    assert resolve_study.fn(TOY, store, None, {}, 8, 4).id != first
    steps.train(store, **FAR, **{STUDY: first})
    assert name(loss=3.0) == first
    steps.train(store, loss=0.2)
    assert bundles.champion(store, "toy") == 2
    assert name() != first


def test_a_training_takes_what_it_is_not_given_from_a_champion_that_was_tuned_and_from_no_other(store):
    steps.put(store, values(days=5))
    assert with_tuned(TOY, store, {"loss": 1.0, "near": None}) == ({"loss": 1.0}, [])
    steps.train(store, **FAR)
    assert with_tuned(TOY, store, {"loss": 1.0}) == ({"loss": 1.0}, [])
    steps.train(store, **FAR | {"near": 0.1}, **{STUDY: "one"})
    options, (note,) = with_tuned(TOY, store, {"loss": 1.0, "far": 3})
    assert options == {"kind": "exact", "near": 0.1, "far": 3, "loss": 1.0, STUDY: "one"}
    assert note == "Hyperparameters are those of champion 2, from study one."
    run = resolve_study.fn(TOY, store, None, {}, 7, 4)
    assert incumbent(run) == FAR | {"near": 0.1}
    assert base_of(run) == {}


def test_a_scenario_without_a_search_cannot_be_tuned(store):
    steps.put(store)
    with pytest.raises(TuningError, match="toy has no hyperparameters to search"):
        resolve_study.fn(Plain(), store, None, {}, 7, 4)
