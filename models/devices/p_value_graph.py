"""The calibration of a bundle as an ONNX graph: p-values of scores, for both sensors and joint detectors."""

import numpy as np
import polars as pl

from models.devices.calibration import BODY, P_FLOOR, SAME, Tails, nonzero
from models.devices.window_graphs import P_VALUE, SENSOR
from models.interchange import Graph, Port
from models.onnx_graphs import Builder


def p_values(calibration: pl.DataFrame, corrections: pl.DataFrame) -> Graph:
    """As `models.devices.calibration.Tails.p_values`, then `corrected` by the sensor's rung."""
    builder, tails = Builder(), Tails.of(calibration)
    shape = nonzero(tails.shape)
    share = tails.k / (tails.n + 1)
    threshold, scale, shape_, base = (
        builder.rows(values, "sensor") for values in (tails.threshold, tails.scale, shape, share)
    )
    one = builder.constant(1.0)
    over = builder.op("Sub", "score", threshold)
    above = builder.op("Div", builder.op("Max", over, builder.constant(0.0)), scale)
    power = builder.op("Div", builder.constant(-1.0), shape_)
    growth = builder.op(
        "Max", builder.op("Add", one, builder.op("Mul", shape_, above)), builder.constant(0.0)
    )
    tail = builder.op("Mul", base, builder.op("Pow", growth, power))
    higher = builder.op("Greater", builder.unsqueeze("score"), builder.rows(tails.body + SAME, "sensor"))
    rank = builder.op("Sub", builder.total(builder.cast(higher, "double"), 1), one)
    steps = builder.op(
        "Div", builder.op("Max", rank, builder.constant(0.0)), builder.constant(float(BODY - 1))
    )
    inner = builder.op("Sub", one, builder.op("Mul", builder.op("Sub", one, base), steps))
    p = builder.op(
        "Where",
        builder.op("Greater", over, builder.constant(SAME)),
        builder.op("Max", tail, builder.constant(P_FLOOR)),
        builder.op("Max", inner, base),
    )
    p = _corrected_p_values(builder, p, calibration["rung"], corrections)
    nothing = builder.op("Or", builder.op("IsNaN", "score"), builder.op("IsNaN", threshold))
    p = builder.op("Where", nothing, builder.constant(np.nan), p)
    score = Port("score", "double", (), "of the sensor's own detector")
    return builder.graph("p_values", (SENSOR, score), [(p, P_VALUE)])


def _corrected_p_values(builder: Builder, p: str, rung: pl.Series, corrections: pl.DataFrame) -> str:
    """As `models.devices.calibration.corrected_p_values`: on logarithms, a sum of slopes, each over its own range."""
    if corrections.is_empty():
        return p
    rungs = corrections["rung"].unique(maintain_order=True).to_list()
    by_rung = [corrections.filter(rung=name).sort("p") for name in rungs]
    grid, value = (np.log(np.stack([part[c].to_numpy() for part in by_rung])) for c in ("p", "corrected"))
    has_correction = rung.is_in(rungs).to_numpy()
    numbers = rung.replace_strict(rungs, list(range(len(rungs))), default=0, return_dtype=pl.Int64)
    at = builder.rows(numbers.to_numpy(), "sensor", np.int64)
    begin, width = grid[:, :-1], np.diff(grid, axis=1)
    slope = np.divide(np.diff(value, axis=1), width, out=np.zeros_like(width), where=width > 0)
    logarithm = builder.op("Log", p)
    apart = builder.op("Sub", builder.unsqueeze(logarithm), builder.rows(begin, at))
    inside = builder.op("Min", builder.op("Max", apart, builder.constant(0.0)), builder.rows(width, at))
    climb = builder.total(builder.op("Mul", inside, builder.rows(slope, at)), 1)
    first, start = builder.rows(grid[:, 0], at), builder.rows(value[:, 0], at)
    below = builder.op("Add", logarithm, builder.op("Sub", start, first))
    between = builder.op("Add", start, climb)
    result = builder.op("Exp", builder.op("Where", builder.op("Less", logarithm, first), below, between))
    last, end = (builder.rows([part[c][-1] for part in by_rung], at) for c in ("p", "corrected"))
    high = builder.op("GreaterOrEqual", p, last)
    result = builder.op("Where", high, builder.op("Max", p, end), result)
    return builder.op("Where", builder.rows(has_correction, "sensor", np.bool_), result, p)
