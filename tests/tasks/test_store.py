import os
import pickle
import zlib

import polars as pl
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError
from polars.testing import assert_frame_equal

from models.addresses import CredentialError
from models.scenario import with_shard
from tasks.storage.faults import StoreError
from tasks.storage.store import Store, digest
from tasks.storage.tables import FILES_OF_A_PARTITION

FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})


# what a store is


def test_a_store_travels_between_processes_as_nothing_but_its_uri(store):
    store.put("a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert "files" not in vars(again)
    assert again.get("a") == b"1"


def test_the_same_folder_is_the_same_store_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("s") == Store("./s/") == Store("~/s") == Store(str(tmp_path / "s"))


@pytest.mark.parametrize("uri", ["s3://bucket/x", "https://account.blob.core.windows.net/c", "dbfs:/x://y"])
def test_a_store_of_another_kind_is_refused_by_name(uri):
    with pytest.raises(StoreError, match=r"not a kind of store.*az:// or abfss://"):
        Store(uri)


@pytest.mark.parametrize(
    "uri", ["az://c/x?sv=2021&sig=secret", "abfss://user:secret@account/x", "az://c/x?AccountKey=secret"]
)
def test_a_credential_in_a_uri_is_refused_and_not_repeated(uri):
    with pytest.raises(CredentialError) as caught:
        Store(uri)
    assert "secret" not in str(caught.value)
    assert "managed identity" in str(caught.value)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written(.|\n)*--store"):
        Store(str(tmp_path / "file" / "store")).check_writable()


ODD = ["my data", "jörg", "50%", "a{b}", "#1", "日本", "a+b", "a*b"]


def check_that_a_store_keeps_tables_and_files(uri):
    odd = Store(uri)
    frame = FRAME.with_columns(shard=pl.Series([0, 1]))
    for once in ("first", "second"):
        odd.append("some/rows", frame, once=once, partition_by="shard")
    assert odd.scan("some/rows").collect().height == 4
    assert odd.scan("some/rows", shard=1).collect()["a"].to_list() == [2, 2]
    odd.put("files/one", b"1")
    assert odd.get("files/one") == b"1"
    assert odd.names("files") == ["files/one"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_may_have_a_space_a_percent_sign_and_letters_of_any_alphabet(tmp_path, name):
    check_that_a_store_keeps_tables_and_files(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [*ODD, "a[1]", "a^b", "a|b", "what?"])
def test_so_may_one_in_blob(azurite, name):
    check_that_a_store_keeps_tables_and_files(f"{azurite.container()}/{name}")


@pytest.mark.parametrize("name", ["a[1]", "a^b", "a%20b", "run=3", "what?", "a|b", "a\\b"])
def test_a_path_at_which_no_table_would_be_found_again_is_refused(tmp_path, name):
    with pytest.raises(StoreError, match="no store can be kept"):
        Store(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a%20b", "run=3", "a\\b"])
def test_so_is_one_in_blob(name):
    with pytest.raises(StoreError, match="no store can be kept"):
        Store(f"az://container/{name}")


# files


def test_of_several_writers_of_a_new_file_one_wins(store, together):
    won = together(_create, [(store, f"{i}".encode()) for i in range(4)])
    assert sum(won) == 1
    assert store.get("claim") == f"{won.index(True)}".encode()


def _create(store, content):
    return store.create("claim", content)


def test_files_come_back_as_they_were_written(store):
    store.put("f/bytes", b"\x00\xff")
    store.put_json("f/json", {"b": 1, "a": [None, "x"]})
    size = store.put_frame("f/frame.parquet", FRAME)
    assert store.get("f/bytes") == b"\x00\xff"
    assert store.get_json("f/json") == {"a": [None, "x"], "b": 1}
    assert_frame_equal(store.get_frame("f/frame.parquet"), FRAME)
    assert store.size("f/frame.parquet") == size
    assert store.names("f") == ["f/bytes", "f/frame.parquet", "f/json"]


def test_what_is_not_there_is_none(store):
    assert store.get("no") is None
    assert store.size("no") is None
    assert store.get_json("no") is None
    assert store.get_frame("no") is None
    assert store.version("no") is None
    assert store.names("no") == []


# tables


def test_a_name_appends_once_however_often_it_is_tried(store):
    assert store.append("t", FRAME, once="first")
    assert not store.append("t", FRAME, once="first")
    assert store.append("t", FRAME, once="second")
    assert store.scan("t").collect().height == 4
    assert store.version("t") == 1


def test_a_name_appends_once_when_several_processes_try_at_the_same_time(store, together):
    store.append("t", FRAME, once="before")
    assert sum(together(_append, [(store, "same", 5)] * 4)) == 5
    assert store.scan("t").collect().height == 6 * FRAME.height


def test_a_table_that_several_processes_begin_at_the_same_time_has_the_rows_of_all(store, together):
    assert sum(together(_append, [(store, f"{i}", 1) for i in range(4)])) == 4
    assert store.scan("t").collect().height == 4 * FRAME.height


def _append(store, once, times):
    return sum(store.append("t", FRAME, once=f"{once}-{i}") for i in range(times))


def test_columns_that_come_later_are_null_in_earlier_rows(store):
    store.append("t", FRAME, once="1")
    store.append("t", FRAME.with_columns(c=pl.lit(1.5)), once="2")
    assert store.scan("t").collect().sort("c")["c"].to_list() == [None, None, 1.5, 1.5]


def test_an_older_version_stays_readable(store):
    store.append("t", FRAME, once="1")
    store.append("t", FRAME, once="2")
    assert store.scan("t", 0).collect().height == 2


def test_a_missing_table_and_a_missing_version_are_named(store):
    with pytest.raises(StoreError, match=r"no table 'nothing'.*Ingest"):
        store.scan("nothing")
    store.append("t", FRAME, once="1")
    with pytest.raises(StoreError, match=r"'t' no longer has version 7.*newest is 0"):
        store.scan("t", 7)


def test_a_table_whose_log_is_damaged_is_named(store):
    store.append("t", FRAME, once="1")
    store.put("t/_delta_log/00000000000000000000.json", b"not a log")
    for use in (store.version, store.scan):
        with pytest.raises(StoreError, match="'t'"):
            use("t")


def test_a_lost_race_is_tried_again_a_bounded_number_of_times(store, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    tries = []

    def always_late():
        tries.append(1)
        raise CommitFailedError("another was first")

    with pytest.raises(StoreError, match=r"other writers came first(.|\n)*another was first"):
        store.retrying("t", always_late)
    assert 1 < len(tries) < 50


def test_a_lost_race_is_forgotten_once_it_is_won(store):
    tries = []

    def second_time():
        tries.append(1)
        if len(tries) == 1:
            raise CommitFailedError("another was first")
        return "done"

    assert store.retrying("t", second_time) == "done"


class Cut:
    """Objects whose connection is lost `times` times, with the object store's error."""

    def __init__(self, files, times, message="HTTP error: error sending request"):
        self.files, self.left, self.said = files, times, message

    def __getattr__(self, name):
        if self.left:
            self.left -= 1
            raise GenericError(f"Generic MicrosoftAzure error: {self.said}")
        return getattr(self.files, name)


@pytest.mark.parametrize(
    "operation",
    [
        lambda store: store.put("there", b"2"),
        lambda store: store.create("new", b"2"),
        lambda store: store.get("there"),
        lambda store: store.size("there"),
        lambda store: store.names("a"),
    ],
    ids=["put", "create", "get", "size", "names"],
)
def test_a_request_whose_connection_is_lost_is_sent_again(store, operation):
    store.put("there", b"1")
    store.__dict__["files"] = failing = Cut(store.files, 2)
    operation(store)
    assert failing.left == 0


def test_a_request_that_was_refused_is_not_sent_again(store):
    store.__dict__["files"] = failing = Cut(store.files, 2, "not authorized")
    with pytest.raises(GenericError, match="not authorized"):
        store.get("there")
    assert failing.left == 1


def test_a_commit_whose_connection_is_lost_is_looked_for_before_it_is_made_again(store, monkeypatch):
    calls = []

    def committed_but_cut(*args, **kwargs):
        calls.append(1)
        write_deltalake(*args, **kwargs)
        raise OSError("Generic MicrosoftAzure error\n error sending request\n Broken pipe (os error 32)")

    monkeypatch.setattr("tasks.storage.store.write_deltalake", committed_but_cut)
    frame = pl.DataFrame({"a": [1, 2]})
    store.append("t", frame, once="x")
    assert len(calls) == 1
    assert store.scan("t").collect().height == 2


def test_a_connection_that_stays_lost_is_said(store):
    def cut():
        raise OSError("error sending request")

    with pytest.raises(StoreError, match="the connection was lost 8 times"):
        store.retrying("t", cut)


def test_other_errors_are_not_tried_again(store):
    tries = []

    def broken():
        tries.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.retrying("t", broken)
    assert len(tries) == 1


# shards


def test_the_shard_of_a_key_never_changes_since_it_is_stored():
    keys = pl.DataFrame({"sku": ["1", "A", "sku00001", "Ünïcode", " "], "store": ["1", "2", "3", "4", "5"]})
    assert with_shard(keys, ["sku"], 32)["shard"].to_list() == [23, 11, 9, 28, 5]
    assert with_shard(keys, ["sku", "store"], 1000)["shard"].to_list() == [553, 435, 559, 123, 455]


@given(
    st.lists(st.tuples(st.text(max_size=4), st.text(max_size=2)), min_size=1, max_size=30),
    st.integers(1, 50),
)
def test_the_shard_is_the_checksum_of_the_joined_columns_modulo_the_number_of_shards(keys, shards):
    frame = pl.DataFrame(keys, schema={"a": pl.String, "b": pl.String}, orient="row")
    expected = [zlib.crc32(f"{a}\x1f{b}".encode()) % shards for a, b in keys]
    frame_with_shard = with_shard(frame, ["a", "b"], shards)
    assert frame_with_shard["shard"].to_list() == expected
    assert frame_with_shard.drop("shard").equals(frame)


def test_a_shard_column_that_comes_with_the_rows_is_not_believed():
    frame = pl.DataFrame({"sku": ["1"], "shard": [99]})
    assert with_shard(frame, ["sku"], 32)["shard"].to_list() == [23]


def test_a_digest_depends_on_values_and_not_on_the_order_of_names():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, 2]) != digest([2, 1])


# Blob


def test_a_store_in_blob_does_all_that_one_on_disk_does(azurite):
    store = Store(azurite.container() + "/some/folder")
    assert store.version("t") is None
    store.check_writable()
    assert store.names("") == []
    assert store.create("claim", b"1")
    assert not store.create("claim", b"2")
    assert store.append("t", FRAME, once="1")
    assert not store.append("t", FRAME, once="1")
    assert store.append("t", FRAME, once="2")
    assert store.scan("t").collect().height == 4
    assert store.scan("t", 0).collect().height == 2
    store.put_frame("parts/1.parquet", FRAME)
    store.put_frame("parts/2.parquet", FRAME)
    assert pl.scan_parquet(store.uri_of("parts/*.parquet")).collect().height == 4
    assert store.names("parts") == ["parts/1.parquet", "parts/2.parquet"]


def test_writers_in_blob_lose_nothing_and_repeat_nothing(azurite, together):
    store = Store(azurite.container())
    store.append("t", FRAME, once="before")
    assert sum(together(_append, [(store, "same", 3)] * 3)) == 3
    assert store.scan("t").collect().height == 4 * FRAME.height


def test_a_container_that_does_not_exist_is_named(azurite):
    store = Store("az://no-such-container/x")
    for use in (store.check_writable, lambda: store.version("t"), lambda: store.scan("t")):
        with pytest.raises(StoreError, match=r"no-such-container.*(.|\n)*container does not exist"):
            use()


def test_a_store_can_be_read_by_whatever_reads_delta_tables(store):
    store.append("t", FRAME, once="1")
    write_deltalake(store.uri_of("t"), FRAME, mode="append")
    assert store.scan("t").collect().height == 4
    assert os.path.isdir(store.uri_of("t/_delta_log"))


def test_a_table_that_is_appended_to_has_few_files_however_often(store):
    for number in range(50):
        store.append("toy/notes", pl.DataFrame({"number": [number]}), once=str(number))
    assert len(store.table("toy/notes").file_uris()) <= FILES_OF_A_PARTITION + 1
    assert sorted(store.scan("toy/notes").collect()["number"]) == list(range(50))
    assert not store.append("toy/notes", pl.DataFrame({"number": [7]}), once="7")
