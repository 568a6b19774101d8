"""Flows of the `devices` scenario: which readings of each sensor are not normal, every hour."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import polars as pl
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows import backfilling, evaluating, tuning, verdicts
from flows.cluster import task_runner
from flows.lifecycle import promotions
from flows.limits import BACKFILLING, INGESTING, SCORING, TRAINING, limited
from flows.listings import listings
from flows.parameters import Bundle, Moment, ParameterError, Shards, Share
from flows.reading import AS_THEY_ARE, Reading, ingests, reads
from flows.retraining import Budget, train_for
from flows.runs import ingest_sources
from flows.runs import score as score_run
from flows.settings import open_store
from models.devices.hours import devices_behind, first_split, fleet_end
from models.devices.options import Options, moment_of
from models.devices.scenario import DEVICES
from models.moments import local_timezone
from models.scenario import AsOf
from tasks.ingest.fixed_options import fixed_options
from tasks.ingest.sources import small_table
from tasks.registry import bundles
from tasks.scoring.catch_up import bundle_for, due, stale
from tasks.storage.layout import Layout
from tasks.storage.store import Store

Alpha = Annotated[float, Field(gt=0, le=0.05)]
AlarmsPerDay = Annotated[float | None, Field(gt=0)]
Hours = Annotated[int, Field(ge=1, le=1000)]
_CATCH_UP = 24


@limited(INGESTING, name="devices-ingest")
@reads
def ingest(
    source: str | None = None,
    timezone: str | None = None,
    interval: str | None = None,
    limits: str | None = None,
    labels: str | None = None,
    kinds: str | None = None,
    sites: str | None = None,
    tolerance_seconds: Annotated[float, Field(ge=0)] = 300,
    column: list[str] | None = None,
    max_bad_share: Share = 0.05,
    shards: Shards = None,
    again: bool = False,
    store: str | None = None,
    reading: Reading = AS_THEY_ARE,
) -> dict[str, Any]:
    """Ingest raw readings, merged into readings per interval, and labelled faults.

    A reading counts once, however often and in whatever order it arrives. Files of an Event Hubs Capture are read once.
    Rows that break the contract go to quarantine.

    Args:
        source: Raw readings: device, tag, time, value. CSV, Parquet, a folder or glob of either, a Delta
            table, or Event Hubs Capture (a folder with Avro files); local, az:// or abfss://.
        timezone: Time zone of times without an offset, such as UTC or Europe/Zurich.
        interval: Length of an interval, a number followed by s, m or h; fixed by the first ingest (default 1m).
        limits: Physical limits: tag, low, high, and device if they differ between devices. Readings outside are bad.
        labels: Known faults, used to judge verdicts: device, start, end, fault, and tag for a fault of one sensor.
        kinds: Kinds of tags that training gets wrong: tag, kind (counter, angle, state, level, daily, levels, wanders
            or varies), and device if they differ between devices.
        sites: Time zone of each device, whose local days its cycles follow: device, timezone, and site if it has a
            name.
        tolerance_seconds: Seconds by which a reading may be ahead of the clock.
        column: TABLE_COLUMN=SOURCE_COLUMN for a column of another name, such as time=TS.
        max_bad_share: Share of bad rows (0 to 1) above which nothing is written.
        shards: Number of shards the devices are spread over; fixed by the first ingest (default 32).
        again: Also reread the messages of a capture that are in quarantine, for example with a corrected mapping; valid
            ones leave it.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    sources = {"readings": source, "labels": labels, "kinds": kinds, "sites": sites}
    if not any(sources.values()):
        raise ParameterError(
            "There is nothing to read. Expected at least one of --source, --labels, --kinds and --sites."
        )
    options = reading.options() | {
        "timezone": timezone,
        "interval": interval,
        "limits": None if limits is None else small_table(limits),
        "tolerance_seconds": tolerance_seconds,
        "again": again,
    }
    return ingest_sources(DEVICES, open_store(store), sources, column or [], shards, max_bad_share, options)


@limited(TRAINING, name="devices-train", task_runner=task_runner())
def train(
    as_of: Moment | None = None,
    detector: Literal["auto", "one_class_svm", "isolation_forest"] | None = None,
    history_days: Annotated[float, Field(gt=0)] | None = None,
    reason: str | None = None,
    budget: Budget = 4,
    seed: int = 7,
    store: str | None = None,
) -> Any:
    """Train a detector for each sensor on its own past; the bundle becomes champion if it is better.

    Args:
        as_of: End of the last hour to learn from; times without an offset are UTC. Default: the last
            complete hour.
        detector: auto chooses by the history of each sensor; another value applies to all sensors that vary. Default:
            that of a tuned champion, else auto.
        history_days: Maximum number of days to learn from; default: that of a tuned champion, else 14.
        reason: Reason for which an event requests this training, which then counts towards the budget.
        budget: Maximum number of trainings in 30 days that events may request; beyond it, the run ends as skipped.
        seed: Seed of everything random in training.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    options = {"detector": detector, "history_days": history_days, "seed": seed}
    return _train(open_store(store), as_of, options, reason, budget)


tune = tuning.flow_of(DEVICES, lambda store: _of_store(store))


@limited(SCORING, name="devices-score", task_runner=task_runner())
def score(
    as_of: Moment | None = None,
    alpha: Alpha = 0.001,
    bundle: Bundle = None,
    alarms_per_day: AlarmsPerDay = None,
    catch_up: Hours = _CATCH_UP,
    dry_run: bool = False,
    store: str | None = None,
) -> Any:
    """Score every complete hour that is not published yet, or has received readings since, oldest first, one commit each.

    If another run has covered them all, this one ends as skipped. To continue a stopped run, start it again with the
    same parameters.

    Args:
        as_of: End of a single hour to score, published or not; times without an offset are UTC. Default: all complete
            hours that are not published yet.
        alpha: Share of normal readings that may be called anomalies.
        bundle: Number of the bundle to score with; default: the champion.
        alarms_per_day: Acceptable number of false alarms per day, for all devices together; default: one per 100
            devices.
        catch_up: Maximum number of hours to score, the newest that are due; later runs score older ones.
        dry_run: Score and account for every key, and publish nothing.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    if as_of is not None and catch_up != _CATCH_UP:
        raise ParameterError(
            "--as-of is a single hour, --catch-up a number of hours. Expected one or the other."
        )
    return _final_result(
        _score(open_store(store), as_of, _verdicts(alpha, alarms_per_day), bundle, catch_up, dry_run=dry_run)
    )


evaluate = evaluating.flow_of(DEVICES)


@limited(BACKFILLING, name="devices-backfill", task_runner=task_runner())
def backfill(
    from_: Moment,
    to: Moment | None = None,
    alpha: Alpha = 0.001,
    bundle: Bundle = None,
    alarms_per_day: AlarmsPerDay = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Score every hour of a range that is not published yet, oldest first, each in its own commit.

    An hour that cannot be scored does not stop the others: at the end the run fails and names it. Start it again to
    score what is missing.

    Args:
        from_: Day or end of the first hour to score. Times without an offset are UTC.
        to: Last day (all of it) or end of the last hour; default: the last complete one.
        alpha: Share of normal readings that may be called anomalies.
        bundle: Number of the bundle to score with; default: for each hour, the champion trained on no later data.
        alarms_per_day: Acceptable number of false alarms per day, for all devices together; default: one per 100
            devices.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    options = _verdicts(alpha, alarms_per_day)
    return backfilling.score_range(DEVICES, open_store(store), "score", from_, to, bundle, options)


@limited(TRAINING, name="devices-run", task_runner=task_runner())
@ingests(ingest)
def run(
    ingest_result: dict[str, Any],
    detector: Literal["auto", "one_class_svm", "isolation_forest"] = "auto",
    alpha: Alpha = 0.001,
    alarms_per_day: AlarmsPerDay = None,
    catch_up: Hours = _CATCH_UP,
    store: str | None = None,
) -> Any:
    """Ingest, train if there is no champion yet, and score every complete hour that is not published yet.

    A first training learns from the hours before those that this run scores, at least two thirds of all hours.

    Args:
        detector: Detector of a first training: auto chooses by the history of each sensor; another value applies to
            all.
        alpha: Share of normal readings that may be called anomalies.
        alarms_per_day: Acceptable number of false alarms per day, for all devices together; default: one per 100
            devices.
        catch_up: Maximum number of hours to score, the newest that are due; later runs score older ones.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    notes: list[str] = []
    if bundles.champion(data_store, DEVICES.name) is None:
        until, catch_up, note = _first_split(data_store, catch_up)
        notes = [note, *_train(data_store, until, {"detector": detector})["notes"]]
    result = _score(data_store, None, _verdicts(alpha, alarms_per_day), None, catch_up, dry_run=False)
    stages = {"ingest": ingest_result["seconds"], **result.get("stages", {})}
    return _final_result({**result, "stages": stages, "notes": [*notes, *result.get("notes", [])]})


def _train(
    store: Store, as_of: AsOf | None, options: Mapping[str, Any], reason: str | None = None, budget: int = 0
) -> Any:
    return train_for(reason, budget, DEVICES, store, as_of, {**_of_store(store), **options})


def _of_store(store: Store) -> dict[str, str]:
    """Options of every training: the interval of the readings, and the time zone of devices without a site."""
    return {"interval": fixed_options(DEVICES, store)["interval"], "timezone": local_timezone().key}


def _first_split(store: Store, catch_up: int) -> tuple[datetime, int, str]:
    """The end of a first training's history, the number of hours scored after it, and a note on both."""
    readings = store.scan(Layout(DEVICES.name).table("readings"))
    newest = moment_of(DEVICES.resolve_as_of({"readings": readings}, None, datetime.now(UTC)))
    last = fleet_end(readings, newest, Options.requested_hours)
    until, count = first_split(readings, last, catch_up)
    message = f"The first training learnt from the readings up to {until:%Y-%m-%d %H:%M} UTC."
    if until == newest:
        message += " It scores the same hours, because there are no others."
    elif last == newest:
        message += f" It scores the {count} hours after that."
    get_run_logger().info(message)
    return until, count, message


def _behind(store: Store, newest: AsOf) -> list[str]:
    """A note, before the first hour is published, if the last readings of most devices are much older."""
    layout = Layout(DEVICES.name)
    if store.version(layout.table("scores")) is not None:
        return []
    readings = store.scan(layout.table("readings"))
    note = devices_behind(readings, moment_of(newest), Options.requested_hours)
    return [] if note is None else [note]


def _verdicts(alpha: float, alarms_per_day: float | None) -> dict[str, Any]:
    """The options that define an anomaly and an alarm."""
    return {"alpha": alpha} | ({} if alarms_per_day is None else {"alarms_per_day": alarms_per_day})


def _score(
    store: Store,
    as_of: AsOf | None,
    options: Mapping[str, Any],
    bundle: int | None,
    catch_up: int,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """The result of the last hour, with a line for each in `hours`."""
    if bundle:
        bundles.manifest(store, DEVICES.name, bundle)
    notes: list[str] = []
    again: Sequence[AsOf] = ()
    if as_of is not None:
        hours = [as_of]
    else:
        backlog = due(DEVICES, store, "score", catch_up)
        hours, again = [*backlog.as_ofs], backlog.again
        notes = [*backlog.notes, *stale(DEVICES, store, backlog.newest), *_behind(store, backlog.newest)]
    results = []
    for hour in hours:
        number = bundle or (bundle_for(DEVICES, store, hour) if as_of is None and hour not in again else None)
        results.append(
            score_run(DEVICES, store, "score", hour, number, options, dry_run=dry_run, again=hour in again)
        )
    if not results:
        return {
            "published": False,
            "covered_by": f"an earlier run: every hour up to {backlog.newest:%Y-%m-%dT%H:%MZ} is published",
            "notes": notes,
            "hours": [],
        }
    seconds = round(sum(r["seconds"] for r in results), 1)
    last = results[-1]
    return {**last, "notes": [*last["notes"], *notes], "seconds": seconds, "hours": [*map(_line, results)]}


def _line(result: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of one of several hours."""
    names = ("rows", "scored", "fallback", "skipped", "failed", "seconds")
    hour = datetime.fromisoformat(result["as_of"])
    alarms = result.get("events", {}).get("incident", 0)
    return {"hour": f"{hour:%Y-%m-%d %H:%M}", **{name: result.get(name) for name in names}, "alarms": alarms}


def _final_result(result: dict[str, Any]) -> Any:
    """The result; as a state named Skipped if another run has covered every hour."""
    if "covered_by" not in result:
        return result
    message = " ".join([f"Covered by {result['covered_by']}.", *result["notes"]])
    return Completed(name="Skipped", message=message, data=result)


def simulated(store: Store, seed: int) -> dict[str, Any]:
    """Parameters of `run` for a few simulated devices, some of which go wrong in the last hours."""
    from models.devices.simulation import FAULTS, inject, readings_of, simulate

    day, hours = 24 * 60, 3
    simulation = simulate(10, datetime(2026, 3, 2, tzinfo=UTC), day + 60 * hours, seed=seed)
    faulty = inject(simulation, list(FAULTS), day + 30, seed=seed)
    raw = readings_of(faulty.grid).select(
        "device", "tag", (pl.col("time") + timedelta(seconds=20)).alias("time"), pl.col("mean").alias("value")
    )
    source = store.write_source(f"{DEVICES.name}/simulated/readings.parquet", raw)
    return {"source": source, "shards": 2, "catch_up": hours}


label, mute = verdicts.label, verdicts.mute
promote, rollback = promotions(DEVICES)

SCENARIO = DEVICES
COMMANDS = (
    ingest,
    train,
    tune,
    score,
    evaluate,
    backfill,
    run,
    label,
    mute,
    promote,
    rollback,
    *listings(DEVICES),
)
