"""The inputs that are watched for drift: shifts are found at once, the right feature first, and there is no other alarm."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.devices.scenario import DEVICES
from models.devices.simulation import readings_of, recalibrated
from models.devices.simulation import simulate as simulate_devices
from models.drift import CYCLE, drift
from models.machines.scenario import MACHINES
from models.machines.simulation import joined_by
from models.machines.simulation import simulate as simulate_machines
from models.sales.scenario import SALES
from models.sales.simulation import price_war
from models.sales.simulation import simulate as simulate_sales
from models.scenario import AsOf, Scenario

QUIET = 50
"""Cycles without a shift."""
START = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """Tables that end `QUIET` cycles after `trained`, and the same with a shift after it."""

    scenario: Scenario
    tables: dict[str, pl.DataFrame]
    shifted: dict[str, pl.DataFrame]
    trained: AsOf
    cycle: timedelta
    time: str
    first: str

    def watched_inputs(self, tables: dict[str, pl.DataFrame], cycles: int) -> pl.DataFrame:
        until = self.trained + cycles * self.cycle
        return self.scenario.watched_inputs(
            {n: f.lazy() for n, f in tables.items()}, self.trained, until, {}
        ).collect()

    def drifted(self, tables: dict[str, pl.DataFrame], cycles: int) -> pl.DataFrame:
        rows = self.watched_inputs(tables, cycles).drop(self.scenario.key, strict=False)
        now = pl.col(CYCLE) > self.trained
        return drift(rows.filter(~now), rows.filter(now)).filter("drifted")


@cache
def sales() -> Case:
    market = simulate_sales(40, 6, 104 + QUIET, seed=5, with_truth=False)
    trained_at = market.as_of - timedelta(weeks=QUIET)
    war = price_war(market.history, trained_at + timedelta(weeks=1))
    return Case(
        SALES, {"history": market.history}, {"history": war}, trained_at, timedelta(weeks=1), "week", "price"
    )


@cache
def devices() -> Case:
    hours = 24 * 5
    plant = simulate_devices(30, START, (hours + QUIET) * 6, seed=1, interval=timedelta(minutes=10))
    readings = readings_of(plant.grid).drop("point_times", "point_values")
    trained_at = START + timedelta(hours=hours)
    return Case(
        DEVICES,
        {"readings": readings},
        {"readings": recalibrated(readings, trained_at)},
        trained_at,
        timedelta(hours=1),
        "time",
        "flow",
    )


@cache
def machines() -> Case:
    tables = simulate_machines(48, 120 + QUIET, seed=2, interval_hours=4)
    trained_at = tables["telemetry"]["time"].max() - timedelta(days=QUIET)
    old = pl.col("machine_id") < "M00040"
    before = {name: frame.filter(old) for name, frame in tables.items()}
    return Case(
        MACHINES, before, joined_by(tables, 8, trained_at), trained_at, timedelta(days=1), "time", "model"
    )


every_scenario = pytest.mark.parametrize("case", [sales, devices, machines], ids=lambda case: case.__name__)


@every_scenario
def test_a_shift_is_found_within_two_cycles_and_the_right_feature_comes_first(case: Callable[[], Case]):
    lines = case().drifted(case().shifted, 2)
    assert lines.height > 0
    assert lines["feature"][0] == case().first


@every_scenario
def test_in_fifty_cycles_without_a_shift_there_is_no_alarm(case: Callable[[], Case]):
    lines = case().drifted(case().tables, QUIET)
    assert lines.select(CYCLE, "feature", "psi", "limit").to_dicts() == []


@pytest.mark.parametrize("case", [sales, devices], ids=lambda case: case.__name__)
def test_what_is_watched_up_to_a_cycle_does_not_change_when_the_future_does(case: Callable[[], Case]):
    one = case()
    early = one.watched_inputs(one.tables, 0)
    later = one.watched_inputs(one.shifted, 3).filter(pl.col(CYCLE) <= one.trained)
    assert_frame_equal(early, later, check_row_order=False, check_column_order=False)


def test_what_is_watched_of_machines_does_not_change_when_later_telemetry_does():
    plant = machines()
    late = pl.col("time") > plant.trained
    sensors = pl.exclude("machine_id", "time")
    telemetry = plant.tables["telemetry"]
    altered = telemetry.with_columns(pl.when(late).then(sensors * 3).otherwise(sensors).name.keep())
    early = plant.watched_inputs(plant.tables, 0)
    features = plant.watched_inputs({**plant.tables, "telemetry": altered}, 3)
    later = features.filter(pl.col(CYCLE) <= plant.trained)
    assert features.height > later.height
    assert_frame_equal(early, later, check_row_order=False, check_column_order=False)


def test_a_store_or_shard_without_rows_has_nothing_to_watch():
    for case in (sales(), devices(), machines()):
        empty = {name: frame.clear() for name, frame in case.tables.items()}
        assert case.watched_inputs(empty, 1).height == 0


def test_a_week_without_a_row_is_a_gap_and_after_eight_of_them_the_key_is_no_longer_expected():
    weeks = [date(2024, 1, 1) + timedelta(weeks=n) for n in range(40)]
    rows = [{"sku": "a", "store": "x", "week": w, "units": 5.0, "price": 2.0} for w in weeks[:20]]
    rows += [{"sku": "b", "store": "x", "week": w, "units": 5.0, "price": 2.0} for w in weeks]
    history = pl.DataFrame(rows).lazy()
    features = SALES.watched_inputs({"history": history}, weeks[30], weeks[39], {}).collect().filter(sku="a")
    assert features.height == 28
    assert features["no_row"].sum() == 8
    assert features.filter(pl.col("no_row") == 1)["price"].is_nan().all()
    assert features.filter(pl.col("no_row") == 0)["price"].drop_nans().to_list() == [0.0] * 12


def test_a_sensor_that_falls_silent_has_fewer_readings_and_a_new_device_is_new():
    case = devices()
    last = case.trained - timedelta(hours=3)
    first, second = case.tables["readings"]["device"].unique().sort()[:2]
    silent = (pl.col("device") == first) & (pl.col("tag") == "flow") & (pl.col("time") >= last)
    late = (pl.col("device") == second) & (pl.col("time") < case.trained)
    readings = case.tables["readings"].filter(~silent, ~late).lazy()
    until = case.trained + timedelta(hours=1)
    features = (
        DEVICES.watched_inputs({"readings": readings}, case.trained, until, {}).collect().filter(cycle=until)
    )
    row = features.filter(device=first).row(0, named=True)
    assert row["flow readings"] < -1
    assert row["current readings"] > -1
    assert features.filter(device=second)["new"].to_list() == [1.0]
    assert features.filter(device=second)["flow"].is_nan().all()
