"""The estimators and calibrations of each horizon.

Each horizon is fitted three times. Up to the first cut, judged on the rows held out after it: this determines the number
of trees and a calibration. Up to the second cut, with that calibration: its probabilities for the
rows held out last are the backtest, on which no choice depends. Up to the end, for the bundle, calibrated by the
held-out rows of both cuts or, if they hold few failures, by predictions for machines that an estimator has not seen.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import polars as pl

from models.machines.calibration import (
    EDGE,
    IDENTITY,
    Calibration,
    calibrations_of_few,
    platt,
    towards,
)
from models.machines.estimators import Estimator, Flags, Floats, Learner, Matrix
from models.machines.features import Feature, windows
from models.machines.few_failures import FEW_FAILURES
from models.machines.labels import (
    OBSERVED,
    fails_within,
    has_component,
    next_failure_column,
    some_fails_within,
)
from models.machines.options import Options
from models.machines.rates import base_rates, failures_after, machine_hours, without_model
from models.machines.risks import BASE_RATE, MODEL, Risk, matrix
from models.machines.sampling import DRAWN, Fold, masked_copies, shares
from models.machines.vocabulary import Vocabulary
from models.metrics import SCHEMA

AT_ONCE = 2
"""Number of sets of estimators that are fitted at the same time, one per thread; their rows are in memory together."""

_WORTH_IT = 0.02
"""Share by which additional features must lower the log loss."""

_ENOUGH_FAILURES = 100
"""From so many held-out failures on, they alone determine the calibration: their rate is known within a tenth."""

_MANY_ROWS = 20_000
_FOLDS = 5
"""Groups of machines for cross-validation: estimators predict a group that they have not seen."""


@dataclass
class Holdout:
    """Held-out rows of one cut, with the probabilities of each component's estimator."""

    rows: pl.DataFrame
    until: datetime
    probabilities: dict[str, Floats] = field(default_factory=dict)

    def failures(self, component: str, hours: int) -> int:
        """The number of the component's failures within `hours` after some row."""
        rows = self.rows.filter(fails_within(component, hours))
        return failures_after(rows.lazy(), [component])[component]

    def failed(self, component: str, hours: int) -> Flags:
        return self.rows.select(fails_within(component, hours)).to_series().to_numpy().astype(bool)

    def has(self, component: str) -> Flags:
        return self.rows.select(has_component(component)).to_series().to_numpy()


@dataclass(frozen=True)
class Horizon:
    """The result for one horizon: risks for the bundle, and held-out rows and calibrations of both cuts."""

    hours: int
    risks: Sequence[Risk]
    holdouts: Sequence[Holdout]
    first: Mapping[str, Calibration]
    both: Mapping[str, Calibration]
    without: Mapping[str, Risk]
    importance: pl.DataFrame
    hidden: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """Training rows: features, weights, the outcomes of each component that fails in some row, and machine numbers.

    `has` tells for each component whether a row's machine has it: other rows teach nothing about it.
    """

    X: Matrix
    weight: Floats
    outcomes: dict[str, Flags]
    machine: Floats
    has: dict[str, Flags]


@dataclass(frozen=True)
class Final:
    """The bundle's estimator of a component, and its calibration if few failures were held out."""

    estimator: Estimator
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Choice:
    """The choices that held-out rows determine for a horizon: the number of trees of each component, and unused features."""

    trees: Mapping[str, int] = field(default_factory=dict)
    hidden: Sequence[str] = ()


@dataclass(frozen=True)
class Work:
    """The data to which all horizons are fitted; `notes` grow during fitting."""

    rows: pl.LazyFrame
    vocabulary: Vocabulary
    features: Sequence[Feature]
    options: Options
    notes: list[str]

    @property
    def names(self) -> list[str]:
        return [f.name for f in self.features]

    @property
    def most_rows(self) -> int:
        rows = self.options.training_rows
        return rows if self.options.estimator == "lightgbm" else rows // 5


def fitted_horizons(work: Work, cuts: Sequence[Fold], failures: Mapping[str, int]) -> list[Horizon]:
    """The estimators of each horizon, with predictions for held-out rows; several are fitted in parallel."""
    horizons = work.options.horizons_hours
    components = [c for c in work.vocabulary.components if failures[c] >= work.options.min_failures]
    holdouts = {hours: [held_out_rows(work, cut, hours) for cut in cuts] for hours in horizons}
    with ThreadPoolExecutor(work.options.threads or AT_ONCE) as pool:

        def first_choice(hours: int) -> Choice:
            return judge(work, cuts[0], holdouts[hours][0], hours, components)

        choices = dict(zip(horizons, pool.map(first_choice, horizons), strict=True))
        later = [
            pool.submit(judge, work, cuts[1], holdouts[h][1], h, components, choices[h]) for h in horizons
        ]
        final = {h: pool.submit(_final, work, h, components, choices[h], holdouts[h]) for h in horizons}
        for task in later:
            task.result()
        results = {hours: future.result() for hours, future in final.items()}
    few = (c for c in work.vocabulary.components if c not in components)
    at_work = {c: machine_hours(work.rows, c) for c in few}
    return [
        _horizon(work, h, results[h], holdouts[h], failures, at_work, choices[h].hidden) for h in horizons
    ]


def _horizon(
    work: Work,
    hours: int,
    finals: Mapping[str, Final],
    holdouts: Sequence[Holdout],
    failures: Mapping[str, int],
    at_work: Mapping[str, float],
    hidden: Sequence[str],
) -> Horizon:
    components = work.vocabulary.components
    base = base_rates(work.rows, components, hours)
    without = {
        c: without_model(c, hours, failures[c], base[c], work.options, at_work.get(c, 0.0))
        for c in components
    }
    if all(one.rows.is_empty() for one in holdouts):
        short = "the time range is too short to hold out rows for the calibration of a model of {}"
        without |= {c: Risk(c, hours, BASE_RATE, base[c], short.format(c)) for c in finals}
        finals = {}
    before = base_rates(work.rows, components, hours, holdouts[0].until)
    first = {c: calibration_of(holdouts[:1], c, hours, before[c]) for c in components}
    both = {c: calibration_of(holdouts, c, hours, base[c]) for c in components}
    both |= {c: final.calibration for c, final in finals.items() if final.calibration}
    risks = [
        Risk(c, hours, MODEL, base[c], None, finals[c].estimator, both[c]) if c in finals else without[c]
        for c in components
    ]
    importance = [_importance(finals[c].estimator, c, hours, work.names) for c in components if c in finals]
    return Horizon(
        hours,
        risks,
        holdouts,
        first,
        both,
        without,
        pl.concat([pl.DataFrame(schema=SCHEMA), *importance]),
        hidden,
    )


def judge(
    work: Work,
    cut: Fold,
    holdout: Holdout,
    hours: int,
    components: Sequence[str],
    choice: Choice | None = None,
) -> Choice:
    """Predict the cut's held-out rows by estimators of its past, into `holdout`, and return the choice that was used.

    Without `choice`, the held-out rows determine the number of trees, and rows before the cut the hidden features.
    """
    X = matrix(holdout.rows, work.names)
    sample = _learn(work, cut.learnt(hours) & (pl.col(OBSERVED) >= hours), hours, components)
    hidden = choice.hidden if choice else hidden_features(work, sample, hours)
    visible = _without(sample.X, work.names, hidden)
    learner = Learner(visible, sample.weight, work.options, X if choice is None else None)
    trees = {}
    for component, is_failure in sample.outcomes.items():
        if choice is None:
            later = holdout.failed(component, hours), holdout.has(component)
            fit = learner.fit(is_failure, sample.has[component], later)
        else:
            fit = learner.fit(is_failure, sample.has[component], trees=choice.trees.get(component))
        holdout.probabilities[component], trees[component] = fit.estimator.predict(X), fit.trees
    holdout.rows = holdout.rows.drop([f.name for f in work.features if f.statistic != "replaced"])
    return Choice(trees, hidden)


def hidden_features(work: Work, sample: Sample, hours: int) -> list[str]:
    """Features of windows of several readings, if the shortest window is a single reading and predicts equally well.

    Estimators learn from one half of the machines and are judged on the other, and vice versa; longer windows are
    used if they lower the log loss by `_WORTH_IT`.
    """
    usable = windows(work.vocabulary.interval_hours, work.options)
    longer = [f.name for f in work.features if f.kind == "sensor" and f.hours in usable.spread]
    if work.options.estimator != "lightgbm" or usable.spread == usable.hours or not longer:
        return []
    if not sample.outcomes or len(np.unique(sample.machine)) == 1:
        return []
    with_them, without = (
        _loss_of_other_half(sample, _without(sample.X, work.names, names), work.options)
        for names in ([], longer)
    )
    if with_them < without * (1 - _WORTH_IT):
        return []
    work.notes.append(
        f"horizon of {hours} h: windows of several readings do not predict better than single readings and are not used"
    )
    return longer


def _loss_of_other_half(sample: Sample, X: Matrix, options: Options) -> float:
    """Weighted log loss over all components of estimators that learnt from the other half of the machines."""
    loss = 0.0
    first = sample.machine % 2 == 0
    both = Learner(X, sample.weight, options)
    for half in (first, ~first):
        learner = both.where(half)
        for component, is_failure in sample.outcomes.items():
            if is_failure[half].any():
                has = sample.has[component]
                weight = sample.weight[~half] * has[~half]
                fit = learner.fit(is_failure[half], has[half])
                p = np.clip(fit.estimator.predict(X[~half]), EDGE, 1 - EDGE)
                loss -= float((weight * np.log(np.where(is_failure[~half], p, 1 - p))).sum())
    return loss


def _without(X: Matrix, names: Sequence[str], hidden: Sequence[str]) -> Matrix:
    """`X` with the columns `hidden` emptied, so that no tree splits on them."""
    if not hidden:
        return X
    copy = X.copy()
    copy[:, [names.index(name) for name in hidden]] = np.nan
    return copy


def _final(
    work: Work, hours: int, components: Sequence[str], choice: Choice, holdouts: Sequence[Holdout]
) -> dict[str, Final]:
    """The bundle's estimators, learnt from all rows whose horizon is over."""
    sample = _learn(work, pl.col(OBSERVED) >= hours, hours, components)
    sample = replace(sample, X=_without(sample.X, work.names, choice.hidden))
    few = [c for c in sample.outcomes if sum(h.failures(c, hours) for h in holdouts) < _ENOUGH_FAILURES]
    how = _calibrations_by_others(sample, few, work.options, choice.trees) if few else {}
    learner = Learner(sample.X, sample.weight, work.options)
    return {
        c: Final(learner.fit(is_failure, sample.has[c], trees=choice.trees.get(c)).estimator, how.get(c))
        for c, is_failure in sample.outcomes.items()
    }


def _calibrations_by_others(
    sample: Sample, components: Sequence[str], options: Options, trees: Mapping[str, int]
) -> dict[str, Calibration]:
    """Calibrations by predictions for machines that an estimator has not seen.

    If there are many healthy rows, every n-th is used, with a weight of n.
    """
    is_any_failure = np.any([*sample.outcomes.values()], axis=0)
    thin = 1 + len(is_any_failure) // _MANY_ROWS
    some = is_any_failure | (np.arange(len(is_any_failure)) % thin == 0)
    weight = sample.weight[some] * np.where(is_any_failure[some], 1, thin)
    outcomes, has = ({c: of[c][some] for c in components} for of in (sample.outcomes, sample.has))
    fewer = Sample(sample.X[some], weight, outcomes, sample.machine[some], has)
    learner = Learner(fewer.X, weight, options)
    probabilities = {c: _cross_predictions(fewer, learner, c, trees.get(c)) for c in components}
    row_weight = weight / np.where(is_any_failure[some], options.failing_weight, 1)
    return calibrations_of_few(
        {c: probabilities[c][has[c]] for c in components},
        {c: outcomes[c][has[c]] for c in components},
        {c: row_weight[has[c]] for c in components},
    )


def _cross_predictions(sample: Sample, learner: Learner, component: str, trees: int | None) -> Floats:
    """Probabilities by estimators of other groups of machines; failing machines are distributed evenly over the groups."""
    is_failure, has = sample.outcomes[component], sample.has[component]
    which = np.unique(sample.machine, return_inverse=True)[1]
    order = np.argsort(np.bincount(which, is_failure) == 0, kind="stable")
    fold = np.argsort(order)[which] % _FOLDS
    probabilities = np.full(len(is_failure), np.average(is_failure, weights=sample.weight * has))
    for i in range(_FOLDS):
        others = fold != i
        if is_failure[others].any() and not others.all():
            fit = learner.where(others).fit(is_failure[others], has[others], trees=trees)
            probabilities[~others] = fit.estimator.predict(sample.X[~others])
    return probabilities


def _learn(work: Work, where: pl.Expr, hours: int, components: Sequence[str]) -> Sample:
    """A sample of the rows `where`.

    Rows are the same for all components: all rows that a failure of some component follows, and a share of the
    healthy ones, weighted so that proportions are preserved.
    """
    if not components:
        return Sample(matrix(pl.DataFrame(), work.names), np.empty(0), {}, np.empty(0), {})
    some = some_fails_within(components, hours)
    counts = work.rows.filter(where).select(some.sum().alias("failing"), pl.len().alias("rows")).collect()
    positives = int(counts["failing"].item() or 0)
    share = shares(positives, counts["rows"].item() - positives, work.most_rows)
    of_row = pl.when(some).then(share[0]).otherwise(share[1])
    labels = [fails_within(c, hours).fill_null(value=False).alias(_label(c)) for c in components]
    labels += [has_component(c).alias(_has(c)) for c in components]
    frame = (
        work.rows.filter(where, pl.col(DRAWN) < of_row)
        .select("machine_id", "time", *work.names, DRAWN, of_row.alias("|share"), *labels)
        .collect()
        .sort("machine_id", "time")
    )
    X = matrix(frame, work.names)
    again = (frame[DRAWN] / frame["|share"] * 1009) % 1
    copies, which = masked_copies(X, again.to_numpy(), work.features)
    weight = 1 / frame["|share"].to_numpy()
    failing_rows = frame.select(pl.any_horizontal(_label(c) for c in components)).to_series().to_numpy()
    weight = np.where(failing_rows, weight * work.options.failing_weight, weight)
    with_failures = [c for c in components if frame[_label(c)].any()]
    outcomes, has = (
        {c: np.concatenate([frame[of(c)].to_numpy(), frame[of(c)].to_numpy()[which]]) for c in with_failures}
        for of in (_label, _has)
    )
    machine = frame["machine_id"].rle_id().to_numpy()
    machine = np.concatenate([machine, machine[which]])
    return Sample(
        np.concatenate([X, copies]), np.concatenate([weight, weight[which]]), outcomes, machine, has
    )


def _label(component: str) -> str:
    return f"{component}|failed"


def _has(component: str) -> str:
    return f"{component}|has"


def held_out_rows(work: Work, fold: Fold, hours: int) -> Holdout:
    where = fold.held_out(hours, max(work.options.windows_hours)) & (pl.col(OBSERVED) >= hours)
    columns = [*work.names, "machine_id", "time", OBSERVED]
    columns += [next_failure_column(c) for c in work.vocabulary.components]
    rows = work.rows.filter(where).select(columns).collect().sort("machine_id", "time")
    if rows.is_empty():
        note = f"horizon of {hours} h: the time range is too short to hold out rows after {fold.cut:%Y-%m-%d %H:%M}"
        work.notes.append(note)
    return Holdout(rows, fold.until)


def calibration_of(holdouts: Sequence[Holdout], component: str, hours: int, base_rate: float) -> Calibration:
    """The calibration by held-out rows; if they have few failures, the calibrated mean is `base_rate`."""
    parts = [h for h in holdouts if component in h.probabilities]
    if not parts:
        return IDENTITY
    has = np.concatenate([h.has(component) for h in parts])
    probabilities = np.concatenate([h.probabilities[component] for h in parts])[has]
    fit = platt(probabilities, np.concatenate([h.failed(component, hours) for h in parts])[has])
    few = sum(h.failures(component, hours) for h in parts) < FEW_FAILURES and len(probabilities)
    return towards(fit, probabilities, np.ones(len(probabilities)), base_rate) if few else fit


def _importance(estimator: Estimator, component: str, hours: int, names: Sequence[str]) -> pl.DataFrame:
    share = estimator.importance(len(names))
    rows = [
        (f"importance_{hours}h_{component}", n, "share", float(s)) for n, s in zip(names, share, strict=True)
    ]
    return pl.DataFrame([k for k in rows if k[3] > 0], schema=SCHEMA, orient="row")
