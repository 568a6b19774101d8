"""The rate that alpha states, incidents that are one alarm each, and faults that are found."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.devices.alarms import REMEMBERED, alarming, evidence, level, past_alarms
from models.devices.calibration import (
    Tails,
    corrected_p_values,
    corrections,
    fit_shapes,
    folds_of,
    p_value_before_correction,
    tails_of,
)
from models.devices.contracts import JOINT_TAG
from models.devices.evaluation import (
    alarm_outcomes,
    compare,
    false_alarms,
    outcomes,
    rate_with_error,
    rolling_z_score,
    trained_model,
    trial,
)
from models.devices.incidents import INCIDENTS, incidents, what_happened
from models.devices.options import Options
from models.devices.rows import SCORES
from models.devices.scoring import score_span
from models.devices.simulation import FAULTS, inject, readings_of, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def p_values_of(past, now):
    shaped = fit_shapes(tails_of(past, np.ones(past.shape, bool)))
    return Tails.of(shaped).p_values(now)


def test_p_values_fall_as_scores_rise_and_are_those_of_ranks_below_the_tail():
    past = np.random.default_rng(0).normal(size=(8, 700))
    now = np.sort(np.random.default_rng(1).normal(size=(8, 500)) * 2, axis=1)
    p = p_values_of(past, now)
    assert (np.diff(p, axis=1) <= 1e-15).all()
    ranks = np.array(
        [[(1 + (row >= x).sum()) / 701 for x in line] for row, line in zip(past, now, strict=True)]
    )
    body = ranks > 0.1
    assert np.abs(p - ranks)[body].max() < 0.03


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("normal", lambda rng, shape: np.abs(rng.normal(size=shape))),
        ("exponential", lambda rng, shape: rng.exponential(size=shape)),
        ("student", lambda rng, shape: np.abs(rng.standard_t(4, size=shape))),
    ],
)
def test_independent_scores_are_called_at_about_alpha_far_below_one_in_n(name, draw):
    rng = np.random.default_rng(11)
    p = p_values_of(draw(rng, (400, 500)), draw(rng, (400, 2000)))
    for alpha in (0.05, 0.01, 0.001):
        assert (p <= alpha).mean() / alpha == pytest.approx(1.0, abs=0.35), (name, alpha)


def test_too_few_calibration_readings_give_no_p_value_and_few_give_cautious_ones():
    past = np.random.default_rng(2).normal(size=(1, 30))
    assert np.isnan(p_values_of(past[:, :15], np.array([[9.0]]))).all()
    assert 1e-6 < p_values_of(past, np.array([[6.0]])).item() < 0.05


def test_a_band_ends_where_the_p_value_is_alpha():
    past = np.abs(np.random.default_rng(3).normal(size=(5, 600)))
    tails = Tails.of(fit_shapes(tails_of(past, np.ones(past.shape, bool))))
    for alpha in (0.05, 0.001):
        assert tails.p_values(tails.scores_at(np.full((1, 1), alpha))) == pytest.approx(alpha, rel=1e-6)


def test_p_values_that_come_out_too_small_on_held_out_blocks_are_raised_to_what_they_should_be():
    rng = np.random.default_rng(4)
    wandering = np.repeat(rng.normal(size=(300, 4)), 150, axis=1) + rng.normal(size=(300, 600))
    keys = pl.DataFrame({"device": [f"d{i}" for i in range(300)], "tag": ["t"] * 300, "rung": ["r"] * 300})
    everywhere = np.ones(wandering.shape, bool)
    shaped = fit_shapes(pl.concat([keys, tails_of(wandering, everywhere)], how="horizontal"))
    folds = folds_of(wandering, everywhere)
    keyed = pl.concat([keys[folds["row"]], folds.drop("row")], how="horizontal")
    correction = corrections(keyed, shaped).filter(rung="r")
    p = np.logspace(-8, 0, 200)
    adjusted = corrected_p_values(p, correction)
    assert (np.diff(adjusted) >= 0).all()
    assert (adjusted >= p).all()
    assert corrected_p_values(np.array([0.001]), correction)[0] > 0.002
    for alpha in (0.05, 0.01, 1e-4, 1e-6):
        assert corrected_p_values(np.array([p_value_before_correction(alpha, correction)]), correction)[
            0
        ] == pytest.approx(alpha, rel=0.01)
    assert corrected_p_values(p, pl.DataFrame()).tolist() == p.tolist()


@pytest.fixture(scope="module")
def fault_free():
    simulated = simulate(100, START, 1440 + 240, seed=21)
    readings = readings_of(simulated.grid).lazy()
    model = trained_model(readings, START, START + 24 * HOUR, Options.of({"backtest_devices": 100}))
    tags = simulated.grid.keys
    keys = pl.concat([tags, tags.select("device", pl.lit(JOINT_TAG).alias("tag")).unique()])
    return score_span(
        model, readings, keys, START + 24 * HOUR, START + 28 * HOUR, Options.of({})
    ).rows.filter(pl.col("value").is_not_null())


@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_on_fault_free_sensors_the_alarm_rate_is_alpha_within_a_factor_of_1_3(fault_free, alpha):
    assert fault_free.height > 100_000
    assert alpha / 1.3 <= (fault_free["p_value"] <= alpha).mean() <= alpha * 1.3


def test_false_alarms_are_counted_by_device_and_rung():
    rows = pl.DataFrame(
        {
            "device": ["a", "a", "a", "b", "b"],
            "rung": ["joint", "level", "level", "level", "missing"],
            "p_value": [0.5, 0.01, 0.002, 0.0005, None],
        }
    )
    assert false_alarms(rows).rows() == [
        ("a", "joint", 1, 0, 0),
        ("a", "level", 2, 2, 0),
        ("b", "level", 1, 1, 1),
        ("b", "missing", 1, 0, 0),
    ]


@pytest.mark.parametrize("together", [1, 20])
def test_the_interval_of_a_rate_holds_the_truth_nineteen_times_in_twenty_also_where_alarms_come_together(
    together,
):
    rng, hits = np.random.default_rng(7), 0
    for _ in range(400):
        alarms = together * rng.poisson(2.0 / together, size=300)
        rate, error = rate_with_error(pl.Series(alarms), pl.Series(np.full(300, 1000)))
        hits += abs(rate - 0.002) <= error
    assert 0.92 < hits / 400 < 0.97


@pytest.mark.slow
def test_every_kind_of_fault_is_found_and_better_than_by_the_baselines():
    simulated = trial(len(FAULTS) * 4, START, hours=2, seed=5)
    table = compare(simulated, alphas=(0.001,))
    ours = table.filter(pl.col("method").str.starts_with("auto"))
    assert ours["fault"].to_list() == list(FAULTS)
    assert ours["alarm_rate"][0] < 0.003
    assert (ours.filter(pl.col("fault") != "correlation")["recall"] >= 3 / 4).all()
    assert (ours["precision"] > 0.6).all()
    for _, baseline in table.filter(~pl.col("method").str.starts_with("auto")).group_by("method"):
        assert baseline["precision"].fill_null(0).mean() < ours["precision"].mean() / 2
        assert baseline["recall"].mean() < ours["recall"].mean()
        assert baseline["alarm_rate"][0] > 5 * ours["alarm_rate"][0]
    few, many = (alarm_outcomes(simulated, per_day) for per_day in (0.01, 1.0))
    assert few["recall"].mean() >= 3 / 4
    assert (few["recall"] <= many["recall"]).all()
    assert (many["recall"] <= ours["recall"]).all()
    assert few["false_alarms"][0] < 0.5


def test_outcomes_count_a_call_within_the_fault_as_found_and_calls_elsewhere_as_false():
    simulated = simulate(2, START, 240)
    faulty = inject(simulated, ["level_shift"], 100)
    device, tag, _, begin, end = faulty.faults.row(0)
    times = [begin - 5, begin + 3, end + 5, end + 40]
    calls = pl.DataFrame(
        {"device": [device] * 4, "tag": [tag] * 4, "time": [START + t * MINUTE for t in times]},
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    row = outcomes(calls, faulty).row(0, named=True)
    assert row == {"fault": "level_shift", "faults": 2, "precision": 0.5, "recall": 0.5, "delay": 3.0}


def test_faults_change_only_their_sensor_and_their_time():
    simulated = simulate(14, START, 400)
    faulty = inject(simulated, list(FAULTS), 200)
    assert set(faulty.faults["fault"]) == set(FAULTS)
    same = simulated.grid.values == faulty.grid.values
    same |= np.isnan(simulated.grid.values) & np.isnan(faulty.grid.values)
    inside = np.zeros_like(same)
    for device, tag, _, begin, end in faulty.faults.iter_rows():
        row = simulated.grid.keys.with_row_index("i").filter(device=device, tag=tag)["i"].item()
        inside[row, begin:end] = True
        assert begin >= 200
        assert not same[row, begin:end].all()
    assert same[~inside].all()


def test_the_rolling_z_score_is_that_of_a_loop():
    grid = simulate(1, START, 200, missing_share=0.05).grid
    calls = set(rolling_z_score(grid, 100, threshold=2.0).rows())
    for s, key in enumerate(grid.keys.rows()):
        for t in range(100, 200):
            before = grid.values[s, t - 60 : t]
            before = before[~np.isnan(before)]
            far = len(before) >= 30 and abs(grid.values[s, t] - before.mean()) > 2 * before.std() + 1e-9
            if key[1] != "mode":
                assert ((*key, START + t * MINUTE) in calls) == far


def anomalies(*charted, as_of=START + HOUR):
    base = {"value": 1.0, "score": 5.0, "p_value": 1e-4, "is_anomaly": True, "rung": "robust_level"}
    base |= {"cause": "value", "expected": 0.0, "low": -1.0, "high": 1.0, "device": "d", "tag": "a"}
    rows = [base | {"time": as_of - HOUR + minute * MINUTE} | more for minute, more in charted]
    return pl.DataFrame(rows, schema=SCORES) if rows else pl.DataFrame(schema=SCORES)


def run(rows, previous=None, as_of=START + HOUR, **options):
    keys = rows.filter("is_anomaly", pl.col("p_value") <= 1e-4).select("device", "tag").unique()
    return incidents(rows, previous, as_of, MINUTE, options.pop("alarming", keys), **options)


def test_neighbouring_anomalies_on_several_tags_are_one_incident_with_its_most_unusual_tag():
    incidents = run(
        anomalies(
            (10, {}),
            (12, {"tag": "b", "p_value": 1e-6, "value": 9.0}),
            (12, {"tag": "*", "p_value": 1e-6, "score": 50.0}),
            (30, {"is_anomaly": False, "tag": "c", "p_value": 1e-9}),
        )
    )
    row = incidents.row(0, named=True)
    assert incidents.height == 1
    assert (row["start"], row["end"]) == (START + 10 * MINUTE, START + 13 * MINUTE)
    assert (row["tag"], row["p_value"], row["value"], row["anomalies"]) == ("b", 1e-6, 9.0, 3)
    assert row["tags"] == ["*", "a", "b"]
    assert row["is_alarm"]
    assert row["is_new_alarm"]


def test_devices_and_anomalies_further_apart_than_the_cooldown_are_incidents_of_their_own():
    rows = anomalies((0, {}), (20, {}), (42, {}), (5, {"device": "e"}))
    incidents = run(rows, cooldown=20 * MINUTE)
    assert incidents.select("device", "anomalies").rows() == [("d", 2), ("d", 1), ("e", 1)]
    assert incidents["incident"].n_unique() == 3


def test_one_fault_over_three_hours_is_one_alarm_that_rings_once():
    previous, rung = None, []
    for hour in range(1, 4):
        as_of = START + hour * HOUR
        rows = anomalies(
            *((m, {"score": 5.0 + hour, "p_value": 10.0 ** -(4 + hour)}) for m in (1, 30, 59)), as_of=as_of
        )
        previous = run(rows, previous, as_of)
        rung.append(previous["is_new_alarm"].to_list())
    row = previous.row(0, named=True)
    assert rung == [[True], [False], [False]]
    assert previous.height == 1
    assert (row["anomalies"], row["start"], row["end"]) == (9, START + MINUTE, START + 3 * HOUR)
    assert row["p_value"] == 1e-7


def test_a_score_that_doubled_and_stays_rings_once_also_with_a_greater_p_value():
    previous, rung = None, []
    for hour, score in enumerate((5.0, 9.0, 11.0, 12.0, 13.0, 30.0, 31.0), start=1):
        as_of = START + hour * HOUR
        rows = anomalies((30, {"score": score, "p_value": hour * 1e-8}), as_of=as_of)
        previous = run(rows, previous, as_of)
        rung += previous["is_new_alarm"].to_list()
    assert rung == [True, False, True, False, False, True, False]


def test_an_incident_is_an_alarm_in_the_first_hour_in_which_one_of_its_tags_alarms():
    weak = {"p_value": 9e-4}
    first = run(anomalies((50, weak)))
    assert not first["is_alarm"].any()
    second = run(anomalies((20, weak | {"p_value": 9e-5}), as_of=START + 2 * HOUR), first, START + 2 * HOUR)
    assert second["is_new_alarm"].to_list() == [True]
    assert second["incident"].to_list() == first["incident"].to_list()


def test_an_open_incident_hides_neither_another_sensor_nor_another_kind_nor_a_worse_fault_of_its_own():
    first = run(anomalies((5, {}), (6, {})))
    until = START + 2 * HOUR
    other = run(anomalies((1, {}), (40, {"tag": "b"}), as_of=until), first, until)
    assert other.select("tags", "is_new_alarm").rows() == [(["a"], False), (["b"], True)]
    silent = run(anomalies((1, {"cause": "missing"}), as_of=until), first, until)
    assert silent["is_new_alarm"].to_list() == [True]
    assert silent["incident"].to_list() != first["incident"].to_list()
    worse = run(anomalies((1, {"score": 10.0}), as_of=until), first, until)
    assert worse.select("is_alarm", "is_new_alarm").rows() == [(True, True)]
    same = run(anomalies((1, {"score": 9.0}), as_of=until), first, until)
    assert same.select("is_alarm", "is_new_alarm").rows() == [(True, False)]


def test_tags_that_follow_within_half_an_hour_belong_to_the_incident_also_over_the_hour():
    first = run(anomalies((50, {})))
    until = START + 2 * HOUR
    second = run(anomalies((15, {"tag": "b"}), (45, {"tag": "*"}), as_of=until), first, until)
    assert second["tags"].to_list() == [["a", "b"], ["*"]]


def fleet_of(p_values):
    """An hour of rows of S sensors with these p-values (S, 60)."""
    sensors, width = p_values.shape
    names = [f"d{s // 5:04d}" for s in range(sensors) for _ in range(width)]
    tags = [f"t{s % 5}" for s in range(sensors) for _ in range(width)]
    return pl.LazyFrame({"device": names, "tag": tags, "p_value": p_values.ravel()})


def test_alarms_of_healthy_fleets_of_any_size_keep_the_budget():
    random = np.random.default_rng(0)
    for devices, per_day in ((20, 24.0), (200, 24.0), (200, 240.0)):
        count = sum(
            alarming(fleet_of(random.uniform(size=(5 * devices, 60))), per_day).height for _ in range(30)
        )
        assert count <= 1.5 * 30 * per_day / 24 + 3


@settings(max_examples=30)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20))
def test_evidence_is_the_combination_of_simes(p_values):
    rows = pl.LazyFrame({"device": "d", "tag": "t", "p_value": [*p_values, None]})
    expected = min(len(p_values) * p / (k + 1) for k, p in enumerate(sorted(p_values)))
    assert evidence(rows)["evidence"].item() == pytest.approx(expected)


def test_several_neighbours_are_evidence_that_none_of_them_is_by_itself():
    random = np.random.default_rng(1)
    p_values = random.uniform(size=(500, 60))
    p_values[7, 10] = 2e-5
    assert alarming(fleet_of(p_values)).is_empty()
    p_values[7, 10:26] = 2e-5
    assert alarming(fleet_of(p_values)).rows() == [("d0001", "t2")]


def said(verdict, tag="*", start=START, end=START + HOUR):
    return pl.DataFrame({"device": "d0001", "tag": tag, "verdict": verdict, "start": start, "end": end})


def test_what_is_muted_does_not_alarm_and_false_alarms_raise_what_it_takes():
    p_values = np.full((500, 60), 0.5)
    p_values[7, 10] = 1e-8
    time = pl.Series([START + n * MINUTE for n in range(60)] * 500)
    rows = fleet_of(p_values).with_columns(time=time)
    faulty_sensors = [("d0001", "t2")]
    assert alarming(rows).rows() == faulty_sensors
    assert alarming(rows, verdicts=said("muted")).is_empty()
    assert alarming(rows, verdicts=said("muted", "t3")).rows() == faulty_sensors
    assert alarming(rows, verdicts=said("muted", start=START - 2 * HOUR, end=START)).rows() == faulty_sensors
    wrong = [said("false_alarm", "t2", START - n * HOUR, START - n * HOUR + MINUTE) for n in range(1, 6)]
    assert alarming(rows, verdicts=wrong[0]).rows() == faulty_sensors
    assert alarming(rows, verdicts=pl.concat(wrong)).is_empty()


def test_each_alarm_of_a_sensor_raises_what_the_next_one_takes_until_it_is_forgotten():
    p_values = np.full((500, 60), 0.5)
    p_values[7, 10] = 1e-8
    time = pl.Series([START + n * MINUTE for n in range(60)] * 500)
    rows = fleet_of(p_values).with_columns(time=time)

    def after(*ages, tag="t2", faults=None):
        each = [run(anomalies((0, {"device": "d0001", "tag": tag}), as_of=START - age)) for age in ages]
        return not alarming(
            rows,
            past=past_alarms(
                pl.concat([*each, *each]), said("fault").clear() if faults is None else faults, MINUTE
            ),
        ).is_empty()

    days = [timedelta(days=n) for n in range(1, 5)]
    assert after(days[0])
    assert not after(*days)
    assert after(*(REMEMBERED + day for day in days))
    assert after(*days, tag="t3")
    fault = said("fault", start=START - 5 * days[0], end=START - 2 * days[0])
    assert after(*days, faults=fault)
    assert after(*days, faults=fault.with_columns(tag=pl.lit("t2")))
    assert not after(*days, faults=fault.with_columns(tag=pl.lit("t3")))


def test_where_much_is_wrong_the_level_rises_by_the_false_discovery_rate():
    chances = {"device": "d", "tag": "t"}
    few, many = (pl.DataFrame(chances | {"evidence": [1e-5] * n + [0.5] * (1000 - n)}) for n in (1, 400))
    assert level(few, 2.4) == pytest.approx(0.1 / 1000)
    assert level(many, 2.4) == pytest.approx(0.1 * 400 / 1000)


def test_a_joint_detector_does_not_count_as_a_further_sensor():
    sensors = pl.DataFrame({"device": "d", "tag": [*"abcd"], "evidence": 0.5})
    joint = sensors.head(1).with_columns(tag=pl.lit("*"))
    assert level(pl.concat([sensors, joint]), 2.4) == level(sensors, 2.4) == pytest.approx(0.1 / 4)
    assert level(joint, 2.4) == pytest.approx(0.1)


def test_an_incident_closes_after_the_cooldown_and_is_then_forgotten():
    first = run(anomalies((5, {}), (6, {})))
    assert first["is_open"].to_list() == [True]
    second = run(anomalies(), first, START + 2 * HOUR)
    assert second.is_empty()
    later = run(anomalies((30, {}), as_of=START + 2 * HOUR), first, START + 2 * HOUR)
    assert later["start"].to_list() == [START + 90 * MINUTE]


def test_the_same_hour_again_gives_the_same_incidents():
    first = run(anomalies((50, {}), (51, {})))
    rows = anomalies((3, {}), (4, {"tag": "b"}), as_of=START + 2 * HOUR)
    once = run(rows, first, START + 2 * HOUR)
    again = run(rows.sample(fraction=1.0, shuffle=True, seed=1), first, START + 2 * HOUR)
    assert again.equals(once)
    assert dict(once.schema) == INCIDENTS
    assert run(rows, once, START + 2 * HOUR)["anomalies"].to_list() == [2]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 179), max_size=30, unique=True), st.integers(1, 70))
def test_incidents_hour_by_hour_are_those_of_a_loop_over_all_anomalies_at_once(minutes, cooldown):
    expected, groups = [], []
    for minute in sorted(minutes):
        if groups and minute - (groups[-1][-1] + 1) <= cooldown:
            groups[-1].append(minute)
        else:
            groups.append([minute])
    expected = [(START + g[0] * MINUTE, START + (g[-1] + 1) * MINUTE, len(g)) for g in groups]
    previous, last_state, rings = None, {}, 0
    for hour in range(3):
        as_of = START + (hour + 1) * HOUR
        own = [(m - 60 * hour, {"p_value": 5e-5}) for m in minutes if 60 * hour <= m < 60 * hour + 60]
        previous = run(anomalies(*own, as_of=as_of), previous, as_of, cooldown=cooldown * MINUTE)
        last_state |= {row["incident"]: row for row in previous.iter_rows(named=True)}
        rings += previous["is_new_alarm"].sum()
    intervals = sorted((row["start"], row["end"], row["anomalies"]) for row in last_state.values())
    assert intervals == expected
    assert rings == len(groups)


def test_what_happened_is_said_for_every_cause():
    causes = ["value", "jump", "level", "spread", "flat", "missing", "joint"]
    rows = anomalies(*((i, {"cause": cause, "value": 12.3456}) for i, cause in enumerate(causes)))
    sentences = rows.select(what_happened())["what"]
    assert sentences[0] == "12.35, but -1.0 to 1.0 is normal"
    assert sentences.n_unique() == len(causes)
    assert (sentences.str.len_chars() > 8).all()
