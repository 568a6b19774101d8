import math
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.search import LEAST_TRIALS, OneOf, Real, Whole, bars, chosen, given_up, inside, of_options

SPACE = {
    "kind": OneOf(("forest", "line")),
    "trees": Whole(10, 100, log=True, when={"kind": ("forest",)}),
    "rate": Real(0.01, 1.0),
    "windows": OneOf(((12, 24), (24,))),
}


def test_a_choice_is_made_only_where_the_one_it_hangs_on_applies():
    questions = []

    def choose(name, choice):
        questions.append(name)
        return choice.values[1] if isinstance(choice, OneOf) else choice.low

    assert chosen(SPACE, choose) == {"kind": "line", "rate": 0.01, "windows": (24,)}
    assert questions == ["kind", "rate", "windows"]


def test_values_of_options_are_those_of_the_choices_that_apply_with_lists_as_tuples():
    options = {"kind": "forest", "trees": 20, "rate": 0.5, "windows": [12, 24], "seed": 7}
    values = of_options(SPACE, options)
    assert values == {"kind": "forest", "trees": 20, "rate": 0.5, "windows": (12, 24)}
    assert "trees" not in of_options(SPACE, options | {"kind": "line"})


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        *[("trees", 10, True), ("trees", 100, True), ("trees", 9, False), ("trees", 10.5, False)],
        *[("rate", 1, True), ("rate", 1.01, False), ("kind", "tree", False), ("windows", [24], True)],
    ],
)
def test_a_space_says_what_lies_inside(name, value, holds):
    assert inside(SPACE, {name: value}) is holds


# when a trial is given up

folds = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=3, max_size=3)


def test_no_trial_is_given_up_before_enough_are_complete():
    few = [[1.0, 1.0, 1.0]] * (LEAST_TRIALS - 1)
    assert not given_up([100.0], bars(few))
    assert not given_up([100.0], bars([]))
    assert given_up([100.0], bars([*few, few[0]]))


def test_a_trial_is_given_up_when_its_mean_so_far_is_above_the_median_of_the_complete_ones():
    complete = [[1.0, 9.0, 1.0], [2.0, 8.0, 1.0], [3.0, 7.0, 1.0], [4.0, 6.0, 1.0], [5.0, 5.0, 1.0]]
    limits = bars(complete)
    assert limits == [3.0, 5.0, math.inf]
    assert not given_up([3.0], limits)
    assert given_up([3.1], limits)
    assert not given_up([2.0, 8.0], limits)
    assert given_up([2.0, 8.1], limits)


@given(st.lists(folds, min_size=LEAST_TRIALS, max_size=12))
def test_a_trial_as_good_as_the_best_is_never_given_up_and_none_at_the_last_fold(complete):
    limits = bars(complete)
    for fold in range(3):
        best = min(complete, key=lambda losses: fmean(losses[: fold + 1]))
        assert not given_up(best[: fold + 1], limits)
    assert not any(given_up(losses, limits) for losses in complete)
