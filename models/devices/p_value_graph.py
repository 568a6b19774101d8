"""The calibration of a bundle as an ONNX graph: p-values of scores, of sensors and joint detectors alike."""

import numpy as np
import polars as pl

from models.devices.calibration import BODY, P_FLOOR, SAME, Tails, nonzero
from models.devices.window_graphs import P_VALUE, SENSOR
from models.interchange import Graph, Port
from models.onnx_graphs import Builder


def p_values(calibration: pl.DataFrame, corrections: pl.DataFrame) -> Graph:
    """As `models.devices.calibration.Tails.p_values`, then `corrected` by the sensor's rung."""
    made, tails = Builder(), Tails.of(calibration)
    shape = nonzero(tails.shape)
    share = tails.k / (tails.n + 1)
    threshold, scale, shape_, base = (
        made.rows(values, "sensor") for values in (tails.threshold, tails.scale, shape, share)
    )
    one = made.constant(1.0)
    over = made.op("Sub", "score", threshold)
    above = made.op("Div", made.op("Max", over, made.constant(0.0)), scale)
    power = made.op("Div", made.constant(-1.0), shape_)
    left = made.op("Max", made.op("Add", one, made.op("Mul", shape_, above)), made.constant(0.0))
    tail = made.op("Mul", base, made.op("Pow", left, power))
    higher = made.op("Greater", made.unsqueeze("score"), made.rows(tails.body + SAME, "sensor"))
    rank = made.op("Sub", made.total(made.cast(higher, "double"), 1), one)
    steps = made.op("Div", made.op("Max", rank, made.constant(0.0)), made.constant(float(BODY - 1)))
    inner = made.op("Sub", one, made.op("Mul", made.op("Sub", one, base), steps))
    p = made.op(
        "Where",
        made.op("Greater", over, made.constant(SAME)),
        made.op("Max", tail, made.constant(P_FLOOR)),
        made.op("Max", inner, base),
    )
    p = _corrected(made, p, calibration["rung"], corrections)
    nothing = made.op("Or", made.op("IsNaN", "score"), made.op("IsNaN", threshold))
    p = made.op("Where", nothing, made.constant(np.nan), p)
    score = Port("score", "double", (), "of the sensor's own detector")
    return made.graph("p_values", (SENSOR, score), [(p, P_VALUE)])


def _corrected(made: Builder, p: str, rung: pl.Series, corrections: pl.DataFrame) -> str:
    """As `models.devices.calibration.corrected`: on logarithms a sum of slopes, each over its own range."""
    if corrections.is_empty():
        return p
    rungs = corrections["rung"].unique(maintain_order=True).to_list()
    by_rung = [corrections.filter(rung=name).sort("p") for name in rungs]
    grid, value = (np.log(np.stack([part[c].to_numpy() for part in by_rung])) for c in ("p", "corrected"))
    known = rung.is_in(rungs).to_numpy()
    numbers = rung.replace_strict(rungs, list(range(len(rungs))), default=0, return_dtype=pl.Int64)
    at = made.rows(numbers.to_numpy(), "sensor", np.int64)
    begin, width = grid[:, :-1], np.diff(grid, axis=1)
    slope = np.divide(np.diff(value, axis=1), width, out=np.zeros_like(width), where=width > 0)
    logarithm = made.op("Log", p)
    apart = made.op("Sub", made.unsqueeze(logarithm), made.rows(begin, at))
    inside = made.op("Min", made.op("Max", apart, made.constant(0.0)), made.rows(width, at))
    climbed = made.total(made.op("Mul", inside, made.rows(slope, at)), 1)
    first, start = made.rows(grid[:, 0], at), made.rows(value[:, 0], at)
    below = made.op("Add", logarithm, made.op("Sub", start, first))
    between = made.op("Add", start, climbed)
    found = made.op("Exp", made.op("Where", made.op("Less", logarithm, first), below, between))
    last, end = (made.rows([part[c][-1] for part in by_rung], at) for c in ("p", "corrected"))
    high = made.op("GreaterOrEqual", p, last)
    found = made.op("Where", high, made.op("Max", p, end), found)
    return made.op("Where", made.rows(known, "sensor", np.bool_), found, p)
