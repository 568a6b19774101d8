"""What a store's input tables hold, according to their logs."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import polars as pl
import pytest
from deltalake import DeltaTable

from tasks.ingest.status import freshness, quarantined, table_status
from tests import steps, toy
from tests.toy import HOURLY, TOY

pytestmark = pytest.mark.usefixtures("without_run_logger")
VALUES = TOY.tables["values"]


def test_rows_keys_range_and_version_are_those_of_the_table(store):
    steps.put(store)
    steps.put(store, toy.values(names=14, days=5))
    status = table_status(TOY, store, VALUES)
    rows = store.scan("toy/values").collect()
    assert (status.rows, status.keys) == (rows.height, rows["name"].n_unique()) == (70, 14)
    assert (status.first, status.last) == (date(2024, 1, 1), date(2024, 1, 5))
    assert status.version == 1
    assert datetime.now(UTC) - status.written < timedelta(minutes=1)


def test_a_table_that_does_not_exist_is_none(store):
    assert table_status(TOY, store, VALUES) is None


def test_the_range_is_read_from_the_rows_where_the_log_does_not_tell_it(store, monkeypatch):
    steps.put(store)
    whole = DeltaTable.get_add_actions

    def without_statistics(table, *, flatten=False):
        log = pl.DataFrame(whole(table, flatten=flatten))
        return log.with_columns(pl.lit(None).alias(c) for c in log.columns if c.startswith("min."))

    monkeypatch.setattr(DeltaTable, "get_add_actions", without_statistics)
    status = table_status(TOY, store, VALUES)
    assert (status.first, status.last) == (date(2024, 1, 1), date(2024, 1, 3))


def test_compacting_is_not_taken_for_new_rows(store):
    steps.put(store)
    first_time = table_status(TOY, store, VALUES).written
    steps.put(store, toy.values(days=4))
    after_ingest = table_status(TOY, store, VALUES)
    store.table("toy/values").optimize.compact()
    status = table_status(TOY, store, VALUES)
    assert status.version > after_ingest.version
    assert first_time < status.written == after_ingest.written
    assert status.rows == after_ingest.rows


@pytest.mark.parametrize(
    ("last", "age", "fresh"),
    [
        (date(2024, 1, 3), 36.0, True),
        (date(2024, 1, 2), 60.0, False),
        (date(2024, 1, 6), -36.0, True),
        (datetime(2024, 1, 3, 12, tzinfo=UTC), 24.0, True),
        (None, None, None),
    ],
)
def test_data_is_fresh_for_two_cadences(last, age, fresh):
    daily = SimpleNamespace(tables={"values": VALUES}, cadence=timedelta(days=1))
    status = SimpleNamespace(table="values", last=last)
    assert freshness(daily, [status], datetime(2024, 1, 4, 12, tzinfo=UTC)) == (age, fresh)


def test_without_a_cadence_nothing_is_late(store):
    steps.put(store, toy.hourly_values(), HOURLY)
    status = table_status(HOURLY, store, HOURLY.tables["values"])
    age, fresh = freshness(HOURLY, [status], datetime(2018, 8, 30, 3, tzinfo=UTC))
    assert (age, fresh) == (24.0, None)


def test_quarantine_is_told_by_rule_with_an_example(store):
    assert quarantined(store, "toy") == []
    bad = toy.values().with_columns(
        pl.when(pl.col("name").is_in(["n01", "n02"])).then(-1.0).otherwise("value").alias("value"),
        pl.when(pl.col("name") == "n03").then(pl.lit("")).otherwise("name").alias("name"),
    )
    source = f"{store.uri}-bad.parquet"
    bad.write_parquet(source)
    steps.read(store, "values", source, TOY, max_bad_share=0.5)
    lines = quarantined(store, "toy")
    assert lines[0] | {"table": "toy/values", "rows": 6, "sources": 1} == lines[0]
    assert "value" in lines[0]["rule"]
    assert lines[0]["example"].startswith("store-bad.parquet, row ")
    assert "-1.0" in lines[0]["example"]
    assert sum(line["rows"] for line in lines) == 9
