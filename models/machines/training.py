"""Training: the bundle, its backtest and its measures, from the rows of all shards."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import polars as pl

from models.errors import ContractError
from models.machines import costs, evaluation, hazards
from models.machines.calibration import calibrated_probabilities
from models.machines.equipment import Gaps
from models.machines.features import used_features, windows
from models.machines.few_failures import few_failures
from models.machines.horizons import AT_ONCE, Horizon, Work, fitted_horizons
from models.machines.leaks import without_leaks
from models.machines.lives import Life
from models.machines.options import Options
from models.machines.rates import failures_after
from models.machines.risks import MODEL, Model, Risk, matrix
from models.machines.sampling import folds
from models.machines.service import record_ends
from models.machines.vocabulary import OTHER, OTHER_COMPONENTS, Vocabulary
from models.scenario import FitResult

_SHOWN = 10
"""Maximum number of components without a model that notes name."""

_Place = tuple[str, int]
_Bills = tuple[list[dict[str, float]], int]


def fit(
    rows: pl.LazyFrame, vocabulary: Vocabulary, period: pl.DataFrame, options: Options, gaps: Gaps = ()
) -> FitResult:
    """The bundle, its backtest and metrics, from the rows of all shards.

    Raises `ContractError` if there are no rows or no components, or if a cost names an unknown component.
    """
    first, count = rows.select(pl.col("time").min(), pl.len()).collect().row(0)
    if not count or not vocabulary.components:
        raise ContractError(
            f"Nothing to learn from: {count:,} rows of machines with telemetry, "
            f"{len(vocabulary.components)} components that were replaced or failed. Expected some of both. "
            "Ingest telemetry, maintenance and failures of the same machines and time, or widen --from and --to."
        )
    extra = sorted({name for name, _ in options.component_costs} - {*vocabulary.components})
    if extra:
        raise ContractError(
            f"--component-cost names {', '.join(extra)}, which was never replaced and never failed. Expected some of "
            f"{', '.join(vocabulary.components)}."
        )
    vocabulary, leak_notes = without_leaks(rows, vocabulary, options)
    notes = [*leak_notes, *_data_notes(vocabulary, period, options)]
    work = Work(rows, vocabulary, used_features(vocabulary, options), options, notes)
    failures = failures_after(rows, vocabulary.components)
    cuts = folds(first, period["outcomes"].item(), options.held_out_share)
    horizons = fitted_horizons(work, cuts, failures)
    before = _bills(_judged(horizons, slice(0, 1), first=True, options=options, bills={}), options)
    backtest = _judged(horizons, slice(1, 2), first=True, options=options, bills=before)
    after = _bills(_judged(horizons, slice(0, 2), first=False, options=options, bills={}), options)
    risks = [_with_threshold(risk, after) for f in horizons for risk in f.risks]
    model = Model(vocabulary, options, tuple(risks), tuple(_lives(work, horizons[-1].hidden)), gaps)
    metrics = pl.concat([evaluation.metrics(backtest, options), *(f.importance for f in horizons)])
    few = few_failures({r.component: failures[r.component] for r in risks if r.rung == MODEL})
    return FitResult(
        files=model.files(),
        features=work.names,
        backtest=backtest,
        metrics=metrics,
        headline=_headline(metrics),
        loss=evaluation.log_loss(backtest) or float("inf"),
        notes=[*work.notes, *([few] if few else []), *missing_models(risks)],
    )


def missing_models(risks: Sequence[Risk]) -> list[str]:
    """Why components have no model; of many, only the first, because names may be texts that differ for each failure."""
    notes = [f"{r.component} at {r.horizon_hours} h: {r.reason}" for r in risks if r.reason]
    if len(notes) <= 2 * _SHOWN:
        return notes
    count = len({r.component for r in risks if r.reason})
    names = (
        f"{count:,} of {len({r.component for r in risks}):,} components have no model. If their names are texts, name "
        "what failed with --column component=A_COLUMN_OF_NAMES, or component==NAME for one name"
    )
    return [names, *notes[:_SHOWN]]


def _lives(work: Work, hidden: Sequence[str]) -> list[Life]:
    """The remaining life of each component; features `hidden` from the longest horizon are also hidden here."""
    interval = max(work.vocabulary.interval_hours, work.options.every_hours)

    def learn(component: str) -> Life:
        return hazards.learn(work.rows, component, work.features, interval, work.options, hidden)

    with ThreadPoolExecutor(work.options.threads or AT_ONCE) as pool:
        return list(pool.map(learn, work.vocabulary.components))


def _data_notes(vocabulary: Vocabulary, period: pl.DataFrame, options: Options) -> list[str]:
    """Notes on data that is not used as stored."""
    usable = windows(vocabulary.interval_hours, options)
    notes = [*usable.left_out]
    if vocabulary.sensors and not usable.hours:
        notes.append(
            "no sensor is used: no window holds a reading. Choose windows of whole intervals with --windows"
        )
    until, last, repeats = period.select("outcomes", "last", "repeats").row(0)
    if until < last:
        notes.append(record_ends(until, last))
    if repeats:
        notes.append(
            "records that repeat a failure of the previous 24 hours that was not repaired yet, so that it counts once: "
            f"{repeats:,}"
        )
    if vocabulary.dated:
        notes.append(
            f"{' and '.join(vocabulary.dated)}: all times are 00:00, so they are days, and count from the end of the day "
            "on: a failure may have come before"
        )
    if vocabulary.codes:
        notes.append(f"readings such as {', '.join(vocabulary.codes)} stand for no reading, and are not used")
    if vocabulary.conditions:
        notes.append(
            f"operating conditions: {len(vocabulary.conditions.means)} were found in the readings, which are also compared "
            "within each of them"
        )
    if OTHER_COMPONENTS in vocabulary.components:
        notes.append(
            f"components: {len(vocabulary.components) - 1} are on record three times or more; all others count as "
            f"'{OTHER_COMPONENTS}'"
        )
    if OTHER in vocabulary.errors:
        notes.append(
            f"errors: there are too many kinds for one feature each; the {len(vocabulary.errors) - 1} most common ones are "
            f"distinguished, messages by their text without numbers; all others count as '{OTHER}'"
        )
    return notes


def _judged(
    horizons: Sequence[Horizon], cuts: slice, *, first: bool, options: Options, bills: Mapping[_Place, _Bills]
) -> pl.DataFrame:
    """Held-out judged rows, calibrated by the first cut alone or by both, with alarms by `bills`."""
    parts = [pl.DataFrame(schema=evaluation.JUDGED)]
    for horizon in horizons:
        for holdout in horizon.holdouts[cuts]:
            for component, without in horizon.without.items():
                if component in holdout.probabilities:
                    how = (horizon.first if first else horizon.both)[component]
                    probability = calibrated_probabilities(holdout.probabilities[component], how)
                    risk = replace(without, rung=MODEL)
                else:
                    probability, risk = without.predict(matrix(holdout.rows, [])), without
                threshold = _with_threshold(risk, bills).threshold(options)
                parts.append(evaluation.judged_rows(holdout.rows, risk, probability, threshold, options))
    return evaluation.coherent(pl.concat(parts))


def _bills(judged_rows: pl.DataFrame, options: Options) -> dict[_Place, _Bills]:
    """For each component and horizon, the bills of all thresholds and their number of failures.

    An alarm that is not earlier than that of the next shorter horizon does not count as preventing a failure, so that
    the threshold suits earlier alarms.
    """
    by_place = {}
    for (component, hours), rows in judged_rows.group_by("component", "horizon_hours"):
        failures = evaluation.failures_of(rows)
        by_place[str(component), int(hours)] = (
            costs.bills(rows, failures, int(hours), options.lead(int(hours))),
            failures.height,
        )
    return by_place


def _with_threshold(risk: Risk, bills: Mapping[_Place, _Bills]) -> Risk:
    rows, failures = bills.get((risk.component, risk.horizon_hours), ([], 0))
    return replace(risk, bills=rows, failures=failures)


def _headline(metrics: pl.DataFrame) -> dict[str, float]:
    """The few numbers of each horizon: over all components, and for machines in which some component fails."""
    names = ("f1", "average_precision", "calibration_error", "warned", "saved_to_every_n_days")
    figures = {}
    for part, hours, metric, value in metrics.iter_rows():
        if part == "horizon" and metric in names:
            figures[f"{metric}_{hours}"] = value
        elif part == "any_component" and metric == "average_precision":
            figures[f"machine_{metric}_{hours}"] = value
    return figures
