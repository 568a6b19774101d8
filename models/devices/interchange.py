"""Detectors of a devices bundle as ONNX graphs, one per kind for all sensors, and their scores for frames of readings.

The inputs of a graph are, per row, the number of a sensor and its readings. As in the bundle, parameters are columns in
the graph, so that thousands of sensors need only one file and one call.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.contracts import KEY
from models.devices.grid import matrix_of
from models.devices.joint_graph import joint
from models.devices.model import Model
from models.devices.options import HIGHEST_ALPHA, Options
from models.devices.p_value_graph import p_values
from models.devices.pace import paces_in
from models.devices.scoring import score_span
from models.devices.window_graphs import SCORE, SENSOR, discrete, missing, robust
from models.interchange import Graph, Interchange, Port
from models.onnx_graphs import Builder

_OUTSIDE = (
    "The choice of the graph for a sensor: `sensors` in interchange.json has the rung of each under `missing`. The graph "
    "of `robust_*` is `robust`; of `constant` and `few_values`, `discrete`; of `none` and absent sensors, `pooled`.",
    "The p-value of the `pooled` distance: `2 * scipy.special.stdtr(sensors - 1, -score)` with the tag's `sensors` in "
    "plain/pooled.parquet, because ONNX has no Student's t.",
    "Verdicts and bands: a reading is an anomaly if its p-value is at most the alpha of the run. A missing reading has a "
    f"row if its p-value is at most {HIGHEST_ALPHA}.",
    "Flat lines as a finding of a key, incidents and alarms.",
)
_INPUTS = (
    SENSOR,
    Port("value", "double", (), "the mean of the interval's readings; NaN gives NaN"),
)


def interchange(model: Model) -> Interchange:
    """A graph for each kind of detector in the bundle, and one for all p-values.

    `sensors` of the facts lists, for each graph, its sensors, tags or devices in the order of their numbers; under
    `missing` all sensors, with the rung that scores each, its time zone, and its pace (the number of intervals of the
    store in one interval of its windows). For sensors with another detector, `robust` serves only `joint`.
    """
    corrections = model.frames.get("corrections", pl.DataFrame())
    kinds: tuple[tuple[str, str, Callable[[pl.DataFrame], Graph]], ...] = (
        ("robust", "robust", lambda params: robust(params, _intervals(model, params))),
        ("one_class_svm", "one_class_svm", _one_class_svm),
        ("isolation_forest", "isolation_forest", _isolation_forest),
        ("discrete", "discrete", discrete),
        ("pooled", "pooled", _pooled),
        ("joint", "joint", joint),
        ("missing", "sensors", missing),
        ("p_values", "calibration", lambda params: p_values(params, corrections)),
    )
    graphs: list[Graph] = []
    sensors = {}
    for name, kind, build in kinds:
        params = model.frames.get(kind, pl.DataFrame())
        if params.height:
            graphs.append(build(params))
            columns = [
                column for column in (*KEY, "tags", "rung", "pace", "timezone") if column in params.columns
            ]
            sensors[name] = params.select(columns).with_row_index("number").to_dicts()
    rungs = model.frames["sensors"]["rung"].value_counts().sort("rung").to_dicts()
    facts = {"sensors": sensors, "rungs": rungs, **model.options}
    return Interchange(graphs, _OUTSIDE, facts)


def _intervals(model: Model, params: pl.DataFrame) -> NDArray[np.int64]:
    """The interval of each sensor's windows in seconds: the store's, times its pace."""
    step = Options.of(model.options).step
    paces = paces_in(model.frames, params)["pace"].to_numpy()
    return paces * int(step.total_seconds())


def _one_class_svm(params: pl.DataFrame) -> Graph:
    """As `models.devices.one_class_svm.score`; padding has weight zero."""
    builder = Builder()
    widest = max(int(params["support"].list.len().max()), 1)  # type: ignore[arg-type]
    center, scale, gamma, intercept = (
        builder.rows(params[name].to_numpy(), "sensor") for name in ("center", "scale", "gamma", "intercept")
    )
    support, coefficient = (
        builder.rows(matrix_of(params[name], widest), "sensor") for name in ("support", "coefficient")
    )
    z = (builder.value("value") - center) / scale
    one = builder.constant([1], np.int64)
    apart = builder.op("Unsqueeze", z, one) - support
    near = apart * apart * builder.op("Unsqueeze", -gamma, one)
    total = builder.op("ReduceSum", coefficient * near.exp(), one, keepdims=0)
    return builder.graph("one_class_svm", _INPUTS, [(-(total + intercept), SCORE)])


def _isolation_forest(params: pl.DataFrame) -> Graph:
    """As `models.devices.isolation_forest.score`: a binary search among each sensor's steps, all rows at once."""
    builder = Builder()
    sizes = params["threshold"].list.len().to_numpy().astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    threshold = params["threshold"].explode(empty_as_null=False).to_numpy()
    depth = params["depth"].explode(empty_as_null=False).to_numpy()
    steps = builder.constant(np.append(threshold, np.inf))
    low = first = builder.rows(begin, "sensor", np.int64)
    high = low + builder.rows(sizes, "sensor", np.int64)
    x = builder.cast(builder.cast("value", "float"), "double")
    one, two = builder.constant(1, np.int64), builder.constant(2, np.int64)
    for _ in range(int(sizes.max()).bit_length()):
        middle = (low + high) // two
        open_ = low < high
        below = builder.op("Gather", steps, middle, axis=0) < x
        more = open_ & below
        high = builder.op("Where", open_ & ~below, middle, high)
        low = builder.op("Where", more, middle + one, low)
    at = low - first + (first + builder.value("sensor"))
    total = builder.op("Gather", builder.constant(depth), at, axis=0)
    normaliser, offset = (
        builder.rows(params[name].to_numpy(), "sensor") for name in ("normaliser", "offset")
    )
    power = (-total / normaliser * np.log(2)).exp()
    score = builder.op("Where", builder.value("value").is_nan(), np.nan, power + offset)
    return builder.graph("isolation_forest", _INPUTS, [(score, SCORE)])


def _pooled(params: pl.DataFrame) -> Graph:
    """As `models.devices.pooled.score`: the distance from the centre of all sensors of the tag."""
    builder = Builder()
    center, scale = (builder.rows(params[name].to_numpy(), "sensor") for name in ("center", "scale"))
    distance = abs(builder.value("value") - center) / scale
    return builder.graph("pooled", _INPUTS, [(distance, SCORE)])


def estimate(model: Model, rows: pl.DataFrame) -> pl.DataFrame:
    """The published columns (see `models.devices.rows.SCORES`) for readings per interval, all sensors at once.

    `rows` has `device`, `tag`, `time` (UTC, the start of the interval) and `mean`. The first 60 intervals, at which
    the detectors look back, also have rows: they are scored from the intervals before them.
    """
    options = Options.of(model.options)
    keys = rows.select(*KEY).unique().sort(*KEY)
    first, last = rows["time"].min(), rows["time"].max()
    until = last + options.step  # type: ignore[operator]
    return score_span(model, rows.lazy(), keys, first, until, options).rows  # type: ignore[arg-type]
