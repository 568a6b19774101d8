"""SQL databases to write to: PostgreSQL through ADBC, which copies rows in binary form, others through SQLAlchemy."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import polars as pl
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql

from models.errors import AlmanacError
from tasks.storage.azure_postgresql import with_identity

SCHEMA = "almanac"
_CONNECT_SECONDS = "15"
_LOCK_MINUTES = 10
_LOCK = 4_711_204_211
"""A writer holds this lock of the database until the end of its transaction."""

_MSSQL_LOCK = """
declare @got int;
exec @got = sp_getapplock @Resource = 'almanac', @LockMode = 'Exclusive', @LockTimeout = :patience;
if @got < 0 throw 51000, 'Other writers hold the lock.', 1;
"""

_EXPECTED = (
    "Expected ALMANAC_SQL_URL as postgresql://USER@HOST/DATABASE, mssql+pyodbc://HOST/DATABASE?driver=... or "
    "sqlite:////FILE."
)


class SqlError(AlmanacError):
    """The SQL database cannot be reached, or refuses a request."""

    is_temporary = True


@contextmanager
def transaction(url: SecretStr) -> Iterator["Database"]:
    """An exclusive write transaction, which is committed at the end and rolled back on an error.

    Errors are raised as `SqlError` with the message of the database, without any secret of `url`.
    """
    address = _address_of(url)
    try:
        is_postgresql = address.drivername in ("postgresql", "postgres")
        with _postgresql(address) if is_postgresql else _other(address) as database:
            yield database
    except AlmanacError:
        raise
    except ModuleNotFoundError as error:
        raise SqlError(
            f"{_public_address(address)}: the package '{error.name}' is missing. Install it next to Almanac "
            f"(for Azure SQL: pip install pyodbc, and Microsoft's ODBC driver), or use another database. {_EXPECTED}"
        ) from None
    except (sa.exc.SQLAlchemyError, _adbc_error(), OSError) as error:
        raise SqlError(
            f"{_public_address(address)}: {_without_secrets(error, address)}\n"
            "The run is published in the store nevertheless. Correct the cause and start the run again: it copies "
            "its rows to the database; so does the next run of the scenario."
        ) from None


class _Adbc:
    """An open transaction of PostgreSQL through ADBC; a lock serializes all writers."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._dialect = postgresql.dialect(paramstyle="named")

    def run(self, statement: Any) -> Sequence[Any]:
        """The rows that a statement returns; empty for a statement that returns none."""
        options = {} if isinstance(statement, sa.schema.ExecutableDDLElement) else {"literal_binds": True}
        self._cursor.execute(str(statement.compile(dialect=self._dialect, compile_kwargs=options)))
        return list(self._cursor.fetchall()) if isinstance(statement, sa.Select) else []

    def insert(self, table: sa.Table, rows: pl.DataFrame) -> None:
        """Add rows; their columns have the table's names and types."""
        self._cursor.adbc_ingest(table.name, rows.to_arrow(), mode="append", db_schema_name=SCHEMA)

    def columns(self, table: sa.Table) -> set[str]:
        """Names of the columns of a table; empty if it does not exist."""
        names = ("table_schema", "table_name", "column_name")
        catalogue = sa.table(
            "columns", *(sa.column(name, sa.Text()) for name in names), schema="information_schema"
        )
        where = (catalogue.c.table_schema == SCHEMA) & (catalogue.c.table_name == table.name)
        return {str(name) for (name,) in self.run(sa.select(catalogue.c.column_name).where(where))}

    def add_column(self, table: sa.Table, column: sa.Column[Any]) -> None:
        """Add a missing column to a table."""
        self._cursor.execute(_add_column(table, column, self._dialect))

    def has_schema(self) -> bool:
        """Whether the schema of the tables exists, or the database has no schemas."""
        namespaces = sa.table("pg_namespace", sa.column("nspname", sa.Text()))
        return bool(self.run(sa.select(namespaces.c.nspname).where(namespaces.c.nspname == SCHEMA)))


class _Sqlalchemy:
    """The same as `_Adbc`, of any other database through SQLAlchemy."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def run(self, statement: Any) -> Sequence[Any]:
        result = self._connection.execute(statement)
        return list(result.fetchall()) if result.returns_rows else []

    def insert(self, table: sa.Table, rows: pl.DataFrame) -> None:
        self._connection.execute(sa.insert(table), rows.to_dicts())

    def columns(self, table: sa.Table) -> set[str]:
        inspector = sa.inspect(self._connection)
        if not inspector.has_table(table.name, schema=self._schema()):
            return set()
        return {column["name"] for column in inspector.get_columns(table.name, schema=self._schema())}

    def has_schema(self) -> bool:
        return self._schema() is None or SCHEMA in sa.inspect(self._connection).get_schema_names()

    def add_column(self, table: sa.Table, column: sa.Column[Any]) -> None:
        there = sa.Table(table.name, sa.MetaData(), schema=self._schema())
        wide = _add_column(there, column, self._connection.dialect)
        self._connection.execute(sa.text(wide))

    def _schema(self) -> str | None:
        return None if self._connection.dialect.name == "sqlite" else SCHEMA


Database = _Adbc | _Sqlalchemy


def _add_column(table: sa.Table, column: sa.Column[Any], dialect: sa.Dialect) -> str:
    name = dialect.identifier_preparer.format_table(table)
    kind = column.type.compile(dialect=dialect)
    return f"alter table {name} add {dialect.identifier_preparer.format_column(column)} {kind}"


@contextmanager
def _postgresql(address: sa.URL) -> Iterator[_Adbc]:
    from adbc_driver_postgresql import dbapi

    address = address.set(drivername="postgresql")
    if "connect_timeout" not in address.query:
        address = address.update_query_dict({"connect_timeout": _CONNECT_SECONDS})
    address = with_identity(address)
    with closing(dbapi.connect(address.render_as_string(hide_password=False))) as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"set local lock_timeout = '{_LOCK_MINUTES}min'")
            cursor.execute(f"select pg_advisory_xact_lock({_LOCK})")
            yield _Adbc(cursor)
        connection.commit()


@contextmanager
def _other(address: sa.URL) -> Iterator[_Sqlalchemy]:
    kind = address.get_backend_name()
    if kind not in ("mssql", "sqlite", "postgresql"):
        raise SqlError(f"{_public_address(address)}: {kind} is not a supported kind of database. {_EXPECTED}")
    fast = {"fast_executemany": True} if address.drivername == "mssql+pyodbc" else {}
    engine = sa.create_engine(address, poolclass=sa.NullPool, hide_parameters=True, **fast)
    if kind == "sqlite":
        _lock_from_the_beginning(engine)
        engine = engine.execution_options(schema_translate_map={SCHEMA: None})
    with engine.begin() as connection:
        if kind == "postgresql":
            connection.execute(sa.text(f"select pg_advisory_xact_lock({_LOCK})"))
        if kind == "mssql":
            connection.execute(sa.text(_MSSQL_LOCK), {"patience": _LOCK_MINUTES * 60_000})
        yield _Sqlalchemy(connection)


def _lock_from_the_beginning(engine: sa.Engine) -> None:
    """Make SQLite lock at the beginning of each transaction; by default it locks at the first change of a row."""

    @sa.event.listens_for(engine, "connect")
    def by_hand(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("begin immediate")


def _address_of(url: SecretStr) -> sa.URL:
    text = url.get_secret_value()
    try:
        address = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise SqlError(f"ALMANAC_SQL_URL is not the address of a database. {_EXPECTED}") from None
    if "@" in (address.host or "") or (address.password and text.count("@") > 1):
        raise SqlError(
            "ALMANAC_SQL_URL has more than one @. Write one in a user or password as %40, and : / ? as %3A %2F %3F."
        )
    return address


def _adbc_error() -> type[Exception]:
    from adbc_driver_manager import Error

    return Error


def _public_address(address: sa.URL) -> str:
    """Kind, host and name of a database: the parts of its address that cannot be secret."""
    host = address.host or ""
    return f"{address.get_backend_name()}://{host}/{address.database or ''}"


def _without_secrets(error: Exception, address: sa.URL) -> str:
    """The message of an error in one line, without the password and the values of the address's query."""
    message = " ".join(str(error).split())[:600]
    secret = [address.password, os.environ.get("PGPASSWORD"), *address.query.values()]
    for value in secret:
        for one in (value,) if isinstance(value, str) else (value or ()):
            message = message.replace(one, "***") if len(one) > 2 else message
    return message
