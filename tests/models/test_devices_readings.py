"""Raw readings: the contract, and intervals that late and repeated readings leave as a single pass would have made them."""

import math
import statistics
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.devices.aggregation import aggregate, interval_of, merge, points, unfold
from models.devices.contracts import Readings, check_raw, utc
from models.errors import ContractError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = datetime(2026, 3, 1, 10, tzinfo=UTC)


def raw(*rows):
    return pl.DataFrame(rows, schema=["device", "tag", "time", "value"], orient="row")


def checked(*rows, **options):
    return check_raw(raw(*rows), NOW, **options)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ((None, "a", "2026-03-01T10:00:00Z", "1"), "device_missing"),
        ((" ", "a", "2026-03-01T10:00:00Z", "1"), "device_missing"),
        (("d", "", "2026-03-01T10:00:00Z", "1"), "tag_missing"),
        (("d", "*", "2026-03-01T10:00:00Z", "1"), "tag_reserved"),
        (("3.56938E+14", "a", "2026-03-01T10:00:00Z", "1"), "digits_lost"),
        (("NULL", "a", "2026-03-01T10:00:00Z", "1"), "no_name"),
        (("d", "a", None, "1"), "time_missing"),
        (("d", "a", "yesterday", "1"), "time_unparsable"),
        (("d", "a", "2026-03-01T12:06:00Z", "1"), "time_in_future"),
        (("d", "a", "2026-03-01T10:00:00Z", None), "value_missing"),
        (("d", "a", "2026-03-01T10:00:00Z", " "), "value_missing"),
        (("d", "a", "2026-03-01T10:00:00Z", "12 bar"), "value_not_a_number"),
        (("d", "a", "2026-03-01T10:00:00Z", "NaN"), "value_not_finite"),
        (("d", "a", "2026-03-01T10:00:00Z", "-inf"), "value_not_finite"),
        (("d", "a", "2026-03-01T10:00:00Z", "101"), "value_outside_limits"),
    ],
)
def test_a_bad_reading_is_refused_with_the_rule_it_breaks_and_good_ones_beside_it_are_kept(row, rule):
    limits = pl.DataFrame(
        {"tag": ["a"], "low": [None], "high": [100.0]}, schema_overrides={"low": pl.Float64}
    )
    good = ("d", "a", "2026-03-01T12:04:00Z", "100")
    result = checked(good, row, limits=limits)
    assert result.bad["rule"].to_list() == [rule]
    assert result.bad.drop("rule").row(0) == row
    assert result.good.select("device", "tag", "value").rows() == [("d", "a", 100.0)]


def test_the_second_of_two_equal_readings_is_a_duplicate_and_a_bad_reading_is_never_one():
    good = ("d", "a", "2026-03-01T10:00:00Z", "1")
    bad = ("d", "a", "2026-03-01T10:00:00Z", "x")
    same = ("d", "a", "2026-03-01T11:00:00+01:00", "1.0")
    result = checked(good, bad, same, bad)
    assert result.good.height == 1
    assert result.bad["rule"].to_list() == ["value_not_a_number", "duplicate", "value_not_a_number"]


def test_a_tag_with_only_nulls_is_refused_whole_and_nothing_fails():
    result = check_raw(raw(("d", "a", START, None), ("d", "a", NOW, None)), NOW)
    assert result.good.is_empty()
    assert result.bad["rule"].to_list() == ["value_missing", "value_missing"]


def test_times_without_a_zone_are_an_error_that_says_how_to_name_it():
    with pytest.raises(ContractError, match=r"no time zone.*--timezone"):
        checked(("d", "a", "2026-03-01 10:00:00", "1"))
    with pytest.raises(ContractError, match="Europe/Nowhere"):
        checked(("d", "a", "2026-03-01 10:00:00", "1"), timezone="Europe/Nowhere")


def test_local_times_become_utc_and_the_hour_that_comes_twice_is_not_guessed():
    times = pl.Series(["2025-07-01 12:00", "2025-10-26 02:30:00", "2025-07-01T12:00:00Z", None])
    moments = utc(times, "Europe/Zurich").to_list()
    assert moments == [datetime(2025, 7, 1, 10, tzinfo=UTC), None, datetime(2025, 7, 1, 12, tzinfo=UTC), None]


def test_a_missing_column_is_named_with_what_was_found():
    with pytest.raises(ContractError, match=r"'value' is missing. Found: device, tag, time"):
        check_raw(raw(("d", "a", START, 1.0)).drop("value"), NOW)


@pytest.mark.parametrize("text", ["7m", "0m", "1d", "m", "90m", "1.5m", ""])
def test_an_interval_that_does_not_divide_an_hour_is_refused(text):
    with pytest.raises(ContractError, match="--interval"):
        interval_of(text)


reading = st.tuples(
    st.sampled_from(["d1", "d2"]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 400).map(lambda seconds: START + timedelta(seconds=seconds)),
    st.floats(-1e6, 1e6, allow_nan=False),
)
MINUTE = timedelta(minutes=1)


def as_points(readings):
    schema = {"device": pl.String, "tag": pl.String, "time": pl.Datetime("us", "UTC"), "value": pl.Float64}
    return points(pl.DataFrame(readings, schema=schema, orient="row"), MINUTE)


@settings(max_examples=40)
@given(st.lists(reading, max_size=40))
def test_intervals_hold_what_a_loop_over_the_distinct_readings_finds(readings):
    intervals = aggregate(as_points(readings))
    groups = {}
    for device, tag, at, value in set(readings):
        groups.setdefault((device, tag, at.replace(second=0)), []).append((at, value))
    assert intervals.select("device", "tag", "time").rows() == sorted(groups)
    for row in intervals.iter_rows(named=True):
        members = sorted(groups[row["device"], row["tag"], row["time"]])
        values = [value for _, value in members]
        assert row["count"] == len(values)
        assert row["mean"] == pytest.approx(math.fsum(values) / len(values), rel=1e-12, abs=1e-9)
        assert (row["min"], row["max"], row["last"]) == (min(values), max(values), values[-1])
        if len(values) == 1:
            assert row["std"] is None
        else:
            assert row["std"] == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)


@settings(max_examples=40)
@given(st.lists(reading, max_size=30), st.lists(st.integers(0, 3), min_size=30, max_size=30), st.randoms())
def test_readings_in_any_order_in_any_files_some_twice_give_the_table_of_a_single_pass(
    readings, files, random
):
    once = aggregate(as_points(readings))
    intervals = aggregate(as_points([]))
    parts = [[r for r, f in zip(readings, files, strict=False) if f == number] for number in range(4)]
    parts.append(random.sample(readings, k=len(readings) // 2))
    random.shuffle(parts)
    for part in parts:
        random.shuffle(part)
        merged = merge(intervals, as_points(part)).readings
        rest = intervals.join(merged, on=["device", "tag", "time"], how="anti")
        intervals = pl.concat([rest, merged]).sort("device", "tag", "time")
    assert intervals.equals(once)


def test_a_repeated_reading_changes_no_interval_and_is_counted():
    new = as_points([("d", "a", START, 1.0), ("d", "a", START, 2.0)])
    intervals = aggregate(new)
    again = merge(intervals, new[:1])
    assert again.readings.is_empty()
    assert again.duplicates.height == 1
    assert again.too_late.is_empty()
    assert intervals["last"].to_list() == [2.0]


def without_points(readings: pl.DataFrame, before: datetime) -> pl.DataFrame:
    """`readings` of which those of intervals before this time came aggregated."""
    has_points = pl.col("time") >= before
    lists = ("point_times", "point_values")
    return readings.with_columns(pl.when(has_points).then(pl.col(name)).alias(name) for name in lists)


def test_a_reading_for_an_interval_that_came_aggregated_is_too_late_and_changes_nothing():
    intervals = aggregate(as_points([("d", "a", START, 1.0), ("d", "a", START + MINUTE, 2.0)]))
    old = without_points(intervals, START + MINUTE)
    late = as_points([("d", "a", START + timedelta(seconds=5), 9.0), ("d", "a", START + MINUTE * 1.5, 4.0)])
    result = merge(old, late)
    assert result.too_late["value"].to_list() == [9.0]
    assert result.readings["mean"].to_list() == [3.0]
    assert old["mean"].to_list() == intervals["mean"].to_list()


def test_aggregated_readings_fulfil_their_contract_and_unfold_into_their_points():
    new = as_points([("d", "a", START + timedelta(seconds=7 * i), 0.1 * i) for i in range(50)])
    table = aggregate(new)
    assert Readings.is_valid(table)
    assert unfold(table).equals(new)


def test_one_reading_makes_one_interval():
    table = aggregate(as_points([("d", "a", START, 5.0)]))
    assert table.select("count", "mean", "std", "last").rows() == [(1, 5.0, None, 5.0)]


def test_a_clock_that_jumps_back_only_adds_to_earlier_intervals():
    forward = [("d", "a", START + timedelta(seconds=10 * i), float(i)) for i in range(12)]
    back = [("d", "a", START + timedelta(seconds=10 * i + 3), 100.0 + i) for i in range(6)]
    merged = merge(aggregate(as_points(forward)), as_points(back)).readings
    assert merged["time"].to_list() == [START]
    assert merged["count"].to_list() == [12]
    assert merged["last"].to_list() == [105.0]


def test_a_direction_that_passes_north_has_the_mean_of_the_shorter_way_round_and_other_tags_do_not():
    values = [350.0, 358.0, 4.0, 12.0]
    times = [START + n * timedelta(seconds=10) for n in range(4)]
    raw = pl.concat(
        pl.DataFrame({"device": "d", "tag": tag, "time": times, "value": values})
        for tag in ("Wind_Dir", "voltage", "directory")
    )
    intervals = aggregate(points(raw, timedelta(minutes=1)))
    assert dict(intervals.select("tag", "mean").iter_rows()) == pytest.approx(
        {"Wind_Dir": 1.0, "voltage": 181.0, "directory": 181.0}
    )
    assert intervals.filter(tag="Wind_Dir")["std"].item() == pytest.approx(statistics.stdev([-10, -2, 4, 12]))
    south = raw.filter(tag="Wind_Dir").with_columns(value=pl.Series([170.0, 180.0, 190.0, 200.0]))
    assert aggregate(points(south, timedelta(minutes=1)))["mean"].to_list() == [185.0]
