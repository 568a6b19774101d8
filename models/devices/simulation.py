"""Simulated devices whose normal behaviour and faults are known, for tests, the demo and the benchmark.

Every device has five sensors: `flow` holds a level, `temperature` follows the day, `speed` and
`current` move together (correlation 0.9), and `mode` is, depending on the device, constant, one of a few
values, one of changing regimes, or another level. Noise is Gaussian and autocorrelated, AR(1), with a
coefficient that differs by sensor. A device's values depend only on the seed and its number, so
any chunk of devices has the same rows as in a simulation of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.contracts import KEY, TIME
from models.devices.grid import Floats, Grid

TAGS = ("flow", "temperature", "speed", "current", "mode")
MODES = ("constant", "few_values", "regimes", "level")
AUTOCORRELATIONS = (0.0, 0.3, 0.6, 0.9)
CORRELATION = 0.9
FAULTS = {
    "spike": 1,
    "level_shift": 40,
    "drift": 60,
    "variance": 45,
    "flat": 40,
    "missing": 20,
    "correlation": 60,
}
"""Faults -> their length in intervals."""
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Simulated:
    """`grid` of values; `expected`, the same without the noise; `traits`: the properties of each sensor.

    `traits` has one row per sensor: device, tag, `kind`, `level`, `scale` (standard deviation of the
    noise) and `autocorrelation` (of the noise, from one interval to the next).
    """

    grid: Grid
    expected: Floats
    traits: pl.DataFrame


@dataclass(frozen=True)
class Faulty:
    """A grid with faults in it. `faults` has device, tag, fault, and start and end (exclusive) as columns."""

    grid: Grid
    faults: pl.DataFrame


def simulate(
    devices: int,
    start: datetime,
    intervals: int,
    *,
    first: int = 0,
    seed: int = 7,
    interval: timedelta = MINUTE,
    missing_share: float = 0.0005,
) -> Simulated:
    """The devices from number `first` on, without faults; the share `missing_share` of readings is lost."""
    traits = _traits(devices, first, seed)
    noise, chance, draws = _draws(devices, first, intervals, seed)
    noise[:, 3] = CORRELATION * noise[:, 2] + np.sqrt(1 - CORRELATION**2) * noise[:, 3]
    coefficients = traits["autocorrelation"].to_numpy()
    noise = np.round(_ar1_noise(noise.reshape(-1, intervals), coefficients), 2).reshape(noise.shape)
    grid = Grid(traits.select(*KEY), np.empty((0, intervals)), start, interval)
    course = np.zeros(noise.shape)
    course[:, 1] = 4 * np.sin(2 * np.pi * (grid.phase + draws[:, 0, :1]))
    kinds = traits["kind"].to_numpy()[4::5]
    course[:, 4] = _course_of_modes(kinds, draws)
    noise[np.isin(kinds, ["constant", "few_values"]), 4] = 0.0
    level, scale = _column(traits, "level", devices), _column(traits, "scale", devices)
    expected = (level + scale * course).reshape(-1, intervals)
    values = expected + (scale * noise).reshape(-1, intervals)
    values[chance.reshape(-1, intervals) < missing_share] = np.nan
    return Simulated(replace(grid, values=values), expected, traits)


def _column(traits: pl.DataFrame, name: str, devices: int) -> Floats:
    return traits[name].to_numpy().reshape(devices, len(TAGS), 1)


def _traits(devices: int, first: int, seed: int) -> pl.DataFrame:
    number = np.repeat(np.arange(first, first + devices), len(TAGS))
    tag = np.tile(np.arange(len(TAGS)), devices)
    kinds = np.array(["level", "daily_cycle", "pair", "pair", ""], dtype=object)[tag]
    kinds[4::5] = np.array(MODES, dtype=object)[number[4::5] % len(MODES)]
    mix = np.random.default_rng([seed, 1]).permutation(997)
    turn = mix[(number * 5 + np.where(tag == 3, 2, tag)) % 997]
    return pl.DataFrame(
        {
            "device": [f"d{n:05d}" for n in number],
            "tag": np.array(TAGS, dtype=object)[tag],
            "kind": kinds,
            "level": 20.0 * (tag + 1) + (number * 7919 % 101) / 10,
            "scale": np.array([0.5, 2.0, 5.0, 1.0, 1.0])[tag],
            "autocorrelation": np.array(AUTOCORRELATIONS)[turn % len(AUTOCORRELATIONS)],
        },
        schema_overrides={"device": pl.String, "tag": pl.String, "kind": pl.String},
    )


def _draws(devices: int, first: int, intervals: int, seed: int) -> tuple[Floats, NDArray[np.float32], Floats]:
    """Standard normal noise, uniform numbers for losses, and uniform numbers for the device's own course."""
    noise = np.empty((devices, len(TAGS), intervals))
    chance = np.empty((devices, len(TAGS), intervals), np.float32)
    course = np.empty((devices, 2, intervals))
    for i in range(devices):
        rng = np.random.default_rng([seed, 0, first + i])
        rng.standard_normal(out=noise[i])
        rng.random(out=chance[i], dtype=np.float32)
        rng.random(out=course[i])
    return noise, chance, course


def _ar1_noise(noise: Floats, coefficients: Floats) -> Floats:
    """AR(1) series of unit variance from white noise, one per row."""
    from scipy.signal import lfilter

    result = noise.copy()
    for phi in np.unique(coefficients[coefficients > 0]):
        rows = coefficients == phi
        driven = noise[rows] * np.sqrt(1 - phi**2)
        driven[:, 0] = noise[rows, 0]
        result[rows] = lfilter([1.0], [1.0, -phi], driven, axis=1)
    return result


def _course_of_modes(kinds: NDArray[np.object_], draws: Floats) -> Floats:
    """The course of `mode` without noise: one of four values for 8 intervals on average, four regimes for 60.

    Values follow each other at random, regimes in turn.
    """
    course = np.zeros((len(kinds), draws.shape[2]))
    for kind, dwell, width in (("few_values", 8, 1.0), ("regimes", 60, 8.0)):
        rows = np.flatnonzero(kinds == kind)
        if not len(rows):
            continue
        jumps = draws[rows, 1] < 1 / dwell
        jumps[:, 0] = True
        since = np.maximum.accumulate(np.where(jumps, np.arange(jumps.shape[1]), 0), axis=1)
        state = np.floor(4 * np.take_along_axis(draws[rows, 0], since, axis=1))
        course[rows] = width * (state if kind == "few_values" else np.cumsum(jumps, axis=1) % 4)
    return course


def inject(simulation: Simulated, faults: Sequence[str], first: int, *, seed: int = 7) -> Faulty:
    """One fault in each device, of `faults` in turn, starting at column `first` or later.

    In units of the sensor's noise: a spike is 6 high and lasts 1 interval; a level shift is 4, for 40
    intervals; a drift reaches 5 in 60; with a variance fault the noise is 3 times as large, for 45. A
    flat line repeats the value before it for 40; 20 readings are missing; with a broken correlation
    `current` goes on as before, but independently of `speed`, for 60.
    """
    grid = simulation.grid
    values, rng, rows = grid.values.copy(), np.random.default_rng([seed, 2]), []
    noise = values - simulation.expected
    scales = simulation.traits["scale"].to_numpy()
    for device in range(grid.keys.height // len(TAGS)):
        fault = faults[device % len(faults)]
        s = device * len(TAGS) + (3 if fault == "correlation" else int(rng.integers(0, 4)))
        length = FAULTS[fault]
        begin = first + int(rng.integers(0, max(1, grid.intervals - first - length + 1)))
        span = slice(begin, min(begin + length, grid.intervals))
        size = span.stop - span.start
        amount = (1.0 if rng.random() < 0.5 else -1.0) * scales[s]
        if fault == "missing":
            values[s, span] = np.nan
        elif fault == "flat":
            values[s, span] = _last_reading(values[s, :begin])
        elif fault == "correlation":
            values[s, span] = simulation.expected[s, span] + np.roll(noise[s], grid.intervals // 2)[span]
        else:
            values[s, span] += _disturbance(fault, noise[s, span], amount, np.arange(1, size + 1) / length)
        rows.append((*grid.keys.row(s), fault, span.start, span.stop))
    schema = {"device": pl.String, "tag": pl.String, "fault": pl.String, "start": pl.Int64, "end": pl.Int64}
    return Faulty(replace(grid, values=values), pl.DataFrame(rows, schema=schema, orient="row"))


def _disturbance(fault: str, noise: Floats, amount: float, ramp: Floats) -> Floats:
    """The change of the values by a fault; `amount` is the noise scale with the fault's sign."""
    return {
        "spike": np.full_like(ramp, 6 * amount),
        "level_shift": np.full_like(ramp, 4 * amount),
        "drift": 5 * amount * ramp,
        "variance": 2 * noise,
    }[fault]


def _last_reading(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else np.nan


def readings_of(grid: Grid) -> pl.DataFrame:
    """The grid as the table `readings`, sorted by device, tag, time: cells without a reading have no row.

    Each interval counts six raw readings, of which only the mean is simulated.
    """
    rows = pl.Series("row", np.repeat(np.arange(grid.keys.height), grid.intervals))
    mean = pl.Series("mean", grid.values.ravel())
    return (
        pl.DataFrame([rows, mean])
        .with_columns(grid.times[np.tile(np.arange(grid.intervals), grid.keys.height)])
        .with_columns(grid.keys[c].gather(rows).alias(c) for c in KEY)
        .filter(pl.col("mean").is_not_nan())
        .select(
            *KEY,
            "time",
            pl.lit(6, pl.Int64).alias("count"),
            "mean",
            pl.col("mean").alias("min"),
            pl.col("mean").alias("max"),
            pl.lit(0.0).alias("std"),
            pl.col("mean").alias("last"),
            pl.lit(None, pl.List(TIME)).alias("point_times"),
            pl.lit(None, pl.List(pl.Float64)).alias("point_values"),
        )
    )


def recalibrated(
    readings: pl.DataFrame, since: datetime, tag: str = "flow", factor: float = 1.2, share: float = 0.5
) -> pl.DataFrame:
    """`readings`, but the sensor `tag` of the first `share` of the devices reads `factor` times as much.

    This changes the means from the interval `since` on; the other columns are unchanged.
    """
    names = readings["device"].unique().sort()
    some = names.head(max(1, round(share * len(names)))).implode()
    now = (pl.col("time") >= since) & (pl.col("tag") == tag) & pl.col("device").is_in(some)
    return readings.with_columns(pl.when(now).then(factor * pl.col("mean")).otherwise("mean").alias("mean"))
