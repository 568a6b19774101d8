"""Readings from files and captures to intervals: what is good, what is bad, and what they become."""

import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.devices.scenario import DEVICES, Devices
from models.devices.tables import TABLES
from models.devices.words import word_of
from models.errors import ContractError
from models.scenario import Table
from tasks.ingest.pipeline import ingest
from tasks.ingest.sources import SourceError
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tasks.storage.tables import FILES_OF_A_PARTITION
from tests.capture_files import START, message, put, reading

pytestmark = pytest.mark.usefixtures("without_run_logger")

NOW = START + timedelta(hours=3)


def bring(store, source, *, scenario=DEVICES, mapping=None, shards=3, max_bad_share=0.05, **options):
    """Ingest a source of readings."""
    options = {"now": NOW, **options}
    (result,) = ingest.fn(
        scenario, store, {"readings": str(source)}, mapping or {}, shards, max_bad_share, options
    )
    assert result.read == result.accepted + result.quarantined + result.merged
    return result


def table(store) -> pl.DataFrame:
    return store.scan("devices/readings").collect().sort("device", "tag", "time")


def quarantine(store) -> pl.DataFrame:
    if store.version("devices/quarantine") is None:
        return pl.DataFrame(schema={"source": pl.String, "rule": pl.String, "row": pl.String})
    return store.scan("devices/quarantine").collect().sort("source", "rule", "row")


def csv(tmp_path, *lines, file="readings.csv", header="device,tag,time,value"):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def at(second: float) -> str:
    return (START + timedelta(seconds=second)).isoformat()


def many(number: int = 300, seed: int = 1, span: int = 3600) -> list[dict]:
    """Readings of four sensors over an hour, in no order, all different."""
    random_numbers = random.Random(seed)
    return [
        reading(
            f"d{random_numbers.randrange(2)}",
            f"t{random_numbers.randrange(2)}",
            random_numbers.uniform(0, span),
            n,
        )
        for n in range(number)
    ]


def by_hand(readings: list[dict], minutes: int = 1) -> pl.DataFrame:
    """Count, mean, min, max, standard deviation and last of each interval, by a loop over the readings."""
    groups: dict[tuple, list] = {}
    for one in readings:
        time = datetime.fromisoformat(one["time"])
        begin = time - timedelta(
            minutes=time.minute % minutes, seconds=time.second, microseconds=time.microsecond
        )
        groups.setdefault((one["device"], one["tag"], begin), []).append((time, float(one["value"])))
    rows = []
    for key, points in sorted(groups.items()):
        values = [value for _, value in points]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else None
        std = None if variance is None else variance**0.5
        rows.append((*key, len(values), mean, min(values), max(values), std, max(points)[1]))
    columns = ["device", "tag", "time", "count", "mean", "min", "max", "std", "last"]
    return pl.DataFrame(rows, schema=columns, orient="row").cast({"time": pl.Datetime("us", "UTC")})


def capture_of(root: Path, readings: list[dict], files: int = 6) -> list[Path]:
    """The readings as the files of a capture, in turn."""
    parts = [readings[n::files] for n in range(files)]
    return [
        put(root, [message(one, i) for i, one in enumerate(part)], minute=5 * n, partition=n % 2)
        for n, part in enumerate(parts)
    ]


# from a file to intervals


def test_every_interval_has_what_a_loop_over_its_readings_finds(store, tmp_path):
    readings = many()
    result = bring(
        store, csv(tmp_path, *(f"{r['device']},{r['tag']},{r['time']},{r['value']}" for r in readings))
    )
    expected = by_hand(readings)
    assert_frame_equal(table(store).select(expected.columns), expected, check_exact=False, rel_tol=1e-12)
    assert (result.read, result.accepted, result.quarantined, result.repeated) == (300, 300, 0, 0)
    assert result.changed == expected.height == table(store).height


def test_all_tags_of_a_device_are_in_one_shard(store, tmp_path):
    readings = [reading(f"d{n % 40}", f"t{n}", n, 1.0) for n in range(200)]
    capture_of(tmp_path / "raw", readings)
    bring(store, tmp_path / "raw")
    assert table(store).group_by("device").agg(pl.col("shard").n_unique())["shard"].unique().to_list() == [1]
    assert set(table(store)["shard"]) == {0, 1, 2}


@pytest.mark.slow
def test_a_run_opens_no_more_files_of_the_readings_however_often_they_came(store, tmp_path):
    for minute in range(2 * FILES_OF_A_PARTITION + 5):
        bring(store, csv(tmp_path, f"d1,t,{at(60 * minute)},{minute}"), shards=1)
    assert len(store.table("devices/readings").file_uris()) <= FILES_OF_A_PARTITION
    assert table(store)["mean"].to_list() == list(range(2 * FILES_OF_A_PARTITION + 5))
    assert store.scan("devices/readings", version=3).collect().height == 4


@pytest.mark.parametrize(("duplicates", "mean"), [(None, 2), ("average", 2), ("last", 3)])
def test_readings_of_one_time_all_count_unless_it_is_said_which(store, tmp_path, duplicates, mean):
    folder = csv(tmp_path, f"d,t,{at(0)},1", file="in/1.csv").parent
    csv(tmp_path, f"d,t,{at(0)},3", file="in/2.csv")
    bring(store, folder, duplicates=duplicates)
    assert table(store)["mean"].to_list() == [mean]
    with pytest.raises(ContractError, match=r"value is 1\.0 and 3\.0 in 1\.csv and 2\.csv"):
        bring(store, folder, duplicates="refuse")


def test_words_for_unknown_readings_refuse_no_file(store, tmp_path):
    values = ["1", "NA", "Bad", "2", "x"]
    source = csv(tmp_path, *(f"d,t,{at(60 * n)},{value}" for n, value in enumerate(values)))
    result = bring(store, source, max_bad_share=0.2)
    assert (result.accepted, result.rules) == (2, {"value_unknown": 2, "value_not_a_number": 1})


@pytest.mark.parametrize("later", [60, 5400])
def test_devices_that_look_like_those_of_earlier_readings_are_told_once(store, tmp_path, later):
    bring(store, csv(tmp_path, f"pump-1,t,{at(0)},1"))
    (note,) = bring(store, csv(tmp_path, f"Pump-1,t,{at(later)},1")).alike
    assert "'Pump-1' like 'pump-1'" in note
    assert bring(store, csv(tmp_path, f"Pump-1,t,{at(2 * later)},1")).alike == ()


def test_devices_whose_names_look_alike_are_told_and_not_refused(store, tmp_path):
    result = bring(store, csv(tmp_path, f"pump,t,{at(0)},1", f"Pump,t,{at(60)},2"))
    assert result.accepted == 2
    assert result.alike == ("readings: 2 of 2 values of 'device' look like others: 'Pump' like 'pump'.",)


def test_the_interval_is_settled_by_the_first_ingest(store, tmp_path):
    source = csv(tmp_path, *(f"d,t,{at(second)},{second}" for second in range(0, 600, 60)))
    bring(store, source, interval="5m")
    assert table(store)["count"].to_list() == [5, 5]
    assert bring(store, source).repeated == 10
    with pytest.raises(StoreError, match=r"interval 5m; 1m was requested.*--interval"):
        bring(store, source, interval="1m")


@pytest.mark.parametrize("interval", ["7m", "1d", "", "m", "0s", "1.5m"])
def test_an_interval_that_does_not_divide_an_hour_is_refused(store, tmp_path, interval):
    with pytest.raises(ContractError, match="--interval"):
        bring(store, csv(tmp_path, f"d,t,{at(0)},1"), interval=interval)
    assert not Path(store.uri).exists()


# time zones


def test_times_without_an_offset_are_refused_unless_it_is_said_what_they_are_in(store, tmp_path):
    source = csv(
        tmp_path, "d,t,2026-07-01 12:00:05.5,1", "d,t,2026-03-29 02:30:00,2", "d,t,2026-10-25 02:30:00,3"
    )
    now = datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(ContractError, match=r"time: times have no time zone.*--timezone"):
        bring(store, source, now=now)
    assert not Path(store.uri).exists()
    result = bring(store, source, timezone="Europe/Zurich", max_bad_share=0.7, now=now)
    assert table(store)["point_times"].explode().to_list() == [datetime(2026, 7, 1, 10, 0, 5, 500_000, UTC)]
    assert result.rules == {"time_unparsable": 2}


def test_every_way_to_write_an_offset_is_the_same_time(store, tmp_path):
    ways = [
        "2026-03-02T10:00:00Z",
        "2026-03-02 11:00:00+01:00",
        "2026-03-02T15:30:00.000+0530",
        "2026-03-02T10:00Z",
    ]
    bring(store, csv(tmp_path, *(f"d,t{n},{way},1" for n, way in enumerate(ways))))
    assert table(store)["time"].unique().to_list() == [START]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("Time, GMT+01:00", "2 Mar 2026 11:00:00 AM"),
        ("time [UTC]", "2026-03-02T10:00:00.000"),
        ("Time (UTC+5:30)", "02.03.2026 15:30"),
        ("time_gmt-3", "2026-03-02T12:00:00+02:00"),
    ],
)
def test_the_name_of_a_column_gives_the_offset_of_times_that_have_none(store, tmp_path, name, time):
    (tmp_path / "a.csv").write_text(f'device,tag,"{name}",value\nd,t,{time},1\n')
    bring(store, tmp_path / "a.csv", timezone="America/Lima", now=datetime(2027, 1, 1, tzinfo=UTC))
    assert table(store)["time"].to_list() == [START]


def test_parquet_times_with_a_zone_need_no_more_and_those_without_do(store, tmp_path):
    times = pl.Series("time", [START], dtype=pl.Datetime("ns", "UTC"))
    frame = pl.DataFrame(
        {"device": [1], "tag": [2], "time": times.dt.convert_time_zone("Asia/Tokyo"), "value": [3]}
    )
    frame.write_parquet(tmp_path / "a.parquet")
    bring(store, tmp_path / "a.parquet")
    assert table(store).select("device", "tag", "time", "last").row(0) == ("1", "2", START, 3.0)
    frame.with_columns(pl.col("time").dt.replace_time_zone(None)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(ContractError, match="--timezone"):
        bring(store, tmp_path / "b.parquet")


# what is bad


def test_each_bad_reading_is_in_quarantine_with_its_rule_and_all_others_are_counted(store, tmp_path):
    bad = {
        ",t,{0},1": "device_missing",
        "d,,{0},1": "tag_missing",
        "d,*,{0},1": "tag_reserved",
        "d,t,,1": "time_missing",
        "d,t,yesterday,1": "time_unparsable",
        "d,t,2026-03-02T13:06:00Z,1": "time_in_future",
        "d,t,{0},": "value_missing",
        "d,t,{0},high": "value_not_a_number",
        "d,t,{0},inf": "value_not_finite",
        "d,t,{0},101": "value_outside_limits",
    }
    good = [f"d,t,{at(n)},{n}" for n in range(30)]
    limits = pl.DataFrame({"tag": ["t"], "low": [None], "high": [100.0]})
    source = csv(tmp_path, *good, *(line.format(at(0)) for line in bad))
    result = bring(store, source, limits=limits, max_bad_share=0.3)
    assert result.rules == dict.fromkeys(sorted(bad.values()), 1)
    assert table(store)["count"].sum() == result.accepted == 30
    assert quarantine(store)["row_number"].sort().to_list() == list(range(31, 41))
    assert bring(store, source, limits=limits, max_bad_share=0.3).changed == 0
    assert quarantine(store).height == 10


def test_a_sensor_in_two_units_is_refused_and_two_sensors_where_the_unit_is_in_the_name(store, tmp_path):
    source = tmp_path / "a.csv"
    times = "d,temp,2026-03-02T08:0{}:00Z,20,{}\n"
    source.write_text("device,tag,time,value,Unit\n" + times.format(0, "°C") + times.format(1, "°F"))
    with pytest.raises(
        ContractError, match=r"'temp' of 'd' has readings in °C and in °F, by the column 'Unit'"
    ):
        bring(store, source)
    bring(store, source, mapping={"tag": "tag+Unit"})
    tags = store.scan("devices/readings").select("tag").sort("tag").collect()["tag"].to_list()
    assert tags == ["temp °C", "temp °F"]


def test_sensors_of_one_name_at_two_sites_are_refused_unless_the_site_is_in_the_name(store, tmp_path):
    lines = [
        f"{at(n)},pump,t,{n + 10 * k},{site}" for n in range(9) for k, site in enumerate(("north", "south"))
    ]
    source = csv(tmp_path, *lines, header="time,device,tag,value,site")
    with pytest.raises(
        ContractError, match=r"by the column 'site': north and south.*device=DEVICE_COLUMN.site"
    ):
        bring(store, source)
    bring(store, source, mapping={"device": "device+site"})
    assert table(store)["device"].unique().sort().to_list() == ["pump north", "pump south"]


@pytest.mark.parametrize("differ", [True, False])
def test_sensors_of_one_name_in_two_files_are_refused_unless_they_have_the_same_readings(
    store, tmp_path, differ
):
    for k, site in enumerate(("north", "south")):
        lines = [f"pump,t,{at(n)},{n + 10 * k * differ}" for n in range(9)]
        csv(tmp_path / "sites", *lines, f"{site},t,{at(0)},1", file=f"{site}.csv")
    if not differ:
        assert bring(store, tmp_path / "sites").accepted == 20
        return
    with pytest.raises(
        ContractError, match=r"'t' of 'pump' has .* in north.csv than in south.csv.*DEVICE_COLUMN\+@file"
    ):
        bring(store, tmp_path / "sites")
    bring(store, tmp_path / "sites", mapping={"device": "device+@file"})
    assert {"pump north", "pump south"} < {*table(store)["device"]}


def test_corrected_readings_in_a_later_file_are_of_one_sensor(store, tmp_path):
    for name, value in (("1", 1), ("2", 2)):
        lines = [f"pump,t,{at(n)},{value if n == 3 else 0}" for n in range(9)]
        csv(tmp_path / "files", *lines, file=f"{name}.csv")
    assert bring(store, tmp_path / "files").accepted == 18


def test_readings_of_one_second_are_of_one_sensor_if_a_column_numbers_them(store, tmp_path):
    lines = [f"{at(n // 2)},pump,t,{n},{n}" for n in range(18)]
    assert bring(store, csv(tmp_path, *lines, header="time,device,tag,value,n")).accepted == 18


def test_limits_of_a_device_are_for_that_device(store, tmp_path):
    limits = pl.DataFrame({"device": ["a", "b"], "tag": ["t", "t"], "low": [0, 10], "high": [None, 20]})
    lines = [
        f"{device},t,{at(n)},{value}" for n, (device, value) in enumerate([("a", 5), ("b", 5), ("c", -5)])
    ]
    result = bring(store, csv(tmp_path, *lines), limits=limits, max_bad_share=0.5)
    assert result.rules == {"value_outside_limits": 1}
    assert table(store)["device"].to_list() == ["a", "c"]


def test_a_reading_ahead_of_the_clock_is_kept_within_the_tolerance(store, tmp_path):
    ahead = NOW + timedelta(seconds=60)
    source = csv(tmp_path, f"d,t,{ahead.isoformat()},1", f"d,t,{at(0)},1")
    assert bring(store, source, tolerance_seconds=59, max_bad_share=0.5).rules == {"time_in_future": 1}
    assert bring(store, source, tolerance_seconds=60).quarantined == 0


def test_a_message_is_judged_by_when_it_was_enqueued_so_whenever_it_is_read(store, tmp_path):
    early = message(reading("d", "t", 600, 1.0), enqueued=START)
    fine = [message(reading("d", "t", n, 1.0), n, enqueued=START) for n in range(30)]
    put(tmp_path, [*fine, early])
    result = bring(store, tmp_path, now=NOW + timedelta(days=300))
    assert result.rules == {"time_in_future": 1}
    assert table(store)["count"].sum() == 30


def test_exact_duplicates_go_to_quarantine_and_never_stop_an_ingest(store, tmp_path):
    line = f"d,t,{at(0)},1"
    result = bring(store, csv(tmp_path, line, line, line, f"d,t,{at(0)},2"))
    assert result.rules == {"duplicate": 2}
    assert table(store).select("count", "mean").row(0) == (2, 1.5)


def test_a_tag_with_only_nulls_and_a_tag_with_one_reading(store, tmp_path):
    nulls = [f"d,empty,{at(n)}," for n in range(3)]
    result = bring(store, csv(tmp_path, *nulls, f"d,one,{at(0)},5"))
    assert result.rules == {"value_missing": 3}
    assert table(store).select("tag", "count", "mean", "std").rows() == [("one", 1, 5.0, None)]


def test_a_clock_that_jumps_back_fills_the_intervals_that_it_names(store, tmp_path):
    seconds = [0, 20, 40, 60, 10, 30, 50, 70]
    bring(store, csv(tmp_path, *(f"d,t,{at(s)},{n}" for n, s in enumerate(seconds))))
    assert table(store).select("count", "last").rows() == [(6, 6.0), (2, 7.0)]


def test_more_bad_readings_than_allowed_stop_before_anything_is_written(store, tmp_path):
    lines = [f"d,t,{at(n)},{n if n % 2 else 'x'}" for n in range(10)]
    with pytest.raises(
        ContractError, match=r"5 of 10 rows(.|\n)*value_not_a_number: 5(.|\n)*A unit(.|\n)*--max-bad-share"
    ):
        bring(store, csv(tmp_path, *lines))
    assert not Path(store.uri).exists()


def test_missing_columns_are_named_with_how_to_map_them(store, tmp_path):
    source = csv(tmp_path, "d,t,x,1", header="Device,Tag,TS,Value")
    with pytest.raises(SourceError, match=r"'time' is missing. Found: Device, Tag, TS, Value(.|\n)*--column"):
        bring(store, source)
    mapping = {"device": "Device", "tag": "Tag", "time": "TS", "value": "Value"}
    bring(store, csv(tmp_path, f"d,t,{at(0)},1", header="Device,Tag,TS,Value"), mapping=mapping)
    assert table(store).height == 1


# some rows at a time


@dataclass(frozen=True)
class Piecemeal(Devices):
    """Devices that are read and folded seven rows at a time."""

    @property
    def tables(self) -> dict[str, Table]:
        return {"readings": replace(TABLES["readings"], rows_at_a_time=7)}


def test_the_table_is_the_same_when_it_is_read_and_folded_some_rows_at_a_time(store, tmp_path):
    readings = many(200)
    lines = [f"{r['device']},{r['tag']},{r['time']},{r['value']}" for r in readings]
    lines += lines[:20] + [f"d,t,{at(0)},1x"] * 2
    source = csv(tmp_path, *lines)
    whole, pieces = Store(f"{store.uri}/whole"), Store(f"{store.uri}/pieces")
    one = bring(whole, source)
    other = bring(pieces, source, scenario=Piecemeal())
    assert_frame_equal(table(whole), table(pieces))
    assert (one.quarantined, one.repeated) == (22, 0)
    assert other.read == one.read
    assert other.accepted - other.repeated == one.accepted
    assert bring(pieces, source, scenario=Piecemeal()).changed == 0


def test_words_of_a_tag_are_states_and_texts_are_left_out_and_stop_no_ingest(store, tmp_path):
    states = ["IDLE", "on", "Not ready"]
    rows = [f"d,{tag},2024-01-01T00:{minute:02}:00Z,{value}" for minute in range(30) for tag, value in
            (("t", minute), ("door", states[minute % 3]), ("valve", "TRUE"), ("log", f"message {minute}"),
             ("lost", ("BAD", "unavailable")[minute % 2]))]  # fmt: skip
    (tmp_path / "a.csv").write_text("device,tag,time,value\n" + "\n".join(rows))
    (result,) = ingest.fn(DEVICES, store, {"readings": str(tmp_path / "a.csv")}, {}, 4, 0.05)
    assert (result.accepted, result.rules) == (90, {"tag_of_words": 60})
    means = table(store).filter(tag="door").sort("time")["mean"].to_list()[:3]
    assert [word_of(means[0]), means[1], word_of(means[2])] == ["idle", 1.0, "notre…"]


def test_messages_in_quarantine_are_read_again_with_another_mapping_and_leave_it(store, tmp_path):
    old = [message({**reading("d1", "t", n, 1.0), "wrong": None}, n) for n in range(200)]
    new = [message({"device": "d2", "tag": "t", "time": at(n), "val": 2.0}, 1000 + n) for n in range(50)]
    put(tmp_path, old + new[:1])
    put(tmp_path, [*new[1:], message(b"no JSON", 2000)], minute=5)
    first = bring(store, tmp_path, max_bad_share=0.5)
    assert (first.quarantined, first.files, quarantine(store).height) == (51, 2, 51)
    assert bring(store, tmp_path, mapping={"value": "val"}, max_bad_share=0.5).files == 0
    again = bring(store, tmp_path, mapping={"value": "val"}, again=True)
    assert (again.files, again.released) == (2, 50)
    assert "no JSON" in quarantine(store)["row"].str.join().item()
    counts = dict(table(store).group_by("device").agg(pl.col("count").sum()).iter_rows())
    assert counts == {"d1": 200, "d2": 50}
    assert bring(store, tmp_path, max_bad_share=1.0, again=True).released == 0


def test_messages_that_all_lack_a_mapped_member_are_refused_and_read_with_the_right_mapping(store, tmp_path):
    first = tmp_path / "first.jsonl"
    hub = {"EnqueuedTimeUtc": "2024-01-01T00:00:00Z", "SystemProperties": {}}
    body = {"device": "d", "tag": "t", "time": "2024-01-01T00:00:00Z", "value": 1}
    other = {"id": "d", "sensor": "t", "at": "2024-01-01T00:01:00Z", "val": 2}
    first.write_text(json.dumps({**hub, "Body": body}))
    ingest.fn(DEVICES, store, {"readings": str(first)}, {}, 4, 0.05)
    second = tmp_path / "second.jsonl"
    second.write_text(json.dumps({**hub, "Body": other}))
    with pytest.raises(ContractError, match=r"body\|lacks device"):
        ingest.fn(DEVICES, store, {"readings": str(second)}, {}, 4, 0.05)
    mapping = {"device": "id", "tag": "sensor", "time": "at", "value": "val"}
    (result,) = ingest.fn(DEVICES, store, {"readings": str(second)}, mapping, 4, 0.05)
    assert (result.accepted, result.files) == (1, 1)


def test_a_list_of_messages_is_read_and_what_is_no_message_goes_to_quarantine(store, tmp_path):
    hub = {"EnqueuedTimeUtc": "2024-01-01T00:00:00Z", "SystemProperties": {}}
    body = {"device": "d", "tag": "t", "time": "2024-01-01T00:00:00Z", "value": 1}
    content = [*({**hub, "Body": {**body, "value": n}} for n in range(30)), 7, {**hub, "Body": 7}]
    (tmp_path / "list.json").write_text(json.dumps(content, indent=1))
    result = bring(store, tmp_path / "list.json", max_bad_share=0.1)
    assert (result.accepted, result.rules) == (30, {"body|object": 2})


@pytest.mark.parametrize(
    ("name", "words", "accepted"),
    [
        ("TagQuality", ["Good", "Bad", "Uncertain"], 2),
        ("StatusCode", ["Good", "BadNoData", "BAD"], 1),
        ("OPCQuality", [192, 24, 64], 2),
        ("StatusCode", ["0x00000000", "0x80340000", "0x40000000"], 2),
        ("status_code", [0, 2147483648, -2147483647], 1),
        ("link_quality", [250, 0, 193], 3),
    ],
)
def test_readings_that_their_source_calls_bad_do_not_count(store, tmp_path, name, words, accepted):
    rows = "\n".join(f"d,t,{at(60 * n)},1,{word}" for n, word in enumerate(words))
    (tmp_path / "a.csv").write_text(f"device,tag,time,value,{name}\n{rows}\n")
    result = bring(store, tmp_path / "a.csv")
    assert (result.accepted, result.rules.get("quality_bad", 0)) == (accepted, 3 - accepted)
