"""The contracts of the five tables, and the findings about all of them together."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW, RULE, AcceptResult
from models.errors import ContractError
from models.machines import contracts
from models.machines.contracts import TABLES, interval_hours, sensors, tables_at, with_end_times
from models.machines.findings import (
    EFFECTS,
    FINDINGS,
    duplicate_timestamps,
    failures_without_maintenance,
    findings,
    silent_sensors,
    summary,
    uneven_interval,
    unknown_machines,
)
from models.machines.simulation import simulate

START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WHEN = pl.Datetime("us", "UTC")


def telemetry(*hours: float, machine: str = "m", **readings: list[float | None]) -> pl.LazyFrame:
    times = pl.Series("time", [START + h * HOUR for h in hours], dtype=WHEN)
    values = readings or {"load": [1.0 + i for i in range(len(hours))]}
    return pl.LazyFrame(
        {"machine_id": pl.Series([machine] * len(hours), dtype=pl.String), "time": times, **values}
    )


def events(*rows: tuple[str, float, str]) -> pl.LazyFrame:
    return pl.LazyFrame(
        [(machine, START + hour * HOUR, component) for machine, hour, component in rows],
        schema={"machine_id": pl.String, "time": WHEN, "component": pl.String},
        orient="row",
    )


@pytest.fixture(scope="module")
def fleet() -> dict[str, pl.DataFrame]:
    return simulate(3, days=20, seed=1, start=START)


def accepted(name: str, frame: pl.DataFrame, **options: Any) -> AcceptResult:
    raw = frame.with_row_index(ROW, offset=1)
    return TABLES[name].accept(raw, {"timezone": "UTC", **options})


@pytest.mark.parametrize("zero", ["0", 0.0, False])
def test_a_flag_beside_each_reading_is_no_component(zero):
    rows = pl.DataFrame({"machine_id": ["d"] * 4, "time": [START] * 4, "component": [zero] * 4})
    with pytest.raises(ContractError, match=r"component is 0 in 4 of 4 rows.*--column component==NAME"):
        accepted("failures", rows)
    assert (
        accepted("failures", rows.with_columns(component=pl.lit("1"))).good["component"].to_list()
        == ["1"] * 4
    )


def test_cancelled_work_is_no_failure():
    rows = pl.DataFrame({"machine_id": ["d"] * 3, "time": [START] * 3, "component": ["a", "b", "c"]})
    work = rows.with_columns(Status=pl.Series(["Closed", "CANCELLED ", None]))
    assert accepted("failures", work).bad.rows() == [(2, "cancelled")]


@pytest.mark.parametrize(
    ("column", "planned", "repair"),
    [
        ("WORKTYPE", "PM", "CM"),
        ("Maintenance Type", "preventive maintenance ", "PM01"),
        ("component", "Inspection", "belt"),
        ("Planned", "yes", "no"),
    ],
)
def test_preventive_work_is_no_failure(column, planned, repair):
    rows = pl.DataFrame({"machine_id": ["d"] * 3, "time": [START] * 3, "component": ["a", "b", "c"]})
    work = rows.with_columns(pl.Series(column, [repair, planned, "other"]))
    assert accepted("failures", work).bad.rows() == [(2, "preventive_work")]
    assert accepted("maintenance", work).bad.is_empty()


def test_readings_of_several_sensors_in_one_column_are_no_sensor():
    rows = pl.DataFrame(
        {"machine_id": ["a"] * 2, "time": [START] * 2, "level": [1.0, 2.0], "channel": ["t", "v"]}
    )
    with pytest.raises(ContractError, match=r"'level' is the only .*--layout tag-value --column tag=channel"):
        accepted("telemetry", rows)
    assert accepted("telemetry", rows.with_columns(channel=pl.lit("t"))).good.height == 2


def test_simulated_tables_keep_their_contracts(fleet):
    for name, table in TABLES.items():
        result = accepted(name, fleet[name])
        assert result.bad.is_empty(), name
        assert result.good.sort(table.unique).equals(
            fleet[name].sort(table.unique).select(result.good.columns)
        ), name


def test_rows_without_machine_without_time_or_with_an_age_below_0_break_the_contract(fleet):
    wrong = fleet["machines"].with_columns(
        pl.Series("age_years", [-1.0, 3.0, None]), pl.Series("machine_id", ["a", "", "c"])
    )
    result = accepted("machines", wrong)
    assert result.good["machine_id"].to_list() == ["c"]
    assert set(result.bad[RULE]) == {"age_years|min", "machine_id|min_length"}
    without = fleet["telemetry"].head(2).with_columns(pl.lit(None, WHEN).alias("time"))
    assert accepted("telemetry", without).good.is_empty()


def test_telemetry_without_a_sensor_is_an_error_that_says_so(fleet):
    bare = fleet["telemetry"].select("machine_id", "time", note=pl.lit("good"))
    with pytest.raises(ContractError, match="Found: machine_id, time, note"):
        accepted("telemetry", bare)


def test_telemetry_whose_times_mark_the_start_is_stored_with_the_end(fleet):
    at_start = fleet["telemetry"].with_columns(pl.col("time") - HOUR)
    result = accepted("telemetry", at_start, telemetry_marks="start")
    assert result.good.equals(accepted("telemetry", fleet["telemetry"]).good)
    alone = at_start.unique("machine_id", keep="first", maintain_order=True)
    with pytest.raises(ContractError, match="--telemetry-hours"):
        accepted("telemetry", alone, telemetry_marks="start")
    told_so = accepted("telemetry", alone, telemetry_marks="start", telemetry_hours=1)
    assert told_so.good["time"].to_list() == [START + HOUR] * 3


def test_the_columns_of_the_public_data_set_are_known_by_their_names():
    for table in TABLES.values():
        assert set(table.aliases) <= set(table.schema.column_names())
        assert table.aliases["machine_id"] == "machineID"
    assert TABLES["failures"].aliases["component"] == "failure"


def test_sensors_are_the_numeric_columns_that_are_not_part_of_the_row_s_identity():
    frame = telemetry(1, 2, b=[1.0, 2.0], a=[1.0, None]).with_columns(
        shard=pl.lit(3), note=pl.lit("x"), count=pl.lit(2)
    )
    assert sensors(frame) == ["a", "b", "count"]


@pytest.mark.parametrize("hours", [1, 24, 1 / 6])
def test_the_interval_is_the_commonest_distance_in_spite_of_gaps(hours):
    at = np.arange(60) * hours
    remaining = np.delete(at, [5, 6, 17, 40])
    several = pl.concat([telemetry(*remaining, machine=f"m{i}") for i in range(30)])
    assert interval_hours(several) == pytest.approx(hours)


def test_one_row_of_telemetry_has_no_interval():
    assert interval_hours(telemetry(3)) is None
    assert interval_hours(telemetry()) is None


def test_what_is_known_ends_at_as_of_included_and_tables_without_time_are_whole(fleet):
    lazy = {name: frame.lazy() for name, frame in fleet.items()}
    tables = tables_at(lazy, START + 24 * HOUR)
    assert tables["telemetry"].collect()["time"].max() == START + 24 * HOUR
    assert tables["machines"].collect().equals(fleet["machines"])


def test_a_label_at_the_start_becomes_one_at_the_end():
    assert with_end_times(telemetry(0, 24), 24.0).collect()["time"].to_list() == [
        START + 24 * HOUR,
        START + 48 * HOUR,
    ]


def test_machines_that_the_table_of_machines_lacks_are_found_in_every_table(fleet):
    tables = {name: frame.lazy() for name, frame in fleet.items()}
    tables["machines"] = tables["machines"].filter(pl.col("machine_id") != "M00001")
    lines = unknown_machines(tables)
    assert set(lines["machine_id"]) == {"M00001"}
    assert {"telemetry", "maintenance"} <= set(lines["table"])
    counts = fleet["telemetry"].filter(machine_id="M00001").height
    assert lines.filter(table="telemetry")["count"].item() == counts


def test_a_failure_is_without_maintenance_record_when_no_replacement_of_it_follows_in_time():
    failed = events(("m", 10, "pump"), ("m", 50, "pump"), ("m", 90, "gear"), ("n", 10, "pump"))
    replaced = events(("m", 13, "pump"), ("m", 75, "pump"), ("m", 90, "gear"), ("m", 11, "gear"))
    lines = failures_without_maintenance(failed, replaced)
    assert sorted(lines.select("machine_id", "detail").iter_rows()) == [
        ("m", "pump, first 2024-03-03 02:00"),
        ("n", "pump, first 2024-03-01 10:00"),
    ]


def test_duplicate_timestamps_are_found_per_machine():
    twice = pl.concat([telemetry(1, 2, 3), telemetry(2, 3, 3), telemetry(2, machine="n")])
    lines = duplicate_timestamps(twice)
    assert lines.select("machine_id", "count").rows() == [("m", 3)]


def test_gaps_and_clock_changes_make_the_interval_uneven():
    lines = uneven_interval(pl.concat([telemetry(*range(10)), telemetry(0, 1, 2, 4, 5, 9, machine="n")]))
    assert lines.select("machine_id", "count", "detail").rows() == [
        ("n", 2, "usually 60 minutes, once up to 240")
    ]


def test_sensors_that_are_constant_or_missing_for_weeks_are_found_but_for_those_that_a_machine_never_had():
    frame = telemetry(
        1, 2, 3, 4, a=[1.0, 2.0, 3.0, 4.0], b=[5.0, 5.0, None, 5.0], c=[None, float("nan"), None, None]
    )
    never = pl.lit(None, pl.Float64).alias("never")
    history = pl.concat([telemetry(0, a=[1.0], b=[5.0], c=[1.0]), frame], how="diagonal").with_columns(never)
    lines = pl.concat(silent_sensors(frame.with_columns(never), 14, history))
    assert lines.select("finding", "detail").rows() == [
        ("constant sensor", "b: one value in 14 days"),
        ("missing sensor", "c: no reading in 14 days"),
    ]


def test_a_healthy_fleet_has_no_findings_and_every_finding_has_an_effect(fleet):
    tables = {name: frame.lazy() for name, frame in fleet.items()}
    assert findings(tables, START + timedelta(days=20)).is_empty()
    assert summary(findings(tables, START + timedelta(days=20))).is_empty()
    broken = {
        **tables,
        "machines": tables["machines"].with_columns(
            pl.col("machine_id").replace({"M00000": "M99999"}).alias("machine_id")
        ),
        "telemetry": tables["telemetry"].with_columns(pl.lit(3.0).alias("volt")),
        "maintenance": tables["maintenance"].head(0),
        "failures": events(("P-7", 1, "pump")),
    }
    lines_of_findings = findings(broken, START + timedelta(days=20))
    assert dict(lines_of_findings.schema) == FINDINGS
    lines = summary(lines_of_findings)
    expected = {"unknown machine", "no telemetry", "constant sensor", "failure without telemetry"}
    assert expected <= set(lines["finding"])
    assert set(lines["finding"]) <= set(EFFECTS)
    assert set(lines["effect"]) <= set(EFFECTS.values())
    assert contracts.sensors(broken["telemetry"]) == ["pressure", "rotate", "vibration", "volt"]


def test_what_is_not_known_of_machines_may_be_left_out():
    good = accepted("machines", pl.DataFrame({"machine_id": ["1", "2"], "Model ": ["A", None]})).good
    assert good.select("machine_id", "model", "age_years").rows() == [("1", "A", None), ("2", None, None)]
    aged = accepted("machines", pl.DataFrame({"machine_id": ["1"], "age_years": ["5"]})).good
    assert aged.select("model", "age_years").rows() == [(None, 5.0)]


def test_failures_that_are_all_before_or_after_the_readings_are_told():
    readings = pl.LazyFrame({"machine_id": "d", "time": [START, START + timedelta(days=9)]})
    for days, count in ((-1, 1), (0, 0), (9, 0), (10, 1)):
        failures = pl.DataFrame({"machine_id": "d", "time": [START + timedelta(days=days)], "component": "a"})
        notes = TABLES["failures"].notes(failures, {"telemetry": readings}, {})
        assert [note.startswith("failures: all are from") for note in notes] == [True] * count
