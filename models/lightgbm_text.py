"""LightGBM models from their text, which is checked first, because the library trusts every index in it.

A node that is its own ancestor causes an endless loop, a feature or leaf that does not exist makes LightGBM read memory
out of bounds, and an objective of several classes makes it write there.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AlmanacError

if TYPE_CHECKING:
    from models.boosting import lgb

_NUMBER = r"[-+]?(\d+(\.\d*)?(e[-+]?\d+)?|inf|nan)"
_LINE = re.compile(rf"\w+=({_NUMBER}( {_NUMBER})*)?")
_OBJECTIVE = re.compile(r"(quantile|binary|regression)( \w+:[\w.+-]+)*")
"""Objectives with one value per row. Others write as many values as the text says."""
_END = "\nend of trees\n"
_MOST_LEAVES = 131_072
"""LightGBM's own limit."""
_DEEPEST = 1_000
_CATEGORICAL = 1
_BY_NODE = ("split_gain", "internal_value", "internal_weight", "internal_count")
_BY_LEAF = ("leaf_weight", "leaf_count")


class ModelTextError(AlmanacError):
    """The text of a LightGBM model is not one that LightGBM could have written."""


def booster_of(text: str) -> "lgb.Booster":
    """The model of a text. Raises `ModelTextError` if `check` does or if LightGBM cannot read it.

    The text after the trees, such as the training parameters, is left out: predictions do not need it.
    """
    from models.boosting import lgb

    check(text)
    trees, end, _ = text.partition(_END)
    try:
        return lgb.Booster(model_str=f"{trees}{end}\n")
    except lgb.basic.LightGBMError as error:
        raise _error(f"LightGBM cannot read it: {error}") from None


def check(text: str) -> None:
    """Raise `ModelTextError` unless every size, index and path of every tree is possible.

    Models of several classes and linear trees are refused: nothing here writes them.
    """
    body, end, _ = text.partition(_END)
    head, *trees = body.split("\nTree=")
    if not text.startswith("tree\n") or not end:
        raise _error("it does not begin with 'tree', or lacks 'end of trees'")
    fields = _fields(head, "the head")
    if (fields.get("num_class"), fields.get("num_tree_per_iteration")) != ("1", "1"):
        raise _error("num_class and num_tree_per_iteration must be 1")
    if not _OBJECTIVE.fullmatch(fields.get("objective", "regression")):
        raise _error(f"its objective is {fields['objective'][:100]!r}")
    features = _whole(fields, "max_feature_idx", "the head") + 1
    for name in ("feature_names", "feature_infos"):
        if features < 1 or len(fields.get(name, "").split()) != features:
            raise _error(
                f"{name} does not have one entry for each of the {features} features of max_feature_idx"
            )
    if "tree_sizes" in fields:
        _check_sizes(_wholes(fields, "tree_sizes", "the head"), trees)
    for number, tree in enumerate(trees):
        first, _, rest = tree.partition("\n")
        if first != str(number):
            raise _error(f"tree {number} is called {first}")
        if not all(_LINE.fullmatch(line) for line in rest.rstrip("\n").split("\n")):
            raise _error(f"tree {number} has a line that is not a name and numbers")
        _check_tree(_fields(rest, f"tree {number}"), features, f"tree {number}")


def _check_sizes(sizes: NDArray[np.int64], trees: Sequence[str]) -> None:
    """LightGBM locates each tree by the sizes of the trees before it."""
    actual = [len(f"Tree={tree}\n".encode()) for tree in trees]
    if sizes.tolist() != actual:
        raise _error("tree_sizes does not match the sizes of the trees")


def _check_tree(fields: dict[str, str], features: int, where: str) -> None:
    leaves = _whole(fields, "num_leaves", where)
    if not 1 <= leaves <= _MOST_LEAVES:
        raise _error(f"{where}: num_leaves is {leaves}")
    if fields.get("is_linear", "0") != "0":
        raise _error(f"{where}: it is linear")
    nodes = leaves - 1
    _numbers(fields, "leaf_value", leaves, where)
    for name in (*_BY_NODE, *_BY_LEAF):
        if fields.get(name):
            _numbers(fields, name, nodes if name in _BY_NODE else leaves, where)
    _check_splits(fields, nodes, features, where)
    left, right = (_wholes(fields, name, where, nodes) for name in ("left_child", "right_child"))
    _check_paths(left, right, where)


def _check_splits(fields: dict[str, str], nodes: int, features: int, where: str) -> None:
    feature = _wholes(fields, "split_feature", where, nodes)
    if ((feature < 0) | (feature >= features)).any():
        raise _error(f"{where}: split_feature names a feature that does not exist; there are {features}")
    kind = _wholes(fields, "decision_type", where, nodes)
    if ((kind < 0) | (kind > 15)).any():
        raise _error(f"{where}: decision_type is not between 0 and 15")
    threshold = _numbers(fields, "threshold", nodes, where)
    sets = _whole(fields, "num_cat", where)
    if sets < 0:
        raise _error(f"{where}: num_cat is {sets}")
    set_numbers = threshold[(kind & _CATEGORICAL) > 0]
    if not ((set_numbers >= 0) & (set_numbers < sets) & (set_numbers == np.floor(set_numbers))).all():
        raise _error(f"{where}: a threshold names a set of categories that does not exist; there are {sets}")
    if sets:
        bounds = _wholes(fields, "cat_boundaries", where, sets + 1)
        words = _wholes(fields, "cat_threshold", where)
        if bounds[0] != 0 or bounds[-1] != len(words) or (np.diff(bounds) < 0).any():
            raise _error(f"{where}: cat_boundaries does not divide the {len(words)} words of cat_threshold")


def _check_paths(left: NDArray[np.int64], right: NDArray[np.int64], where: str) -> None:
    """Check the depth, and that each node and leaf has one parent, a node one with a smaller number: there is no cycle."""
    children, nodes = np.concatenate([left, right]), len(left)
    parents = np.tile(np.arange(nodes), 2)
    complete = np.concatenate([np.arange(-nodes - 1, 0), np.arange(1, nodes)]) if nodes else children
    if not np.array_equal(np.sort(children), complete):
        raise _error(f"{where}: left_child and right_child do not name each node and leaf once")
    inner = children > 0
    if (children[inner] <= parents[inner]).any():
        raise _error(f"{where}: a node comes before its parent")
    depth = [0] * nodes
    for parent, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        for child in pair:
            if child > 0:
                depth[child] = depth[parent] + 1
    if nodes and max(depth) > _DEEPEST:
        raise _error(f"{where}: it is more than {_DEEPEST} nodes deep")


def _fields(text: str, where: str) -> dict[str, str]:
    pairs = [line.partition("=")[::2] for line in text.split("\n") if "=" in line]
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _error(f"{where} has a repeated line")
    return fields


def _whole(fields: dict[str, str], name: str, where: str) -> int:
    return int(_wholes(fields, name, where, 1)[0])


def _wholes(fields: dict[str, str], name: str, where: str, count: int | None = None) -> NDArray[np.int64]:
    return _array(fields, name, where, np.int64, count)


def _numbers(fields: dict[str, str], name: str, count: int, where: str) -> NDArray[np.float64]:
    return _array(fields, name, where, np.float64, count)


def _array(fields: dict[str, str], name: str, where: str, kind: Any, count: int | None) -> NDArray[Any]:
    try:
        values = np.array(fields.get(name, "").split(), dtype=kind)
    except (ValueError, OverflowError):
        raise _error(f"{where}: {name} has a value that is not a number") from None
    if count is not None and len(values) != count:
        raise _error(f"{where}: {name} has {len(values)} values instead of {count}")
    return values


def _error(what: str) -> ModelTextError:
    return ModelTextError(
        f"The text of a LightGBM model is damaged: {what}. Use another bundle, or train again."
    )
