"""Housekeeping on small real tables; the dates of the tables' logs and files are set back."""

import json
import os
import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from tasks.housekeeping.retention import (
    check_store,
    expire_pages,
    expire_runs,
    recorded_versions,
    scenarios,
    tables,
    tidy_table,
)
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tests import steps
from tests.toy import values

pytestmark = pytest.mark.usefixtures("without_run_logger")

RETENTION = 30
VALUES = "toy/values"


def now() -> datetime:
    return datetime.now(UTC)


def age(store: Store, days: float) -> None:
    """Make everything in a store `days` older: the commits of all tables, and all files."""
    for path in Path(store.uri).rglob("*"):
        if not path.is_file():
            continue
        moment = path.stat().st_mtime - days * 86400
        if path.parent.name == "_delta_log" and path.suffix == ".json":
            shifted = re.sub(
                r'("(?:timestamp|modificationTime|deletionTimestamp)":)(\d+)',
                lambda m: m[1] + str(int(m[2]) - int(days * 86400_000)),
                path.read_text(),
            )
            path.write_text(shifted)
        os.utime(path, (moment, moment))


def age_ledger(store: Store, days: float) -> None:
    """Move the end of every run in the ledger back by `days`."""
    frame = store.scan("ledger").with_columns(pl.col("ended") - timedelta(days=days)).collect()
    write_deltalake(store.uri_of("ledger"), frame, mode="overwrite")


def tidy(store: Store, name: str = VALUES, *, dry_run: bool = False, days: int = RETENTION):
    return tidy_table.fn(store, name, days, now(), dry_run=dry_run)


def add(store: Store, day: int, names: int = 12) -> None:
    """Ingest the values of one further day: a version of the table, with a file per shard."""
    start = date(2024, 1, 1) + timedelta(days=day)
    steps.put(store, values(names, 1, start))


def on_disk(store: Store, name: str = VALUES) -> set[str]:
    folder = Path(store.uri_of(name))
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts
    }


@pytest.fixture
def grown(store) -> Store:
    """A table of ten commits with four files each."""
    for day in range(11):
        add(store, day)
    return store


def test_all_tables_of_a_store_are_found(store):
    steps.put(store)
    steps.train(store)
    steps.score(store)
    assert tables.fn(store) == ["ledger", "toy/backtests", "toy/doubled", "toy/registry", VALUES]
    assert scenarios(store) == ["toy"]


def test_a_store_without_anything_is_an_address_that_is_wrong(store):
    with pytest.raises(StoreError, match="there is nothing in this store"):
        check_store(store)


def test_many_small_files_become_few_with_the_same_rows(grown):
    before = grown.scan(VALUES).sort("name", "at").collect()
    assert tidy(grown).compacted == 44
    assert grown.table(VALUES).file_uris().__len__() == 4
    assert grown.scan(VALUES).sort("name", "at").collect().equals(before)
    assert tidy(grown).compacted == 0


def test_a_dry_run_says_the_same_and_changes_nothing(grown):
    tidy(grown)
    add(grown, 20)
    age(grown, RETENTION + 1)
    version, files = grown.version(VALUES), on_disk(grown)
    preview = tidy(grown, dry_run=True)
    assert preview.removed == 44
    assert (grown.version(VALUES), on_disk(grown)) == (version, files)
    result = tidy(grown)
    assert (result.compacted, result.removed) == (preview.compacted, preview.removed)
    assert len(on_disk(grown)) == len(files) - 44


def test_a_version_that_was_newest_within_the_retention_stays_readable(grown):
    before = grown.version(VALUES)
    rows = grown.scan(VALUES, before).collect().height
    age(grown, RETENTION + 1)
    assert tidy(grown).compacted == 44
    assert tidy(grown).removed == 0
    assert grown.scan(VALUES, before).collect().height == rows
    age(grown, RETENTION + 1)
    assert tidy(grown).removed == 44
    with pytest.raises(Exception, match=r"not found|No such file"):
        grown.scan(VALUES, before).collect()


def test_a_version_that_a_run_of_the_retention_has_read_stays_readable_however_old_it_is(grown):
    steps.train(grown, date(2024, 1, 3))
    steps.score(grown, date(2024, 1, 11))
    version = grown.version(VALUES)
    rows = grown.scan(VALUES, version).sort("name", "at").collect()
    tidy(grown)
    age(grown, RETENTION + 1)
    assert recorded_versions(grown, VALUES, now() - timedelta(days=RETENTION)) == [version]
    result = tidy(grown)
    assert (result.kept, result.removed) == ([version], 0)
    assert grown.scan(VALUES, version).sort("name", "at").collect().equals(rows)
    age_ledger(grown, RETENTION + 1)
    assert tidy(grown).removed == 44


def test_files_of_a_run_that_is_not_published_yet_stay_and_old_ones_go(grown):
    steps.train(grown, date(2024, 1, 3))
    steps.score(grown, date(2024, 1, 4))
    run = steps.resolve(grown, date(2024, 1, 5))
    parts = steps.outcomes(run)
    assert tidy(grown, "toy/doubled").removed == 0
    assert steps.commit(run, parts).rows == 12
    other = steps.resolve(grown, date(2024, 1, 6))
    steps.outcomes(other)
    age(grown, RETENTION + 1)
    assert tidy(grown, "toy/doubled").removed == 4
    assert steps.published(grown).height == 24


def test_partitions_within_the_retention_are_left_so_that_a_repeated_run_finds_its_files(store):
    table = store.uri_of("toy/doubled")
    old, recent = date(2020, 1, 1), now().date()
    for number in range(12):
        frame = pl.DataFrame({"value": [number, number], "as_of": [old, recent]})
        write_deltalake(table, frame, mode="append", partition_by=["as_of"])
    assert tidy(store, "toy/doubled", dry_run=True).compacted == 12
    assert tidy(store, "toy/doubled").compacted == 12
    names = [uri.split("as_of=")[1].split("/")[0] for uri in store.table("toy/doubled").file_uris()]
    assert (names.count(old.isoformat()), names.count(recent.isoformat())) == (1, 12)


def test_moments_are_partitions_too(store):
    moment = datetime(2020, 1, 1, 5, tzinfo=UTC)
    for number in range(12):
        frame = pl.DataFrame({"value": [number], "as_of": [moment]})
        write_deltalake(store.uri_of("toy/doubled"), frame, mode="append", partition_by=["as_of"])
    assert tidy(store, "toy/doubled").compacted == 12
    assert store.scan("toy/doubled").collect().height == 12


def test_the_log_is_kept_as_long_as_the_files(grown):
    tidy(grown, days=90)
    assert grown.table(VALUES).metadata().configuration["delta.logRetentionDuration"] == "interval 90 days"
    version = grown.version(VALUES)
    tidy(grown, days=90)
    assert grown.version(VALUES) == version


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ("not today\nand more", "^OSError: not today$"),
        (
            "Generic LocalFileSystem error\nRead-only file system (os error 30)",
            "Mount it writable and run it again",
        ),
    ],
)
def test_a_table_that_cannot_be_tidied_is_told_and_left(grown, monkeypatch, error, problem):
    def refused(self, *_, **__):
        raise OSError(error)

    monkeypatch.setattr(DeltaTable, "vacuum", refused)
    assert re.search(problem, tidy(grown).problem)


# pages and runs


def test_old_pages_go_but_never_the_newest(store):
    for number, days in enumerate((500, 400, 390)):
        path = f"toy/pages/{number}.html"
        store.put(path, b"page")
        moment = time.time() - days * 86400
        os.utime(store.uri_of(path), (moment, moment))
    expected = ["toy/pages/0.html", "toy/pages/1.html"]
    assert expire_pages.fn(store, "toy", 365, now(), dry_run=True) == expected
    assert len(store.names("toy/pages")) == 3
    assert expire_pages.fn(store, "toy", 365, now(), dry_run=False) == expected
    assert store.names("toy/pages") == ["toy/pages/2.html"]


def test_folders_of_published_runs_go_after_a_day_and_of_others_when_they_are_old(store):
    steps.put(store)
    steps.train(store, date(2024, 1, 1))
    steps.score(store, date(2024, 1, 2))
    steps.outcomes(steps.resolve(store, date(2024, 1, 3)))
    folders = {p.split("/")[2] for p in store.names("toy/runs")}
    assert len(folders) == 3
    assert expire_runs.fn(store, "toy", 30, now(), dry_run=False) == []
    age(store, 2)
    (expired,) = expire_runs.fn(store, "toy", 30, now(), dry_run=False)
    assert "2024-01-02-score" in expired
    rest = {p.split("/")[2] for p in store.names("toy/runs")}
    assert rest == folders - {expired.split("/")[2]}
    age(store, 30)
    assert len(expire_runs.fn(store, "toy", 30, now(), dry_run=True)) == 2
    assert len(expire_runs.fn(store, "toy", 30, now(), dry_run=False)) == 2
    assert store.names("toy/runs") == []


def test_nothing_is_removed_where_a_link_in_a_store_leads(store, tmp_path):
    steps.put(store)
    steps.train(store, date(2024, 1, 1))
    steps.score(store, date(2024, 1, 2))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.parquet").write_text("x")
    (run,) = {path.split("/")[2] for path in store.names("toy/runs") if "score" in path}
    for page in ("first", "newest"):
        store.put(f"toy/pages/{page}.html", b"")
    age(Store(str(tmp_path)), 100)
    for folder in ("toy/runs/link", f"toy/runs/{run}/link", "toy/pages/link", f"{VALUES}/link"):
        Path(store.uri, folder).symlink_to(elsewhere)
    assert "toy/runs/link" not in expire_runs.fn(store, "toy", 30, now(), dry_run=False)
    (page,) = expire_pages.fn(store, "toy", 30, now(), dry_run=False)
    assert page.endswith(".html")
    assert "a link in the folder of a table" in str(tidy(store).problem)
    assert (elsewhere / "precious.parquet").exists()


def test_a_run_whose_folder_is_gone_is_repeated_with_the_same_rows(store):
    steps.put(store)
    steps.train(store, date(2024, 1, 1))
    steps.score(store, date(2024, 1, 3))
    rows = steps.published(store)
    age(store, 2)
    expire_runs.fn(store, "toy", 30, now(), dry_run=False)
    assert steps.score(store, date(2024, 1, 3)).already
    assert steps.published(store).equals(rows)


def test_the_payload_of_the_ledger_names_the_tables_that_are_looked_for(store):
    steps.put(store)
    steps.train(store, date(2024, 1, 1))
    steps.score(store, date(2024, 1, 3))
    versions = json.loads(store.scan("ledger").collect()["versions"][0])
    assert recorded_versions(store, VALUES, now() - timedelta(days=1)) == [versions["values"]]
    assert recorded_versions(store, "toy/extras", now() - timedelta(days=1)) == []
    assert recorded_versions(store, "ledger", now() - timedelta(days=1)) == []
