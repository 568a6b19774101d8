"""The `sales` scenario: weekly units per SKU and store, as quantiles for the next quarter."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from models.page.blocks import Section
from models.sales import (
    assortment,
    categories,
    comparison,
    events,
    explanations,
    ground_truth,
    imitation,
    interchange,
    ladder_profiles,
    neighbours,
    preparation,
    scoring,
    successors,
    totals,
    training,
    watching,
)
from models.sales.calendar import incomplete_weeks, resolve_as_of
from models.sales.contracts import TABLES
from models.sales.covariates import joined
from models.sales.gaps import other_scales, plan_gaps, unknown_keys
from models.sales.ground_truth import CHARTS, GROUND_TRUTH
from models.sales.layouts import LAYOUTS
from models.sales.model import Model, load
from models.sales.options import Options, quantile_column
from models.sales.panel import KEY, demanded
from models.sales.search import SalesSearch
from models.scenario import (
    AsOf,
    Context,
    DerivesFromBundle,
    ExplainsRows,
    File,
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
    Scenario,
    Scores,
    WatchesInputs,
)


@dataclass(frozen=True)
class Sales(
    Scenario,
    MeetsChampions,
    ReportsGaps,
    DerivesFromBundle,
    ExplainsRows,
    HasPage,
    HasControlCharts,
    WatchesInputs,
    HasEstimators,
    HasSearch,
):
    """See `models.scenario.Scenario`; options are those of `models.sales.options.Options`."""

    name: str = "sales"
    key: tuple[str, ...] = KEY
    tables = TABLES
    layouts = LAYOUTS
    cadence = timedelta(weeks=1)
    derived_tables = ("totals",)
    ground_truth = GROUND_TRUTH
    charts = CHARTS
    search = SalesSearch()
    load = staticmethod(load)
    rebacktest = staticmethod(comparison.on_unseen)
    estimate = staticmethod(interchange.estimate)
    interchange = staticmethod(interchange.interchange)

    def published_table(self, options: Mapping[str, Any]) -> PublishedTable:
        quantiles = dict.fromkeys(Options.of(options).columns, pl.Float64)
        schema = {"sku": pl.String, "store": pl.String, "week": pl.Date, "step": pl.Int32}
        return PublishedTable("forecasts", schema | quantiles | {"rung": pl.String}, ("sku", "store", "week"))

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> date:
        return resolve_as_of(tables["history"], as_of, now)

    def omissions(self, tables: Frames, newest: AsOf) -> list[str]:
        """Notes on incomplete weeks, late stores, ended SKUs, predecessors, events of unknown stores, and plans with unknown
        keys or on another scale."""
        return [
            *incomplete_weeks(tables["history"], newest),
            *assortment.late_stores(tables, newest),
            *assortment.unsold(tables, newest),
            *successors.notes(tables, newest),
            *events.unknown_stores(tables),
            *unknown_keys(tables, newest),
            *other_scales(tables, newest),
        ]

    def context_notes(self, tables: Frames, context: Context, as_of: AsOf) -> list[str]:
        """Notes on words of the history that forecasts do not use, and on words of the plan that the history lacks."""
        return categories.notes(joined(tables, as_of).get("plan"), context["categories"], as_of)

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """Totals per SKU and week and per store and week, events, attributes of SKUs, and the profiles of the ladder."""
        sales_options = Options.of(options)
        totals.check(sales_options, tables)
        tables = joined(tables, as_of)
        inheritance = successors.inherited(tables, as_of)
        tables = successors.with_inherited(tables, inheritance)
        every = categories.of_history(tables, as_of)
        is_flag = pl.col("use") == categories.FLAG
        # of all categories, because the use of those that the bundle has learnt may have changed since
        frames = neighbours.shared_frames(
            categories.with_flags(tables, every["name"]), as_of, sales_options.horizon
        )
        frames |= inheritance | {"categories": every}
        no_flags = every.filter(~is_flag)["name"]
        frames["covariates"] = frames["covariates"].filter(~pl.col("name").is_in(no_flags.implode()))
        tables = categories.with_flags(tables, every.filter(is_flag)["name"])
        first, until = neighbours.first_week_of(as_of), as_of + timedelta(weeks=sales_options.horizon)
        frames |= assortment.frames_of(tables, frames["sku_weeks"])
        frames["events"] = events.events(tables, sales_options.holidays, first, until)
        history = demanded(tables["history"]).filter(pl.col("week").is_between(first, as_of))
        frames["late_weeks"] = ladder_profiles.late_weeks(history, frames["sku_weeks"])
        return frames | ladder_profiles.profiles(
            history, as_of, sales_options.quantiles, frames["late_weeks"]
        )

    def training_context(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """The profiles of the ladder as of each backtest origin."""
        tables = _with_all_columns(tables, context, as_of)
        return preparation.origin_profiles(tables, context, as_of, Options.of(options))

    def prepare_shard(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        tables = _with_all_columns(tables, context, as_of)
        sales_options = Options.of(options)
        parts = preparation.prepare(tables, context, as_of, sales_options)
        return parts | imitation.prepare(tables, context, as_of, sales_options)

    def fit(self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]) -> FitResult:
        return training.fit(parts, context, as_of, Options.of(options))

    def requested_keys(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        sales_options = Options.of(options)
        since, until = (
            as_of - timedelta(weeks=sales_options.requested_weeks),
            as_of + timedelta(weeks=sales_options.horizon),
        )
        week = pl.col("week")
        keys = [tables["history"].filter(week > since, week <= as_of).select(*KEY, "shard")]
        if "plan" in tables:
            keys.append(tables["plan"].filter(week > as_of, week <= until).select(*KEY, "shard"))
        return pl.concat(keys).unique().sort(*KEY)

    def score(
        self,
        model: Any,
        tables: Frames,
        context: Context,
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        tables = _as_learnt(tables, as_of, model, context)
        return scoring.score(model, tables, context, keys, as_of, Options.of(options))

    def derive_from_bundle(
        self,
        files: Mapping[str, File],
        rows: pl.LazyFrame,
        tables: Frames,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> dict[str, pl.DataFrame]:
        """`totals`; see `models.sales.totals`."""
        return {"totals": totals.totals(rows, files, tables, Options.of(options))}

    def derivation_notes(self, files: Mapping[str, File]) -> list[str]:
        return [] if totals.SHARES_FILE in files else [totals.NOTE]

    def gaps(
        self, tables: Frames, context: Context, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        flags = context["categories"].filter(use=categories.FLAG)["name"]
        tables = categories.with_flags(joined(tables, as_of), flags)
        return plan_gaps(tables, keys, as_of, Options.of(options).horizon)

    def worth_explaining(self, published_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The rows of the keys with the largest forecasts."""
        return explanations.largest(published_rows, Options.of(options))

    def explain(
        self,
        model: Any,
        tables: Frames,
        context: Context,
        rows: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> pl.DataFrame:
        """See `models.sales.explanations.explain`."""
        tables = _as_learnt(tables, as_of, model, context)
        return explanations.explain(model, tables, context, rows, as_of, Options.of(options))

    def watched_inputs(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        return watching.watched_inputs(tables, as_of)

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The rung, and the quantile nearest to the median."""
        sales_options = Options.of(options)
        middle = min(sales_options.quantiles, key=lambda q: abs(q - 0.5))
        return ("rung", quantile_column(middle))

    def sections(self, run: RunView) -> list[Section]:
        from models.sales.sections import sections

        return sections(run)

    def judge(
        self, published_rows: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Published rows with `units`, `kind` and the naive forecasts; see `models.sales.ground_truth`."""
        return ground_truth.judge(published_rows, categories.flagged(joined(tables, until), until), until)

    def measures(self, judged_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.measures(judged_rows, Options.of(options))

    def tallies(self, judged_rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.tallies(judged_rows, Options.of(options))

    def ground_truth_losses(
        self, backtest: pl.LazyFrame, judged_rows: pl.LazyFrame, options: Mapping[str, Any]
    ) -> tuple[float, float, int] | None:
        return ground_truth.losses(backtest, judged_rows, Options.of(options))

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        return ground_truth.tallies(backtest.collect(), Options.of(options))


def _with_all_columns(tables: Frames, context: Context, as_of: AsOf) -> Frames:
    """The tables with covariates of stores, predecessors' weeks, and the flags of all categories."""
    tables = successors.with_inherited(joined(tables, as_of), context)
    return categories.with_flags(tables, context["covariates"]["name"])


def _as_learnt(tables: Frames, as_of: AsOf, model: Model, context: Context) -> Frames:
    """The tables with all columns that the model uses: covariates of stores, predecessors' weeks, flags of categories."""
    tables = successors.with_inherited(joined(tables, as_of), context)
    names = [name for name in model.covariates if name in context["sku_weeks"].columns]
    return categories.with_flags(tables, names)


SALES = Sales()
