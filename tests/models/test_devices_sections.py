"""The page of a devices run, and the incidents and events that follow from its rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.devices.kinds import kinds
from models.devices.labelled import precision
from models.devices.scenario import DEVICES
from models.devices.simulation import inject, readings_of, simulate
from models.page.blocks import Chart, Explorer, Figures, Grid, Text
from models.page.explorer import pack
from models.scenario import RunView

START = datetime(2026, 1, 1, tzinfo=UTC)
AS_OF = START + timedelta(hours=24)
HOUR = timedelta(hours=1)
OPTIONS = {"alpha": 0.001}


@pytest.fixture(scope="module")
def hours():
    """The views of two hours of three devices: a level shift in the first hour, and one silent sensor."""
    simulated = simulate(6, START, 1440 + 120, missing_share=0.0)
    faulty = inject(simulated, ["level_shift"], 1440)
    readings = readings_of(faulty.grid).with_columns(shard=pl.lit(0))
    silent = (pl.col("device") == "d00005") & (pl.col("tag") == "mode") & (pl.col("time") >= AS_OF)
    tables = {"readings": readings.filter(~silent).lazy()}
    context = DEVICES.context(tables, AS_OF, OPTIONS)
    parts = {n: f.lazy() for n, f in DEVICES.prepare_shard(tables, context, AS_OF, OPTIONS).items()}
    bundle = DEVICES.fit(parts, context, AS_OF, OPTIONS)
    views, earlier, events = [], {}, []
    for hour in (1, 2):
        as_of = AS_OF + hour * HOUR
        keys = DEVICES.requested_keys(tables, as_of, OPTIONS).collect()
        scores = DEVICES.score(DEVICES.load(bundle.files), tables, {}, keys, as_of, OPTIONS)
        rows = scores.rows.with_columns(as_of=pl.lit(as_of)).lazy()
        derived = DEVICES.derive(rows, earlier, tables, as_of, OPTIONS)
        events.append(DEVICES.events(rows, derived, as_of, OPTIONS))
        stamped = {name: frame.with_columns(as_of=pl.lit(as_of)).lazy() for name, frame in derived.items()}
        view = RunView(
            as_of=as_of,
            bundle=1,
            options=OPTIONS,
            tables=tables,
            published_rows=rows,
            previous=None,
            keys=scores.keys.lazy(),
            backtest=bundle.backtest.lazy(),
            metrics=bundle.metrics,
            headline=bundle.headline,
            files=bundle.files,
            derived_tables=stamped,
        )
        views.append(view)
        earlier = {n: pl.concat([earlier[n], f]) if n in earlier else f for n, f in stamped.items()}
    return views, events, faulty


def blocks(view, title, kind):
    section = next(s for s in DEVICES.sections(view) if s.title == title)
    return [part for part in section.blocks if isinstance(part, kind)]


def test_sections_come_in_order_of_use_and_none_is_empty(hours):
    page_sections = DEVICES.sections(hours[0][0])
    assert [s.title for s in page_sections] == [
        "This hour",
        "Devices that need attention now",
        "Incidents",
        "Any device",
        "False alarms",
        "Detectors",
        "Silent, flat and without a detector",
    ]
    assert all(s.blocks for s in page_sections)


def test_every_shifted_device_and_the_silent_sensor_need_attention(hours):
    views, _, faulty = hours
    grid = blocks(views[0], "Devices that need attention now", Grid)[0].frame
    devices = faulty.faults.filter(pl.col("start") < 1500)["device"].to_list()
    assert set(devices) | {"d00005"} <= set(grid["Device"])
    assert (grid["What is not normal about it"].str.len_chars() > 5).all()
    figures = dict(blocks(views[0], "This hour", Figures)[0].values)
    assert figures["Devices that need attention"] == f"{grid['Device'].n_unique()} of 6"
    assert figures["Sensitivity, alpha"] == "0.001"


def test_a_fault_that_goes_on_is_announced_once_and_stays_one_incident(hours):
    views, events, _ = hours
    first = {event.payload["incident"] for event in events[0]}
    second = {event.payload["incident"] for event in events[1]}
    assert first
    assert not first & second
    silent = next(e for e in events[0] if e.payload["device"] == "d00005" and "mode" in e.payload["tags"])
    now = views[1].derived_tables["incidents"].collect().filter(incident=silent.payload["incident"])
    assert now["anomalies"].item() > 100
    assert now["is_alarm"].item()
    assert not now["is_new_alarm"].item()
    assert silent.name == "incident"
    assert silent.resource.startswith("devices.d00005.")
    assert {"device", "tags", "start", "peak", "score", "p_value", "what"} <= set(silent.payload)


def test_the_timeline_draws_each_open_incident(hours):
    chart = blocks(hours[0][0], "Incidents", Chart)[0].figure
    lines = sum(len(trace["x"]) // 3 for trace in chart["data"])
    assert lines == hours[0][0].derived_tables["incidents"].filter("is_alarm").collect().height


def test_the_explorer_holds_the_hour_with_its_band_and_the_hours_before(hours):
    view = hours[0][0]
    explorer = blocks(view, "Any device", Explorer)[0]
    assert explorer.panels == "tag"
    past, now = (track.frame.collect() for track in explorer.tracks)
    assert past["time"].max() < AS_OF <= now["time"].min()
    assert pack(explorer).series == now.select("device", "tag").n_unique()
    assert explorer.start["device"] in now["device"].to_list()


def test_false_alarms_are_shown_by_detector_and_findings_by_sensor(hours):
    view = hours[0][0]
    table = blocks(view, "False alarms", Grid)[0].frame
    assert table["Detector"][0] == "All"
    assert "Called at 0.01" in table.columns
    findings = blocks(view, "Silent, flat and without a detector", Grid)[0].frame
    silent = findings.filter(Device="d00005", Sensor="mode")
    assert silent["Finding"].str.starts_with("silent").all()
    assert silent.height == 1


def test_a_quiet_hour_says_so(hours):
    view = hours[0][0]
    calm = view.published_rows.with_columns(is_anomaly=pl.lit(False))
    keys = view.keys.with_columns(reason=pl.lit(None, pl.String))
    quiet = replace(view, published_rows=calm, keys=keys, derived_tables={}, backtest=view.backtest.head(0))
    for title in ("Devices that need attention now", "Incidents", "False alarms"):
        assert len(blocks(quiet, title, Text)) == 1
        assert not blocks(quiet, title, Grid)
    assert "None" in blocks(quiet, "Silent, flat and without a detector", Text)[0].markdown


def test_the_detectors_have_the_kind_of_each_sensor_and_the_reason(hours):
    views, _, _ = hours
    frame = blocks(views[0], "Detectors", Grid)[0].frame
    keys = views[0].keys.collect().filter(pl.col("tag") != "*")
    assert set(frame.select("Device", "Sensor").rows()) == set(keys.select("device", "tag").rows())
    few = frame.filter(pl.col("Detector").is_in(["few values", "constant"]))
    assert few["Kind"].to_list() == few["Detector"].to_list()
    assert few["Why"].str.contains("(values that recur|only one value)").all()
    assert frame.filter(Detector="robust local")["Kind"].unique().to_list() in ([], ["wanders"])
    assert frame["Why"].null_count() == 0


def test_the_kinds_tell_an_own_pace_a_direction_and_values_that_stand_for_no_reading():
    sensors = pl.DataFrame(
        {
            "device": ["a", "a", "a"], "tag": ["slow", "wind_direction", "new"],
            "rung": ["robust_level", "robust_local", "none"], "readings": [900, 900, 9], "pace": [10, 1, 1],
            "sentinels": [[-999.0], [], []],
        }
    )  # fmt: skip
    table = kinds({"sensors": sensors}, {"interval": "1m"})
    why = dict(table.select("tag", "reason").iter_rows())
    assert "every 10.0 minutes" in why["slow"]
    assert "-999.0 stand for no reading" in why["slow"]
    assert "a direction" in why["wind_direction"]
    assert "too little history" in why["new"]


def test_precision_is_the_share_of_faults_among_the_alarms_with_a_label():
    names = ["one", "two", "three", "four"]
    incidents = pl.DataFrame(
        {
            "incident": names, "device": ["a", "a", "b", "c"], "tag": ["t", "t", "u", "u"],
            "tags": [["t"], ["t"], ["u"], ["u"]], "is_alarm": True, "as_of": AS_OF,
            "start": [AS_OF - 20 * HOUR, AS_OF - 10 * HOUR, AS_OF - 10 * HOUR, AS_OF - 10 * HOUR],
            "end": [AS_OF - 19 * HOUR, AS_OF - 9 * HOUR, AS_OF - 9 * HOUR, AS_OF - 9 * HOUR],
        }
    )  # fmt: skip
    verdicts = pl.DataFrame(
        {
            "device": ["a", "a", "a", "b"], "tag": ["t", "t", "other", "*"],
            "start": incidents["start"].gather([0, 1, 1, 2]), "end": incidents["end"].gather([0, 1, 1, 2]),
            "verdict": ["fault", "false_alarm", "fault", "muted"], "at": AS_OF,
        }
    )  # fmt: skip
    labels = pl.DataFrame(
        {"device": ["b"], "tag": ["*"], "start": [AS_OF - 12 * HOUR], "end": [AS_OF], "fault": ["x"]}
    )
    tables = {"verdicts": verdicts.lazy(), "labels": labels.lazy()}
    by_tag = {row["tag"]: row for row in precision(incidents.lazy(), tables, AS_OF).to_dicts()}
    assert [by_tag["all"][name] for name in ("alarms", "labelled", "fault", "false_alarm")] == [4, 3, 2, 1]
    assert by_tag["t"]["precision"] == 0.5
    assert by_tag["u"]["precision"] == 1.0
    unread = pl.defer(lambda: pytest.fail("incidents are read"), schema=incidents.schema)
    assert precision(unread, {}, AS_OF).is_empty()
