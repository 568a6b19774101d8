"""ONNX graphs of detectors that use a sensor's last readings: robust channels, few values, missing readings.

The inputs of a graph are, per row, the number of a sensor and its last `WINDOW` intervals. Nothing in `models.devices`
looks further back for the last of them, so scores equal those of any run; a shorter history is padded with NaN in
front.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.calibration import P_FLOOR
from models.devices.channels import (
    CHANNELS,
    CLIP,
    HARMONICS,
    LEVEL_WEIGHTS,
    LOCAL_WEIGHTS,
    SPREAD_WEIGHTS,
)
from models.devices.discrete import CHANGES, MOST_VALUES, p_of_changes, p_of_new, p_of_runs, p_of_step
from models.devices.grid import DAY, LOOKBACK, Floats
from models.devices.options import HIGHEST_ALPHA
from models.devices.presence import FLAT_LENGTH
from models.devices.robust import LOCAL, REGIMES, Fitted
from models.interchange import Graph, Port
from models.onnx_graphs import Builder, Value

WINDOW = LOOKBACK
RECENT = len(LEVEL_WEIGHTS)
"""Number of intervals whose distances the level and the joint detector use."""


def ago(intervals: int) -> tuple[str, ...]:
    """Names of columns, oldest first: the number of intervals before the scored one."""
    return tuple(f"-{n}" if n else "0" for n in reversed(range(intervals)))


SENSOR = Port("sensor", "int64", (), "number of the sensor, by `sensors` in interchange.json")
SCORE = Port("score", "double", (), "higher is more anomalous; NaN without a reading")
P_VALUE = Port("p_value", "double", (), "chance of a score at least as high")
UNITS = Port(
    "units",
    "double",
    ago(RECENT),
    "distances from the expected values, in the sensor's scale; NaN without a reading",
)
_READINGS = Port(
    "readings",
    "double",
    ago(WINDOW),
    "means of the intervals, oldest first, the last one is scored; NaN without a reading",
)
_SCORE_OF_GAP = Port(SCORE.name, SCORE.kind, (), "higher is more anomalous; NaN if there is a reading")
_P_OF_FLAT = Port(
    "p_of_flat",
    "double",
    (),
    "of a sensor that varies: the p-value of a flat line, 1 if there is none, NaN without a reading",
)
_TIME = Port(
    "time",
    "int64",
    (),
    "start of the interval that is scored, in seconds since 1970 by the clock of the sensor's `timezone`",
)
_CAUSE = Port(
    "cause",
    "int64",
    (),
    f"what is most unusual: {', '.join(f'{n} {name}' for n, name in enumerate(CHANNELS))}; -1 without a reading",
)
_EXPECTED = Port("expected", "double", (), "the expected value of the reading")


def weighted_mean(
    builder: Builder, values: Value, weights: Floats, newest: Sequence[int], width: int, least: float = 0.5
) -> Value:
    """As `models.devices.channels.weighted_mean`, of the columns `newest` of (rows, `width`) and those before each."""
    kernel = np.zeros((width, len(newest)))
    for column, last in enumerate(newest):
        lags = np.arange(min(len(weights), last + 1))
        kernel[last - lags, column] = weights[lags]
    absent, weigh = values.is_nan(), builder.constant(kernel)
    summands = builder.op("Where", absent, 0.0, values)
    weight = builder.cast(~absent, "double") @ weigh
    enough = weight > least * weights.sum()
    mean = summands @ weigh / weight
    return builder.op("Where", enough, mean, np.nan)


def robust(params: pl.DataFrame, interval: NDArray[np.int64]) -> Graph:
    """As `models.devices.channels.distances` of robust detectors: the score, its cause, and the values behind it.

    `interval` is that of each sensor, in seconds.
    """
    builder, parameters = Builder(), Fitted.of(params)
    scale, phi, jump, level, usual, spread, chance = (
        builder.rows(getattr(parameters.scales, name)[:, None], "sensor")
        for name in ("scale", "autocorrelation", "jump", "level", "usual_spread", "spread", "flat")
    )
    recent = builder.columns("readings", WINDOW - RECENT, WINDOW)
    expected = _expected(builder, parameters, recent, interval)
    rest = recent - expected
    before = builder.columns(rest, 0, RECENT - 1)
    jumps = builder.columns(rest, 1, RECENT) - phi * before
    unit = builder.op("Clip", jumps / jump, -CLIP, CLIP)
    squares = unit * unit
    variance = weighted_mean(builder, squares, SPREAD_WEIGHTS, [RECENT - 2], RECENT - 1)
    logarithm = (variance + 1e-06).log()
    again = -chance.log() * _repeats(builder)
    distances = [
        abs(builder.column(rest, RECENT - 1)) / scale,
        abs(builder.column(jumps, RECENT - 2)) / jump,
        abs(weighted_mean(builder, rest, LEVEL_WEIGHTS, [RECENT - 1], RECENT)) / level,
        abs(logarithm - usual) / spread,
        (2.0 * again).sqrt(),
    ]
    channels = builder.op("Concat", *distances, axis=1)
    channels = builder.op("Where", channels.is_nan(), -1.0, channels)
    absent = builder.squeeze(builder.column("readings", WINDOW - 1).is_nan())
    score = builder.op("ReduceMax", channels, axes=[1], keepdims=0)
    score = builder.op("Where", absent, np.nan, score)
    cause = builder.op("ArgMax", channels, axis=1, keepdims=0)
    cause = builder.op("Where", absent, builder.constant(-1, np.int64), cause)
    outputs = [
        (score, SCORE),
        (cause, _CAUSE),
        (builder.squeeze(builder.column(expected, RECENT - 1)), _EXPECTED),
        (rest / scale, UNITS),
    ]
    return builder.graph("robust", (SENSOR, _TIME, _READINGS), outputs)


def _expected(builder: Builder, parameters: Fitted, recent: Value, interval: NDArray[np.int64]) -> Value:
    """As `models.devices.robust.expected_of`, of the last `RECENT` intervals."""
    baseline = builder.rows(parameters.baseline[:, None], "sensor", np.int64)
    regimes = (parameters.baseline == REGIMES)[:, None]
    course = _course(builder, np.where(regimes, 0.0, parameters.profile), interval)
    levels = builder.rows(np.where(np.isnan(parameters.profile), np.inf, parameters.profile), "sensor")
    at = builder.op("Where", recent.is_nan(), builder.column(levels, 0), recent)
    apart = abs(builder.unsqueeze(at, 2) - builder.unsqueeze(levels))
    nearest = builder.op("GatherElements", levels, builder.op("ArgMin", apart, axis=2, keepdims=0), axis=1)
    newest = range(WINDOW - RECENT - 1, WINDOW - 1)
    mean = weighted_mean(builder, builder.value("readings"), LOCAL_WEIGHTS, newest, WINDOW, least=0.0)
    local = builder.op("Where", mean.is_nan(), recent, mean)
    is_local = baseline.equals(builder.constant(LOCAL, np.int64))
    has_regimes = baseline.equals(builder.constant(REGIMES, np.int64))
    return builder.op("Where", is_local, local, builder.op("Where", has_regimes, nearest, course))


def _course(builder: Builder, profile: Floats, interval: NDArray[np.int64]) -> Value:
    """As `models.devices.channels.seasonal` of its design, of the last `RECENT` intervals.

    A cosine is a sine a quarter ahead: older versions of ONNX Runtime lack the cosine of doubles.
    """
    seconds = interval[:, None] * (np.arange(RECENT) - RECENT + 1)[None, :]
    times = builder.unsqueeze("time") + builder.rows(seconds, "sensor", np.int64)
    a_day = int(DAY.total_seconds())
    since_midnight = builder.cast(times % builder.constant(a_day, np.int64), "double")
    phase = since_midnight / float(a_day)
    angle = phase * (2 * np.pi)
    angles = builder.unsqueeze(angle, 2) * np.arange(1, HARMONICS + 1)
    course = builder.rows(profile[:, :1], "sensor")
    for ahead, first in ((0.0, 1), (np.pi / 2, 2)):
        wave = builder.op("Sin", angles + ahead)
        weights = builder.unsqueeze(builder.rows(profile[:, first::2], "sensor"))
        course = course + builder.total(wave * weights, 2)
    return course


def _trailing(builder: Builder, condition: Value, width: int) -> Value:
    """The number of last columns, of `width`, for which `condition` is true without a break; (rows, 1), as double."""
    number = builder.constant(np.arange(1.0, width + 1))
    breaks = builder.op("Where", condition, 0.0, number)
    return float(width) - builder.op("ReduceMax", breaks, axes=[1], keepdims=1)


def _repeats(builder: Builder) -> Value:
    """The number of consecutive readings before the last one with its value."""
    now, before = builder.columns("readings", 1, WINDOW), builder.columns("readings", 0, WINDOW - 1)
    return _trailing(builder, now.equals(before), WINDOW - 1)


def discrete(params: pl.DataFrame) -> Graph:
    """As `models.devices.discrete.score`."""
    builder = Builder()
    values, of_value = (params[name].to_numpy() for name in ("values", "p_of_value"))
    now = builder.column("readings", WINDOW - 1)
    is_same = now.equals(builder.rows(values, "sensor"))
    chances = builder.op("Where", is_same, builder.rows(of_value[:, :MOST_VALUES], "sensor"), np.inf)
    rarity = builder.op("ReduceMin", chances, axes=[1], keepdims=1)
    rarity = builder.op("Where", builder.op("IsInf", rarity), _of_new(builder, params), rarity)
    of_run = p_of_runs(params).reshape(len(values), -1)
    later = builder.op("Where", is_same, LOOKBACK * np.arange(-MOST_VALUES, 0.0), 0.0)
    first = float(LOOKBACK * MOST_VALUES) + builder.unsqueeze(builder.total(later, 1))
    persistence = _at(builder, of_run, first + _repeats(builder))
    restless = _at(builder, p_of_changes(params), _changes(builder))
    absent = builder.squeeze(now.is_nan())
    flat, value, spread = (
        builder.constant(CHANNELS.index(name), np.int64) for name in ("flat", "value", "spread")
    )
    least = builder.op("Min", rarity, persistence)
    cause = builder.op("Where", persistence < rarity, flat, value)
    cause = builder.op("Where", restless < least, spread, cause)
    p = builder.op("Where", absent, np.nan, builder.squeeze(builder.op("Min", least, restless)))
    cause = builder.op("Where", absent, builder.constant(-1, np.int64), builder.squeeze(cause))
    outputs = [(_of_p(p), SCORE), (p, P_VALUE), (cause, _CAUSE)]
    return builder.graph("discrete", (SENSOR, _READINGS), outputs)


def _changes(builder: Builder) -> Value:
    """As `models.devices.discrete.changes`: pairs of readings that differ, without another one between them."""
    recent = builder.columns("readings", WINDOW - CHANGES, WINDOW)
    present = ~recent.is_nan()
    number = builder.cast(present, "double") @ np.triu(np.ones((CHANGES, CHANGES)))
    first, second = (builder.unsqueeze(number, axis) for axis in (2, 1))
    pairs = (second - first).equals(1.0) & builder.unsqueeze(present, 2) & builder.unsqueeze(present, 1)
    differs = ~builder.unsqueeze(recent, 2).equals(builder.unsqueeze(recent, 1))
    counts = builder.total(builder.cast(pairs & differs, "double"), 2)
    return builder.unsqueeze(builder.total(counts, 1))


def _of_new(builder: Builder, params: pl.DataFrame) -> Value:
    """p-values of a value never seen, by the number of such values in a row and its distance outside the range."""
    values = params["values"].to_numpy()
    present = builder.value("readings").is_nan()
    for j in range(MOST_VALUES):
        same = builder.value("readings").equals(builder.rows(values[:, j : j + 1], "sensor"))
        present = present | same
    again = _trailing(builder, ~present, WINDOW) - 1.0
    p = _at(builder, p_of_new(params), builder.op("Max", again, 0.0))
    now = builder.column("readings", WINDOW - 1)
    low, high = (params[name].to_numpy()[:, None] for name in ("low", "high"))
    below = builder.rows(low, "sensor") - now
    above = now - builder.rows(high, "sensor")
    out = builder.op("Max", builder.op("Max", below, above), 0.0)
    width = np.where(high > low, high - low, np.inf)
    further = out / builder.rows(width, "sensor") + 1.0
    of_new = builder.op("Max", p / further, P_FLOOR)
    late, step = (builder.rows(column[:, None], "sensor") for column in p_of_step(params))
    past = builder.rows(np.where(np.isnan(values), np.inf, values), "sensor")
    apart = builder.op("ReduceMin", abs(now - past), axes=[1], keepdims=1)
    return builder.op("Where", apart <= step, builder.op("Max", of_new, late), of_new)


def missing(params: pl.DataFrame) -> Graph:
    """As `models.devices.presence.gap_p_values`, and their scores; and the p-values of flat lines, as scoring uses them."""
    builder = Builder()
    gap = _trailing(builder, builder.value("readings").is_nan(), WINDOW)
    index = builder.op("Max", gap - 1.0, 0.0)
    p_of_gap = _at(builder, _chances(params["p_of_gap"]), index)
    there = gap.equals(0.0)
    p = builder.squeeze(builder.op("Where", there, np.nan, p_of_gap))
    again = _repeats(builder)
    p_of_run = 2.0 * _at(builder, _chances(params["p_of_run"]), again)
    counts = (again >= float(FLAT_LENGTH - 1)) & (p_of_run <= HIGHEST_ALPHA)
    flat = builder.op("Where", there, builder.op("Where", counts, p_of_run, 1.0), np.nan)
    outputs = [(_of_p(p), _SCORE_OF_GAP), (p, P_VALUE), (builder.squeeze(flat), _P_OF_FLAT)]
    return builder.graph("missing", (SENSOR, _READINGS), outputs)


def _chances(p_by_length: pl.Series) -> Floats:
    return np.maximum(p_by_length.to_numpy().astype(float), P_FLOOR)


def _at(builder: Builder, table: NDArray[np.float64], column: Value) -> Value:
    """A column of each sensor's row of `table`, by its number."""
    return builder.op("GatherElements", builder.rows(table, "sensor"), builder.cast(column, "int64"), axis=1)


def _of_p(p: Value) -> Value:
    return (-2.0 * p.log()).sqrt()
