"""Forecasts from the backtest's origins by every candidate, before calibration: rows of `of_origin`."""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from models.sales import backtest, contest, ensembles, pooled
from models.sales.contest import BLEND, NO_PLAN, POOLED, STATISTICAL
from models.sales.demand import from_log, to_log
from models.sales.model import log_values, steps
from models.sales.options import Options, middle_of
from models.sales.panel import KEY
from models.sales.preparation import FEATURE

SHORT, TEXT = pl.col(KEY).cast(pl.Categorical), pl.col(KEY).cast(pl.String)
"""Keys as categories, while forecasts are compared, and as text."""
BACKTEST, IMITATED = "backtest", "imitated"
OWN = {BACKTEST: "statistical_backtest", IMITATED: "imitated_statistical"}
"""Parts with rows of real and of imitated series, and those with the forecasts of the SKUs' own models."""
ABOUT = (*KEY, "origin", "week", "step", "units", "level", "kind", "whole", *backtest.NAIVES, "last_year")


def of_origins(
    train: pl.LazyFrame | None,
    parts: Mapping[str, pl.DataFrame | pl.LazyFrame],
    learn: Callable[[pl.LazyFrame | None], Mapping[str, pooled.Pooled]],
    options: Options,
) -> dict[object, pl.DataFrame]:
    """Forecasts from each origin by each rung before calibration, of real and of imitated series; see `of_origin`.

    `parts` are those of `preparation` and `imitation`. Only the features of one origin are in memory at a time.
    """
    if BACKTEST not in parts:
        return {}
    raws: dict[object, pl.DataFrame] = {}
    for origin in parts[BACKTEST].lazy().select(pl.col("origin").unique().sort()).collect()["origin"]:
        models = learn(None if train is None else train.filter(pl.col("week") <= origin))
        at_origin = {
            name: parts[name].lazy().filter(pl.col("origin") == origin).collect().with_columns(SHORT)
            for names in OWN.items()
            for name in names
            if name in parts
        }
        raws[origin] = pl.concat(
            of_origin(
                models,
                at_origin[name].sort(*KEY, "week"),
                at_origin.get(own),
                options,
                imitated=name == IMITATED,
            )
            for name, own in OWN.items()
            if name in at_origin and at_origin[name].height
        )
    return {origin: raw for origin, raw in raws.items() if raw.height}


def of_origin(
    models: Mapping[str, pooled.Pooled],
    rows: pl.DataFrame,
    own: pl.DataFrame | None,
    options: Options,
    *,
    imitated: bool = False,
) -> pl.DataFrame:
    """Forecasts from one origin by each rung before calibration: `ABOUT`, rung, `imitated`, and `v<i>` on the log scale.

    `models` are ensembles that know nothing after the origin, `own` the forecasts of the SKUs' own models. `rows` are in
    the order of key and week. All rungs that forecast all of them share their columns in memory.
    """
    names = [name.removeprefix(FEATURE) for name in rows.columns if name.startswith(FEATURE)]
    frames = []
    for rung, ensemble in models.items():
        part = only(rows, pl.col("planned")) if rung == POOLED else rows
        if part.height:
            values = log_values(ensemble, ensembles.matrix(part, names), names, options.threads)
            frames.append(_with_values(part, rung, values))
    if own is not None:
        quantiles = list(options.columns)
        on = [*KEY, "origin", "week"]
        own_rows = rows.select(*ABOUT, "planned").join(
            own.select(*on, *quantiles), on=on, maintain_order="left"
        )
        values = to_log(own_rows.select(quantiles).to_numpy(), own_rows["level"].to_numpy()[:, None])
        frames.append(_with_values(own_rows, STATISTICAL, values))
        if own_rows["planned"].any():
            frames.append(_raw_blend(pl.concat(frames), options))
    if frames and rows["planned"].any():
        frames += _candidates(rows, pl.concat(frames), options, has_plan=True)
    elif frames:
        frames = _candidates(rows, pl.concat(frames), options, has_plan=False)
    about = (steps(options.horizon), pl.lit(imitated).alias("imitated"))
    return pl.concat(frames).with_columns(about) if frames else pl.DataFrame()


def _candidates(
    rows: pl.DataFrame, raw: pl.DataFrame, options: Options, *, has_plan: bool
) -> list[pl.DataFrame]:
    """The rows of each candidate of `contest`, from `raw`, the rows of the two models."""
    on = [*KEY, "origin", "week"]
    ensemble = POOLED if has_plan else NO_PLAN
    names = [f"v{i}" for i in range(len(options.quantiles))]

    def of(rung: str) -> np.ndarray:
        values = raw.filter(rung=rung).select(*on, *names)
        return rows.select(on).join(values, on=on, how="left", maintain_order="left").select(names).to_numpy()

    middle = middle_of(options.quantiles)
    every = contest.candidates(of(ensemble), of(STATISTICAL), rows, middle, has_plan=has_plan)
    return [
        only(_with_values(rows, name, values), pl.col("v0").is_finite()) for name, values in every.items()
    ]


def _raw_blend(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The blend of the rows that have a forecast by both models, with the columns of `of_origin`."""
    on = [*KEY, "origin", "week"]
    pooled_rows, own = raw.filter(rung=POOLED), raw.filter(rung=STATISTICAL)
    both = pooled_rows.join(own.select(on), on=on, how="semi").sort(on)
    own = own.join(both.select(on), on=on, how="semi").sort(on)
    return _with_values(
        both, BLEND, contest.mean_of([log_quantiles(both, options), log_quantiles(own, options)])
    )


def of_ladder(answers: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The ladder's answers, with the columns of `of_origin`."""
    level = answers["level"].to_numpy()[:, None]
    values = to_log(answers.select(options.columns).to_numpy(), level)
    about = (steps(options.horizon), pl.lit(value=False).alias("imitated"))
    return answers.select(*ABOUT, "rung", *_columns(values), *about)


def only(rows: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """The rows that meet a condition; `rows` itself, not a copy, if all do."""
    return rows if rows.select(condition.all()).item() else rows.filter(condition)


def _with_values(rows: pl.DataFrame, rung: str, values: np.ndarray) -> pl.DataFrame:
    return rows.select(*ABOUT, pl.lit(rung).alias("rung"), *_columns(values))


def _columns(values: np.ndarray) -> list[pl.Series]:
    return [pl.Series(f"v{i}", values[:, i]) for i in range(values.shape[1])]


def log_quantiles(raw: pl.DataFrame, options: Options) -> np.ndarray:
    """The quantiles of `raw` on the log scale, of shape (rows, quantiles)."""
    return raw.select([f"v{i}" for i in range(len(options.quantiles))]).to_numpy()


def with_units(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The rows of `raw` with their quantiles in units."""
    return in_units(raw, log_quantiles(raw, options), options)


def in_units(raw: pl.DataFrame, values: np.ndarray, options: Options) -> pl.DataFrame:
    """The rows of `raw` with `values`, quantiles on the log scale, in units."""
    units = from_log(values, raw["level"].to_numpy()[:, None])
    columns = [pl.Series(name, units[:, i]) for i, name in enumerate(options.columns)]
    return raw.select(*ABOUT, "rung", *columns)
