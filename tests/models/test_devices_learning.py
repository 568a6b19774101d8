"""What devices detectors learn from: no labelled faults, no codes for missing readings, and a tail beyond the past."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.devices import discrete, presence, training_notes
from models.devices.calibration import P_FLOOR
from models.devices.grid import Grid
from models.devices.hours import changed_hours, devices_behind, first_split, fleet_end
from models.devices.left_out import in_faults
from models.devices.model import Model
from models.devices.options import Options
from models.devices.scenario import DEVICES
from models.devices.scoring import score_span
from models.devices.simulation import readings_of as readings_in
from models.devices.training import files_of, fit_grid, labelled_faults
from models.sentinels import sentinels_of

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def grid(values, interval=timedelta(minutes=1)):
    values = np.atleast_2d(np.asarray(values, float))
    keys = pl.DataFrame({"device": ["d"] * len(values), "tag": [f"t{s}" for s in range(len(values))]})
    return Grid(keys, values, START, interval)


def readings_of(values, interval):
    """Long readings of device d, tag t, without those that are NaN."""
    times = [START + n * interval for n in range(len(values))]
    frame = pl.DataFrame({"device": "d", "tag": "t", "time": times, "mean": values, "shard": 0})
    return frame.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))).filter(
        pl.col("mean").is_not_nan()
    )


def trained_on(values, interval="1m", labels=None, timezone="UTC", site=None):
    settings = {"interval": interval, "timezone": timezone}
    options = Options.of(settings)
    tables = {"readings": readings_of(values, options.step).lazy()}
    if labels is not None:
        tables["labels"] = labels.lazy()
    if site is not None:
        tables["sites"] = pl.DataFrame({"device": ["d"], "site": ["here"], "timezone": [site]}).lazy()
    as_of = START + len(values) * options.step
    context = DEVICES.context(tables, as_of, settings)
    parts = DEVICES.prepare_shard(tables, context, as_of, settings)
    return DEVICES.fit({n: f.lazy() for n, f in parts.items()}, context, as_of, settings)


def called_after(past, now, interval="1m", labels=None):
    """Whether each of the readings `now`, in the hours after `past`, is called an anomaly at alpha 0.001."""
    options = {"interval": interval, "alpha": 0.001}
    step = Options.of(options).step
    training = trained_on(past, interval, labels)
    model = DEVICES.load(training.files)
    tables = {"readings": readings_of(np.r_[past, now], step).lazy()}
    tables |= {} if labels is None else {"labels": labels.lazy()}
    keys = pl.DataFrame({"device": ["d"], "tag": ["t"]})
    end = START + (len(past) + len(now)) * step
    rows, as_of = [], START + len(past) * step + HOUR
    while as_of <= end:
        rows.append(DEVICES.score(model, tables, {}, keys, as_of, options).rows)
        as_of += HOUR
    return pl.concat(rows).sort("time")


def test_a_valve_that_was_always_shut_is_called_from_its_second_strange_hour_on():
    rows = called_after(np.zeros(14 * 24), np.full(4, 1000.0), "1h")
    assert rows["is_anomaly"].to_list() == [False, True, True, True]


@pytest.mark.parametrize(("last", "is_called"), [(11.7, False), (11.2, True)])
def test_a_further_step_of_a_battery_that_drains_is_not_called_and_a_fall_is(last, is_called):
    past = 12.6 - np.arange(14 * 24 * 6) // 250 / 10
    rows = called_after(past.round(1), np.full(6, last), "10m")
    assert rows["is_anomaly"][:2].to_list() == [is_called] * 2


def test_a_step_that_a_battery_reached_at_the_end_of_its_history_may_last():
    voltage = 12.8 - np.arange(15 * 288) / 6000 + np.random.default_rng(3).normal(0, 0.01, 15 * 288)
    past, now = np.split(voltage.round(1), [14 * 288])
    assert not called_after(past, now[: 6 * 12], "5m")["is_anomaly"].any()


def test_a_pump_far_below_its_two_states_is_called_at_once():
    past = np.random.default_rng(0).integers(0, 2, 14 * 24).astype(float)
    rows = called_after(past, np.array([1.0, -50.0]), "1h")
    assert rows["is_anomaly"].to_list() == [False, True]


def test_a_device_that_never_was_silent_is_called_from_its_second_silent_hour_on():
    past = np.random.default_rng(0).normal(size=14 * 24)
    rows = called_after(past, np.full(4, np.nan), "1h").filter(rung="missing")
    assert rows["is_anomaly"].to_list() == [False, True, True, True]


@pytest.mark.parametrize(("interval", "hours"), [("1m", 6), ("10m", 6), ("1h", 12)])
def test_a_sensor_that_reports_on_change_is_called_when_it_falls_silent_and_not_before(interval, hours):
    per_hour = HOUR // Options.of({"interval": interval}).step
    random = np.random.default_rng(1)
    past = np.full(15 * 24 * per_hour, np.nan)
    at = np.cumsum(random.integers(1, 3 * per_hour + 1, len(past)))
    past[at[at < len(past)]] = 20.0
    healthy = called_after(past[: 14 * 24 * per_hour], past[14 * 24 * per_hour :], interval)
    assert not healthy.filter(rung="missing")["is_anomaly"].any()
    silent = called_after(past[: 14 * 24 * per_hour], np.full(hours * per_hour, np.nan), interval)
    assert silent["is_anomaly"][-1]


def test_a_door_that_is_never_opened_at_night_is_called_when_it_is_not_opened_by_day():
    random = np.random.default_rng(1)
    past = np.where(random.random(17 * 96) < 0.2, 1.0, np.nan)
    past[(np.arange(len(past)) % 96 < 28) | (np.arange(len(past)) % 96 >= 76)] = np.nan
    healthy = called_after(past[: 14 * 96], past[14 * 96 :], "15m")
    assert not healthy["is_anomaly"].any()
    silent = called_after(past[: 14 * 96], np.full(36 * 4, np.nan), "15m")
    assert silent["is_anomaly"][-1]


def test_long_silences_are_counted_only_where_the_past_has_a_silent_stretch():
    values = np.ones((2, 3000))
    values[1, 100:160] = np.nan
    for begin in range(100, 3000, 100):
        values[0, begin : begin + begin // 100] = np.nan
    assert presence.fit(grid(values))["p_of_silence"].is_null().to_list() == [True, False]


@pytest.mark.parametrize(("interval", "flap"), [("1m", 2), ("10m", 1), ("1h", 1)])
def test_a_state_that_flaps_is_called_within_the_intervals_that_are_counted(interval, flap):
    per_hour = HOUR // Options.of({"interval": interval}).step
    random = np.random.default_rng(1)
    lengths = np.maximum(1, random.normal(24, 6, 20).astype(int)) * per_hour
    past = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(float)[: 14 * 24 * per_hour]
    assert len(past) == 14 * 24 * per_hour
    now = np.arange(max(1, 20 // per_hour) * per_hour) // flap % 2
    rows = called_after(past, (past[-1] + 1 + now) % 2, interval)
    assert set(rows.filter("is_anomaly")["cause"]) == {"spread"}


@pytest.mark.parametrize("gaps", [0, 1, 5, 30])
def test_chances_of_gaps_fall_with_their_length_and_stay_chances(gaps):
    values = np.ones(500)
    for n in range(gaps):
        values[15 * n + 10 : 15 * n + 11 + n % 3] = np.nan
    p = presence.fit(grid(values))["p_of_gap"].to_numpy()[0]
    assert (np.diff(p) <= 0).all()
    assert ((p > 0) & (p <= 1)).all()
    if gaps < 30:
        assert p[-1] <= p[5] < 0.05
        assert p[-1] < p[0]


def test_gaps_and_runs_far_beyond_a_long_past_have_chances_and_scores():
    rng = np.random.default_rng(1)
    past = np.where(rng.random(14 * 1440) < 0.02, np.nan, 0.0)
    silence = presence.gap_p_values(presence.fit(grid(past)), grid(np.full(60, np.nan)))
    door = discrete.fit(grid(rng.random(14 * 1440) < 0.02))
    scores, p, _ = discrete.score(door, grid(np.ones(60)))
    assert min(silence.min(), p.min()) == pytest.approx(P_FLOOR)
    assert np.isfinite(scores).all()


def test_values_never_seen_are_rarer_the_more_there_are_in_a_row_and_a_known_one_ends_the_row():
    params = discrete.fit(grid(np.full(300, 7.0)))
    _, p, _ = discrete.score(params, grid([7, 8, 9, 9, 7, 8]))
    assert p[0, [1, 2, 3, 5]] == pytest.approx([1 / 301, 2 / 301 / 302, 6 / 301 / 302 / 303, 1 / 301])
    assert p[0, 4] > 0.9


def test_of_values_never_seen_the_one_further_out_is_rarer():
    params = discrete.fit(grid(np.tile([0.0, 1.0], 150)))
    p = [discrete.score(params, grid([[value]]))[1][0, 0] for value in (0.5, 1.5, 11.0, -10.0)]
    assert p == pytest.approx([1 / 301, 1 / 301 / 1.5, 1 / 301 / 11, 1 / 301 / 11])


@pytest.mark.parametrize(("code", "share"), [(-999.0, 0.03), (65535.0, 0.01), (-127.5, 0.03)])
def test_codes_for_missing_readings_in_the_history_hide_no_fault(code, share):
    rng = np.random.default_rng(1)
    past = rng.normal(20, 1, 2880)
    past[rng.random(len(past)) < share] = code
    now = rng.normal(20, 1, 60)
    now[20:35] += 12
    rows = called_after(past, now)
    assert rows["value"].drop_nulls().max() < 100
    faulty = rows.filter(pl.col("time") >= START + timedelta(minutes=2900)).head(15)
    assert faulty["is_anomaly"].all()
    assert not rows.head(20)["is_anomaly"].any()


def test_values_of_a_range_that_is_rarely_reached_are_no_sentinels():
    """CO2 in a school after a holiday: quiet most of the time, and whole numbers up to 1,200 recur while it is not."""
    rng = np.random.default_rng(0)
    values = 430 + rng.normal(0, 8, (2, 4032))
    values[:, :400] += 900 * rng.random((2, 400)) ** 0.5
    values = values.round()
    values[1, 1000:1010:2] = 65535
    assert sentinels_of(values) == [[], [65535]]


def test_a_door_that_is_shut_all_night_is_called_when_it_stays_open():
    rng = np.random.default_rng(1)
    past = (rng.random(14 * 1440) < 0.04).astype(float)
    past[(np.arange(len(past)) % 1440) < 600] = 0.0
    shut, opened = (called_after(past, np.full(60, state)) for state in (0.0, 1.0))
    assert not shut["is_anomaly"].any()
    assert opened["is_anomaly"][5]
    assert opened.filter("is_anomaly")["cause"][-1] == "flat"


def test_a_flat_line_of_a_sensor_with_extreme_values_is_called():
    rng = np.random.default_rng(1)
    past = rng.standard_t(2, 3 * 1440).round(3)
    rows = called_after(past, np.r_[rng.standard_t(2, 30).round(3), np.full(30, 0.4)])
    calls = rows.filter("is_anomaly")
    assert calls["cause"].to_list() == ["flat"]
    assert calls["time"][0] == START + timedelta(minutes=3 * 1440 + 34)


def test_states_zeros_and_values_within_reach_are_no_sentinels():
    rng = np.random.default_rng(2)
    steady = rng.normal(1000, 5, 600)
    off = steady.copy()
    off[100:160] = -3.0
    zero = np.where(rng.random(600) < 0.05, 0.0, steady)
    near = np.where(rng.random(600) < 0.05, 999.0, steady)
    often = np.where(rng.random(600) < 0.4, -999.0, steady)
    assert sentinels_of(np.stack([steady, off, zero, near, often])) == [[]] * 5
    assert sentinels_of(np.full((1, 50), np.nan)) == [[]]


def test_a_labelled_fault_of_the_history_is_called_when_it_comes_again():
    rng = np.random.default_rng(3)
    past = rng.normal(20, 1, 1440)
    past[400:900] += 8
    now = rng.normal(20, 1, 60)
    now[10:50] += 8
    labels = pl.DataFrame(
        {
            "device": ["d"],
            "tag": ["*"],
            "start": [START + timedelta(minutes=400)],
            "end": [START + timedelta(minutes=900)],
            "fault": ["high"],
        }
    )
    shares = [
        called_after(past, now, labels=labels_or_none)["is_anomaly"][10:50].mean()
        for labels_or_none in (None, labels)
    ]
    assert shares[1] > 0.9
    assert shares[0] < 0.5


def test_a_fault_covers_its_tag_or_all_and_each_interval_that_it_touches():
    faults = pl.DataFrame(
        {
            "device": ["d", "d", "other"],
            "tag": ["t0", "*", "*"],
            "start": [START + timedelta(seconds=90), START + timedelta(minutes=4), START],
            "end": [START + timedelta(seconds=150), START + timedelta(minutes=5), START + HOUR],
        }
    )
    cells = in_faults(grid(np.ones((2, 6))), faults)
    assert cells.tolist() == [[False, True, True, False, True, False], [False] * 4 + [True, False]]


def test_labelled_faults_are_no_normal_readings_of_the_backtest():
    values = np.random.default_rng(4).normal(size=1440)
    values[-60:] += 9
    labels = pl.DataFrame(
        {"device": ["d"], "tag": ["t"], "start": [START + 23 * HOUR], "end": [START + 24 * HOUR]}
    )
    plain, labelled = trained_on(values), trained_on(values, labels=labels)
    assert plain.headline["alarm_rate_at_0.001"] > 0.4
    assert labelled.headline["alarm_rate_at_0.001"] < 0.1
    assert any("times the expected share" in note for note in plain.notes)
    assert not any("at alpha 0.001, " in note for note in labelled.notes)


def slow_and_fast(days, shift=0.0):
    """A reading every ten minutes, as stored at one minute and at ten; the last 8 hours are shifted by `shift`."""
    own = (
        np.sin(np.arange(days * 144) / 144 * 2 * np.pi) + np.random.default_rng(5).normal(size=days * 144) / 3
    )
    own[-48:] += shift
    fast = np.full(days * 1440, np.nan)
    fast[3::10] = own
    return own, fast


def test_a_sensor_that_sends_every_ten_minutes_is_judged_as_in_a_store_of_ten_minutes():
    own, fast = slow_and_fast(4, shift=1.2)
    there = called_after(own[:-48], own[-48:], "10m")
    here = called_after(fast[:-480], fast[-480:])
    assert here["time"].to_list() == [time + timedelta(minutes=3) for time in there["time"]]
    assert here["p_value"].to_list() == there["p_value"].to_list()
    assert here["is_anomaly"].sum() > 15


def test_the_pace_of_sensors_is_told_and_kept_only_where_readings_are_regular():
    rng = np.random.default_rng(5)
    _, fast = slow_and_fast(2)
    now_and_then = np.where(rng.random(2880) < 0.1, rng.normal(size=2880), np.nan)
    training = trained_on(fast)
    assert training.files["sensors"]["pace"].to_list() == [10]
    assert any("judged every 10 minutes" in note for note in training.notes)
    for values in (now_and_then, rng.normal(size=2880)):
        assert trained_on(values).files["sensors"]["pace"].to_list() == [1]
    notes = " ".join(trained_on(now_and_then).notes)
    assert (
        "Use a separate store with --interval 6m." in notes
        or "Use a separate store with --interval 10m." in notes
    )


def test_sensors_that_cannot_alarm_are_counted():
    few = trained_on(np.random.default_rng(6).normal(size=30))
    assert any("1 of 1 sensors have too little history" in note for note in few.notes)


@pytest.mark.parametrize(("hours", "has_note"), [(3, True), (24, False)])
def test_a_history_without_a_day_says_when_to_train_again(hours, has_note):
    notes = trained_on(np.random.default_rng(8).normal(size=60 * hours)).notes
    assert any("Train again once there are two days" in note for note in notes) is has_note


def test_an_old_bundle_without_sentinels_still_scores():
    training = trained_on(np.random.default_rng(7).normal(size=1440))
    files = dict(training.files) | {"sensors": training.files["sensors"].drop("sentinels")}
    assert training_notes.of_sensors(training.files, Options()) == []
    model = DEVICES.load(files)
    tables = {"readings": readings_of(np.zeros(1500), timedelta(minutes=1)).lazy()}
    keys = pl.DataFrame({"device": ["d"], "tag": ["t"]})
    assert DEVICES.score(model, tables, {}, keys, START + 25 * HOUR, {"alpha": 0.001}).rows.height == 60


@pytest.mark.parametrize(
    ("hours", "at_most", "learnt", "judged"), [(48, 5, 43, 5), (27, 24, 18, 9), (6, 2, 4, 2), (2, 24, 1, 1)]
)
def test_a_first_training_learns_from_hours_that_are_not_judged(hours, at_most, learnt, judged):
    readings = readings_of(np.ones(hours * 60), timedelta(minutes=1)).lazy()
    until, count = first_split(readings, START + hours * HOUR, at_most)
    assert until == START + learnt * HOUR
    assert count == judged


def test_an_hour_has_changed_where_it_got_a_reading_and_not_where_others_did():
    before = readings_of(np.ones(180), timedelta(minutes=1)).with_columns(count=pl.lit(1))
    start = before["time"].min()
    more = before.with_columns(
        count=pl.when(pl.col("time") == start + 70 * timedelta(minutes=1)).then(2).otherwise(1)
    )
    ends = [start + n * HOUR for n in (1, 2, 3)]
    assert changed_hours(before.lazy(), more.lazy(), ends) == [ends[1]]
    assert (
        changed_hours(before.lazy(), before.lazy(), ends)
        == changed_hours(before.lazy(), more.lazy(), [])
        == []
    )


def test_a_verdict_of_a_fault_is_a_label_and_one_of_a_false_alarm_is_none():
    row = {"device": "d", "tag": "t", "start": START, "end": START + HOUR}
    verdicts = pl.DataFrame([row | {"verdict": "fault"}, row | {"verdict": "false_alarm"}])
    labels = pl.DataFrame([row | {"fault": "leak", "start": START - HOUR}])
    faults = labelled_faults({"labels": labels.lazy(), "verdicts": verdicts.lazy()}, START + HOUR)
    assert faults["start"].to_list() == [START - HOUR, START]
    assert labelled_faults({"verdicts": verdicts.lazy()}, START).is_empty()


def test_a_quantity_read_in_coarse_steps_has_few_values_and_is_one_of_the_joint_detector():
    random, minute = np.random.default_rng(2), timedelta(minutes=1)
    load = random.normal(size=1440)
    values = np.stack([load, load + 0.3 * random.normal(size=1440), random.integers(0, 4, 1440)])
    values[1] = np.round(values[1] / 1.2) * 1.2
    assert discrete.is_coarse(values).tolist() == [False, True, False]
    keys = pl.DataFrame({"device": "d", "tag": ["load", "pressure", "state"]})
    frames = fit_grid(Grid(keys, values, START, minute), Options.of({}), keys.clear(), pl.DataFrame())
    assert frames["sensors"]["rung"].to_list() == ["robust_level", "few_values", "few_values"]
    assert frames["joint"]["tags"].to_list() == [["load", "pressure"]]
    model = Model.of(files_of(frames, Options.of({})))
    now = np.stack([np.full(60, 2.0), np.full(60, -2.4), np.zeros(60)])
    rows = readings_in(Grid(keys, np.c_[values, now], START, minute)).lazy()
    sensor_keys = pl.DataFrame({"device": ["d"], "tag": ["*"]})
    first = START + 1440 * minute
    scores = score_span(model, rows, sensor_keys, first, first + 60 * minute, Options.of({})).rows
    assert scores["is_anomaly"].all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("timezone", "site", "least", "most"),
    [("UTC", None, 1.0, 2.0), ("Europe/Zurich", None, 0.0, 0.2), ("UTC", "Europe/Zurich", 0.0, 0.2)],
)
def test_the_cycle_of_the_day_follows_the_clocks_of_its_time_zone(timezone, site, least, most):
    step, count = timedelta(minutes=10), (datetime(2026, 3, 29, tzinfo=UTC) - START) // timedelta(minutes=10)
    times = pl.Series([START + n * step for n in range(count + 2 * 144)], dtype=pl.Datetime("us", "UTC"))
    local = times.dt.convert_time_zone("Europe/Zurich").dt
    course = 5 * np.sin(2 * np.pi * (local.hour() + local.minute() / 60).to_numpy() / 24)
    values = course + np.random.default_rng(1).normal(size=len(course)) / 5
    training = trained_on(values[:count], "10m", timezone=timezone, site=site)
    keys = pl.DataFrame({"device": ["d"], "tag": ["t"]})
    tables = {"readings": readings_of(values, step).lazy()}
    monday = datetime(2026, 3, 30, tzinfo=UTC)
    rows = pl.concat(
        DEVICES.score(DEVICES.load(training.files), tables, {}, keys, monday + hour * HOUR, {}).rows
        for hour in range(1, 25)
    )
    error = np.abs(rows.sort("time")["expected"].to_numpy() - course[-144:])
    assert least < error.max() < most


def test_most_devices_that_end_before_the_last_hours_are_told_with_the_hour_to_score_instead():
    hours = pl.DataFrame({"time": [START + n * HOUR for n in range(200)]})
    ends = {"a": 20, "b": 21, "c": 200}
    rows = pl.concat(hours.head(n).with_columns(device=pl.lit(name)) for name, n in ends.items())
    rows = rows.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))).lazy()
    note = devices_behind(rows, START + 200 * HOUR, 24)
    assert "2 of 3 devices" in note
    assert "Is the clock of c ahead?" in note
    assert note.endswith("score --as-of 2026-01-01T21:00")
    assert devices_behind(rows, START + 30 * HOUR, 24) is None
    assert devices_behind(rows.filter(pl.col("device") != "a"), START + 200 * HOUR, 24) is None


@pytest.mark.parametrize("days", [20, 200])
def test_a_first_training_ends_with_most_devices_however_far_ahead_one_clock_is(days):
    hours = pl.DataFrame({"time": [START + n * HOUR for n in range(200)]})
    newest = START + timedelta(days=days)
    rows = pl.concat(hours.with_columns(device=pl.lit(name)) for name in "abc")
    ahead = pl.DataFrame({"time": [newest - HOUR], "device": ["d"]})
    rows = pl.concat([rows, ahead]).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))).lazy()
    assert fleet_end(rows, newest, 24) == START + 200 * HOUR
    assert "Is the clock of d ahead?" in devices_behind(rows, newest, 24)
    assert fleet_end(rows, START + 200 * HOUR, 24) == START + 200 * HOUR


@pytest.mark.parametrize("per_day", [0.08, -0.08, 0.0])
def test_a_sensor_that_drifts_through_all_of_its_history_is_told_with_what_it_changes_in_a_day(per_day):
    hours = np.arange(14 * 24)
    past = 20 + np.random.default_rng(4).normal(size=len(hours)) / 2 + per_day * hours / 24
    notes = [note for note in trained_on(past, "1h").notes if "drift" in note]
    if not per_day:
        assert not notes
    else:
        assert notes[0].startswith("1 of 1 sensors drift, such as d t by ")
        assert float(notes[0].split(" by ")[1].split()[0]) == pytest.approx(per_day, rel=0.3)
