"""Counters, angles, and kinds of sensors that people set."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW, RULE
from models.devices.aggregation import aggregate, points
from models.devices.conversion import COUNTER, goes_round, is_counter, of_readings, readings_as, rises
from models.devices.grid import Grid
from models.devices.incidents import what_happened
from models.devices.kinds import kinds
from models.devices.scenario import DEVICES
from models.devices.states import as_places, legend, states_of
from models.devices.tables import TABLES
from models.devices.words import number_of

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
OPTIONS = {"interval": "1m", "alpha": 0.001}
DAY = 24 * 60


def noise(n, seed=1):
    return np.random.default_rng(seed).normal(0, 1, n)


def tables_of(tags, kind_rows=()):
    """Readings of device d by tag, one a minute, without those that are NaN."""
    frames = []
    for tag, values in tags.items():
        times = [START + n * MINUTE for n in range(len(values))]
        frames.append(pl.DataFrame({"device": "d", "tag": tag, "time": times, "mean": values, "shard": 0}))
    readings = pl.concat(frames).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    tables = {"readings": readings.filter(pl.col("mean").is_not_nan()).lazy()}
    if kind_rows:
        tables["kinds"] = pl.DataFrame(kind_rows, schema=["device", "tag", "kind"], orient="row").lazy()
    return tables


def trained(tables, minutes=DAY):
    as_of = START + minutes * MINUTE
    context = DEVICES.context(tables, as_of, OPTIONS)
    parts = DEVICES.prepare_shard(tables, context, as_of, OPTIONS)
    return DEVICES.fit({n: f.lazy() for n, f in parts.items()}, context, as_of, OPTIONS)


def scored(tables, tag, minutes=DAY, hours=1):
    model = DEVICES.load(trained(tables, minutes).files)
    keys = pl.DataFrame({"device": ["d"], "tag": [tag]})
    ends = [START + minutes * MINUTE + (h + 1) * HOUR for h in range(hours)]
    return pl.concat([DEVICES.score(model, tables, {}, keys, end, OPTIONS).rows for end in ends])


def kind_of(tables, tag="t"):
    files = trained(tables).files
    table = kinds({n: f for n, f in files.items() if isinstance(f, pl.DataFrame)}, files["settings"])
    return table.filter(tag=tag).select("kind", "reason").row(0)


def counted(rate, n, every=None):
    """A counter that rises by about `rate` a minute, and starts again after `every` minutes."""
    total = np.cumsum(rate + noise(n))
    if every:
        total -= total[(np.arange(n) // every) * every]
    return total


@pytest.mark.parametrize("every", [None, 400])
def test_a_counter_is_judged_by_its_rise_and_starting_again_is_no_anomaly(every):
    tables = tables_of({"t": counted(50, DAY + 120, every)})
    rows = scored(tables, "t", hours=2)
    assert rows["is_anomaly"].mean() < 0.02
    assert 45 < rows["value"].median() < 55
    assert kind_of(tables)[0] == COUNTER


def test_a_counter_that_slows_down_is_called():
    values = counted(50, DAY + 60)
    values[DAY + 30 :] = values[DAY + 30] + 40 * np.arange(1, 31)
    rows = scored(tables_of({"t": values}), "t").sort("time")
    assert rows["is_anomaly"][31:45].all(), "for 15 minutes"
    assert not rows["is_anomaly"][:30].any()


def test_a_meter_of_coarse_steps_that_stands_still_is_called_and_one_that_rises_evenly_is_not():
    rates = np.where((np.arange(3 * DAY + 60) % DAY) < 600, 0.017, 0.08)
    rates = rates * np.random.default_rng(1).uniform(0.7, 1.3, len(rates))
    meter = np.cumsum(rates).round(2)
    meter[3 * DAY + 20 :] = meter[3 * DAY + 20]
    tables = tables_of({"meter": meter, "even": np.cumsum(1.0 + (np.arange(3 * DAY + 60) % 200 < 100))})
    rows = scored(tables, "meter", 3 * DAY)
    assert rows.filter("is_anomaly")["cause"].to_list() == ["flat"] * 15
    model, end = DEVICES.load(trained(tables, 3 * DAY).files), START + (3 * DAY + 60) * MINUTE
    keys = pl.DataFrame({"device": "d", "tag": ["even", "meter"]})
    reasons = DEVICES.score(model, tables, {}, keys, end, OPTIONS).keys["reason"].to_list()
    assert reasons[0] is None
    assert reasons[1].startswith("flat: the same value")


def test_the_interval_in_which_a_counter_starts_again_is_not_missing():
    values = counted(50, DAY + 60, 20)
    rows = scored(tables_of({"t": values}), "t")
    assert "missing" not in rows["rung"].to_list()


def test_what_falls_as_often_as_it_rises_or_to_any_level_is_no_counter():
    wave = np.tile(np.r_[np.arange(30.0), np.arange(30.0, 0, -1)], 20)
    steps = np.cumsum(np.where(np.arange(1200) % 100 == 99, -40.0, 1.0))
    assert is_counter(np.stack([wave, steps, np.arange(1200.0)])).tolist() == [False, False, True]


def test_a_rise_over_a_gap_is_that_of_an_interval_and_nothing_is_known_after_a_restart():
    differences = rises(np.array([[0.0, 2, np.nan, np.nan, 8, 3, np.nan, 5, 7]]))
    np.testing.assert_array_equal(differences, [[np.nan, 2, np.nan, np.nan, 2, np.nan, np.nan, np.nan, 2]])


def test_past_readings_are_shown_as_they_are_scored():
    values = np.array([0.0, 2, np.nan, np.nan, 8, 3, np.nan, 5, 7])
    readings = tables_of({"t": values})["readings"].rename({"mean": "past"})
    sensors = pl.DataFrame({"device": "d", "tag": "t", "taken": COUNTER, "zero": 0.0, "pace": 1})
    past = of_readings(readings, sensors, "past", MINUTE).sort("time").collect()["past"].to_list()
    assert past == [rise for rise in rises(values[None])[0] if not np.isnan(rise)]


def test_a_bundle_without_kinds_takes_counters_as_they_are():
    tables = tables_of({"t": counted(50, DAY + 60)})
    files = trained(tables).files
    earlier = {**files, "sensors": files["sensors"].drop("kind", "taken", "zero")}
    keys = pl.DataFrame({"device": ["d"], "tag": ["t"]})
    rows = DEVICES.score(DEVICES.load(earlier), tables, {}, keys, START + (DAY + 60) * MINUTE, OPTIONS).rows
    assert rows["value"].min() > 50 * DAY * 0.9


def test_an_angle_is_turned_to_its_mean_direction():
    values = (2 + 5 * noise(DAY + 60)) % 360
    values[-1] = 90.0
    rows = scored(tables_of({"wind_direction": values}), "wind_direction").sort("time")
    assert not rows["is_anomaly"][:-1].any()
    assert rows["is_anomaly"][-1]
    assert rows["value"].max() - rows["value"].min() < 180


@pytest.mark.parametrize("signed", [False, True])
def test_what_goes_round_is_an_angle_whatever_its_name(signed):
    turned = 180 if signed else 0
    values = (355 + 10 * noise(DAY + 60)) % 360 - turned
    values[-15:] = 90.0
    tables = tables_of({"vane": values})
    assert kind_of(tables, "vane")[0] == "angle"
    assert "the shorter way round" in kind_of(tables, "vane")[1]
    rows = scored(tables, "vane").sort("time")
    assert rows["is_anomaly"][-1]
    assert not rows["is_anomaly"][:-15].any()


def test_a_machine_that_stands_or_runs_and_noise_over_a_whole_turn_are_no_angles():
    random = np.random.default_rng(1)
    running = np.where(np.arange(1000) // 20 % 2, 355 + random.normal(0, 1, 1000).clip(-3, 3), 0.0)
    anywhere = random.uniform(0, 360, 1000)
    assert goes_round(np.stack([running, anywhere, (5 * noise(1000)) % 360])).tolist() == [False, False, True]


def test_a_kind_that_is_set_stands_before_what_the_readings_look_like():
    rising = tables_of({"t": counted(50, DAY)}, [("*", "t", "wanders")])
    assert kind_of(rising)[0] == "wanders"
    assert "set to wanders" in kind_of(rising)[1]
    own = tables_of({"t": counted(50, DAY)}, [("*", "t", "wanders"), ("d", "t", "counter")])
    assert kind_of(own)[0] == COUNTER


def test_few_values_that_are_set_to_vary_are_judged_by_their_distance():
    few = np.round(noise(DAY))
    assert kind_of(tables_of({"t": few}))[0] == "few values"
    assert kind_of(tables_of({"t": few}, [("d", "t", "level")]))[0] == "varies around a level"


def test_a_name_alone_makes_no_angle_of_values_that_never_pass_north():
    grid = Grid(pl.DataFrame({"device": ["d"], "tag": ["valve angle"]}), 20 + noise(100)[None], START, MINUTE)
    assert readings_as(grid)["taken"].to_list() == ["as it is"]


def test_kinds_without_a_device_are_of_all_devices_and_unknown_ones_are_refused():
    raw = pl.DataFrame({"tag": ["a", "b"], "kind": [" Counter", "clock"]}).with_row_index(ROW)
    result = TABLES["kinds"].accept(raw, {})
    assert result.good.select("device", "tag", "kind").rows() == [("*", "a", "counter")]
    assert result.bad.height == 1


def test_a_time_zone_that_is_not_known_is_refused_and_a_site_may_have_no_name():
    raw = pl.DataFrame({"device": ["a", "b"], "timezone": ["Asia/Tokyo", "Asia/Nowhere"]}).with_row_index(ROW)
    result = TABLES["sites"].accept(raw, {})
    assert result.good.select("device", "site", "timezone").rows() == [("a", None, "Asia/Tokyo")]
    assert result.bad[RULE].to_list() == ["timezone_is_known"]


def test_words_are_states_and_a_new_or_lasting_one_is_told_by_its_name():
    names = ["on", "idle", "off"]
    values = np.array([number_of(names[minute // 45 % 3]) for minute in range(DAY + 60)])
    values[-20:] = number_of("FAULT")
    tables = tables_of({"mode": values})
    assert kind_of(tables, "mode")[0] == "few values"
    rows = scored(tables, "mode").sort("time")
    assert rows["is_anomaly"].to_list()[:55] == [False] * 40 + [True] * 15
    last = rows.with_columns(what_happened()).filter("is_anomaly")["what"][-1]
    assert last == "in the state fault, which is rare or new for this sensor"


def test_an_interval_of_words_has_the_last_one_of_them():
    at = [START, START + timedelta(seconds=20), START + timedelta(seconds=40)]
    values = [number_of("idle"), number_of("off"), number_of("run")]
    readings = points(pl.DataFrame({"device": "d", "tag": "t", "time": at, "value": values}), MINUTE)
    assert aggregate(readings).select("mean", "std").rows() == [(number_of("run"), None)]


def test_states_are_drawn_by_their_places_which_are_named():
    files = trained(
        tables_of({"mode": np.tile([number_of(word) for word in ("on", "idle", "run")], 480)})
    ).files
    states = states_of(files["discrete"])
    assert legend(states)["states"].item() == "0 on, 1 run, 2 idle, 3 any other"
    values = [number_of(word) for word in ("run", "on", "fault")]
    rows = pl.LazyFrame({"device": "d", "tag": ["mode"] * 3 + ["t"], "value": [*values, 7.5]})
    assert as_places(rows, ["value"], states).collect()["value"].to_list() == [1.0, 0.0, 3.0, 7.5]
