"""The pooled ensembles of a bundle, with and without the plan, fitted to the training rows of all shards."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from models.sales import features, groups, pooled
from models.sales.contest import NO_PLAN, POOLED
from models.sales.demand import to_log
from models.sales.options import Options
from models.sales.panel import KEY
from models.sales.preparation import FEATURE

LEAST_ROWS = 200
"""Least number of training rows for the pooled model; with fewer, the other rungs forecast all keys."""
LEARNT = ("units", "level", "week", "planned")
"""Columns of training rows to which ensembles are fitted, besides the features."""


def learnt(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Training rows, in memory, with the columns to which ensembles are fitted, in the same order for any shards."""
    order = [*KEY, "origin", "step"]
    return rows.sort(order).select(*LEARNT, f"^{FEATURE}.*$").collect().lazy()


def fit(
    train: pl.LazyFrame | None,
    covariates: Sequence[str],
    flags: Sequence[str],
    options: Options,
    rungs: Sequence[str] = (POOLED, NO_PLAN),
) -> dict[str, pooled.Pooled]:
    """The ensembles with and without a plan, fitted to rows of `train`; neither if there are too few."""
    from models.boosting import release_memory

    if train is None:
        return {}
    names = feature_names(train, covariates, options)
    without_plan = [name for name in names if not features.needs_plan(name, covariates)]
    by_rung = {}
    for rung, selection in ((POOLED, names), (NO_PLAN, without_plan)):
        rows = train.filter("planned") if rung == POOLED else train
        if rung in rungs and height(rows) >= LEAST_ROWS:
            by_rung[rung] = pooled.fit(*_inputs(rows, selection), selection, flags, options)
            release_memory()
    return by_rung


def feature_names(train: pl.LazyFrame | None, covariates: Sequence[str], options: Options) -> list[str]:
    """Names of the features that training rows have and the options use."""
    columns = [] if train is None else train.collect_schema().names()
    every = [name.removeprefix(FEATURE) for name in columns if name.startswith(FEATURE)]
    return groups.used(every, covariates, options)


def height(rows: pl.LazyFrame | None) -> int:
    """Number of training rows."""
    return 0 if rows is None else int(rows.select(pl.len()).collect().item())


def _inputs(rows: pl.LazyFrame, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets on the log scale and week numbers of `rows`, as `pooled.fit` takes them."""
    frame = rows.select(*LEARNT, *(FEATURE + name for name in names)).collect()
    target = to_log(frame["units"].to_numpy(), frame["level"].to_numpy())
    return matrix(frame, names), target, (frame["week"].to_physical() // 7).to_numpy()


def matrix(rows: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """The features `names` of `rows`, of shape (rows, features)."""
    return rows.select([FEATURE + name for name in names]).to_numpy(order="c")
