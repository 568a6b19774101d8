"""One LightGBM quantile model per quantile, for all keys and horizons together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.sales.options import quantile_column

OFFSET = 0.1
"""Added to units relative to the level before the logarithm, so that zero has one."""


def to_log(units: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Units as the logarithm of their ratio to the key's own level."""
    return np.log(units / level + OFFSET)


def from_log(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The inverse of `to_log`, never negative."""
    return np.maximum((np.exp(values) - OFFSET) * level, 0.0)


@dataclass(frozen=True)
class Pooled:
    """Boosters by quantile column, all on the same `features`."""

    features: tuple[str, ...]
    boosters: dict[str, object]

    def predict(self, values: np.ndarray, threads: int) -> np.ndarray:
        """Quantiles on the log scale, shape (rows, quantiles), rising along each row."""
        columns = [b.predict(values, num_threads=threads) for b in self.boosters.values()]  # type: ignore[attr-defined]
        return np.maximum.accumulate(np.stack(columns, axis=1), axis=1)


def fit(
    values: np.ndarray,
    target: np.ndarray,
    names: Sequence[str],
    quantiles: Sequence[float],
    seed: int,
    threads: int,
) -> Pooled:
    import lightgbm as lgb

    data = lgb.Dataset(values, target, feature_name=list(names), free_raw_data=False)
    boosters = {}
    for q in quantiles:
        settings = {
            "objective": "quantile",
            "alpha": q,
            "learning_rate": 0.1,
            "num_leaves": 31,
            "min_data_in_leaf": 200,
            "deterministic": True,
            "force_row_wise": True,
            "seed": seed,
            "num_threads": threads,
            "verbosity": -1,
        }
        boosters[quantile_column(q)] = lgb.train(settings, data, num_boost_round=60)
    return Pooled(tuple(names), boosters)


def text(pooled: Pooled) -> dict[str, str]:
    return {name: booster.model_to_string() for name, booster in pooled.boosters.items()}  # type: ignore[attr-defined]


def read(texts: dict[str, str]) -> Pooled:
    import lightgbm as lgb

    boosters = {name: lgb.Booster(model_str=written) for name, written in texts.items()}
    first = next(iter(boosters.values()))
    return Pooled(tuple(first.feature_name()), boosters)
