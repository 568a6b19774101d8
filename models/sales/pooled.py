"""The pooled model: LightGBM quantiles of units relative to a key's own level, one model for all keys and steps.

Two stages, on the logarithm of units relative to the level (`features.to_log`):

- the location is one least-squares ensemble, monotone where the direction is known: a lower price never
  lowers the forecast, nor does a flag; the others' promotions never raise it;
- each quantile is a small quantile ensemble on the residuals of the location. They are cross-fitted over
  blocks of weeks: the residual of a week comes from an ensemble that has not seen that block, so that the
  quantiles are as wide as errors on unseen weeks are. (Chernozhukov et al. 2018, Econometrics Journal 21.)

In the real data that the defaults were tuned on, all stores of a SKU share the fate of a promotion week:
300,000 rows are worth some thousand. What helps is averaging many trees that each see few features
(`feature_share`), not deeper ones. Small leaves in the spread do the same: many weak trees averaged.

Scoring costs in proportion to `trees` and `spread_trees`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.lightgbm_text import booster_of
from models.sales.options import Options, quantile_column

LEAST_FEATURES = 4
"""A tree of the location sees at least so many."""
FOLDS, BLOCK_WEEKS = 5, 4
BINS = 127

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
        """What each feature adds to a quantile before quantiles are put in order, in logs: (rows, features + 1).

        The last column is what all rows have in common; a row's sum is the quantile on the log scale. Lundberg et
        al. (2020), From local explanations to global understanding with explainable AI for trees, Nature Machine
        Intelligence 2.
        """
        of_both = [
            booster.predict(values, pred_contrib=True, num_threads=1)
            for booster in (self.location, self.spread[quantile])
        ]
        found: np.ndarray = np.add(*of_both)
        found[:, -1] += self.start[quantile]
        return found

    def files(self, name: str) -> dict[str, Any]:
        """The model as files of a bundle whose names begin with `name`."""
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

    `options` give the quantiles, the seed, the threads and how trees are grown. `weeks` are the numbers of
    the target weeks, by whose blocks the residuals are cross-fitted; `flags` names the covariates that mark
    promotions.
    """
    from models.boosting import lgb

    location, spread = _parameters(len(target), names, flags, options)
    binned = {"max_bin": BINS, "verbosity": -1, "num_threads": options.threads}
    everything = lgb.Dataset(values, target, feature_name=list(names), params=binned, free_raw_data=False)
    fold = (weeks // BLOCK_WEEKS) % FOLDS
    centre = np.empty(len(target))
    for held_out in np.unique(fold):
        kept = np.flatnonzero(fold != held_out)
        if len(kept) == 0:
            kept = np.arange(len(target))
        booster = lgb.train(location, everything.subset(kept.tolist()), options.trees)
        rows = np.flatnonzero(fold == held_out)
        centre[rows] = booster.predict(values[rows], num_threads=options.threads)
    residual = target - centre
    start, boosters = {}, {}
    for q in options.quantiles:
        name = quantile_column(q)
        start[name] = float(np.quantile(residual, q))
        data = lgb.Dataset(
            values, residual - start[name], feature_name=list(names), params=binned, reference=everything
        )
        boosters[name] = lgb.train({**spread, "alpha": q}, data, options.spread_trees)
    return Pooled(tuple(names), lgb.train(location, everything, options.trees), boosters, start)


def _parameters(
    rows: int, names: Sequence[str], flags: Sequence[str], options: Options
) -> tuple[dict[str, Any], dict[str, Any]]:
    """LightGBM's parameters of the location and of the spread."""
    common = {
        "deterministic": True,
        "force_row_wise": True,
        "seed": options.seed,
        "num_threads": options.threads,
        "verbosity": -1,
        "max_bin": BINS,
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
    """The model of rising `quantiles` from the files that `Pooled.files` made; None where they are not there.

    The order of the quantiles is that of `quantiles`: a JSON object has none.
    """
    if f"{name}_about" not in files:
        return None
    about = files[f"{name}_about"]
    columns = [quantile_column(q) for q in quantiles]
    boosters = {column: booster_of(files[f"{name}_{column}"]) for column in columns}
    location = booster_of(files[f"{name}_location"])
    return Pooled(tuple(about["features"]), location, boosters, about["start"])


def _directions(names: Sequence[str], flags: Sequence[str]) -> list[int]:
    """1 where the location may only rise with a feature, -1 where it may only fall, else 0."""
    rising = {*RISING, *flags, *(f"sku_{flag}" for flag in flags)}
    falling = {*FALLING, *(f"others_{flag}" for flag in flags)}
    return [1 if name in rising else -1 if name in falling else 0 for name in names]
