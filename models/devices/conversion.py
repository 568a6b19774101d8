"""Sensors whose readings must be converted: counters and angles.

A counter, such as of strokes or of energy, rises and starts again from near its lowest value. It is judged by its rise
in an interval; after a gap, by the mean rise. The interval in which it starts again and the next one have no value,
because its last value before the restart is unknown, but the reading is not missing. An angle becomes the value within
half a turn of its mean direction, so 359 and 1 degrees are neighbours.
"""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import left_out
from models.devices.aggregation import TURN, is_direction
from models.devices.contracts import ANY_DEVICE, KEY
from models.devices.grid import Floats, Grid
from models.sentinels import sentinels_of

AS_IT_IS, COUNTER, ANGLE = "as it is", "counter", "angle"
_FEWEST_RISES, _FEWEST_PASSES = 30, 10
_RISING_SHARE, _RESTART_SHARE, _LOW_SHARE = 0.2, 0.05, 0.1


def readings_as(grid: Grid, kinds: pl.DataFrame | None = None) -> pl.DataFrame:
    """How to read each sensor: `taken` (as it is, counter or angle) and `zero`, an angle's mean direction.

    `kinds` (device, tag, kind) sets the kinds of some sensors; those of the others follow from their past.
    """
    kind = kind_of(grid.keys, kinds)
    without_kind = kind.is_null().to_numpy()
    angle = (kind == ANGLE).fill_null(value=False).to_numpy()
    candidates = np.flatnonzero(without_kind & _within_a_turn(grid.values))
    by_name = grid.keys[candidates].select(is_direction()).to_series().to_numpy()
    angle[candidates] = by_name | goes_round(grid.values[candidates])
    counter = (kind == COUNTER).fill_null(value=False).to_numpy() | (
        without_kind & ~angle & is_counter(grid.values)
    )
    types = np.where(angle, ANGLE, np.where(counter, COUNTER, AS_IT_IS)).astype(object)
    zero = np.where(angle, _mean_direction(grid.values), np.nan)
    if kinds is not None and "zero" in kinds.columns:
        zeros = grid.keys.join(kinds, on=list(KEY), how="left", maintain_order="left")["zero"]
        zero = np.where(angle, zeros.fill_null(np.nan).to_numpy(), np.nan)
    return grid.keys.with_columns(
        pl.Series("taken", types, dtype=pl.String), pl.Series("zero", zero, nan_to_null=True)
    )


def kind_of(keys: pl.DataFrame, kinds: pl.DataFrame | None) -> pl.Series:
    """The kind that was set for each key, or null; a row for its device takes precedence over one for all devices."""
    if kinds is None or kinds.is_empty():
        return pl.Series("kind", [None] * keys.height, dtype=pl.String)
    everywhere = kinds.filter(device=ANY_DEVICE).select("tag", general="kind")
    own = kinds.select(*KEY, "kind")
    both = keys.join(own, on=list(KEY), how="left", maintain_order="left")
    both = both.join(everywhere, on="tag", how="left", maintain_order="left")
    return both.select(pl.coalesce("kind", "general").alias("kind")).to_series()


def converted(grid: Grid, types: pl.DataFrame) -> Grid:
    """`grid` with the readings of counters and angles converted; `types` as in `readings_as`, in the order of its keys."""
    counters = np.flatnonzero((types["taken"] == COUNTER).fill_null(value=False))
    angles = np.flatnonzero((types["taken"] == ANGLE).fill_null(value=False))
    if not len(counters) and not len(angles):
        return grid
    values = grid.values.copy()
    values[counters] = rises(values[counters])
    zero = types["zero"].to_numpy()[angles, None]
    values[angles] = zero + (values[angles] - zero + TURN / 2) % TURN - TURN / 2
    return replace(grid, values=values)


def rises(x: Floats) -> Floats:
    """The rise of each row's counter since its last reading, by interval; NaN at the first reading and at a restart.

    >>> rises(np.array([[5.0, 7, np.nan, 11, 1, 3, 5]])).tolist()
    [[nan, 2.0, nan, 2.0, nan, nan, 2.0]]
    """
    before, apart = _before(x)
    rise = (x - before) / np.maximum(apart, 1)
    falls = rise < 0
    again = np.zeros_like(falls)
    row, column = np.nonzero(falls)
    present = ~np.isnan(x)
    next_reading = np.where(present, np.arange(x.shape[1])[None, :], x.shape[1])
    next_reading = np.minimum.accumulate(next_reading[:, ::-1], axis=1)[:, ::-1]
    if len(row):
        after = np.where(
            column + 1 < x.shape[1], next_reading[row, np.minimum(column + 1, x.shape[1] - 1)], x.shape[1]
        )
        inside = after < x.shape[1]
        again[row[inside], after[inside]] = True
    return np.where(falls | again, np.nan, rise)


def is_counter(x: Floats) -> NDArray[np.bool_]:
    """Which rows only rise, apart from rare falls to near their lowest value."""
    before, _ = _before(x)
    change = x - before
    rise_count, is_fall = (change > 0).sum(axis=1), change < 0
    readings = (~np.isnan(x)).sum(axis=1)
    low = np.where(np.isnan(x), np.inf, x).min(axis=1, initial=np.inf)
    high = np.where(np.isnan(x), -np.inf, x).max(axis=1, initial=-np.inf)
    span = np.where(high > low, high - low, 0.0)
    near = np.where(is_fall, x - low[:, None] <= _LOW_SHARE * span[:, None], True).all(axis=1)
    fall_count = is_fall.sum(axis=1)
    result: NDArray[np.bool_] = (
        (rise_count >= _FEWEST_RISES)
        & (rise_count >= _RISING_SHARE * readings)
        & (fall_count <= _RESTART_SHARE * rise_count)
        & near
    )
    return result


def _before(x: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The last reading before each cell, and its distance in intervals; NaN if the cell or that reading is missing."""
    columns = np.arange(x.shape[1])
    last = np.maximum.accumulate(np.where(np.isnan(x), -1, columns[None, :]), axis=1)
    last = np.concatenate([np.full((len(x), 1), -1), last[:, :-1]], axis=1)
    rows = np.arange(len(x))[:, None]
    before = np.where(last >= 0, x[rows, np.maximum(last, 0)], np.nan)
    return before, columns[None, :] - last


def _within_a_turn(x: Floats) -> NDArray[np.bool_]:
    """Rows with values from 0 to 360, or from -180 to 180, on both sides of the point where the ends meet."""
    low = np.where(np.isnan(x), np.inf, x).min(axis=1, initial=np.inf)
    high = np.where(np.isnan(x), -np.inf, x).max(axis=1, initial=-np.inf)
    is_positive = (low >= 0) & (high <= TURN)
    is_signed = (low >= -TURN / 2) & (high <= TURN / 2)
    result: NDArray[np.bool_] = (is_positive | is_signed) & (high - low > TURN / 2)
    return result


def goes_round(x: Floats) -> NDArray[np.bool_]:
    """Which rows repeatedly pass from one end of a turn to the other, as only an angle does.

    Nearly all changes by more than half a turn are small on the shorter way round, and there are many values on
    both sides of the point where the turn closes: a machine that stands or runs has them only on one side.
    """
    before, _ = _before(x)
    change = np.abs(x - before)
    far = change > TURN / 2
    near = (far & (TURN - change < TURN / 8)).sum(axis=1)
    result = (near >= _FEWEST_PASSES) & (near >= 0.95 * far.sum(axis=1))
    for s in np.flatnonzero(result):
        row = np.unique(x[s][~np.isnan(x[s])])
        sides = ((row < row[0] + TURN / 8).sum(), (row > row[-1] - TURN / 8).sum())
        result[s] = min(sides) >= _FEWEST_PASSES
    return result


def _mean_direction(x: Floats) -> Floats:
    """The direction, from 0 to 360, of the vector sum of each row's values."""
    turn = np.deg2rad(x)
    degrees: Floats = np.rad2deg(np.arctan2(np.nansum(np.sin(turn), axis=1), np.nansum(np.cos(turn), axis=1)))
    return degrees % TURN


def kinds_in(sensors: pl.DataFrame) -> pl.DataFrame | None:
    """The kinds, from a model's `sensors`, for a detector that is trained later; None for a model of an earlier version."""
    if "taken" not in sensors.columns:
        return sensors.select(*KEY, kind=pl.lit(AS_IT_IS))
    return sensors.select(*KEY, pl.coalesce("kind", "taken").alias("kind"), "zero")


def taken_in(sensors: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    """How a model's `sensors` take the readings of `keys`, in their order; null for a key that it does not know."""
    if "taken" not in sensors.columns:
        return keys.with_columns(taken=pl.lit(AS_IT_IS), zero=pl.lit(None, pl.Float64))
    types = sensors.select(*KEY, "taken", "zero")
    return keys.select(*KEY).join(types, on=list(KEY), how="left", maintain_order="left")


def as_they_are(sensors: pl.DataFrame) -> pl.DataFrame:
    """A model's `sensors` for readings that are already converted."""
    return sensors.with_columns(taken=pl.lit(AS_IT_IS), zero=pl.lit(None, pl.Float64))


def beforehand(grid: Grid, kinds: pl.DataFrame | None) -> tuple[Grid, pl.DataFrame]:
    """The grid with its readings converted, and kinds that prevent another conversion."""
    without = left_out.without(grid, sentinels_of(grid.values))
    result = converted(grid, readings_as(without, kinds))
    kind = kind_of(grid.keys, kinds)
    rest = pl.when(kind.is_in([COUNTER, ANGLE])).then(None).otherwise(kind).fill_null(AS_IT_IS)
    return result, grid.keys.select(*KEY).with_columns(rest.alias("kind"))


def of_readings(readings: pl.LazyFrame, sensors: pl.DataFrame, column: str, step: timedelta) -> pl.LazyFrame:
    """`column` of readings (device, tag, time), converted as by a model with these `sensors`, to show with its values."""
    if "taken" not in sensors.columns or not sensors["taken"].is_in([COUNTER, ANGLE]).any():
        return readings
    types = sensors.select(*KEY, "taken", "zero", "pace").lazy()
    change, apart = (pl.col(name).diff().over(*KEY, order_by="time") for name in (column, "time"))
    falls = change < 0
    restart = falls | falls.shift(1).over(*KEY, order_by="time").fill_null(value=False)
    rise = change / (apart / (pl.col("pace") * step)).cast(pl.Float64)
    angle = pl.col("zero") + (pl.col(column) - pl.col("zero") + TURN / 2) % TURN - TURN / 2
    value = (
        pl.when(pl.col("taken") == COUNTER)
        .then(pl.when(~restart).then(rise))
        .when(pl.col("taken") == ANGLE)
        .then(angle)
        .otherwise(column)
    )
    both = readings.join(types, on=list(KEY), how="left")
    return both.with_columns(value.alias(column)).drop("taken", "zero", "pace").drop_nulls(column)
