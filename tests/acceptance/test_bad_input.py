"""Every bad input that a planner may give on the command line gets one message, and nothing is written."""

import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tasks.storage.store import Store
from tests.conftest import ROOT
from tests.steps import written

pytestmark = pytest.mark.slow

MONDAY = date(2024, 1, 1)
HEADER = "sku,store,week,units,price\n"


def sales(skus: int = 3, weeks: int = 30) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "sku": f"s{sku}",
                "store": store,
                "week": MONDAY + timedelta(weeks=week),
                "units": 10.0 + sku + week % 5,
                "price": 2.0,
            }
            for sku in range(skus)
            for store in ("A", "B")
            for week in range(weeks)
        ]
    )


def refused(command, *words) -> str:
    """The one-line message of a command that fails as it should."""
    output = command(*words)
    assert output.status == 1
    assert output.out == ""
    assert "Traceback" not in output.err
    return " ".join(output.err.split())


@pytest.mark.parametrize(
    ("name", "content", "phrases"),
    [
        ("missing.csv", None, ["missing.csv: no such file", "Check the path"]),
        (
            "empty.csv",
            "",
            ["SourceError: empty.csv: the file is empty. Expected a header and at least one row."],
        ),
        ("header.csv", HEADER, ["there is a header but no rows. Expected at least one."]),
        (
            "sales.csv",
            "sku,store,day,units\n1,A,2024-01-01,5\n",
            [
                "SourceError: sales.csv: column 'week' is missing. Found: sku, store, day, units.",
                "Map it with --column week=day.",
            ],
        ),
        (
            "text.csv",
            HEADER + "1,A,2024-01-01,many,1\n" * 2 + "1,A,2024-01-08,5,1\n",
            [
                "ContractError: history: 2 of 3 rows (66.7%) break the contract; 5.0% are allowed. Nothing was written.",
                "units|number: 2",
                'text.csv, row 1: units|number: {"sku":"1","store":"A","week":"2024-01-01","units":"many","price":"1"}',
                "--max-bad-share",
            ],
        ),
        (
            "mixed.csv",
            HEADER + "1,A,2024-01-01,5,1\n1,A,2024-01-08,5,1\n2,B,2024-01-11,5,1\n",
            [
                "ContractError: history: weeks start on different weekdays.",
                "2 rows start on Monday, e.g. sku 1, store A, week 2024-01-01",
                "1 rows start on Thursday, e.g. sku 2, store B, week 2024-01-11",
                "Expected one week anchor in all files.",
            ],
        ),
        (
            "bad.csv",
            HEADER + ",A,2024-01-01,5,1\n1,A,never,5,1\n1,A,2024-01-01,-5,1\n",
            ["3 of 3 rows (100.0%)", "sku|nullability: 1", "week|date: 1", "units|min: 1"],
        ),
        (
            "torn.csv",
            HEADER + "1,A,2024-01-01,5,1,extra,fields\n",
            ["UnreadableError: torn.csv: cannot be read"],
        ),
        ("torn.parquet", "not Parquet", ["UnreadableError: torn.parquet: cannot be read"]),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_and_nothing_is_written(
    command, tmp_path, name, content, phrases
):
    if content is not None:
        (tmp_path / name).write_text(content)
    message = refused(command, "sales", "ingest", "--source", tmp_path / name, "--store", tmp_path / "store")
    for words in phrases:
        assert words in message
    assert written(Store(str(tmp_path / "store"))) == {}


def test_run_refuses_as_ingest_does_in_a_process_of_its_own_with_a_status_and_one_message(
    prefect_api, tmp_path
):
    (tmp_path / "sales.csv").write_text("sku,store,day,units\n1,A,2024-01-01,5\n")
    words = ["sales", "run", "--source", str(tmp_path / "sales.csv"), "--store", str(tmp_path / "store")]
    process = subprocess.run(
        [sys.executable, "-m", "flows", *words, "--json"],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == (
        "SourceError: sales.csv: column 'week' is missing. Found: sku, store, day, units.\n"
        "Map it with --column week=day.\n"
    )
    assert written(Store(str(tmp_path / "store"))) == {}


def test_a_plan_that_cannot_be_used_stops_the_sales_too(command, tmp_path):
    sales().write_csv(tmp_path / "sales.csv")
    (tmp_path / "plan.csv").write_text("sku,store,week,price\ns0,A,soon,1\n")
    message = refused(
        command, "sales", "ingest", "--source", tmp_path / "sales.csv", "--plan", tmp_path / "plan.csv",
        "--store", tmp_path / "store",
    )  # fmt: skip
    assert "ContractError: plan: 1 of 1 rows (100.0%)" in message
    assert written(Store(str(tmp_path / "store"))) == {}


def test_a_store_that_cannot_be_written_is_named(command, tmp_path):
    sales().write_csv(tmp_path / "sales.csv")
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "store"
    for words in (["ingest", "--source", tmp_path / "sales.csv"], ["forecast"], ["train"]):
        message = refused(command, "sales", *words, "--store", place)
        assert f"StoreError: {place}" in message
    message = refused(
        command, "sales", "ingest", "--source", tmp_path / "sales.csv", "--store", "s3://bucket/x"
    )
    assert "s3:// is not a kind of store. Expected a local folder, az:// or abfss://." in message


def test_without_data_and_without_a_bundle_the_next_command_is_named(command, tmp_path):
    store = ["--store", tmp_path / "store"]
    assert "Ingest data first: python -m flows sales ingest" in refused(command, "sales", "train", *store)
    assert "Ingest data first: python -m flows sales ingest" in refused(command, "sales", "forecast", *store)
    sales().write_csv(tmp_path / "sales.csv")
    assert command("sales", "ingest", "--source", tmp_path / "sales.csv", *store).status == 0
    message = refused(command, "sales", "forecast", *store)
    assert "BundleError: " in message
    assert "there is no bundle for sales yet. Train one: python -m flows sales train" in message
    assert "sales/forecasts" not in written(Store(str(tmp_path / "store")))


def test_a_few_bad_rows_go_to_quarantine_and_are_counted(command, tmp_path):
    lines = "9,A,2024-01-01,many,1\n9,A,never,1,1\n"
    (tmp_path / "sales.csv").write_text(sales().write_csv() + lines)
    output = command(
        "sales", "ingest", "--source", tmp_path / "sales.csv", "--store", tmp_path / "store", "--json"
    )
    (table,) = output.json["tables"]
    assert (table["read"], table["accepted"], table["quarantined"]) == (182, 180, 2)
    assert table["rules"] == {"units|number": 1, "week|date": 1}


# Odd series, and a plan that lacks some of them


@pytest.fixture(scope="module")
def odd(command, tmp_path_factory):
    """A run on odd series, with a plan that lacks a key, a week and a price."""
    folder = tmp_path_factory.mktemp("odd")
    history = sales(skus=3, weeks=70)
    last = history["week"].max()
    series = {"single": [(last, 7.0)], "zeros": [], "constant": []}
    weeks = [MONDAY + timedelta(weeks=week) for week in range(70)]
    series["zeros"] = [(week, 0.0) for week in weeks]
    series["constant"] = [(week, 5.0) for week in weeks]
    rows = [
        {"sku": sku, "store": "A", "week": week, "units": units, "price": 2.0}
        for sku, numbers in series.items()
        for week, units in numbers
    ]
    history = pl.concat([history, pl.DataFrame(rows)])
    steps = pl.DataFrame({"week": [last + timedelta(weeks=step) for step in range(1, 14)]})
    plan = history.select("sku", "store").unique().join(steps, how="cross").with_columns(price=pl.lit(2.0))
    lacks_key = (pl.col("sku") == "s0") & (pl.col("store") == "B")
    lacks_week = (pl.col("sku") == "s1") & (pl.col("week") == last + timedelta(weeks=2))
    lacks_price = (
        (pl.col("sku") == "s2") & (pl.col("store") == "A") & (pl.col("week") == last + timedelta(weeks=3))
    )
    plan = plan.filter(~lacks_key, ~lacks_week).with_columns(price=pl.when(~lacks_price).then("price"))
    history.write_csv(folder / "sales.csv")
    plan.sort("sku", "store", "week").write_csv(folder / "plan.csv")
    output = command(
        "sales", "run", "--source", folder / "sales.csv", "--plan", folder / "plan.csv",
        "--shards", "2", "--store", folder / "store", "--json",
    )  # fmt: skip
    assert output.status == 0, output.err
    rows = Store(str(folder / "store")).scan("sales/forecasts").collect()
    return {"last": last, "result": output.json, "rows": rows, "folder": folder}


@pytest.mark.parametrize("sku", ["single", "zeros", "constant"])
def test_an_odd_series_beside_others_is_forecast_with_quantiles_that_make_sense(odd, sku):
    makes_sense(odd["rows"].filter(sku=sku))


def makes_sense(rows: pl.DataFrame) -> None:
    """The rows of one key, after a check: each step once, and quantiles that are ordered, not negative and not huge."""
    rows = rows.sort("week")
    assert rows["step"].to_list() == list(range(1, 14))
    values = rows.select("q5", "q25", "q50", "q75", "q95").to_numpy()
    assert (values >= 0).all()
    assert (values[:, 1:] >= values[:, :-1]).all()
    assert (values < 1000).all()
    assert rows["rung"].null_count() == 0


@pytest.mark.parametrize(
    ("weeks", "units"),
    [
        pytest.param(1, 7, id="single"),
        pytest.param(70, 0, id="zeros"),
        pytest.param(70, 5, id="constant"),
    ],
)
def test_an_odd_series_alone_is_forecast_too(command, tmp_path, weeks, units):
    lines = [f"a,A,{MONDAY + timedelta(weeks=week)},{units}" for week in range(weeks)]
    (tmp_path / "sales.csv").write_text("\n".join(["sku,store,week,units", *lines]))
    output = command(
        "sales", "run", "--source", tmp_path / "sales.csv", "--store", tmp_path / "store", "--json"
    )
    assert output.status == 0, output.err
    assert (output.json["requested"], output.json["failed"], output.json["skipped"]) == (1, 0, 0)
    makes_sense(Store(str(tmp_path / "store")).scan("sales/forecasts").collect())


def test_all_series_are_accounted_for(odd):
    counts = odd["result"]
    assert counts["requested"] == 9 == counts["scored"] + counts["fallback"] + counts["skipped"]
    assert counts["failed"] == 0


def test_one_table_says_exactly_what_the_plan_lacks_and_what_becomes_of_it(odd):
    week = {step: str(odd["last"] + timedelta(weeks=step)) for step in range(1, 14)}
    lines = {(line["sku"], line["store"]): line for line in odd["result"]["gaps"]}
    assert set(lines) == {("s0", "B"), ("s1", "A, B"), ("s2", "A")}
    assert lines["s0", "B"]["weeks"] == ", ".join(week.values())
    assert lines["s1", "A, B"]["weeks"] == week[2]
    assert lines["s2", "A"]["weeks"] == week[3]
    assert {line["columns"] for line in lines.values()} == {"price"}
    assert all(line["effect"] for line in lines.values())
    assert sum(line["rows"] for line in lines.values()) == 13 + 2 + 1


def test_a_person_is_shown_the_same_table(odd, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = command("sales", "forecast", "--store", odd["folder"] / "store")
    assert output.status == 0, output.err
    lines = [" ".join(line.split()) for line in output.out.splitlines()]
    assert "sku store weeks columns rows effect" in lines
    line = next(line for line in odd["result"]["gaps"] if line["sku"] == "s2")
    assert " ".join(str(value) for value in line.values()) in lines


def test_the_page_shows_what_the_plan_lacks(odd):
    assert str(odd["last"] + timedelta(weeks=3)) in Path(odd["result"]["page"]).read_text()


# Moments and bundles that there are not


def test_a_week_outside_of_the_data_is_refused_with_the_weeks_that_there_are(odd, command):
    where = ["--store", odd["folder"] / "store"]
    for verb in ("forecast", "train"):
        late = refused(command, "sales", verb, "--as-of", "2031-01-06", *where)
        assert "ContractError: --as-of 2031-01-06: after the last complete week of the history" in late
        early = refused(command, "sales", verb, "--as-of", "1999-01-04", *where)
        assert "ContractError: --as-of 1999-01-04: before the data; the first week" in early
        assert str(MONDAY) in early


def test_an_unknown_bundle_is_refused_with_those_that_there_are(odd, command):
    message = refused(command, "sales", "forecast", "--bundle", "7", "--store", odd["folder"] / "store")
    assert "BundleError: " in message
    assert "there is no bundle 7 of sales. Found: 1." in message
