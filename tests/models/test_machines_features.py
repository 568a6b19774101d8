"""Features against a slow oracle written from their definition, and with a changed future."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.machines.features import build, feature_list, windows
from models.machines.options import Options
from models.machines.scenario import MACHINES
from models.machines.simulation import simulate
from models.machines.vocabulary import Vocabulary, vocabulary

START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
OPTIONS = Options(normal_days=4)


def lazy(tables: dict[str, pl.DataFrame]) -> dict[str, pl.LazyFrame]:
    return {name: frame.lazy() for name, frame in tables.items()}


def features(
    tables: dict[str, pl.DataFrame], last: datetime, count: int, options: Options = OPTIONS
) -> pl.DataFrame:
    words = vocabulary(lazy(tables), last)
    machines = tables["machines"]["machine_id"].to_list()
    return build(lazy(tables), words, machines, last, count, options)


@pytest.fixture(scope="module")
def fleet() -> dict[str, pl.DataFrame]:
    """Three machines over twelve days; a tenth of the readings are missing, singly and as whole rows."""
    tables = simulate(3, days=12, seed=5, start=START)
    rng = np.random.default_rng(1)
    telemetry = tables["telemetry"].filter(pl.Series(rng.random(tables["telemetry"].height) > 0.05))
    gaps = rng.random((telemetry.height, 4)) < 0.05
    sensors = ["volt", "rotate", "pressure", "vibration"]
    telemetry = telemetry.with_columns(
        pl.when(~pl.Series(gaps[:, i])).then(s).alias(s) for i, s in enumerate(sensors)
    )
    return {**tables, "telemetry": telemetry}


def oracle(
    tables: dict[str, pl.DataFrame], words: Vocabulary, machine: str, at: datetime, options: Options
) -> dict[str, float | None]:
    """The features of one machine at one time, by filtering rows and plain numpy."""
    features: dict[str, float | None] = {}
    telemetry = tables["telemetry"].filter(machine_id=machine)
    usable = windows(words.interval_hours, options)
    for sensor in words.sensors:
        normal = readings(telemetry, sensor, *normal_range(at, options))
        for hours in usable.hours:
            times, values = readings(telemetry, sensor, at - hours * HOUR, at)
            some = len(values) > 0
            features[f"{sensor}_mean_{hours}h"] = values.mean() if some else None
            deviation_of_normal = np.std(normal[1], ddof=1) if len(normal[1]) > 1 else 0.0
            comparable = some and deviation_of_normal > 1e-6 and len(normal[1]) * words.interval_hours >= 72
            deviation = (values.mean() - normal[1].mean()) / deviation_of_normal if comparable else None
            features[f"{sensor}_deviation_{hours}h"] = deviation
            if hours in usable.spread:
                features[f"{sensor}_std_{hours}h"] = values.std(ddof=1) if len(values) > 1 else None
                features[f"{sensor}_min_{hours}h"] = values.min() if some else None
                features[f"{sensor}_max_{hours}h"] = values.max() if some else None
                features[f"{sensor}_slope_{hours}h"] = (
                    np.polyfit(times, values, 1)[0] if len(values) > 1 else None
                )
    for error in words.errors:
        log = tables["errors"].filter(machine_id=machine, error=error)["time"].to_list()
        for hours in options.error_windows_hours:
            features[f"{error}_count_{hours}h"] = float(sum(at - hours * HOUR < t <= at for t in log))
    replaced = [
        (row["time"], row["component"])
        for name in ("maintenance", "failures")
        for row in tables[name].filter(machine_id=machine).iter_rows(named=True)
        if row["time"] <= at
    ]
    failed = [t for t in tables["failures"].filter(machine_id=machine)["time"].to_list() if t <= at]
    for component in words.components:
        features[f"{component}_replaced_days"] = days(at, [t for t, c in replaced if c == component])
    features["any_replaced_days"] = days(at, [t for t, _ in replaced])
    features["any_failed_days"] = days(at, failed)
    visits = sorted(
        {t for t in tables["maintenance"].filter(machine_id=machine)["time"].to_list() if t <= at}
    )
    features["maintenance_due_days"] = due(at, visits)
    about = tables["machines"].row(by_predicate=pl.col("machine_id") == machine, named=True)
    features["age_years"] = about["age_years"]
    for model in words.models:
        features[f"model_is_{model}"] = float(about["model"] == model)
    return features


def readings(
    telemetry: pl.DataFrame, sensor: str, after: datetime, until: datetime
) -> tuple[np.ndarray, np.ndarray]:
    inside = telemetry.filter(pl.col("time") > after, pl.col("time") <= until).drop_nulls(sensor)
    hours = [(t - until) / HOUR for t in inside["time"].to_list()]
    return np.array(hours), inside[sensor].to_numpy()


def normal_range(at: datetime, options: Options) -> tuple[datetime, datetime]:
    """Whole row steps before the longest window or the gap, as many as `normal_days` needs."""
    step = options.every_hours
    gap = options.normal_gap_hours or max(options.windows_hours)
    until = at - -(-gap // step) * step * HOUR
    return until - -(-options.normal_days * 24 // step) * step * HOUR, until


def days(at: datetime, times: list[datetime]) -> float | None:
    return (at - max(times)) / timedelta(days=1) if times else None


def due(at: datetime, visits: list[datetime]) -> float | None:
    distances = [b - a for a, b in pairwise(visits)][-9:]
    if len(distances) < 3:
        return None
    rhythm = sorted(distances)[(len(distances) - 1) // 2]
    following = visits[-1]
    while following <= at:
        following += rhythm
    return (following - at) / timedelta(days=1)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        Options(windows_hours=(3, 24), error_windows_hours=(6, 48), every_hours=8, normal_days=4),
        Options(windows_hours=(7,), every_hours=5, normal_days=5),
        Options(windows_hours=(3, 30), every_hours=6, normal_days=4, normal_gap_hours=7),
    ],
)
def test_every_feature_is_what_filtering_the_tables_by_its_definition_gives(fleet, options):
    last, count = START + timedelta(days=11, hours=17), 14
    rows = features(fleet, last, count, options)
    words = vocabulary(lazy(fleet), last)
    names = [f.name for f in feature_list(words, options)]
    assert rows.columns == ["machine_id", "time", "readings", *names]
    for row in rows.iter_rows(named=True):
        by_hand = oracle(fleet, words, row["machine_id"], row["time"], options)
        assert set(by_hand) == set(names)
        for name in names:
            assert (row[name] is None) == (by_hand[name] is None), (name, row["time"], by_hand[name])
            if by_hand[name] is not None:
                assert row[name] == pytest.approx(by_hand[name], rel=2e-5, abs=2e-5), (name, row["time"])


@pytest.mark.parametrize("table", ["telemetry", "errors", "maintenance", "failures"])
def test_no_feature_changes_when_what_comes_later_does(fleet, table):
    last = START + timedelta(days=9)
    words = vocabulary(lazy(fleet), last)
    later = pl.col("time") > last
    frame = fleet[table]
    if table == "telemetry":
        altered = frame.with_columns(
            pl.when(later).then(pl.col(s) * 7 + 1000).otherwise(s).alias(s) for s in words.sensors
        )
    else:
        name = frame.columns[-1]
        value = frame[name].to_list()[0]
        later_rows = [
            {"machine_id": machine, "time": last + timedelta(microseconds=1 + 10**10 * i), name: text}
            for machine in fleet["machines"]["machine_id"]
            for i, text in enumerate(["something new", value, value])
        ]
        altered = pl.concat([frame.filter(~later), pl.DataFrame(later_rows, schema=frame.schema)])
    assert not altered.equals(frame)
    for tables in ({**fleet, table: altered}, {**fleet, table: frame.filter(~later)}):
        assert vocabulary(lazy(tables), last) == words
        assert_frame_equal(features(fleet, last, 20), features(tables, last, 20), check_exact=True)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(minutes=st.integers(-5_000_000, 5_000_000))
def test_the_same_history_at_another_time_gives_the_same_features(fleet, minutes):
    last = START + timedelta(days=11)
    shift = timedelta(minutes=minutes)
    elsewhere = {
        name: frame.with_columns(pl.col("time") + shift) if "time" in frame.columns else frame
        for name, frame in fleet.items()
    }
    here, there = features(fleet, last, 6), features(elsewhere, last + shift, 6)
    assert_frame_equal(here.drop("time"), there.drop("time"), check_exact=True)


def test_a_row_is_the_same_whatever_range_of_rows_and_machines_was_asked_for(fleet):
    last = START + timedelta(days=11)
    whole = features(fleet, last, 22)
    words = vocabulary(lazy(fleet), last)
    for machine in fleet["machines"]["machine_id"]:
        for back in (0, 5, 13):
            at = last - back * 12 * HOUR
            alone = build(lazy(fleet), words, [machine], at, 1, OPTIONS)
            assert_frame_equal(alone, whole.filter(machine_id=machine, time=at), check_exact=True)


def test_a_reading_of_the_hour_that_follows_is_not_seen_and_one_that_ends_at_the_row_is():
    """The known trap: 12-hour buckets rounded to the nearest, so that a row saw up to six hours ahead."""
    times = [START + hour * HOUR for hour in range(1, 49)]
    telemetry = pl.DataFrame({"machine_id": "m", "time": times, "load": [0.0] * 24 + [10.0] + [0.0] * 23})
    tables = only(telemetry)
    at = START + 24 * HOUR
    assert features(tables, at, 1)["load_max_12h"].item() == 0.0
    assert features(tables, at + HOUR, 1)["load_max_12h"].item() == 10.0
    assert features(tables, at + 13 * HOUR, 1)["load_max_12h"].item() == 0.0


def test_missing_telemetry_is_missing_and_not_zero():
    tables = only(hourly(days=6))
    silent = tables["telemetry"].filter(pl.col("time") <= START + timedelta(days=4))
    rows = features({**tables, "telemetry": silent}, START + timedelta(days=6), 5)
    assert rows["readings"].to_list() == [36, 24, 12, 0, 0]
    assert rows["load_mean_12h"].is_null().to_list() == [False, True, True, True, True]
    assert rows["load_mean_36h"].is_null().to_list() == [False, False, False, True, True]
    assert not rows.select(pl.col("^load_.*$").is_nan().any()).transpose().to_series().any()


@pytest.mark.parametrize("code", [-999.0, 9999.0, 65535.0])
def test_a_code_that_stands_for_no_reading_is_missing(code):
    load = [float(n % 7) for n in range(24 * 8)]
    telemetry = hourly(days=8)[: len(load)]
    last = telemetry["time"].max()
    with_codes = telemetry.with_columns(load=pl.Series(load).scatter([5, 180, 181, 190], code))
    with_gaps = with_codes.with_columns(load=pl.col("load").replace(code, None))
    words = vocabulary(lazy(only(with_codes)), last)
    assert words.codes == (f"load={code}",)
    assert Vocabulary.of_frame(words.to_frame()) == Vocabulary.of_dict(asdict(words)) == words
    assert_frame_equal(
        features(only(with_codes), last, 5), features(only(with_gaps), last, 5), check_exact=True
    )
    once = telemetry.with_columns(load=pl.Series(load).scatter([5], code))
    assert vocabulary(lazy(only(once)), last).codes == ()


def test_a_constant_sensor_has_no_deviation_from_its_normal_and_a_sensor_without_column_is_missing():
    tables = only(hourly(days=8).with_columns(load=pl.lit(0.1) * 3))
    words = vocabulary(lazy(tables), START + timedelta(days=8))
    more = Vocabulary(("gone", "load"), words.components, (), (), 1.0)
    rows = build(lazy(tables), more, ["m"], START + timedelta(days=8), 3, OPTIONS)
    assert rows["load_deviation_24h"].null_count() == rows["gone_mean_24h"].null_count() == 3
    assert rows["load_std_24h"].max() < 1e-6
    assert rows["load_mean_24h"].to_list() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(("days", "rows"), [(0, 0), (1, 1), (2, 2)])
def test_machines_of_no_one_and_two_readings_have_features(days, rows):
    telemetry = hourly(days=1)[:rows]
    feature_rows = features(only(telemetry), START + timedelta(hours=3), 1)
    assert feature_rows["readings"].item() == rows
    assert feature_rows["load_mean_12h"].is_null().item() == (rows == 0)
    assert feature_rows["load_slope_12h"].is_null().item() == (rows < 2)


def test_days_since_replacement_count_from_the_last_one_and_with_all_history_before_the_range():
    """The known trap: counted from the first replacement within the range, history before it dropped."""
    tables = only(hourly(days=10))
    moments = [START - timedelta(days=300), START - timedelta(days=5), START + timedelta(days=6)]
    maintenance = pl.DataFrame({"machine_id": "m", "time": moments, "component": "pump"})
    rows = features({**tables, "maintenance": maintenance}, START + timedelta(days=10), 11)
    at = [START + timedelta(days=10) - 12 * HOUR * back for back in range(10, -1, -1)]
    days_since = [(t - (moments[2] if t >= moments[2] else moments[1])) / timedelta(days=1) for t in at]
    assert rows["pump_replaced_days"].to_list() == pytest.approx(days_since)


def test_the_next_maintenance_is_due_by_the_machine_s_own_rhythm_also_where_one_left_no_record():
    tables = only(hourly(days=30))
    visits = [START - timedelta(days=n) for n in (75, 60, 45, 15, 0)]
    maintenance = pl.DataFrame({"machine_id": "m", "time": visits, "component": "pump"})
    inputs = {**tables, "maintenance": maintenance}
    for days, days_due in ((0, 15.0), (5, 10.0), (14.5, 0.5), (15, 15.0), (20, 10.0)):
        due_days = features(inputs, START + timedelta(days=days), 1)["maintenance_due_days"]
        assert due_days.item() == pytest.approx(days_due)
    few = {**tables, "maintenance": maintenance.head(3)}
    assert features(few, START + timedelta(days=3), 1)["maintenance_due_days"].item() is None


def test_a_failure_without_a_maintenance_record_counts_as_a_replacement():
    tables = only(hourly(days=5))
    failed = pl.DataFrame({"machine_id": "m", "time": [START + timedelta(days=3)], "component": "pump"})
    rows = features({**tables, "failures": failed}, START + timedelta(days=5), 1)
    assert rows["pump_replaced_days"].item() == rows["any_failed_days"].item() == 2.0


def test_repairs_and_errors_that_are_dated_by_day_are_known_at_its_end_and_not_before_the_failure_of_that_day():
    tables = only(hourly(days=10))
    days = [START + timedelta(days=n) for n in (2, 4, 6)]
    failed = pl.DataFrame({"machine_id": "m", "time": [day + 15 * HOUR for day in days], "component": "pump"})
    repaired = pl.DataFrame({"machine_id": "m", "time": days, "component": "pump"})
    errors = pl.DataFrame({"machine_id": "m", "time": days, "error": "E7"})
    inputs = {**tables, "failures": failed, "maintenance": repaired, "errors": errors}
    rows = features(inputs, START + timedelta(days=7), 3)
    assert rows["pump_replaced_days"].to_list() == pytest.approx([1.0, 1.5, 0.0])
    assert rows["E7_count_24h"].to_list() == [0, 0, 1]
    assert vocabulary(lazy(inputs), START + timedelta(days=7)).dated == ("errors", "maintenance")
    by_hour = {**inputs, "maintenance": repaired.with_columns(pl.col("time") + HOUR)}
    assert vocabulary(lazy(by_hour), START + timedelta(days=7)).dated == ("errors",)
    by_day = {**inputs, "failures": repaired}
    assert vocabulary(lazy(by_day), START + timedelta(days=7)).dated == ()


def test_windows_that_the_interval_cannot_resolve_are_left_out_and_said():
    daily = windows(24.0, Options())
    assert (daily.hours, daily.spread) == ((24,), ())
    assert len(daily.left_out) == 3
    assert windows(1.0, Options()).left_out == ()
    assert windows(7 / 60, Options()).hours == (12, 24, 36)
    words = Vocabulary(("load",), ("pump",), (), (), 24.0)
    names = [f.name for f in feature_list(words, Options())]
    assert names[:2] == ["load_mean_24h", "load_deviation_24h"]


def test_components_sensors_and_errors_are_what_the_data_says():
    tables = {
        "telemetry": hourly(days=3).rename({"load": "torque"}).with_columns(shard=pl.lit(3)),
        "errors": pl.DataFrame({"machine_id": "m", "time": [START + HOUR], "error": "E7"}),
        "maintenance": pl.DataFrame({"machine_id": "m", "time": [START], "component": "gear"}),
        "failures": pl.DataFrame({"machine_id": "m", "time": [START + 80 * HOUR], "component": "belt"}),
        "machines": pl.DataFrame(
            {"machine_id": "m", "model": [None], "age_years": [2.0]}, schema_overrides={"model": pl.String}
        ),
    }
    words = vocabulary(lazy(tables), START + timedelta(days=2))
    assert words == Vocabulary(("torque",), ("gear",), ("E7",), (), 1.0)
    assert Vocabulary.of_frame(words.to_frame()) == Vocabulary.of_dict(asdict(words)) == words


def test_words_of_the_data_may_be_names_of_our_own_columns():
    plain = simulate(3, days=30, seed=5, start=START, components=2, interval_hours=6)
    sensors = {"rotate": "errors", "volt": "readings"}
    words = {"error1": "machine_id", "error2": "time", "comp1": "any", "comp2": "time"}
    renamed = {
        name: frame.rename(sensors, strict=False).with_columns(
            pl.col(column).replace(words) for column in ("error", "component") if column in frame.columns
        )
        for name, frame in plain.items()
    }
    last = START + timedelta(days=30)
    ours, theirs = features(plain, last, 20), features(renamed, last, 20)
    assert theirs.width == ours.width
    for mine, right in zip(ours.iter_columns(), theirs.iter_columns(), strict=True):
        assert right.equals(mine), (mine.name, right.name)
    before, after = (
        MACHINES.watched_inputs(lazy(tables), last, last, {}).sort("machine_id", "cycle").collect()
        for tables in (plain, renamed)
    )
    assert after["sensor errors"].to_list() == pytest.approx(before["rotate"].to_list())


def hourly(days: int) -> pl.DataFrame:
    times = [START + hour * HOUR for hour in range(1, days * 24 + 1)]
    rng = np.random.default_rng(0)
    return pl.DataFrame({"machine_id": "m", "time": times, "load": rng.normal(5, 1, len(times))})


def only(telemetry: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Tables of the machine m, with nothing but telemetry in them."""
    when = pl.Datetime("us", "UTC")
    event = {"machine_id": pl.String, "time": when}
    return {
        "telemetry": telemetry.with_columns(pl.col("time").cast(when)),
        "errors": pl.DataFrame(schema={**event, "error": pl.String}),
        "maintenance": pl.DataFrame(schema={**event, "component": pl.String}),
        "failures": pl.DataFrame(schema={**event, "component": pl.String}),
        "machines": pl.DataFrame({"machine_id": ["m"], "model": ["A"], "age_years": [1.0]}),
    }
