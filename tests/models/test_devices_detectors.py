"""Detectors agree with scikit-learn and with loops written from their definitions."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from models.devices import (
    channels,
    discrete,
    isolation_forest,
    joint,
    one_class_svm,
    pooled,
    presence,
    robust,
)
from models.devices.aggregation import aggregate, points
from models.devices.contracts import KEY, check_raw
from models.devices.grid import Grid, age_chances, ages, panel_of
from models.devices.pace import of_devices, portions
from models.devices.training import fit_columns
from models.quantiles import row_quantiles
from tests.grids import grid_of

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DATA = Path(os.environ.get("ALMANAC_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def grid(values, tags=None):
    values = np.atleast_2d(np.asarray(values, float))
    tags = tags or [f"t{i:03d}" for i in range(len(values))]
    keys = pl.DataFrame({"device": ["d"] * len(values), "tag": tags})
    return Grid(keys, values, START, MINUTE)


def noise(rows, columns, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns)) * rng.uniform(0.1, 50, (rows, 1)) + rng.uniform(
        -100, 100, (rows, 1)
    )
    values[rng.random(values.shape) < missing] = np.nan
    return values


@pytest.fixture(scope="module")
def sensor_file():
    path = DATA / "sensors" / "sensor_data.csv"
    if not path.exists():
        pytest.skip(
            f"{path} is not there; set ALMANAC_TEST_DATA to the folder that holds sensors/sensor_data.csv"
        )
    columns = pl.read_csv(path).rename({"TS": "time", "Device": "device", "Tag": "tag", "Value": "value"})
    good, bad = check_raw(columns, datetime(2026, 1, 1, tzinfo=UTC), timezone="UTC")
    readings = aggregate(points(good, MINUTE))
    assert readings["count"].sum() + bad.height == columns.height
    start, end = datetime(2018, 8, 28, 23, tzinfo=UTC), datetime(2018, 8, 29, 4, tzinfo=UTC)
    return grid_of(readings, readings.select(KEY).unique(), start, end, MINUTE)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(21, 200), st.floats(0.01, 0.5), st.sampled_from([0.0, 0.2]))
def test_one_class_svm_scores_are_scikit_learns_to_1e_9(seed, columns, nu, missing):
    past = grid(noise(3, columns, seed, missing))
    now = grid(noise(3, 70, seed, missing))
    part = np.arange(columns) % 2 == 0
    scores = one_class_svm.score(one_class_svm.fit(past, part, nu=nu), now, first=10)
    for s in range(3):
        x = past.values[s, part]
        model = make_pipeline(StandardScaler(), OneClassSVM(nu=nu)).fit(x[~np.isnan(x), None])
        after = now.values[s, 10:]
        finite = ~np.isnan(after)
        assert finite.sum() > 10
        np.testing.assert_allclose(
            -scores[s, finite], model.decision_function(after[finite, None]), rtol=0, atol=1e-9
        )
        assert np.isnan(scores[s, ~finite]).all()


@settings(max_examples=4)
@given(st.integers(0, 10_000), st.integers(40, 400), st.sampled_from([0, 1]))
def test_isolation_forest_scores_are_scikit_learns_to_1e_9(seed, columns, digits):
    past, now = noise(2, columns, seed), noise(2, 70, seed + 1)
    past, now = grid(np.round(past, digits)), grid(np.round(now, digits))
    part = np.arange(columns) % 3 > 0
    scores = isolation_forest.score(isolation_forest.fit(past, part, seed=seed, trees=20), now, first=10)
    for s in range(2):
        model = IsolationForest(n_estimators=20, random_state=seed).fit(past.values[s, part][:, None])
        expected = model.decision_function(now.values[s, 10:, None])
        np.testing.assert_allclose(-scores[s], expected, rtol=0, atol=1e-9)


def test_on_the_sensor_file_scores_and_labels_are_scikit_learns_on_every_interval(sensor_file):
    part = fit_columns(sensor_file)
    scores = one_class_svm.score(one_class_svm.fit(sensor_file, part), sensor_file)
    assert sensor_file.keys.height == 15
    for s, values in enumerate(sensor_file.values):
        finite = ~np.isnan(values)
        window = values[part & finite][:, None]
        model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.01)).fit(window)
        np.testing.assert_allclose(
            -scores[s, finite], model.decision_function(values[finite, None]), rtol=0, atol=1e-9
        )
        assert ((scores[s, finite] >= 0) == (model.predict(values[finite, None]) == -1)).all()


def test_isolation_forest_agrees_on_the_sensor_file(sensor_file):
    some = sensor_file.take(np.array([0, 7, 14]))
    part = fit_columns(some)
    scores = isolation_forest.score(isolation_forest.fit(some, part, trees=30), some)
    for s, values in enumerate(some.values):
        finite = ~np.isnan(values)
        model = IsolationForest(n_estimators=30, random_state=7).fit(values[part & finite][:, None])
        np.testing.assert_allclose(
            -scores[s, finite], model.decision_function(values[finite, None]), rtol=0, atol=1e-9
        )


def slow_channels(x, expected, s, t):
    """Channels of one cell from their definitions; `s` holds one sensor's scales."""
    rest = x - expected
    jump = [rest[i] - s["autocorrelation"] * rest[i - 1] if i else np.nan for i in range(len(x))]

    def mean(values, weights):
        pairs = [(w, values[t - j]) for j, w in enumerate(weights) if t >= j and not np.isnan(values[t - j])]
        total = sum(w for w, _ in pairs)
        return sum(w * v for w, v in pairs) / total if total > 0.5 * sum(weights) else np.nan

    squares = [min(abs(e / s["jump"]), 5.0) ** 2 for e in jump]
    run = 1
    while run < 60 and t - run >= 0 and x[t - run] == x[t]:
        run += 1
    return [
        abs(rest[t]) / s["scale"],
        abs(jump[t]) / s["jump"],
        abs(mean(rest, channels.LEVEL_WEIGHTS)) / s["level"],
        abs(np.log(mean(squares, channels.SPREAD_WEIGHTS) + 1e-6) - s["usual_spread"]) / s["spread"],
        np.sqrt(-2 * np.log(s["flat"]) * (run - 1)),
    ]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.6]), st.integers(0, 2))
def test_robust_scores_are_the_greatest_channel_of_a_loop_over_the_definitions(seed, missing, digits):
    x = np.round(noise(2, 90, seed, missing) / 10, digits)
    rng = np.random.default_rng(seed)
    names = channels.Scales.__dataclass_fields__
    scales = channels.Scales(*(rng.uniform(0.1, 0.9, 2) for _ in names))
    expected = noise(2, 90, seed + 1) / 50
    distances, cause = channels.distances(x, expected, scales, 61)
    for s in range(2):
        own = {name: float(getattr(scales, name)[s]) for name in names}
        for t in range(61, 90):
            if np.isnan(x[s, t]):
                assert np.isnan(distances[s, t - 61])
                assert cause[s, t - 61] == -1
                continue
            slow = slow_channels(x[s], expected[s], own, t)
            assert distances[s, t - 61] == pytest.approx(np.nanmax(slow), rel=1e-9)
            assert slow[cause[s, t - 61]] == pytest.approx(np.nanmax(slow), rel=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.95]))
def test_row_quantiles_are_numpys(seed, columns, missing):
    x = noise(4, columns, seed, missing)
    quantiles = row_quantiles(x, (0.0, 0.3, 0.5, 1.0))
    for s in range(4):
        finite = x[s, ~np.isnan(x[s])]
        if len(finite):
            np.testing.assert_allclose(quantiles[s], np.quantile(finite, [0.0, 0.3, 0.5, 1.0]), rtol=1e-12)
        else:
            assert np.isnan(quantiles[s]).all()


def baselines_of(*rows):
    baseline = robust.fit(grid(np.stack(rows)), fit_columns(grid(np.stack(rows))))
    return [robust.BASELINES[b] for b in baseline.baseline], baseline


def test_the_expectation_is_chosen_by_what_the_past_looks_like():
    rng, minutes = np.random.default_rng(3), np.arange(2880)
    e = rng.normal(size=(4, 2880))
    level = 20 + e[0]
    daily = 20 + 5 * np.sin(2 * np.pi * minutes / 1440) + e[1]
    regimes = 20 + 10 * ((minutes // 70) % 3) + e[2]
    wandering = np.cumsum(e[3])
    names, baseline = baselines_of(level, daily, regimes, wandering)
    assert names == ["level", "seasonal", "regimes", "local"]
    np.testing.assert_allclose(baseline.profile[2, :3], [20, 30, 40], atol=0.5)
    assert baseline.scales.scale[:3] == pytest.approx(1.0, abs=0.1)


def test_a_battery_that_drains_in_steps_has_no_levels_between_which_it_jumps():
    rng, minutes = np.random.default_rng(3), np.arange(2880)
    battery = np.round(3.6 - 5e-5 * minutes + rng.normal(0, 0.002, 2880), 2)
    setpoints = np.repeat(rng.choice(np.arange(0.0, 150, 10), 48), 60)
    assert baselines_of(battery, setpoints)[0] == ["local", "regimes"]


@pytest.mark.parametrize("seed", [24, 28, 35])
def test_a_random_walk_that_steps_over_some_values_has_no_levels_of_its_own(seed):
    walk = np.cumsum(np.random.default_rng(seed).normal(size=500))
    assert len(robust._regimes(walk, sure=True)) > 1
    assert len(robust._regimes(walk, sure=False)) == 1


def test_a_fault_in_the_training_window_hardly_moves_what_is_normal():
    rng = np.random.default_rng(5)
    clean = 50 + rng.normal(size=1440)
    shifted, spiked = clean.copy(), clean.copy()
    shifted[600:655] += 30
    spiked[[100, 101, 900]] += 500
    _, baseline = baselines_of(clean, shifted, spiked)
    assert baseline.profile[:, 0] == pytest.approx(50, abs=0.15)
    assert baseline.scales.scale == pytest.approx(1.0, abs=0.1)
    assert baseline.scales.level == pytest.approx(baseline.scales.level[0], rel=0.2)
    assert np.isnan(baseline.clean[1, 600:655]).all()
    assert not np.isnan(baseline.clean[0]).any()


def test_large_values_that_are_frequent_are_how_the_sensor_behaves():
    rng = np.random.default_rng(6)
    values = rng.standard_t(2, size=1440)
    _, baseline = baselines_of(values)
    assert not np.isnan(baseline.clean).any()


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_few_values_are_as_unusual_as_a_count_over_the_past_says(seed, distinct):
    rng = np.random.default_rng(seed)
    past = rng.integers(0, distinct, 300).astype(float)
    past[rng.random(300) < 0.05] = np.nan
    params = discrete.fit(grid(past))
    now = np.array([[*range(distinct), 99.0, np.nan]], float)
    score, p, cause = discrete.score(params, grid(now))
    finite = past[~np.isnan(past)]
    for t, value in enumerate(now[0]):
        if np.isnan(value):
            assert np.isnan(p[0, t])
            assert cause[0, t] == -1
        elif cause[0, t] == 0:
            rare = sum((finite == other).sum() <= (finite == value).sum() for other in finite)
            further = max(1.0, value / (distinct - 1))
            assert p[0, t] == pytest.approx((1 + (0 if value == 99 else rare)) / (len(finite) + 1) / further)
            assert score[0, t] == pytest.approx(np.sqrt(-2 * np.log(p[0, t])))


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=1, max_size=60))
def test_changes_are_those_between_neighbours_among_the_last_twenty_intervals(values):
    x = np.array(values)
    for t, count in enumerate(discrete.changes(x[None, :])[0]):
        window = x[max(0, t - discrete.CHANGES + 1) : t + 1]
        some = window[~np.isnan(window)]
        assert count == (some[1:] != some[:-1]).sum()


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=60))
def test_chances_of_changes_fall_and_are_at_least_the_share_of_the_past(lengths):
    past = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(float)[None, :]
    p = discrete.p_of_changes(discrete.fit(grid(past)))[0]
    assert p[0] == 1
    assert (np.diff(p) <= 0).all()
    for c in range(discrete.CHANGES):
        assert p[c] >= (discrete.changes(past) >= c).mean() - 1e-12


def test_a_model_of_an_earlier_version_does_not_count_changes():
    params = discrete.fit(grid(np.repeat([0.0, 1.0, 0.0, 1.0], 360)))
    now = grid(np.tile([0.0, 0.0, 1.0, 1.0], 15))
    _, p, cause = discrete.score(params, now)
    assert cause[0, -1] == channels.CHANNELS.index("spread")
    _, earlier, _ = discrete.score(params.drop("p_of_changes"), now)
    assert p[0, -1] < 0.001 < 0.1 < earlier[0, -1]


def test_a_constant_sensor_that_moves_is_as_unusual_as_its_history_is_long():
    past = np.full((1, 1440), 7.0)
    _, p, _ = discrete.score(discrete.fit(grid(past)), grid(np.array([[7.0, 7.0, 8.0, 7.0]])))
    assert p[0, 2] == pytest.approx(1 / 1441)
    assert (p[0, [0, 1, 3]] > 0.9).all()


def test_nothing_is_expected_of_a_wandering_sensor_without_recent_readings():
    walks = np.cumsum(np.random.default_rng(5).normal(size=(4, 1440)), axis=1)
    walks[:, 700:740] = np.nan
    past = grid(walks)
    fitted = robust.fit(past, fit_columns(past))
    assert set(fitted.baseline) == {robust.LOCAL}
    assert (fitted.scores[:, [0, 740]] == 0).all()
    np.testing.assert_array_equal(fitted.expected[:, [0, 740]], walks[:, [0, 740]])


def test_ages_count_how_long_something_lasts():
    event = np.array([[0, 1, 1, 0, 1, 1, 1, 1]], bool)
    assert ages(event, cap=3).tolist() == [[0, 1, 2, 0, 1, 2, 3, 3]]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=60), st.integers(1, 5))
def test_chances_of_ages_fall_and_are_never_below_what_a_count_with_one_more_time_gives(lengths, apart):
    event = np.concatenate([np.r_[np.zeros(apart, bool), np.ones(n, bool)] for n in lengths])[None, :]
    age = ages(event)
    p = age_chances(age, np.array([event.shape[1]]))[0]
    assert (np.diff(p) <= 1e-12).all()
    assert p[0] >= event.mean()
    if len(lengths) < 20:
        for n in range(1, 61):
            assert p[n - 1] >= (1 + (age >= n).sum()) / (event.shape[1] + 1) - 1e-12


def test_what_lasted_long_now_and_then_is_no_less_likely_than_in_the_past():
    """Nights and weekends: the many short times of a sensor say nothing about its few long ones."""
    event = np.concatenate([*[np.tile([True, False], 20), np.ones(50, bool)] * 6])[None, :]
    age = ages(event)
    p = age_chances(age, np.array([event.shape[1]]))[0]
    for n in range(1, 51):
        assert p[n - 1] >= (age >= n).mean()


@pytest.mark.parametrize("quiet", [61, 100, 600, 5000])
def test_a_silence_beyond_an_hour_is_as_unusual_as_its_length_however_it_is_cut_into_grids(quiet):
    rng = np.random.default_rng(3)
    past = np.full((1, 20_000), np.nan)
    at = np.cumsum(rng.integers(1, 180, 300))
    past[0, at[at < 20_000]] = 1.0
    params = presence.fit(grid(past))
    now = np.full((1, quiet + 1), np.nan)
    now[0, 0] = 1.0
    whole = presence.gap_p_values(params, grid(now))[0, -1]
    begin = quiet - 60
    cut = presence.gap_p_values(params, grid(now[:, 1 + begin :]), 0, np.array([begin]))[0, -1]
    assert cut == whole
    assert whole < 1e-6 if quiet >= 600 else whole > 0.01


def test_a_gap_is_unusual_only_for_a_sensor_that_hardly_has_any():
    steady = np.ones(1440)
    sparse = np.where(np.arange(1440) % 10 == 0, 1.0, np.nan)
    past = grid(np.stack([steady, sparse]))
    params = presence.fit(past)
    now = np.ones((2, 120))
    now[:, 100:105] = np.nan
    now[1] = np.where(np.arange(120) % 10 == 0, 1.0, np.nan)
    p = presence.gap_p_values(params, grid(now), first=60)
    assert (p[0, 40:45] <= 0.001).all()
    assert np.isnan(p[0, :40]).all()
    assert np.nanmin(p[1]) > 0.05


def test_the_run_a_sensor_ends_in_is_compared_with_its_past_runs():
    rng = np.random.default_rng(1)
    varying = rng.normal(size=1440)
    params = presence.fit(grid(varying))
    now = rng.normal(size=120)
    now[100:] = 3.0
    length, p = presence.last_runs(params, grid(now))
    assert length[0] == 20
    assert p[0] < 0.001
    length, p = presence.last_runs(params, grid(np.full(120, np.nan)))
    assert length[0] == 0
    assert np.isnan(p[0])


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_joint_distances_are_mahalanobis_over_the_tags_that_are_there(seed, tags):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(tags, tags))
    correlation = np.corrcoef(a @ rng.normal(size=(tags, 50))) * 0.9 + 0.1 * np.eye(tags)
    x = rng.normal(size=(1, tags, 30))
    x[rng.random(x.shape) < 0.3] = np.nan
    squared, count = joint.squared_distances(x, np.linalg.inv(correlation)[None])
    for t in range(30):
        present = np.flatnonzero(~np.isnan(x[0, :, t]))
        assert count[0, t] == len(present)
        if len(present) > 1:
            some = x[0, present, t]
            direct = some @ np.linalg.solve(correlation[np.ix_(present, present)], some)
            assert squared[0, t] == pytest.approx(direct, rel=1e-6)


def test_a_broken_correlation_shows_in_the_joint_score_and_in_no_sensor():
    rng = np.random.default_rng(2)
    first = rng.normal(size=1500)
    second = 0.95 * first + np.sqrt(1 - 0.95**2) * rng.normal(size=1500)
    second[1440:] = rng.normal(size=60)
    units = np.stack([first, second])
    keys = grid(units).keys
    params = joint.fit(units[:, :1440], keys, np.arange(1440) % 120 < 60)
    before, _ = joint.score(params, units[:, :1440], keys)
    after, distance = joint.score(params, units[:, 1380:], keys, first=60)
    assert np.abs(units[:, 1440:]).max() < 4
    assert (after > np.nanquantile(before, 0.999)).mean() > 0.5
    assert distance.shape == after.shape == (1, 60)


def test_a_device_with_one_sensor_has_no_joint_detector():
    keys = pl.DataFrame({"device": ["a", "b", "b"], "tag": ["x", "x", "y"]})
    assert joint.members(keys).rows() == [("b", ["x", "y"])]
    assert joint.fit(np.zeros((1, 100)), keys[:1], np.ones(100, bool)).is_empty()


def test_the_pooled_detector_knows_only_tags_that_several_sensors_have():
    sensors = pl.DataFrame(
        {"tag": ["x"] * 5 + ["y"] * 2, "center": [1.0, 2, 3, 4, 5, 9, 9], "scale": [1.0] * 7}
    )
    params = pooled.fit(sensors)
    assert params["tag"].to_list() == ["x"]
    scores, p = pooled.score(params, grid([[3.0, 3 + 10 * params["scale"][0], np.nan]]))
    assert scores[0, :2].tolist() == pytest.approx([0.0, 10.0])
    assert p[0, 0] == pytest.approx(1.0)
    assert 0 < p[0, 1] < 0.001
    assert np.isnan(p[0, 2])


def test_grids_of_a_panel_hold_every_reading_once_and_never_part_a_device():
    rng = np.random.default_rng(0)
    keys = pl.DataFrame({"device": [f"d{i // 3}" for i in range(30)], "tag": [str(i % 3) for i in range(30)]})
    rows = [
        (*key, START + MINUTE * int(t), float(rng.normal()))
        for key in keys.rows()
        for t in rng.choice(50, 20, False)
    ]
    schema = {"device": pl.String, "tag": pl.String, "time": pl.Datetime("us", "UTC"), "mean": pl.Float64}
    readings = pl.DataFrame(rows, schema=schema, orient="row").sample(fraction=1, shuffle=True, seed=1)
    whole = grid_of(readings, keys, START, START + 50 * MINUTE, MINUTE)
    assert np.nansum(whole.values) == pytest.approx(readings["mean"].sum())
    pieces = list(panel_of(readings.lazy(), keys, START, START + 50 * MINUTE, MINUTE).grids(200))
    assert len(pieces) > 5
    assert np.array_equal(np.concatenate([p.values for p in pieces]), whole.values, equal_nan=True)
    assert pl.concat([p.keys for p in pieces]).equals(whole.keys)
    assert sum(p.keys["device"].n_unique() for p in pieces) == 10


def test_portions_hold_whole_devices_and_their_readings_only():
    keys = pl.DataFrame({"device": [*"aabbbbcd"], "tag": [*"12345678"]})
    parts = portions(keys, 3)
    assert [[*part["device"]] for part in parts] == [[*"aabbbb"], [*"cd"]]
    assert pl.concat(parts).equals(keys)
    readings = keys.with_columns(mean=pl.lit(1.0)).sample(fraction=1, shuffle=True, seed=1)
    some = of_devices(readings.lazy(), keys.filter(pl.col("device").is_in(["a", "c"]))).collect()
    assert sorted(some["device"]) == [*"aac"]


def test_a_grid_holds_the_sensors_of_one_time_zone():
    keys = pl.DataFrame(
        {"device": [*"abcd"], "tag": "t", "timezone": ["UTC", "Asia/Tokyo", "UTC", "Asia/Tokyo"]}
    )
    readings = keys.select(KEY).with_columns(time=pl.lit(START), mean=pl.Series([1.0, 2.0, 3.0, 4.0]))
    readings = readings.cast({"time": pl.Datetime("us", "UTC")})
    grids = [*panel_of(readings.lazy(), keys, START, START + MINUTE, MINUTE).grids(1000)]
    rows = [(grid.timezone, *grid.keys["device"], *grid.values[:, 0]) for grid in grids]
    assert rows == [("Asia/Tokyo", "b", "d", 2.0, 4.0), ("UTC", "a", "c", 1.0, 3.0)]
