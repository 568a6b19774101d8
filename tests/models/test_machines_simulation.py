from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.machines.simulation import BEFORE_DAYS, START, sensor_names, simulate, simulate_parts


@pytest.fixture(scope="module")
def fleet() -> dict[str, pl.DataFrame]:
    return simulate(40, days=120, seed=3, interval_hours=2)


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another():
    again, other = simulate(3, days=20, seed=1), simulate(3, days=20, seed=2)
    for name, frame in simulate(3, days=20, seed=1).items():
        assert_frame_equal(frame, again[name])
    assert not again["telemetry"].equals(other["telemetry"])


def test_a_machine_s_rows_do_not_depend_on_how_the_fleet_is_cut():
    whole = simulate(7, days=30, seed=4)
    parts = list(simulate_parts(7, days=30, seed=4, machines_per_part=3))
    for name, frame in whole.items():
        assert_frame_equal(pl.concat([p[name] for p in parts]), frame)
    alone = simulate(range(5, 6), days=30, seed=4)
    assert_frame_equal(alone["telemetry"], whole["telemetry"].filter(machine_id="M00005"))


def test_telemetry_has_a_row_per_interval_that_ended_in_the_days(fleet):
    times = fleet["telemetry"]["time"]
    assert fleet["telemetry"].height == 40 * 120 * 12
    assert (times.min(), times.max()) == (START + timedelta(hours=2), START + timedelta(days=120))
    assert simulate(1, days=10, interval_hours=24)["telemetry"].height == 10


def test_every_failure_is_a_replacement_at_that_time_and_maintenance_goes_back_before_the_telemetry(fleet):
    place = ["machine_id", "time", "component"]
    assert fleet["failures"].height > 40
    assert fleet["failures"].join(fleet["maintenance"], on=place, how="anti").is_empty()
    assert fleet["maintenance"].height > 1.5 * fleet["failures"].height
    assert fleet["maintenance"]["time"].min() < START - timedelta(days=BEFORE_DAYS / 2)
    for name in ("failures", "errors"):
        assert fleet[name]["time"].is_between(START, START + timedelta(days=120)).all()


def test_degradation_is_seen_in_the_component_s_own_sensor_before_most_failures(fleet):
    shares = []
    for i, (sensor, _, deviation) in enumerate(sensor_names(4)):
        failed = fleet["failures"].filter(component=f"comp{i + 1}")
        readings = failed.join(fleet["telemetry"].rename({"time": "at"}), on="machine_id")
        readings = readings.with_columns((pl.col("time") - pl.col("at")).dt.total_hours().alias("before"))
        near = (
            readings.filter(pl.col("before").is_between(0, 11))
            .group_by("machine_id", "time")
            .agg(pl.col(sensor).mean())
        )
        usual = fleet["telemetry"].group_by("machine_id").agg(pl.col(sensor).median().alias("usual"))
        shift = near.join(usual, on="machine_id").select((pl.col(sensor) - pl.col("usual")) / deviation)
        shares.append((shift.to_series().abs() > 1.5).mean())
    assert 0.7 < np.mean(shares) < 0.99


def test_errors_announce_failures_but_not_only_them(fleet):
    errors = fleet["errors"].with_columns(component=pl.format("comp{}", pl.col("error").str.slice(5)))
    following = errors.sort("time").join_asof(
        fleet["failures"].sort("time").with_columns(failed="time"),
        on="time",
        by=["machine_id", "component"],
        strategy="forward",
        check_sortedness=False,
    )
    soon = (following["failed"] - following["time"] <= timedelta(hours=36)).fill_null(value=False).mean()
    assert 0.2 < soon < 0.9


def test_components_of_any_number_have_a_sensor_and_an_error_of_their_own():
    tables = simulate(4, days=60, components=6, interval_hours=6)
    assert tables["telemetry"].columns[2:] == [
        "volt",
        "rotate",
        "pressure",
        "vibration",
        "sensor5",
        "sensor6",
    ]
    assert set(tables["maintenance"]["component"]) == {f"comp{i}" for i in range(1, 7)}


def test_a_fleet_of_no_machines_has_empty_tables():
    empty = simulate(0, days=5)
    full = simulate(1, days=5)
    for name, frame in empty.items():
        assert frame.is_empty()
        assert frame.schema == full[name].schema
