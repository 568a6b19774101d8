"""The options of `sales` that can be tuned, and how a trial is judged: by origin, each calibrated by the earlier ones."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import date
from typing import Any, ClassVar

import polars as pl

from models.sales import backtest, choices, ensembles, preparation, raw_forecasts
from models.sales.contest import NO_PLAN, POOLED
from models.sales.groups import GROUPS
from models.sales.neighbours import flag_names, with_plan
from models.sales.options import ESTIMATORS, Options
from models.scenario import AsOf, Context, Frames, Search
from models.search import OneOf, Real, Space, Whole

ORIGINS = 6
"""Origins of a study if the history is long enough: one calibrates, four search, the last one judges."""
TRIAL_ROWS = 40_000
"""Approximate maximum number of training rows of a trial, unless `training_rows` is smaller."""
_TREES = {"estimator": ("auto", "pooled", "blend")}


class SalesSearch(Search):
    """See `models.scenario.Search`. A fold is a backtest origin, named by its week.

    The first origin that the history covers is not a fold: its errors calibrate the next. A fold's
    loss is the loss of a bundle: the pinball loss per unit sold, after calibration and choice of rungs by the errors
    at all earlier origins.
    """

    space: ClassVar[Space] = {
        "estimator": OneOf(ESTIMATORS),
        **{f"use_{group}": OneOf((True, False), when=_TREES) for group in GROUPS},
        "trees": Whole(40, 160, when=_TREES),
        "learning_rate": Real(0.03, 0.3, log=True, when=_TREES),
        "leaves": Whole(7, 63, log=True, when=_TREES),
        "leaf_share": Real(1 / 1000, 1 / 40, log=True, when=_TREES),
        "feature_share": Real(0.05, 0.8, log=True, when=_TREES),
        "spread_trees": Whole(10, 40, when=_TREES),
        "spread_learning_rate": Real(0.05, 0.3, log=True, when=_TREES),
        "spread_leaves": Whole(3, 31, log=True, when=_TREES),
    }
    """Estimator, feature groups, and how trees are grown; at most twice as many trees as by default."""

    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return asdict(Options.of(options))

    def prepare(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """See `preparation.prepare`, here with the rows and origins of a study, and without the ladder's rows.

        These are the same in every trial.
        """
        parts = preparation.prepare(tables, context, as_of, _of_study(options), with_ladder=False)
        return {name: part for name, part in parts.items() if name != "statistical"}

    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        if "backtest" not in parts:
            return []
        origins = parts["backtest"].select(pl.col("origin").unique().sort()).collect()
        return [origin.isoformat() for origin in origins["origin"][1:]]

    def losses(
        self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        study_options = _of_study(options)
        frames = {name: frame.collect() for name, frame in parts.items()}
        has_plan = with_plan(context["covariates"])
        earlier: list[pl.DataFrame] = []
        for (origin,), rows in frames["backtest"].sort("origin").group_by("origin", maintain_order=True):
            assert isinstance(origin, date)
            train = frames["train"].lazy().filter(pl.col("week") <= origin)
            raw = _raw(train, rows, frames.get("statistical_backtest"), context, study_options)
            if earlier:
                forecasts = choices.forecasts_of_origin(pl.concat(earlier), raw, has_plan, study_options)
                yield backtest.loss(forecasts, study_options)
            earlier.append(raw)


def _of_study(options: Mapping[str, Any]) -> Options:
    sales_options = Options.of(options)
    return replace(sales_options, origins=ORIGINS, training_rows=min(sales_options.training_rows, TRIAL_ROWS))


def _raw(
    train: pl.LazyFrame, rows: pl.DataFrame, own: pl.DataFrame | None, context: Context, options: Options
) -> pl.DataFrame:
    """See `raw_forecasts.of_origin`. Ensembles that no row would use are not fitted."""
    plan_rows = train.filter("planned").select(pl.len()).collect().item()
    has_full_plan = rows["planned"].all() and plan_rows >= ensembles.LEAST_ROWS
    rungs = (POOLED,) if has_full_plan else (POOLED, NO_PLAN)
    covariates, flags = tuple(context["covariates"]["name"]), flag_names(context["covariates"])
    models = ensembles.fit(train, covariates, flags, options, rungs)
    return raw_forecasts.of_origin(models, rows, own, options)
