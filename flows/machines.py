"""Flows of the `machines` scenario: which component of which machine will fail, whenever new data arrives."""

from typing import Annotated, Any, Literal

from pydantic import Field

from flows import backfilling, evaluating, tuning
from flows.cluster import task_runner
from flows.lifecycle import promotions
from flows.limits import INGESTING, SCORING, TRAINING, limited
from flows.listings import listings
from flows.parameters import Bundle, Moment, Number, ParameterError, Shards, Share, amounts, hours
from flows.reading import AS_THEY_ARE, Reading, ingests, reads
from flows.retraining import Budget, train_for
from flows.runs import ingest_sources, train_bundle
from flows.runs import score as score_run
from flows.settings import open_store
from models.machines.options import moment
from models.machines.scenario import MACHINES
from tasks.registry import bundles
from tasks.storage.store import Store

Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@limited(INGESTING, name="machines-ingest")
@reads
def ingest(
    telemetry: str,
    failures: str,
    maintenance: str | None = None,
    errors: str | None = None,
    machines: str | None = None,
    column: list[str] | None = None,
    timezone: str = "UTC",
    telemetry_marks: Literal["end", "start"] | None = None,
    telemetry_hours: Amount | None = None,
    max_bad_share: Share = 0.05,
    shards: Shards = None,
    store: str | None = None,
    reading: Reading = AS_THEY_ARE,
) -> dict[str, Any]:
    """Read telemetry, errors, maintenance, failures and machines into the store's tables.

    Reading the same files again changes nothing. Rows that break the contract go to quarantine. The
    event `almanac.machines.ingested` reports the table versions and the new time range.

    Args:
        telemetry: Readings at regular intervals: machine_id, time, and a numeric column per sensor. Like all sources:
            CSV, Parquet, a folder or glob of either, or a Delta table; local, az:// or abfss://.
        failures: Failures of components: machine_id, time, component.
        maintenance: Replacements of components: machine_id, time, component. Omit it if machines run to failure; a
            failure counts as a replacement.
        errors: Errors that machines reported: machine_id, time, error.
        machines: Attributes of the machines: machine_id and, if known, model and age_years.
        column: TABLE_COLUMN=SOURCE_COLUMN for a column of another name, such as time=ts, or errors.time=ts
            for one table; component==pump gives all rows one value. Recognised without a mapping: machineID,
            datetime, errorID, comp, failure, age.
        timezone: Time zone of times without an offset, such as UTC or Europe/Zurich.
        telemetry_marks: Which end of its interval a telemetry row's time marks; fixed by the first ingest
            (default end).
        telemetry_hours: Length of that interval, if times mark its start and the rows do not show it.
        max_bad_share: Share of bad rows (0 to 1) above which nothing is written.
        shards: Number of shards the machines are spread over; fixed by the first ingest (default 32).
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    sources = {
        "telemetry": telemetry,
        "errors": errors,
        "maintenance": maintenance,
        "failures": failures,
        "machines": machines,
    }
    options = reading.options() | {
        "timezone": timezone,
        "telemetry_marks": telemetry_marks,
        "telemetry_hours": telemetry_hours,
    }
    return ingest_sources(MACHINES, open_store(store), sources, column or [], shards, max_bad_share, options)


@limited(TRAINING, name="machines-train", task_runner=task_runner())
def train(
    from_: Moment | None = None,
    to: Moment | None = None,
    horizon: list[str] | None = None,
    estimator: Literal["lightgbm", "random_forest", "decision_tree"] | None = None,
    every: str = "12h",
    windows: list[str] | None = None,
    keep_column: list[str] | None = None,
    missed_failure_cost: Amount = 10.0,
    component_cost: list[str] | None = None,
    needless_inspection_cost: Amount = 1.0,
    inspect_every_days: Number = 14,
    lead: str | None = None,
    reason: str | None = None,
    budget: Budget = 4,
    seed: int = 7,
    store: str | None = None,
) -> Any:
    """Backtest and train a bundle; it becomes champion if it is better than the champion.

    Args:
        from_: First day or time to learn from; default: the first telemetry. Times without an offset are UTC.
        to: Last day (all of it) or time to learn from; default: the last telemetry.
        horizon: How far ahead failures are predicted, in hours, days or weeks; default 24h and 7d.
        estimator: Gradient-boosted trees, a random forest, or a single decision tree. Default: that of a tuned
            champion, else lightgbm.
        every: Time between the rows of a machine that are learnt from and scored.
        windows: Lengths of the windows that telemetry is summarised over; default 12h, 24h and 36h, or 1, 5 and 20
            intervals of telemetry that comes every 12 hours to every hundred days.
        keep_column: A sensor or error to use although it reveals the outcome by itself; by default it is left out and
            named in the notes.
        missed_failure_cost: Cost of a failure without an inspection before it; together with needless_inspection_cost
            it sets the probability at which an inspection is worthwhile.
        component_cost: Cost of such a failure for a component whose cost differs: COMPONENT=AMOUNT.
        needless_inspection_cost: Cost of an inspection that no failure would have followed.
        inspect_every_days: Days between inspections of each component in the plan to compare with.
        lead: Time by which an alarm must precede a failure to prevent it; default: the next shorter horizon, so that
            alarms for a week come before those for a day.
        reason: Reason for which an event requests this training, which then counts towards the budget.
        budget: Maximum number of trainings in 30 days that events may request; beyond it, the run ends as skipped.
        seed: Seed of everything random in training.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    options: dict[str, Any] = {
        "estimator": estimator,
        "every_hours": hours([every])[0],
        "missed_failure_cost": missed_failure_cost,
        "needless_inspection_cost": needless_inspection_cost,
        "inspect_every_days": inspect_every_days,
        "seed": seed,
    }
    options |= {"horizons_hours": hours(horizon)} if horizon else {}
    options |= {"windows_hours": hours(windows)} if windows else {}
    options |= {"lead_hours": hours([lead])[0]} if lead else {}
    options |= {"keep_columns": keep_column} if keep_column else {}
    options |= {"component_costs": amounts(component_cost)} if component_cost else {}
    return train_for(reason, budget, MACHINES, open_store(store), to, options | _since("train_from", from_))


tune = tuning.flow_of(MACHINES)


@limited(SCORING, name="machines-score", task_runner=task_runner())
def score(
    as_of: Moment | None = None,
    from_: Moment | None = None,
    to: Moment | None = None,
    bundle: Bundle = None,
    inspections_per_day: Annotated[int | None, Field(ge=1)] = None,
    cooldown_hours: Annotated[int | None, Field(ge=0)] = None,
    dry_run: bool = False,
    store: str | None = None,
) -> dict[str, Any]:
    """Score every component of every machine at one time, or at each row time of a range, and publish.

    To continue a stopped run, start it again with the same parameters.

    Args:
        as_of: Day (its end) or time up to which data is used; default: the last telemetry. Times without
            an offset are UTC.
        from_: First day or time of a range to score, instead of `as_of`.
        to: Last day (all of it) or time of the range; default: the last telemetry.
        bundle: Number of the bundle to score with; default: the champion.
        inspections_per_day: Maximum number of alarms opened in 24 hours, the most worthwhile first; the others wait.
            Default: all.
        cooldown_hours: Hours after an alarm closes in which the same alarm continues if the risk rises again; default
            24.
        dry_run: Score and account for every key, and publish nothing.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    if as_of is not None and (from_ is not None or to is not None):
        raise ParameterError("--as-of is one time, --from and --to are a range. Expected one or the other.")
    last = as_of if as_of is not None else to
    options: dict[str, Any] = _since("score_from", from_)
    decisions = {"inspections_per_day": inspections_per_day, "cooldown_hours": cooldown_hours}
    options |= {name: value for name, value in decisions.items() if value is not None}
    return score_run(MACHINES, open_store(store), "score", last, bundle, options, dry_run=dry_run)


@limited(SCORING, name="machines-evaluate", task_runner=task_runner())
def evaluate(
    from_: Moment | None = None,
    to: Moment | None = None,
    bundle: Bundle = None,
    at_most: evaluating.Count = evaluating.AT_MOST,
    cooldown_days: evaluating.Days = evaluating.COOLDOWN_DAYS,
    machines_per_day: Number = 10,
    store: str | None = None,
) -> dict[str, Any]:
    """Judge published risks, or the risks that a bundle would have given, by their outcomes.

    Without a bundle, it judges every published time that is due: never judged, published again, with outcomes that were
    pending, or with outcomes that were restated. Rows whose horizon extends past the data are pending and count in no
    measure. Judging twice gives the same rows. If published risks have become worse than chance explains, the event
    `almanac.machines.degraded` reports it.

    Args:
        from_: First published time or day to judge, due or not; for a bundle: first row time, by default the last
            telemetry that it was trained on. Times without an offset are UTC.
        to: Last published time or day (all of it) to judge; for a bundle: last row time, by default the last telemetry.
        bundle: Number of a bundle to judge over a range, whether it was used or not; default: judge published risks.
        at_most: Maximum number of times to judge without from and to; the others are left for the next run.
        cooldown_days: Days after an announced degraded week in which no other one is announced.
        machines_per_day: Number of machines that can be inspected per day: as many at the top of each day's list are
            judged, next to the best possible choice.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    options = {"machines_per_day": machines_per_day}
    if bundle is None:
        hint = " `--bundle N` judges what a bundle would have predicted."
        return evaluating.evaluate_published(
            MACHINES, data_store, from_, to, at_most, cooldown_days, hint, options
        )
    since = None if from_ is None else moment(from_, start_of_day=True)
    until = None if to is None else moment(to)
    return evaluating.evaluate_bundle(MACHINES, data_store, since, until, bundle, options)


@limited(TRAINING, name="machines-run", task_runner=task_runner())
@ingests(ingest)
def run(_: dict[str, Any], store: str | None = None) -> dict[str, Any]:
    """Ingest, train if there is no champion yet, and score.

    Args:
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    is_first = bundles.champion(data_store, MACHINES.name) is None
    notes = train_bundle(MACHINES, data_store, None, {})["notes"] if is_first else []
    summary = score_run(MACHINES, data_store, "score", None, None, {}, dry_run=False)
    return summary | {"notes": [*dict.fromkeys([*notes, *summary["notes"]])]}


def _since(name: str, first: Moment | None) -> dict[str, str]:
    """The option for the start of a range."""
    return {} if first is None else {name: moment(first, start_of_day=True).isoformat()}


def simulated(store: Store, seed: int) -> dict[str, Any]:
    """Parameters of `run` for a small simulated fleet, whose files are written into the store."""
    from models.machines.simulation import simulate

    frames = simulate(machines=40, days=150, seed=seed, interval_hours=2)
    return {
        name: store.write_source(f"{MACHINES.name}/simulated/{name}.parquet", f) for name, f in frames.items()
    }


promote, rollback = promotions(MACHINES)
backfill = backfilling.flow_of(MACHINES, "score")

SCENARIO = MACHINES
COMMANDS = (ingest, train, tune, score, evaluate, backfill, run, promote, rollback, *listings(MACHINES))
