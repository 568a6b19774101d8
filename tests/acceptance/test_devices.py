"""Real readings on the command line, compared with plain scikit-learn."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.devices.contracts import JOINT_TAG
from tasks.registry import ledger
from tasks.storage.store import Store
from tests.capture_files import message, put
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

KEY = ["device", "tag"]
NAMES = {"device": "Device", "tag": "Tag", "time": "TS", "value": "Value"}
MAPPED = [f"--column={ours}={theirs}" for ours, theirs in NAMES.items()]
ENDS = [datetime(2018, 8, 29, hour, tzinfo=UTC) for hour in range(5)]


@pytest.fixture(scope="module")
def raw() -> SimpleNamespace:
    """The sensor file, and its rows with typed columns; skips where it is absent."""
    data = Path(os.environ.get("ALMANAC_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = data / "sensors" / "sensor_data.csv"
    if not path.exists():
        pytest.skip(
            f"{path} is not there; set ALMANAC_TEST_DATA to the folder that holds sensors/sensor_data.csv"
        )
    text = pl.read_csv(path, infer_schema=False).rename({name: ours for ours, name in NAMES.items()})
    typed = text.with_columns(
        pl.col("time").str.to_datetime(time_zone="UTC", strict=False), pl.col("value").cast(pl.Float64)
    )
    return SimpleNamespace(path=path, rows=typed)


@pytest.fixture(scope="module")
def ingested(command, raw, tmp_path_factory) -> Path:
    """A store with the whole sensor file."""
    store = tmp_path_factory.mktemp("sensors") / "store"
    options = ["--source", raw.path, "--timezone", "UTC", "--shards", "2", *MAPPED]
    output = command("devices", "ingest", *options, "--store", store)
    assert output.status == 0, output.err
    return store


def run(command, ingested: Path, folder: Path, *words) -> SimpleNamespace:
    """Training on all readings, and scores of all their hours; alpha is such that incidents are sure to be found."""
    store = shutil.copytree(ingested, folder / "store")
    for stage in (["train", *words], ["score", "--alpha", "0.01"]):
        output = command("devices", *stage, "--store", store, "--json")
        assert output.status == 0, output.err
    return SimpleNamespace(result=output.json, store=Store(str(store)))


@pytest.fixture(scope="module")
def done(command, ingested, tmp_path_factory):
    return run(command, ingested, tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def reference(command, ingested, tmp_path_factory):
    """The same with the reference detector."""
    return run(command, ingested, tmp_path_factory.mktemp("svm"), "--detector", "one_class_svm")


def scores(outcome) -> pl.DataFrame:
    return outcome.store.scan("devices/scores").collect().sort(*KEY, "time")


def own(outcome) -> pl.DataFrame:
    """The scored readings of sensors: no joint detectors, and no readings that were missed."""
    return scores(outcome).filter(pl.col("tag") != JOINT_TAG, pl.col("value").is_not_null())


def test_every_raw_reading_is_counted_in_an_interval(done, raw):
    readings = done.store.scan("devices/readings").collect()
    assert readings["count"].sum() == raw.rows.height == 17_768
    assert done.store.version("devices/quarantine") is None
    assert readings.select(KEY).unique().height == 15


def test_raw_readings_that_are_damaged_or_repeated_are_quarantined_with_the_reason(command, raw, tmp_path):
    lines = raw.path.read_text().splitlines()
    damaged = [line.rpartition(",")[0] + ",n/a" for line in lines[100:110]]
    (tmp_path / "readings.csv").write_text("\n".join([*lines, *lines[500:520], *damaged]) + "\n")
    options = ["--source", tmp_path / "readings.csv", "--timezone", "UTC", *MAPPED, "--shards", "2"]
    output = command("devices", "ingest", *options, "--store", tmp_path / "store", "--json")
    assert output.status == 0, output.err
    (counts,) = output.json["tables"]
    assert counts["read"] == counts["accepted"] + counts["quarantined"] == 17_798
    assert counts["rules"] == {"duplicate": 20, "value_unknown": 10}
    store = Store(str(tmp_path / "store"))
    assert store.scan("devices/readings").select(pl.sum("count")).collect().item() == 17_768
    assert store.scan("devices/quarantine").collect()["rule"].value_counts(sort=True).rows() == [
        ("duplicate", 20),
        ("value_unknown", 10),
    ]


def test_a_capture_of_the_same_readings_gives_the_same_table_and_is_read_once(command, raw, tmp_path):
    rows = pl.read_csv(raw.path, n_rows=3_000)
    rows.write_csv(tmp_path / "readings.csv")
    messages = [message(row, number) for number, row in enumerate(rows.to_dicts())]
    options = ["--timezone", "UTC", *MAPPED, "--shards", "2", "--json"]

    def ingest(source, store):
        output = command("devices", "ingest", "--source", source, "--store", tmp_path / store, *options)
        assert output.status == 0, output.err
        return output.json["tables"][0]

    ingest(tmp_path / "readings.csv", "from-csv")
    for number, part in enumerate((messages[2_000:], messages[:1_000], messages[900:2_100])):
        put(tmp_path / "raw", part, minute=60 - 5 * number, partition=number % 2)
        assert ingest(tmp_path / "raw", "from-capture")["files"] == 1
    again = ingest(tmp_path / "raw", "from-capture")
    assert (again["files"], again["changed"]) == (0, 0)
    these, those = (
        Store(str(tmp_path / name)).scan("devices/readings").collect().sort(*KEY, "time")
        for name in ("from-csv", "from-capture")
    )
    assert_frame_equal(these, those)


def test_every_interval_of_every_sensor_is_scored_in_a_commit_per_hour(done):
    readings = done.store.scan("devices/readings").select(*KEY, "time", value="mean").collect()
    rows = own(done)
    assert_frame_equal(rows.select(*KEY, "time", "value"), readings.sort(*KEY, "time"))
    assert rows["score"].is_finite().all()
    assert rows["p_value"].is_between(0, 1, closed="right").all()
    assert (rows["is_anomaly"] == (rows["p_value"] <= 0.01)).all()
    assert rows["time"].dt.truncate("1h").dt.offset_by("1h").equals(rows["as_of"], check_names=False)
    runs = ledger.rows(done.store).collect().sort("as_of")
    assert [datetime.fromisoformat(text) for text in runs["as_of"]] == ENDS
    assert [line["failed"] for line in done.result["hours"]] == [0] * 5


def test_every_sensor_and_every_device_as_a_whole_is_accounted_for(done):
    runs = ledger.rows(done.store).collect()
    answered = sum(runs[name] for name in ("scored", "fallback", "skipped", "failed"))
    assert (runs["requested"] == answered).all()
    assert set(runs["requested"]) == {18}
    joint = scores(done).filter(tag=JOINT_TAG)
    assert set(joint["device"]) == {"1", "2", "3"}


def test_incidents_are_listed_with_what_an_operator_needs_to_know(done):
    incidents = done.store.scan("devices/incidents").collect()
    assert incidents.height
    assert (incidents["start"] <= incidents["peak_time"]).all()
    assert (incidents["peak_time"] <= incidents["end"]).all()
    anomalies = scores(done).filter("is_anomaly")
    peaks = incidents.join(anomalies, left_on=[*KEY, "peak_time"], right_on=[*KEY, "time"], how="semi")
    assert peaks.height == incidents.height
    latest = incidents.sort("as_of").unique("incident", keep="last")
    within = anomalies.join_where(
        latest.select("incident", "start", "end", pl.col("device").alias("of")),
        pl.col("device") == pl.col("of"),
        pl.col("time") >= pl.col("start"),
        pl.col("time") <= pl.col("end"),
    )
    assert within.height == anomalies.height == latest["anomalies"].sum()


def test_the_page_is_one_file_that_needs_nothing_from_elsewhere(done):
    html = Path(done.result["page"]).read_text()
    for heading in ("Devices that need attention now", "Incidents", "Any device", "False alarms"):
        assert f">{heading}<" in html
    assert 'src="http' not in html
    assert 'href="http' not in html


def test_the_labels_of_the_reference_detector_are_those_of_a_few_plain_lines_of_scikit_learn(reference, raw):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    readings = raw.rows.unique([*KEY, "time", "value"]).drop_nulls()
    means = (
        readings.sort(*KEY, "time").group_by_dynamic("time", every="1m", group_by=KEY).agg(pl.mean("value"))
    )
    block, day = pl.col("time").dt.epoch("s") // 3600, pl.col("time").dt.epoch("s") // 86400
    window = means.filter((block + day) % 2 == 0)

    rows = own(reference)
    assert set(rows["rung"]) == {"one_class_svm"}
    anomalies = 0
    for key, sensor in means.group_by(KEY):
        values = window.filter(device=key[0], tag=key[1]).select("value").to_numpy()
        svm = make_pipeline(StandardScaler(), OneClassSVM(nu=0.01)).fit(values)
        mine = rows.filter(device=key[0], tag=key[1]).sort("time")
        theirs = sensor.sort("time").select("value").to_numpy()
        decision = svm.decision_function(theirs)
        assert abs(decision + mine["score"].to_numpy()).max() < 1e-9
        assert ((svm.predict(theirs) == -1) == (mine["score"] >= 0).to_numpy()).all()
        anomalies += int((mine["score"] >= 0).sum())
    assert anomalies > 15
