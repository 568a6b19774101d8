"""Layouts: files of other products, read as rows of the tables."""

import json
import zipfile
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.errors import ContractError
from models.machines.scenario import MACHINES
from models.sales import SALES
from tasks.ingest.pipeline import ingest
from tasks.ingest.sources import SourceError
from tests.steps import read


@pytest.fixture
def put(tmp_path):
    """Writes a file below the test's folder, and returns its path."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def sales(store, *columns: str) -> list[tuple]:
    rows = store.scan("sales/history").select("sku", "store", pl.col("week").cast(pl.String), *columns)
    return sorted(rows.collect().rows())


def readings(store) -> list[tuple]:
    rows = store.scan("devices/readings").select("device", "tag", pl.col("time").dt.strftime("%H:%M"), "last")
    return sorted(rows.collect().rows())


def test_unique_id_of_nixtla_is_the_sku_of_one_store(store, put):
    source = put("a.csv", "unique_id,ds,y,price\nA_1,2024-01-01,5,2.5\nB_1,2024-01-01,6,2\n")
    read(store, "history", source, SALES, layout="nixtla")
    assert sales(store, "units", "price") == [
        ("A_1", "all", "2024-01-01", 5.0, 2.5),
        ("B_1", "all", "2024-01-01", 6.0, 2.0),
    ]


def test_names_of_a_layout_are_known_in_any_case_unless_they_are_mapped(store, put):
    read(store, "history", put("a.csv", "Unique_ID,DS,Y\nA,2024-01-01,5\n"), SALES, layout="nixtla")
    mapped = put("b.csv", "Unique_ID,DS,week,Y\nA,2024-01-02,2024-01-08,6\n")
    read(store, "history", mapped, SALES, mapping={"week": "week", "sku": "Unique_ID"}, layout="nixtla")
    assert sales(store, "units") == [("A", "all", "2024-01-01", 5.0), ("A", "all", "2024-01-08", 6.0)]


def test_unique_id_of_nixtla_is_split_where_that_is_said(store, put):
    source = put("a.csv", "Unique_ID,ds,y\nA_1_CA,2024-01-01,5\na/b_c,2024-01-01,6\nwhole,2024-01-01,7\n")
    result = read(store, "history", source, SALES, layout="nixtla-stores", max_bad_share=0.5)
    assert sales(store, "units") == [("A_1", "CA", "2024-01-01", 5.0), ("a", "b_c", "2024-01-01", 6.0)]
    assert result.quarantined == 1


def test_what_is_mapped_counts_more_than_the_layout(store, put):
    source = put("a.csv", "unique_id,shop,ds,y,y2\nA,N,2024-01-01,5,6\n")
    read(store, "history", source, SALES, layout="nixtla", mapping={"store": "shop", "units": "y2"})
    assert sales(store, "units") == [("A", "N", "2024-01-01", 6.0)]


FORECAST = {
    "target.csv": "item_id,timestamp,demand,location\nA,2024-01-01 00:00:00,5,N\nA,2024-01-08 00:00:00,6,N\n",
    "related.csv": "item_id,timestamp,price,location\nA,2024-01-01,1,N\nA,2024-01-08,2,N\nA,2024-01-15,3,N\n",
    "metadata.csv": "item_id,category\nA,toys\n",
}


def test_related_series_of_amazon_forecast_are_covariates_and_the_plan(store, put, tmp_path):
    for name, text in FORECAST.items():
        put(f"f/{name}", text)
    folder = str(tmp_path / "f")
    ingest.fn(SALES, store, {"history": folder, "plan": folder}, {}, 4, 0.05, {"layout": "amazon-forecast"})
    assert sales(store, "units", "price") == [
        ("A", "N", "2024-01-01", 5.0, 1.0),
        ("A", "N", "2024-01-08", 6.0, 2.0),
    ]
    plan = store.scan("sales/plan").filter(pl.col("week") > date(2024, 1, 8)).collect()
    assert plan.select("sku", "store", "price").rows() == [("A", "N", 3.0)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_target_series_of_amazon_forecast_need_no_header(store, put, order):
    lines = [("A 1", "2024-01-01 00:00:00", "5.5"), ("A 1", "2024-01-08 00:00:00", "6.5")]
    source = put("target.csv", "".join(",".join(line[i] for i in order) + "\n" for line in lines))
    read(store, "history", source, SALES, layout="amazon-forecast")
    assert sales(store, "units") == [("A 1", "all", "2024-01-01", 5.5), ("A 1", "all", "2024-01-08", 6.5)]


def test_a_series_of_amazon_forecast_whose_columns_are_unclear_needs_a_header(store, put):
    source = put("target.csv", "A,N,2024-01-01,5\nA,N,2024-01-08,6\n")
    with pytest.raises(ContractError, match=r"target\.csv: the first line has no names"):
        read(store, "history", source, SALES, layout="amazon-forecast")


def test_related_series_with_rows_that_differ_are_refused(store, put, tmp_path):
    put("f/target.csv", FORECAST["target.csv"])
    put(
        "f/related.csv",
        "item_id,timestamp,price,location\n" + "A,2024-01-01,1,N\n" * 2 + "A,2024-01-01,2,N\n",
    )
    with pytest.raises(ContractError, match=r"related\.csv: several rows of A N 2024-01-01 differ"):
        read(store, "history", str(tmp_path / "f"), SALES, layout="amazon-forecast")


def test_related_series_that_fit_no_row_are_refused(store, put, tmp_path):
    put("f/target.csv", FORECAST["target.csv"])
    put("f/related.csv", "item_id,timestamp,price,location\nA,2025-01-06,1,N\n")
    with pytest.raises(ContractError, match=r"related\.csv has no row that matches target\.csv"):
        read(store, "history", str(tmp_path / "f"), SALES, layout="amazon-forecast")


def test_days_of_m5_are_summed_to_whole_weeks(store, put):
    days = [f"d_{n}" for n in range(1, 18)]
    row = ["A_CA_evaluation", "A", "CA", *["1"] * 7, *["2"] * 7, *["9"] * 3]
    source = put("sales.csv", f"id,item_id,store_id,{','.join(days)}\n{','.join(row)}\n")
    read(store, "history", source, SALES, layout="m5")
    assert sales(store, "units") == [("A", "CA", "2011-01-29", 7.0), ("A", "CA", "2011-02-05", 14.0)]


def test_the_calendar_and_prices_of_m5_count_where_they_are_there(store, put, tmp_path):
    first = date(2020, 1, 4)
    days = range(1, 15)
    put(
        "m/sales.csv",
        f"item_id,store_id,{','.join(f'd_{n}' for n in days)}\nA,CA,{','.join('0' * 7 + '3' * 7)}\n",
    )
    rows = "".join(f"{first + timedelta(days=n - 1)},{100 + (n - 1) // 7},d_{n}\n" for n in days)
    put("m/calendar.csv", f"date,wm_yr_wk,d\n{rows}")
    put("m/sell_prices.csv", "store_id,item_id,wm_yr_wk,sell_price\nCA,A,101,2.5\n")
    read(store, "history", str(tmp_path / "m"), SALES, layout="m5")
    assert sales(store, "units", "sell_price") == [("A", "CA", "2020-01-11", 21.0, 2.5)]


def test_a_folder_of_walmart_is_history_plan_and_stores_by_the_first_day_of_a_week(store, put, tmp_path):
    put("w/train.csv", "Store,Dept,Date,Weekly_Sales,IsHoliday\n1,7,2010-02-05,24924.5,FALSE\n")
    put("w/test.csv", "Store,Dept,Date,IsHoliday\n1,7,2010-02-12,TRUE\n")
    put(
        "w/features.csv",
        "Store,Date,Temperature,MarkDown1,IsHoliday\n1,2010-02-05,42.31,NA,FALSE\n1,2010-02-12,38,1,TRUE\n",
    )
    put("w/stores.csv", "Store,Type,Size\n1,A,151315\n")
    put("w/sampleSubmission.csv", "Id,Weekly_Sales\n1_7_2010-02-12,0\n")
    folder = str(tmp_path / "w")
    sources = dict.fromkeys(("history", "plan", "stores"), folder)
    ingest.fn(SALES, store, sources, {}, 4, 0.05, {"layout": "walmart"})
    assert sales(store, "units", "Temperature") == [("7", "1", "2010-01-30", 24924.5, 42.31)]
    plan = (
        store.scan("sales/plan").select(pl.col("week").cast(pl.String), "IsHoliday", "Temperature").collect()
    )
    assert plan.rows() == [("2010-02-06", 1.0, 38.0)]
    assert store.scan("sales/stores").select("store", "Size").collect().rows() == [("1", 151315.0)]


POINTS = [("2024-01-01T00:00:00Z", 1.0), ("2024-01-01T00:01:00Z", 2.5)]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_request_to_anomaly_detector_is_the_series_of_its_file(store, put, indent):
    series = [{"timestamp": t, "value": v} for t, v in POINTS]
    source = put("boiler.json", json.dumps({"series": series, "granularity": "minutely"}, indent=indent))
    read(store, "readings", source, DEVICES, layout="anomaly-detector")
    assert readings(store) == [("boiler", "value", "00:00", 1.0), ("boiler", "value", "00:01", 2.5)]


def test_a_series_of_anomaly_detector_may_lack_a_header(store, put):
    source = put("boiler.csv", "".join(f"{t},{v}\n" for t, v in POINTS))
    read(store, "readings", source, DEVICES, layout="anomaly-detector")
    assert readings(store) == [("boiler", "value", "00:00", 1.0), ("boiler", "value", "00:01", 2.5)]


def test_variables_are_columns_or_the_files_of_a_zip(store, put, tmp_path):
    put("line 1.csv", "timestamp,speed,load\n2024-01-01T00:00:00Z,1,2\n")
    read(store, "readings", str(tmp_path / "line 1.csv"), DEVICES, layout="anomaly-detector-multivariate")
    with zipfile.ZipFile(tmp_path / "line 2.zip", "w") as archive:
        for name in ("speed", "load"):
            archive.writestr(f"{name}.csv", "timestamp,value\n2024-01-01T00:00:00Z,3\n")
    read(store, "readings", str(tmp_path / "line 2.zip"), DEVICES, layout="anomaly-detector-multivariate")
    assert readings(store) == [
        ("line 1", "load", "00:00", 2.0),
        ("line 1", "speed", "00:00", 1.0),
        ("line 2", "load", "00:00", 3.0),
        ("line 2", "speed", "00:00", 3.0),
    ]


def test_dimensions_are_the_device_and_measures_the_tags(store, put):
    source = put(
        "a.csv", "timestamp,region,shop,cost,orders\n2024-01-01,EU,one,1.5,\n2024-01-01,US,two,2,3\n"
    )
    read(store, "readings", source, DEVICES, layout="metrics-advisor", timezone="UTC")
    assert readings(store) == [
        ("EU/one", "cost", "00:00", 1.5),
        ("US/two", "cost", "00:00", 2.0),
        ("US/two", "orders", "00:00", 3.0),
    ]


def test_a_dimension_of_numbers_is_named_with_column(store, put):
    source = put("a.csv", "region,shop,Time,cost\nEU,17,2024-01-01,1.5\nEU,18,2024-01-01,2.5\n")
    with pytest.raises(
        ContractError, match=r"several rows have 2024-01-01 EU in time, region\..*--column 'device=shop'"
    ):
        read(store, "readings", source, DEVICES, layout="metrics-advisor", timezone="UTC")
    read(
        store,
        "readings",
        source,
        DEVICES,
        layout="metrics-advisor",
        timezone="UTC",
        mapping={"device": "shop"},
    )
    assert readings(store) == [("EU/17", "cost", "00:00", 1.5), ("EU/18", "cost", "00:00", 2.5)]


def test_components_of_lookout_are_tags_of_their_asset_and_ranges_its_labels(store, put, tmp_path):
    put("press 4/motor/0.csv", "Timestamp,temp\n2024-01-01T00:00:00Z,1\n")
    put("press 4/pump.csv", "Timestamp,flow\n2024-01-01T00:00:00Z,2\n")
    labels = put("labels.csv", "2024-01-01T00:00:00.000000,2024-01-01T02:00:00.000000\n")
    sources = {"readings": str(tmp_path / "press 4"), "labels": labels}
    ingest.fn(DEVICES, store, sources, {}, 4, 0.05, {"layout": "lookout-equipment", "timezone": "UTC"})
    assert readings(store) == [
        ("press 4", "motor.temp", "00:00", 1.0),
        ("press 4", "pump.flow", "00:00", 2.0),
    ]
    rows = store.scan("devices/labels").select("device", "tag", "fault", pl.col("end").dt.hour()).collect()
    assert rows.rows() == [("press 4", "*", "fault", 2)]
    with pytest.raises(ContractError, match="do not name their asset"):
        read(store, "labels", labels, DEVICES, layout="lookout-equipment", timezone="UTC")


def test_a_message_of_iot_hub_is_of_the_device_that_the_hub_names(store, put, tmp_path):
    system = {"connectionDeviceId": "pump-1"}
    body = {"tag": "temp", "value": 21.5, "time": "2024-01-01T00:00:00Z", "device": "what it says itself"}
    message = {"EnqueuedTimeUtc": "2024-01-01T00:00:01Z", "SystemProperties": system, "Body": body}
    put("hub/0.json", json.dumps(message) + "\n")
    read(store, "readings", str(tmp_path / "hub"), DEVICES, layout="iot-hub")
    assert readings(store) == [("pump-1", "temp", "00:00", 21.5)]


def test_tags_of_influxdb_are_the_device(store, put):
    source = put(
        "a.csv",
        "#group,false,false,false,false,true,true,true,true\n"
        "#datatype,string,long,dateTime:RFC3339,double,string,string,string,string\n"
        "#default,_result,,,,,,,\n"
        ",result,table,_time,_value,_field,_measurement,host,room\n"
        ",,0,2024-01-01T00:00:00Z,20.5,temp,boiler,gw1,r2\n",
    )
    read(store, "readings", source, DEVICES, layout="influxdb")
    assert readings(store) == [("gw1/r2", "boiler.temp", "00:00", 20.5)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",result,table,_time,_measurement,host,temp,level,on\n,,0,2024-01-01T00:00:00Z,boiler,gw 1,20.5,3,true\n"),
        ("a.lp", 'boiler,host=gw\\ 1 temp=20.5,level=3i,on=T,note="a, b=c" 1704067200000000000\n'),
    ],
)  # fmt: skip
def test_pivoted_rows_and_line_protocol_of_influxdb_have_several_fields(store, put, name, text):
    read(store, "readings", put(name, text), DEVICES, layout="influxdb")
    assert readings(store) == [
        ("gw 1", "boiler.level", "00:00", 3.0),
        ("gw 1", "boiler.on", "00:00", 1.0),
        ("gw 1", "boiler.temp", "00:00", 20.5),
    ]


def test_the_time_of_influxs_own_command_is_no_field(store, put):
    source = put("a.csv", "name,tags,time,mean\ncpu,host=a,1704067200000000000,5\n")
    read(store, "readings", source, DEVICES, layout="influxdb")
    assert readings(store) == [("cpu/host=a", "mean", "00:00", 5.0)]


def test_a_minimal_response_of_home_assistant_names_an_entity_once(store, put):
    states = [{"state": str(n), "last_changed": f"2024-01-01T00:0{n}:00+00:00"} for n in range(2)]
    entities = [[{"entity_id": name} | states[0], states[1]] for name in ("sensor.a", "sensor.b")]
    read(store, "readings", put("h.json", json.dumps(entities)), DEVICES, layout="home-assistant")
    assert [row[:3] for row in readings(store)] == [
        ("sensor.a", "state", "00:00"), ("sensor.a", "state", "00:01"),
        ("sensor.b", "state", "00:00"), ("sensor.b", "state", "00:01"),
    ]  # fmt: skip


def test_states_of_home_assistant_are_readings_unless_the_entity_is_away(store, put):
    source = put(
        "history.csv",
        "entity_id,state,last_changed\n"
        "sensor.attic,20.5,2024-01-01T00:00:00.000Z\n"
        "sensor.attic,unavailable,2024-01-01T00:01:00.000Z\n"
        "binary_sensor.door,on,2024-01-01T00:02:00.000Z\n",
    )
    result = read(store, "readings", source, DEVICES, layout="home-assistant")
    assert readings(store) == [
        ("binary_sensor.door", "state", "00:02", 1.0),
        ("sensor.attic", "state", "00:00", 20.5),
    ]
    assert result.quarantined == 0


def test_the_tables_of_azure_pdm_have_a_layout(store, put):
    source = put("errors.csv", "datetime,machineID,errorID\n2024-01-01 06:00:00,1,error1\n")
    read(store, "errors", source, MACHINES, layout="azure-pdm", timezone="UTC")
    assert store.scan("machines/errors").select("machine_id", "error").collect().rows() == [("1", "error1")]


def fleet(store, table: str, *columns: str) -> list[tuple]:
    rows = store.scan(f"machines/{table}").select("machine_id", pl.col("time").dt.strftime("%d"), *columns)
    return sorted(rows.collect().rows())


def test_readings_by_tag_are_a_column_per_sensor_and_are_not_taken_for_one_sensor(store, put):
    source = put(
        "t.csv",
        "machine_id,time,tag,value\n1,2024-01-01,vib,5\n1,2024-01-01,oil,7\n1,2024-01-02,vib,6\n1,2024-01-02,vib,6\n",
    )
    with pytest.raises(ContractError, match=r"a row per reading, with a column 'tag'.*--layout tag-value"):
        read(store, "telemetry", source, MACHINES, timezone="UTC", duplicates="average")
    read(store, "telemetry", source, MACHINES, timezone="UTC", layout="tag-value")
    assert fleet(store, "telemetry", "oil", "vib") == [("1", "01", 7.0, 5.0), ("1", "02", None, 6.0)]


def test_two_values_of_a_tag_at_one_time_are_refused(store, put):
    source = put("t.csv", "Asset,time,Signal,value\n1,2024-01-01,vib,5\n1,2024-01-01,vib,6\n")
    mapping = {"machine_id": "Asset", "tag": "Signal"}
    with pytest.raises(ContractError, match="vib of 1 2024-01-01 has several values: 5 and 6"):
        read(store, "telemetry", source, MACHINES, timezone="UTC", layout="tag-value", mapping=mapping)


@pytest.mark.parametrize("layout", ["anomaly-detector-multivariate", "lookout-equipment"])
def test_unknown_cells_of_wide_layouts_are_no_readings(store, put, layout):
    source = put("d.csv", "timestamp,a,b\n2024-01-01T00:00:00Z,1,2\n2024-01-01T00:01:00Z,NaN,3\n")
    result = read(store, "readings", source, DEVICES, layout=layout)
    assert (result.read, result.quarantined) == (3, 0)


def test_readings_by_tag_may_be_in_a_file_per_tag(store, put):
    source = str(Path(put("t/oil.csv", "machine_id,time,tag,value\n1,2024-01-01,oil,7\n")).parent)
    put("t/vib.csv", "machine_id,time,tag,value\n1,2024-01-01,vib,5\n")
    read(store, "telemetry", source, MACHINES, timezone="UTC", layout="tag-value")
    assert fleet(store, "telemetry", "oil", "vib") == [("1", "01", 7.0, 5.0)]


@pytest.mark.parametrize("header", ["time,P-1.vib,P-1.temp,P-2.vib", "time,P 1 vib,P 1 temp,P 2 vib"])
def test_a_column_per_machine_and_sensor_is_a_row_per_machine_and_time(store, put, header):
    source = put("a.csv", f"{header}\n2024-01-01 00:00,1,2,3\n2024-01-01 01:00,4,5,6\n")
    read(store, "telemetry", source, MACHINES, timezone="UTC", layout="machine-tag")
    rows = (
        store.scan("machines/telemetry")
        .select("machine_id", "vib", "temp")
        .collect()
        .sort("machine_id", "vib")
    )
    one = header[5:8]
    other = one.replace("1", "2")
    assert rows.rows() == [(one, 1, 2), (one, 4, 5), (other, 3, None), (other, 6, None)]


def test_a_column_per_device_and_sensor_leads_to_the_layout_and_is_a_row_per_reading(store, put):
    source = put("a.csv", "time,P1.vib,P1.temp,P2.vib\n2024-01-01 00:00,1,2,3\n")
    with pytest.raises(SourceError, match="Or read such files with --layout machine-tag"):
        read(store, "telemetry", source, MACHINES, timezone="UTC")
    with pytest.raises(
        SourceError, match=r"named after a device each. Read them with --layout device-tag, or as one"
    ):
        read(store, "readings", source, DEVICES, timezone="UTC", wide=True)
    read(store, "readings", source, DEVICES, timezone="UTC", layout="device-tag")
    assert readings(store) == [
        ("P1", "temp", "00:00", 2),
        ("P1", "vib", "00:00", 1),
        ("P2", "vib", "00:00", 3),
    ]


def test_zones_of_one_device_are_its_sensors(store, put):
    source = put("a.csv", "time,zone 1 temp,zone 2 temp\n2024-01-01 00:00,1,2\n")
    read(store, "readings", source, DEVICES, timezone="UTC", wide=True)
    assert {*store.scan("devices/readings").collect()["device"]} == {"a"}


def test_columns_that_are_not_all_named_after_a_machine_and_a_sensor_are_refused(store, put):
    source = put("a.csv", "time,P1.vib,P2.vib,load\n2024-01-01 00:00,1,2,3\n")
    with pytest.raises(
        ContractError, match=r"not all columns are named .* Expected a column of times and others"
    ):
        read(store, "telemetry", source, MACHINES, timezone="UTC", layout="machine-tag")


def test_a_file_may_be_named_after_its_machine(store, put):
    for machine in ("P 7.1", "P 7.2"):
        put(f"scada/{machine}.csv", "Timestamp,vib\n2024-01-01,5\n")
    source = str(Path(put("scada/P 9.csv", "Timestamp,vib\n2024-01-01,5\n")).parent)
    read(store, "telemetry", source, MACHINES, timezone="UTC", layout="file-per-machine")
    assert fleet(store, "telemetry", "vib") == [(f"P {n}", "01", 5.0) for n in (7.1, 7.2, 9)]


@pytest.mark.parametrize(("works", "fails"), [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("off", "ON")])
def test_the_flag_of_drives_is_their_failures_and_no_sensor(store, put, works, fails):
    source = put(
        "d.csv",
        f"date,serial_number,failure,smart_5_raw\n2024-01-01,Z1,{works},5\n2024-01-02,Z1,{works},6\n"
        f"2024-01-03,Z1,{fails},9\n",
    )
    options = {"timezone": "UTC", "layout": "backblaze"}
    sources = {"telemetry": source, "failures": source}
    ingest.fn(MACHINES, store, sources, {}, 4, 0.05, options)
    assert fleet(store, "failures", "component") == [("Z1", "03", "drive")]
    assert fleet(store, "telemetry", "smart_5_raw") == [
        ("Z1", f"0{n}", float(v)) for n, v in ((1, 5), (2, 6), (3, 9))
    ]
    assert "failure" not in store.scan("machines/telemetry").collect_schema()


def test_a_flag_beside_readings_is_asked_for_and_then_read_as_failures_and_no_sensor(store, put):
    rows = "".join(f"2024-01-0{day},M1,{day},{int(day == 3)}\n" for day in range(1, 6))
    source = put("m.csv", f"time,machine_id,vib,Machine failure\n{rows}")
    sources = {"telemetry": source, "failures": source}
    mapping, options = {"component": "=pump"}, {"timezone": "UTC"}
    with pytest.raises(ContractError, match=r"Machine failure is 0 in 4 of 5 rows.*--layout failure-flag"):
        ingest.fn(MACHINES, store, sources, mapping, 4, 0.05, options)
    ingest.fn(MACHINES, store, sources, mapping, 4, 0.05, {**options, "layout": "failure-flag"})
    assert fleet(store, "failures", "component") == [("M1", "03", "pump")]
    assert "Machine failure" not in store.scan("machines/telemetry").collect_schema()


def test_a_state_beside_readings_is_no_failure_of_each_and_its_column_may_be_named(store, put):
    rows = "".join(f"2024-01-0{day},M1,{day},{'BROKEN' if day == 3 else 'NORMAL'}\n" for day in range(1, 6))
    source = put("m.csv", f"time,machine_id,vib,machine_status\n{rows}")
    sources, options = {"telemetry": source, "failures": source}, {"timezone": "UTC"}
    with pytest.raises(
        ContractError, match=r"5 of the 5 readings have a failure.*failure-flag --column failure=COLUMN"
    ):
        ingest.fn(MACHINES, store, sources, {"component": "=pump"}, 4, 0.05, options)
    mapping = {"failure": "machine_status"}
    ingest.fn(MACHINES, store, sources, mapping, 4, 0.05, {**options, "layout": "failure-flag"})
    assert fleet(store, "failures", "component") == [("M1", "03", "machine")]
    assert fleet(store, "telemetry", "vib") == [("M1", f"0{day}", day) for day in range(1, 6)]


def test_files_of_states_in_which_no_machine_broke_have_no_failures(store, put):
    for machine, state in (("M1", "BROKEN"), ("M2", "NORMAL"), ("M3", "1")):
        lines = "".join(
            f"2024-01-0{day},{machine},{day},{state if day == 3 else ''}\n" for day in range(1, 6)
        )
        folder = Path(put(f"all/{machine}.csv", f"time,machine_id,vib,machine_status\n{lines}")).parent
    options, mapping = {"timezone": "UTC", "layout": "failure-flag"}, {"failure": "machine_status"}
    for source in (f"{folder}", f"{folder}/M2.csv"):
        sources = {"telemetry": source, "failures": source}
        ingest.fn(MACHINES, store, sources, mapping, 4, 0.05, options)
        assert fleet(store, "failures", "component") == [("M1", "03", "machine"), ("M3", "03", "machine")]


def test_words_that_are_no_flag_are_refused_and_do_not_mean_that_nothing_failed(store, put):
    source = put("m.csv", "time,machine_id,vib,failure\n2024-01-01,M1,1,\n2024-01-02,M1,2,bearing\n")
    sources, options = (
        {"telemetry": source, "failures": source},
        {"timezone": "UTC", "layout": "failure-flag"},
    )
    with pytest.raises(ContractError, match=r"'failure' is bearing\. Expected 0 or 1"):
        ingest.fn(MACHINES, store, sources, {}, 4, 0.05, options)


def test_an_asset_of_lookout_for_equipment_is_a_machine_and_its_label_ranges_are_failures(store, put):
    put("press/pump.csv", "Timestamp,vib\n2024-01-01,5\n2024-01-02,6\n")
    put("press/gear.csv", "Timestamp,vib\n2024-01-02,7\n")
    sources = {
        "telemetry": str(Path(put("press/oil/a.csv", "Timestamp,temp\n2024-01-01,60\n")).parents[1]),
        "failures": put("labels.csv", "2024-01-02,2024-01-03\n"),
    }
    ingest.fn(MACHINES, store, sources, {}, 4, 0.05, {"timezone": "UTC", "layout": "lookout-equipment"})
    assert fleet(store, "telemetry", "gear.vib", "oil.temp", "pump.vib") == [
        ("press", "01", None, 60.0, 5.0),
        ("press", "02", 7.0, None, 6.0),
    ]
    assert fleet(store, "failures", "component") == [("press", "02", "machine")]


def test_a_layout_finds_its_columns_in_any_spelling(store, put):
    source = str(Path(put("press/pump.csv", "Vib,TimeStamp\n5,2024-01-01\n")).parent)
    labels = put("labels.csv", "Start,End\n2024-01-01,2024-01-02\n")
    options = {"timezone": "UTC", "layout": "lookout-equipment"}
    ingest.fn(MACHINES, store, {"telemetry": source, "failures": labels}, {}, 4, 0.05, options)
    assert fleet(store, "telemetry", "pump.Vib") == [("press", "01", 5.0)]
    assert fleet(store, "failures", "component") == [("press", "01", "machine")]
    variables = put("plant.csv", "temp,TIME\n5,2024-01-01\n")
    read(store, "readings", variables, DEVICES, layout="anomaly-detector-multivariate", timezone="UTC")
    assert readings(store) == [("plant", "temp", "00:00", 5.0)]
    drives = put("d.csv", "Date,Serial_Number,Failure,smart\n2024-01-01,Z,0,5\n2024-01-02,Z,1,6\n")
    options = {"timezone": "UTC", "layout": "backblaze"}
    ingest.fn(MACHINES, store, {"telemetry": drives, "failures": drives}, {}, 4, 0.05, options)
    assert ("Z", "02", "drive") in fleet(store, "failures", "component")
    assert "Failure" not in store.scan("machines/telemetry").collect_schema()


@pytest.mark.parametrize("scenario", [SALES, DEVICES, MACHINES])
def test_an_unknown_layout_ends_in_a_list_of_all(store, scenario):
    with pytest.raises(SourceError, match="--layout nixtlo") as caught:
        read(store, next(iter(scenario.tables)), "a.csv", scenario, layout="nixtlo")
    for name, layout in scenario.layouts.items():
        assert f"  {name}: {layout.about}." in str(caught.value)


def test_a_dry_run_says_what_the_layout_made_of_the_columns(store, put):
    source = put("a.csv", "unique_id,ds,y\nA,2024-01-01,5\n")
    result = read(store, "history", source, SALES, layout="nixtla", dry_run=True)
    assert result.preview["layout"] == "nixtla"
    assert result.preview["columns"] == {"sku": "unique_id", "week": "ds", "units": "y"}
    assert result.preview["rows"][0]["store"] == "all"


ENGINES = "1 1 0.5 7\n1 2 0.6 7\n2 1 0.5 7\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("unit_number,time_in_cycles,s1,s2\n" + ENGINES.replace(" ", ","), {}),
        ("motor,cycle,s1,s2\n" + ENGINES.replace(" ", ","), {"machine_id": "motor"}),
        (ENGINES.replace("7\n", " ".join(["7"] * 23) + " \n"), {}),
    ],
    ids=["a header", "another name", "NASA"],
)
def test_cycles_are_days_and_the_last_one_of_a_unit_is_its_failure(store, put, text, columns):
    source = put("train.txt", text)
    read(store, "telemetry", source, MACHINES, mapping=columns, layout="cycles")
    read(store, "failures", source, MACHINES, mapping=columns, layout="cycles")
    days = pl.col("time").dt.to_string("%m-%d")
    telemetry = store.scan("machines/telemetry").sort("machine_id", "time").collect()
    assert telemetry.select("machine_id", days).rows() == [("1", "01-02"), ("1", "01-03"), ("2", "01-02")]
    assert "s1" in telemetry.columns
    failures = (
        store.scan("machines/failures").sort("machine_id").select("machine_id", days, "component").collect()
    )
    assert failures.rows() == [("1", "01-03", "machine"), ("2", "01-02", "machine")]


@pytest.mark.parametrize(
    ("text", "columns", "components"),
    [
        ("unit,cycle,component\n1,7,screw\n1,90,ring\n2,8,screw\n", {}, ["screw", "ring", "screw"]),
        (
            "unit,cycle,part\n1,7,screw\n1,90,ring\n2,8,screw\n",
            {"component": "part"},
            ["screw", "ring", "screw"],
        ),
        ("unit,cycle\n1,7\n1,90\n2,8\n", {}, ["machine"] * 3),
    ],
    ids=["components", "another name", "no readings"],
)
def test_each_row_of_a_list_of_failures_by_cycle_is_one(store, put, text, columns, components):
    read(store, "failures", put("fails.csv", text), MACHINES, mapping=columns, layout="cycles")
    failures = store.scan("machines/failures").sort("machine_id", "time").collect()
    assert failures["time"].dt.to_string("%m-%d").to_list() == ["01-08", "03-31", "01-09"]
    assert failures["component"].to_list() == components


def test_more_cycles_than_days_that_are_over_are_refused_with_what_to_do(store, put):
    source = put("a.csv", "machine_id,cycle,s1\n1,1000,0.5\n1,399000,0.6\n")
    with pytest.raises(
        ContractError, match=r"cycle goes up to 399,000. Expected at most 9,000.*Divide the cycles"
    ):
        read(store, "telemetry", source, MACHINES, layout="cycles")


def test_cycles_in_the_place_of_times_are_told_with_the_way_to_read_them(store, put):
    source = put("a.csv", "machine_id,time,s1\n1,1,0.5\n1,362,0.6\n")
    with pytest.raises(ContractError, match=r"from 1 to 362.*--layout cycles"):
        read(store, "telemetry", source, MACHINES)
    source = put("km.csv", "machine_id,time,s1\n1,500,0.5\n1,300000,0.6\n")
    with pytest.raises(ContractError, match=r"from 500 to 300000.*--layout cycles"):
        read(store, "telemetry", source, MACHINES)
    source = put("a.csv", "machine_id,time,s1\n1,1,0.5\n" + "1,2024-01-01T00:00Z,0.6\n" * 30)
    assert read(store, "telemetry", source, MACHINES).quarantined == 1
