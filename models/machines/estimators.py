"""The estimators of failure: LightGBM, a random forest and a single decision tree.

`X` has one column per feature, float32; NaN means missing. `unit` is the unit of contributions: `odds` (their logarithm)
or `probability`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.lightgbm_text import booster_of
from models.machines.options import Options
from models.machines.trees import Trees
from models.scenario import File

if TYPE_CHECKING:
    from lightgbm import Dataset

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Flags = NDArray[np.bool_]

MOST_TREES = 100
LEAST_TREES = 20
FOREST_TREES = 200
FOREST_DEPTH, TREE_DEPTH = 15, 8
_PATIENCE = 20
_USUAL_TREES = 50
_FEWEST_DRAWN = 10
"""Up to so many rows, trees are grown on all of them: LightGBM refuses to draw a share that is less than a row."""


class Boosted:
    """Gradient-boosted trees of LightGBM, kept as its text; contributions are SHAP values in log-odds."""

    unit = "odds"

    def __init__(self, text: str, threads: int = 0) -> None:
        self._text = text
        self._booster = booster_of(text)
        self._threads = threads or 1

    def predict(self, X: Matrix) -> Floats:
        """Uncalibrated probability of failure per row."""
        return np.asarray(self._booster.predict(X, num_threads=self._threads))

    def contributions(self, X: Matrix) -> Floats:
        """The contribution of each feature, shape (rows, features + 1); the last column is the common baseline.

        Rows sum to the output, here the log-odds. Lundberg et al. (2020), Nature Machine Intelligence 2.
        """
        return np.asarray(self._booster.predict(X, pred_contrib=True, num_threads=self._threads))

    def file(self) -> str:
        """The estimator as a file of a bundle."""
        return self._text

    def importance(self, features: int) -> Floats:
        """Share of each feature in the gain of all splits; sums to 1, or is all 0."""
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
        """Share of the decrease of impurity; 0 after loading, because a bundle does not keep it."""
        return self.learnt if self.learnt is not None else np.zeros(features)


Estimator = Boosted | Classical


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator and its number of trees."""

    estimator: Estimator
    trees: int


class Learner:
    """Fits the estimator of `options` to one set of rows `X`, once per set of outcomes.

    A fit depends neither on the number of threads nor on earlier fits. `judge`
    are later rows, which determine the number of trees.
    """

    def __init__(self, X: Matrix, weight: Floats, options: Options, judge: Matrix | None = None) -> None:
        self._X, self._weight, self._options = X, weight, options
        self._judge = judge if judge is not None and len(judge) else None

    @cached_property
    def _boosting(self) -> "_Boosting":
        return _Boosting.of(self._X, self._options, self._judge)

    def where(self, rows: Flags) -> "Learner":
        """A learner of some of the rows, without those that judge; LightGBM keeps the bins of all rows."""
        some = Learner(self._X[rows], self._weight[rows], self._options)
        if self._options.estimator == "lightgbm":
            some._boosting = self._boosting.where(rows)
        return some

    def fit(
        self,
        outcomes: Flags,
        counts: Flags | None = None,
        later: tuple[Flags, Flags] | None = None,
        trees: int | None = None,
    ) -> Fitted:
        """The estimator for the `outcomes` of the rows; those that do not count have no weight.

        LightGBM grows `trees` trees, or stops when more of them no longer improve the predictions of the `later` rows,
        given by their outcomes and whether they count. The others have a fixed number of trees.
        """
        weight = self._weight if counts is None else self._weight * counts
        if self._options.estimator == "lightgbm":
            return self._boosting.fit(outcomes, weight, later, trees)
        return _classical(self._X, outcomes, weight, self._options)


@dataclass(frozen=True)
class _Boosting:
    """LightGBM on rows that are binned once."""

    parameters: dict[str, Any]
    data: "Dataset"
    judge: "Dataset | None" = None

    @classmethod
    def of(cls, X: Matrix, options: Options, judge: Matrix | None) -> "_Boosting":
        from models.boosting import lgb

        parameters = {
            "objective": "binary",
            "learning_rate": options.learning_rate,
            "num_leaves": options.leaves,
            "min_data_in_leaf": options.leaf_rows,
            "feature_fraction": options.feature_share,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "max_bin": 63,
            "deterministic": True,
            "force_col_wise": True,
            "seed": options.seed,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lgb.Dataset(X, np.zeros(len(X)), params=parameters).construct()
        if judge is None:
            return cls(parameters, data)
        return cls(
            parameters, data, data.create_valid(judge, np.zeros(len(judge)), params=parameters).construct()
        )

    def where(self, rows: Flags) -> "_Boosting":
        some = self.data.subset(np.flatnonzero(rows).tolist(), params=self.parameters)
        return _Boosting(self.parameters, some.construct())

    def fit(
        self, outcomes: Flags, weight: Floats, later: tuple[Flags, Flags] | None, trees: int | None
    ) -> Fitted:
        from models.boosting import lgb

        self.data.set_label(outcomes.astype(np.float64)).set_weight(weight)
        is_drawn = len(outcomes) > _FEWEST_DRAWN
        parameters = self.parameters | ({} if is_drawn else {"bagging_freq": 0})
        if self.judge is None or later is None or trees is not None or not later[0].any():
            booster = lgb.train(parameters, self.data, trees or _USUAL_TREES)
            best = booster.num_trees()
        else:
            judge = self.judge.set_label(later[0].astype(np.float64)).set_weight(later[1].astype(np.float64))
            stop = lgb.early_stopping(_PATIENCE, verbose=False)
            booster = lgb.train(parameters, self.data, MOST_TREES, valid_sets=[judge], callbacks=[stop])
            best = min(max(booster.best_iteration, LEAST_TREES), booster.num_trees())
        return Fitted(Boosted(booster.model_to_string(num_iteration=best)), best)


def load(file: File, threads: int = 0) -> Estimator:
    """The estimator in `file`: LightGBM's text, or the frame of `Trees`."""
    if isinstance(file, str):
        return Boosted(file, threads)
    if isinstance(file, pl.DataFrame):
        return Classical(Trees.of_frame(file))
    raise TypeError(f"an estimator must be text or a frame, not {type(file).__name__}")


def _classical(X: Matrix, outcomes: Flags, weight: Floats, options: Options) -> Fitted:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    if options.estimator == "decision_tree":
        tree = DecisionTreeClassifier(
            max_depth=options.depth or TREE_DEPTH, min_samples_leaf=10, random_state=options.seed
        )
        tree.fit(X, outcomes, sample_weight=weight)
        return Fitted(Classical(Trees.of_sklearn([tree]), tree.feature_importances_), 1)
    forest = RandomForestClassifier(
        n_estimators=FOREST_TREES,
        max_depth=options.depth or FOREST_DEPTH,
        min_samples_leaf=3,
        random_state=options.seed,
        n_jobs=options.threads or -1,
    )
    forest.fit(X, outcomes, sample_weight=weight)
    return Fitted(Classical(Trees.of_sklearn(forest.estimators_), forest.feature_importances_), FOREST_TREES)
