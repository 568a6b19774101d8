"""The `devices` scenario: the readings of each sensor in an hour that are not normal."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import polars as pl

from models.devices import (
    alarms,
    ground_truth,
    hours,
    incidents,
    interchange,
    levels,
    scoring,
    training,
    training_notes,
    watching,
)
from models.devices import backtest as backtests
from models.devices.channels import CHANNELS
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.ground_truth import CHARTS, GROUND_TRUTH
from models.devices.layouts import LAYOUTS
from models.devices.model import Model
from models.devices.options import Options, moment_of
from models.devices.rows import SCORES, as_scores
from models.devices.search import DevicesSearch
from models.devices.tables import TABLES
from models.errors import ContractError
from models.moments import end_of, start_of
from models.page.blocks import Section
from models.scenario import (
    AsOf,
    CatchesUp,
    Context,
    DerivesTables,
    EmitsEvents,
    Event,
    FitResult,
    Frames,
    HasControlCharts,
    HasEstimators,
    HasPage,
    HasSearch,
    MeetsChampions,
    PublishedTable,
    RunView,
    Scenario,
    Scores,
    WatchesInputs,
)

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Devices(
    Scenario,
    MeetsChampions,
    CatchesUp,
    DerivesTables,
    EmitsEvents,
    HasPage,
    HasControlCharts,
    WatchesInputs,
    HasEstimators,
    HasSearch,
):
    """See `models.scenario.Scenario`; options are those of `models.devices.options.Options`.

    `as_of` is the end of a complete hour, in UTC. A device's joint detector is a separate key, with
    the reserved tag `*`.
    """

    name: str = "devices"
    key: tuple[str, ...] = KEY
    tables = TABLES
    fixed_options: ClassVar[Mapping[str, Any]] = {"interval": Options.interval}
    layouts = LAYOUTS
    cadence = HOUR
    derived_tables = ("incidents", "levels")
    alarms = ("incidents", pl.col("is_new_alarm"))
    search = DevicesSearch()
    load = staticmethod(Model.of)
    estimate = staticmethod(interchange.estimate)
    interchange = staticmethod(interchange.interchange)
    ground_truth = GROUND_TRUTH
    charts = CHARTS

    def published_table(self, options: Mapping[str, Any]) -> PublishedTable:
        return PublishedTable("scores", SCORES, (*KEY, "time"))

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> datetime:
        """The end of an hour. Without `as_of`, that of the last hour that is over or whose last interval has a reading.

        An `as_of` within an hour means the hour's start; a date means the end of that day, or of its last hour with a
        reading. Raises `ContractError` if there is no reading before it, or if it is after the hour of the last reading.
        """
        readings = tables["readings"]
        last = _last(readings, now)
        if last is None:
            raise ContractError(
                "readings: the table has no rows. Ingest readings: python -m flows devices ingest"
            )
        if as_of is None:
            start, end = _hour(last), _hour(last) + HOUR
            is_over = now >= end or _hour(last + _step(readings, last)) > last
            return end if is_over or not _begins_before(readings, start) else start
        if isinstance(as_of, datetime):
            end = _hour(moment_of(as_of))
        else:
            end = _hour(end_of(as_of))
            if start_of(as_of) <= last:
                end = min(end, _hour(last) + HOUR)
        if end > _hour(last) + HOUR or not _begins_before(readings, end):
            first = readings.select(pl.col("time").min()).collect(engine="streaming").item()
            raise ContractError(
                f"--as-of is {end:%Y-%m-%dT%H:%MZ}. There are readings from {first:%Y-%m-%dT%H:%MZ} to "
                f"{last:%Y-%m-%dT%H:%MZ}: expected the end of an hour up to {_hour(last) + HOUR:%Y-%m-%dT%H:%MZ}."
            )
        return end

    def due_as_ofs(
        self, tables: Frames, newest: AsOf, published_as_ofs: Collection[AsOf], at_most: int
    ) -> Sequence[AsOf]:
        """The ends of hours; see `models.devices.hours.due_hours`."""
        past = [moment_of(one) for one in published_as_ofs]
        return hours.due_hours(tables["readings"], moment_of(newest), past, at_most, Options.requested_hours)

    def changed_as_ofs(self, before: Frames, now: Frames, as_ofs: Collection[AsOf]) -> list[datetime]:
        """The hours with new readings; see `models.devices.hours.changed_hours`."""
        return hours.changed_hours(before["readings"], now["readings"], [moment_of(one) for one in as_ofs])

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """`fleet`: `first` reading before `as_of`, and the number of `devices` with one in the last two hours."""
        past = tables["readings"].filter(pl.col("time") < moment_of(as_of))
        first = past.select(pl.col("time").min().alias("first"))
        recent = past.filter(pl.col("time") >= moment_of(as_of) - 2 * HOUR)
        devices = recent.select(pl.col("device").n_unique().cast(pl.Int64).alias("devices"))
        return {"fleet": pl.concat([first, devices], how="horizontal").collect(engine="streaming")}

    def prepare_shard(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        return training.prepare(tables, context, moment_of(as_of), Options.of(options))

    def fit(self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]) -> FitResult:
        settings = Options.of(options)
        frames = {name: frame.collect() for name, frame in parts.items()}
        files = training.files_of(frames, settings)
        backtest = backtests.predictions(frames, settings)
        metrics = backtests.metrics(backtest)
        headline = dict(metrics.filter(pl.col("slice") == "all").select("metric", "value").iter_rows())
        rungs = frames["sensors"]["rung"]
        notes = [
            f"{count:,} sensor{'s' * (count > 1)} in intervals of {settings.interval}: {rung}"
            for rung, count in rungs.value_counts().sort("rung").iter_rows()
        ]
        notes += [*training_notes.of_backtest(backtest), *training_notes.of_sensors(files, settings)]
        headline |= {"sensors": float(len(rungs)), "without_detector": float((rungs == "none").sum())}
        return FitResult(
            files=files,
            features=CHANNELS,
            backtest=backtest,
            metrics=metrics,
            headline=headline,
            loss=backtests.loss(backtest),
            notes=notes,
        )

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        unseen = backtest.filter(pl.col("time") >= moment_of(trained_as_of))
        if unseen.is_empty() or "backtest_readings" not in parts:
            return None
        options = Options.of(model.options)
        theirs = backtests.predictions_of(model, parts["backtest_readings"].collect(), options)
        row = [*KEY, "time", "injected"]
        theirs = theirs.join(unseen, on=row, how="semi")
        ours = unseen.join(theirs, on=row, how="semi")
        if ours.is_empty():
            return None
        return backtests.loss(ours), backtests.loss(theirs), ours.height

    def requested_keys(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        """Sensors with a reading in the last `requested_hours`, and `*` for each device with two of them."""
        since = moment_of(as_of) - HOUR * Options.of(options).requested_hours
        time = pl.col("time")
        recent = tables["readings"].filter(time >= since, time < moment_of(as_of))
        sensors = recent.select(*KEY, "shard").unique()
        several = sensors.group_by("device", "shard").len().filter(pl.col("len") > 1)
        joint = several.select("device", pl.lit(JOINT_TAG).alias("tag"), "shard")
        return pl.concat([sensors, joint]).sort(*KEY)

    def score(
        self,
        model: Model,
        tables: Frames,
        context: Context,
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        settings = Options.of({**options, **model.options})
        until = moment_of(as_of)
        faults = training.labelled_faults(tables, until)
        return scoring.score(model, tables["readings"], keys, until, settings, faults)

    def derive(
        self, rows: pl.LazyFrame, earlier: Frames, tables: Frames, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """`incidents` and new `levels` after the hour, which continue those of the last run before it."""
        settings, until = Options.of(options), moment_of(as_of)
        past = _past_incidents(earlier, until)
        previous = past.filter(
            pl.col("as_of") > until - timedelta(days=1), pl.col("as_of") == pl.col("as_of").max()
        )
        past_alarms = alarms.past_alarms(past, training.labelled_faults(tables, until), settings.step)
        alarm_keys = alarms.alarming(rows, settings.alarms_per_day, _verdicts(tables, until), past_alarms)
        rows = as_scores(rows)
        anomalies = rows.filter("is_anomaly").collect(engine="streaming")
        last_levels = None
        if "levels" in earlier:
            since = until - levels.FORGOTTEN
            earlier_levels = (
                earlier["levels"].filter(pl.col("as_of") >= since, pl.col("last") >= since).collect()
            )
            last_levels = earlier_levels.filter(pl.col("as_of") == pl.col("as_of").max())
        return {
            "incidents": incidents.incidents(anomalies, previous, until, settings.step, alarm_keys),
            "levels": levels.levels(rows, last_levels, earlier.get("incidents"), until),
        }

    def events(
        self, rows: pl.LazyFrame, frames: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> list[Event]:
        """`incident` for each one that became an alarm in this run, the most unusual first; `new_level` for each sensor
        whose lasting change has become normal.
        """
        new = frames["incidents"].filter("is_new_alarm").sort("p_value", "incident")
        events = [
            Event("incident", f"devices.{row['device']}.{row['start']:%Y-%m-%dT%H:%MZ}", _payload(row))
            for row in new.with_columns(incidents.what_happened()).iter_rows(named=True)
        ]
        return events + (levels.events(frames["levels"]) if "levels" in frames else [])

    def watched_inputs(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        training_end = moment_of(trained_as_of)
        since = training_end - timedelta(days=Options.of(options).history_days)
        return watching.watched_inputs(tables["readings"], since, training_end, moment_of(as_of))

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("rung", "p_value")

    def sections(self, run: RunView) -> list[Section]:
        from models.devices.sections import sections

        return sections(run)

    def judge(
        self, published_rows: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """A row per sensor, hour and fault; see `models.devices.ground_truth`."""
        return ground_truth.judge(published_rows, tables, Options.of(options))

    def measures(self, judged_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.measures(judged_rows)

    def tallies(self, judged_rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.tallies(judged_rows)

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.backtest_tallies(backtest)


def _verdicts(tables: Frames, as_of: datetime) -> pl.DataFrame | None:
    """The verdicts of people on times before `as_of`; None if there are none."""
    return tables["verdicts"].filter(pl.col("start") < as_of).collect() if "verdicts" in tables else None


def _past_incidents(earlier: Frames, until: datetime) -> pl.DataFrame:
    """The incidents of earlier runs, as far back as alarms count; the newest row of an incident is used."""
    if "incidents" not in earlier:
        return pl.DataFrame(schema={**incidents.INCIDENTS, "as_of": incidents.INCIDENTS["start"]})
    since = until - alarms.REMEMBERED
    return earlier["incidents"].filter(pl.col("as_of") > since, pl.col("end") > since).collect()


def _payload(incident: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "incident": incident["incident"],
        "device": incident["device"],
        "tags": incident["tags"],
        "start": incident["start"].isoformat(),
        "peak": incident["peak_time"].isoformat(),
        "most_unusual_tag": incident["tag"],
        "score": incident["score"],
        "p_value": incident["p_value"],
        "what": incident["what"],
    }


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _last(readings: pl.LazyFrame, now: datetime) -> datetime | None:
    """The time of the last reading. If it is of the last two days, no older readings are read."""
    last = pl.col("time").max()
    for rows in (readings.filter(pl.col("time") >= now - 48 * HOUR), readings):
        if (time := rows.select(last).collect(engine="streaming").item()) is not None:
            return time
    return None


def _begins_before(readings: pl.LazyFrame, moment: datetime) -> bool:
    return readings.filter(pl.col("time") < moment).select("time").head(1).collect().height > 0


def _step(readings: pl.LazyFrame, last: datetime) -> timedelta:
    """The shortest time between two readings in the two hours up to the `last` one."""
    recent = readings.filter(pl.col("time") > last - 2 * HOUR).select(pl.col("time").unique()).collect()
    steps = recent["time"].sort().diff().drop_nulls()
    return steps.min() if len(steps) else timedelta(minutes=1)  # type: ignore[return-value]


DEVICES = Devices()
