"""Graphs of a devices bundle give the scores of its own detectors, also for gaps, flat lines and short histories."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import onnxruntime
import polars as pl
import pytest

from models.devices import (
    calibration,
    discrete,
    interchange,
    isolation_forest,
    joint,
    one_class_svm,
    presence,
    robust,
)
from models.devices.aggregation import interval_of
from models.devices.channels import distances
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.detectors import DETECTORS
from models.devices.joint_graph import joint as joint_graph
from models.devices.model import Model
from models.devices.p_value_graph import p_values
from models.devices.scenario import DEVICES
from models.devices.simulation import FAULTS, inject, readings_of, simulate
from models.devices.window_graphs import RECENT, WINDOW
from tests.grids import grid_of
from tests.models import test_devices_scenario as scenario
from tests.models.test_devices_detectors import grid, noise

DIFFER_BY = 1e-9


def run(graph, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.onnx)
    return dict(zip((port.name for port in graph.outputs), session.run(None, inputs), strict=True))


def graph_of(name, interval: str = "1m", **frames: pl.DataFrame):
    """The graph of that name of a bundle of these frames, whose one sensor has had nine readings; its sensors."""
    sensors = presence.fit(grid(np.arange(9.0))).with_columns(rung=pl.lit("none"))
    export = interchange.interchange(Model({"sensors": sensors, **frames}, {"interval": interval}))
    return next(graph for graph in export.graphs if graph.name == name), export.facts["sensors"][name]


def windows(values: np.ndarray) -> np.ndarray:
    """The last intervals up to and including each cell, NaN before the first: (cells, WINDOW), row by row."""
    before = np.concatenate([np.full((len(values), WINDOW - 1), np.nan), values], axis=1)
    return np.lib.stride_tricks.sliding_window_view(before, WINDOW, axis=1).reshape(-1, WINDOW)


def cells(now) -> dict[str, np.ndarray]:
    """The rows of all cells of a grid: inputs of the graphs that look at windows."""
    return {
        "sensor": np.repeat(np.arange(len(now.values)), now.intervals),
        "readings": windows(now.values),
    }


def seconds(now) -> np.ndarray:
    return np.tile(now.times.dt.epoch("s").to_numpy(), len(now.values))


def equal(outputs: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(outputs, expected.ravel(), rtol=DIFFER_BY, atol=DIFFER_BY)


# a reading by itself


@pytest.mark.parametrize(("name", "detector"), DETECTORS.items())
def test_scores_of_a_graph_are_those_of_the_detectors_of_all_sensors(name, detector):
    past, now = grid(noise(5, 300, 1, missing=0.1)), grid(noise(5, 200, 1, missing=0.1))
    now.values[:, ::7] = np.round(past.values[:, :200:7], 1)
    params = detector.fit(past, np.arange(300) % 5 > 0, 3)
    graph, sensors = graph_of(name, **{name: params})
    assert [line["tag"] for line in sensors] == params["tag"].to_list()
    sensor = np.repeat(np.arange(5), 200)
    order = np.random.default_rng(0).permutation(len(sensor))
    score = run(graph, sensor=sensor[order], value=now.values.ravel()[order])["score"]
    equal(score, detector.score(params, now, 0).ravel()[order])
    assert np.isnan(score).any()


def test_a_forest_s_graph_counts_steps_as_the_detector_does_on_the_steps_themselves():
    past = grid(np.round(noise(2, 200, 5)))
    params = isolation_forest.fit(past, np.ones(200, bool), 1, trees=10)
    graph, _ = graph_of("isolation_forest", isolation_forest=params)
    values = np.concatenate([params["threshold"][0].to_numpy(), [-np.inf, np.inf]])
    score = run(graph, sensor=np.zeros(len(values), np.int64), value=values)["score"]
    equal(score, isolation_forest.score(params[:1], grid(values[None, :]), 0))


def test_a_kind_of_detector_that_no_sensor_has_has_no_graph():
    for frames in ({}, {"one_class_svm": pl.DataFrame(schema=one_class_svm.SCHEMA)}):
        with pytest.raises(StopIteration):
            graph_of("one_class_svm", **frames)


def test_the_pooled_distance_is_that_from_the_middle_of_the_tag():
    params = pl.DataFrame({"tag": ["x", "y"], "sensors": [4, 5], "center": [1.0, -2.0], "scale": [2.0, 0.5]})
    graph, _ = graph_of("pooled", pooled=params)
    score = run(graph, sensor=np.array([0, 1, 1]), value=np.array([5.0, -2.0, np.nan]))["score"]
    assert score[:2].tolist() == [2.0, 0.0]
    assert np.isnan(score[2])


# the last readings


def varied(seed: int, interval: timedelta):
    """Some days of sensors with every kind of expectation: a level, a daily course, jumps between levels, wandering."""
    rng, steps = np.random.default_rng(seed), np.arange(2880)
    day = steps * (interval / timedelta(days=1))
    e = rng.normal(size=(8, 2880))
    daily = 5 * np.sin(2 * np.pi * day) + 3 * np.cos(6 * np.pi * day)
    regimes = 10 * ((steps // 70) % 4)
    values = np.stack(
        [
            20 + e[0],
            1e4 + 0.01 * e[1],
            daily + e[2],
            50 + 3 * daily + e[3],
            regimes + e[4],
            -3 * regimes + 0.1 * e[5],
            np.cumsum(e[6]),
            500 + 0.1 * np.cumsum(e[7]),
        ]
    )
    return replace(grid(values), interval=interval), rng


@pytest.mark.parametrize(("seed", "missing", "interval"), [(1, 0.0, "1m"), (2, 0.1, "5m"), (3, 0.6, "1m")])
def test_robust_scores_of_the_graph_are_those_of_the_channels(seed, missing, interval):
    past, rng = varied(seed, interval_of(interval))
    baseline = robust.fit(past, np.arange(2880) // 60 % 2 == 0)
    assert set(baseline.baseline) == set(range(len(robust.BASELINES)))
    values = past.values[:, 300:700] + rng.normal(size=(8, 400)) * baseline.scales.scale[:, None]
    values[:, 100] += 50 * baseline.scales.scale
    values[:, 150:240] = values[:, 150:151]
    values[:, 260:270] = np.round(values[:, 260:270], 1)
    values[rng.random(values.shape) < missing] = np.nan
    values[:, 300:340] = np.nan
    now = replace(past, values=values)
    graph, _ = graph_of("robust", interval, robust=baseline.frame(past.keys))
    outputs = run(graph, **cells(now), time=seconds(now))
    expected = robust.expected_of(now, now.values, baseline.baseline, baseline.profile)
    score, cause = distances(now.values, expected, baseline.scales)
    equal(outputs["score"], score)
    assert set(cause.ravel()) == {-1, 0, 1, 2, 3, 4}
    clear = ~(score.ravel() < DIFFER_BY)
    np.testing.assert_array_equal(outputs["cause"][clear], cause.ravel()[clear])
    equal(outputs["expected"], expected)
    units = ((now.values - expected) / baseline.scales.scale[:, None]).ravel()
    equal(outputs["units"][:, -1], units)
    equal(outputs["units"][60, :], units[60 - RECENT + 1 : 61])


def test_few_values_of_the_graph_are_as_unusual_as_the_detector_says():
    rng = np.random.default_rng(4)
    past = rng.integers(0, 5, (4, 600)).astype(float)
    past[1] = 7.5
    past[2] = np.repeat(rng.integers(0, 12, 60), 10)
    past[3] = np.arange(600) // 60 / 10
    past[rng.random(past.shape) < 0.05] = np.nan
    now = past[:, 200:500].copy()
    now[:, [3, 50]], now[:, 100:190] = 99.0, now[:, 100:101]
    now[3, 60:65] = 1.0
    now[3, 250:280:2] = 0.0
    params = discrete.fit(grid(past))
    graph, _ = graph_of("discrete", discrete=params)
    outputs = run(graph, **cells(grid(now)))
    score, p, cause = discrete.score(params, grid(now))
    equal(outputs["score"], score)
    equal(outputs["p_value"], p)
    assert set(cause.ravel()) == {-1, 0, 3, 4}
    np.testing.assert_array_equal(outputs["cause"], cause.ravel())


def test_gaps_of_the_graph_are_as_unusual_as_the_detector_says():
    past, now = grid(noise(4, 900, 2, missing=0.1)), grid(noise(4, 300, 3, missing=0.3))
    now.values[:, 20:110] = np.nan
    params = presence.fit(past).with_columns(rung=pl.lit("none"))
    graph, _ = graph_of("missing", sensors=params)
    outputs = run(graph, **cells(now))
    p = presence.gap_p_values(params, now)
    equal(outputs["p_value"], p)
    equal(outputs["score"], np.sqrt(-2 * np.log(p)))
    assert np.isnan(outputs["score"]).mean() > 0.3


# a device's tags together


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.5])
def test_joint_scores_of_the_graph_are_those_of_devices_of_few_and_many_tags(missing):
    rng = np.random.default_rng(int(100 * missing))
    tags = {"a": 2, "b": 7, "c": 3, "d": 12}
    keys = pl.DataFrame(
        [(d, f"t{n:02d}") for d, count in tags.items() for n in range(count)], KEY, orient="row"
    )
    units = rng.normal(size=(len(keys), 1000))
    units[1] = 0.98 * units[0] + 0.2 * units[1]
    units[3:8] += 2 * units[2]
    params = joint.fit(units, keys, np.arange(1000) // 60 % 2 == 0)
    assert (params["directions"] > 0).any()
    now = units[:, 700:900] * rng.choice([1, 1, 4, 30], 200)
    now[rng.random(now.shape) < missing] = np.nan
    now[:, 50], now[2:9, 60:100] = 0.0, now[2:9, 60:61]
    graph = joint_graph(params)
    first = np.cumsum([0, *tags.values()])
    garbage = rng.normal(size=(4, 200, 12, RECENT))
    garbage[:, ::2] = np.nan
    for d, count in enumerate(tags.values()):
        recent = windows(now[first[d] : first[d + 1]])[:, -RECENT:]
        garbage[d, :, :count] = recent.reshape(count, 200, RECENT).transpose(1, 0, 2)
    device = np.repeat(np.arange(4), 200)
    order = rng.permutation(800)
    outputs = run(graph, device=device[order], units=garbage.reshape(800, -1)[order])
    score, distance = joint.score(params, now, keys)
    equal(outputs["score"], score.ravel()[order])
    equal(outputs["distance"], distance.ravel()[order])
    assert np.isnan(score).any() == (missing > 0)
    assert not np.isnan(score).all()


# p-values


@pytest.mark.parametrize("corrected", [False, True])
def test_p_values_of_the_graph_are_those_of_the_calibration(corrected):
    rng = np.random.default_rng(6)
    past = np.abs(rng.standard_t([[2], [5], [30], [5], [5]], size=(5, 999)))
    past[3] = np.round(past[3])
    past[4, 10:] = np.nan
    rungs = ["joint", "robust_level", "robust_level", "robust_local", "robust_local"]
    keys = grid(past).keys.with_columns(rung=pl.Series(rungs))
    tails = pl.concat([keys, calibration.tails_of(past, np.ones(past.shape, bool))], how="horizontal")
    shaped = calibration.fit_shapes(tails)
    steps = 10.0 ** np.arange(-1.0, -4.01, -0.25)
    tables = [("joint", steps * np.linspace(0.4, 3, 13)), ("robust_level", steps * np.linspace(2.4, 1, 13))]
    corrections = pl.concat(pl.DataFrame({"rung": rung, "p": steps, "corrected": p}) for rung, p in tables)
    corrections = corrections if corrected else pl.DataFrame()
    body = np.nan_to_num(shaped["body"].to_numpy())
    scores = np.concatenate([rng.uniform(0, 40, (5, 500)), body, rng.normal(size=(5, 99))], axis=1)
    scores[:, ::50] = np.nan
    expected = calibration.Tails.of(shaped).p_values(scores)
    for row, rung in enumerate(rungs):
        own = corrections.filter(rung=rung) if corrected else corrections
        expected[row] = calibration.corrected_p_values(expected[row], own)
    outputs = run(p_values(shaped, corrections), sensor=np.repeat(np.arange(5), 632), score=scores.ravel())
    equal(outputs["p_value"], expected)
    np.testing.assert_allclose(outputs["p_value"], expected.ravel(), rtol=1e-9)
    assert np.isnan(expected[4]).all()
    assert np.nanmin(expected) < 1e-4


def test_a_score_that_another_library_adds_up_has_the_p_value_of_the_reading_that_it_repeats():
    """Below the tail p-values rise in steps, at the calibration's own scores."""
    past = grid(np.abs(noise(2, 600, 7)))
    keys = past.keys.with_columns(rung=pl.lit("robust_level"))
    scores = one_class_svm.score(one_class_svm.fit(past, np.ones(600, bool)), past)
    tails = calibration.tails_of(scores, np.ones(scores.shape, bool))
    shaped = calibration.fit_shapes(pl.concat([keys, tails], how="horizontal"))
    expected = calibration.Tails.of(shaped).p_values(scores)
    sensor = np.repeat(np.arange(2), 600)
    for error in (-1e-14, 0.0, 1e-14):
        graph = p_values(shaped, pl.DataFrame())
        equal(run(graph, sensor=sensor, score=scores.ravel() + error)["p_value"], expected)


# a whole bundle


@pytest.fixture(scope="module")
def hour():
    """A bundle of the default detector, an hour after it with a fault in each device, and its rows without memory."""
    simulated = simulate(len(FAULTS), scenario.START, 1440 + 60, missing_share=0.01)
    readings = readings_of(inject(simulated, list(FAULTS), 1440).grid).with_columns(shard=0)
    files = scenario.train(readings, timezone="Asia/Kolkata").files
    return files, readings, scenario.score(DEVICES.load(files), readings, hold_hours=0).rows


def test_every_row_of_an_hour_follows_from_the_graphs(hour):
    files, readings, rows = hour
    export = interchange.interchange(DEVICES.load(files))
    graphs = {graph.name: graph for graph in export.graphs}
    numbers = {
        name: {(line.get("device"), line.get("tag", JOINT_TAG)): line["number"] for line in lines}
        for name, lines in export.facts["sensors"].items()
    }
    until = scenario.AS_OF + timedelta(hours=1)
    wide = grid_of(readings, readings.select(KEY).unique(), scenario.START, until, timedelta(minutes=1))
    place = {key: row for row, key in enumerate(wide.keys.iter_rows())}
    all_windows = windows(wide.values).reshape(len(wide.values), -1, WINDOW)

    def scored(name, part):
        keys, column = part.select(KEY).rows(), (part["time"] - scenario.START).dt.total_minutes().to_numpy()
        inputs = {"sensor": np.array([numbers[name][key] for key in keys])}
        inputs["readings"] = all_windows[[place[key] for key in keys], column]
        if name == "robust":
            inputs["time"] = (
                part["time"].dt.convert_time_zone("Asia/Kolkata").dt.replace_time_zone(None).dt.epoch("s")
            )
            inputs["time"] = inputs["time"].to_numpy()
        return run(graphs[name], **inputs)

    def together(part):
        lines = {line["device"]: line for line in export.facts["sensors"]["joint"]}
        units = np.full((part.height, len(graphs["joint"].inputs[1].columns) // RECENT, RECENT), np.nan)
        for row, (device, time) in enumerate(part.select("device", "time").iter_rows()):
            tags = lines[device]["tags"]
            keys_of_rows = pl.DataFrame({"device": device, "tag": tags, "time": time})
            units[row, : len(tags)] = scored("robust", keys_of_rows)["units"]
        device = np.array([lines[name]["number"] for name in part["device"]])
        return run(graphs["joint"], device=device, units=units.reshape(len(units), -1))

    rungs_compared = flat_lines = 0
    for (rung,), part in rows.group_by("rung"):
        name = "robust" if rung.startswith("robust") else rung
        name = "discrete" if rung in ("constant", "few_values") else name
        part = part[::20] if name == "joint" else part
        outputs = together(part) if name == "joint" else scored(name, part)
        if "p_value" not in outputs:
            sensor = np.array([numbers["p_values"][key] for key in part.select(KEY).iter_rows()])
            outputs |= run(graphs["p_values"], sensor=sensor, score=outputs["score"])
        is_flat = np.zeros(part.height, bool)
        if name == "robust":
            flat = scored("missing", part)["p_of_flat"]
            is_flat, outputs["p_value"] = flat < outputs["p_value"], np.fmin(flat, outputs["p_value"])
            flat_lines += is_flat.sum()
        equal(outputs["p_value"], part["p_value"].to_numpy())
        equal(outputs["score"][~is_flat], part["score"].to_numpy()[~is_flat])
        rungs_compared += 1
    assert flat_lines
    assert rungs_compared >= 7
