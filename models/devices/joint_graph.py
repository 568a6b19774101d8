"""The joint detectors of all devices as an ONNX graph.

Matrices of devices with different numbers of tags lie behind each other in one tensor; a row takes those of its
device, with zeros up to the most tags that any device has. In place of the system of equations that
`models.devices.joint` solves for the missing tags, these are eliminated one after the other: what remains of the
inverse correlation is that of the others by themselves (its Schur complement).
"""

import numpy as np
import polars as pl

from models.devices.channels import LEVEL_WEIGHTS
from models.devices.joint import CLIP
from models.devices.window_graphs import RECENT, UNITS, weighted_mean
from models.interchange import Graph, Port
from models.onnx_graphs import Builder

_SCORE = Port("score", "double", (), "higher is more anomalous; NaN where fewer than two tags have a reading")
_TINY = 1e-300


def joint(params: pl.DataFrame) -> Graph:
    """As `models.devices.joint.score`; tags that a device does not have may hold anything."""
    made = Builder()
    sizes = params["tags"].list.len().to_numpy().astype(np.int64)
    widest = int(sizes.max())
    size = made.rows(sizes[:, None], "device", np.int64)
    x, known = _tags(made, size, widest)
    count = made.total(made.cast(known, "double"), 2)
    complete = made.op("Equal", count, made.cast(size, "double"))
    matrix = _matrices(made, params["whole"], sizes, widest)
    square = _of_known(made, _quadratic(made, x, matrix), x, known, complete, matrix, widest)
    nothing = made.constant(np.nan)
    few = made.op("Less", count, made.constant(2.0))
    whole = made.op("Where", few, nothing, _normal(made, square, count))
    weak = _quadratic(made, x, _matrices(made, params["residual"], sizes, widest))
    directions = made.rows(params["directions"].to_numpy()[:, None], "device")
    usable = made.op("And", complete, made.op("Greater", directions, made.constant(0.0)))
    residual = made.op("Where", usable, _normal(made, weak, directions), nothing)
    found = [*_with_mean(made, params, "whole", whole), *_with_mean(made, params, "residual", residual)]
    stacked = made.op("Concat", *found, axis=1)
    stacked = made.op("Where", made.op("IsNaN", stacked), made.constant(-np.inf), stacked)
    now = (made.column(value, RECENT - 1) for value in (few, square))
    absent, squared = (made.squeeze(value) for value in now)
    score = made.op("ReduceMax", stacked, axes=[1], keepdims=0)
    outputs = [
        (made.op("Where", absent, nothing, score), _SCORE),
        (
            made.op("Where", absent, nothing, made.op("Sqrt", squared)),
            Port("distance", "double", (), "Mahalanobis distance of the tags"),
        ),
    ]
    return made.graph("joint", _inputs(widest), outputs)


def _inputs(widest: int) -> tuple[Port, Port]:
    columns = tuple(f"tag {tag}: {column}" for tag in range(widest) for column in UNITS.columns)
    about = "`units` of the graph `robust` of each of the device's `tags`, one after the other, then anything"
    return (
        Port("device", "int64", (), "number of the device, by `sensors` in interchange.json"),
        Port("units", "double", columns, about),
    )


def _tags(made: Builder, size: str, widest: int) -> tuple[str, str]:
    """The tags of each interval (rows, RECENT, widest), zero where there is none, and which there are."""
    cube = made.op("Reshape", "units", made.constant([-1, widest, RECENT], np.int64))
    tags = made.op("Transpose", cube, perm=[0, 2, 1])
    own = made.op("Less", made.constant(np.arange(widest), np.int64), made.unsqueeze(size, 2))
    known = made.op("And", made.op("Not", made.op("IsNaN", tags)), own)
    filled = made.op("Where", known, tags, made.constant(0.0))
    return made.op("Clip", filled, made.constant(-CLIP), made.constant(CLIP)), known


def _matrices(made: Builder, lists: pl.Series, sizes: np.ndarray, widest: int) -> str:
    """The matrix of each row's device (rows, widest, widest), with zeros for the tags that it does not have."""
    values = np.append(lists.explode(empty_as_null=False).to_numpy(), 0.0)
    begin = np.concatenate([[0], np.cumsum(sizes**2)])[:-1]
    first, size = (made.rows(n[:, None, None], "device", np.int64) for n in (begin, sizes))
    row = made.constant(np.arange(widest)[None, :, None], np.int64)
    column = made.constant(np.arange(widest)[None, None, :], np.int64)
    inside = made.op("And", made.op("Less", row, size), made.op("Less", column, size))
    at = made.op("Add", made.op("Add", first, made.op("Mul", row, size)), column)
    at = made.op("Where", inside, at, made.constant(len(values) - 1, np.int64))
    return made.op("Gather", made.constant(values), at, axis=0)


def _quadratic(made: Builder, x: str, matrix: str) -> str:
    """The squared distances of x (rows, n, widest) by the matrix of each row, (rows, n)."""
    found = made.total(made.op("Mul", x, made.op("MatMul", x, matrix)), 2)
    return made.op("Max", found, made.constant(0.0))


def _of_known(made: Builder, square: str, x: str, known: str, complete: str, matrix: str, widest: int) -> str:
    """`square` with the distances of the cells that are not `complete` by the tags that are `known` there."""
    flat, by_tag = made.constant([-1], np.int64), made.constant([-1, widest], np.int64)
    cells = made.squeeze(made.op("NonZero", made.op("Not", made.op("Reshape", complete, flat))), 0)
    values, there = (made.op("Gather", made.op("Reshape", v, by_tag), cells, axis=0) for v in (x, known))
    row = made.op("Div", cells, made.constant(RECENT, np.int64))
    absent, left = made.unsqueeze(made.op("Not", there), 2), made.op("Gather", matrix, row, axis=0)
    for tag in range(widest):
        at = made.constant([tag], np.int64)
        column, across = (made.op("Gather", left, at, axis=axis) for axis in (2, 1))
        pivot = made.op("Max", made.op("Gather", column, at, axis=1), made.constant(_TINY))
        part = made.op("Mul", made.op("Div", column, pivot), across)
        gone = made.op("Where", made.op("Gather", absent, at, axis=1), part, made.constant(0.0))
        left = made.op("Sub", left, gone)
    found = made.squeeze(_quadratic(made, made.unsqueeze(values), left))
    whole = made.op("ScatterElements", made.op("Reshape", square, flat), cells, found, axis=0)
    return made.op("Reshape", whole, made.constant([-1, RECENT], np.int64))


def _normal(made: Builder, squared: str, count: str) -> str:
    """As `models.devices.joint._normal`."""
    least = made.op("Max", count, made.constant(1.0))
    share = made.op("Div", made.constant(2 / 9), least)
    root = made.op("Pow", made.op("Div", squared, least), made.constant(1 / 3))
    middle = made.op("Sub", made.constant(1.0), share)
    return made.op("Div", made.op("Sub", root, middle), made.op("Sqrt", share))


def _with_mean(made: Builder, params: pl.DataFrame, name: str, normal: str) -> tuple[str, str]:
    center, scale = (
        made.rows(params[f"{name}_{what}"].to_numpy()[:, None], "device") for what in ("center", "scale")
    )
    mean = weighted_mean(made, normal, LEVEL_WEIGHTS, [RECENT - 1], RECENT)
    return made.column(normal, RECENT - 1), made.op("Div", made.op("Sub", mean, center), scale)
