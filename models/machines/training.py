"""Training: rows with features and outcomes per shard, then an estimator and a calibration per risk.

Each horizon is fitted three times. Up to the first cut, judged on the rows held out after it: that
settles how many trees are worth having, and gives a calibration. Up to the second cut, with that
calibration: its probabilities for the rows held out last are the backtest, which nothing was chosen
by. Up to the end, for the bundle, calibrated by the held-out rows of both cuts.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import expm1

import numpy as np
import polars as pl

from models.errors import ContractError
from models.machines import costs, evaluation, hazards
from models.machines.calibration import (
    EDGE,
    FEW_FAILURES,
    IDENTITY,
    Calibration,
    calibrated,
    calibration,
    towards,
)
from models.machines.contracts import known
from models.machines.estimators import Estimator, Flags, Floats, Learner, Matrix
from models.machines.features import Feature, build, used_features, windows
from models.machines.labels import OBSERVED, fails_within, next_failure_column, outcomes
from models.machines.leaks import leaks
from models.machines.lives import Life, times
from models.machines.options import Options
from models.machines.risks import BASE_RATE, MODEL, NO_MODEL, Model, Risk, matrix
from models.machines.sampling import DRAWN, STEPS, Fold, draw, folds, masked, row_count, shares
from models.machines.service import ended, record_ends
from models.machines.vocabulary import OTHER, Vocabulary
from models.scenario import Frames, Trained


def rows_of(
    tables: Frames,
    vocabulary: Vocabulary,
    observed: pl.DataFrame,
    since: datetime | None,
    options: Options,
) -> pl.DataFrame:
    """Features and outcomes of all machines in `tables`, from `since` (or the first telemetry) on.

    Row times are counted back from the latest telemetry. Outcomes are known as far as failures are on
    record, and of a machine out of service until it ended. A machine has no row where its longest window
    holds no reading. Columns: those of `features.build` and `labels.outcomes`, `steps_back` and `drawn`.
    """
    first, last = observed["first"].item(), observed["last"].item()
    count = row_count(max(first, since) if since else first, last, options.every_hours)
    seen = known(tables, last)
    machines = seen["telemetry"].select(pl.col("machine_id").unique()).collect()["machine_id"].to_list()
    rows = build(tables, vocabulary, machines, last, count, options)
    steps = np.tile(np.arange(count - 1, -1, -1, dtype=np.int32), len(machines))
    nothing = pl.LazyFrame(
        schema={"machine_id": pl.String, "time": rows.schema["time"], "component": pl.String}
    )
    failures = seen.get("failures", nothing)
    gone = ended(seen, last, vocabulary.interval_hours)
    after = outcomes(rows, failures, vocabulary.components, observed["outcomes"].item(), gone)
    rows = rows.with_columns(pl.Series(STEPS, steps)).hstack(after).filter(pl.col("readings") > 0)
    return rows.with_columns(draw(rows, options.seed))


def span_hours(observed: pl.DataFrame) -> float:
    """Hours from the first telemetry to the last."""
    return float((observed["last"].item() - observed["first"].item()).total_seconds()) / 3600


_AT_ONCE = 2
"""Sets of estimators that are fitted at the same time, each on a thread; their rows are in memory together."""

_SHOWN = 10
"""Components without a model that are named, where there are many."""

_WORTH_IT = 0.02
"""The share of the log loss by which further features have to lower it."""

_Place = tuple[str, int]
_Bills = tuple[list[dict[str, float]], int]


@dataclass
class Held:
    """Held-out rows of one cut, with what each component's estimator said of them."""

    rows: pl.DataFrame
    until: datetime
    said: dict[str, Floats] = field(default_factory=dict)

    def failures(self, component: str, hours: int) -> int:
        """How often the component failed within `hours` of some row."""
        failed = self.rows.filter(fails_within(component, hours))
        return failures_after(failed.lazy(), [component])[component]

    def failed(self, component: str, hours: int) -> Flags:
        return self.rows.select(fails_within(component, hours)).to_series().to_numpy().astype(bool)


@dataclass(frozen=True)
class _Horizon:
    """What one horizon came to: risks for the bundle, held-out rows of both cuts, calibrations by each."""

    hours: int
    risks: Sequence[Risk]
    held: Sequence[Held]
    first: Mapping[str, Calibration]
    both: Mapping[str, Calibration]
    without: Mapping[str, Risk]
    importance: pl.DataFrame
    hidden: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """Rows to learn from: features, weights, the outcome of each component that fails in some, and every other machine."""

    X: Matrix
    weight: Floats
    failed: dict[str, Flags]
    half: Flags


@dataclass(frozen=True)
class Settled:
    """What held-out rows settle for a horizon: the trees of each component, and features that are not learnt from."""

    trees: Mapping[str, int] = field(default_factory=dict)
    hidden: Sequence[str] = ()


@dataclass(frozen=True)
class Work:
    """What all horizons are fitted to; `notes` are added to."""

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


def fit(rows: pl.LazyFrame, vocabulary: Vocabulary, observed: pl.DataFrame, options: Options) -> Trained:
    """The bundle, its backtest and metrics, from the rows of all shards.

    Raises `ContractError` where there is no row, or no component, or a cost is given of one that there is not.
    """
    ends = rows.select(pl.col("time").min().alias("first"), pl.len().alias("rows")).collect()
    if not ends["rows"].item() or not vocabulary.components:
        raise ContractError(
            f"Nothing to learn from: {ends['rows'].item()} rows of machines with telemetry, "
            f"{len(vocabulary.components)} components that were replaced or failed. Expected some of both. "
            "Ingest telemetry, maintenance and failures of the same machines and time, or widen --from and --to."
        )
    unknown = sorted({name for name, _ in options.component_costs} - {*vocabulary.components})
    if unknown:
        raise ContractError(
            f"--component-cost names {', '.join(unknown)}, which was never replaced and never failed. Expected some of "
            f"{', '.join(vocabulary.components)}."
        )
    vocabulary, leaking = without_leaks(rows, vocabulary, options)
    notes = [*leaking, *_told(vocabulary, observed, options)]
    work = Work(rows, vocabulary, used_features(vocabulary, options), options, notes)
    cuts = folds(ends["first"].item(), observed["outcomes"].item(), options.held_out_share)
    fitted = _horizons(work, cuts, failures_after(rows, vocabulary.components))
    before = _bills(_judged(fitted, slice(0, 1), first=True, options=options, bills={}), options)
    backtest = _judged(fitted, slice(1, 2), first=True, options=options, bills=before)
    after = _bills(_judged(fitted, slice(0, 2), first=False, options=options, bills={}), options)
    risks = [_billed(risk, after) for f in fitted for risk in f.risks]
    model = Model(vocabulary, options, tuple(risks), tuple(_lives(work, fitted[-1].hidden)))
    metrics = pl.concat([evaluation.metrics(backtest, options), *(f.importance for f in fitted)])
    return Trained(
        files=model.files(),
        features=work.names,
        backtest=backtest,
        metrics=metrics,
        headline=_headline(metrics),
        loss=evaluation.log_loss(backtest) or float("inf"),
        notes=[
            *work.notes,
            *unmodelled(risks),
        ],
    )


def unmodelled(risks: Sequence[Risk]) -> list[str]:
    """Why components have no model, of many the first ones; names may then be texts, another one for each failure."""
    notes = [f"{r.component} at {r.horizon_hours} h: {r.reason}" for r in risks if r.reason]
    if len(notes) <= 2 * _SHOWN:
        return notes
    count = len({r.component for r in risks if r.reason})
    names = (
        f"{count:,} of {len({r.component for r in risks}):,} components have no model. Where their names are texts, name "
        "what failed with --column component=A_COLUMN_OF_NAMES, or component==NAME for one name"
    )
    return [names, *notes[:_SHOWN]]


def _lives(work: Work, hidden: Sequence[str]) -> list[Life]:
    """The remaining life of each component; features `hidden` from the longest horizon are from these, too."""
    interval = max(work.vocabulary.interval_hours, work.options.every_hours)

    def learn(component: str) -> Life:
        return hazards.learn(work.rows, component, work.features, interval, work.options, hidden)

    with ThreadPoolExecutor(work.options.threads or _AT_ONCE) as pool:
        return list(pool.map(learn, work.vocabulary.components))


def _told(vocabulary: Vocabulary, observed: pl.DataFrame, options: Options) -> list[str]:
    """What of the data is not used as it came."""
    notes = list(windows(vocabulary.interval_hours, options).left_out)
    until, last, repeats = observed.select("outcomes", "last", "repeats").row(0)
    if until < last:
        notes.append(record_ends(until, last))
    if repeats:
        notes.append(
            f"{repeats:,} records of failures repeat one of the 24 hours before that was not repaired yet: it counts once"
        )
    if OTHER in vocabulary.errors:
        notes.append(
            f"errors: too many kinds for a feature each; the {len(vocabulary.errors) - 1} commonest are told apart, "
            f"messages by their text without numbers, and all others count as '{OTHER}'"
        )
    return notes


def without_leaks(
    rows: pl.LazyFrame, vocabulary: Vocabulary, options: Options
) -> tuple[Vocabulary, list[str]]:
    """`vocabulary` without sensors that tell the outcome, but for those that are to be kept, and what is told."""
    resolved = windows(vocabulary.interval_hours, options).hours
    if not resolved:
        return vocabulary, []
    found = leaks(rows, vocabulary, resolved[0], max(options.horizons_hours))
    told = [
        f"sensor {name}: {reason}; it is "
        + (
            "kept"
            if name in options.keep_columns
            else f"left out. If it is known at the time, --keep-column {name}"
        )
        for name, reason in found.items()
    ]
    kept = tuple(s for s in vocabulary.sensors if s not in found or s in options.keep_columns)
    return replace(vocabulary, sensors=kept), told


def _horizons(work: Work, cuts: Sequence[Fold], failures: Mapping[str, int]) -> list[_Horizon]:
    """The estimators of each horizon, and what was said of held-out rows on the way; some are fitted at once."""
    horizons, components = work.options.horizons_hours, work.vocabulary.components
    modelled = [c for c in components if failures[c] >= work.options.min_failures]
    held = {(hours, cut): held_out_rows(work, cut, hours) for hours in horizons for cut in cuts}
    with ThreadPoolExecutor(work.options.threads or _AT_ONCE) as pool:

        def judged(hours: int) -> Settled:
            return judge(work, cuts[0], held[hours, cuts[0]], hours, modelled)

        settled = dict(zip(horizons, pool.map(judged, horizons), strict=True))
        later = [
            pool.submit(judge, work, cuts[1], held[h, cuts[1]], h, modelled, settled[h]) for h in horizons
        ]
        final = {h: pool.submit(_final, work, h, modelled, settled[h]) for h in horizons}
        for done in later:
            done.result()
        found = {hours: future.result() for hours, future in final.items()}
    return [
        _horizon(work, h, found[h], [held[h, cut] for cut in cuts], failures, settled[h].hidden)
        for h in horizons
    ]


def _horizon(
    work: Work,
    hours: int,
    found: Mapping[str, Estimator],
    held: Sequence[Held],
    failures: Mapping[str, int],
    hidden: Sequence[str],
) -> _Horizon:
    components, base = work.vocabulary.components, base_rates(work, hours)
    at_work = machine_hours(work.rows)
    without = {c: without_model(c, hours, failures[c], base[c], work.options, at_work) for c in components}
    if all(one.rows.is_empty() for one in held):
        short = "the time range is too short to hold out rows by which a model of {} could be calibrated"
        without |= {c: Risk(c, hours, BASE_RATE, base[c], short.format(c)) for c in found}
        found = {}
    before = base_rates(work, hours, held[0].until)
    first = {c: calibration_of(held[:1], c, hours, before[c]) for c in components}
    both = {c: calibration_of(held, c, hours, base[c]) for c in components}
    both |= {c: as_often_as_it_failed(work, held, found[c], both[c], c, hours, base[c]) for c in found}
    risks = [
        Risk(c, hours, MODEL, base[c], None, found[c], both[c]) if c in found else without[c]
        for c in components
    ]
    importance = [_importance(found[c], c, hours, work.names) for c in components if c in found]
    return _Horizon(hours, risks, held, first, both, without, pl.concat([_no_metrics(), *importance]), hidden)


def judge(
    work: Work,
    cut: Fold,
    held: Held,
    hours: int,
    modelled: Sequence[str],
    settled: Settled | None = None,
) -> Settled:
    """Have estimators that know the cut's past say what they do of its held-out rows; what they were fitted with.

    Without `settled`, the held-out rows settle how many trees there are, and rows before the cut what is hidden.
    """
    X = matrix(held.rows, work.names)
    learnt = _learn(work, cut.learnt(hours) & (pl.col(OBSERVED) >= hours), hours, modelled)
    hidden = settled.hidden if settled else hidden_features(work, learnt, hours)
    shown = _without(learnt.X, work.names, hidden)
    learner = Learner(shown, learnt.weight, work.options, X if settled is None else None)
    trees = {}
    for component, failed in learnt.failed.items():
        if settled is None:
            found = learner.fit(failed, held.failed(component, hours))
        else:
            found = learner.fit(failed, trees=settled.trees.get(component))
        held.said[component], trees[component] = found.estimator.predict(X), found.trees
    held.rows = held.rows.drop([f.name for f in work.features if f.statistic != "replaced"])
    return Settled(trees, hidden)


def hidden_features(work: Work, learnt: Sample, hours: int) -> list[str]:
    """Features of windows of several readings, where the shortest window is a single one and that is as good.

    Estimators learn from one half of the machines and are judged on the other, and the reverse; longer windows are
    learnt from where they lower the log loss by `_WORTH_IT`.
    """
    usable = windows(work.vocabulary.interval_hours, work.options)
    longer = [f.name for f in work.features if f.kind == "sensor" and f.hours in usable.spread]
    if work.options.estimator != "lightgbm" or usable.spread == usable.hours or not longer:
        return []
    with_them, without = (
        _loss_of_other_half(learnt, _without(learnt.X, work.names, names), work.options)
        for names in ([], longer)
    )
    if with_them < without * (1 - _WORTH_IT):
        return []
    work.notes.append(
        f"horizon of {hours} h: windows of more than one reading tell no more than single readings, and are not used"
    )
    return longer


def _loss_of_other_half(learnt: Sample, X: Matrix, options: Options) -> float:
    """Weighted log loss over all components, of estimators that learnt from the other half of the machines."""
    loss = 0.0
    for half in (learnt.half, ~learnt.half):
        learner = Learner(X[half], learnt.weight[half], options)
        weight = learnt.weight[~half]
        for failed in learnt.failed.values():
            if failed[half].any():
                said = np.clip(learner.fit(failed[half]).estimator.predict(X[~half]), EDGE, 1 - EDGE)
                loss -= float((weight * np.log(np.where(failed[~half], said, 1 - said))).sum())
    return loss


def _without(X: Matrix, names: Sequence[str], hidden: Sequence[str]) -> Matrix:
    """`X` with nothing in the columns `hidden`, so that no tree asks for them."""
    if not hidden:
        return X
    shown = X.copy()
    shown[:, [names.index(name) for name in hidden]] = np.nan
    return shown


def _final(work: Work, hours: int, modelled: Sequence[str], settled: Settled) -> dict[str, Estimator]:
    """The bundle's estimators, learnt from all rows whose horizon is over."""
    learnt = _learn(work, pl.col(OBSERVED) >= hours, hours, modelled)
    learner = Learner(_without(learnt.X, work.names, settled.hidden), learnt.weight, work.options)
    trees = settled.trees
    return {c: learner.fit(failed, trees=trees.get(c)).estimator for c, failed in learnt.failed.items()}


def _learn(work: Work, where: pl.Expr, hours: int, modelled: Sequence[str]) -> Sample:
    """A sample of the rows `where`.

    Rows are the same for all components: all that some component fails after, and a share of the
    healthy ones, weighted so that proportions stay as they are.
    """
    if not modelled:
        return Sample(matrix(pl.DataFrame(), work.names), np.empty(0), {}, np.empty(0, bool))
    some = pl.any_horizontal(fails_within(c, hours) for c in modelled)
    counts = work.rows.filter(where).select(some.sum().alias("failing"), pl.len().alias("rows")).collect()
    failing = int(counts["failing"].item() or 0)
    share = shares(failing, counts["rows"].item() - failing, work.most_rows)
    of_row = pl.when(some).then(share[0]).otherwise(share[1])
    labels = [fails_within(c, hours).alias(_label(c)) for c in modelled]
    chosen = (
        work.rows.filter(where, pl.col(DRAWN) < of_row)
        .select("machine_id", "time", *work.names, DRAWN, of_row.alias("|share"), *labels)
        .collect()
        .sort("machine_id", "time")
    )
    X = matrix(chosen, work.names)
    again = (chosen[DRAWN] / chosen["|share"] * 1009) % 1
    copies, which = masked(X, again.to_numpy(), work.features)
    weight = 1 / chosen["|share"].to_numpy()
    failing_rows = chosen.select(pl.any_horizontal(_label(c) for c in modelled)).to_series().to_numpy()
    weight = np.where(failing_rows, weight * work.options.failing_weight, weight)
    failed = {c: chosen[_label(c)].to_numpy().astype(bool) for c in modelled}
    failed = {c: np.concatenate([flags, flags[which]]) for c, flags in failed.items() if flags.any()}
    half = (chosen["machine_id"].rle_id() % 2 == 0).to_numpy()
    half = np.concatenate([half, half[which]])
    return Sample(np.concatenate([X, copies]), np.concatenate([weight, weight[which]]), failed, half)


def _label(component: str) -> str:
    return f"{component}|failed"


def held_out_rows(work: Work, fold: Fold, hours: int) -> Held:
    where = fold.held_out(hours, max(work.options.windows_hours)) & (pl.col(OBSERVED) >= hours)
    needed = [*work.names, "machine_id", "time", OBSERVED]
    needed += [next_failure_column(c) for c in work.vocabulary.components]
    rows = work.rows.filter(where).select(needed).collect().sort("machine_id", "time")
    if rows.is_empty():
        note = f"horizon of {hours} h: the time range is too short to hold out rows after {fold.cut:%Y-%m-%d %H:%M}"
        work.notes.append(note)
    return Held(rows, fold.until)


def calibration_of(held: Sequence[Held], component: str, hours: int, base_rate: float) -> Calibration:
    """The calibration by held-out rows; `base_rate` counts the more, the fewer failures there are among them."""
    parts = [h for h in held if component in h.said]
    if not parts:
        return IDENTITY
    said = np.concatenate([h.said[component] for h in parts])
    found = calibration(said, np.concatenate([h.failed(component, hours) for h in parts]))
    return towards(found, said, base_rate, sum(h.failures(component, hours) for h in parts))


def as_often_as_it_failed(
    work: Work,
    held: Sequence[Held],
    estimator: Estimator,
    how: Calibration,
    component: str,
    hours: int,
    base_rate: float,
) -> Calibration:
    """`how` with the mean that `towards` asks for of the bundle's own estimator on the rows that were held out.

    Where few failures were held out, those that said what `how` is learnt from know still fewer than it does.
    """
    failures = sum(h.failures(component, hours) for h in held)
    if failures >= FEW_FAILURES:
        return how
    places = pl.concat([h.rows.select("machine_id", "time") for h in held]).lazy()
    rows = work.rows.join(places, on=["machine_id", "time"], how="semi").select(work.names).collect()
    return towards(how, estimator.predict(matrix(rows, work.names)), base_rate, failures)


def _judged(
    fitted: Sequence[_Horizon], cuts: slice, *, first: bool, options: Options, bills: Mapping[_Place, _Bills]
) -> pl.DataFrame:
    """Judged rows that were held out, calibrated by the first cut alone or by both, alarms by `bills`."""
    parts = [pl.DataFrame(schema=evaluation.JUDGED)]
    for horizon in fitted:
        for held in horizon.held[cuts]:
            for component, without in horizon.without.items():
                if component in held.said:
                    how = (horizon.first if first else horizon.both)[component]
                    said, risk = calibrated(held.said[component], how), replace(without, rung=MODEL)
                else:
                    said, risk = without.predict(matrix(held.rows, [])), without
                threshold = _billed(risk, bills).threshold(options)
                parts.append(evaluation.judged(held.rows, risk, said, threshold, options))
    return evaluation.coherent(pl.concat(parts))


def _bills(judged: pl.DataFrame, options: Options) -> dict[_Place, _Bills]:
    """For each component and horizon the bills of all thresholds, and the failures they are about.

    An alarm that comes no earlier than that of the next shorter horizon has prevented nothing, so that the threshold
    is that of alarms which say more.
    """
    found = {}
    for (component, hours), rows in judged.group_by("component", "horizon_hours"):
        failures = evaluation.failures_of(rows)
        found[str(component), int(hours)] = (
            costs.bills(rows, failures, int(hours), options.lead(int(hours))),
            failures.height,
        )
    return found


def _billed(risk: Risk, bills: Mapping[_Place, _Bills]) -> Risk:
    rows, failures = bills.get((risk.component, risk.horizon_hours), ([], 0))
    return replace(risk, bills=rows, failures=failures)


def without_model(
    component: str, hours: int, failures: int, base: float, options: Options, at_work: float = 0.0
) -> Risk:
    """The risk of a component that failed too seldom for a model, or never, in `at_work` hours of machines.

    Where no row failed within the horizon, the base rate is that of the failures in the hours at work. A component
    that never failed has an upper bound of 95 %, three failures in that time. Hanley & Lippman-Hand (1983), JAMA 249.
    """
    if not failures:
        reason = f"{component} never failed in the training range"
        if at_work:
            most = -expm1(-3 * hours / at_work)
            reason += f" of {at_work / 24:,.0f} machine days: at most {most:.2%} within {hours} h, with 95 % confidence"
        return Risk(component, hours, NO_MODEL, base, reason)
    if not base and at_work:
        base = -expm1(-failures * hours / at_work)
    reason = (
        f"{component} failed {times(failures)} in the training range, a model needs {options.min_failures}"
    )
    if failures >= options.min_failures:
        reason = (
            f"{component} failed {times(failures)} in the training range, but too seldom within {hours} h after a row "
            "that is learnt from: rows are only where there is telemetry. Give a longer horizon with --horizon"
        )
    return Risk(component, hours, BASE_RATE, base, reason)


def machine_hours(rows: pl.LazyFrame) -> float:
    """Hours from the first to the last row, of all machines together."""
    time = pl.col("time")
    spans = rows.group_by("machine_id").agg((time.max() - time.min()).dt.total_seconds().alias("seconds"))
    return float(spans.select(pl.col("seconds").sum()).collect().item()) / 3600


def failures_after(rows: pl.LazyFrame, components: Sequence[str]) -> dict[str, int]:
    """How often each component failed after some row."""
    names = {c: next_failure_column(c) for c in components}
    at = {
        c: pl.struct("machine_id", pl.col("time") + pl.duration(microseconds=(pl.col(n) * 3.6e9).round()))
        for c, n in names.items()
    }
    counts = rows.select(at[c].filter(pl.col(names[c]).is_not_null()).n_unique().alias(c) for c in components)
    return {c: int(counts_of[0]) for c, counts_of in counts.collect().to_dict(as_series=False).items()}


def base_rates(work: Work, hours: int, until: datetime | None = None) -> dict[str, float]:
    """Share of the rows that each component failed after, of those whose horizon ends at `until` or before.

    Without `until` of all of the training range.
    """
    rows = work.rows
    if until is not None:
        rows = rows.filter(pl.col("time") <= until - timedelta(hours=hours))
    means = [fails_within(c, hours).mean().fill_null(0.0).alias(c) for c in work.vocabulary.components]
    return rows.select(means).collect().row(0, named=True)


def _importance(estimator: Estimator, component: str, hours: int, names: Sequence[str]) -> pl.DataFrame:
    share = estimator.importance(len(names))
    kept = [
        (f"importance_{hours}h_{component}", n, "share", float(s)) for n, s in zip(names, share, strict=True)
    ]
    return pl.DataFrame([k for k in kept if k[3] > 0], schema=_no_metrics().schema, orient="row")


def _no_metrics() -> pl.DataFrame:
    return pl.DataFrame(
        schema={"slice": pl.String, "value_of_slice": pl.String, "metric": pl.String, "value": pl.Float64}
    )


def _headline(metrics: pl.DataFrame) -> dict[str, float]:
    """The few numbers of each horizon: over all components, and for machines in which some component fails."""
    wanted = ("f1", "average_precision", "calibration_error", "warned", "saved_to_every_n_days")
    found = {}
    for part, hours, metric, value in metrics.iter_rows():
        if part == "horizon" and metric in wanted:
            found[f"{metric}_{hours}"] = value
        elif part == "any_component" and metric == "average_precision":
            found[f"machine_{metric}_{hours}"] = value
    return found
