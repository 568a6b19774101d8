"""The estimators of failure: one interface over LightGBM, a random forest and a single decision tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.machines.options import Options
from models.machines.trees import Trees
from models.scenario import File

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

MOST_TREES = 100
LEAST_TREES = 20
_PATIENCE = 20
_USUAL_TREES = 50


class Estimator(Protocol):
    """A fitted estimator. `X` has one column per feature, float32, NaN where missing.

    `unit` is what contributions are in: `odds` (their logarithm) or `probability`.
    """

    @property
    def unit(self) -> str: ...

    def predict(self, X: Matrix) -> Floats:
        """Uncalibrated probability of failure per row."""

    def contributions(self, X: Matrix) -> Floats:
        """What each feature adds, shape (rows, features + 1); the last column is what all start from.

        In log-odds for LightGBM (SHAP values), in probability for trees; rows sum to the output.
        """

    def file(self) -> File:
        """What a bundle keeps of it."""

    def importance(self, features: int) -> Floats:
        """Share of each of the features in what was learnt; sums to 1, or is all 0."""


@dataclass(frozen=True)
class Sample:
    """Rows to learn from, or to be judged by: features, whether each failed, and its weight."""

    X: Matrix
    failed: NDArray[np.bool_]
    weight: Floats


class Boosted:
    """Gradient-boosted trees of LightGBM, kept as its text; contributions are SHAP values in log-odds."""

    unit = "odds"

    def __init__(self, text: str, threads: int = 0) -> None:
        import lightgbm as lgb

        self._text = text
        self._booster = lgb.Booster(model_str=text)
        self._threads = threads

    def predict(self, X: Matrix) -> Floats:
        return np.asarray(self._booster.predict(X, num_threads=self._threads))

    def contributions(self, X: Matrix) -> Floats:
        """SHAP values in log-odds. Lundberg et al. (2020), Nature Machine Intelligence 2."""
        return np.asarray(self._booster.predict(X, pred_contrib=True, num_threads=self._threads))

    def file(self) -> str:
        return self._text

    def importance(self, features: int) -> Floats:
        """Share of the gain of all splits."""
        gain = self._booster.feature_importance("gain").astype(np.float64)
        return gain / gain.sum() if gain.sum() > 0 else np.zeros(features)


@dataclass(frozen=True)
class Classical:
    """A random forest or a decision tree; contributions are in probability, see `Trees.contributions`."""

    trees: Trees
    learnt: Floats | None = field(default=None, compare=False)
    unit: str = "probability"

    def predict(self, X: Matrix) -> Floats:
        return self.trees.predict(X)

    def contributions(self, X: Matrix) -> Floats:
        return self.trees.contributions(X)

    def file(self) -> pl.DataFrame:
        return self.trees.to_frame()

    def importance(self, features: int) -> Floats:
        """Share of the decrease of impurity; 0 after loading, as a bundle does not keep it."""
        return self.learnt if self.learnt is not None else np.zeros(features)


@dataclass(frozen=True)
class Fitted:
    estimator: Estimator
    trees: int


def fit(sample: Sample, options: Options, judge: Sample | None = None, trees: int | None = None) -> Fitted:
    """The estimator of `options` fitted to `sample`, and the number of trees in it.

    LightGBM stops adding trees when `judge`, rows of later time, is no longer predicted better;
    `trees` sets their number instead. The result depends neither on the number of threads nor on
    the order in which other estimators are fitted.
    """
    if options.estimator == "lightgbm":
        return _boosted(sample, options, judge, trees)
    return _classical(sample, options)


def load(file: File, threads: int = 0) -> Estimator:
    """The estimator that `file` holds: LightGBM's text, or the frame of `Trees`."""
    if isinstance(file, str):
        return Boosted(file, threads)
    if isinstance(file, pl.DataFrame):
        return Classical(Trees.of_frame(file))
    raise TypeError(f"an estimator is text or a frame, not {type(file).__name__}")


def _boosted(sample: Sample, options: Options, judge: Sample | None, trees: int | None) -> Fitted:
    import lightgbm as lgb

    parameters: Mapping[str, Any] = {
        "objective": "binary",
        "learning_rate": 0.1,
        "num_leaves": 7,
        "min_data_in_leaf": 20,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "max_bin": 63,
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        "num_threads": options.threads,
        "verbose": -1,
    }
    data = lgb.Dataset(sample.X, sample.failed, weight=sample.weight)
    judged = judge is not None and trees is None and judge.failed.any()
    booster = lgb.train(
        dict(parameters),
        data,
        num_boost_round=trees or (MOST_TREES if judged else _USUAL_TREES),
        valid_sets=[lgb.Dataset(judge.X, judge.failed, reference=data)] if judge and judged else None,
        callbacks=[lgb.early_stopping(_PATIENCE, verbose=False)] if judged else None,
    )
    best = max(booster.best_iteration, LEAST_TREES) if judged else booster.num_trees()
    return Fitted(Boosted(booster.model_to_string(num_iteration=best), options.threads), best)


def _classical(sample: Sample, options: Options) -> Fitted:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    if options.estimator == "decision_tree":
        tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=10, random_state=options.seed)
        tree.fit(sample.X, sample.failed, sample_weight=sample.weight)
        return Fitted(Classical(Trees.of_sklearn([tree]), tree.feature_importances_), 1)
    forest = RandomForestClassifier(
        n_estimators=200,
        max_depth=15,
        min_samples_leaf=3,
        random_state=options.seed,
        n_jobs=options.threads or -1,
    )
    forest.fit(sample.X, sample.failed, sample_weight=sample.weight)
    return Fitted(Classical(Trees.of_sklearn(forest.estimators_), forest.feature_importances_), 200)
