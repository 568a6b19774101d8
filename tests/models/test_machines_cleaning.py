"""Machines, components, times and readings are the same however a source writes them."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from models.contracts import COLUMNS, FILE, ROW
from models.machines.cleaning import tidy_rows
from models.machines.contracts import TABLES


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0", "1"), (" 7 ", "7"), ("07.00", "07"), ("1.5", "1.5"), ("pump-1.0", "pump-1.0"), ("1.10", "1.10")],
)
def test_only_a_whole_number_with_decimals_is_written_shorter(text, expected):
    assert tidy_rows(pl.DataFrame({"machine_id": [text]}))["machine_id"].to_list() == [expected]


def test_ids_of_a_column_with_a_gap_meet_those_of_one_without():
    floats, integers = pl.DataFrame({"machine_id": [3.0, None]}), pl.DataFrame({"machine_id": [3, 4]})
    assert tidy_rows(floats)["machine_id"].to_list() == ["3", None]
    assert tidy_rows(integers)["machine_id"].to_list() == ["3", "4"]


def test_components_differ_neither_by_case_nor_by_blanks_and_errors_only_by_more():
    raw = pl.DataFrame({"component": ["Oil  Pump ", "oil pump"], "error": [" E 1", "e 1"]})
    assert tidy_rows(raw).rows() == [("oil pump", "E 1"), ("oil pump", "e 1")]


def test_a_date_is_its_midnight_whatever_its_type():
    midnight = datetime(2024, 2, 29, tzinfo=UTC)
    for time in (["2024-02-29"], [" 2024-02-29 "], [date(2024, 2, 29)]):
        raw = pl.DataFrame({ROW: [1], "machine_id": ["a"], "time": time, "component": ["pump"]})
        result = TABLES["failures"].accept(raw.with_columns(pl.col(ROW).cast(pl.UInt32)), {"timezone": "UTC"})
        assert result.good["time"].to_list() == [midnight]


def test_a_reading_that_is_no_number_is_missing_and_the_others_of_the_row_stay():
    raw = pl.DataFrame({"vib": [float("nan"), float("inf"), 1.0], "temp": [20.0, 21.0, 22.0]})
    assert tidy_rows(raw).rows() == [(None, 20.0), (None, 21.0), (1.0, 22.0)]


def test_events_that_are_there_twice_do_not_count_where_sources_are_refused():
    for name in ("errors", "maintenance", "failures"):
        table = TABLES[name]
        columns = {c: ["x", "x"] for c in table.schema.column_names() if c != "time"}
        raw = pl.DataFrame({**columns, "time": ["2024-01-01 00:00:00"] * 2}).with_row_index(ROW, offset=1)
        result = table.accept(raw, {"timezone": "UTC"})
        file = pl.DataFrame(
            {ROW: pl.Series([0], dtype=pl.UInt32), FILE: "a.csv", COLUMNS: [result.good.columns]}
        )
        assert table.one_of_each(result.good.with_row_index(ROW), file, {}).height == 1
        assert result.bad.is_empty()
