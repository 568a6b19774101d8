"""Wide files: a column per week or per sensor."""

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.errors import ContractError
from models.sales import SALES
from tasks.ingest.sources import SourceError
from tests.steps import read

SENSORS = "timestamp,speed,pressure\n2024-01-01T00:00:00Z,1,2\n2024-01-01T00:01:00Z,3,\n"
WEEKS = "sku,store,colour,2024-01-01,2024-01-08\n1,A,red,5,6\n2,A,blue,,8\n"


def wide(tmp_path, text: str, name: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_a_file_with_a_column_per_sensor_is_of_the_device_that_it_is_named_after(store, tmp_path):
    source = wide(tmp_path, SENSORS, "pump 7.csv")
    result = read(store, "readings", source, DEVICES, mapping={"time": "timestamp"}, wide=True)
    rows = store.scan("devices/readings").select("device", "tag", "last").sort("tag", "last").collect()
    assert rows.rows() == [("pump 7", "pressure", 2.0), ("pump 7", "speed", 1.0), ("pump 7", "speed", 3.0)]
    assert (result.read, result.quarantined) == (3, 0)


def test_a_file_with_a_column_per_week_is_a_row_for_each(store, tmp_path):
    result = read(store, "history", wide(tmp_path, WEEKS, "sales.csv"), SALES, wide=True)
    rows = store.scan("sales/history").select("sku", "week", "units").sort("sku", "week").collect()
    assert [(sku, str(week), units) for sku, week, units in rows.rows()] == [
        ("1", "2024-01-01", 5.0), ("1", "2024-01-08", 6.0), ("2", "2024-01-08", 8.0)
    ]  # fmt: skip
    assert result.ignored == ()


@pytest.mark.parametrize(
    ("text", "scenario", "table", "mapping", "what"),
    [(SENSORS, DEVICES, "readings", {"time": "timestamp"}, "sensor"), (WEEKS, SALES, "history", {}, "week")],
)
def test_a_wide_file_is_recognised_and_the_option_named(
    store, tmp_path, text, scenario, table, mapping, what
):
    with pytest.raises(SourceError, match=f"this has a column per {what}.*--wide"):
        read(store, table, wide(tmp_path, text, "a.csv"), scenario, mapping=mapping)


def test_a_plan_with_a_column_per_week_does_not_say_what_its_numbers_are(store, tmp_path):
    with pytest.raises(
        SourceError, match=r"this has a column per week .*2024-01-01.* and does not name what they hold"
    ):
        read(store, "plan", wide(tmp_path, WEEKS, "plan.csv"), SALES, wide=True)


def test_unknown_cells_of_a_sensor_with_numbers_are_no_readings_and_words_of_a_state_are(store, tmp_path):
    text = SENSORS.replace("2\n", "NA\n").replace("3,\n", "3,4\n").replace("\n", ",none\n")
    source = wide(
        tmp_path, text.replace("pressure,none", "pressure,alarm").replace("4,none", "4,hot"), "pump.csv"
    )
    result = read(store, "readings", source, DEVICES, mapping={"time": "timestamp"}, wide=True)
    assert (result.read, result.quarantined) == (5, 0)


def test_a_wide_file_may_have_one_sensor(store, tmp_path):
    source = wide(tmp_path, "time,temp\n2024-01-01T00:00:00Z,1\n", "pump.csv")
    read(store, "readings", source, DEVICES, wide=True)
    assert store.scan("devices/readings").select("device", "tag").collect().rows() == [("pump", "temp")]


def test_one_column_of_a_file_can_be_two_of_the_table(store, tmp_path):
    source = wide(tmp_path, "at,sensor,value\n2024-01-01T00:00:00Z,s1,1\n", "a.csv")
    read(store, "readings", source, DEVICES, mapping={"time": "at", "device": "sensor", "tag": "sensor"})
    assert store.scan("devices/readings").select("device", "tag").collect().rows() == [("s1", "s1")]


YEARS = ";;2023;;2024;\nsku;store;KW51;KW52;KW1;Total\n1;A;5;6;7;18\n2;A;;8;9;17\nTotal;;5;14;16;35\n"


@pytest.mark.parametrize(
    "text", [YEARS, YEARS.replace(";;2023;;2024;\nsku;store;", "sku;store;2023;2023;2024;\n;;")]
)
def test_years_may_stand_in_a_line_above_the_weeks_and_totals_are_no_weeks(store, tmp_path, text):
    result = read(store, "history", wide(tmp_path, text, "sales.csv"), SALES, wide=True)
    rows = store.scan("sales/history").select("sku", "week", "units").sort("sku", "week").collect()
    assert [(sku, str(week), units) for sku, week, units in rows.rows()] == [
        ("1", "2023-12-18", 5.0), ("1", "2023-12-25", 6.0), ("1", "2024-01-01", 7.0),
        ("2", "2023-12-25", 8.0), ("2", "2024-01-01", 9.0),
    ]  # fmt: skip
    assert result.rules == {"footer": 1}
    assert store.scan("sales/history").collect_schema().names() == ["sku", "store", "week", "units", "shard"]


def test_weeks_without_a_year_are_refused(store, tmp_path):
    source = wide(tmp_path, YEARS.partition("\n")[2], "sales.csv")
    with pytest.raises(SourceError, match=r"KW51, KW52, KW1, \.\.\. are weeks without a year"):
        read(store, "history", source, SALES, wide=True)


@pytest.mark.parametrize("header", ["2024M01,2024M02", "Jan 2024,Feb 2024", "Q1 2024,Q2 2024"])
def test_a_column_per_month_is_refused(store, tmp_path, header):
    source = wide(tmp_path, f"sku,store,{header}\nA,1,3,4\n", "wide.csv")
    with pytest.raises(
        SourceError, match=rf"columns {header.replace(',', ', ')}, ... are months or quarters"
    ):
        read(store, "history", source, SALES)


def test_a_column_of_words_called_like_the_missing_device_is_no_sensor(store, tmp_path):
    source = wide(
        tmp_path, "time,asset name,t\n2026-03-02T08:00:00Z,a,1\n2026-03-02T08:01:00Z,a,2\n", "x.csv"
    )
    with pytest.raises(
        SourceError, match=r"'asset name' may be it. Map it with --column device='asset name'"
    ):
        read(store, "readings", source, DEVICES, wide=True)


def test_an_empty_column_is_not_the_missing_device(store, tmp_path):
    text = "time,t,Host Connected\n2026-03-02T08:00:00Z,1,\n2026-03-02T08:01:00Z,2,Logged\n"
    read(store, "readings", wide(tmp_path, text, "x.csv"), DEVICES, wide=True)
    assert {*store.scan("devices/readings").collect()["device"]} == {"x"}


def test_rows_of_several_devices_are_not_read_as_one(store, tmp_path):
    rows = [f"2024-01-01T00:{n:02}:00Z,p{d},{n},{d}" for n in range(9) for d in (1, 2)]
    source = wide(tmp_path, "\n".join(["time,pump,speed,pressure", *rows]), "a.csv")
    with pytest.raises(SourceError, match=r"several rows have the time 2024-01-01T00:00:00Z.*device=NAME"):
        read(store, "readings", source, DEVICES, wide=True)
    assert read(store, "readings", source, DEVICES, mapping={"device": "pump"}, wide=True).accepted == 36


@pytest.mark.parametrize("name", ["No", "entry_id", "RECORD"])
def test_a_column_that_counts_the_rows_is_no_sensor(store, tmp_path, name):
    rows = [f"2024-01-01T00:{n:02}:00Z,{n + 100},{n}" for n in range(9)]
    source = wide(tmp_path, "\n".join([f"time,{name},speed", *rows]), "a.csv")
    read(store, "readings", source, DEVICES, wide=True)
    assert store.scan("devices/readings").collect()["tag"].unique().to_list() == ["speed"]


@pytest.mark.parametrize(
    ("key", "other", "header"),
    [("sku", "store", "week,shop,1,2,Total,note\n"), ("store", "sku", "week,item,1,2,Total,note\n")],
)
def test_each_column_may_be_a_sku_or_a_store(store, tmp_path, key, other, header):
    source = wide(tmp_path, header + "2024-01-01,N,5,6,11,a\n2024-01-08,N,7,,7,b\n,,12,6,18,\n", "sales.csv")
    mapping = {other: header.split(",")[1]}
    with pytest.raises(SourceError, match=rf"column per sku or store.*--wide .*--column '{key}=\*'"):
        read(store, "history", source, SALES, mapping=mapping)
    result = read(store, "history", source, SALES, mapping={key: "*", **mapping}, wide=True)
    rows = store.scan("sales/history").select(key, other, "units").sort(key, "units").collect()
    assert rows.rows() == [("1", "N", 5.0), ("1", "N", 7.0), ("2", "N", 6.0)]
    assert result.rules == {"footer": 1}


def test_names_of_weeks_may_begin_with_what_the_columns_hold(store, tmp_path):
    text = "sku,store,units_2024-W01,units_2024-W02\n1,A,5,6\n"
    source = wide(tmp_path, text, "sales.csv")
    with pytest.raises(SourceError, match=r"column per week \(2024-W01, 2024-W02, \.\.\.\).*with --wide"):
        read(store, "history", source, SALES)
    read(store, "history", source, SALES, wide=True)
    assert store.scan("sales/history").collect()["units"].sort().to_list() == [5.0, 6.0]
    both = wide(tmp_path, text.replace("units_2024-W02", "price_2024-W01"), "both.csv")
    with pytest.raises(SourceError, match=r"several things by date: units, price\. Expected those of one"):
        read(store, "history", both, SALES, wide=True)


def test_a_column_for_the_quality_of_another_is_no_sensor(store, tmp_path):
    rows = [f"2024-01-01T00:{n:02}:00Z,{n},{0 if n == 4 else 192},{n}" for n in range(9)]
    source = wide(tmp_path, "\n".join(["time,speed,speed_Quality,pressure", *rows]), "a.csv")
    result = read(store, "readings", source, DEVICES, wide=True)
    assert result.rules == {"quality_bad": 1}
    counts = store.scan("devices/readings").group_by("tag").agg(pl.col("count").sum()).sort("tag").collect()
    assert counts.rows() == [("pressure", 9), ("speed", 8)]


@pytest.mark.parametrize("words", [("0", "1"), ("Normal", "Attack"), ("FALSE", "TRUE"), ("off", "on")])
def test_a_column_of_labels_is_no_sensor_and_gives_the_faults(store, tmp_path, words):
    flags = [words[n in (3, 4, 8)] for n in range(9)]
    rows = [f"2024-01-01T00:{n:02}:00Z,{n},{flag}" for n, flag in enumerate(flags)]
    source = wide(tmp_path, "\n".join(["time,speed,anomaly", *rows]), "pump.csv")
    with pytest.raises(SourceError, match=r"'anomaly' says what is to be found.*--layout labelled"):
        read(store, "readings", source, DEVICES, wide=True)
    assert read(store, "readings", source, DEVICES, layout="labelled").accepted == 9
    read(store, "labels", source, DEVICES, layout="labelled")
    (label,) = store.scan("devices/labels").collect().to_dicts()
    fault = "attack" if "Attack" in words else "anomaly"
    assert (label["device"], label["tag"], label["fault"]) == ("pump", "*", fault)
    assert (label["start"].minute, label["end"].minute) == (3, 5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Week Ending 01-07-24", "Week Ending 01-14-24"),
        ("we_2024-01-07", "we_2024-01-14"),
        ("W/E 2024-01-07", "W/E 2024-01-14"),
    ],
)
def test_columns_of_the_last_days_of_weeks_need_the_option(store, tmp_path, one, other):
    source = wide(tmp_path, f"sku,store,{one},{other}\n1,A,5,6\n", "sales.csv")
    with pytest.raises(ContractError, match=r"'Week Ending .*', the last day.*--week-ending"):
        read(store, "history", source, SALES, wide=True)
    read(store, "history", source, SALES, wide=True, week_ending=True)
    weeks = store.scan("sales/history").collect()["week"].sort().dt.to_string().to_list()
    assert weeks == ["2024-01-01", "2024-01-08"]


def test_a_wide_file_with_other_names_is_read_as_the_error_says(store, tmp_path):
    source = wide(tmp_path, WEEKS.replace("sku,store", "Item,Shop"), "sales.csv")
    with pytest.raises(
        SourceError, match=r"column per week.*no column sku and store. Found: Item, Shop, colour"
    ) as caught:
        read(store, "history", source, SALES, wide=True)
    assert "--wide --column sku=NAME_IN_THE_FILE --column store=NAME_IN_THE_FILE" in str(caught.value)
    assert (
        read(store, "history", source, SALES, mapping={"sku": "Item", "store": "Shop"}, wide=True).accepted
        == 3
    )


def test_the_column_of_times_is_named_where_one_column_has_them(store, tmp_path):
    source = wide(tmp_path, SENSORS.replace("timestamp", "Date/Time"), "pump.csv")
    with pytest.raises(SourceError, match=r"(?s)--column time=Date/Time .*column per sensor.*add --wide"):
        read(store, "readings", source, DEVICES)
    with pytest.raises(
        SourceError, match=r"^pump.csv: column 'time' is missing.*\n.*--column time=Date/Time"
    ):
        read(store, "readings", source, DEVICES, wide=True)


def test_a_second_column_of_times_is_no_sensor_and_does_not_stop_an_ingest(store, tmp_path):
    rows = [f"2024-01-01T00:{n:02}:00Z,2024-01-01T00:{n:02}:01.5Z,{n}" for n in range(9)]
    source = wide(tmp_path, "\n".join(["time,received,speed", *rows]), "a.csv")
    assert read(store, "readings", source, DEVICES, wide=True).rules == {"tag_of_words": 9}
    assert store.scan("devices/readings").collect()["tag"].unique().to_list() == ["speed"]


def test_the_unit_in_the_cells_of_a_sensor_is_told_and_another_one_refused_later(store, tmp_path):
    text = "time,temp\n2024-01-01T00:0{0}:00Z,20{1}\n2024-01-01T00:0{0}:30Z,21{1}"
    source = wide(tmp_path, text.format(0, " °C"), "a.csv")
    assert read(store, "readings", source, DEVICES, wide=True).alike == (
        "readings: °C in the numbers of 'temp' is left out. Other files must have the same unit.",
    )
    with pytest.raises(SourceError, match=r"numbers of 'temp' are in °F, those of .* in °C"):
        read(store, "readings", wide(tmp_path, text.format(1, " °F"), "a.csv"), DEVICES, wide=True)


@pytest.mark.parametrize(
    ("header", "scenario", "table", "layout"),
    [
        ("entity_id,state,last_changed", DEVICES, "readings", "home-assistant"),
        ("Store,Date,Weekly_Sales,Holiday_Flag", SALES, "history", "walmart"),
    ],
)
def test_a_layout_that_a_file_fits_is_named(store, tmp_path, header, scenario, table, layout):
    source = wide(tmp_path, f"{header}\n" + ",".join("1" for _ in header.split(",")), "a.csv")
    with pytest.raises(SourceError, match=rf"Or read such files with --layout {layout}\.$"):
        read(store, table, source, scenario)
