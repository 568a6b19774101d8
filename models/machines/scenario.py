"""The `machines` scenario: which component of which machine will fail within a day or a week, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

import polars as pl

from models.errors import ContractError
from models.machines import (
    alarms,
    evaluation,
    ground_truth,
    interchange,
    risks,
    scoring,
    service,
    training,
    training_rows,
    watching,
)
from models.machines.clocks import span
from models.machines.contracts import TABLES, interval_hours, repeats
from models.machines.equipment import missing_by_type, missing_components
from models.machines.findings import (
    before_the_data,
    findings,
    record_ends_early,
    stray_clocks,
    summary,
    without_component,
)
from models.machines.ground_truth import CHARTS, GROUND_TRUTH
from models.machines.labels import OBSERVED
from models.machines.layouts import LAYOUTS
from models.machines.options import Options, moment
from models.machines.search import MachinesSearch
from models.machines.vocabulary import Vocabulary, by_component, components_of, vocabulary
from models.page.blocks import Section
from models.scenario import (
    AsOf,
    CompletesRows,
    Context,
    DerivesTables,
    EmitsEvents,
    EvaluatesBundles,
    Event,
    FitResult,
    Frames,
    HasControlCharts,
    HasEstimators,
    HasPage,
    HasSearch,
    MeetsChampions,
    PublishedTable,
    ReportsGaps,
    RunView,
    Scores,
    WatchesInputs,
)

_SAME_INTERVAL = 0.1
"""Intervals that differ by less than this share count as equal."""


@dataclass(frozen=True)
class Machines(
    EvaluatesBundles,
    MeetsChampions,
    ReportsGaps,
    CompletesRows,
    DerivesTables,
    EmitsEvents,
    HasPage,
    HasControlCharts,
    WatchesInputs,
    HasEstimators,
    HasSearch,
):
    """See `models.scenario.Scenario`; options are those of `models.machines.options.Options`.

    `as_of` is a moment in UTC; a date means the end of that day. `evaluate` returns,
    per shard, the predictions of a bundle over a range with their outcomes.
    """

    name: str = "machines"
    key: tuple[str, ...] = scoring.KEY
    bundle_evaluations: str = "bundle_evaluations"
    tables = TABLES
    fixed_options: ClassVar[Mapping[str, Any]] = {"telemetry_marks": "end"}
    """Whether the times of telemetry in sources mark start or end; set by the first ingest for all later ones."""
    derived_tables = ("risks", "alarms")
    """The alarms, and the published risks: a page also shows those of earlier runs."""
    alarms = ("alarms", pl.col("state") == alarms.OPENED)
    layouts = LAYOUTS
    cadence: timedelta = timedelta(days=1)
    ground_truth = GROUND_TRUTH
    charts = CHARTS
    search = MachinesSearch()
    prepare_shard = staticmethod(training_rows.prepare)
    load = staticmethod(risks.load)
    complete = staticmethod(scoring.with_rank)
    estimate = staticmethod(interchange.estimate)
    interchange = staticmethod(interchange.interchange)

    def at_pace_of(self, tables: Frames) -> "Machines":
        """The scenario whose cadence is the interval of the telemetry, but at least a day."""
        hours = interval_hours(tables["telemetry"]) if "telemetry" in tables else None
        return replace(self, cadence=max(self.cadence, timedelta(hours=hours or 0)))

    def derive(
        self, rows: pl.LazyFrame, earlier: Frames, tables: Frames, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """`alarms` at `as_of`, which continue those of the last run before it."""
        now = rows.filter(pl.col("time") == moment(as_of)).collect()
        previous = None
        if "alarms" in earlier:
            past = earlier["alarms"]
            last = past.select(pl.col("as_of").max()).collect().item()
            previous = None if last is None else past.filter(pl.col("as_of") == last).collect()
        return {"alarms": alarms.alarms(now, previous, moment(as_of), Options.of(options))}

    def published_table(self, options: Mapping[str, Any]) -> PublishedTable:
        return PublishedTable("risks", scoring.RISKS, ("machine_id", "component", "time", "horizon_hours"))

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> datetime:
        """The time of the latest telemetry up to `as_of`, or of all telemetry without `as_of`.

        Raises `ContractError` if there is no telemetry up to then, or if `as_of` is more than a day (25 hours, the length
        of the longest day) after the last of it.
        """
        range_ = span(tables["telemetry"])
        first, last = range_.first, range_.last
        if first is None or last is None:
            raise ContractError(
                "telemetry: the table has no rows. Ingest telemetry: python -m flows machines ingest --help"
            )
        if as_of is None:
            return last
        when = moment(as_of)
        if not first <= when <= last + timedelta(hours=25):
            raise ContractError(
                f"--as-of is {when:%Y-%m-%dT%H:%MZ}. There is telemetry from {first:%Y-%m-%dT%H:%MZ} to "
                f"{last:%Y-%m-%dT%H:%MZ}: expected a time in that range."
            )
        before = tables["telemetry"].filter(pl.col("time") <= when).select(pl.col("time").max())
        return before.collect(engine="streaming").item()

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """`vocabulary`, see `Vocabulary.to_frame`; `observed`: `first` and `last` telemetry up to `as_of`,
        `outcomes`, the time up to which failures are on record, and `repeats`, the number of repeated failure records.
        """
        until = moment(as_of)
        words = vocabulary(tables, until)
        observation = span(tables["telemetry"].filter(pl.col("time") <= until))
        when = pl.Datetime("us", "UTC")
        period = pl.DataFrame(
            {
                "first": [observation.first],
                "last": [observation.last],
                "outcomes": [service.failures_until(tables, observation.last) if observation.last else None],
                "repeats": [repeats(by_component(tables, words.components), until)],
            },
            schema={**dict.fromkeys(("first", "last", "outcomes"), when), "repeats": pl.Int64},
        )
        return {"vocabulary": words.to_frame(), "observed": period}

    def training_context(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """`equipment`: the components that no machine of a type has, see `equipment.missing_by_type`; `conditions`, see
        `training_rows.conditions_before`.
        """
        components = Vocabulary.of_frame(context["vocabulary"]).components
        return {
            "equipment": missing_by_type(by_component(tables, components), moment(as_of)),
            "conditions": training_rows.conditions_before(tables["telemetry"], context, options),
        }

    def fit(self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]) -> FitResult:
        words, learnt = training_rows.vocabulary_of(context), training_rows.options_of(context, options)
        return training.fit(parts["rows"], words, context["observed"], learnt, training_rows.gaps_of(context))

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        """Log losses on the backtest rows after `trained_as_of`, horizons and components as in the backtest.

        A component or horizon that `model` lacks counts as a probability close to 0.
        """
        unseen = backtest.filter(pl.col("time") > moment(trained_as_of), pl.col("failed").is_not_null())
        if unseen.is_empty():
            return None
        times = unseen.select("machine_id", "time").unique().lazy()
        rows = parts["rows"].join(times, on=["machine_id", "time"], how="semi").collect()
        place = ["machine_id", "component", "time", "horizon_hours"]
        probabilities = evaluation.judge(model, rows, model.options).select(*place, pl.col("probability"))
        theirs = unseen.drop("probability").join(probabilities, on=place, how="left", maintain_order="left")
        ours, other = evaluation.log_loss(unseen), evaluation.log_loss(theirs)
        return None if ours is None or other is None else (ours, other, unseen.height)

    def requested_keys(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        """Every component ever replaced or failed, of every machine on record or with recent telemetry that has it.

        See `equipment` for the components of a machine. Telemetry is recent if it extends into the range to be
        scored, so that machines that ended within it have rows.

        Raises `ContractError` if the range to be scored begins after `as_of`.
        """
        until, run_options = moment(as_of), Options.of(options)
        if run_options.score_from and run_options.score_from > until:
            raise ContractError(
                f"--from is {run_options.score_from:%Y-%m-%dT%H:%MZ}; the last telemetry up to --to is from "
                f"{until:%Y-%m-%dT%H:%MZ}. Expected --from before that. Choose an earlier one, or ingest newer telemetry."
            )
        interval = interval_hours(tables["telemetry"].filter(pl.col("time") <= until)) or 1.0
        names, begin = components_of(tables, until), _begin(run_options, until, interval)
        gaps = missing_components(by_component(tables, names), begin, until)
        keys = _every_key(tables, names, begin, until).join(gaps.lazy(), on=[*self.key], how="anti")
        return keys.select(*self.key, "shard").sort(*self.key)

    def gaps(
        self, tables: Frames, context: Context, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """One line per finding: finding, table, machines, examples, effect; see `findings.findings`."""
        run_options, until = Options.of(options), moment(as_of)
        telemetry, words = tables["telemetry"], Vocabulary.of_frame(context["vocabulary"])
        names, begin = words.components, _begin(run_options, until, words.interval_hours)
        records = by_component(tables, names)
        every = _every_key(tables, names, begin, until)
        gaps = every.join(keys.lazy(), on=[*self.key], how="anti").collect()
        odd = summary(pl.concat([stray_clocks(telemetry), without_component(gaps), findings(records, until)]))
        return pl.concat(
            [before_the_data(telemetry, run_options.score_from), record_ends_early(tables, until), odd]
        )

    def score(
        self,
        model: risks.Model,
        tables: Frames,
        context: Context,
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        """The risks of `keys`, without rank: see `complete`.

        If the interval of the telemetry differs from that of the training, every key is skipped.
        """
        interval = Vocabulary.of_frame(context["vocabulary"]).interval_hours
        if abs(interval / model.vocabulary.interval_hours - 1) > _SAME_INTERVAL:
            reason = (
                f"telemetry comes every {interval:g} h, but the bundle was trained on telemetry every "
                f"{model.vocabulary.interval_hours:g} h: train again"
            )
            outcome = keys.select(
                *self.key,
                pl.lit("skipped").alias("status"),
                pl.lit("other_interval").alias("rung"),
                pl.lit(reason).alias("reason"),
            )
            return Scores(pl.DataFrame(schema=scoring.RISKS), outcome)
        first = context["observed"]["first"].item()
        return scoring.score(model, tables, keys, first, moment(as_of), options)

    def events(
        self, rows: pl.LazyFrame, frames: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> list[Event]:
        """`at_risk` for each machine with a newly opened alarm, by its best rank."""
        return alarms.at_risk(frames["alarms"])

    def evaluate(
        self, model: risks.Model, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Judged rows of one shard from `score_from` to `score_to`, as known at `as_of`.

        Rows whose horizon ends later are included as pending; see `evaluation`. There are also the quantiles
        of the remaining life, and `observed_hours`.
        """
        run_options = model.options_for(options)
        rows = training_rows.rows_of(
            tables, model.vocabulary, context["observed"], run_options.score_from, run_options, model.gaps
        )
        if run_options.score_to:
            rows = rows.filter(pl.col("time") <= run_options.score_to)
        judged_rows = scoring.with_lives(evaluation.judge(model, rows, run_options), model, rows)
        hours = rows.select("machine_id", "time", OBSERVED)
        return judged_rows.join(hours, on=["machine_id", "time"], how="left", maintain_order="left")

    def judge(
        self, published_rows: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Published rows with `failed` and `next_failure_hours`; see `models.machines.ground_truth`."""
        return ground_truth.judge(published_rows, tables, moment(until))

    def measures(self, judged_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """Metrics of judged rows, published or of a bundle; see `evaluation.metrics`."""
        is_published = "as_of" in judged_rows.collect_schema()
        rows = ground_truth.first_judgements(judged_rows) if is_published else judged_rows.collect()
        return evaluation.metrics(rows, Options.of(options))

    def tallies(self, judged_rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.tallies(judged_rows)

    def ground_truth_losses(
        self, backtest: pl.LazyFrame, judged_rows: pl.LazyFrame, options: Mapping[str, Any]
    ) -> tuple[float, float, int] | None:
        return ground_truth.losses(backtest, judged_rows)

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.tallies(backtest.collect())

    def watched_inputs(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        since = Options.of(options).train_from
        return watching.watched_inputs(tables, since, moment(trained_as_of), moment(as_of))

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("rung", "probability")

    def sections(self, run: RunView) -> list[Section]:
        from models.machines.sections import sections

        return sections(run)


def _every_key(tables: Frames, components: Sequence[str], begin: datetime, until: datetime) -> pl.LazyFrame:
    """Each of `components` for each machine with telemetry after `begin` or on record, with its shard."""
    recent = pl.col("time").is_between(begin, until, closed="right")
    machines = [tables["telemetry"].filter(recent).select("machine_id", "shard")]
    if "machines" in tables:
        machines.append(tables["machines"].select("machine_id", "shard"))
    names = pl.LazyFrame({"component": [*components]}, schema={"component": pl.String})
    return pl.concat(machines, how="vertical_relaxed").unique().join(names, how="cross")


def _begin(options: Options, until: datetime, interval: float) -> datetime:
    """The time after which a machine must have sent telemetry, each `interval` hours, to be scored.

    It is long enough before the range for features, and for a machine in service to have sent something.
    """
    reach = max(timedelta(days=options.normal_days), service.longest_silence(interval))
    return min(options.score_from or until, until) - reach


MACHINES = Machines()
