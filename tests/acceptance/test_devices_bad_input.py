"""Every bad input that an operator may give on the command line gets one message, and nothing is written."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from models.devices.simulation import readings_of, simulate
from tasks.registry import ledger
from tasks.storage.store import Store

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 2, tzinfo=UTC)
HEADER = "device,tag,time,value\n"
GOOD = "".join(f"d,t,2026-03-02T00:00:{second:02}Z,{second}\n" for second in range(10))
NAIVE = "d,t,2026-03-02 00:00:00,1\n" * 3


def refused(command, *words) -> str:
    """The one-line message of a command that fails as it should."""
    output = command("devices", *words)
    assert output.status == 1
    assert output.out == ""
    assert "Traceback" not in output.err
    return " ".join(output.err.split())


def written(store: Path) -> list[str]:
    """The existing tables."""
    return sorted(str(path.parent.relative_to(store)) for path in store.rglob("_delta_log"))


@pytest.mark.parametrize(
    ("name", "content", "words", "phrases"),
    [
        ("missing.csv", None, [], ["SourceError: ", "missing.csv: no such file", "Check the path"]),
        ("empty.csv", "", [], ["empty.csv: the file is empty. Expected a header and at least one row."]),
        ("header.csv", HEADER, [], ["there is a header but no rows. Expected at least one."]),
        ("torn.parquet", "not Parquet", [], ["UnreadableError: torn.parquet: cannot be read"]),
        (
            "other.csv",
            "TS,Device,Tag,Value\n2026-03-02T00:00:00Z,1,1,10\n",
            [],
            ["other.csv: column 'time' is missing. Found: TS, Device, Tag, Value.", "--column time="],
        ),
        (
            "other.csv",
            HEADER + GOOD,
            ["--column", "value=Reading"],
            ["--column value=Reading: no source has a column 'Reading'. Found: device, tag, time, value."],
        ),
        (
            "text.csv",
            HEADER + GOOD + "d,t,2026-03-02T00:01:00Z,high\n",
            [],
            [
                "ContractError: readings: 1 of 11 rows (9.1%) break the contract; 5.0% are allowed.",
                "Nothing was written. Rules broken: value_not_a_number: 1",
                'text.csv, row 11: value_not_a_number: {"device":"d","tag":"t",',
                '"value":"high"}',
                "--max-bad-share",
            ],
        ),
        (
            "naive.csv",
            HEADER + NAIVE,
            [],
            ["time: times have no time zone, e.g. 2026-03-02 00:00:00.", "Or name their time zone, e.g. --timezone UTC."],
        ),
        (
            "naive.csv",
            HEADER + NAIVE,
            ["--timezone", "Middle/Earth"],
            ["--timezone Middle/Earth: not a known time zone. Expected a name such as UTC or Europe/Zurich"],
        ),
        (
            "bad.csv",
            HEADER + ",t,2026-03-02T00:00:00Z,1\nd,,2026-03-02T00:00:00Z,1\nd,t,soon,1\nd,t,,1\n",
            [],
            ["4 of 4 rows (100.0%)", "device_missing: 1", "tag_missing: 1", "time_unparsable: 1", "time_missing: 1"],
        ),
        (
            "future.csv",
            HEADER + GOOD.replace("2026", "2999"),
            [],
            ["10 of 10 rows (100.0%)", "time_in_future: 10"],
        ),
        ("nulls.csv", HEADER + "d,t,2026-03-02T00:00:00Z,\n" * 3, [], ["value_missing: 3"]),
        (
            "good.csv",
            HEADER + GOOD,
            ["--interval", "7m"],
            ["--interval is '7m'. Expected a number and s, m or h that divides an hour, e.g. 1m."],
        ),
    ],
    ids=[
        "missing", "empty", "header only", "torn", "other names", "mapped to nothing", "text", "naive",
        "unknown zone", "all bad", "future", "only nulls", "interval",
    ],
)  # fmt: skip
def test_readings_that_cannot_be_used_are_refused_and_nothing_is_written(
    command, tmp_path, name, content, words, phrases
):
    if content is not None:
        (tmp_path / name).write_text(content)
    message = refused(command, "ingest", "--source", tmp_path / name, *words, "--store", tmp_path / "store")
    for text in phrases:
        assert text in message
    assert not (tmp_path / "store").exists() or written(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tag,low\nt,1\n", "limits: column 'high' is missing. Found: tag, low."),
        (
            "tag,low,high\nt,cold,1\n",
            "limits: low is 'cold'. Expected a number, or an empty cell for no limit.",
        ),
        ("tag,low,high\nt,,1\nt,0,2\n", "limits: t has two rows. Expected one."),
    ],
)
def test_limits_that_cannot_be_used_are_refused(command, tmp_path, content, message):
    (tmp_path / "good.csv").write_text(HEADER + GOOD)
    (tmp_path / "limits.csv").write_text(content)
    where = ["--source", tmp_path / "good.csv", "--store", tmp_path / "store"]
    assert message in refused(command, "ingest", *where, "--limits", tmp_path / "limits.csv")


def test_run_refuses_as_ingest_does_and_trains_nothing(command, tmp_path):
    (tmp_path / "naive.csv").write_text(HEADER + NAIVE)
    message = refused(command, "run", "--source", tmp_path / "naive.csv", "--store", tmp_path / "store")
    assert "--timezone" in message


def test_without_readings_the_next_command_is_named(command, tmp_path):
    for words in (["train"], ["score"], ["score", "--as-of", "2026-03-02T01:00"]):
        message = refused(command, *words, "--store", tmp_path / "store")
        assert "Ingest data first: python -m flows devices ingest" in message


# Odd readings, taken together: they are scored, and what is odd is told.


@pytest.fixture(scope="module")
def odd(command, tmp_path_factory):
    """A store with four hours of two ordinary devices and of one whose readings are all odd."""
    folder = tmp_path_factory.mktemp("odd")
    normal = readings_of(simulate(2, START, 240).grid).select("device", "tag", "time", value="mean")
    back = normal.filter(device="d00000", tag="flow").with_columns(device=pl.lit("odd"), tag=pl.lit("back"))
    time = pl.col("time")
    jumped = back.with_columns(
        pl.when(time >= START + timedelta(hours=3)).then(time - timedelta(hours=2)).otherwise(time)
    )
    last = START + timedelta(minutes=239)
    few = pl.DataFrame(
        {
            "device": ["odd"] * 6,
            "tag": ["once", *["never"] * 3, *["ahead"] * 2],
            "time": [last, *[last] * 3, *[datetime(2999, 1, 1, tzinfo=UTC)] * 2],
            "value": [5.0, None, None, None, 1.0, 2.0],
        },
        schema_overrides={"time": normal.schema["time"]},
    )
    pl.concat([normal, jumped, few]).write_parquet(folder / "readings.parquet")
    options = ["--source", folder / "readings.parquet", "--shards", "2", "--store", folder / "store"]
    ingested = command("devices", "ingest", *options, "--json")
    assert ingested.status == 0, ingested.err
    assert command("devices", "train", *options[4:]).status == 0
    output = command("devices", "score", "--catch-up", "1", *options[4:], "--json")
    assert output.status == 0, output.err
    return {
        "ingested": ingested.json["tables"][0],
        "done": output.json,
        "store": Store(str(folder / "store")),
    }


def test_nulls_and_readings_from_the_future_are_quarantined_and_all_others_counted(odd):
    assert odd["ingested"]["rules"] == {"value_missing": 3, "time_in_future": 2}
    readings = odd["store"].scan("devices/readings").collect()
    assert readings["count"].sum() == odd["ingested"]["read"] - 5
    assert "never" not in readings["tag"]
    assert "ahead" not in readings["tag"]


def test_a_clock_that_jumps_back_puts_its_readings_where_it_says(odd):
    back = odd["store"].scan("devices/readings").filter(tag="back").collect().sort("time")
    hours = back.group_by(pl.col("time").dt.hour()).agg(pl.sum("count")).sort("time")
    assert hours["time"].to_list() == [0, 1, 2]
    assert hours["count"][1] > 1.9 * hours["count"][0]


def test_a_sensor_with_one_reading_and_one_that_fell_silent_are_accounted_for_with_a_reason(odd):
    summary = odd["done"]
    assert summary["failed"] == 0
    assert summary["requested"] == summary["scored"] + summary["fallback"] + summary["skipped"]
    reasons = json.dumps(ledger.rows(odd["store"]).collect()["reasons"].to_list())
    assert "too few readings in the history for a detector of its own: 1" in reasons
    rows = odd["store"].scan("devices/scores").filter(device="odd").collect()
    assert rows.filter(tag="once")["value"].to_list() == [5.0]
    assert rows.filter(tag="once")["is_anomaly"].to_list() == [False]
    assert rows.filter(tag="back")["value"].is_null().all()


def test_a_store_with_a_single_reading_trains_and_scores(command, tmp_path):
    (tmp_path / "one.csv").write_text(HEADER + "d,t,2026-03-02T00:00:00Z,1\n")
    output = command(
        "devices",
        "run",
        "--source",
        tmp_path / "one.csv",
        "--shards",
        "1",
        "--store",
        tmp_path / "s",
        "--json",
    )
    assert output.status == 0, output.err
    assert (output.json["requested"], output.json["fallback"], output.json["failed"]) == (1, 1, 0)
    assert Path(output.json["page"]).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["score", "--as-of", "2027-01-01T00:00"],
            "--as-of is 2027-01-01T00:00Z. There are readings from 2026-03-02T00:00Z to 2026-03-02T03:59Z: "
            "expected the end of an hour up to 2026-03-02T04:00Z.",
        ),
        (["score", "--as-of", "2020-01-01T00:00"], "expected the end of an hour up to 2026-03-02T04:00Z"),
        (["train", "--as-of", "2020-01-01T00:00"], "expected the end of an hour up to 2026-03-02T04:00Z"),
        (
            ["score", "--as-of", "2026-03-02T04:00", "--bundle", "9"],
            "there is no bundle 9 of devices. Found: 1.",
        ),
        (["score", "--bundle", "9"], "there is no bundle 9 of devices. Found: 1."),
    ],
    ids=["future", "before the data", "training before the data", "unknown bundle", "and no hour is due"],
)
def test_what_cannot_be_scored_is_said(command, odd, words, message):
    before = odd["store"].version("devices/scores")
    assert message in refused(command, *words, "--store", odd["store"].uri)
    assert odd["store"].version("devices/scores") == before


def test_readings_without_a_bundle_name_the_training(command, tmp_path):
    (tmp_path / "good.csv").write_text(HEADER + GOOD)
    where = ["--store", tmp_path / "store"]
    assert command("devices", "ingest", "--source", tmp_path / "good.csv", *where).status == 0
    message = refused(command, "score", *where)
    assert "there is no bundle for devices yet. Train one: python -m flows devices train" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "--alpha", "0.5"], "0.05"),
        (["score", "--catch-up", "0"], "1"),
        (["train", "--detector", "oracle"], "isolation_forest"),
        (["ingest", "--source", "x", "--tolerance-seconds", "-1"], "0"),
    ],
)
def test_an_option_outside_its_range_is_refused_with_the_range(command, tmp_path, words, message):
    output = command("devices", *words, "--store", tmp_path / "store")
    assert output.status not in (0, None)
    assert "Traceback" not in output.err
    assert message in output.err + output.out
