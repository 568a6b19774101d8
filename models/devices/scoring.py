"""Scoring an hour: the rows of all requested sensors in one pass over the columns of the model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import (
    channels,
    conversion,
    discrete,
    joint,
    left_out,
    new_normal,
    pooled,
    presence,
    robust,
)
from models.devices.calibration import Tails, corrected, uncorrected
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.detectors import DETECTORS
from models.devices.grid import LOOKBACK, Floats, Grid, panel_of, with_timezone
from models.devices.model import DISCRETE_RUNGS, ROBUST_RUNGS, RUNGS, Model
from models.devices.options import HIGHEST_ALPHA, Options
from models.devices.pace import at_pace, by_pace, ceiling, floor
from models.scenario import Scores

HOUR = timedelta(hours=1)
CAUSES = (*channels.CHANNELS, "missing", "joint")
_FLAT_LENGTH = 5
SCORES: dict[str, Any] = {
    "device": pl.String,
    "tag": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "value": pl.Float64,
    "score": pl.Float64,
    "p_value": pl.Float64,
    "is_anomaly": pl.Boolean,
    "rung": pl.String,
    "cause": pl.String,
    "expected": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "normal_since": pl.Datetime("us", "UTC"),
}
"""The rows that scoring publishes.

`score`: higher is more anomalous, comparable between rows of one sensor and rung. `cause`: what it is
that is the most unusual. `expected`, and the band from `low` to `high` that a reading by itself leaves
with a chance of about alpha. A missing reading has a row where it is unusual; its `value` is null. The
joint detector of a device has the tag `*`; its `value` is the Mahalanobis distance of the tags. `normal_since`: where
readings since then are taken for normal, too (`models.devices.new_normal`), else null.
"""


def as_scores(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Published rows with the columns `SCORES`; what an earlier version did not publish is null."""
    known = rows.collect_schema().names()
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in SCORES.items() if name not in known]
    return rows.with_columns(lacking).select(list(SCORES))


@dataclass
class _Block:
    """What is known of the cells of some sensors in the hour; arrays of shape (S, columns), to be filled in."""

    grid: Grid
    received: NDArray[np.bool_]
    """Whether there is a reading, over all of the grid; that of a counter may have no value."""
    rung: NDArray[np.int8]
    score: Floats
    p_value: Floats
    cause: NDArray[np.int8]
    expected: Floats
    low: Floats
    high: Floats
    units: Floats
    """Distances from what is expected in the sensor's scale, over all of the grid; NaN without one."""

    @classmethod
    def of(cls, grid: Grid, first: int, received: NDArray[np.bool_]) -> "_Block":
        """Nothing known yet of the columns of `grid` from `first` on."""
        keys, columns = grid.keys.height, grid.intervals - first
        score, p_value, expected, low, high = (np.full((keys, columns), np.nan) for _ in range(5))
        return cls(
            grid=grid,
            received=received,
            rung=np.full(keys, RUNGS.index("none"), np.int8),
            score=score,
            p_value=p_value,
            cause=np.full((keys, columns), -1, np.int8),
            expected=expected,
            low=low,
            high=high,
            units=np.full_like(grid.values, np.nan),
        )


def score(
    model: Model,
    readings: pl.LazyFrame,
    keys: pl.DataFrame,
    as_of: datetime,
    options: Options,
    faults: pl.DataFrame | None = None,
) -> Scores:
    """Rows (see `SCORES`) and outcomes of `keys` for the hour that ends at `as_of`.

    Looks at the readings of that hour and of `LOOKBACK` intervals before it, and at none after; of sensors that
    may have stayed different, at those of the hold as well (`models.devices.new_normal`), without labelled
    `faults` (device, tag, start, end). The joint detector of a device looks at all of its tags, requested or not.
    """

    def scorer(by: Model, some: pl.DataFrame, first: datetime, until: datetime) -> Scores:
        return score_span(by, readings, some, first, until, options)

    first, known = as_of - HOUR, pl.DataFrame() if faults is None else faults
    found = []
    for pace, some in by_pace(model.frames, keys):
        scores = scorer(model, some, first, as_of)
        found.append(new_normal.relearnt(scores, readings, known, first, as_of, options, scorer, model, pace))
    return _together(found)


def score_span(
    model: Model,
    readings: pl.LazyFrame,
    keys: pl.DataFrame,
    first: datetime,
    until: datetime,
    options: Options,
) -> Scores:
    """As `score`, for the intervals from `first` up to, not including, `until`."""
    devices = keys.select("device").unique().sort("device")
    near = model.within(devices)
    found: list[Scores] = []
    for pace, some in by_pace(near.frames, keys):
        found += _at_pace(near, readings, some, first, until, options, pace)
    return _together(found)


def _together(found: list[Scores]) -> Scores:
    rows = pl.concat([pl.DataFrame(schema=SCORES), *(one.rows for one in found)])
    return Scores(
        rows.sort(*KEY, "time"), pl.concat([_no_outcomes(), *(one.keys for one in found)]).sort(*KEY)
    )


def _at_pace(
    model: Model,
    readings: pl.LazyFrame,
    keys: pl.DataFrame,
    first: datetime,
    until: datetime,
    options: Options,
    pace: int,
) -> Iterator[Scores]:
    """Scores of keys whose detectors take `pace` intervals as one. A row has the time of the last reading in it."""
    step = pace * options.step
    start = floor(first, step) - LOOKBACK * step
    recent = readings.filter(pl.col("time") >= start, pl.col("time") < until)
    recent = recent.join(keys.lazy().select("device").unique(), on="device", how="semi")
    paced = recent if pace == 1 else at_pace(recent, step).collect().lazy()
    sensors = with_timezone(_sensors(model, keys), model.frames["sensors"], options.timezone)
    panel = panel_of(paced, sensors, start, ceiling(until, step), step)
    for grid in panel.grids(options.cells):
        devices = grid.keys.select("device").unique()
        wanted = keys.join(devices, on="device", how="semi")
        rows, outcomes = _score_grid(model.within(devices), grid, wanted, options)
        if pace > 1:
            rows = _at_last_readings(rows, paced.collect()).filter(pl.col("time") >= first)
        yield Scores(rows, outcomes)


def _at_last_readings(rows: pl.DataFrame, paced: pl.DataFrame) -> pl.DataFrame:
    ends = paced.select(*KEY, "time", "last")
    both = rows.join(ends, on=[*KEY, "time"], how="left", maintain_order="left")
    return both.with_columns(pl.coalesce("last", "time").alias("time")).drop("last")


def _no_outcomes() -> pl.DataFrame:
    return pl.DataFrame(schema=[(c, pl.String) for c in (*KEY, "status", "rung", "reason")])


def _sensors(model: Model, keys: pl.DataFrame) -> pl.DataFrame:
    """Sensors whose readings are needed: the requested ones, and all that the joint detectors look at."""
    wanted = [keys.select(*KEY).filter(pl.col("tag") != JOINT_TAG)]
    together = keys.filter(pl.col("tag") == JOINT_TAG).select("device")
    if "joint" in model.frames:
        tags = model.frames["joint"].join(together, on="device", how="semi")
        wanted.append(tags.select("device", pl.col("tags").alias("tag")).explode("tag"))
    devices_only = together.join(pl.concat(wanted), on="device", how="anti")
    wanted.append(devices_only.select("device", pl.lit(JOINT_TAG).alias("tag")))
    return pl.concat(wanted).unique()


def _score_grid(
    model: Model, grid: Grid, wanted: pl.DataFrame, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame]:
    grid = _without_sentinels(model, grid)
    received = ~np.isnan(grid.values)
    grid = conversion.converted(grid, conversion.taken_in(model.frames["sensors"], grid.keys))
    block = _Block.of(grid, LOOKBACK, received)
    known = model.rungs(grid.keys)
    _score_varying(model, block, known["rung"], options)
    _score_discrete(model, block, known["rung"])
    _score_pooled(model, block, known["rung"], options)
    _score_missing(model, block, known["rung"])
    rows = _rows(block, options)
    together, outcome = _joint_rows(model, block, wanted, options)
    rows = pl.concat([rows.join(wanted, on=list(KEY), how="semi"), together])
    sensors = wanted.filter(pl.col("tag") != JOINT_TAG)
    sensors = _outcomes(model, block, known, options).join(sensors, on=list(KEY), how="semi")
    return rows, pl.concat([sensors, outcome])


def _without_sentinels(model: Model, grid: Grid) -> Grid:
    """The grid without the values that training found to stand for no reading."""
    if "sentinels" not in model.frames["sensors"].columns:
        return grid
    known = model.rows("sensors", grid.keys)["sentinels"]
    return left_out.without(grid, [list(codes) if codes is not None else [] for codes in known])


def _where(rung: pl.Series, names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.flatnonzero(rung.is_in(names).fill_null(False).to_numpy())


def _score_varying(model: Model, block: _Block, rung: pl.Series, options: Options) -> None:
    """Sensors whose values vary: the score of their own detector, and what the robust one expects."""
    at = _where(rung, (*ROBUST_RUNGS, *DETECTORS))
    if not len(at):
        return
    grid, fitted, expected = _measure(model, block, at)
    block.expected[at] = expected[:, LOOKBACK:]
    tails = Tails.of(model.rows("calibration", grid.keys))
    found, cause = channels.distances(grid.values, expected, fitted.scales, LOOKBACK)
    names = rung.gather(at)
    width = np.full(len(at), NormalDist().inv_cdf(1 - options.alpha / 2))
    for name, detector in DETECTORS.items():
        rows = _where(names, (name,))
        if len(rows):
            part = grid.take(rows)
            found[rows] = detector.score(model.rows(name, part.keys), part, LOOKBACK)
            cause[rows] = np.where(np.isnan(found[rows]), -1, 0)
    p = tails.p_values(found)
    for name in names.unique():
        rows, correction = _where(names, (name,)), model.correction(name)
        p[rows] = corrected(p[rows], correction)
        if name in ROBUST_RUNGS:
            width[rows] = tails.scores_at(uncorrected(options.alpha, correction))[rows]
    block.score[at], block.p_value[at], block.cause[at] = found, p, cause
    band = (width * fitted.scales.scale)[:, None]
    block.low[at], block.high[at] = block.expected[at] - band, block.expected[at] + band
    block.rung[at] = _numbers(names)


def _measure(model: Model, block: _Block, at: NDArray[np.int64]) -> tuple[Grid, robust.Fitted, Floats]:
    """The sensors at `at`, their robust detectors and what these expect; fills in their `units`."""
    grid = block.grid.take(at)
    fitted = robust.Fitted.of(model.rows("robust", grid.keys))
    expected = robust.expected_of(grid, grid.values, fitted.baseline, fitted.profile)
    block.units[at] = (grid.values - expected) / fitted.scales.scale[:, None]
    return grid, fitted, expected


def _numbers(rungs: pl.Series) -> NDArray[np.int8]:
    return rungs.replace_strict(list(RUNGS), list(range(len(RUNGS))), return_dtype=pl.Int8).to_numpy()


def _score_discrete(model: Model, block: _Block, rung: pl.Series) -> None:
    """Sensors with few values; of coarse ones, what the joint detectors look at."""
    at = _where(rung, DISCRETE_RUNGS)
    if not len(at):
        return
    grid = block.grid.take(at)
    params = model.rows("discrete", grid.keys)
    block.score[at], block.p_value[at], block.cause[at] = discrete.score(params, grid, LOOKBACK)
    for name, column in (("expected", "usual"), ("low", "low"), ("high", "high")):
        getattr(block, name)[at] = params[column].to_numpy()[:, None]
    block.rung[at] = _numbers(rung.gather(at))
    if "robust" in model.frames:
        keys = grid.keys.with_columns(at=pl.Series(at))
        coarse = keys.join(model.frames["robust"], on=list(KEY), how="semi", maintain_order="left")
        _measure(model, block, coarse["at"].to_numpy())


def _score_pooled(model: Model, block: _Block, rung: pl.Series, options: Options) -> None:
    """Sensors without a detector of their own, where others have the same tag."""
    if "pooled" not in model.frames:
        return
    without = np.flatnonzero((rung.is_null() | (rung == "none")).to_numpy())
    params = block.grid.keys[without].join(
        model.frames["pooled"], on="tag", how="left", maintain_order="left"
    )
    some = params["center"].is_not_null().to_numpy()
    at, params = without[some], params.filter(pl.Series(some))
    if not len(at):
        return
    block.score[at], block.p_value[at] = pooled.score(params, block.grid.take(at), LOOKBACK)
    block.cause[at] = np.where(np.isnan(block.score[at]), -1, 0)
    center, scale = params["center"].to_numpy()[:, None], params["scale"].to_numpy()[:, None]
    band = NormalDist().inv_cdf(1 - options.alpha / 2) * scale
    block.expected[at], block.low[at], block.high[at] = center, center - band, center + band
    block.rung[at] = RUNGS.index("pooled")


def _score_missing(model: Model, block: _Block, rung: pl.Series) -> None:
    """Missing readings of sensors that the training knows, where they are unusual."""
    at = np.flatnonzero(rung.is_not_null().to_numpy())
    if not len(at):
        return
    some = block.grid.take(at)
    grid = replace(some, values=np.where(block.received[at], 0.0, np.nan))
    p = presence.gap_p_values(model.rows("sensors", grid.keys), grid, LOOKBACK)
    row, column = np.nonzero(p <= HIGHEST_ALPHA)
    block.p_value[at[row], column] = p[row, column]
    block.score[at[row], column] = np.sqrt(-2 * np.log(p[row, column]))
    block.cause[at[row], column] = CAUSES.index("missing")


def _rows(block: _Block, options: Options) -> pl.DataFrame:
    """The rows of a block: one for each reading, and for each missing reading that is unusual."""
    value = block.grid.values[:, LOOKBACK:]
    absent = np.isnan(value)
    missing = block.cause == CAUSES.index("missing")
    row, column = np.nonzero(~absent | missing)
    rung = np.where(missing[row, column], RUNGS.index("missing"), block.rung[row])
    columns = {"value": value, "score": block.score, "p_value": block.p_value}
    bands = {"expected": block.expected, "low": block.low, "high": block.high}
    cause = block.cause[row, column]
    return pl.DataFrame(
        [
            *(block.grid.keys[c].gather(row).alias(c) for c in KEY),
            block.grid.times.gather(column + LOOKBACK),
            *(pl.Series(name, a[row, column], nan_to_null=True) for name, a in columns.items()),
            pl.Series("rung", RUNGS, dtype=pl.String).gather(rung),
            pl.Series("cause", [*CAUSES, None], dtype=pl.String).gather(
                np.where(cause < 0, len(CAUSES), cause)
            ),
            *(pl.Series(name, a[row, column], nan_to_null=True) for name, a in bands.items()),
        ]
    ).select(_with_verdict(options))


def _with_verdict(options: Options) -> list[pl.Expr]:
    verdict = (pl.col("p_value") <= options.alpha).fill_null(False).alias("is_anomaly")
    own = {"is_anomaly": verdict, "normal_since": pl.lit(None, SCORES["normal_since"]).alias("normal_since")}
    return [own[name] if name in own else pl.col(name).cast(dtype) for name, dtype in SCORES.items()]


def _joint_rows(
    model: Model, block: _Block, wanted: pl.DataFrame, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and outcomes of the requested joint detectors."""
    keys = wanted.filter(pl.col("tag") == JOINT_TAG).sort("device")
    params = pl.DataFrame(schema=joint.SCHEMA)
    if "joint" in model.frames:
        params = model.frames["joint"].join(keys, on="device", how="semi").sort("device")
    found, distance = joint.score(params, block.units, block.grid.keys, LOOKBACK)
    own = joint.keys_of(params)
    p = found
    if params.height:
        p = corrected(Tails.of(model.rows("calibration", own)).p_values(found), model.correction("joint"))
    row, column = np.nonzero(~np.isnan(found))
    nothing = pl.lit(None, pl.Float64)
    rows = pl.DataFrame(
        [
            *(own[c].gather(row).alias(c) for c in KEY),
            block.grid.times.gather(column + LOOKBACK),
            pl.Series("value", distance[row, column]),
            pl.Series("score", found[row, column]),
            pl.Series("p_value", p[row, column], nan_to_null=True),
        ]
    ).with_columns(rung=pl.lit("joint"), cause=pl.lit("joint"), expected=nothing, low=nothing, high=nothing)
    scored = own.with_columns(pl.Series("rows", (~np.isnan(found)).sum(axis=1), dtype=pl.Int64))
    return rows.select(_with_verdict(options)), _joint_outcomes(keys, scored)


def _joint_outcomes(keys: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    rows = pl.col("rows")
    return keys.join(scored, on=list(KEY), how="left", maintain_order="left").select(
        *KEY,
        pl.when(rows > 0).then(pl.lit("scored")).otherwise(pl.lit("skipped")).alias("status"),
        pl.when(rows > 0).then(pl.lit("joint")).alias("rung"),
        pl.when(rows.is_null())
        .then(pl.lit("fewer than two sensors with a detector for varying values"))
        .when(rows == 0)
        .then(pl.lit("fewer than two sensors with readings at the same time"))
        .alias("reason"),
    )


def _outcomes(model: Model, block: _Block, known: pl.DataFrame, options: Options) -> pl.DataFrame:
    """One row per sensor of the block: status, rung and reason; silent and flat sensors are findings."""
    values = block.grid.values
    count = block.received[:, LOOKBACK:].sum(axis=1)
    alarmed = (block.cause == CAUSES.index("missing")).any(axis=1)
    length, chance = np.zeros(len(values), np.int16), np.full(len(values), np.nan)
    at = np.flatnonzero(known["rung"].is_not_null().to_numpy())
    if len(at):
        grid = block.grid.take(at)
        length[at], chance[at] = presence.last_runs(model.rows("sensors", grid.keys), grid)
    varies = ~known["rung"].is_in(DISCRETE_RUNGS[:1]).fill_null(False).to_numpy()
    flat = (chance <= options.alpha) & (length >= _FLAT_LENGTH) & varies & (count > 0)
    rung = pl.Series(RUNGS, dtype=pl.String).gather(block.rung)
    frame = known.with_columns(
        pl.Series("count", count),
        pl.Series("alarmed", alarmed),
        pl.Series("flat", flat),
        pl.Series("run", length),
        rung.alias("own"),
    )
    return frame.select(*KEY, _status(), _rung_shown(), _reason())


_OWN = ~pl.col("own").is_in(["pooled", "none"])


def _status() -> pl.Expr:
    return (
        pl.when((pl.col("count") == 0) & ~pl.col("alarmed"))
        .then(pl.lit("skipped"))
        .when(_OWN)
        .then(pl.lit("scored"))
        .otherwise(pl.lit("fallback"))
        .alias("status")
    )


def _rung_shown() -> pl.Expr:
    nothing = (pl.col("count") == 0) & ~pl.col("alarmed")
    return pl.when(~nothing).then("own").alias("rung")


def _reason() -> pl.Expr:
    last = pl.col("last").dt.strftime("%Y-%m-%d %H:%M")
    few = pl.format("too few readings in the history for a detector of its own: {}", "readings")
    silent = pl.format("silent: no reading in the hour; the last one that training saw is of {}", last)
    return (
        pl.when(pl.col("count") == 0, pl.col("alarmed"))
        .then(silent)
        .when(pl.col("count") == 0)
        .then(pl.lit("no reading in the hour, which is not unusual for it"))
        .when(pl.col("flat"))
        .then(pl.format("flat: the same value in the last {} readings or more", "run"))
        .when(~_OWN, pl.col("readings").is_null())
        .then(pl.lit("new: not known at training"))
        .when(~_OWN)
        .then(few)
        .alias("reason")
    )
