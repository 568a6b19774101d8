"""Published rows in SQL databases: a real PostgreSQL, and SQLite for what SQLAlchemy does."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import date, datetime

import polars as pl
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import mssql

from tasks.sql import databases
from tasks.sql.databases import SqlError, transaction
from tasks.sql.publish import publish_sql
from tasks.storage import azure_postgresql
from tasks.storage.store import Store
from tests import postgresql, steps
from tests.toy import HOURLY, TOY, hourly_values, values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_run_logger")]

TABLE = "almanac.toy_doubled"


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as database:
        yield database


@pytest.fixture
def postgres(server) -> postgresql.Server:
    """The server with an empty database."""
    server.ask("drop schema if exists almanac cascade")
    return server


@pytest.fixture
def scored(store) -> Store:
    """A store with the toy's three days published, the last one last."""
    steps.put(store)
    steps.train(store, date(2024, 1, 1))
    for day in (1, 2, 3):
        steps.score(store, date(2024, 1, day))
    return store


def bring(store: Store, url: str, as_of=None, scenario=TOY) -> dict[str, int]:
    return publish_sql.fn(steps.resolve(store, as_of, scenario=scenario), SecretStr(url))


def in_the_store(store: Store, *days: int) -> list[tuple]:
    rows = store.scan("toy/doubled").filter(pl.col("as_of").is_in([date(2024, 1, day) for day in days]))
    return sorted(rows.select("name", "value", "names", "as_of", "bundle", "run_id").collect().rows())


def in_sql(postgres) -> list[tuple]:
    rows = postgres.ask(f"select name, value, names, as_of, bundle, run_id from {TABLE}")
    return sorted(rows)


def test_the_published_rows_of_a_run_are_in_the_table_and_again_without_duplicates(postgres, scored):
    assert bring(scored, postgres.url) == {"toy/doubled": 12}
    assert in_sql(postgres) == in_the_store(scored, 3)
    assert len(in_sql(postgres)) == 12
    assert bring(scored, postgres.url) == {"toy/doubled": 12}
    assert in_sql(postgres) == in_the_store(scored, 3)
    kinds = dict(
        postgres.ask(
            "select column_name, data_type from information_schema.columns where table_name = 'toy_doubled'"
        )
    )
    assert kinds["value"] == "double precision"
    assert kinds["as_of"] == "date"
    assert kinds["names"] == "bigint"
    ((run_id, rows),) = postgres.ask("select run_id, rows from almanac.publications")
    assert (run_id, rows) == (in_sql(postgres)[0][-1], 12)


def test_rows_that_someone_changed_or_removed_are_put_right(postgres, scored):
    bring(scored, postgres.url)
    postgres.ask(f"update {TABLE} set value = 0 where name = 'n01'")
    postgres.ask(f"delete from {TABLE} where name = 'n02'")
    bring(scored, postgres.url)
    assert in_sql(postgres) == in_the_store(scored, 3)


def test_other_days_stay_and_a_day_that_is_published_anew_is_replaced(postgres, scored):
    bring(scored, postgres.url, date(2024, 1, 2))
    bring(scored, postgres.url)
    steps.put(scored, values().with_columns(pl.col("value") + 100))
    steps.score(scored)
    bring(scored, postgres.url)
    assert in_sql(postgres) == in_the_store(scored, 2, 3)
    assert min(row[1] for row in in_sql(postgres) if row[3] == date(2024, 1, 3)) > 200


def test_what_the_store_has_counts_and_not_the_run_that_comes_last(postgres, scored):
    older = steps.resolve(scored)
    steps.put(scored, values().with_columns(pl.col("value") + 100))
    steps.score(scored)
    bring(scored, postgres.url)
    publish_sql.fn(older, SecretStr(postgres.url))
    assert in_sql(postgres) == in_the_store(scored, 3)
    assert min(row[1] for row in in_sql(postgres)) > 200


def test_days_that_did_not_arrive_are_brought_by_the_next_run_but_none_before_the_first(postgres, scored):
    bring(scored, postgres.url, date(2024, 1, 2))
    steps.put(scored, values(days=4))
    steps.score(scored)
    bring(scored, postgres.url)
    assert in_sql(postgres) == in_the_store(scored, 2, 3, 4)
    assert len(in_sql(postgres)) == 36


def test_moments_keep_their_time_zone(postgres, store):
    steps.put(store, hourly_values(), HOURLY)
    steps.train(store, scenario=HOURLY)
    steps.score(store, scenario=HOURLY)
    bring(store, postgres.url, scenario=HOURLY)
    ((as_of,),) = postgres.ask(f"select distinct as_of from {TABLE}")
    assert as_of == datetime.fromisoformat("2018-08-29T03:00:00+00:00")


def test_a_column_that_the_table_lacks_is_added(postgres, scored):
    bring(scored, postgres.url)
    steps.score(scored, columns=["extra"])
    bring(scored, postgres.url)
    assert postgres.ask(f"select count(*), count(extra) from {TABLE}") == [(12, 12)]


def test_readers_see_the_old_rows_or_the_new_ones(postgres, scored, monkeypatch):
    bring(scored, postgres.url)
    before = in_sql(postgres)
    steps.put(scored, values().with_columns(pl.col("value") + 100))
    steps.score(scored)
    insert, views = databases._Adbc.insert, []

    def looking(self, table, rows):
        views.append(in_sql(postgres))
        insert(self, table, rows)
        views.append(in_sql(postgres))
        raise OSError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(databases._Adbc, "insert", looking)
        with pytest.raises(SqlError, match="the machine is gone"):
            bring(scored, postgres.url)
    assert views == [before, before]
    assert in_sql(postgres) == before
    bring(scored, postgres.url)
    assert in_sql(postgres) == in_the_store(scored, 3)


def test_four_that_write_the_first_rows_at_once_leave_one_set(postgres, scored):
    barrier = threading.Barrier(4)

    def write(_: int) -> dict[str, int]:
        barrier.wait(60)
        return bring(scored, postgres.url)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == [{"toy/doubled": 12}] * 4
    assert in_sql(postgres) == in_the_store(scored, 3)
    assert postgres.ask("select count(*) from almanac.publications") == [(1,)]


# what goes wrong


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://postgres:hush-hush@{where}", "password authentication failed"),
        ("postgresql://postgres:hush-hush@127.0.0.1:1/postgres", "refused"),
        ("postgresql://postgres:hush-hush@{where}?nonsense=hush-hush", "nonsense"),
        (
            "postgresql://postgres:hush-hush@{where}-that-is-not-there",
            "password authentication|does not exist",
        ),
        ("postgresql://postgres@{where}?password=hush-hush", "password authentication failed"),
        ("mysql://root:hush-hush@127.0.0.1/x", "mysql is not a supported kind of database"),
        ("mssql+pyodbc://sa:hush-hush@127.0.0.1/x", "'pyodbc' is missing. Install it"),
        ("hush-hush", "not the address of a database"),
        ("postgresql://postgres:hush/hush-hush@{where}:port", "."),
        ("postgresql://postgres:p@hush-hush@{where}", "more than one @"),
        ("postgresql://postgres:p@hush-hush/@{where}", "more than one @"),
        ("mssql+pyodbc://sa:p@hush-hush?x=@127.0.0.1/x", "more than one @"),
    ],
)
def test_a_database_that_cannot_be_written_is_told_without_its_password(postgres, url, message):
    with (
        pytest.raises(SqlError, match=message) as error,
        transaction(SecretStr(url.format(where=postgres.where))),
    ):
        pass
    assert "hush-hush" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_the_password_may_come_from_the_standard_environment(postgres, scored, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", postgresql.PASSWORD)
    assert bring(scored, f"postgresql://postgres@{postgres.where}") == {"toy/doubled": 12}


def test_azures_postgresql_is_opened_with_a_token_of_the_identity(postgres, scored, monkeypatch):
    monkeypatch.setattr(azure_postgresql, "_token", lambda: postgresql.PASSWORD)
    host = "almanac.postgres.database.azure.com"
    url = f"postgresql://postgres@{host}:{postgres.port}/postgres?hostaddr=127.0.0.1"
    with pytest.raises(SqlError, match="does not support SSL"):
        bring(scored, url)
    certificate = postgres.serve_tls(host)
    with pytest.raises(SqlError, match="certificate verify failed"):
        bring(scored, url)
    for weak in ("require", "prefer", "disable", "verify-ca"):
        with pytest.raises(azure_postgresql.IdentityError, match=f"sslmode={weak}. A token of the identity"):
            bring(scored, f"{url}&sslmode={weak}")
    assert bring(scored, f"{url}&sslrootcert={certificate}") == {"toy/doubled": 12}
    assert len(in_sql(postgres)) == 12


# SQLAlchemy


def test_a_database_by_sqlalchemy_has_the_same_rows(scored, tmp_path):
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    for _ in range(2):
        bring(scored, url, date(2024, 1, 2))
        assert bring(scored, url) == {"toy/doubled": 12}
    steps.score(scored, columns=["extra"])
    bring(scored, url)
    with sqlite3.connect(tmp_path / "rows.db") as database:
        rows = database.execute(
            "select name, value, names, as_of, bundle, run_id from toy_doubled"
        ).fetchall()
        extra = database.execute("select count(extra) from toy_doubled").fetchone()
    rows_of_store = [(*row[:3], row[3].isoformat(), *row[4:]) for row in in_the_store(scored, 2, 3)]
    assert sorted(rows) == sorted(rows_of_store)
    assert extra == (12,)


# the command line


def test_a_run_is_published_though_the_database_is_down_and_started_again_it_brings_its_rows(
    server, postgres, scored, command, monkeypatch
):
    monkeypatch.setenv("ALMANAC_SQL_URL", postgres.url)
    steps.put(scored, values(days=4))
    words = ("toy", "score", "--store", scored.uri, "--json")
    server.stop()
    try:
        output = command(*words)
    finally:
        server.start()
    assert output.status == 1
    assert "The run is published in the store nevertheless." in output.err
    for secret in (postgresql.PASSWORD, postgresql.QUOTED):
        assert secret not in output.err + output.out
    rows = in_the_store(scored, 4)
    assert len(rows) == 12
    again = command(*words)
    assert again.status == 0, again.err
    assert again.json["sql"] == {"toy/doubled": 12}
    assert again.json["reused_shards"] == 4
    assert in_sql(postgres) == rows == in_the_store(scored, 4)
    monkeypatch.delenv("ALMANAC_SQL_URL")
    assert "sql" not in command(*words).json


AZURE = mssql.dialect(deprecate_large_types=True)


class TransactSql:
    """An empty Azure database that records statements without executing them."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.inserted = 0

    def run(self, statement):
        self.told.append(" ".join(str(statement.compile(dialect=AZURE)).split()))
        return []

    def insert(self, table, rows):
        self.run(sa.insert(table))
        self.inserted += rows.height

    def columns(self, table):
        return set()

    def has_schema(self):
        return False

    def add_column(self, table, column):
        raise AssertionError


def test_all_that_is_sent_can_be_said_in_transact_sql(scored, monkeypatch):
    database = TransactSql()
    monkeypatch.setattr("tasks.sql.publish.transaction", lambda url: nullcontext(database))
    assert bring(scored, "mssql+pyodbc://host/database") == {"toy/doubled": 12}
    assert database.inserted == 12
    statements = "; ".join(database.told)
    assert "CREATE SCHEMA almanac; CREATE TABLE almanac.toy_doubled ( name NVARCHAR(max) NULL" in statements
    assert "value DOUBLE PRECISION NULL" in statements
    assert "CREATE INDEX toy_doubled_as_of ON almanac.toy_doubled (as_of)" in statements
    assert "DELETE FROM almanac.toy_doubled WHERE almanac.toy_doubled.as_of = " in statements
    assert "written DATETIMEOFFSET NULL" in statements
