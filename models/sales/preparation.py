"""The contribution of one shard to training: rows to learn from, rows of the backtest, own models of SKUs."""

import zlib
from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.sales import forecast_rows, ladder, ladder_profiles, statistical, views, widening
from models.sales.backtest import NAIVES
from models.sales.neighbours import first_week, flag_names, store_attributes, with_plan
from models.sales.options import Options
from models.sales.panel import (
    IN_STOCK,
    KEY,
    Panel,
    demanded,
    known_covariates,
    out_of_stock,
    panel_of,
    past_and_plan,
)
from models.sales.promotions import with_prices_of_others
from models.scenario import Context, Frames

FEATURE = "f:"
"""Prefix of the names of feature columns in a part."""
ORIGIN = "origin_"
"""Prefix of the names of the ladder's profiles as of backtest origins."""
FIRST_ORIGIN = 8
"""Least number of weeks of history before the first training origin."""
BACKTEST_WEEKS, SPLIT_WEEKS = 26, 12
"""Number of weeks of history that a backtest origin needs before it, and if there is no such origin."""
FLAGGED_SHARE = 0.04
"""Share of the training weeks in which every flag of every key is set to 1.

Some plans flag everything. Together with the share of other SKUs that are flagged, this teaches
the model to rely on prices in such a week."""
MAX_STEPS = 4


def prepare(
    tables: Frames,
    context: Context,
    as_of: date,
    options: Options,
    *,
    with_ladder: bool = True,
) -> dict[str, pl.DataFrame]:
    """The shard's parts, by name; a part without rows is left out.

    `train`: rows whose target week is known, with features. `backtest`: rows of each backtest origin that have
    actuals, with features; keys without enough history for the pooled model are in `ladder_backtest`
    instead, with the ladder's quantiles as of that origin, unless `with_ladder` is false. `statistical_backtest`:
    quantiles of SKUs' own models, fitted at each origin; `statistical`: their parameters at `as_of`. `weeks`: the number
    of weeks from the first to the last row of each key, summed over the shard's keys, and how many of them are missing,
    implausible or out of stock.
    Keys are sampled by a hash of their name, so that all shards together stay below the numbers of rows in the options.
    """
    covariates = known_covariates(tables)
    first = first_week(context, as_of)
    rows = past_and_plan({"history": tables["history"]}, covariates, as_of, 0).filter(pl.col("week") >= first)
    keys = rows.select(KEY).unique().collect().sort(KEY)
    train_keys, test_keys, skus = sampled(keys, context, options)
    flags = flag_names(context["covariates"])
    attributes = store_attributes(tables)
    parts: dict[str, pl.DataFrame] = {}
    if train_keys.height:
        panel = panel_of(rows, train_keys, covariates, first, as_of, 0)
        view = views.view_of(panel, context, flags, attributes)
        parts["train"] = training_rows(view, context, options)
    panel = panel_of(rows, test_keys, covariates, first, as_of, 0)
    origins = backtest_origins(panel, as_of, options)
    if test_keys.height and origins:
        view = views.view_of(panel, context, flags, attributes)
        parts |= _backtest_parts(view, origins, rows, context, options, with_ladder=with_ladder)
    every = panel_of(rows, keys, covariates, first, as_of, 0)
    parts["weeks"] = _weeks(every).with_columns(out_of_stock=_out_of_stock(tables["history"], first, as_of))
    if not origins or known_steps(every, origins[0], options) < options.horizon:
        parts["widening"] = widening.likelihoods(every)
    every = with_prices_of_others(every, context["store_weeks"])
    parts |= _statistical_parts(every, skus, as_of, with_plan(context["covariates"]), options)
    if "statistical_backtest" in parts:
        parts["statistical_backtest"] = parts["statistical_backtest"].join(test_keys, on=KEY, how="semi")
    return {name: part for name, part in parts.items() if part.height}


def _backtest_parts(
    view: views.View,
    origins: list[int],
    rows: pl.LazyFrame,
    context: Context,
    options: Options,
    *,
    with_ladder: bool,
) -> dict[str, pl.DataFrame]:
    """The parts `backtest` and, unless `with_ladder` is false, `ladder_backtest`; see `prepare`."""
    steps = {origin: range(1, known_steps(view.panel, origin, options) + 1) for origin in origins}
    test = as_part(forecast_rows.build(view, origins, steps))
    if not with_plan(context["covariates"]):
        test = unplanned(test)
    parts = {"backtest": test.filter("enough")}
    if with_ladder:
        parts["ladder_backtest"] = _ladder_rows(test.filter(~pl.col("enough")), rows, context, options)
    return parts


def origin_profiles(
    tables: Frames, context: Context, as_of: date, options: Options
) -> dict[str, pl.DataFrame]:
    """The frames of `ladder_profiles.profiles` as of each backtest origin that the history covers, with its `origin`.

    They are of all shards: the rows of a shard alone would be those of stores that sell fewer SKUs.
    """
    first = first_week(context, as_of)
    history = demanded(tables["history"]).filter(pl.col("week") >= first)
    frames: dict[str, list[pl.DataFrame]] = {}
    for origin in covered_origins(first, as_of, options):
        profiles = ladder_profiles.profiles(history, origin, options.quantiles, context["late_weeks"])
        for name, frame in profiles.items():
            frames.setdefault(ORIGIN + name, []).append(frame.with_columns(origin=pl.lit(origin, pl.Date)))
    return {name: pl.concat(parts) for name, parts in frames.items()}


def _weeks(panel: Panel) -> pl.DataFrame:
    """One row: the number of `weeks` from the first to the last of each key, and how many are `missing` or `implausible`."""
    finite = np.isfinite(panel.units)
    since_first = np.maximum.accumulate(finite, axis=0)
    until_last = np.maximum.accumulate(finite[::-1], axis=0)[::-1]
    weeks = int((since_first & until_last).sum())
    counts = {"weeks": weeks, "missing": weeks - int(finite.sum()), "implausible": panel.implausible}
    return pl.DataFrame({name: [count] for name, count in counts.items()})


def _out_of_stock(history: pl.LazyFrame, first: date, as_of: date) -> pl.Expr:
    """Number of weeks of the history from `first` to `as_of` that were out of stock."""
    if IN_STOCK not in history.collect_schema():
        return pl.lit(0)
    weeks = history.filter(pl.col("week").is_between(first, as_of), out_of_stock())
    return pl.lit(weeks.select(pl.len()).collect().item())


def sampled(
    keys: pl.DataFrame, context: Context, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Keys to learn from, keys of the backtest, and SKUs whose own models are tried.

    Each is the same share of the keys (or SKUs) in every shard. The keys of the SKUs that are tried are also in
    the backtest.
    """
    calendar, has_plan = context["calendar"], with_plan(context["covariates"])
    train_share = options.training_rows / max(calendar["rows"][0], 1)
    test_share = options.backtest_rows / max(calendar["recent_rows"][0] * options.origins, 1)
    trial_share = (
        options.statistical_skus / max(context["sku_weeks"]["sku"].n_unique(), 1) if has_plan else 1.0
    )
    names = [f"{options.seed}/{sku}/{store}" for sku, store in keys.iter_rows()]
    skus = keys.select(pl.col("sku").unique().sort())
    skus = skus.filter(pl.Series(chances([f"{options.seed}/{sku}" for sku in skus["sku"]]) < trial_share))
    in_trial = keys["sku"].is_in(skus["sku"].to_list()) & has_plan
    in_test = pl.Series(chances([f"{name}/backtest" for name in names]) < test_share)
    return keys.filter(pl.Series(chances(names) < train_share)), keys.filter(in_test | in_trial), skus


def chances(names: Sequence[str]) -> np.ndarray:
    """A number between 0 and 1 for each name: evenly distributed, and always the same."""
    return np.array([zlib.crc32(name.encode()) / 2**32 for name in names], dtype=float)


def training_rows(view: views.View, context: Context, options: Options) -> pl.DataFrame:
    """Rows of all origins of the view, some steps each, whose target week is known."""
    count = options.training_rows / max(context["calendar"]["rows"][0], 1)
    each = int(np.clip(np.floor(count), 1, MAX_STEPS))
    steps: dict[int, list[int]] = {}
    marks = set()
    for origin in range(FIRST_ORIGIN, view.panel.last):
        steps_ahead = range(1, known_steps(view.panel, origin, options) + 1)
        week = view.panel.week(origin)
        by_step = chances([f"{options.seed}/{week}/{step}" for step in steps_ahead])
        steps[origin] = sorted(np.array(steps_ahead)[np.argsort(by_step)[:each]].tolist())
        weeks = [f"{options.seed}/{view.panel.week(origin + step)}/{step}/flagged" for step in steps[origin]]
        pairs = zip(steps[origin], chances(weeks) < FLAGGED_SHARE, strict=True)
        marks |= {(origin, step) for step, is_marked in pairs if is_marked}
    if not steps:
        return pl.DataFrame()
    return as_part(forecast_rows.build(view, list(steps), steps, frozenset(marks))).filter("enough")


def backtest_origins(panel: Panel, as_of: date, options: Options) -> list[int]:
    """Indices of the backtest origins that the history covers, earliest first."""
    return sorted(panel.index(origin) for origin in covered_origins(panel.week(0), as_of, options))


def covered_origins(first: date, as_of: date, options: Options) -> list[date]:
    """The backtest origins that the history from `first` covers, latest first.

    A short history is split in its place: its last third is forecast from the weeks before, if these are `SPLIT_WEEKS`.
    """
    least = first + timedelta(weeks=BACKTEST_WEEKS - 1)
    origins = [origin for origin in options.backtest_origins(as_of) if origin >= least]
    weeks = (as_of - first).days // 7 + 1
    held_out = min(weeks // 3, options.origin_gap)
    is_split = not origins and weeks - held_out >= SPLIT_WEEKS
    return [as_of - timedelta(weeks=held_out)] if is_split else origins


def known_steps(panel: Panel, origin: int, options: Options) -> int:
    """Number of weeks of the horizon after `origin` that the panel has."""
    return min(options.horizon, panel.last - origin)


def as_part(rows: forecast_rows.Rows) -> pl.DataFrame:
    """Rows with an actual, their features as float32 columns."""
    values = pl.DataFrame(rows.values, schema=[(FEATURE + name, pl.Float32) for name in rows.names])
    return pl.concat([rows.frame, values], how="horizontal").filter(pl.col("units").is_not_null())


def unplanned(test: pl.DataFrame) -> pl.DataFrame:
    """Backtest rows as without a plan: the covariates of the target week are unknown."""
    kind = pl.when(kind="promoted").then(pl.lit("regular")).otherwise("kind").alias("kind")
    return test.with_columns(pl.lit(value=False).alias("planned"), kind)


def _ladder_rows(short: pl.DataFrame, rows: pl.LazyFrame, context: Context, options: Options) -> pl.DataFrame:
    """The ladder's answers for the keys and weeks of `short`, as of each origin, from the `origin_profiles`."""
    about = short.select(*KEY, "origin", "week", "step", "units", *NAIVES, "last_year", "kind", "whole")
    parts = []
    for (origin,), part in about.group_by("origin", maintain_order=True):
        assert isinstance(origin, date)
        profiles = {
            name: context[ORIGIN + name].filter(pl.col("origin") == origin).drop("origin")
            for name in ladder_profiles.NAMES
        }
        has_plan = with_plan(context["covariates"])
        plan = rows.drop("units").filter(pl.col("week") > origin) if has_plan else None
        keys = part.select(KEY).unique().sort(KEY)
        answers = ladder.answer(keys, rows, profiles, origin, options.horizon, options.quantiles, plan)
        parts.append(part.join(answers.drop("reason", "step"), on=[*KEY, "week"], maintain_order="left"))
    return pl.concat(parts) if parts else pl.DataFrame()


def _statistical_parts(
    panel: Panel, skus: pl.DataFrame, as_of: date, has_plan: bool, options: Options
) -> dict[str, pl.DataFrame]:
    """Parameters of all SKUs' own models at `as_of`, and the backtest of the models of `skus`."""
    trial = panel.of(pl.col("sku").is_in(skus["sku"].implode()))
    tests = []
    for origin in backtest_origins(panel, as_of, options) if trial.keys.height else ():
        params = statistical.fit(trial, origin, options.horizon, options.quantiles)
        visible = trial if has_plan else trial.without_plan(origin)
        steps = known_steps(panel, origin, options)
        tests.append(statistical.forecast(params, visible, origin, steps, options.quantiles))
    parts = {"statistical": statistical.fit(panel, panel.last, options.horizon, options.quantiles)}
    if tests:
        parts["statistical_backtest"] = pl.concat(tests).filter(pl.col("units").is_not_null())
    return parts
