"""Rows of a SQL database as a source: PostgreSQL through ADBC, others through SQLAlchemy, some rows at a time.

An address has no user or password. For PostgreSQL they come from `PGUSER` and `PGPASSWORD` (on Azure, the identity of
the process is used if there is no password), for SQL Server from `SQLCMDUSER` and `SQLCMDPASSWORD`. Nothing is written:
transactions are read-only, or rolled back.
"""

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl

from models.addresses import carries_credential
from tasks.ingest.numbers import plain_numbers
from tasks.ingest.sources import Source, SourceError, UnreadableError
from tasks.storage.azure_postgresql import with_identity

if TYPE_CHECKING:
    import sqlalchemy as sa

_KINDS = re.compile(r"(postgres(ql)?|mssql(\+\w+)?|sqlite)://")
_POSTGRESQL = re.compile(r"postgres(ql)?://")
_NAME = r"[\w $-]+"
_TABLE = re.compile(rf"({_NAME})(?:\.({_NAME}))?")
_ROWS_AT_A_TIME = 100_000
_EXPECTED = (
    "Expected postgresql://HOST/DATABASE, mssql+pyodbc://HOST/DATABASE?driver=ODBC+Driver+18+for+SQL+Server or "
    "sqlite:////FILE, each with --query 'select ...' or with #TABLE or #SCHEMA.TABLE at its end"
)


def is_sql(uri: str) -> bool:
    """Whether the address of a source is that of a SQL database."""
    return bool(_KINDS.match(uri))


def read_sql(uri: str, query: str | None, folder: Path) -> Source:
    """The rows of a query, or of the table that the address names, kept in Parquet files in `folder`.

    Raises `SourceError` if the address has a user or password, a driver is missing, or the database refuses the query.
    """
    if carries_credential(uri):
        raise SourceError(
            "The address of a SQL source has a user or password. Expected neither: set PGUSER and PGPASSWORD for "
            "PostgreSQL, SQLCMDUSER and SQLCMDPASSWORD for SQL Server."
        )
    import sqlalchemy as sa

    address, _, table = uri.partition("#")
    if table:
        query = None
    elif not query:
        raise SourceError(f"{uri}: there is neither a table nor --query. {_EXPECTED}.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        url = sa.make_url(address)
        statement = query or _select_all(url, unquote(table))
        batches = _of_postgresql if _POSTGRESQL.match(uri) else _of_others
        frames = [_kept(rows, folder / f"{n}.parquet") for n, rows in enumerate(batches(url, statement))]
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{address}: the package '{error.name}' is missing. Install it next to Almanac (for SQL Server: "
            "pip install pyodbc, and Microsoft's ODBC driver)."
        ) from None
    except (sa.exc.SQLAlchemyError, _adbc_error(), OSError) as error:
        message = " ".join(str(getattr(error, "orig", None) or error).split())[:400]
        raise UnreadableError(
            f"{address}: {message}\nExpected a database that answers, and a query or table that exists: {statement[:200]}"
        ) from None
    if not frames:
        raise SourceError(f"{uri}: the query returned no rows. Expected at least one: {statement[:200]}")
    return Source(uri, *plain_numbers(pl.concat(frames, how="vertical_relaxed"), has_points=True))


def _kept(rows: pl.DataFrame, path: Path) -> pl.LazyFrame:
    rows.write_parquet(path)
    return pl.scan_parquet(path)


def _select_all(url: "sa.URL", table: str) -> str:
    import sqlalchemy as sa

    match = _TABLE.fullmatch(table)
    if not match:
        raise SourceError(f"#{table} is not the name of a table. Expected #TABLE or #SCHEMA.TABLE.")
    schema, name = (match[1], match[2]) if match[2] else (None, match[1])
    identifier = url.get_dialect()().identifier_preparer.format_table(sa.table(name, schema=schema))
    return f"select * from {identifier}"  # noqa: S608


def _of_postgresql(url: "sa.URL", query: str) -> Iterator[pl.DataFrame]:
    from adbc_driver_postgresql import dbapi

    address = with_identity(url.set(drivername="postgresql"))
    if "connect_timeout" not in address.query:
        address = address.update_query_dict({"connect_timeout": "15"})
    with (
        closing(dbapi.connect(address.render_as_string(hide_password=False))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("set transaction read only")
        cursor.execute(query)
        for batch in cursor.fetch_record_batch():
            if batch.num_rows:
                yield pl.DataFrame([_plain(column) for column in pl.DataFrame(pl.from_arrow(batch))])


def _plain(column: pl.Series) -> pl.Series:
    """A column without a database-specific type, such as `numeric`, whose values arrive as text."""
    return column.ext.storage() if isinstance(column.dtype, pl.BaseExtension) else column


def _of_others(url: "sa.URL", query: str) -> Iterator[pl.DataFrame]:
    import sqlalchemy as sa

    if url.get_backend_name() == "mssql" and os.environ.get("SQLCMDUSER"):
        url = url.set(username=os.environ["SQLCMDUSER"], password=os.environ.get("SQLCMDPASSWORD"))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise SourceError(f"{url}: there is no such file. {_EXPECTED}.")
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        result = connection.execution_options(yield_per=_ROWS_AT_A_TIME).execute(sa.text(query))
        if not result.returns_rows:
            raise SourceError(f"--query returns no rows. Expected a select: {query[:200]}")
        for rows in result.partitions():
            columns = {name: [row[i] for row in rows] for i, name in enumerate(result.keys())}
            yield pl.DataFrame(columns, strict=False)


def _adbc_error() -> type[Exception]:
    from adbc_driver_manager import Error

    return Error
