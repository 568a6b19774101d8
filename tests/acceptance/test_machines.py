"""The machines scenario as a user meets it: real data, odd data, bad input, and new data that starts a run."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tasks.storage.store import Store
from tests.fleet import CUT, END, OPTIONS, fleet, sources

pytestmark = pytest.mark.slow


def ingest(command, folder: Path, tables: Mapping[str, pl.DataFrame], *words):
    """The output of ingesting `tables` into the store in `folder`."""
    source_options = sources(folder / "sources", tables)
    return command(
        "machines", "ingest", *source_options, *words, "--shards", "2", "--store", folder / "store", "--json"
    )


# Data that is odd, taken together: it is scored, and what is odd is told.


@pytest.fixture(scope="module")
def odd(command, tmp_path_factory):
    """The results for a fleet with every possible fault, and the store."""
    folder = tmp_path_factory.mktemp("odd")
    tables = fleet(8)
    ids = tables["machines"]["machine_id"].to_list()
    machine, time = pl.col("machine_id"), pl.col("time")
    last_weeks = time > END - timedelta(days=21)
    telemetry = tables["telemetry"].with_columns(
        pl.when(machine.eq(ids[1]) & last_weeks).then(None).otherwise("volt").alias("volt"),
        pl.when(machine == ids[2]).then(pl.lit(450.0)).otherwise("rotate").alias("rotate"),
    )
    lost = tables["failures"].filter(time.is_between(END - timedelta(days=10), END - timedelta(days=2)))
    fan = {"machine_id": ids, "time": [END - timedelta(days=60)] * 8, "component": ["fan"] * 8}
    replaced = pl.DataFrame(fan, schema=tables["maintenance"].schema)
    bad = {
        "telemetry": telemetry.filter(~(machine.eq(ids[3]) & last_weeks)),
        "errors": tables["errors"],
        "maintenance": pl.concat([tables["maintenance"], replaced]).join(
            lost, on=["machine_id", "time", "component"], how="anti"
        ),
        "failures": tables["failures"],
        "machines": tables["machines"].filter(machine != ids[4]),
    }
    assert lost.height, "the simulated fleet has to lose a maintenance record"
    assert ingest(command, folder, bad).status == 0
    where = ["--store", folder / "store", "--json"]
    training = command("machines", "train", *OPTIONS, *where)
    assert training.status == 0, training.err
    scoring = command("machines", "score", *where)
    assert scoring.status == 0, scoring.err
    rows = Store(str(folder / "store")).scan("machines/risks").filter(run_id=scoring.json["run_id"]).collect()
    return {"ids": ids, "trained": training.json, "scored": scoring.json, "rows": rows, "lost": lost}


def finding(odd, name: str) -> dict:
    """The first line about a finding, which may concern several tables."""
    return next(line for line in odd["scored"]["gaps"] if line["finding"] == name)


def test_every_component_of_every_machine_is_accounted_for(odd):
    counts = odd["scored"]
    assert counts["requested"] == 8 * 3 == sum(counts[s] for s in ("scored", "fallback", "skipped"))
    assert odd["rows"].select("machine_id", "component").unique().height == 8 * 3


def test_telemetry_of_a_machine_that_is_not_on_record_is_scored_and_told(odd):
    stranger = odd["ids"][4]
    assert f"{stranger}: not in the table of machines" in finding(odd, "unknown machine")["examples"]
    mine = odd["rows"].filter(pl.col("machine_id") == stranger, pl.col("component") == "comp1")
    assert mine["probability"].is_not_null().all()


def test_a_failure_without_maintenance_record_is_told_and_counts_as_the_replacement(odd):
    line = finding(odd, "failure without maintenance record")
    assert line["machines"] == odd["lost"]["machine_id"].n_unique()
    assert odd["lost"]["machine_id"][0] in line["examples"]


def test_a_sensor_that_is_silent_for_weeks_is_missing_and_says_so(odd):
    mine = odd["rows"].filter(pl.col("machine_id") == odd["ids"][1], pl.col("component") == "comp1")
    assert set(mine["rung"]) <= {"partial_telemetry", "under_work"}
    assert mine["reasons"].str.contains("no reading of volt in the last 36 h").all()
    assert "volt: no reading in 14 days" in finding(odd, "missing sensor")["examples"]


def test_a_sensor_that_never_moves_is_told(odd):
    assert f"{odd['ids'][2]}: rotate: one value in 14 days" in finding(odd, "constant sensor")["examples"]


def test_a_machine_that_has_fallen_silent_is_a_fallback(odd):
    mine = odd["rows"].filter(pl.col("machine_id") == odd["ids"][3], pl.col("component") == "comp1")
    assert set(mine["rung"]) == {"without_telemetry"}
    assert odd["ids"][3] in finding(odd, "no telemetry")["examples"]


def test_a_component_that_never_failed_has_no_model_and_says_so_instead_of_seeming_healthy(odd):
    fan = odd["rows"].filter(component="fan")
    assert set(fan["rung"]) == {"no_model"}
    assert fan["probability"].is_null().all()
    assert fan["rank"].is_null().all()
    assert fan["reasons"].str.contains("fan never failed in the training range").all()
    assert odd["scored"]["skipped"] == 8
    assert any("fan at 24 h: fan never failed" in note for note in odd["trained"]["notes"])


# Rows that are wrong by themselves go to quarantine, with the rule.


def quarantined(folder: Path) -> pl.DataFrame:
    return Store(str(folder / "store")).scan("machines/quarantine").collect()


def test_duplicate_timestamps_in_a_file_are_refused_unless_it_is_said_which_row_counts(command, tmp_path):
    tables = fleet(4)
    twice = tables["telemetry"].head(3).with_columns(pl.col("volt") + 1000)
    doubled = {**tables, "telemetry": pl.concat([tables["telemetry"], twice])}
    refusal = ingest(command, tmp_path, doubled)
    assert refusal.status == 1
    assert "--duplicates average or last" in refusal.err
    output = ingest(command, tmp_path, doubled, "--duplicates", "last")
    assert output.status == 0, output.err
    assert output.json["tables"][0]["merged"] == 3
    rows = Store(str(tmp_path / "store")).scan("machines/telemetry").filter(pl.col("volt") > 900).collect()
    assert rows.height == 3


def test_overlapping_files_are_refused_where_they_differ_unless_the_later_file_counts(command, tmp_path):
    tables = fleet(4)
    telemetry = tables.pop("telemetry").sort("time", "machine_id")
    folder = tmp_path / "telemetry"
    folder.mkdir()
    telemetry[:1500].write_parquet(folder / "2024-01.parquet")
    telemetry[1400:].with_columns(pl.col("volt") + 1000).write_parquet(folder / "2024-02.parquet")
    refusal = ingest(command, tmp_path, tables, "--telemetry", folder)
    assert refusal.status == 1
    assert "in 2024-01.parquet and 2024-02.parquet" in refusal.err
    output = ingest(command, tmp_path, tables, "--telemetry", folder, "--duplicates", "last")
    assert output.status == 0, output.err
    rows = Store(str(tmp_path / "store")).scan("machines/telemetry").collect()
    assert rows.height == telemetry.height
    counts = output.json["tables"][0]
    assert counts["read"] == telemetry.height + 100
    assert (counts["accepted"], counts["merged"]) == (telemetry.height, 100)
    assert rows.sort("time", "machine_id")["volt"].gt(900).to_list() == [False] * 1400 + [True] * (
        telemetry.height - 1400
    )


def test_hours_that_a_clock_change_skips_or_repeats_go_to_quarantine_and_the_others_are_stored_in_utc(
    command, tmp_path
):
    spring = pl.datetime_range(datetime(2023, 3, 25), datetime(2023, 3, 28), "1h", eager=True)
    hours = pl.concat(
        [spring, pl.datetime_range(datetime(2023, 10, 28), datetime(2023, 10, 31), "1h", eager=True)]
    )
    local = pl.DataFrame({"machineID": [7] * len(hours), "datetime": hours.cast(pl.String), "volt": 170.0})
    event = pl.DataFrame({"machineID": [7], "datetime": ["2023-10-29 01:30"], "comp": ["comp1"]})
    (tmp_path / "sources").mkdir()
    for name, frame in {"t": local, "m": event, "f": event.rename({"comp": "failure"})}.items():
        frame.write_csv(tmp_path / f"{name}.csv")
    words = ["--telemetry", tmp_path / "t.csv", "--maintenance", tmp_path / "m.csv"]
    words += ["--failures", tmp_path / "f.csv", "--timezone", "Europe/Zurich", "--store", tmp_path / "store"]
    output = command("machines", "ingest", *words, "--json")
    assert output.status == 0, output.err
    bad = quarantined(tmp_path)
    assert bad["rule"].to_list() == ["time|datetime"] * 2
    assert "2023-03-26 02:00" in bad.sort("row_number")["row"][0]
    assert "2023-10-29 02:00" in bad.sort("row_number")["row"][1]
    rows = Store(str(tmp_path / "store")).scan("machines/telemetry").collect()
    assert rows["time"].min().isoformat() == "2023-03-24T23:00:00+00:00"
    assert rows["time"].max().isoformat() == "2023-10-30T23:00:00+00:00"
    assert rows.height == local.height - 2


def test_telemetry_that_marks_the_start_of_its_interval_is_stored_with_the_end_and_it_is_said_once(
    command, tmp_path
):
    tables = fleet(3)
    at_start = tables["telemetry"].with_columns(pl.col("time") - pl.duration(hours=4))
    early, late = at_start.filter(pl.col("time") <= CUT), at_start.filter(pl.col("time") > CUT)
    marks = ("--telemetry-marks", "start")
    assert ingest(command, tmp_path / "start", {**tables, "telemetry": early}, *marks).status == 0
    assert ingest(command, tmp_path / "start", {**tables, "telemetry": late}).status == 0
    other = ingest(command, tmp_path / "start", tables, "--telemetry-marks", "end")
    assert other.status == 1
    assert "was ingested with telemetry_marks start" in other.err
    assert ingest(command, tmp_path / "end", tables).status == 0
    tables_of_both = [
        Store(str(tmp_path / name / "store")).scan("machines/telemetry").collect().sort("machine_id", "time")
        for name in ("start", "end")
    ]
    assert tables_of_both[0].equals(tables_of_both[1])


def test_columns_may_be_mapped_for_one_table(command, tmp_path):
    tables = fleet(3)
    source_options = sources(
        tmp_path, {**tables, "errors": tables["errors"].rename({"time": "seen", "error": "code"})}
    )
    words = ["--column", "errors.time=seen", "--column", "error=code", "--store", tmp_path / "store"]
    output = command("machines", "ingest", *source_options, *words, "--json")
    assert output.status == 0, output.err
    assert output.json["tables"][1]["accepted"] == tables["errors"].height


# Input that cannot be used is refused with words that help.


NO_SENSOR = fleet(2)["telemetry"].select("machine_id", "time")
WORDS = fleet(2)["telemetry"].with_columns(pl.lit("high").alias("volt"), pl.lit("low").alias("rotate"))
NO_TIME = fleet(2)["telemetry"].with_columns(pl.lit("soon").alias("time"))
NO_COMPONENT = fleet(2)["failures"].drop("component")


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("telemetry", NO_SENSOR, "no column with readings"),
        ("telemetry", WORDS, "no column with readings"),
        ("telemetry", NO_TIME, "100.0%) break the contract"),
        ("telemetry", NO_SENSOR.clear().with_columns(pl.lit(1.0).alias("volt")), "no rows"),
        ("failures", NO_COMPONENT, "column 'component' is missing"),
    ],
    ids=["no sensor", "text for numbers", "no times", "no rows", "no column"],
)
def test_input_that_breaks_the_contract_is_refused_and_nothing_is_written(
    command, tmp_path, name, frame, message
):
    output = ingest(command, tmp_path, {**fleet(2), name: frame})
    assert output.status == 1
    assert message in output.err
    assert not (tmp_path / "store" / "machines" / "telemetry").exists()


def test_a_word_among_the_readings_goes_to_quarantine_and_the_others_stay_numbers(command, tmp_path):
    tables = fleet(2)
    telemetry = tables["telemetry"].with_columns(pl.col("volt").cast(pl.String))
    tables["telemetry"] = telemetry.with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("high")).otherwise("volt").alias("volt")
    )
    output = ingest(command, tmp_path, tables)
    assert output.status == 0, output.err
    assert output.json["tables"][0]["quarantined"] == 1
    assert "high" in quarantined(tmp_path)["row"][0]
    rows = Store(str(tmp_path / "store")).scan("machines/telemetry").collect()
    assert rows.schema["volt"] == pl.Float64
    assert rows.height == telemetry.height - 1


def test_an_empty_file_is_refused(command, tmp_path):
    tables = fleet(2)
    del tables["failures"]
    (tmp_path / "nothing.csv").touch()
    output = ingest(command, tmp_path, tables, "--failures", tmp_path / "nothing.csv")
    assert output.status == 1
    assert "nothing.csv" in output.err
    assert not (tmp_path / "store" / "machines").exists()


def test_a_file_that_is_not_there_is_named(command, tmp_path):
    tables = fleet(2)
    del tables["errors"]
    output = ingest(command, tmp_path, tables, "--errors", tmp_path / "nothing.csv")
    assert output.status == 1
    assert "nothing.csv" in output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score"], "there is no bundle for machines yet"),
        (["score", "--as-of", "2030-01-01"], "expected a time in that range"),
        (["score", "--as-of", "2001-01-01"], "expected a time in that range"),
        (["score", "--bundle", "5"], "there is no bundle 5"),
        (["train", "--from", "2024-03-30", "--to", "2024-03-28"], "Nothing to learn from"),
    ],
    ids=["no bundle", "future", "before the data", "unknown bundle", "empty range"],
)
def test_what_cannot_be_done_is_said(command, untrained, words, message):
    output = command("machines", *words, "--store", untrained)
    assert output.status == 1
    assert message in output.err


@pytest.fixture(scope="module")
def untrained(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    assert ingest(command, folder, fleet(2)).status == 0
    return folder / "store"


def test_tables_that_were_never_ingested_are_named(command, tmp_path):
    output = command("machines", "score", "--store", tmp_path / "store")
    assert output.status == 1
    assert "python -m flows machines ingest" in output.err
