"""From the parts of all shards to a bundle: backtest, choice of rungs, calibration, final fit."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from models import metrics
from models.sales import backtest as measuring
from models.sales import categories, conformal, contest, features, groups, pooled, totals
from models.sales.contest import BLEND, NO_PLAN, POOLED, STATISTICAL
from models.sales.model import (
    CLUSTER,
    GROUPS,
    Model,
    empty_keys,
    ladder_level,
    log_values,
    middle_of,
    steps,
)
from models.sales.neighbours import flag_names, with_plan
from models.sales.options import AUTO, Options
from models.sales.panel import ENOUGH_STOCK, IMPLAUSIBLE, IN_STOCK, KEY
from models.sales.preparation import FEATURE
from models.scenario import FitResult, Frames

LEAST_ROWS = 200
"""Least number of training rows for the pooled model; with fewer, the other rungs forecast all keys."""
MISSING_SHARE = 0.2
"""Share of weeks without a row above which the notes ask what it means."""
STEADY_ORIGINS = 4.0
"""Origins without an error that are mixed into what calibration adds to the median, and with it to all quantiles.

All keys share the season of an origin, so that a few origins say less about it than about the spread."""
LEARNT = ("units", "level", "week", "planned")
"""Columns of training rows, besides their features, that ensembles are fitted to."""
SHORT, TEXT = pl.col(KEY).cast(pl.Categorical), pl.col(KEY).cast(pl.String)
"""Keys as numbers of categories, while forecasts are compared, and as text."""
RUNGS = (STATISTICAL, BLEND, POOLED, NO_PLAN)
ABOUT = ("sku", "store", "origin", "week", "step", "units", "level", "kind", *measuring.NAIVES, "last_year")


def fit(parts: Frames, context: Mapping[str, pl.DataFrame], as_of: date, options: Options) -> FitResult:
    """The bundle from the parts of `preparation.prepare`.

    Each backtest origin is forecast by ensembles fitted to target weeks up to it. Its quantiles are then
    calibrated, and the rungs of its keys chosen, by the errors made at the other origins, never its own;
    the bundle itself uses those of all origins.
    """
    read = ("statistical_backtest", "ladder_backtest", "statistical", "weeks")
    frames = {name: parts[name].collect() for name in read if name in parts}
    train = _learnt(parts["train"]) if "train" in parts else None
    covariates = tuple(context["covariates"]["name"])
    flags = flag_names(context["covariates"])
    learn = partial(ensembles, covariates=covariates, flags=flags, options=options)
    own = frames.pop("statistical_backtest", None)
    raws = _raw_backtest(train, parts.get("backtest"), own, learn, options)
    answered = frames.get("ladder_backtest", pl.DataFrame())
    if answered.height:
        answered = answered.with_columns(ladder_level(options.columns))
        ladder = raw_ladder(answered.filter(pl.col("level") > 0).with_columns(SHORT), options)
        for (origin,), rows in ladder.group_by("origin", maintain_order=True):
            raws[origin] = pl.concat([raws[origin], rows]) if origin in raws else rows
    has_plan = with_plan(context["covariates"])
    backtest = assembled(_honest(raws, has_plan, options), answered, options)
    choices = _choices(pl.concat(raws.values()) if raws else pl.DataFrame(), has_plan, options)
    del raws
    final = learn(train)
    model = Model(
        quantiles=options.quantiles,
        horizon=options.horizon,
        covariates=covariates,
        flags=flags,
        with_plan=final.get(POOLED),
        without_plan=final.get(NO_PLAN),
        own_models=frames.get("statistical", pl.DataFrame()),
        own_first=options.estimator == STATISTICAL,
        categories=context.get("categories", categories.nothing()),
        **choices,
    )
    table = measuring.measured(backtest, options)
    return FitResult(
        files=model.files() | totals.fit(measuring.in_full(backtest, options), options),
        features=_features(train, covariates, options),
        backtest=backtest,
        metrics=table,
        headline=measuring.headline(table),
        loss=measuring.loss(backtest, options),
        notes=[*_about_weeks(frames.get("weeks")), *_notes(train, backtest, model, as_of, options)],
    )


def _choices(raw: pl.DataFrame, has_plan: bool, options: Options) -> dict[str, Any]:
    """Those fields of the model that follow from the errors at all origins: calibration, and which rung forecasts what."""
    blended = has_plan and _blended(raw, options)
    return {
        "offsets": _offsets(raw, options),
        "own_keys": (_own_keys(raw, blended, options) if has_plan else empty_keys()).with_columns(TEXT),
        "blended": blended,
        "unplanned": contest.nothing() if has_plan else _unplanned(raw, options),
        "planned": _planned(raw, blended, options) if has_plan else contest.nothing(),
    }


def _unplanned(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Which candidate forecasts weeks without a plan, by kind of demand; see `contest`."""
    if options.estimator == AUTO:
        replacements = contest.better_than(raw, contest.DEFAULT, contest.MEMBERS, options.quantiles)
        return contest.always(contest.DEFAULT).update(replacements, on="kind")
    return contest.always({POOLED: NO_PLAN, STATISTICAL: STATISTICAL}.get(options.estimator, contest.DEFAULT))


def _planned(raw: pl.DataFrame, blended: bool, options: Options) -> pl.DataFrame:
    """Which candidate takes the place of the models in planned weeks, by kind of demand; see `contest`."""
    if options.estimator != AUTO:
        return contest.nothing()
    usual = BLEND if blended else POOLED
    return contest.better_than(raw, usual, contest.PLANNED, options.quantiles)


def _learnt(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Training rows, in memory, with those columns that ensembles are fitted to."""
    return rows.select(*LEARNT, f"^{FEATURE}.*$").collect().lazy()


def _features(train: pl.LazyFrame | None, covariates: Sequence[str], options: Options) -> list[str]:
    columns = [] if train is None else train.collect_schema().names()
    every = [name.removeprefix(FEATURE) for name in columns if name.startswith(FEATURE)]
    return groups.used(every, covariates, options)


def ensembles(
    train: pl.LazyFrame | None,
    covariates: Sequence[str],
    flags: Sequence[str],
    options: Options,
    rungs: Sequence[str] = (POOLED, NO_PLAN),
) -> dict[str, pooled.Pooled]:
    """The ensembles with and without plan, fitted to rows of `train`; neither where there are too few."""
    from models.boosting import release_memory

    if train is None:
        return {}
    names = _features(train, covariates, options)
    unplanned = [name for name in names if not features.needs_plan(name, covariates)]
    by_rung = {}
    for rung, selection in ((POOLED, names), (NO_PLAN, unplanned)):
        rows = train.filter("planned") if rung == POOLED else train
        if rung in rungs and _height(rows) >= LEAST_ROWS:
            by_rung[rung] = pooled.fit(*_inputs(rows, selection), selection, flags, options)
            release_memory()
    return by_rung


def _height(rows: pl.LazyFrame | None) -> int:
    return 0 if rows is None else int(rows.select(pl.len()).collect().item())


def _inputs(rows: pl.LazyFrame, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets on the log scale and week numbers of `rows`, as `pooled.fit` takes them."""
    frame = rows.select(*LEARNT, *(FEATURE + name for name in names)).collect()
    target = features.to_log(frame["units"].to_numpy(), frame["level"].to_numpy())
    return _matrix(frame, names), target, (frame["week"].to_physical() // 7).to_numpy()


def _matrix(rows: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    return rows.select([FEATURE + name for name in names]).to_numpy(order="c")


def _raw_backtest(
    train: pl.LazyFrame | None,
    test: pl.LazyFrame | None,
    own: pl.DataFrame | None,
    learn: Callable[[pl.LazyFrame | None], Mapping[str, pooled.Pooled]],
    options: Options,
) -> dict[object, pl.DataFrame]:
    """Forecasts of each origin by each rung before calibration; see `raw_of_origin`.

    The features of one origin are in memory at a time.
    """
    if test is None:
        return {}
    raws: dict[object, pl.DataFrame] = {}
    for origin in test.select(pl.col("origin").unique().sort()).collect()["origin"]:
        models = learn(None if train is None else train.filter(pl.col("week") <= origin))
        rows = test.filter(pl.col("origin") == origin).collect().sort(*KEY, "week").with_columns(SHORT)
        own_rows = None if own is None else own.filter(pl.col("origin") == origin).with_columns(SHORT)
        raws[origin] = raw_of_origin(models, rows, own_rows, options)
    return {origin: raw for origin, raw in raws.items() if raw.height}


def candidates(
    parts: Mapping[str, pl.DataFrame], context: Mapping[str, pl.DataFrame], options: Options
) -> pl.DataFrame:
    """Backtest forecasts of every candidate, before calibration: rows with `rung` and the quantiles in units."""
    learn = partial(
        ensembles,
        covariates=tuple(context["covariates"]["name"]),
        flags=flag_names(context["covariates"]),
        options=options,
    )
    rows = {name: parts[name].lazy() for name in ("train", "backtest") if name in parts}
    own = parts.get("statistical_backtest")
    raws = _raw_backtest(rows.get("train"), rows.get("backtest"), own, learn, options)
    raw = pl.concat(raws.values()) if raws else pl.DataFrame()
    return _in_units(raw, _values(raw, options), options).with_columns(TEXT) if raw.height else raw


def raw_of_origin(
    models: Mapping[str, pooled.Pooled], rows: pl.DataFrame, own: pl.DataFrame | None, options: Options
) -> pl.DataFrame:
    """Forecasts of one origin by each rung before calibration: `ABOUT`, rung, and `v<i>` on the log scale.

    `models` are ensembles that know nothing after the origin, `own` the forecasts of the SKUs' own models. `rows` are in
    the order of key and week. All rungs that forecast all of them share their columns in memory.
    """
    names = [name.removeprefix(FEATURE) for name in rows.columns if name.startswith(FEATURE)]
    frames = []
    for rung, ensemble in models.items():
        fitting = _only(rows, pl.col("planned")) if rung == POOLED else rows
        if fitting.height:
            values = log_values(ensemble, _matrix(fitting, names), names, options.threads)
            frames.append(_with_values(fitting, rung, values))
    if own is not None:
        quantiles = list(options.columns)
        on = [*KEY, "origin", "week"]
        theirs = rows.select(*ABOUT, "planned").join(
            own.select(*on, *quantiles), on=on, maintain_order="left"
        )
        values = features.to_log(theirs.select(quantiles).to_numpy(), theirs["level"].to_numpy()[:, None])
        frames.append(_with_values(theirs, STATISTICAL, values))
        if theirs["planned"].any():
            frames.append(_raw_blend(pl.concat(frames), options))
    if frames and rows["planned"].any():
        frames += _candidates(rows, pl.concat(frames), options, has_plan=True)
    elif frames:
        frames = _candidates(rows, pl.concat(frames), options, has_plan=False)
    return pl.concat(frames).with_columns(steps(options.horizon)) if frames else pl.DataFrame()


def _only(rows: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """The rows that meet a condition; `rows` itself, and no copy, where all do."""
    return rows if rows.select(condition.all()).item() else rows.filter(condition)


def _candidates(
    rows: pl.DataFrame, raw: pl.DataFrame, options: Options, *, has_plan: bool
) -> list[pl.DataFrame]:
    """The rows of each candidate of `contest`, from `raw`, those of the two models."""
    on = [*KEY, "origin", "week"]
    ensemble = POOLED if has_plan else NO_PLAN
    names = [f"v{i}" for i in range(len(options.quantiles))]

    def of(rung: str) -> np.ndarray:
        values = raw.filter(rung=rung).select(*on, *names)
        return rows.select(on).join(values, on=on, how="left", maintain_order="left").select(names).to_numpy()

    middle = middle_of(options.quantiles)
    every = contest.candidates(of(ensemble), of(STATISTICAL), rows, middle, has_plan=has_plan)
    return [
        _only(_with_values(rows, name, values), pl.col("v0").is_finite()) for name, values in every.items()
    ]


def _raw_blend(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The blend of the rows that have a forecast by both, in the shape of `raw_of_origin`."""
    on = [*KEY, "origin", "week"]
    pooled_rows, own = raw.filter(rung=POOLED), raw.filter(rung=STATISTICAL)
    both = pooled_rows.join(own.select(on), on=on, how="semi").sort(on)
    own = own.join(both.select(on), on=on, how="semi").sort(on)
    return _with_values(both, BLEND, contest.mean_of([_values(both, options), _values(own, options)]))


def raw_ladder(answered: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The ladder's answers, in the shape of `raw_of_origin`."""
    level = answered["level"].to_numpy()[:, None]
    values = features.to_log(answered.select(options.columns).to_numpy(), level)
    columns = [pl.Series(f"v{i}", values[:, i]) for i in range(values.shape[1])]
    return answered.select(*ABOUT, "rung", *columns, steps(options.horizon))


def _with_values(rows: pl.DataFrame, rung: str, values: np.ndarray) -> pl.DataFrame:
    columns = [pl.Series(f"v{i}", values[:, i]) for i in range(values.shape[1])]
    return rows.select(*ABOUT, pl.lit(rung).alias("rung"), *columns)


def _values(raw: pl.DataFrame, options: Options) -> np.ndarray:
    return raw.select([f"v{i}" for i in range(len(options.quantiles))]).to_numpy()


def _offsets(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Calibration from the errors of `raw`; without rows for any group where there are none."""
    n = len(options.quantiles)
    if raw.is_empty():
        schema = {"rung": pl.String, "kind": pl.String, "steps": pl.Int32}
        return pl.DataFrame(schema=schema | {f"offset{i}": pl.Float64 for i in range(n)})
    actual = features.to_log(raw["units"].to_numpy(), raw["level"].to_numpy())
    errors = [pl.Series(f"r{i}", actual - raw[f"v{i}"].to_numpy()) for i in range(n)]
    residuals = raw.select(*GROUPS, *CLUSTER, *errors)
    offsets = conformal.fit_offsets(residuals, options.quantiles, GROUPS, CLUSTER)
    common = (
        STEADY_ORIGINS / (pl.col("times") + STEADY_ORIGINS) * pl.col(f"offset{middle_of(options.quantiles)}")
    )
    return offsets.with_columns(pl.col(f"offset{i}") - common for i in range(n))


def _in_units(raw: pl.DataFrame, values: np.ndarray, options: Options) -> pl.DataFrame:
    units = features.from_log(values, raw["level"].to_numpy()[:, None])
    columns = [pl.Series(name, units[:, i]) for i, name in enumerate(options.columns)]
    return raw.select(*ABOUT, "rung", *columns)


def _by_rung(raw: pl.DataFrame, rung: str, options: Options) -> pl.DataFrame:
    """The forecasts of a rung before calibration, in units."""
    rows = raw.filter(rung=rung) if raw.height else raw
    return _in_units(rows, _values(rows, options), options) if rows.height else rows


def _blended(raw: pl.DataFrame, options: Options) -> bool:
    """Whether the blend did better than the pooled model at the origins of `raw`, on the rows of both."""
    if options.estimator != AUTO:
        return options.estimator == BLEND
    both, alone = _by_rung(raw, BLEND, options), _by_rung(raw, POOLED, options)
    if both.is_empty():
        return False
    alone = alone.join(both, on=[*KEY, "origin", "week"], how="semi")
    return measuring.loss(both, options) < measuring.loss(alone, options)


def _own_keys(raw: pl.DataFrame, blended: bool, options: Options) -> pl.DataFrame:
    """Keys whose SKU's own model did better than their alternative, at the origins of `raw`."""
    own = _by_rung(raw, STATISTICAL, options)
    if own.is_empty() or options.estimator != AUTO:
        return empty_keys()
    theirs = _by_rung(raw, BLEND if blended else POOLED, options)
    keys = contest.better_keys(theirs, own, options.quantiles) if theirs.height else empty_keys()
    return keys.select(KEY)


def _honest(raws: Mapping[object, pl.DataFrame], has_plan: bool, options: Options) -> pl.DataFrame:
    """The forecast of each row of each origin, calibrated and with its rung chosen by the errors at the other origins."""
    parts = []
    for origin, rows in raws.items():
        rest = [other for name, other in raws.items() if name != origin] or [rows.clear()]
        parts.append(judged_by(pl.concat(rest), rows, has_plan, options).with_columns(TEXT))
    return pl.concat(parts) if parts else pl.DataFrame()


def judged_by(rest: pl.DataFrame, rows: pl.DataFrame, has_plan: bool, options: Options) -> pl.DataFrame:
    """`rows`, forecasts of one origin, calibrated and with their rungs chosen by the errors in `rest`, of others.

    Errors of the weeks that are judged do not count, whatever origin they were made at.
    """
    rest = _only(rest, ~pl.col("week").is_in(rows["week"].unique().implode()))
    values = conformal.calibrated(_values(rows, options), rows, _offsets(rest, options), GROUPS)
    forecasts = _in_units(rows, values, options)
    model_rungs = [*RUNGS, *contest.MEMBERS, *contest.PLANNED]
    answers = forecasts.filter(~pl.col("rung").is_in(model_rungs))
    if not has_plan:
        choice = forecasts.join(_unplanned(rest, options), on=["kind", "rung"], how="semi")
        return pl.concat([choice, answers])
    blended = _blended(rest, options)
    keys = forecasts.select(KEY).unique()
    keys = keys if options.estimator == STATISTICAL else _own_keys(rest, blended, options)
    own_keys = keys.cast(forecasts.select(KEY).schema).with_columns(pl.lit(STATISTICAL).alias("rung"))
    rungs = [BLEND] * blended + [POOLED, NO_PLAN]
    parts = [
        forecasts.join(_planned(rest, blended, options), on=["kind", "rung"], how="semi"),
        forecasts.join(own_keys, on=[*KEY, "rung"], how="semi"),
        *[forecasts.filter(rung=rung) for rung in rungs],
        answers,
    ]
    # the first rung that a row has is its rung
    return pl.concat(parts).unique([*KEY, "origin", "week"], keep="first", maintain_order=True)


def assembled(forecasts: pl.DataFrame, short: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The backtest to publish: the calibrated rows, and those that the ladder answers with zero."""
    columns = [*measuring.COLUMNS, *options.columns, "rung", "kind", *measuring.NAIVES]
    zeros = short.filter(pl.col("level") <= 0) if short.height else short
    parts = [part.select(columns) for part in (forecasts, zeros) if part.height]
    if parts:
        return pl.concat(parts).sort("origin", *KEY, "week")
    text = dict.fromkeys(("sku", "store", "rung", "kind"), pl.String)
    types = text | {"origin": pl.Date, "week": pl.Date, "step": pl.Int32}
    return pl.DataFrame(schema={name: types.get(name, pl.Float64) for name in columns})


def _about_weeks(weeks: pl.DataFrame | None) -> list[str]:
    """Notes on oddities in the weeks of the history; `weeks` is that part of all shards.

    How many are out of stock, missing (above `MISSING_SHARE`) or implausible.
    """
    if weeks is None:
        return []
    notes = []
    sold_out = int(weeks["out_of_stock"].sum()) if "out_of_stock" in weeks.columns else 0
    if sold_out:
        notes.append(
            f"Weeks with {IN_STOCK} below {ENOUGH_STOCK} count as unknown, because less was sold than demanded: "
            f"{sold_out:,}."
        )
    share = (int(weeks["missing"].sum()) - sold_out) / max(int(weeks["weeks"].sum()), 1)
    if share > MISSING_SHARE:
        notes.append(
            f"{share:.0%} of the weeks between the first and the last row of a SKU in a store have no row. They count "
            "as unknown, not as weeks without sales: forecasts are of the weeks that have a row. If nothing was sold "
            "in those weeks, add rows with 0 units for them and ingest again."
        )
    if implausible := weeks["implausible"].sum():
        notes.append(
            f"Single weeks with more than {IMPLAUSIBLE:.0f} times the units of any week before them count as that "
            f"highest week before: {implausible:,}. (The first weeks of a SKU in a store are judged by each other; "
            f"negative ones count as zero.) Correct them in the source if they are typing errors."
        )
    return notes


def _notes(
    train: pl.LazyFrame | None, backtest: pl.DataFrame, model: Model, as_of: date, options: Options
) -> list[str]:
    notes = []
    origins = backtest["origin"].n_unique()
    full_count = len(options.backtest_origins(as_of))
    if origins < full_count:
        notes.append(
            f"The backtest has {origins} of {full_count} origins: the history before {as_of} does not reach back further."
        )
    if origins == 1:
        notes.append("With one origin the backtest is not calibrated; the bundle is.")
    if origins == 0:
        notes.append("The bundle is not calibrated: the history is too short to hold any of it out.")
    if model.without_plan is None:
        notes.append(
            f"{_height(train)} rows to learn from are too few for the pooled model; {LEAST_ROWS} are needed."
        )
    if model.blended:
        notes.append("Planned weeks are forecast by the mean of the pooled and the SKU's own model.")
    if model.own_keys.height:
        notes.append(f"{model.own_keys.height:,} keys are forecast by their SKU's own model.")
    return notes + _beside_naive(backtest, model, options)


def _beside_naive(backtest: pl.DataFrame, model: Model, options: Options) -> list[str]:
    """Notes on kinds of demand that use a naive forecast, and on where the backtest is worse than one; with both WAPEs."""
    choices = pl.concat([model.unplanned.filter(pl.col("rung").is_in(contest.NAIVE)), model.planned])
    names = {contest.LAST_WEEK: "last week's units", contest.LAST_YEAR: "the same week of last year"}
    names[contest.SEASON] = "last year's weeks at this year's level"
    notes = []
    for kind, rows in [("all", backtest), *((k, backtest.filter(kind=k)) for k in choices["kind"])]:
        wapes = rows.select(
            ours=metrics.wape("units", measuring.middle_column(options)),
            **{name: metrics.wape("units", name) for name in measuring.NAIVES},
        ).row(0, named=True)
        if any(value is None for value in wapes.values()):
            continue
        ours = wapes.pop("ours")
        name = min(wapes, key=lambda naive: wapes[naive])
        if kind != "all":
            rung = choices.filter(kind=kind)["rung"].item()
            naive = contest.naive_of(rung)
            what = names[naive] if rung == naive else f"the mean of the models and {names[naive]}"
            notes.append(
                f"Keys with {kind} demand are forecast by {what} (rung {rung}), which did best in the "
                f"backtest: WAPE of the naive forecast {wapes.get(naive, wapes[name]):.1%}, of what is published {ours:.1%}."
            )
        elif wapes[name] < ours:
            notes.append(
                f"The backtest is worse than a naive forecast: WAPE {ours:.1%}, of {names[name]} "
                f"({name.replace('_', ' ')}) {wapes[name]:.1%}."
            )
    return notes
