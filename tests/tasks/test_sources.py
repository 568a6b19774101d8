import gzip
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tasks.ingest.columns import column_mapping, rename
from tasks.ingest.sources import SourceError, read

ROWS = pl.DataFrame({"sku": ["1", "2"], "units": [1.5, 2.0]})


def rows(uri) -> pl.DataFrame:
    return pl.concat([source.rows() for source in read(str(uri))], how="diagonal_relaxed")


def names(uri) -> list[str]:
    return [source.name for source in read(str(uri))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of rows and one of something else, in folders of the same shape."""
    for number in (1, 2):
        part = tmp_path / "data" / f"year={number}"
        part.mkdir(parents=True)
        ROWS.with_columns(file=pl.lit(number)).write_csv(part / "part.csv")
    (tmp_path / "data" / "notes.txt").write_text("not data")
    return tmp_path / "data"


def test_csv_is_read_as_text_so_that_types_are_the_contracts_business(tmp_path):
    (tmp_path / "a.csv").write_text("sku,units\n007,1e3\n,x\n")
    assert rows(tmp_path / "a.csv").rows() == [("007", "1e3"), (None, "x")]


def test_a_compressed_csv_is_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"sku,units\n1,2\n", mtime=0))
    assert rows(tmp_path / "a.csv.gz").rows() == [("1", "2")]


def test_parquet_keeps_its_types(tmp_path):
    ROWS.write_parquet(tmp_path / "a.parquet")
    assert_frame_equal(rows(tmp_path / "a.parquet"), ROWS)


def test_a_delta_table_is_read(tmp_path):
    write_deltalake(str(tmp_path / "t"), ROWS)
    assert_frame_equal(rows(tmp_path / "t"), ROWS)


def test_a_delta_table_that_is_damaged_is_named(tmp_path):
    write_deltalake(str(tmp_path / "t"), ROWS)
    (tmp_path / "t" / "_delta_log" / "00000000000000000000.json").write_text("no log")
    with pytest.raises(SourceError, match="t: cannot be read"):
        rows(tmp_path / "t")


def test_a_folder_is_read_with_all_its_folders_in_the_order_of_names(folder):
    assert rows(folder)["file"].to_list() == ["1", "1", "2", "2"]


def test_files_of_the_same_name_in_different_folders_have_different_names(folder):
    assert names(folder) == ["year=1/part.csv", "year=2/part.csv"]
    assert names(folder / "year=*" / "part.csv") == ["year=1/part.csv", "year=2/part.csv"]
    assert names(folder / "year=1" / "part.csv") == ["part.csv"]


def test_a_glob_is_read(folder):
    assert rows(folder / "*" / "*.csv").height == 4
    assert rows(folder / "year=[2-9]" / "*").height == 2
    assert rows(folder / "**" / "*.csv").height == 4


def test_a_name_with_characters_of_a_glob_is_the_file_of_that_name(tmp_path):
    ROWS.write_parquet(tmp_path / "sales[1]*.parquet")
    assert rows(tmp_path / "sales[1]*.parquet").height == 2


def test_home_is_where_the_tilde_points(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ROWS.write_parquet(tmp_path / "a.parquet")
    write_deltalake(str(tmp_path / "t"), ROWS)
    assert rows("~/a.parquet").height == rows("~/t").height == rows("~/*.parquet").height == 2
    assert names("~/*.parquet") == ["a.parquet"]


@pytest.mark.parametrize("uri", ["missing.csv", "missing/", "missing*.csv", "no/such/folder/*.parquet"])
def test_where_there_is_nothing_the_path_is_named(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        list(read(uri))
    assert uri in str(caught.value)
    assert "Check the path" in str(caught.value)


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no such file.*\.csv"):
        list(read(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("a,b\n1,2\n")
    with pytest.raises(
        SourceError, match=r"this folder has no files.*\.csv.*with a glob.*/\*\.txt'"
    ) as caught:
        list(read(str(tmp_path)))
    (source,) = read(str(caught.value).split("'")[1])
    assert source.columns == ["a", "b"]


@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet", "empty.csv.gz"])
def test_an_empty_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"", mtime=0) if name.endswith(".gz") else b"")
    with pytest.raises(SourceError, match=rf"{name}.*(empty|cannot be read)"):
        list(read(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 but no Parquet"),
        ("a.csv", b"sku,units\n1,2,3\n"),
        ("a.csv", b'sku,units\n"open,2\n'),
        ("a.csv.gz", gzip.compress(b"sku,units\n1,2\n", mtime=0)[:-9]),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: cannot be read"):
        rows(tmp_path / name)


def test_a_truncated_parquet_file_is_named(tmp_path):
    many = pl.DataFrame({"sku": [str(i) for i in range(10_000)]})
    many.write_parquet(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:100] + bytes(len(content) - 600) + content[-500:])
    with pytest.raises(SourceError, match=r"a\.parquet: cannot be read"):
        rows(tmp_path / "a.parquet")


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.text('ab,"\n\r\t; 1\ufeff', max_size=40).map(str.encode))
@example(b"\n")
@example(b"a,a\n1,2\n")
@example(b"\xef\xbb\xbfsku,units\n1,2\n")
@example(b",\n,\n")
def test_whatever_bytes_a_csv_holds_they_are_rows_or_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(content)
    try:
        rows(path)
    except SourceError as error:
        assert str(error).startswith("a.csv: ")  # noqa: PT017


# columns


def test_a_mapping_names_the_tables_column_first():
    assert column_mapping(["week=date", "units=qty=1"]) == {"week": "date", "units": "qty=1"}


@pytest.mark.parametrize("pair", ["week", "=date", "week=", ""])
def test_a_mapping_that_is_none_is_shown_with_an_example(pair):
    with pytest.raises(SourceError, match=r"expected TABLE_COLUMN=SOURCE_COLUMN.*week=date"):
        column_mapping([pair])


def renamed(columns, mapping, needed=("week", "units")):
    frame = pl.LazyFrame({name: [position] for position, name in enumerate(columns)})
    from tasks.ingest.sources import Source

    source_frame = rename(Source("a.csv", frame), mapping, needed).frame.collect()
    return {name: source_frame[name][0] for name in source_frame.columns}


def test_a_mapped_column_has_its_new_name_and_the_others_keep_theirs():
    assert renamed(["date", "units", "price"], {"week": "date"}) == {"week": 0, "units": 1, "price": 2}


def test_a_mapped_column_takes_the_place_of_one_that_has_the_name_already():
    assert renamed(["week", "date", "units"], {"week": "date"}) == {"week": 1, "units": 2}


def test_two_columns_can_swap_their_names():
    assert renamed(["week", "units"], {"week": "units", "units": "week"}) == {"units": 0, "week": 1}


def test_a_mapping_serves_several_files_of_which_some_have_the_tables_names_already():
    assert renamed(["week", "units"], {"week": "date"}) == {"week": 0, "units": 1}


def test_a_missing_column_is_named_with_what_was_found_and_how_to_map_it():
    with pytest.raises(SourceError) as caught:
        renamed(["date", "units"], {})
    message = str(caught.value)
    assert message.startswith("a.csv: column 'week' is missing. Found: date, units.")
    assert "--column week=" in message


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(SourceError) as caught:
        renamed(["Datum", "Absatz", "Preis"], {"units": "Menge"})
    assert "columns 'week' and 'units' (mapped from 'Menge') are missing. Found: Datum" in str(caught.value)
    assert "Map them with --column week=Datum --column units=Absatz, or" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "way"),
    [
        (
            ["Lineitem quantity", "Order date"],
            "--column week='Order date' --column units='Lineitem quantity'",
        ),
        (["Qty", "Quantity", "Day"], "--column week=Day --column units=NAME_IN_THE_FILE"),
    ],
)
def test_a_column_is_proposed_if_it_alone_has_a_usual_name(columns, way):
    with pytest.raises(SourceError) as caught:
        renamed(columns, {})
    assert way in str(caught.value)


def test_an_empty_column_is_not_proposed(tmp_path):
    (tmp_path / "a.csv").write_text("t_stamp,tagpath,intvalue,floatvalue\n1700000000,a,,1.5\n")
    with pytest.raises(SourceError, match=r"tag=tagpath --column time=t_stamp --column value=floatvalue"):
        rename(next(read(str(tmp_path / "a.csv"))), {}, ["tag", "time", "value"])


def test_names_in_another_encoding_lead_to_the_option(tmp_path):
    (tmp_path / "a.csv").write_text("Tydzień,Ilość\n2024-01-01,1\n", encoding="cp1250")
    with pytest.raises(
        SourceError, match="If names look wrong, name the encoding of the file with --encoding"
    ):
        rename(next(read(str(tmp_path / "a.csv"))), {"units": "Ilość"}, ["week", "units"])


def test_a_missing_column_that_was_mapped_says_from_what():
    with pytest.raises(SourceError, match=r"'week' \(mapped from 'day'\) is missing"):
        renamed(["date", "units"], {"week": "day"})


# Blob


@pytest.fixture(scope="module")
def blob(azurite) -> str:
    """A container with two CSV files, a Parquet file, a Delta table and something else."""
    import obstore

    from tasks.storage.uris import object_store

    root = azurite.container()
    content = object_store(root)
    for number in (1, 2):
        text = ROWS.with_columns(file=pl.lit(number)).write_csv()
        obstore.put(content, f"data/year={number}/part.csv", text.encode())
    obstore.put(content, "data/notes.txt", b"not data")
    ROWS.write_parquet(f"{root}/a.parquet")
    write_deltalake(f"{root}/table", ROWS)
    return root


def test_a_file_a_folder_a_glob_and_a_delta_table_are_read_from_blob(blob):
    assert rows(f"{blob}/data/year=1/part.csv")["file"].to_list() == ["1", "1"]
    assert rows(f"{blob}/data")["file"].to_list() == ["1", "1", "2", "2"]
    assert rows(f"{blob}/data/")["file"].to_list() == ["1", "1", "2", "2"]
    assert rows(f"{blob}/data/*/*.csv")["file"].to_list() == ["1", "1", "2", "2"]
    assert names(f"{blob}/data/*/*.csv") == ["year=1/part.csv", "year=2/part.csv"]
    assert_frame_equal(rows(f"{blob}/a.parquet"), ROWS)
    assert_frame_equal(rows(f"{blob}/table"), ROWS)


@pytest.mark.parametrize("name", ["my data", "jörg", "50%", "a%20b", "a[1]", "#1", "a=b", "a?b", "a*b"])
def test_a_source_may_have_any_name(azurite, tmp_path, name):
    from tasks.storage.uris import object_store

    content = ROWS.write_csv().encode()
    root = azurite.container()
    object_store(root).put(f"{name}/{name}.csv", content)
    object_store(root).put("a-b/a-b.csv", b"another file, that a glob may match")
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.csv").write_bytes(content)
    for folder in (f"{root}/{name}", str(tmp_path / name)):
        for uri in (folder, f"{folder}/{name}.csv"):
            (source,) = read(uri)
            assert source.rows().height == ROWS.height


@pytest.mark.parametrize("path", ["missing.csv", "missing", "data/year=1/missing*.csv", "dat"])
def test_where_there_is_nothing_in_blob_the_address_is_named(blob, path):
    with pytest.raises(SourceError, match=r"no such file"):
        list(read(f"{blob}/{path}"))


def test_a_container_that_does_not_exist_is_named(blob):
    with pytest.raises(SourceError, match="no-such-container"):
        list(read("az://no-such-container/a.csv"))


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("date,store\n2024-01-01,A\n", "--column week=date"),
        ("vibration,store\n0.5,A\n", "--column week=NAME_IN_THE_FILE"),
    ],
)
def test_a_column_of_readings_is_not_proposed_for_a_missing_one(tmp_path, text, way):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SourceError, match=f"column 'week' is missing.*\\n.*{way}"):
        rename(next(read(str(tmp_path / "a.csv"))), {}, ["week", "store"])
