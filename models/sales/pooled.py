"""The pooled model: LightGBM quantiles of units relative to a key's own level, one model for all keys and steps.

Two stages, on the logarithm of units relative to the level (`demand.to_log`):

- the location is one least-squares ensemble, monotone where the direction is known: a lower price never
  lowers the forecast, nor does a flag; the others' promotions never raise it;
- each quantile is a small quantile ensemble on the residuals of the location. They are cross-fitted over
  blocks of weeks: the residual of a week comes from an ensemble that has not seen that block, so that the
  quantiles are as wide as errors on unseen weeks are. (Chernozhukov et al. 2018, Econometrics Journal 21.)

In the real data on which the defaults were tuned, sales of a SKU in a promotion week are strongly correlated over all
stores: 300,000 rows are worth a few thousand. Averaging many trees that each see few features (`feature_share`)
helps; deeper trees do not. Small leaves in the spread have the same effect: many weak trees are averaged.

Scoring costs in proportion to `trees` and `spread_trees`.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.lightgbm_text import booster_of
from models.sales.categories import BETWEEN
from models.sales.options import Options, quantile_column

LEAST_FEATURES = 4
"""Minimum number of features that a tree of the location sees."""
FOLDS, BLOCK_WEEKS = 5, 4
ONE_CORE = {"num_threads": 1, "verbosity": -1, "max_bin": 127}
"""Ensembles are grown in parallel on one core each: threads within an ensemble busy-wait for each other
many times in every tree, which takes twenty times as long on a busy machine. Only binning uses all cores."""

RISING = ("depth", "sku_depth", "others_moved")
FALLING = ("price_to_median", "price_to_lowest")


@dataclass(frozen=True)
class Pooled:
    """A fitted model: ensembles as LightGBM boosters, all on the same `features` in that order."""

    features: tuple[str, ...]
    location: Any
    spread: Mapping[str, Any]
    start: Mapping[str, float]

    def predict(self, values: np.ndarray, threads: int) -> np.ndarray:
        """Quantiles on the log scale of `values` (rows, features): (rows, quantiles), rising along a row.

        A row's result depends neither on the other rows nor on the number of threads.
        """
        centre = self.location.predict(values, num_threads=threads)
        columns = [
            centre + (self.start[name] + booster.predict(values, num_threads=threads))
            for name, booster in self.spread.items()
        ]
        return np.maximum.accumulate(np.stack(columns, axis=1), axis=1)

    def contributions(self, values: np.ndarray, quantile: str) -> np.ndarray:
        """The contribution of each feature to a quantile, before quantiles are put in order, in logs: (rows, features + 1).

        The last column is the same for all rows; a row's sum is the quantile on the log scale. Lundberg et
        al. (2020), From local explanations to global understanding with explainable AI for trees, Nature Machine
        Intelligence 2.
        """
        of_both = [
            booster.predict(values, pred_contrib=True, num_threads=1)
            for booster in (self.location, self.spread[quantile])
        ]
        total: np.ndarray = np.add(*of_both)
        total[:, -1] += self.start[quantile]
        return total

    def files(self, name: str) -> dict[str, Any]:
        """The model as files of a bundle; their names begin with `name`."""
        texts = {f"{name}_{about}": booster.model_to_string() for about, booster in self.spread.items()}
        about = {"features": list(self.features), "start": dict(self.start)}
        return {f"{name}_location": self.location.model_to_string(), **texts, f"{name}_about": about}


def fit(
    values: np.ndarray,
    target: np.ndarray,
    weeks: np.ndarray,
    names: Sequence[str],
    flags: Sequence[str],
    options: Options,
) -> Pooled:
    """The model of `target` (rows,) on the log scale, from `values` (rows, features).

    `options` has the quantiles, the seed, the threads and the parameters of trees. `weeks` are the numbers of
    the target weeks: residuals are cross-fitted over blocks of them. `flags` names the covariates that mark
    promotions.
    """
    from models.boosting import lgb

    location, spread = _parameters(len(target), names, flags, options)
    cores = options.threads or os.cpu_count()
    binning = {**ONE_CORE, "num_threads": cores}
    everything = lgb.Dataset(values, target, feature_name=list(names), params=binning).construct()
    fold = (weeks // BLOCK_WEEKS) % FOLDS

    def grown(parameters: dict[str, Any], trees: int, rows: np.ndarray, label: np.ndarray) -> Any:
        data = everything.subset(rows.tolist(), params=ONE_CORE).construct()
        return lgb.train(parameters, data.set_label(label[rows]), trees)

    def without(held_out: int) -> np.ndarray:
        others, rows = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        booster = grown(location, options.trees, others if len(others) else rows, target)
        return np.asarray(booster.predict(values[rows], num_threads=1))

    def of_quantile(q: float) -> tuple[float, Any]:
        start = float(np.quantile(residual, q))
        return start, grown({**spread, "alpha": q}, options.spread_trees, every, residual - start)

    every, centre = np.arange(len(target)), np.empty(len(target))
    with ThreadPoolExecutor(cores) as pool:
        folds = np.unique(fold)
        for held_out, prediction in zip(folds, pool.map(without, folds), strict=True):
            centre[fold == held_out] = prediction
        residual = target - centre
        whole = pool.submit(grown, location, options.trees, every, target)
        starts, boosters = zip(*pool.map(of_quantile, options.quantiles), strict=True)
    columns = [quantile_column(q) for q in options.quantiles]
    spreads = dict(zip(columns, boosters, strict=True))
    return Pooled(tuple(names), whole.result(), spreads, dict(zip(columns, starts, strict=True)))


def _parameters(
    rows: int, names: Sequence[str], flags: Sequence[str], options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """LightGBM's parameters of the location and of the spread."""
    common = {
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        **ONE_CORE,
    }
    location = {
        **common,
        "objective": "l2",
        "learning_rate": options.learning_rate,
        "num_leaves": options.leaves,
        "feature_fraction": max(options.feature_share, min(1.0, LEAST_FEATURES / len(names))),
        "min_data_in_leaf": max(20, int(rows * options.leaf_share)),
        "monotone_constraints": _directions(names, flags),
    }
    spread = {
        **common,
        "objective": "quantile",
        "boost_from_average": False,
        "learning_rate": options.spread_learning_rate,
        "num_leaves": options.spread_leaves,
        "feature_fraction": options.spread_feature_share,
        "min_data_in_leaf": max(20, int(rows * options.spread_leaf_share)),
    }
    return location, spread


def read(files: Mapping[str, Any], name: str, quantiles: Sequence[float]) -> Pooled | None:
    """The model of rising `quantiles` from the files of `Pooled.files`; None if they are missing.

    The quantiles are in the order of `quantiles`, because a JSON object has no order.
    """
    if f"{name}_about" not in files:
        return None
    about = files[f"{name}_about"]
    columns = [quantile_column(q) for q in quantiles]
    boosters = {column: booster_of(files[f"{name}_{column}"]) for column in columns}
    location = booster_of(files[f"{name}_location"])
    return Pooled(tuple(about["features"]), location, boosters, about["start"])


def _directions(names: Sequence[str], flags: Sequence[str]) -> list[int]:
    """Per feature: 1 if the location may only rise with it, -1 if it may only fall, else 0.

    The flag of a category may do either: the usual category is not always the one that sells least.
    """
    flags = [flag for flag in flags if BETWEEN not in flag]
    up = {*RISING, *flags, *(f"sku_{flag}" for flag in flags)}
    down = {*FALLING, *(f"others_{flag}" for flag in flags)}
    return [1 if name in up else -1 if name in down else 0 for name in names]
