"""Graphs give the estimates of the bundle's own estimators, on random rows with missing values."""

import lightgbm as lgb
import numpy as np
import onnxruntime
import polars as pl
import pytest

from models.interchange import Port
from models.machines import interchange as machines
from models.machines.calibration import IDENTITY, platt
from models.machines.estimators import Learner
from models.machines.features import feature_list
from models.machines.options import Options
from models.machines.risks import BASE_RATE, MODEL, NO_MODEL, Risk
from models.machines.risks import Model as Risks
from models.machines.vocabulary import Vocabulary
from models.onnx_graphs import Builder, single
from models.sales import interchange as sales
from models.sales import pooled
from models.sales.model import Model as Sales
from models.sales.model import empty_keys
from models.sales.options import Options as SalesOptions
from tests.models.test_machines_estimators import problem

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TREES_DIFFER_BY = 2e-6
"""Leaves are added up in single precision in ONNX, in double precision natively."""
UNITS_DIFFER_BY = 1e-5
PROBABILITIES_DIFFER_BY = 1e-4
"""An isotonic calibration is steep in places, and a difference there as many times larger."""


def run(graph, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(graph.onnx).run(None, inputs)


def rows(seed: int, width: int, n: int = 4000) -> np.ndarray:
    """Features with a wide range of values, some zero, some missing."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(n, width)) * rng.choice([0.01, 1, 100], width)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0
    values[rng.random(values.shape) < 0.2] = np.nan
    return values


# trees


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_trees_of_lightgbm_part_rows_as_natively_also_on_a_threshold_and_where_a_value_is_missing(missing):
    """Where the training has no missing values, LightGBM treats missing values as zero."""
    rng = np.random.default_rng(3)
    X = rng.normal([0, 5, -5, 0], size=(3000, 4)).astype(np.float32)
    X[:, 3] = rng.integers(0, 3, 3000)
    X[rng.random(X.shape) < missing] = np.nan
    y = np.nan_to_num(X).sum(axis=1)
    booster = lgb.train({"verbose": -1, "max_bin": 500, "num_leaves": 60}, lgb.Dataset(X, y), 30)
    builder = Builder()
    value = builder.boosted("features", booster.model_to_string())
    port = Port("features", "float", tuple("abcd"), "")
    graph = builder.graph("trees", [port], [(value, Port("score", "double", ("score",), ""))])
    nodes = booster.trees_to_dataframe().dropna(subset=["threshold"])
    thresholds = single(nodes["threshold"].to_numpy(dtype=float))
    size = np.abs(thresholds)
    edges = np.repeat(thresholds[(size > 1e-30) & (size < 1e30)][:, None], 4, axis=1)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf))])
    for values in (X, rows(1, 4), edges, np.full((1, 4), np.nan, np.float32)):
        scores = run(graph, features=values)[0][:, 0]
        np.testing.assert_allclose(scores, booster.predict(values), rtol=0, atol=2e-5)


def test_a_single_precision_threshold_parts_the_same_single_precision_numbers():
    rng = np.random.default_rng(0)
    low = rng.normal(size=1000).astype(np.float32)
    high = np.nextafter(low, np.float32(np.inf))
    between = (low.astype(float) + high.astype(float)) / 2
    assert (low <= single(between)).all()
    assert (high > single(between)).all()
    assert (single(low.astype(float)) == low).all()


# sales


@pytest.fixture(scope="module")
def quantiles() -> Sales:
    """A small model with and without plan, and with offsets of several groups."""
    values = rows(1, 6)
    target = np.nan_to_num(values[:, 0]) / 10 + np.random.default_rng(2).normal(size=len(values))
    weeks = np.random.default_rng(3).integers(0, 60, len(values))
    names = ("deal", "b", "c", "d", "e", "f")
    ensembles = [
        pooled.fit(
            values[:, :n],
            target,
            weeks,
            names[:n],
            ["deal"],
            SalesOptions(quantiles=QUANTILES, seed=1, threads=1),
        )
        for n in (6, 4)
    ]
    rungs, kinds = ["pooled", "pooled", "pooled_no_plan"], ["regular", "promoted", None]
    shifts = np.random.default_rng(4).normal(0, 0.3, (3, 5))
    offsets = pl.DataFrame({"rung": rungs, "kind": kinds, "steps": [0, None, None], "clusters": [9.0] * 3})
    offsets = offsets.with_columns(pl.Series(f"offset{i}", shifts[:, i]) for i in range(5))
    return Sales(
        QUANTILES, 12, (), (), *ensembles, offsets.cast({"steps": pl.Int32}), pl.DataFrame(), empty_keys(),
        own_first=False, blended=False, unplanned=pl.DataFrame({"kind": ["regular"], "rung": ["naive"]}),
    )  # fmt: skip


def test_quantiles_of_a_graph_are_those_of_the_ensemble(quantiles):
    graphs = {graph.name: graph for graph in sales.interchange(quantiles).graphs}
    for name, ensemble in (("pooled", quantiles.with_plan), ("pooled_no_plan", quantiles.without_plan)):
        values = rows(7, len(ensemble.features))
        outputs, _ = run(
            graphs[name], features=values, level=np.ones((len(values), 1)), offsets=np.zeros((len(values), 5))
        )
        np.testing.assert_allclose(outputs, ensemble.predict(values, 1), rtol=0, atol=TREES_DIFFER_BY)
        assert graphs[name].inputs[0].columns == ensemble.features


def test_units_of_a_graph_with_the_offsets_looked_up_are_those_that_are_published(quantiles):
    export = sales.interchange(quantiles)
    values = rows(8, 6, 600)
    rng = np.random.default_rng(5)
    about = pl.DataFrame(
        {
            "planned": rng.random(600) < 0.7,
            "kind": rng.choice(["regular", "promoted", "new"], 600),
            "step": rng.integers(1, 13, 600),
            "level": rng.uniform(0.5, 200, 600),
        }
    )
    features = pl.DataFrame(values, schema=[f"f:{name}" for name in quantiles.with_plan.features])
    native = sales.estimate(quantiles, about.hstack(features))
    for graph in export.graphs:
        at = np.flatnonzero((native["rung"] == graph.name).to_numpy())
        width = len(graph.inputs[0].columns)
        selection = about[at]
        offsets = [
            offset_of(export.facts["calibration"], graph.name, row["kind"], (row["step"] - 1) * 3 // 12)
            for row in selection.iter_rows(named=True)
        ]
        level = selection["level"].to_numpy()[:, None]
        _, units = run(graph, features=values[at, :width], level=level, offsets=np.array(offsets))
        expected = native[at].select(quantiles.columns).to_numpy()
        np.testing.assert_allclose(units, expected, rtol=UNITS_DIFFER_BY, atol=UNITS_DIFFER_BY)


def offset_of(calibration: list[dict], rung: str, kind: str, third: int) -> list[float]:
    """The most specific line that matches."""
    for target in ((rung, kind, third), (rung, kind, None), (rung, None, None), (None, None, None)):
        for line in calibration:
            if (line["rung"], line["kind"], line["steps"]) == target:
                return [line[f"offset{i}"] for i in range(5)]
    return [0.0] * 5


# machines

WORDS = Vocabulary(("heat",), ("belt", "motor", "pump", "valve"), ("E1",), ("A",), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["lightgbm", "random_forest", "decision_tree"])
def test_probabilities_of_the_graph_are_those_of_the_bundle(estimator):
    options = Options(estimator=estimator)
    width = len(feature_list(WORDS, options))
    X, failed = problem(1500, 4, width)
    classifier = Learner(X, np.ones(len(X)), options).fit(failed, trees=30).estimator
    raw = classifier.predict(X)
    steep = {"kind": "isotonic", "from": [0.05, 0.3, 0.301, 0.9], "to": [0.0, 0.1, 0.4, 0.9]}
    model = Risks(
        WORDS,
        options,
        (
            Risk("pump", 24, MODEL, 0.1, None, classifier, steep),
            Risk("pump", 168, MODEL, 0.1, None, classifier, platt(raw, ~failed)),
            Risk("belt", 24, MODEL, 0.1, None, classifier, IDENTITY),
            Risk("belt", 168, BASE_RATE, 0.2, "too few"),
            Risk("valve", 24, NO_MODEL, 0.0, "never"),
            Risk("motor", 24, MODEL, 0.1, None, classifier, {"kind": "isotonic", "from": [0.3], "to": [0.4]}),
        ),
    )
    (graph,) = machines.interchange(model).graphs
    values = np.concatenate([problem(3000, 9, width)[0], X, np.full((1, width), np.nan, np.float32)])
    (probabilities,) = run(graph, features=values)
    frame = pl.DataFrame(values, schema=list(graph.inputs[0].columns)).with_columns(machine_id=pl.lit("m"))
    native = machines.estimate(model, frame)
    columns = list(graph.outputs[0].columns)
    assert native.columns == ["machine_id", *columns]
    assert native["valve_24h"].is_null().all()
    expected = native.select(columns).to_numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=PROBABILITIES_DIFFER_BY)
