"""Choices based on the errors at the backtest's origins: the calibration, and which rung forecasts which rows.

The errors are those of rows of `raw_forecasts.of_origin`.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from models.sales import conformal, contest, ladder
from models.sales.contest import BLEND, NO_PLAN, POOLED, STATISTICAL
from models.sales.demand import NEW, to_log, whole_numbers
from models.sales.model import CLUSTER, GROUPS, LARGEST_OFFSET, empty_keys
from models.sales.options import AUTO, Options, middle_of
from models.sales.panel import KEY
from models.sales.raw_forecasts import TEXT, in_units, log_quantiles, only, with_units

STEADY_ORIGINS = 4.0
"""Origins with zero error that are mixed into the offset of the median, which shifts all quantiles.

All keys share the season of an origin, so that a few origins say less about the median than about the spread."""


def of_errors(raw: pl.DataFrame, has_plan: bool, options: Options) -> dict[str, Any]:
    """The fields of the model that depend on the errors at all origins: calibration, and which rung forecasts what.

    Imitated series count for the calibration of new ones, but choose no rung.
    """
    real = _real(raw)
    is_blended = has_plan and _blended(real, options)
    return {
        "offsets": offsets(raw, options),
        "own_keys": (_own_keys(real, is_blended, options) if has_plan else empty_keys()).with_columns(TEXT),
        "blended": is_blended,
        "unplanned": contest.nothing() if has_plan else _unplanned(real, options),
        "planned": _planned(real, is_blended, options) if has_plan else contest.nothing(),
    }


def _real(raw: pl.DataFrame) -> pl.DataFrame:
    """The rows of series that are not imitated."""
    return only(raw, ~pl.col("imitated")) if raw.height else raw


def _unplanned(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Which candidate forecasts weeks without a plan, by kind of demand; see `contest`."""
    if options.estimator == AUTO:
        replacements = contest.better_than(raw, contest.DEFAULT, contest.MEMBERS, options.quantiles)
        return contest.always(contest.DEFAULT).update(replacements, on="kind")
    return contest.always({POOLED: NO_PLAN, STATISTICAL: STATISTICAL}.get(options.estimator, contest.DEFAULT))


def _planned(raw: pl.DataFrame, is_blended: bool, options: Options) -> pl.DataFrame:
    """Which candidate replaces the models in planned weeks, by kind of demand; see `contest`."""
    if options.estimator != AUTO:
        return contest.nothing()
    usual = BLEND if is_blended else POOLED
    return contest.better_than(raw, usual, contest.PLANNED, options.quantiles)


def _blended(raw: pl.DataFrame, options: Options) -> bool:
    """Whether the blend forecasts planned weeks: unless the pooled model alone does better, see `contest.better_than`."""
    if options.estimator != AUTO or raw.is_empty():
        return options.estimator == BLEND
    both = raw.filter(pl.col("rung").is_in([BLEND, POOLED])).with_columns(kind=pl.lit("any"))
    alone = contest.better_than(both, BLEND, {POOLED: (POOLED,)}, options.quantiles)
    return BLEND in both["rung"] and alone.is_empty()


def _own_keys(raw: pl.DataFrame, is_blended: bool, options: Options) -> pl.DataFrame:
    """Keys whose SKU's own model did better than their alternative, at the origins of `raw`."""
    own = _by_rung(raw, STATISTICAL, options)
    if own.is_empty() or options.estimator != AUTO:
        return empty_keys()
    others = _by_rung(raw, BLEND if is_blended else POOLED, options)
    keys = contest.better_keys(others, own, options.quantiles) if others.height else empty_keys()
    return keys.select(KEY)


def _by_rung(raw: pl.DataFrame, rung: str, options: Options) -> pl.DataFrame:
    """The forecasts of a rung before calibration, in units."""
    rows = raw.filter(rung=rung) if raw.height else raw
    return with_units(rows, options) if rows.height else rows


def offsets(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Calibration from the errors of `raw`; without rows if there are none.

    New series are calibrated with the real and the imitated ones alone, at the rungs that forecast imitated ones.
    """
    if raw.is_empty() or not raw["imitated"].any():
        return _offsets(raw, options)
    rungs = raw.filter("imitated")["rung"].unique().to_list()
    is_new = ((pl.col("kind") == NEW) & pl.col("rung").is_in(rungs)).fill_null(value=False)
    of_others = _offsets(_real(raw), options).filter(~is_new)
    of_new = _offsets(raw.filter(is_new), options).drop_nulls("kind")
    return pl.concat([of_others, of_new], how="diagonal").sort(GROUPS, nulls_last=True)


def _offsets(raw: pl.DataFrame, options: Options) -> pl.DataFrame:
    n = len(options.quantiles)
    if raw.is_empty():
        schema = {"rung": pl.String, "kind": pl.String, "steps": pl.Int32}
        return pl.DataFrame(schema=schema | {f"offset{i}": pl.Float64 for i in range(n)})
    actual = to_log(raw["units"].to_numpy(), raw["level"].to_numpy())
    errors = [pl.Series(f"r{i}", actual - raw[f"v{i}"].to_numpy()) for i in range(n)]
    residuals = raw.select(*GROUPS, *CLUSTER, *errors)
    by_group = conformal.fit_offsets(residuals, options.quantiles, GROUPS, CLUSTER, ladder.RUNGS)
    common = (
        STEADY_ORIGINS / (pl.col("times") + STEADY_ORIGINS) * pl.col(f"offset{middle_of(options.quantiles)}")
    )
    return by_group.with_columns(
        (pl.col(f"offset{i}") - common).clip(upper_bound=LARGEST_OFFSET) for i in range(n)
    )


def forecasts_of_origins(
    raws: Mapping[object, pl.DataFrame], has_plan: bool, options: Options
) -> pl.DataFrame:
    """The forecast of each row of each origin, calibrated and with its rung chosen by the errors at the other origins."""
    parts = []
    for origin, rows in raws.items():
        rest = [other for name, other in raws.items() if name != origin] or [rows.clear()]
        parts.append(forecasts_of_origin(pl.concat(rest), _real(rows), has_plan, options).with_columns(TEXT))
    return pl.concat(parts) if parts else pl.DataFrame()


def forecasts_of_origin(
    rest: pl.DataFrame, rows: pl.DataFrame, has_plan: bool, options: Options
) -> pl.DataFrame:
    """`rows`, forecasts of one origin, calibrated and with their rungs chosen by the errors in `rest`, at other origins.

    Errors in the weeks of `rows` do not count, whatever their origin.
    """
    rest = only(rest, ~pl.col("week").is_in(rows["week"].unique().implode()))
    values = conformal.calibrated(log_quantiles(rows, options), rows, offsets(rest, options), GROUPS)
    forecasts = whole_numbers(in_units(rows, values, options), options.columns)
    real = _real(rest)
    model_rungs = [STATISTICAL, BLEND, POOLED, NO_PLAN, *contest.MEMBERS, *contest.PLANNED]
    answers = forecasts.filter(~pl.col("rung").is_in(model_rungs))
    if not has_plan:
        choice = forecasts.join(_unplanned(real, options), on=["kind", "rung"], how="semi")
        return pl.concat([choice, answers])
    is_blended = _blended(real, options)
    keys = forecasts.select(KEY).unique()
    keys = keys if options.estimator == STATISTICAL else _own_keys(real, is_blended, options)
    own_keys = keys.cast(forecasts.select(KEY).schema).with_columns(pl.lit(STATISTICAL).alias("rung"))
    rungs = [BLEND] * is_blended + [POOLED, NO_PLAN]
    parts = [
        forecasts.join(_planned(real, is_blended, options), on=["kind", "rung"], how="semi"),
        forecasts.join(own_keys, on=[*KEY, "rung"], how="semi"),
        *[forecasts.filter(rung=rung) for rung in rungs],
        answers,
    ]
    # the first rung that a row has is its rung
    return pl.concat(parts).unique([*KEY, "origin", "week"], keep="first", maintain_order=True)
