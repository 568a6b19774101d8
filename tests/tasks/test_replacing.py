"""Rows that are removed: those that a file with all rows of its time lacks, and those that were corrected."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.errors import ContractError
from models.machines.scenario import MACHINES
from models.sales import SALES
from tasks.ingest.sources import SourceError
from tasks.storage.store import Store
from tests.capture_files import message, put, reading
from tests.steps import read

pytestmark = pytest.mark.usefixtures("without_run_logger")

START = datetime(2024, 3, 1, tzinfo=UTC)
MONDAY = date(2024, 1, 1)
HISTORY, FAILURES, READINGS = "sales/history", "machines/failures", "devices/readings"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def sales(*, weeks: range, skus: tuple[str, ...] = ("a", "b"), units: float = 3.0) -> pl.DataFrame:
    rows = [(sku, "S", MONDAY + timedelta(weeks=week), units) for sku in skus for week in weeks]
    return pl.DataFrame(rows, schema=["sku", "store", "week", "units"], orient="row")


def failures(*rows: tuple[str, float, str]) -> pl.DataFrame:
    return pl.DataFrame(
        [(machine, START + timedelta(hours=hour), component) for machine, hour, component in rows],
        schema=["machine_id", "time", "component"],
        orient="row",
    )


def bring(store, frame: pl.DataFrame, scenario=SALES, table: str = "history", **options):
    source = store.uri + f"-{table}.csv"
    frame.write_csv(source)
    return read(store, table, source, scenario, None, timezone="UTC", **options)


def stored(store, name: str) -> pl.DataFrame:
    return store.scan(name).collect().drop("shard", strict=False)


def test_with_replace_a_row_that_cannot_be_read_removes_nothing(store):
    bring(store, sales(weeks=range(50)))
    broken = sales(weeks=range(50)).with_columns(pl.col("units").cast(pl.String))
    broken[3, "units"] = "?"
    with pytest.raises(
        ContractError, match=r"1 of 100 rows .* 0\.0% are allowed(.*\n)*.*leave --replace out"
    ):
        bring(store, broken, replace=True)
    assert stored(store, HISTORY).height == 100
    assert bring(store, broken).quarantined == 1


def test_with_replace_rows_of_the_time_of_a_file_that_it_lacks_are_removed_and_counted(store):
    bring(store, sales(weeks=range(10)))
    one = sales(weeks=range(3, 6), skus=("a",), units=4.0)
    assert bring(store, one, replace=True, dry_run=True).removed == 3
    assert stored(store, HISTORY).height == 20
    result = bring(store, one, replace=True)
    assert (result.changed, result.removed) == (3, 3)
    rows = stored(store, HISTORY)
    inside = rows.filter(pl.col("week").is_between(one["week"].min(), one["week"].max()))
    assert inside.sort("week")["units"].to_list() == [4.0] * 3
    assert rows.height == 20 - 3


def test_a_file_that_replaces_changes_nothing_the_second_time(store):
    bring(store, sales(weeks=range(10)))
    one = sales(weeks=range(5), skus=("b", "c"))
    bring(store, one, replace=True)
    version = store.version(HISTORY)
    result = bring(store, one, replace=True)
    assert (result.changed, result.removed, result.repeated) == (0, 0, 10)
    assert store.version(HISTORY) == version


def test_without_replace_nothing_of_sales_is_removed(store):
    bring(store, sales(weeks=range(10)))
    assert bring(store, sales(weeks=range(10), skus=("a",))).removed == 0
    assert stored(store, HISTORY).height == 20


def test_a_table_without_times_is_replaced_as_a_whole(store):
    bring(store, sales(weeks=range(4)))
    bring(store, pl.DataFrame({"store": ["S", "T"], "size": [1.0, 2.0]}), table="stores")
    result = bring(store, pl.DataFrame({"store": ["S"], "size": [1.0]}), table="stores", replace=True)
    assert (result.changed, result.removed) == (0, 1)
    assert stored(store, "sales/stores")["store"].to_list() == ["S"]


def test_readings_of_an_interval_are_replaced_and_not_merged(store):
    def readings(*values: tuple[int, float]) -> pl.DataFrame:
        rows = [("d", "t", START + timedelta(seconds=second), value) for second, value in values]
        return pl.DataFrame(rows, schema=["device", "tag", "time", "value"], orient="row")

    options = {"interval": "1m", "now": START + timedelta(hours=1)}
    bring(store, readings((0, 1.0), (30, 3.0), (60, 5.0), (120, 7.0)), DEVICES, "readings", **options)
    result = bring(store, readings((30, 4.0), (120, 7.0)), DEVICES, "readings", replace=True, **options)
    assert (result.changed, result.repeated, result.removed) == (1, 1, 1)
    remaining = stored(store, READINGS).sort("time")
    assert remaining["point_values"].to_list() == [[4.0], [7.0]]


def test_a_capture_cannot_replace(store, tmp_path):
    source = put(tmp_path / "capture", [message(reading("d", "t", 0, 1.0))])
    with pytest.raises(SourceError, match=r"is a capture.*Leave --replace out"):
        read(store, "readings", str(source), DEVICES, None, interval="1m", replace=True)


LOG = [("m", 100.0 * i, "pump") for i in range(10)] + [("n", 100.0 * i + 7, "pump") for i in range(10)]


def test_a_failure_that_was_moved_or_reclassified_does_not_stay_beside_its_correction(store):
    bring(store, failures(*LOG), MACHINES, "failures")
    corrected = [("m", 0.0, "valve"), *LOG[1:4], ("m", 398.0, "pump"), *LOG[5:]]
    result = bring(store, failures(*corrected), MACHINES, "failures")
    assert (result.changed, result.removed) == (2, 2)
    assert sorted(stored(store, FAILURES).rows()) == sorted(failures(*corrected).rows())


@pytest.mark.parametrize(
    "file",
    [
        [("m", 5.0, "valve")],
        [("m", 5.0, "valve"), ("m", 905.0, "valve"), ("n", 8.0, "valve")],
        [*LOG[:4], *LOG[5:]],
        [*LOG[:4], *LOG[5:], ("m", 450.0, "pump")],
    ],
    ids=[
        "a new one",
        "those of another component",
        "one is lacking",
        "lacking, and a new one two days later",
    ],
)
def test_failures_that_a_file_lacks_stay_where_it_has_no_correction_of_them(store, file):
    bring(store, failures(*LOG), MACHINES, "failures")
    assert bring(store, failures(*file), MACHINES, "failures").removed == 0
    assert set(failures(*LOG).rows()) <= set(stored(store, FAILURES).rows())
