"""SQL databases as sources."""

import sqlite3
from collections.abc import Iterator

import pytest

from models.devices.scenario import DEVICES
from models.sales import SALES
from tasks.ingest import sql
from tasks.ingest.pipeline import ingest
from tasks.ingest.sources import SourceError, UnreadableError
from tasks.storage import azure_postgresql
from tests import postgresql
from tests.steps import read


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as database:
        database.ask('create table "Sales" (sku text, store int, week date, units numeric(8, 2), price real)')
        database.ask(
            """insert into "Sales" values ('A', 1, '2024-01-01', 1.5, 2), ('B', 1, '2024-01-08', 3, null)"""
        )
        database.ask("create table points (device text, tag text, time timestamptz, value float8)")
        database.ask(
            "insert into points select 'd', 't', timestamptz '2024-01-01 00:00Z' + n * interval '1 minute', n "
            "from generate_series(0, 999) as n"
        )
        yield database


@pytest.fixture
def address(server, monkeypatch) -> str:
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGPASSWORD", postgresql.PASSWORD)
    return f"postgresql://{server.where}"


@pytest.fixture
def file(tmp_path) -> str:
    with sqlite3.connect(tmp_path / "sales.db") as connection:
        connection.execute("create table sales (sku, store, week, units)")
        connection.executemany("insert into sales values (?, 'N', '2024-01-01', ?)", [("A", 5), ("B", 6.5)])
    connection.close()
    return f"sqlite:///{tmp_path / 'sales.db'}"


def history(store) -> list[tuple]:
    return sorted(store.scan("sales/history").select("sku", "store", "units").collect().rows())


def test_numbers_in_text_of_a_database_are_read_as_people_write_them(store, file):
    values = "select sku, store, week, '1.00' || (rowid + 1) || ',5' as units from sales"
    read(store, "history", file, SALES, query=values)
    assert history(store) == [("A", "N", 1002.5), ("B", "N", 1003.5)]


def test_a_table_of_postgresql_is_a_source(store, address):
    result = read(store, "history", f"{address}#public.Sales", SALES)
    assert history(store) == [("A", "1", 1.5), ("B", "1", 3.0)]
    assert store.scan("sales/history").collect().sort("sku")["price"].to_list() == [2.0, None]
    assert (result.read, result.source) == (2, f"{address}#public.Sales")


def test_azures_postgresql_is_read_with_a_token_of_the_identity_over_a_verified_connection(
    store, address, server, monkeypatch
):
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setattr(azure_postgresql, "_token", lambda: postgresql.PASSWORD)
    host = "almanac.postgres.database.azure.com"
    where = f"postgresql://{host}:{server.port}/postgres?hostaddr=127.0.0.1"
    certificate = server.serve_tls(host)
    with pytest.raises(azure_postgresql.IdentityError, match=r"sslmode=require. A token of the identity"):
        read(store, "history", f"{where}&sslmode=require#Sales", SALES)
    with pytest.raises(UnreadableError, match="certificate verify failed") as error:
        read(store, "history", f"{where}#Sales", SALES)
    assert postgresql.PASSWORD not in str(error.value)
    read(store, "history", f"{where}&sslrootcert={certificate}#Sales", SALES)
    assert history(store) == [("A", "1", 1.5), ("B", "1", 3.0)]
    monkeypatch.delenv("PGUSER")
    with pytest.raises(azure_postgresql.IdentityError, match="the name of the identity in PGUSER"):
        read(store, "history", f"{where}#Sales", SALES)


def test_a_query_of_postgresql_is_a_source_and_cannot_write(store, address, server):
    read(store, "readings", address, DEVICES, query="select * from points where value < 500")
    assert store.scan("devices/readings").collect().height == 500
    with pytest.raises(SourceError, match="read-only transaction"):
        read(store, "readings", address, DEVICES, query="delete from points returning *")
    assert server.ask("select count(*) from points") == [(1000,)]


def test_what_the_database_refuses_is_told_with_the_query(store, address, monkeypatch):
    with pytest.raises(SourceError, match=r'(?s)relation "pointz" does not exist.*select \* from pointz'):
        read(store, "readings", f"{address}#pointz", DEVICES)
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    with pytest.raises(SourceError, match="password authentication failed") as caught:
        read(store, "readings", f"{address}#points", DEVICES)
    assert "wrong-secret" not in str(caught.value)


def test_rows_of_other_databases_are_read_some_at_a_time(store, file, monkeypatch):
    monkeypatch.setattr(sql, "_ROWS_AT_A_TIME", 1)
    read(store, "history", f"{file}#sales", SALES)
    assert history(store) == [("A", "N", 5.0), ("B", "N", 6.5)]


def test_a_dry_run_shows_what_a_query_selects(store, file):
    result = read(store, "history", file, SALES, query="select * from sales where sku = 'A'", dry_run=True)
    assert (result.read, result.preview["dialect"]) == (1, "SQL")


def test_a_query_selects_from_one_source_and_another_may_name_its_table(store, file):
    query = "select sku, store, '2024-02-05' as week, 1 as promo from sales"
    sources = {"history": f"{file}#sales", "plan": file}
    ingest.fn(SALES, store, sources, {}, 4, 0.05, {"query": query})
    assert history(store) == [("A", "N", 5), ("B", "N", 6.5)]
    assert store.scan("sales/plan").select("promo").collect()["promo"].to_list() == [1, 1]


@pytest.mark.parametrize(
    ("address", "query", "message"),
    [
        ("postgresql://me:secret@host/db#sales", None, "PGUSER and PGPASSWORD"),
        ("postgresql://host/db", None, "neither a table nor --query"),
        ("postgresql://host/db#sales", "select 1", "--query selects from one"),
        ("sales.csv", "select 1", "--query selects from one"),
        ("mssql+pyodbc://host/db#sales", None, "'pyodbc' is missing"),
        ("sqlite:////nowhere.db#sales", None, "no such file"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_secrets(store, address, query, message):
    with pytest.raises(SourceError, match=message) as caught:
        read(store, "history", address, SALES, query=query)
    assert "secret" not in str(caught.value)
