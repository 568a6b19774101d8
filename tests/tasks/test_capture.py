import json
import os
from pathlib import Path

import obstore
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tasks.ingest import capture
from tasks.storage.uris import object_store
from tests.capture_files import content, message, name, put, reading

COLUMNS = {column: column for column in ("device", "tag", "time", "value")}


def looked_at(path: Path) -> capture.Looked:
    (file,) = capture._listed(str(path))
    return capture.Looked(file)


def read(path: Path, columns=COLUMNS, at_a_time=50) -> tuple[pl.DataFrame, pl.DataFrame, capture.Looked]:
    file = looked_at(path)
    batches = list(capture.read(file, columns, at_a_time))
    rows = pl.concat([one.rows for one in batches], how="diagonal_relaxed") if batches else pl.DataFrame()
    broken = pl.concat([file.quarantined().clear(), *(one.bad for one in batches)])
    assert sum(one.count for one in batches) == file.messages
    return rows, broken, file


def bodies(tmp_path: Path, *contents) -> Path:
    return put(tmp_path, [message(body, number) for number, body in enumerate(contents)])


# which files


def test_a_folder_with_avro_files_is_a_capture_and_any_other_is_not(tmp_path):
    (tmp_path / "a.csv").write_text("device\n1\n")
    assert not capture.is_capture(str(tmp_path))
    assert not capture.is_capture(str(tmp_path / "nothing"))
    path = put(tmp_path, [])
    for uri in (tmp_path, f"{tmp_path}/", path, tmp_path / "plant", tmp_path / "plant" / "*" / "0" / "**"):
        assert capture.is_capture(str(uri)), uri


def test_the_partition_is_known_from_the_path(tmp_path):
    put(tmp_path, [], partition=12)
    odd = tmp_path / "elsewhere" / "a.avro"
    odd.parent.mkdir()
    odd.write_bytes(content([]))
    partitions = {
        file.uri.removeprefix(str(tmp_path)): file.partition for file in capture._listed(str(tmp_path))
    }
    assert partitions == {f"/{name(partition=12)}": "plant/readings/12", "/elsewhere/a.avro": ""}


def test_a_glob_takes_the_files_that_it_names(tmp_path):
    for partition in range(3):
        put(tmp_path, [], partition=partition)
    files = list(capture._listed(f"{tmp_path}/plant/readings/[12]/*"))
    assert sorted(file.partition for file in files) == ["plant/readings/1", "plant/readings/2"]


def test_a_file_is_pending_until_it_is_on_record_whatever_came_before_it(store, tmp_path):
    late, early = put(tmp_path, [], minute=50), put(tmp_path, [], minute=5)
    first = capture.pending(store, "devices", str(tmp_path))
    assert [file.uri for file in first] == [str(early), str(late)]
    capture.record(store, "devices", [capture.Looked(first[1])])
    assert [file.uri for file in capture.pending(store, "devices", str(tmp_path))] == [str(early)]
    between = put(tmp_path, [], minute=20)
    uris = [file.uri for file in capture.pending(store, "devices", str(tmp_path))]
    assert uris == [str(early), str(between)]


def test_a_file_that_has_grown_is_pending_again_and_one_that_was_only_touched_is_not(store, tmp_path):
    path = put(tmp_path, [message({})])
    capture.record(store, "devices", [looked_at(path)])
    os.utime(path, ns=(1, 1))
    assert capture.pending(store, "devices", str(tmp_path)) == []
    put(tmp_path, [message({}), message({}, 1)])
    assert len(capture.pending(store, "devices", str(tmp_path))) == 1


def test_a_broken_file_is_looked_at_again_when_it_has_changed_and_not_before(store, tmp_path):
    path = put(tmp_path, [])
    broken = looked_at(path)
    broken.rule = "file|unreadable"
    capture.record(store, "devices", [broken])
    assert capture.pending(store, "devices", str(tmp_path)) == []
    os.utime(path, ns=(1, 1))
    assert len(capture.pending(store, "devices", str(tmp_path))) == 1


def test_a_file_is_on_record_once_however_often_it_is_entered(store, tmp_path):
    file = looked_at(put(tmp_path, []))
    for _ in range(2):
        capture.record(store, "devices", [file])
    assert store.scan("devices/captures").collect().height == 1


# what they hold


def test_a_message_holds_a_reading_or_a_list_of_them(tmp_path):
    one, two, three = (reading("d", "t", n, float(n)) for n in range(3))
    rows, broken, file = read(bodies(tmp_path, one, [two, three]))
    assert rows.select(*COLUMNS).to_dicts() == [one, two, three]
    assert rows["SequenceNumber"].to_list() == [0, 1, 1]
    assert rows["EnqueuedTimeUtc"].unique().to_list() == ["3/2/2026 1:00:00 PM"]
    assert (broken.height, file.messages, file.rule) == (0, 2, None)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"device": "d", ', "body|json"),
        (b"\xff\xfe\x00", "body|json"),
        (b"[" * 100_000, "body|json"),
        (b'{"device": "\\ud800", "tag": "t", "time": "x", "value": 1}', "body|json"),
        (None, "body|empty"),
        (b"", "body|empty"),
        ([], "body|empty"),
        (5, "body|object"),
        ([reading("d", "t", 1, 1.0), "x"], "body|object"),
        ({"device": "d", "tag": "t", "value": 1}, "body|lacks time"),
    ],
    ids=[
        "cut off",
        "no text",
        "too deep",
        "half a character",
        "null",
        "empty",
        "empty list",
        "number",
        "list with text",
        "without time",
    ],
)
def test_a_broken_message_among_good_ones_loses_only_itself(tmp_path, body, rule):
    good = [reading("d", "t", n, float(n)) for n in range(4)]
    rows, broken, file = read(bodies(tmp_path, good[0], good[1], body, good[2], good[3]))
    assert rows.select(*COLUMNS).to_dicts() == good
    (row,) = broken.to_dicts()
    assert (row["source"], row["row_number"], row["rule"]) == (file.file.uri, 2, rule)
    assert json.loads(row["row"])["Offset"] == "240"
    assert (file.messages, file.rule) == (5, None)


def test_members_of_other_names_are_mapped_and_the_enqueue_time_can_be_the_time(tmp_path):
    columns = {"device": "Device", "tag": "Tag", "time": "EnqueuedTimeUtc", "value": "v"}
    rows, broken, _ = read(bodies(tmp_path, {"Device": 7, "Tag": "t", "v": 1}), columns)
    assert broken.is_empty()
    assert rows.select(*COLUMNS).row(0) == (7, "t", "2026-03-02T13:00:00+00:00", 1)


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
values = scalars | st.lists(scalars, max_size=2)


@settings(max_examples=200)
@given(st.lists(st.fixed_dictionaries({"device": scalars, "value": values}), min_size=1, max_size=5))
@example([{"device": "d", "value": 1}, {"device": "d", "value": 1.5}])
@example([{"device": 1, "value": 1}, {"device": "1", "value": "x"}])
@example([{"device": "line\nbreak", "value": "\x00"}])
def test_messages_are_understood_alike_one_by_one_and_all_at_once(bodies):
    columns = {"device": "device", "value": "value"}
    messages = []
    for number, one in enumerate(bodies):
        try:
            messages.append(message(one, number))
        except UnicodeEncodeError:
            return
    together = capture._plain(messages, columns)
    if together is None:
        return
    alone = [row for one in messages for row in capture.readings(one, columns)[0]]
    assert_frame_equal(together, capture._frame(alone, columns))


def test_of_a_member_that_is_given_twice_the_first_counts_one_by_one_and_all_at_once(tmp_path):
    twice = b'{"device": "a", "device": "b", "tag": "t", "time": "x", "value": 1}'
    for other in (twice, b"{"):
        rows, _, _ = read(bodies(tmp_path, twice, other))
        assert set(rows["device"]) == {"a"}


# whole and broken files


def test_a_file_without_messages_is_whole(tmp_path):
    rows, broken, file = read(put(tmp_path, []))
    assert rows.is_empty()
    assert broken.is_empty()
    assert file.rule is None
    assert file.quarantined().is_empty()


def test_an_empty_file_is_told_from_one_without_messages(tmp_path):
    path = put(tmp_path, [])
    path.write_bytes(b"")
    *_, file = read(path)
    assert file.rule == "file|empty"
    (row,) = file.quarantined().to_dicts()
    assert row["source"] == str(path)
    assert json.loads(row["row"]) == {"bytes": 0, "messages": 0}


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.booleans())
def test_wherever_a_file_breaks_off_whole_messages_are_read_and_the_break_is_seen(
    tmp_path_factory, length, noise
):
    good = [reading("d", "t", n, float(n)) for n in range(30)]
    whole = content([message(one, n) for n, one in enumerate(good)], block_bytes=400)
    path = put(tmp_path_factory.mktemp("capture"), [])
    at = length % len(whole)
    path.write_bytes(whole[:at] + (b"\x05" * 40 if noise else b""))
    rows, broken, file = read(path)
    assert broken.is_empty()
    assert (rows.select(*COLUMNS).to_dicts() if rows.height else []) == good[: rows.height]
    marker = b"0123456789abcdef"
    at_the_end_of_a_block = not noise and whole[:at].endswith(marker)
    assert (file.rule is None) == at_the_end_of_a_block


def test_text_that_is_no_avro_is_a_broken_file(tmp_path):
    path = put(tmp_path, [])
    path.write_text("device,tag,time,value\n")
    *_, file = read(path)
    assert file.rule.startswith("file|unreadable after 0 messages: ")


def test_messages_are_read_some_at_a_time(tmp_path):
    path = put(tmp_path, [message(reading("d", "t", n, 1.0), n) for n in range(25)])
    sizes = [one.count for one in capture.read(looked_at(path), COLUMNS, at_a_time=10)]
    assert sizes == [10, 10, 5]


# Blob


def test_files_are_listed_read_and_seen_to_change_in_blob(store, azurite):
    root = azurite.container()
    container = object_store(root)
    good = [reading("d", "t", n, float(n)) for n in range(3)]
    whole = content([message(one, n) for n, one in enumerate(good)])
    obstore.put(container, name(), whole[:-5])
    assert capture.is_capture(root)
    assert capture.is_capture(f"{root}/plant/readings")
    assert capture.is_capture(f"{root}/plant/*/0/**")
    assert not capture.is_capture(f"{root}/other")
    (file,) = capture.pending(store, "devices", root)
    assert (file.partition, file.size) == ("plant/readings/0", len(whole) - 5)
    capture_file = capture.Looked(file)
    assert list(capture.read(capture_file, COLUMNS)) == []
    assert capture_file.rule.startswith("file|unreadable")
    capture.record(store, "devices", [capture_file])
    assert capture.pending(store, "devices", f"{root}/plant") == []
    obstore.put(container, name(), whole)
    (again,) = capture.pending(store, "devices", f"{root}/{name()}")
    (messages,) = capture.read(capture.Looked(again), COLUMNS)
    assert messages.rows.select(*COLUMNS).to_dicts() == good


def test_numbers_and_objects_beyond_all_bounds_lose_only_their_message(tmp_path):
    huge = b'{"device": "d", "tag": "t", "time": "x", "value": ' + b"9" * 400 + b"}"
    deep = b'{"device": "d", "tag": "t", "time": "x", "value": ' + b"[" * 900 + b"]" * 900 + b"}"
    wide = {**reading("d", "t", 2, 2.0), **{f"m{n}": n for n in range(5_000)}}
    rows, broken, _ = read(bodies(tmp_path, reading("d", "t", 1, 1.0), huge, deep, wide))
    assert (rows.height, broken.height) == (4, 0)
    assert set(rows.columns) == {*COLUMNS, *capture.OWN}
