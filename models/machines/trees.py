"""Decision trees and random forests as plain arrays: kept in a frame, scored and explained without pickles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import ContractError

Floats = NDArray[np.float64]
_CHUNK_CELLS = 400_000


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees one after the other; a leaf is its own child on both sides.

    A row goes left if its value is at most `threshold`, or if it is missing and `missing_left` is true.
    `value` is the probability of failure of the training rows in the node.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    value: Floats

    @classmethod
    def of_sklearn(cls, trees: Sequence[Any]) -> "Trees":
        """From fitted `sklearn.tree.DecisionTreeClassifier`s of two classes; the second is the failure."""
        sizes = [t.tree_.node_count for t in trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        parts: dict[str, list[Any]] = {name: [] for name in cls.__dataclass_fields__ if name != "roots"}
        for root, classifier in zip(roots, trees, strict=True):
            tree = classifier.tree_
            nodes = np.arange(tree.node_count)
            leaf = tree.children_left == -1
            parts["feature"].append(np.where(leaf, 0, tree.feature))
            parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
            parts["left"].append(root + np.where(leaf, nodes, tree.children_left))
            parts["right"].append(root + np.where(leaf, nodes, tree.children_right))
            parts["missing_left"].append(tree.missing_go_to_left.astype(bool))
            share = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
            parts["value"].append(
                share[:, 1] if share.shape[1] == 2 else share[:, 0] * classifier.classes_[0]
            )
        kinds = {"feature": np.int32, "left": np.int32, "right": np.int32}
        columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return cls(
            roots, **{name: array.astype(kinds.get(name, array.dtype)) for name, array in columns.items()}
        )

    def to_frame(self) -> pl.DataFrame:
        """One row per node; `root` marks where a tree begins."""
        root = np.zeros(len(self.feature), dtype=bool)
        root[self.roots] = True
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "roots"}
        return pl.DataFrame({"root": root, **columns})

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Trees":
        """The inverse of `to_frame`.

        Raises `ContractError` unless each child follows its parent within the frame, so that every path ends.
        """
        columns = {name: frame[name].to_numpy() for name in cls.__dataclass_fields__ if name != "roots"}
        left, right = columns["left"], columns["right"]
        node = np.arange(len(left))
        is_leaf = (left == node) & (right == node)
        follows = (np.minimum(left, right) > node) & (np.maximum(left, right) < len(node))
        if not (is_leaf | follows).all() or (columns["feature"] < 0).any():
            raise ContractError(
                "The nodes of a decision tree are damaged: a child precedes its parent or does not exist. Use another "
                "bundle, or train again."
            )
        return cls(np.flatnonzero(frame["root"].to_numpy()).astype(np.int32), **columns)

    def predict(self, X: NDArray[np.float32]) -> Floats:
        """Probability of failure per row of `X`: the mean over the trees."""
        out = np.empty(len(X))
        for rows in self._chunks(len(X)):
            out[rows] = self.value[self._leaves(X[rows])].mean(axis=1)
        return out

    def contributions(self, X: NDArray[np.float32]) -> Floats:
        """The contribution of each feature to the probability, shape (rows, features + 1); the last is the root's.

        On a row's path from the root, each change of the node's probability is credited to the split's
        feature; contributions are means over trees. A row of the result sums to `predict`. Unlike SHAP values,
        a feature is credited only for splits on the path, so features near the root receive too little.

        Saabas (2014), "Interpreting random forests".
        """
        width = X.shape[1]
        out = np.zeros((len(X), width + 1))
        out[:, width] = self.value[self.roots].mean()
        for rows in self._chunks(len(X)):
            inside = X[rows]
            at = np.broadcast_to(self.roots, (len(inside), len(self.roots)))
            line = np.arange(len(inside))[:, None] * width
            total = np.zeros(len(inside) * width)
            while True:
                after = self._step(inside, at)
                if np.array_equal(after, at):
                    break
                change = (self.value[after] - self.value[at]).ravel()
                total += np.bincount((line + self.feature[at]).ravel(), change, len(total))
                at = after
            out[rows, :width] = total.reshape(len(inside), width) / len(self.roots)
        return out

    def _leaves(self, X: NDArray[np.float32]) -> NDArray[np.int32]:
        at = np.broadcast_to(self.roots, (len(X), len(self.roots)))
        while True:
            after = self._step(X, at)
            if np.array_equal(after, at):
                return at
            at = after

    def _step(self, X: NDArray[np.float32], at: NDArray[np.int32]) -> NDArray[np.int32]:
        x = X[np.arange(len(X))[:, None], self.feature[at]]
        goes_left = np.where(np.isnan(x), self.missing_left[at], x <= self.threshold[at])
        return np.where(goes_left, self.left[at], self.right[at])

    def _chunks(self, rows: int) -> list[slice]:
        size = max(1, _CHUNK_CELLS // len(self.roots))
        return [slice(start, start + size) for start in range(0, rows, size)]
