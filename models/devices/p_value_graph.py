"""The calibration of a bundle as an ONNX graph: p-values of scores, for both sensors and joint detectors."""

import numpy as np
import polars as pl

from models.devices.calibration import BODY, P_FLOOR, SAME, Tails, nonzero
from models.devices.window_graphs import P_VALUE, SENSOR
from models.interchange import Graph, Port
from models.onnx_graphs import Builder, Value


def p_values(calibration: pl.DataFrame, corrections: pl.DataFrame) -> Graph:
    """As `models.devices.calibration.Tails.p_values`, then `corrected` by the sensor's rung."""
    builder, tails = Builder(), Tails.of(calibration)
    shape = nonzero(tails.shape)
    share = tails.k / (tails.n + 1)
    threshold, scale, shape_, base = (
        builder.rows(values, "sensor") for values in (tails.threshold, tails.scale, shape, share)
    )
    one = builder.constant(1.0)
    over = builder.value("score") - threshold
    above = builder.op("Max", over, 0.0) / scale
    power = -1.0 / shape_
    growth = builder.op("Max", one + shape_ * above, 0.0)
    tail = base * growth**power
    higher = builder.unsqueeze("score") > builder.rows(tails.body + SAME, "sensor")
    rank = builder.total(builder.cast(higher, "double"), 1) - one
    steps = builder.op("Max", rank, 0.0) / float(BODY - 1)
    inner = one - (one - base) * steps
    p = builder.op("Where", over > SAME, builder.op("Max", tail, P_FLOOR), builder.op("Max", inner, base))
    p = _corrected_p_values(builder, p, calibration["rung"], corrections)
    nothing = builder.value("score").is_nan() | threshold.is_nan()
    p = builder.op("Where", nothing, np.nan, p)
    score = Port("score", "double", (), "of the sensor's own detector")
    return builder.graph("p_values", (SENSOR, score), [(p, P_VALUE)])


def _corrected_p_values(builder: Builder, p: Value, rung: pl.Series, corrections: pl.DataFrame) -> Value:
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
    logarithm = p.log()
    apart = builder.unsqueeze(logarithm) - builder.rows(begin, at)
    inside = builder.op("Min", builder.op("Max", apart, 0.0), builder.rows(width, at))
    climb = builder.total(inside * builder.rows(slope, at), 1)
    first, start = builder.rows(grid[:, 0], at), builder.rows(value[:, 0], at)
    below = logarithm + (start - first)
    between = start + climb
    result = builder.op("Where", logarithm < first, below, between).exp()
    last, end = (builder.rows([part[c][-1] for part in by_rung], at) for c in ("p", "corrected"))
    high = p >= last
    result = builder.op("Where", high, builder.op("Max", p, end), result)
    return builder.op("Where", builder.rows(has_correction, "sensor", np.bool_), result, p)
