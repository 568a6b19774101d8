"""ONNX graphs of what looks at a sensor's last readings: robust channels, few values, missing readings.

A graph takes the number of a sensor and its last `WINDOW` intervals per row. Nothing in `models.devices` looks
further back for the last of them, so a score is that of any run, and a history that is shorter is filled up
with NaN in front.
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
from models.devices.discrete import MOST_VALUES, p_of_new, p_of_step
from models.devices.grid import DAY, LOOKBACK, Floats
from models.devices.robust import LOCAL, REGIMES, Fitted
from models.interchange import Graph, Port
from models.onnx_graphs import Builder

WINDOW = LOOKBACK
RECENT = len(LEVEL_WEIGHTS)
"""Intervals whose distances the level, and the joint detector, look at."""


def ago(intervals: int) -> tuple[str, ...]:
    """Names of so many columns, oldest first: how many intervals before the one that is scored."""
    return tuple(f"-{n}" if n else "0" for n in reversed(range(intervals)))


SENSOR = Port("sensor", "int64", (), "number of the sensor, by `sensors` in interchange.json")
SCORE = Port("score", "double", (), "higher is more anomalous; NaN without a reading")
P_VALUE = Port("p_value", "double", (), "chance of a score at least as high")
UNITS = Port(
    "units",
    "double",
    ago(RECENT),
    "distances from what is expected, in the sensor's scale; NaN without a reading",
)
_READINGS = Port(
    "readings",
    "double",
    ago(WINDOW),
    "means of the intervals, oldest first, the last one is scored; NaN where there is no reading",
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
_EXPECTED = Port("expected", "double", (), "what the reading was expected to be")


def weighted_mean(
    made: Builder, values: str, weights: Floats, newest: Sequence[int], width: int, least: float = 0.5
) -> str:
    """As `models.devices.channels.weighted_mean`, of the columns `newest` of (rows, `width`) and those before each."""
    kernel = np.zeros((width, len(newest)))
    for column, last in enumerate(newest):
        lags = np.arange(min(len(weights), last + 1))
        kernel[last - lags, column] = weights[lags]
    absent, weigh = made.op("IsNaN", values), made.constant(kernel)
    filled = made.op("Where", absent, made.constant(0.0), values)
    weight = made.op("MatMul", made.cast(made.op("Not", absent), "double"), weigh)
    enough = made.op("Greater", weight, made.constant(least * weights.sum()))
    mean = made.op("Div", made.op("MatMul", filled, weigh), weight)
    return made.op("Where", enough, mean, made.constant(np.nan))


def robust(params: pl.DataFrame, interval: NDArray[np.int64]) -> Graph:
    """As `models.devices.robust.score_of`: the score, its cause, and what it follows from.

    `interval` is that of each sensor, in seconds.
    """
    made, fitted = Builder(), Fitted.of(params)
    scale, phi, jump, level, usual, spread, chance = (
        made.rows(getattr(fitted.scales, name)[:, None], "sensor")
        for name in ("scale", "autocorrelation", "jump", "level", "usual_spread", "spread", "flat")
    )
    recent = made.columns("readings", WINDOW - RECENT, WINDOW)
    expected = _expected(made, fitted, recent, interval)
    rest = made.op("Sub", recent, expected)
    before = made.columns(rest, 0, RECENT - 1)
    jumps = made.op("Sub", made.columns(rest, 1, RECENT), made.op("Mul", phi, before))
    unit = made.op("Clip", made.op("Div", jumps, jump), made.constant(-CLIP), made.constant(CLIP))
    squares = made.op("Mul", unit, unit)
    variance = weighted_mean(made, squares, SPREAD_WEIGHTS, [RECENT - 2], RECENT - 1)
    logarithm = made.op("Log", made.op("Add", variance, made.constant(1e-6)))
    again = made.op("Mul", made.op("Neg", made.op("Log", chance)), _repeats(made))
    distances = [
        made.op("Div", made.op("Abs", made.column(rest, RECENT - 1)), scale),
        made.op("Div", made.op("Abs", made.column(jumps, RECENT - 2)), jump),
        made.op("Div", made.op("Abs", weighted_mean(made, rest, LEVEL_WEIGHTS, [RECENT - 1], RECENT)), level),
        made.op("Div", made.op("Abs", made.op("Sub", logarithm, usual)), spread),
        made.op("Sqrt", made.op("Mul", made.constant(2.0), again)),
    ]
    stacked = made.op("Concat", *distances, axis=1)
    known = made.op("Where", made.op("IsNaN", stacked), made.constant(-1.0), stacked)
    absent = made.squeeze(made.op("IsNaN", made.column("readings", WINDOW - 1)))
    score = made.op("ReduceMax", known, axes=[1], keepdims=0)
    score = made.op("Where", absent, made.constant(np.nan), score)
    cause = made.op("ArgMax", known, axis=1, keepdims=0)
    cause = made.op("Where", absent, made.constant(-1, np.int64), cause)
    outputs = [
        (score, SCORE),
        (cause, _CAUSE),
        (made.squeeze(made.column(expected, RECENT - 1)), _EXPECTED),
        (made.op("Div", rest, scale), UNITS),
    ]
    return made.graph("robust", (SENSOR, _TIME, _READINGS), outputs)


def _expected(made: Builder, fitted: Fitted, recent: str, interval: NDArray[np.int64]) -> str:
    """As `models.devices.robust.expected_of`, of the last `RECENT` intervals."""
    baseline = made.rows(fitted.baseline[:, None], "sensor", np.int64)
    regimes = (fitted.baseline == REGIMES)[:, None]
    course = _course(made, np.where(regimes, 0.0, fitted.profile), interval)
    levels = made.rows(np.where(np.isnan(fitted.profile), np.inf, fitted.profile), "sensor")
    at = made.op("Where", made.op("IsNaN", recent), made.column(levels, 0), recent)
    apart = made.op("Abs", made.op("Sub", made.unsqueeze(at, 2), made.unsqueeze(levels)))
    nearest = made.op("GatherElements", levels, made.op("ArgMin", apart, axis=2, keepdims=0), axis=1)
    newest = range(WINDOW - RECENT - 1, WINDOW - 1)
    mean = weighted_mean(made, "readings", LOCAL_WEIGHTS, newest, WINDOW, least=0.0)
    center = made.rows(np.where(regimes, 0.0, fitted.profile[:, :1]), "sensor")
    local = made.op("Where", made.op("IsNaN", mean), center, mean)
    wandering = made.op("Equal", baseline, made.constant(LOCAL, np.int64))
    jumping = made.op("Equal", baseline, made.constant(REGIMES, np.int64))
    return made.op("Where", wandering, local, made.op("Where", jumping, nearest, course))


def _course(made: Builder, profile: Floats, interval: NDArray[np.int64]) -> str:
    """As `models.devices.channels.seasonal` of its design, of the last `RECENT` intervals.

    A cosine is a sine a quarter ahead: ONNX Runtime has had the cosine of doubles for less long than the rest.
    """
    seconds = interval[:, None] * (np.arange(RECENT) - RECENT + 1)[None, :]
    times = made.op("Add", made.unsqueeze("time"), made.rows(seconds, "sensor", np.int64))
    a_day = int(DAY.total_seconds())
    since_midnight = made.cast(made.op("Mod", times, made.constant(a_day, np.int64)), "double")
    phase = made.op("Div", since_midnight, made.constant(float(a_day)))
    angle = made.op("Mul", phase, made.constant(2 * np.pi))
    angles = made.op("Mul", made.unsqueeze(angle, 2), made.constant(np.arange(1, HARMONICS + 1)))
    found = made.rows(profile[:, :1], "sensor")
    for ahead, first in ((0.0, 1), (np.pi / 2, 2)):
        wave = made.op("Sin", made.op("Add", angles, made.constant(ahead)))
        weights = made.unsqueeze(made.rows(profile[:, first::2], "sensor"))
        found = made.op("Add", found, made.total(made.op("Mul", wave, weights), 2))
    return found


def _trailing(made: Builder, held: str, width: int) -> str:
    """For how many of the last of `width` columns `held` is true, without a break; (rows, 1), as double."""
    number = made.constant(np.arange(1.0, width + 1))
    breaks = made.op("Where", held, made.constant(0.0), number)
    return made.op("Sub", made.constant(float(width)), made.op("ReduceMax", breaks, axes=[1], keepdims=1))


def _repeats(made: Builder) -> str:
    """How many readings before the last one had its value, without a break."""
    now, before = made.columns("readings", 1, WINDOW), made.columns("readings", 0, WINDOW - 1)
    return _trailing(made, made.op("Equal", now, before), WINDOW - 1)


def discrete(params: pl.DataFrame) -> Graph:
    """As `models.devices.discrete.score`."""
    made = Builder()
    values, of_value, of_run = (params[name].to_numpy() for name in ("values", "p_of_value", "p_of_run"))
    now = made.column("readings", WINDOW - 1)
    seen = made.op("Equal", now, made.rows(values, "sensor"))
    chances = made.op("Where", seen, made.rows(of_value[:, :MOST_VALUES], "sensor"), made.constant(np.inf))
    rarity = made.op("ReduceMin", chances, axes=[1], keepdims=1)
    rarity = made.op("Where", made.op("IsInf", rarity), _of_new(made, params), rarity)
    lasting = _at(made, of_run, _repeats(made))
    absent = made.squeeze(made.op("IsNaN", now))
    cause = made.op(
        "Where",
        made.op("Less", lasting, rarity),
        made.constant(CHANNELS.index("flat"), np.int64),
        made.constant(CHANNELS.index("value"), np.int64),
    )
    p = made.op("Where", absent, made.constant(np.nan), made.squeeze(made.op("Min", rarity, lasting)))
    cause = made.op("Where", absent, made.constant(-1, np.int64), made.squeeze(cause))
    outputs = [(_of_p(made, p), SCORE), (p, P_VALUE), (cause, _CAUSE)]
    return made.graph("discrete", (SENSOR, _READINGS), outputs)


def _of_new(made: Builder, params: pl.DataFrame) -> str:
    """p-values of a value never seen, by how many of them there are in a row and how far out it is."""
    values = params["values"].to_numpy()
    known = made.op("IsNaN", "readings")
    for j in range(MOST_VALUES):
        same = made.op("Equal", "readings", made.rows(values[:, j : j + 1], "sensor"))
        known = made.op("Or", known, same)
    again = made.op("Sub", _trailing(made, made.op("Not", known), WINDOW), made.constant(1.0))
    found = _at(made, p_of_new(params), made.op("Max", again, made.constant(0.0)))
    now = made.column("readings", WINDOW - 1)
    low, high = (params[name].to_numpy()[:, None] for name in ("low", "high"))
    below = made.op("Sub", made.rows(low, "sensor"), now)
    above = made.op("Sub", now, made.rows(high, "sensor"))
    out = made.op("Max", made.op("Max", below, above), made.constant(0.0))
    width = np.where(high > low, high - low, np.inf)
    further = made.op("Add", made.op("Div", out, made.rows(width, "sensor")), made.constant(1.0))
    of_new = made.op("Max", made.op("Div", found, further), made.constant(P_FLOOR))
    late, step = (made.rows(column[:, None], "sensor") for column in p_of_step(params))
    past = made.rows(np.where(np.isnan(values), np.inf, values), "sensor")
    apart = made.op("ReduceMin", made.op("Abs", made.op("Sub", now, past)), axes=[1], keepdims=1)
    return made.op("Where", made.op("LessOrEqual", apart, step), made.op("Max", of_new, late), of_new)


def missing(params: pl.DataFrame) -> Graph:
    """As `models.devices.presence.gap_p_values`, and their scores."""
    made = Builder()
    gap = _trailing(made, made.op("IsNaN", "readings"), WINDOW)
    index = made.op("Max", made.op("Sub", gap, made.constant(1.0)), made.constant(0.0))
    found = _at(made, params["p_of_gap"].to_numpy().astype(float), index)
    there = made.op("Equal", gap, made.constant(0.0))
    p = made.squeeze(made.op("Where", there, made.constant(np.nan), found))
    score = Port(SCORE.name, SCORE.kind, (), "higher is more anomalous; NaN where there is a reading")
    return made.graph("missing", (SENSOR, _READINGS), [(_of_p(made, p), score), (p, P_VALUE)])


def _at(made: Builder, table: NDArray[np.float64], column: str) -> str:
    """A column of each sensor's row of `table`, by its number."""
    return made.op("GatherElements", made.rows(table, "sensor"), made.cast(column, "int64"), axis=1)


def _of_p(made: Builder, p: str) -> str:
    return made.op("Sqrt", made.op("Mul", made.constant(-2.0), made.op("Log", p)))
