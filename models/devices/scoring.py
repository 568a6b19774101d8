"""Scoring an hour: the rows of all requested sensors in one pass over the columns of the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import (
    channels,
    conversion,
    discrete,
    joint,
    key_status,
    left_out,
    new_normal,
    pooled,
    presence,
    robust,
)
from models.devices.calibration import Tails, corrected_p_values, p_value_before_correction
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.detectors import DETECTORS
from models.devices.grid import LOOKBACK, Floats, Grid, panel_of, with_timezone
from models.devices.model import DISCRETE_RUNGS, ROBUST_RUNGS, Model
from models.devices.options import HIGHEST_ALPHA, Options
from models.devices.pace import GRIDS, at_pace, by_pace, ceiling, floor, of_devices, portions
from models.devices.rows import CAUSES, SCORES, Block, Part, rows_of, with_verdict
from models.scenario import Scores

HOUR = timedelta(hours=1)


def score(
    model: Model,
    readings: pl.LazyFrame,
    keys: pl.DataFrame,
    as_of: datetime,
    options: Options,
    faults: pl.DataFrame | None = None,
) -> Scores:
    """Rows (see `SCORES`) and outcomes of `keys` for the hour that ends at `as_of`.

    Uses the readings of that hour and of `LOOKBACK` intervals before it, and none after; for sensors that
    may have stayed different, also those of the hold (`models.devices.new_normal`), without labelled
    `faults` (device, tag, start, end). The joint detector of a device uses all of its tags, requested or not.
    """

    def scorer(by: Model, some: pl.DataFrame, first: datetime, until: datetime) -> Scores:
        return score_span(by, readings, some, first, until, options)

    first, labels = as_of - HOUR, pl.DataFrame() if faults is None else faults
    memory = max(1, new_normal.memory_of(options.hold_hours, options.step) // options.step)
    size = min(options.cells // (LOOKBACK + HOUR // options.step), GRIDS * options.cells // memory)
    parts = []
    for portion in portions(keys.sort(*KEY), size):
        for pace, some in by_pace(model.frames, portion):
            scores = scorer(model, some, first, as_of)
            parts.append(
                new_normal.with_new_normal(
                    scores, readings, labels, first, as_of, options, scorer, model, pace
                )
            )
    return _together(parts)


def score_span(
    model: Model,
    readings: pl.LazyFrame,
    keys: pl.DataFrame,
    first: datetime,
    until: datetime,
    options: Options,
) -> Scores:
    """As `score`, for the intervals from `first` (included) to `until` (excluded)."""
    devices = keys.select("device").unique().sort("device")
    near = model.within(devices)
    parts: list[Scores] = []
    for pace, some in by_pace(near.frames, keys):
        parts += _at_pace(near, readings, some, first, until, options, pace)
    return _together(parts)


def _together(parts: list[Scores]) -> Scores:
    rows = pl.concat([pl.DataFrame(schema=SCORES), *(one.rows for one in parts)])
    return Scores(
        rows.sort(*KEY, "time"), pl.concat([key_status.no_keys(), *(one.keys for one in parts)]).sort(*KEY)
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
    """Scores of keys whose detectors treat `pace` intervals as one. A row has the time of its last reading."""
    step = pace * options.step
    start = floor(first, step) - LOOKBACK * step
    recent = of_devices(readings, keys.sort(*KEY)).filter(pl.col("time") >= start, pl.col("time") < until)
    steps = recent if pace == 1 else at_pace(recent, step).collect().lazy()
    sensors = with_timezone(_sensors(model, keys), model.frames["sensors"], options.timezone)
    panel = panel_of(steps, sensors, start, ceiling(until, step), step)
    for grid in panel.grids(options.cells):
        devices = grid.keys.select("device").unique()
        device_keys = keys.join(devices, on="device", how="semi")
        rows, outcomes = _score_grid(model.within(devices), grid, readings, device_keys, options)
        if pace > 1:
            rows = _at_last_readings(rows, steps.collect()).filter(pl.col("time") >= first)
        yield Scores(rows, outcomes)


def _at_last_readings(rows: pl.DataFrame, steps: pl.DataFrame) -> pl.DataFrame:
    ends = steps.select(*KEY, "time", "last")
    both = rows.join(ends, on=[*KEY, "time"], how="left", maintain_order="left")
    return both.with_columns(pl.coalesce("last", "time").alias("time")).drop("last")


def _sensors(model: Model, keys: pl.DataFrame) -> pl.DataFrame:
    """Sensors whose readings are needed: the requested ones, and all that the joint detectors use."""
    frames = [keys.select(*KEY).filter(pl.col("tag") != JOINT_TAG)]
    together = keys.filter(pl.col("tag") == JOINT_TAG).select("device")
    if "joint" in model.frames:
        tags = model.frames["joint"].join(together, on="device", how="semi")
        frames.append(tags.select("device", pl.col("tags").alias("tag")).explode("tag"))
    devices_only = together.join(pl.concat(frames), on="device", how="anti")
    frames.append(devices_only.select("device", pl.lit(JOINT_TAG).alias("tag")))
    return pl.concat(frames).unique()


def _score_grid(
    model: Model, grid: Grid, readings: pl.LazyFrame, keys: pl.DataFrame, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame]:
    raw = _without_sentinels(model, grid)
    grid = conversion.converted(raw, conversion.taken_in(model.frames["sensors"], grid.keys))
    rungs = model.rungs(grid.keys)
    measured = _measured(model, grid)
    parts = _parts(model, grid, raw, rungs["rung"], measured, options)
    block = Block.of(grid, raw, parts, _p_of_missing(model, raw, rungs["rung"], readings))
    own, together, outcome = _joint_rows(model, grid, measured, keys, options)
    rows = rows_of(block, options).join(keys, on=list(KEY), how="semi", maintain_order="left")
    rows = _in_order([(grid.keys, rows), (own, together)])
    sensors = keys.filter(pl.col("tag") != JOINT_TAG)
    sensors = key_status.of_sensors(model, block, rungs, options).join(sensors, on=list(KEY), how="semi")
    return rows, pl.concat([sensors, outcome])


def _in_order(parts: list[tuple[pl.DataFrame, pl.DataFrame]]) -> pl.DataFrame:
    """The rows of all parts (keys and their rows, see `rows_of`) by key, in their order: sorting numbers is fast."""
    order = pl.concat([keys.select(KEY) for keys, _ in parts]).with_row_index("row").sort(*KEY)["row"]
    place, first, frames = np.argsort(order.to_numpy()), 0, []
    for keys, rows in parts:
        frames.append(rows.with_columns(pl.Series("row", place[first + rows["row"].to_numpy()])))
        first += keys.height
    return pl.concat(frames).sort("row", maintain_order=True).drop("row")


def _without_sentinels(model: Model, grid: Grid) -> Grid:
    """The grid without the sentinels that the training identified."""
    if "sentinels" not in model.frames["sensors"].columns:
        return grid
    sentinels = model.rows("sensors", grid.keys)["sentinels"]
    return left_out.without(grid, [codes or [] for codes in sentinels.to_list()])


def _where(rung: pl.Series, names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.flatnonzero(rung.is_in(names).fill_null(False).to_numpy())


@dataclass(frozen=True)
class _Measured:
    """The sensors at the rows `at` of a grid that have a robust detector, and the values that it expects in the whole grid.

    They vary, or are coarse and so also input of a joint detector.
    """

    at: NDArray[np.int64]
    grid: Grid
    detectors: robust.Fitted
    expected: Floats

    def take(self, rows: NDArray[np.int64]) -> "_Measured":
        """The sensors at `rows`, in that order."""
        return _Measured(self.at[rows], self.grid.take(rows), self.detectors.take(rows), self.expected[rows])


def _measured(model: Model, grid: Grid) -> _Measured | None:
    """None if the model has no robust detectors."""
    if "robust" not in model.frames:
        return None
    keys = grid.keys.select(*KEY).with_row_index("at")
    rows = keys.join(model.frames["robust"], on=list(KEY), how="semi", maintain_order="left")
    at = rows["at"].to_numpy().astype(np.int64)
    some = grid.take(at)
    detectors = robust.Fitted.of(model.rows("robust", some.keys))
    expected = robust.expected_of(some, some.values, detectors.baseline, detectors.profile)
    return _Measured(at, some, detectors, expected)


def _units(grid: Grid, measured: _Measured | None) -> Floats:
    """Distances of all sensors of the grid from the expected values, in their scales; NaN for those without any."""
    units = np.full_like(grid.values, np.nan)
    if measured is not None:
        scale = measured.detectors.scales.scale[:, None]
        units[measured.at] = (measured.grid.values - measured.expected) / scale
    return units


def _parts(
    model: Model, grid: Grid, raw: Grid, rung: pl.Series, measured: _Measured | None, options: Options
) -> Iterator[Part]:
    """The results by the kinds of detectors, each of sensors that no other has; `raw` are readings as they came."""
    if measured is not None:
        varies = _where(rung.gather(measured.at), (*ROBUST_RUNGS, *DETECTORS))
        if len(varies):
            yield _varying(model, measured.take(varies), raw, rung, options)
    few = _where(rung, DISCRETE_RUNGS)
    if len(few):
        yield _discrete(model, grid.take(few), few, rung)
    without = np.flatnonzero((rung.is_null() | (rung == "none")).to_numpy())
    if len(without) and "pooled" in model.frames:
        yield _pooled(model, grid, without, options)


def _varying(model: Model, measured: _Measured, raw: Grid, rung: pl.Series, options: Options) -> Part:
    """Sensors whose values vary: the scores of their own detector, and the values that the robust one expects."""
    at, grid, scales = measured.at, measured.grid, measured.detectors.scales
    tails = Tails.of(model.rows("calibration", grid.keys))
    scores, cause = channels.distances(grid.values, measured.expected, scales, LOOKBACK)
    names = rung.gather(at)
    width = np.full(len(at), NormalDist().inv_cdf(1 - options.alpha / 2))
    for name, detector in DETECTORS.items():
        rows = _where(names, (name,))
        if len(rows):
            part = grid.take(rows)
            scores[rows] = detector.score(model.rows(name, part.keys), part, LOOKBACK)
            cause[rows] = np.where(np.isnan(scores[rows]), -1, 0)
    p = tails.p_values(scores)
    for name in names.unique():
        rows, correction = _where(names, (name,)), model.correction(name)
        p[rows] = corrected_p_values(p[rows], correction)
        if name in ROBUST_RUNGS:
            level = np.full((len(at), 1), p_value_before_correction(options.alpha, correction))
            width[rows] = tails.scores_at(level)[rows, 0]
    flat = _flat(model, raw.take(at), _where(names, ROBUST_RUNGS))
    is_flat = flat < p
    expected, band = measured.expected[:, LOOKBACK:], (width * scales.scale)[:, None]
    return Part(
        at=at,
        rung=names,
        score=np.where(is_flat, np.fmax(scores, tails.scores_at(flat)), scores),
        p_value=np.where(is_flat, flat, p),
        cause=np.where(is_flat, np.int8(CAUSES.index("flat")), cause),
        expected=expected,
        low=expected - band,
        high=expected + band,
    )


def _flat(model: Model, grid: Grid, rows: NDArray[np.int64]) -> Floats:
    """p-values of runs of the same value, for `rows` of the grid with less than HIGHEST_ALPHA; 1 for the others.

    They are doubled, because a reading is called by its score or by its run.
    The scores of a sensor have one tail: if its values are often extreme, even a flat line has no extreme score. A counter
    is flat if it stands still, so `grid` holds readings as they came.
    """
    p = np.ones((len(grid.values), grid.intervals - LOOKBACK))
    some = grid.take(rows)
    p[rows] = 2 * presence.run_p_values(model.rows("sensors", some.keys), some, LOOKBACK)
    return np.where(p <= HIGHEST_ALPHA, p, 1.0)


def _discrete(model: Model, grid: Grid, at: NDArray[np.int64], rung: pl.Series) -> Part:
    """Sensors with few values: those of `grid`, which are at the rows `at`."""
    params = model.rows("discrete", grid.keys)
    score, p_value, cause = discrete.score(params, grid, LOOKBACK)
    expected, low, high = (params[name].to_numpy()[:, None] for name in ("usual", "low", "high"))
    return Part(score, p_value, cause, expected, low, high, at=at, rung=rung.gather(at))


def _pooled(model: Model, grid: Grid, without: NDArray[np.int64], options: Options) -> Part:
    """Sensors `without` a detector of their own, if others have the same tag."""
    params = grid.keys[without].join(model.frames["pooled"], on="tag", how="left", maintain_order="left")
    is_known = params["center"].is_not_null()
    at, params = without[is_known.to_numpy()], params.filter(is_known)
    score, p_value = pooled.score(params, grid.take(at), LOOKBACK)
    cause = np.where(np.isnan(score), np.int8(-1), np.int8(0))
    center, scale = params["center"].to_numpy()[:, None], params["scale"].to_numpy()[:, None]
    band = NormalDist().inv_cdf(1 - options.alpha / 2) * scale
    names = pl.Series(["pooled"], dtype=pl.String).new_from_index(0, len(at))
    return Part(score, p_value, cause, center, center - band, center + band, at=at, rung=names)


def _p_of_missing(model: Model, grid: Grid, rung: pl.Series, readings: pl.LazyFrame) -> Floats:
    """p-values of the missing readings of sensors that were in the training, else NaN."""
    p = np.full((grid.keys.height, grid.intervals - LOOKBACK), np.nan)
    at = np.flatnonzero(rung.is_not_null().to_numpy())
    if len(at):
        some = grid.take(at)
        params = model.rows("sensors", some.keys)
        p[at] = presence.gap_p_values(params, some, LOOKBACK, _silent_before(params, some, readings))
    return p


def _silent_before(params: pl.DataFrame, grid: Grid, readings: pl.LazyFrame) -> NDArray[np.int64]:
    """For how many intervals each sensor had been silent before the grid; 0 if its silence ends or says no more."""
    before = np.zeros(grid.keys.height, np.int64)
    some = presence.may_last(params)
    some = some[np.isnan(grid.values[some, :LOOKBACK]).all(axis=1)]
    if not len(some):
        return before
    sensors = params[some].select(*KEY, "sentinels").sort(*KEY)
    time = pl.col("time")
    past = of_devices(readings, sensors).filter(
        time < grid.start, time >= grid.start - presence.LONGEST * grid.interval
    )
    past = past.join(sensors.lazy(), on=list(KEY)).filter(~pl.col("mean").is_in(pl.col("sentinels")))
    ends = past.group_by(KEY).agg(time.max().alias("end")).collect(engine="streaming")
    ago = (grid.start - pl.col("end")).dt.total_microseconds() - 1
    last = params[some].select(KEY).join(ends, on=list(KEY), how="left", maintain_order="left")
    intervals = last.select(ago // (grid.interval // timedelta(microseconds=1)))
    before[some] = intervals.to_series().fill_null(presence.LONGEST).to_numpy()
    return before


def _joint_rows(
    model: Model, grid: Grid, measured: _Measured | None, keys_of_grid: pl.DataFrame, options: Options
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Keys, rows (see `rows_of`) and outcomes of the joint detectors among the requested keys."""
    keys = keys_of_grid.filter(pl.col("tag") == JOINT_TAG).sort("device")
    params = pl.DataFrame(schema=joint.SCHEMA)
    if "joint" in model.frames:
        params = model.frames["joint"].join(keys, on="device", how="semi").sort("device")
    scores, distance = joint.score(params, _units(grid, measured), grid.keys, LOOKBACK)
    own = joint.keys_of(params)
    p = scores
    if params.height:
        p = corrected_p_values(
            Tails.of(model.rows("calibration", own)).p_values(scores), model.correction("joint")
        )
    row, column = np.nonzero(~np.isnan(scores))
    nothing = pl.lit(None, pl.Float64)
    rows = pl.DataFrame(
        [
            *(own[c].gather(row).alias(c) for c in KEY),
            grid.times.gather(column + LOOKBACK),
            pl.Series("value", distance[row, column]),
            pl.Series("score", scores[row, column]),
            pl.Series("p_value", p[row, column], nan_to_null=True),
            pl.Series("row", row),
        ]
    ).with_columns(rung=pl.lit("joint"), cause=pl.lit("joint"), expected=nothing, low=nothing, high=nothing)
    counts = own.with_columns(pl.Series("rows", (~np.isnan(scores)).sum(axis=1), dtype=pl.Int64))
    return own, rows.select(*with_verdict(options), "row"), key_status.of_joint(keys, counts)
