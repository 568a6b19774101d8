"""The forecasts of one shard: each key by the highest rung that its history allows."""

from datetime import date, timedelta

import polars as pl

from models.sales import assortment, categories, contest, forecast_rows, ladder, statistical, views
from models.sales.contest import NO_PLAN
from models.sales.model import Model, ladder_level
from models.sales.neighbours import first_week, store_attributes
from models.sales.options import Options
from models.sales.panel import KEY, Panel, demanded, known_covariates, panel_of, past_and_plan
from models.sales.promotions import with_prices_of_others
from models.sales.seasons import YEAR
from models.scenario import Context, Frames, Scores

PANEL_WEEKS = 2 * YEAR + 13
"""Minimum number of weeks before a forecast in its panel."""
UNJUDGED = (
    "less than half a year of history, as hardly any key had in the backtest: its bands may be too narrow"
)
KEYS_AT_A_TIME = 2_000
"""Number of keys whose features are in memory together: 8 MB for 13 steps and 80 features."""


def score(
    model: Model, tables: Frames, context: Context, keys: pl.DataFrame, as_of: date, options: Options
) -> Scores:
    """Rows and statuses of `keys`, from the shard's tables and the `context`.

    A key with `forecast_rows.ENOUGH_WEEKS` weeks of history in the last year is forecast by the pooled model or,
    if the bundle says so, by its SKU's own model; every other key by the ladder. A key's rows depend on
    its own history and plan, on the `context` and, with its SKU's own model, on that SKU's other stores.
    """
    unique_keys = keys.select(KEY).unique().sort(KEY)
    panel = panel_with_plan(model, tables, context, unique_keys, as_of, options)
    own = own_rows(model, panel, unique_keys, context, options)
    selection = panel.of(pl.struct(KEY).is_in(unique_keys.select(pl.struct(KEY).implode()).to_series()))
    forecasts = _fitted_rows(model, selection, own, context, store_attributes(tables), options)
    kinds = forecasts.select(*KEY, "week", "kind", "whole")
    forecasts = assortment.without_ended(forecasts.drop_nulls("rung"), tables, options.columns)
    rest = unique_keys.join(forecasts.select(KEY).unique(), on=KEY, how="anti")
    answers = _ladder_rows(rest, tables, context, as_of, options)
    answers = answers.join(kinds, on=[*KEY, "week"], how="left", maintain_order="left")
    stores = context["ladder_sku"].filter(demand="any").select("sku", "stores")
    answers = answers.join(stores, on="sku", how="left", maintain_order="left")
    answers = model.recalibrated(answers.with_columns(ladder_level(options.columns)), "level")
    answers = assortment.without_ended(answers, tables, options.columns)
    columns = ["sku", "store", "week", "step", *options.columns, "rung"]
    every = pl.concat([forecasts.select(columns), answers.select(columns)]).sort(*KEY, "week")
    outcomes = _outcomes(forecasts.join(model.unjudged(), on=["rung", "kind"], how="left"), answers, options)
    if model.categories.height and "plan" in tables:
        outcomes = _with_words(outcomes, _plan(tables, as_of, options), model.categories)
    return Scores(every, outcomes)


def panel_with_plan(
    model: Model, tables: Frames, context: Context, keys: pl.DataFrame, as_of: date, options: Options
) -> Panel:
    """The panel of `keys` and of all other keys of their SKUs: the history in use, and after `as_of` the plan."""
    available = known_covariates(tables)
    covariates = [name for name in model.covariates if name in available]
    first = min(first_week(context, as_of), as_of - timedelta(weeks=PANEL_WEEKS - 1))
    rows = past_and_plan(tables, covariates, as_of, options.horizon).filter(pl.col("week") >= first)
    stores = rows.join(keys.lazy().select("sku").unique(), on="sku", how="semi")
    every = pl.concat([stores.select(KEY).unique().collect(), keys]).unique().sort(KEY)
    return panel_of(stores, every, covariates, first, as_of, options.horizon)


def _fitted_rows(
    model: Model,
    panel: Panel,
    own: pl.DataFrame | None,
    context: Context,
    attributes: pl.DataFrame | None,
    options: Options,
) -> pl.DataFrame:
    """Forecasts of the keys of `panel`, some keys at a time; the rung is null if a key has too little history."""
    steps = {panel.last: range(1, options.horizon + 1)}
    frames = []
    for start in range(0, max(panel.keys.height, 1), KEYS_AT_A_TIME):
        part = panel.cut(start, start + KEYS_AT_A_TIME)
        view = views.view_of(part, context, model.flags, attributes)
        inputs = forecast_rows.build(view, [part.last], steps)
        enough = inputs.frame["enough"]
        values = inputs.values if enough.all() else inputs.values[enough.to_numpy()]
        rows = inputs.frame.filter(enough)
        frames.append(model.forecast(rows, values, inputs.names, own, options.scoring_threads))
        frames.append(inputs.frame.filter(~enough))
    return pl.concat(frames, how="diagonal")


def own_rows(
    model: Model, panel: Panel, keys: pl.DataFrame, context: Context, options: Options
) -> pl.DataFrame | None:
    """Forecasts of the SKUs' own models; None if the forecasts of `keys` do not use them."""
    has_part = (
        model.own_first
        or model.blended
        or contest.needs_own_models(model.unplanned)
        or contest.needs_own_models(model.planned)
        or keys.join(model.own_keys, on=KEY, how="semi").height
    )
    if not has_part or model.own_models.is_empty():
        return None
    with_prices = with_prices_of_others(panel, context["store_weeks"])
    return statistical.forecast(
        model.own_models, with_prices, with_prices.last, options.horizon, options.quantiles
    )


def _ladder_rows(
    keys: pl.DataFrame, tables: Frames, context: Context, as_of: date, options: Options
) -> pl.DataFrame:
    """The ladder's answers, with rung and reason."""
    first = as_of - timedelta(weeks=PANEL_WEEKS - 1)
    own = demanded(tables["history"]).filter(pl.col("week") >= first)
    plan = _plan(tables, as_of, options) if "plan" in tables else None
    return ladder.answer(keys, own, context, as_of, options.horizon, options.quantiles, plan)


def _plan(tables: Frames, as_of: date, options: Options) -> pl.LazyFrame:
    """The plan for the weeks of the forecast."""
    until = as_of + timedelta(weeks=options.horizon)
    return tables["plan"].filter(pl.col("week") > as_of, pl.col("week") <= until)


def _with_words(outcomes: pl.DataFrame, plan: pl.LazyFrame, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """The outcomes, with the categories of their plan that `vocabulary` lacks added to the reason."""
    rows = outcomes.join(categories.not_learnt(plan, vocabulary), on=KEY, how="left", maintain_order="left")
    reason = pl.concat_str("reason", "words", separator="; ", ignore_nulls=True)
    return rows.with_columns(reason.replace("", None).alias("reason")).drop("words")


def _outcomes(forecasts: pl.DataFrame, answers: pl.DataFrame, options: Options) -> pl.DataFrame:
    """One row per key: status, rung and reason."""
    count = (pl.col("rung") == NO_PLAN).sum()
    statuses = forecasts.group_by(KEY, maintain_order=True).agg(
        pl.lit("scored").alias("status"),
        pl.col("rung").sort_by(pl.col("rung") == NO_PLAN, maintain_order=True).first(),
        count.alias("unplanned"),
        pl.col("unjudged").any(),
    )
    unplanned = pl.format("{} of {} weeks are not in the plan", "unplanned", options.horizon)
    reasons = [
        pl.when(pl.col("unplanned") > 0).then(unplanned),
        pl.when("unjudged").then(pl.lit(UNJUDGED)),
    ]
    reason = pl.concat_str(reasons, separator="; ", ignore_nulls=True).replace("", None)
    statuses = statuses.select(*KEY, "status", "rung", reason.alias("reason"))
    fallback = answers.unique(KEY, keep="first", maintain_order=True)
    fallback = fallback.select(*KEY, pl.lit("fallback").alias("status"), "rung", "reason")
    return pl.concat([statuses, fallback]).sort(KEY)
