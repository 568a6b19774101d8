"""Readings of a capture are counted exactly once: late, twice, out of order, cut off, killed on the way, raced."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.errors import ContractError
from tasks.storage.store import Store
from tests.capture_files import START, content, message, name, put, reading
from tests.models.test_devices_readings import without_points
from tests.tasks.test_ingest_readings import at, bring, capture_of, csv, many, quarantine, table

pytestmark = pytest.mark.usefixtures("without_run_logger")


def undisturbed(tmp_path: Path, root: Path) -> pl.DataFrame:
    """The table that a single pass over all files gives."""
    other = Store(str(tmp_path / "undisturbed"))
    bring(other, root)
    return table(other)


# arriving late, twice, out of order


def test_a_late_reading_is_merged_into_its_interval_and_no_other_file_is_touched(store, tmp_path):
    readings = [reading(f"d{n}", "t", 60 * minute, 1.0) for n in range(12) for minute in (0, 90, 170)]
    for hour in range(3):
        inside = [r for r in readings if datetime.fromisoformat(r["time"]).hour == START.hour + hour]
        put(tmp_path / f"{hour}", [message(r, n) for n, r in enumerate(inside)])
        bring(store, tmp_path / f"{hour}")
    before = set(store.table("devices/readings").file_uris())
    put(tmp_path / "late", [message(reading("d3", "t", 60 * 90 + 1, 3.0))])
    result = bring(store, tmp_path / "late")
    after = set(store.table("devices/readings").file_uris())
    assert result.changed == 1
    assert len(before - after) == len(after - before) == 1
    merged = table(store).filter(pl.col("count") == 2)
    assert merged.select("device", "mean", "last").row(0) == ("d3", 2.0, 3.0)
    assert table(store)["count"].sum() == 37


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_late_twice_out_of_order_cut_off_and_empty_make_the_table_of_one_pass(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("arrival")
    root, arrived = tmp_path / "all", tmp_path / "arrived"
    readings = many(120, span=7200)
    readings += data.draw(st.lists(st.sampled_from(readings), max_size=10), label="delivered twice")
    files = capture_of(root, readings, files=4)
    put(root, [], minute=40)
    store = Store(str(tmp_path / "store"))
    order = data.draw(st.permutations(files), label="order")
    arrived.mkdir()
    for file in order:
        target = arrived / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        fate = data.draw(st.sampled_from(["whole", "empty", "cut off", "copied"]), label="fate")
        if fate in ("empty", "cut off"):
            target.write_bytes(file.read_bytes()[: 0 if fate == "empty" else data.draw(st.integers(1, 3000))])
            if store.version("devices/readings") is not None:
                bring(store, arrived)
        shutil.copy(file, target)
        if fate == "copied":
            shutil.copy(
                file,
                arrived / f"copy-{file.parent.parent.name}-{file.name}-{len(list(arrived.iterdir()))}.avro",
            )
        bring(store, arrived)
    bring(store, arrived)
    assert bring(store, arrived).files == 0
    assert_frame_equal(table(store), undisturbed(tmp_path, root))


def test_one_broken_message_among_good_ones_loses_only_itself(store, tmp_path):
    readings = many(30)
    messages = [message(r, n) for n, r in enumerate(readings)]
    messages.insert(10, message(b'{"device": "d", "tag', 99))
    path = put(tmp_path, messages)
    result = bring(store, tmp_path)
    assert result.rules == {"body|json": 1}
    assert table(store)["count"].sum() == 30
    (row,) = quarantine(store).to_dicts()
    assert (row["source"], row["row_number"]) == (str(path), 99)
    assert '{\\"device\\": \\"d\\", \\"tag' in row["row"]


def test_a_cut_off_file_is_named_in_quarantine_and_completed_later(store, tmp_path):
    readings = many(60)
    messages = [message(r, n) for n, r in enumerate(readings)]
    whole = put(tmp_path, messages[:30], minute=0)
    last = put(tmp_path, [], minute=5)
    blocks = content(messages[30:], block_bytes=600)
    last.write_bytes(blocks[:-300])
    first = bring(store, tmp_path)
    assert first.files == 2
    assert quarantine(store)["source"].to_list() == [str(last)]
    assert quarantine(store)["rule"][0].startswith("file|unreadable after ")
    assert 30 < table(store)["count"].sum() < 60
    again = bring(store, tmp_path)
    assert (again.files, again.read, again.changed) == (0, 0, 0)
    last.write_bytes(blocks)
    assert bring(store, tmp_path).files == 1
    assert table(store)["count"].sum() == 60
    assert_frame_equal(table(store), undisturbed(tmp_path, whole.parents[8]))


def test_a_run_without_new_files_changes_nothing_and_says_so(store, tmp_path):
    capture_of(tmp_path, many(20), files=2)
    bring(store, tmp_path)
    before = store.version("devices/readings"), store.version("devices/captures")
    result = bring(store, tmp_path)
    assert (result.files, result.read, result.changed) == (0, 0, 0)
    assert (store.version("devices/readings"), store.version("devices/captures")) == before


def test_a_few_bad_messages_do_not_stop_a_stream_that_has_begun_and_many_do(store, tmp_path):
    put(tmp_path, [message(b"?", 0)], minute=0)
    with pytest.raises(ContractError, match=r"1 of 1 rows \(100.0%\)"):
        bring(store, tmp_path)
    assert store.version("devices/captures") is None
    put(tmp_path, [message(r, n) for n, r in enumerate(many(30))], minute=5)
    bring(store, tmp_path)
    put(tmp_path, [message(b"?", n) for n in range(100)], minute=10)
    assert bring(store, tmp_path).quarantined == 100
    put(tmp_path, [message(b"?", n) for n in range(101)], minute=15)
    with pytest.raises(ContractError, match=r"101 of 101 rows"):
        bring(store, tmp_path)
    assert bring(store, tmp_path, max_bad_share=1.0).files == 1


def test_a_mapping_that_fits_no_message_is_told_by_the_first_message(store, tmp_path):
    put(tmp_path, [message({"Device": "d", "Tag": "t", "TS": at(0), "Value": 1})])
    with pytest.raises(ContractError, match=r"body\|lacks device(.|\n)*Device(.|\n)*--column"):
        bring(store, tmp_path)


def test_an_interval_that_came_aggregated_takes_no_more_and_says_so(store, tmp_path):
    bring(store, csv(tmp_path, f"d,t,{at(0)},1", f"d,t,{at(60)},1"))
    closed = without_points(table(store), START + timedelta(minutes=1))
    from deltalake import write_deltalake

    write_deltalake(store.uri_of("devices/readings"), closed, mode="overwrite")
    result = bring(store, csv(tmp_path, f"d,t,{at(5)},9", f"d,t,{at(65)},9"))
    assert (result.accepted, result.quarantined, result.rules) == (1, 1, {"interval_closed": 1})
    assert table(store)["count"].to_list() == [1, 2]


# killed, and raced

_KILLED = """
import os, signal, sys
from prefect.logging import disable_run_logger
import tasks.storage.upsert, tasks.ingest.capture
from tests.tasks.test_ingest_readings import bring
from tasks.storage.store import Store

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, uri, source = sys.argv[1:]
if where == "before the commit":
    tasks.storage.upsert._merger = die
elif where == "between two commits":
    tasks.storage.upsert._FEW = 10
    tasks.storage.upsert.write_deltalake = die
else:
    tasks.ingest.capture.record = die
with disable_run_logger():
    bring(Store(uri), source)
"""


@pytest.fixture
def half_read(store, tmp_path):
    """A store that has read the first files of a capture, and the folder with four more."""
    root = tmp_path / "raw"
    readings = many(120)
    capture_of(root, readings[:40], files=2)
    bring(store, root)
    for n in range(4):
        part = readings[40:][n::4]
        put(root, [message(r, i) for i, r in enumerate(part)], minute=5 * n + 10)
    return root


def versions(store) -> tuple[int, int]:
    return store.version("devices/readings"), store.version("devices/captures")


def assert_the_next_ingest_completes(store, tmp_path, root):
    assert bring(store, root).files == 4
    assert_frame_equal(table(store), undisturbed(tmp_path, root))
    assert bring(store, root).files == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "commits"), [("before the commit", 0), ("between two commits", 1), ("after the commit", 1)]
)
def test_an_ingest_that_was_killed_is_done_by_the_next_as_if_nothing_had_happened(
    store, tmp_path, half_read, where, commits
):
    readings, captures = versions(store)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, where, store.uri, str(half_read)], env=environment
    )
    assert killed.returncode == -signal.SIGKILL
    assert versions(store) == (readings + commits, captures)
    assert_the_next_ingest_completes(store, tmp_path, half_read)


@pytest.mark.parametrize(
    "step",
    [
        "tasks.ingest.checking.with_shard",
        "tasks.ingest.pipeline.upsert",
        "tasks.storage.upsert._merger",
        "tasks.ingest.pipeline.quarantine",
    ],
)
def test_wherever_an_ingest_fails_the_next_one_completes_it(store, tmp_path, half_read, monkeypatch, step):
    before = versions(store)
    with monkeypatch.context() as patch:
        patch.setattr(step, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bring(store, half_read)
    assert versions(store) == before
    assert_the_next_ingest_completes(store, tmp_path, half_read)


def _bring(uri: str, source: str) -> int:
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        return bring(Store(uri), source).changed


def test_ingests_at_the_same_time_count_every_reading_once(store, tmp_path, together):
    readings = many(150)
    for n in range(3):
        capture_of(tmp_path / f"raw{n}", readings[40 * n : 40 * n + 70], files=2)
    together(_bring, [(store.uri, str(tmp_path / f"raw{n}")) for n in range(3)])
    for n in range(3):
        bring(store, tmp_path / f"raw{n}")
    everything = tmp_path / "everything"
    capture_of(everything, readings, files=1)
    assert_frame_equal(table(store), undisturbed(tmp_path, everything))
    assert table(store)["count"].sum() == 150


def test_a_capture_is_read_from_blob_and_written_to_blob(azurite, tmp_path):
    import obstore

    from tasks.storage.uris import object_store

    raw, container = azurite.container(), azurite.container()
    messages = [message(r, n) for n, r in enumerate(many(50))]
    obstore.put(object_store(raw), name(), content(messages[:30]))
    obstore.put(object_store(raw), name(5), b"")
    store = Store(f"{container}/store")
    first = bring(store, raw)
    assert (first.files, first.quarantined) == (2, 1)
    obstore.put(object_store(raw), name(5), content(messages[30:]))
    assert bring(store, f"{raw}/plant").files == 1
    assert table(store)["count"].sum() == 50
    assert bring(store, raw).files == 0
