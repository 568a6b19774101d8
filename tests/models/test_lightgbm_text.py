"""The text of a LightGBM model is used only if every index in it is valid: a crafted text causes an error."""

import re

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.lightgbm_text import ModelTextError, booster_of, check
from models.onnx_graphs import for_single

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(400, 3))
ROWS[:, 2] = RANDOM.integers(0, 40, 400)
TARGET = ROWS[:, 0] + 3 * (ROWS[:, 2] % 3 == 0)


def trained(**overrides) -> str:
    parameters = {"objective": "quantile", "verbosity": -1, "num_leaves": 6, "num_threads": 1, "seed": 1}
    data = lgb.Dataset(ROWS, TARGET, categorical_feature=[2], params={"verbosity": -1})
    return lgb.train(
        {**parameters, "min_data_in_leaf": 5, "min_data_per_group": 5, "cat_smooth": 1, **overrides}, data, 3
    ).model_to_string()


TEXT = trained()
FREE = re.sub(r"(?m)^tree_sizes=.*\n", "", TEXT)
"""Without the sizes of the trees, so that a changed tree itself is checked."""


def with_line(name: str, change, text: str = FREE) -> str:
    """The text with the first line of a name changed."""
    return re.sub(rf"(?m)^{name}=(.*)$", lambda line: f"{name}={change(line[1])}", text, count=1)


@pytest.mark.parametrize(
    "text", [TEXT, FREE, for_single(TEXT), trained(num_leaves=2), trained(min_data_in_leaf=399)]
)
def test_a_text_that_lightgbm_wrote_is_the_same_model(text):
    assert "num_cat=1" in TEXT
    expected = lgb.Booster(model_str=text).predict(ROWS, num_threads=1)
    assert booster_of(text).predict(ROWS, num_threads=1).tolist() == expected.tolist()


def first(value):
    return lambda line: " ".join([str(value), *line.split()[1:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_line("left_child", first(0)), "do not name each node and leaf once"),
        (with_line("right_child", first(-999)), "do not name each node and leaf once"),
        (with_line("left_child", first(10**9)), "do not name each node and leaf once"),
        (with_line("split_feature", first(10**6)), "split_feature names a feature"),
        (with_line("split_feature", first(-1)), "split_feature names a feature"),
        (with_line("max_feature_idx", lambda _: 0), "one entry for each of the 1 features"),
        (with_line("max_feature_idx", lambda _: -5), "max_feature_idx"),
        (with_line("num_leaves", lambda _: 10**9), "num_leaves is"),
        (with_line("num_leaves", lambda _: 0), "num_leaves is 0"),
        (with_line("num_leaves", lambda _: 5), "leaf_value has 6 values instead of 5"),
        (with_line("decision_type", first(99)), "decision_type"),
        (with_line("decision_type", lambda line: line.replace("2", "3")), "set of categories"),
        (with_line("threshold", lambda line: line.rpartition(" ")[0]), "threshold has 4 values instead of 5"),
        (with_line("leaf_value", first("x")), "a line that is not a name and numbers"),
        (with_line("internal_count", lambda line: f"{line} 1"), "internal_count has 6 values"),
        (with_line("cat_boundaries", lambda _: "0 999"), "cat_boundaries"),
        (with_line("num_cat", lambda _: 7), "cat_boundaries has 2 values instead of 8"),
        (with_line("num_cat", lambda _: -1), "num_cat is -1"),
        (with_line("is_linear", lambda _: 1), "linear"),
        (with_line("objective", lambda _: "multiclass num_class:3000000"), "objective is 'multiclass"),
        (with_line("num_class", lambda _: 9), "num_class"),
        (with_line("tree_sizes", first(10**9), TEXT), "tree_sizes"),
        (FREE.replace("Tree=1", "Tree=5"), "tree 1 is called 5"),
        (FREE.replace("num_leaves=6", "num_leaves=6\nnum_leaves=9", 1), "has a repeated line"),
        (FREE[:900], "lacks 'end of trees'"),
        ("", "does not begin with 'tree'"),
    ],
)
def test_a_crafted_text_is_refused(text, message):
    with pytest.raises(ModelTextError, match=message):
        booster_of(text)


def test_a_node_that_is_its_own_ancestor_is_found():
    """Nodes 1 and 2 are each other's child; each node and leaf still has one parent."""
    fields = {
        "num_leaves": "4",
        "num_cat": "0",
        "split_feature": "0 0 0",
        "threshold": "0 0 0",
        "decision_type": "2 2 2",
    }
    fields |= {"left_child": "-1 2 1", "right_child": "-2 -3 -4", "leaf_value": "0 0 0 0"}
    tree = "\n".join(f"{name}={value}" for name, value in fields.items())
    head = FREE.partition("\nTree=")[0]
    with pytest.raises(ModelTextError, match="a node comes before its parent"):
        check(f"{head}\nTree=0\n{tree}\n\nend of trees\n")


def test_a_tree_as_deep_as_it_has_nodes_is_refused():
    """The contributions of features are found by recursion."""
    nodes = 2_000
    fields = {
        "num_leaves": nodes + 1,
        "num_cat": 0,
        "left_child": " ".join(map(str, [*range(1, nodes), -nodes - 1])),
        "right_child": " ".join(str(-leaf - 1) for leaf in range(nodes)),
        "leaf_value": " ".join(["0"] * (nodes + 1)),
    }
    fields |= {name: " ".join(["0"] * nodes) for name in ("split_feature", "threshold", "decision_type")}
    tree = "\n".join(f"{name}={value}" for name, value in fields.items())
    head = FREE.partition("\nTree=")[0]
    with pytest.raises(ModelTextError, match="nodes deep"):
        check(f"{head}\nTree=0\n{tree}\n\nend of trees\n")


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("0123456789- \n=.x"))
def test_whatever_character_is_changed_the_model_answers_or_is_refused(position, character):
    text = TEXT[:position] + character + TEXT[position + 1 :]
    try:
        model = booster_of(text)
    except ModelTextError:
        return
    assert model.predict(ROWS[:5], num_threads=1).shape == (5,)
