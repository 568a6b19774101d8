"""From the parts of all shards to a bundle: backtest, choice of rungs, calibration, final fit."""

from collections.abc import Mapping
from datetime import date
from functools import partial

import polars as pl

from models.sales import backtest as measuring
from models.sales import categories, choices, ensembles, raw_forecasts, totals, training_notes, widening
from models.sales.contest import NO_PLAN, POOLED, STATISTICAL
from models.sales.model import Model, ladder_level
from models.sales.neighbours import first_week, flag_names, with_plan
from models.sales.options import AUTO, Options
from models.sales.panel import KEY
from models.sales.raw_forecasts import SHORT, TEXT
from models.scenario import Context, FitResult, Frames


def fit(parts: Frames, context: Context, as_of: date, options: Options) -> FitResult:
    """The bundle from the parts of `preparation.prepare`.

    Each backtest origin is forecast by ensembles fitted to target weeks up to it. Its quantiles are then
    calibrated, and the rungs of its keys chosen, by the errors at the other origins, never by its own;
    the bundle uses the errors at all origins. If no origin judges the pooled model, which is overconfident after a few
    weeks, the SKUs' own models forecast all keys that they can.
    """
    names = ("ladder_backtest", "statistical", "weeks")
    frames = {name: _in_order(parts[name]) for name in names if name in parts}
    train = ensembles.learnt(parts["train"]) if "train" in parts else None
    covariates = tuple(context["covariates"]["name"])
    flags = flag_names(context["covariates"])
    learn = partial(ensembles.fit, covariates=covariates, flags=flags, options=options)
    raws = raw_forecasts.of_origins(train, parts, learn, options)
    is_judged = bool(raws) or options.estimator != AUTO
    answers = frames.get("ladder_backtest", pl.DataFrame())
    if answers.height:
        answers = answers.with_columns(ladder_level(options.columns))
        raws = _with_ladder(raws, answers, options)
    has_plan = with_plan(context["covariates"])
    backtest = published_rows(choices.forecasts_of_origins(raws, has_plan, options), answers, options)
    of_errors = choices.of_errors(pl.concat(raws.values()) if raws else pl.DataFrame(), has_plan, options)
    final = learn(train) if is_judged else {}
    del raws
    model = Model(
        quantiles=options.quantiles,
        horizon=options.horizon,
        covariates=covariates,
        flags=flags,
        with_plan=final.get(POOLED),
        without_plan=final.get(NO_PLAN),
        own_models=frames.get("statistical", pl.DataFrame()),
        own_first=options.estimator == STATISTICAL or not is_judged,
        categories=context.get("categories", categories.nothing()),
        widths=_widths(parts.get("widening"), backtest, context, as_of, options),
        **of_errors,
    )
    table = measuring.measured(backtest, options)
    return FitResult(
        files=model.files() | totals.fit(measuring.in_full(backtest, options), options),
        features=ensembles.feature_names(train, covariates, options),
        backtest=backtest,
        metrics=table,
        headline=measuring.headline(table),
        loss=measuring.loss(backtest, options),
        notes=[
            *training_notes.about_weeks(frames.get("weeks")),
            *training_notes.about_training(ensembles.height(train), backtest, model, as_of, options),
        ],
    )


def _with_ladder(
    raws: Mapping[object, pl.DataFrame], answers: pl.DataFrame, options: Options
) -> dict[object, pl.DataFrame]:
    """`raws`, the forecasts by backtest origin, with those of the ladder that have a level."""
    ladder = raw_forecasts.of_ladder(answers.filter(pl.col("level") > 0).with_columns(SHORT), options)
    result = dict(raws)
    for (origin,), rows in ladder.group_by("origin", maintain_order=True):
        result[origin] = pl.concat([result[origin], rows]) if origin in result else rows
    return result


def _widths(
    likelihoods: pl.LazyFrame | None, backtest: pl.DataFrame, context: Context, as_of: date, options: Options
) -> tuple[float, ...]:
    """The `widening.widths` beyond the backtest; none if it has the whole horizon."""
    if likelihoods is None:
        return ()
    weeks = (as_of - first_week(context, as_of)).days // 7 + 1
    known_steps = int(backtest.select(pl.col("step").max()).item() or 0)
    return widening.widths(likelihoods.collect(), weeks, known_steps, options.horizon)


def _in_order(part: pl.LazyFrame) -> pl.DataFrame:
    """The rows of all shards, in an order that does not depend on the number of shards."""
    frame = part.collect()
    order = [name for name in (*KEY, "origin", "week") if name in frame.columns]
    return frame.sort(order) if order else frame


def candidates(parts: Mapping[str, pl.DataFrame], context: Context, options: Options) -> pl.DataFrame:
    """Backtest forecasts of every candidate, before calibration: rows with `rung` and the quantiles in units."""
    learn = partial(
        ensembles.fit,
        covariates=tuple(context["covariates"]["name"]),
        flags=flag_names(context["covariates"]),
        options=options,
    )
    train = parts["train"].lazy() if "train" in parts else None
    raws = raw_forecasts.of_origins(train, parts, learn, options)
    raw = pl.concat(raws.values()).filter(~pl.col("imitated")) if raws else pl.DataFrame()
    return raw_forecasts.with_units(raw, options).with_columns(TEXT) if raw.height else raw


def published_rows(forecasts: pl.DataFrame, short: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The backtest to publish: the calibrated rows, and those for which the ladder's answer is zero."""
    columns = [*measuring.COLUMNS, *options.columns, "rung", "kind", *measuring.NAIVES]
    zeros = short.filter(pl.col("level") <= 0) if short.height else short
    parts = [part.select(columns) for part in (forecasts, zeros) if part.height]
    if parts:
        return pl.concat(parts).sort("origin", "sku", "store", "week")
    text = dict.fromkeys(("sku", "store", "rung", "kind"), pl.String)
    types = text | {"origin": pl.Date, "week": pl.Date, "step": pl.Int32}
    return pl.DataFrame(schema={name: types.get(name, pl.Float64) for name in columns})
