"""The risks of a machines bundle as one ONNX graph, and the same for frames of features."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from models.interchange import Graph, Interchange, Port
from models.machines.calibration import EDGE
from models.machines.estimators import Boosted, Classical
from models.machines.risks import BASE_RATE, NO_MODEL, Model, Risk
from models.onnx_graphs import Builder

_OUTSIDE = (
    "Features: they are made from telemetry, errors, maintenance and failures by Almanac; the graph takes them ready.",
    "Reasons of a probability (SHAP values), ranks, and the threshold of an alarm, which follows from costs: "
    "`bills` in plain/model.json.",
    "Remaining lives: the hazards are `lives` in plain/model.json, and their trees beside it.",
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
    """Features -> calibrated probabilities, each at least that of a shorter horizon, as `Model.predict`."""
    made = Builder()
    columns, names = [], []
    least: dict[str, str] = {}
    for risk in sorted(model.risks, key=lambda r: (r.component, r.horizon_hours)):
        said = _risk(made, risk)
        if risk.rung != NO_MODEL:
            said = made.op("Max", said, least[risk.component]) if risk.component in least else said
            least[risk.component] = said
        columns.append(said)
        names.append(column(risk.component, risk.horizon_hours))
    features = tuple(feature.name for feature in model.features)
    inputs = (Port("features", "float", features, "the features in this order; NaN where unknown"),)
    about = "probability of a failure within the horizon, calibrated; NaN without model"
    return made.graph(
        "risks",
        inputs,
        [(made.op("Concat", *columns, axis=1), Port("probability", "double", tuple(names), about))],
    )


def _risk(made: Builder, risk: Risk) -> str:
    if isinstance(risk.estimator, Boosted):
        score = made.boosted("features", risk.estimator.file())
        return _calibrated(made, made.op("Sigmoid", score), risk.calibration)
    if isinstance(risk.estimator, Classical):
        trees = risk.estimator.trees
        arrays = {name: getattr(trees, name) for name in trees.__dataclass_fields__}
        return _calibrated(made, made.averaged("features", **arrays), risk.calibration)
    value = risk.base_rate if risk.rung == BASE_RATE else float("nan")
    rows = made.op("Shape", made.column("features", 0))
    return made.op("Expand", made.constant([[value]]), rows)


def _calibrated(made: Builder, probability: str, how: Mapping[str, Any]) -> str:
    """As `models.machines.calibration.calibrated`."""
    if how["kind"] == "platt":
        inside = made.op("Clip", probability, made.constant(EDGE), made.constant(1 - EDGE))
        odds = made.op("Div", inside, made.op("Sub", made.constant([[1.0]]), inside))
        logit = made.op("Mul", made.constant([[how["slope"]]]), made.op("Log", odds))
        return made.op("Sigmoid", made.op("Add", logit, made.constant([[how["intercept"]]])))
    if how["kind"] == "isotonic":
        return _interpolated(made, probability, np.array(how["from"]), np.array(how["to"]))
    return probability


def _interpolated(made: Builder, x: str, start: np.ndarray, value: np.ndarray) -> str:
    """Linear between the points, flat beyond, as `numpy.interp`."""
    if len(start) == 1:
        return made.op("Add", made.op("Mul", x, made.constant([[0.0]])), made.constant([[value[0]]]))
    slope = np.diff(value) / np.diff(start)
    reached = made.cast(made.op("GreaterOrEqual", x, made.constant(start[None, :])), "int64")
    count = made.op("ReduceSum", reached, made.constant([1], np.int64), keepdims=1)
    at = made.op("Sub", count, made.constant([[1]], np.int64))
    at = made.op("Clip", at, made.constant(0, np.int64), made.constant(len(slope) - 1, np.int64))
    begin, level, rise = (
        made.op("Gather", made.constant(points), at, axis=0) for points in (start[:-1], value[:-1], slope)
    )
    found = made.op("Add", level, made.op("Mul", made.op("Sub", x, begin), rise))
    return made.op("Clip", found, made.constant(value[0]), made.constant(value[-1]))


def estimate(model: Model, rows: pl.DataFrame) -> pl.DataFrame:
    """The probability of a failure per row: a column `<component>_<hours>h` for each risk; null without model.

    `rows` has the features by name; one that is absent is unknown. Further columns are kept, in front.
    """
    names = {feature.name for feature in model.features}
    found = model.predict(model.matrix(rows))
    said = [pl.Series(column(*risk), values, nan_to_null=True) for risk, values in found.items()]
    return rows.select(c for c in rows.columns if c not in names).hstack(said)
