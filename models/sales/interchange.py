"""The pooled quantile models of a sales bundle as ONNX graphs, and their estimates for frames of features."""

from dataclasses import replace

import numpy as np
import polars as pl

from models.interchange import Graph, Interchange, Port
from models.onnx_graphs import Builder
from models.sales import contest
from models.sales.contest import NO_PLAN, POOLED
from models.sales.model import Model
from models.sales.options import quantile_column
from models.sales.panel import OFFSET
from models.sales.pooled import Pooled
from models.sales.preparation import FEATURE

_OUTSIDE = (
    "Features: Almanac computes them from the history and the plan (`sales train` writes those of its rows to "
    "the run's folder, `parts/train`); they are inputs of the graphs.",
    "The choice of the graph for a row: `pooled` if its week is in the plan, else `pooled_no_plan`.",
    "The offsets of calibration: `calibration` in interchange.json, looked up by rung, kind and third of the "
    "horizon; null stands for any. Use the most specific line that matches. After a short backtest, the distance of each "
    "quantile from the median, on the log scale, is then multiplied by the factor of its step in `widths`.",
    "The rungs `statistical`, `blend` and those of keys with too little history: `own_models` and `own_keys` are "
    "in plain/ as Parquet, without a graph.",
    "The naive forecasts and means: `unplanned` in interchange.json names the candidate of each kind of demand for weeks "
    "without a plan, `planned` those that replace the models in planned weeks.",
)


def interchange(model: Model) -> Interchange:
    """A graph for each ensemble of the bundle, with all quantiles."""
    graphs = [
        _graph(rung, ensemble, model) for rung in (POOLED, NO_PLAN) if (ensemble := model.of_rung(rung))
    ]
    facts = {
        "quantiles": list(model.quantiles),
        "horizon_weeks": model.horizon,
        "calibration": model.offsets.to_dicts(),
        "widths": list(model.widths),
        "own_keys": model.own_keys.height,
        "unplanned": dict(model.unplanned.iter_rows()),
        "planned": dict(model.planned.iter_rows()),
        "blended": model.blended,
    }
    return Interchange(graphs, _OUTSIDE, facts)


def _graph(rung: str, ensemble: Pooled, model: Model) -> Graph:
    """Features, level and offsets -> quantiles on the log scale, as `Pooled.predict`, and calibrated in units."""
    builder = Builder()
    names = [quantile_column(q) for q in model.quantiles]
    centre = builder.boosted("features", ensemble.location.model_to_string())
    spread = [
        ensemble.start[name] + builder.boosted("features", ensemble.spread[name].model_to_string())
        for name in names
    ]
    raw = builder.rising([centre + one for one in spread])
    with_offsets = raw + builder.value("offsets")
    risen = builder.rising([builder.column(with_offsets, i) for i in range(len(names))])
    ratio = risen.exp() - OFFSET
    units = builder.op("Max", ratio * builder.value("level"), 0.0)
    inputs = (
        Port("features", "float", ensemble.features, "the features in this order; NaN where unknown"),
        Port("level", "double", ("level",), "units of a usual week of the key, above 0"),
        Port("offsets", "double", tuple(names), "the offsets of calibration on the log scale; 0 for none"),
    )
    outputs = (
        (
            raw,
            Port("log_quantiles", "double", tuple(names), f"log(units / level + {OFFSET}), not calibrated"),
        ),
        (units, Port("units", "double", tuple(names), "units in the target week, calibrated by `offsets`")),
    )
    return builder.graph(rung, inputs, outputs)


def estimate(model: Model, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with `rung` and calibrated quantiles in units, from the pooled models alone.

    Columns of `rows`: `planned`, `kind`, `step`, `level`, and the features as `f:<name>`, as in the parts of a
    training; a feature that is absent is unknown. Quantiles are not rounded, and null if the bundle has no pooled model.
    """
    names = [name.removeprefix(FEATURE) for name in rows.columns if name.startswith(FEATURE)]
    values = np.ascontiguousarray(rows.select(pl.col(FEATURE + n).cast(pl.Float32) for n in names).to_numpy())
    about = rows.select(pl.exclude(f"^{FEATURE}.*$", "whole"))
    return replace(model, unplanned=contest.nothing(), planned=contest.nothing()).forecast(
        about, values, names, None, threads=0
    )
