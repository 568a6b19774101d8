"""The joint detectors of all devices as an ONNX graph.

Matrices of devices with different numbers of tags are concatenated in one tensor; a row uses those of its
device, padded with zeros to the maximum number of tags. Instead of solving a system of equations for the missing tags,
as `models.devices.joint` does, the graph eliminates them one after the other: the rest of the
inverse correlation is that of the other tags (its Schur complement).
"""

import numpy as np
import polars as pl

from models.devices.channels import LEVEL_WEIGHTS
from models.devices.joint import CLIP
from models.devices.window_graphs import RECENT, UNITS, weighted_mean
from models.interchange import Graph, Port
from models.onnx_graphs import Builder, Value

_SCORE = Port("score", "double", (), "higher is more anomalous; NaN if fewer than two tags have a reading")
_TINY = 1e-300


def joint(params: pl.DataFrame) -> Graph:
    """As `models.devices.joint.score`; the values of tags that a device does not have are ignored."""
    builder = Builder()
    sizes = params["tags"].list.len().to_numpy().astype(np.int64)
    widest = int(sizes.max())
    size = builder.rows(sizes[:, None], "device", np.int64)
    x, present = _tags(builder, size, widest)
    count = builder.total(builder.cast(present, "double"), 2)
    complete = count.equals(builder.cast(size, "double"))
    matrix = _matrices(builder, params["whole"], sizes, widest)
    square = _of_present(builder, _quadratic(builder, x, matrix), x, present, complete, matrix, widest)
    nothing = builder.constant(np.nan)
    few = count < 2.0
    whole = builder.op("Where", few, nothing, _normal(builder, square, count))
    weak = _quadratic(builder, x, _matrices(builder, params["residual"], sizes, widest))
    directions = builder.rows(params["directions"].to_numpy()[:, None], "device")
    usable = complete & (directions > 0.0)
    residual = builder.op("Where", usable, _normal(builder, weak, directions), nothing)
    channels = [
        *_with_mean(builder, params, "whole", whole),
        *_with_mean(builder, params, "residual", residual),
    ]
    values = builder.op("Concat", *channels, axis=1)
    values = builder.op("Where", values.is_nan(), -np.inf, values)
    now = (builder.column(value, RECENT - 1) for value in (few, square))
    absent, squares = (builder.squeeze(value) for value in now)
    score = builder.op("ReduceMax", values, axes=[1], keepdims=0)
    outputs = [
        (builder.op("Where", absent, nothing, score), _SCORE),
        (
            builder.op("Where", absent, nothing, squares.sqrt()),
            Port("distance", "double", (), "Mahalanobis distance of the tags"),
        ),
    ]
    return builder.graph("joint", _inputs(widest), outputs)


def _inputs(widest: int) -> tuple[Port, Port]:
    columns = tuple(f"tag {tag}: {column}" for tag in range(widest) for column in UNITS.columns)
    about = (
        "`units` of the graph `robust` for each of the device's `tags`, in order; further values are ignored"
    )
    return (
        Port("device", "int64", (), "number of the device, by `sensors` in interchange.json"),
        Port("units", "double", columns, about),
    )


def _tags(builder: Builder, size: Value, widest: int) -> tuple[Value, Value]:
    """The tags of each interval (rows, RECENT, widest), zero if missing, and which are present."""
    cube = builder.op("Reshape", "units", builder.constant([-1, widest, RECENT], np.int64))
    tags = builder.op("Transpose", cube, perm=[0, 2, 1])
    own = builder.constant(np.arange(widest), np.int64) < builder.unsqueeze(size, 2)
    present = ~tags.is_nan() & own
    values = builder.op("Where", present, tags, 0.0)
    return builder.op("Clip", values, -CLIP, CLIP), present


def _matrices(builder: Builder, lists: pl.Series, sizes: np.ndarray, widest: int) -> Value:
    """The matrix of each row's device (rows, widest, widest), with zeros for tags that the device lacks."""
    values = np.append(lists.explode(empty_as_null=False).to_numpy(), 0.0)
    begin = np.concatenate([[0], np.cumsum(sizes**2)])[:-1]
    first, size = (builder.rows(n[:, None, None], "device", np.int64) for n in (begin, sizes))
    row = builder.constant(np.arange(widest)[None, :, None], np.int64)
    column = builder.constant(np.arange(widest)[None, None, :], np.int64)
    inside = (row < size) & (column < size)
    at = first + row * size + column
    at = builder.op("Where", inside, at, builder.constant(len(values) - 1, np.int64))
    return builder.op("Gather", builder.constant(values), at, axis=0)


def _quadratic(builder: Builder, x: Value, matrix: Value) -> Value:
    """The squared distances of x (rows, n, widest) by the matrix of each row, (rows, n)."""
    form = builder.total(x * (x @ matrix), 2)
    return builder.op("Max", form, 0.0)


def _of_present(
    builder: Builder, square: Value, x: Value, present: Value, complete: Value, matrix: Value, widest: int
) -> Value:
    """`square` with the distances of the cells that are not `complete`, over the tags that are `present` there."""
    flat, by_tag = builder.constant([-1], np.int64), builder.constant([-1, widest], np.int64)
    cells = builder.squeeze(builder.op("NonZero", ~builder.op("Reshape", complete, flat)), 0)
    values, there = (
        builder.op("Gather", builder.op("Reshape", v, by_tag), cells, axis=0) for v in (x, present)
    )
    row = cells // builder.constant(RECENT, np.int64)
    absent, rest = builder.unsqueeze(~there, 2), builder.op("Gather", matrix, row, axis=0)
    for tag in range(widest):
        at = builder.constant([tag], np.int64)
        column, across = (builder.op("Gather", rest, at, axis=axis) for axis in (2, 1))
        pivot = builder.op("Max", builder.op("Gather", column, at, axis=1), _TINY)
        part = column / pivot * across
        reduction = builder.op("Where", builder.op("Gather", absent, at, axis=1), part, 0.0)
        rest = rest - reduction
    distances = builder.squeeze(_quadratic(builder, builder.unsqueeze(values), rest))
    whole = builder.op("ScatterElements", builder.op("Reshape", square, flat), cells, distances, axis=0)
    return builder.op("Reshape", whole, builder.constant([-1, RECENT], np.int64))


def _normal(builder: Builder, squares: Value, count: Value) -> Value:
    """As `models.devices.joint._normal`."""
    least = builder.op("Max", count, 1.0)
    share = 2 / 9 / least
    root = (squares / least) ** (1 / 3)
    middle = 1.0 - share
    return (root - middle) / share.sqrt()


def _with_mean(builder: Builder, params: pl.DataFrame, name: str, normal: Value) -> tuple[Value, Value]:
    center, scale = (
        builder.rows(params[f"{name}_{what}"].to_numpy()[:, None], "device") for what in ("center", "scale")
    )
    mean = weighted_mean(builder, normal, LEVEL_WEIGHTS, [RECENT - 1], RECENT)
    return builder.column(normal, RECENT - 1), (mean - center) / scale
