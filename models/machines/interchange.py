"""The risks of a machines bundle as one ONNX graph, and their estimates for frames of features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from models.interchange import Graph, Interchange, Port
from models.machines.calibration import EDGE
from models.machines.estimators import Boosted, Classical
from models.machines.risks import BASE_RATE, NO_MODEL, Model, Risk
from models.onnx_graphs import Builder, Value

_OUTSIDE = (
    "Features: Almanac computes them from telemetry, errors, maintenance and failures; the graph takes them as inputs.",
    "Reasons for a probability (SHAP values), ranks, and the threshold of an alarm, which depends on costs: "
    "`bills` in plain/model.json.",
    "Remaining lives: the hazards are `lives` in plain/model.json, with their trees next to it.",
    "Why a component has no model: `risks` in interchange.json.",
)


def interchange(model: Model) -> Interchange:
    """One graph, with a probability for each component and horizon."""
    risks = [
        {"component": r.component, "horizon_hours": r.horizon_hours, "rung": r.rung, "reason": r.reason}
        for r in model.risks
    ]
    return Interchange([_graph(model)], _OUTSIDE, {"risks": risks, "estimator": model.options.estimator})


def column(component: str, horizon_hours: int) -> str:
    """The name of a probability: `comp1_24h`."""
    return f"{component}_{horizon_hours}h"


def _graph(model: Model) -> Graph:
    """Features -> calibrated probabilities, each at least that of a shorter horizon, as in `Model.predict`."""
    builder = Builder()
    columns, names = [], []
    least: dict[str, Value] = {}
    for risk in sorted(model.risks, key=lambda r: (r.component, r.horizon_hours)):
        probability = _risk(builder, risk)
        if risk.rung != NO_MODEL:
            probability = (
                builder.op("Max", probability, least[risk.component])
                if risk.component in least
                else probability
            )
            least[risk.component] = probability
        columns.append(probability)
        names.append(column(risk.component, risk.horizon_hours))
    features = tuple(feature.name for feature in model.features)
    inputs = (Port("features", "float", features, "the features in this order; NaN where unknown"),)
    about = "probability of a failure within the horizon, calibrated; NaN without a model"
    return builder.graph(
        "risks",
        inputs,
        [(builder.op("Concat", *columns, axis=1), Port("probability", "double", tuple(names), about))],
    )


def _risk(builder: Builder, risk: Risk) -> Value:
    if isinstance(risk.estimator, Boosted):
        score = builder.boosted("features", risk.estimator.file())
        return _calibrated(builder, builder.op("Sigmoid", score), risk.calibration)
    if isinstance(risk.estimator, Classical):
        trees = risk.estimator.trees
        arrays = {name: getattr(trees, name) for name in trees.__dataclass_fields__}
        return _calibrated(builder, builder.averaged("features", **arrays), risk.calibration)
    value = risk.base_rate if risk.rung == BASE_RATE else float("nan")
    rows = builder.op("Shape", builder.column("features", 0))
    return builder.op("Expand", builder.constant([[value]]), rows)


def _calibrated(builder: Builder, probability: Value, how: Mapping[str, Any]) -> Value:
    """As `models.machines.calibration.calibrated_probabilities`."""
    if how["kind"] == "platt":
        inside = builder.op("Clip", probability, EDGE, 1 - EDGE)
        odds = inside / (1.0 - inside)
        logit = how["slope"] * odds.log()
        return builder.op("Sigmoid", logit + how["intercept"])
    if how["kind"] == "isotonic":
        return _interpolated(builder, probability, np.array(how["from"]), np.array(how["to"]))
    return probability


def _interpolated(builder: Builder, x: Value, start: np.ndarray, value: np.ndarray) -> Value:
    """Linear between the points, flat beyond, as `numpy.interp`."""
    if len(start) == 1:
        return x * 0.0 + value[0]
    slope = np.diff(value) / np.diff(start)
    is_above = builder.cast(x >= start[None, :], "int64")
    count = builder.op("ReduceSum", is_above, builder.constant([1], np.int64), keepdims=1)
    at = count - builder.constant([[1]], np.int64)
    at = builder.op("Clip", at, builder.constant(0, np.int64), builder.constant(len(slope) - 1, np.int64))
    begin, level, rise = (
        builder.op("Gather", builder.constant(points), at, axis=0)
        for points in (start[:-1], value[:-1], slope)
    )
    y = level + (x - begin) * rise
    return builder.op("Clip", y, value[0], value[-1])


def estimate(model: Model, rows: pl.DataFrame) -> pl.DataFrame:
    """The probability of a failure per row: a column `<component>_<hours>h` for each risk; null without a model.

    `rows` has the features by name; absent features are unknown. Other columns are kept and come first.
    """
    names = {feature.name for feature in model.features}
    probabilities = model.predict(model.matrix(rows))
    columns = [pl.Series(column(*risk), values, nan_to_null=True) for risk, values in probabilities.items()]
    return rows.select(c for c in rows.columns if c not in names).hstack(columns)
