"""The options of `machines` that can be tuned, and how a trial is judged: by cut, each calibrated by the earlier ones."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, ClassVar

import polars as pl

from models.machines import evaluation, horizons, rates, training_rows
from models.machines.calibration import calibrated_probabilities
from models.machines.features import used_features
from models.machines.labels import next_failure_column
from models.machines.leaks import without_leaks
from models.machines.options import ESTIMATORS, Options
from models.machines.risks import MODEL, matrix
from models.machines.sampling import Fold
from models.machines.vocabulary import Vocabulary
from models.scenario import AsOf, Context, Frames, Search
from models.search import OneOf, Real, Space, Whole

CUTS = 4
"""Cuts of a study: rows held out after the first determine the trees and calibrate, those after the last judge."""
TRIAL_ROWS = 20_000
"""Approximate maximum number of training rows of a trial, unless `training_rows` is smaller."""
_GROUPS = ("short_windows", "spread", "normal", "errors", "attributes")
_LIGHTGBM = {"estimator": ("lightgbm",)}


class MachinesSearch(Search):
    """See `models.scenario.Search`. A fold is a cut of time, named by its day.

    The first fifth of the time range is before the first cut, and a fifth lies between two cuts. Rows after
    the first cut determine the number of trees and calibrate; a fold's loss is the log loss of the rows held
    out after it, calibrated by those of all earlier cuts.
    """

    space: ClassVar[Space] = {
        "estimator": OneOf(ESTIMATORS),
        **{f"use_{group}": OneOf((True, False)) for group in _GROUPS},
        "failing_weight": Real(0.25, 8.0, log=True),
        "learning_rate": Real(0.03, 0.3, log=True, when=_LIGHTGBM),
        "leaves": Whole(3, 31, log=True, when=_LIGHTGBM),
        "leaf_rows": Whole(5, 200, log=True, when=_LIGHTGBM),
        "feature_share": Real(0.1, 1.0, log=True, when=_LIGHTGBM),
        "depth": Whole(3, 20, when={"estimator": ("random_forest", "decision_tree")}),
    }
    """Estimator, feature groups, how trees are grown, and the weight of rows that a failure follows."""
    prepare = staticmethod(training_rows.prepare)

    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return asdict(Options.of(options))

    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        """The cuts except the first after which some row is held out for every horizon."""
        times = parts["rows"].select(pl.col("time").unique().sort()).collect()["time"]
        if not len(times):
            return []
        settings = Options.of(options)
        hours, window = max(settings.horizons_hours), max(settings.windows_hours)
        cuts = _cuts(times[0], times[-1])
        some = [times.to_frame().filter(cut.held_out(hours, window)).height > 0 for cut in cuts]
        return [f"{cut.cut:%Y-%m-%d}" for cut in cuts[1:]] if all(some) else []

    def losses(
        self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        settings = training_rows.options_of(context, options)
        settings = replace(settings, training_rows=min(settings.training_rows, TRIAL_ROWS))
        words, _ = without_leaks(parts["rows"], Vocabulary.of_frame(context["vocabulary"]), settings)
        work = horizons.Work(parts["rows"], words, used_features(words, settings), settings, [])
        ends = parts["rows"].select(pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
        cuts = _cuts(*ends.collect().row(0))
        earlier: dict[int, list[horizons.Holdout]] = {hours: [] for hours in settings.horizons_hours}
        choices: dict[int, horizons.Choice] = {}
        for cut in cuts:
            frames = []
            failures = rates.failures_after(_known(parts["rows"], words, cut), words.components)
            components = [c for c in words.components if failures[c] >= settings.min_failures]
            for hours, before in earlier.items():
                holdout = horizons.held_out_rows(work, cut, hours)
                choice = horizons.judge(work, cut, holdout, hours, components, choices.get(hours))
                choices.setdefault(hours, choice)
                if before:
                    frames.append(_judged(work, cut, hours, holdout, before, failures))
                before.append(holdout)
            if frames:
                yield evaluation.log_loss(evaluation.coherent(pl.concat(frames))) or float("nan")


def _cuts(first: datetime, last: datetime) -> list[Fold]:
    """Cuts at equal distances, the last one at that distance from the end."""
    step = (last - first) / (CUTS + 1)
    return [Fold(first + step * i, first + step * (i + 1)) for i in range(1, CUTS + 1)]


def _known(rows: pl.LazyFrame, words: Vocabulary, cut: Fold) -> pl.LazyFrame:
    """Rows up to the cut, with the failures that are known by then."""
    hours_left = (pl.lit(cut.cut) - pl.col("time")).dt.total_seconds() / 3600
    names = [next_failure_column(component) for component in words.components]
    columns = [
        pl.when((pl.col(name) <= hours_left) | pl.col(name).is_nan()).then(name).alias(name) for name in names
    ]
    return rows.filter(pl.col("time") <= cut.cut).with_columns(columns)


def _judged(
    work: horizons.Work,
    cut: Fold,
    hours: int,
    holdout: horizons.Holdout,
    before: list[horizons.Holdout],
    failures: Mapping[str, int],
) -> pl.DataFrame:
    """The held-out rows of one horizon with the calibrated probability of each component."""
    base = rates.base_rates(work.rows.filter(cut.learnt(hours)), work.vocabulary.components, hours)
    frames = []
    for component in work.vocabulary.components:
        risk = rates.without_model(component, hours, failures[component], base[component], work.options)
        probability = risk.predict(matrix(holdout.rows, []))
        if component in holdout.probabilities:
            probability = calibrated_probabilities(
                holdout.probabilities[component],
                horizons.calibration_of(before, component, hours, base[component]),
            )
            risk = replace(risk, rung=MODEL)
        frames.append(evaluation.judged_rows(holdout.rows, risk, probability, 1.0, work.options))
    return pl.concat(frames)
