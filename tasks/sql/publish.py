"""Published rows in a SQL database: each `as_of` in one transaction, once it is published in the store.

PostgreSQL is written through ADBC, other databases through SQLAlchemy. Tables are `almanac.<scenario>_<table>`, with
the columns of the published table; `almanac.publications` names the run that each `as_of` comes from.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import sqlalchemy as sa
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import SecretStr
from sqlalchemy.schema import CreateIndex, CreateSchema, CreateTable

from models.scenario import AsOf, DerivesTables
from tasks.registry import ledger
from tasks.scoring.runs import Run
from tasks.sql.databases import SCHEMA, Database, SqlError, transaction

_ROWS = 200_000
"""The number of rows in memory at a time."""

_TYPES: dict[type[pl.DataType], Any] = {
    pl.String: sa.UnicodeText(),
    pl.Boolean: sa.Boolean(),
    pl.Float32: sa.Double(),
    pl.Float64: sa.Double(),
    pl.Date: sa.Date(),
}


@task(name="publish-sql", cache_policy=NO_CACHE)
def publish_sql(run: Run, url: SecretStr) -> dict[str, int]:
    """Copy the newest published rows of the run's `as_of` to the database; return the number of rows by table.

    Existing rows of the `as_of` are replaced, together with those of the derived tables, in one transaction: readers
    see either the old or the new rows. The store's rows at that moment are copied, so that of two runs that publish the
    same `as_of` the later one wins, whichever copies first. Earlier `as_of`s that are in the ledger but missing here,
    because the database was down, are copied as well, but none before the first one in the database. Raises `SqlError`;
    rows in the store stay published.
    """
    tables = run.scenario.derived_tables if isinstance(run.scenario, DerivesTables) else ()
    names = list(dict.fromkeys([run.table, *(run.layout.table(name) for name in tables)]))
    counts: dict[str, int] = {}
    for as_of in [*_behind(run, url), run.as_of]:
        counts = _bring(run, url, as_of, names)
        get_run_logger().info("SQL: as of %s: %s", as_of, counts)
    return counts


def _behind(run: Run, url: SecretStr) -> list[AsOf]:
    """The `as_of`s in the ledger for which the database has another run's rows or none, oldest first."""
    entries = ledger.rows(run.store)
    if entries is None:
        return []
    mine = entries.filter(scenario=run.scenario.name, flow=run.flow).sort("ended")
    run_ids = {row["as_of"]: row["run_id"] for row in mine.select("as_of", "run_id").collect().to_dicts()}
    table = _publications()
    with transaction(url) as database:
        if not database.columns(table):
            return []
        where = (table.c.scenario == run.scenario.name) & (table.c.flow == run.flow)
        there = dict(
            tuple(row) for row in database.run(sa.select(table.c.as_of, table.c.run_id).where(where))
        )
    kind = type(run.as_of)
    first = min(map(kind.fromisoformat, there), default=None)
    gaps = {kind.fromisoformat(text) for text, run_id in run_ids.items() if there.get(text) != run_id}
    return sorted(as_of for as_of in gaps if first and first <= as_of != run.as_of)


def _bring(run: Run, url: SecretStr, as_of: AsOf, names: Iterable[str]) -> dict[str, int]:
    entry = ledger.last(run.store, run.scenario.name, run.flow, as_of)
    counts = {}
    with transaction(url) as database:
        if not database.has_schema():
            database.run(CreateSchema(SCHEMA))
        for name in names:
            if (every := run.store.find(name)) is None:
                continue
            rows = every.filter(pl.col("as_of") == as_of)
            table = _table(name, rows.collect_schema())
            _prepare(database, table)
            database.run(sa.delete(table).where(table.c.as_of == as_of))
            counts[name] = 0
            for batch in rows.collect_batches(chunk_size=_ROWS, maintain_order=True):
                if batch.height:
                    database.insert(table, batch.select(_cast(batch.schema)))
                    counts[name] += batch.height
        _record(database, run, as_of, str(entry["run_id"]) if entry else run.id, sum(counts.values()))
    return counts


def _record(database: Database, run: Run, as_of: AsOf, run_id: str, rows: int) -> None:
    table = _publications()
    _prepare(database, table)
    key = {"scenario": run.scenario.name, "flow": run.flow, "as_of": as_of.isoformat()}
    database.run(sa.delete(table).where(*(table.c[name] == value for name, value in key.items())))
    values = {**key, "run_id": run_id, "rows": rows, "written": datetime.now(UTC)}
    database.run(sa.insert(table).values(**values))


def _publications() -> sa.Table:
    text = sa.Unicode(200)
    columns = [sa.Column(name, text, nullable=False) for name in ("scenario", "flow", "as_of", "run_id")]
    moment = sa.Column("written", sa.DateTime(timezone=True))
    return sa.Table("publications", sa.MetaData(SCHEMA), *columns, sa.Column("rows", sa.BigInteger()), moment)


def _table(name: str, schema: pl.Schema) -> sa.Table:
    columns = [sa.Column(column, _type(name, column, dtype)) for column, dtype in schema.items()]
    table = sa.Table(name.replace("/", "_"), sa.MetaData(SCHEMA), *columns)
    sa.Index(f"{table.name}_as_of", table.c.as_of)
    return table


def _type(table: str, column: str, dtype: pl.DataType) -> Any:
    if isinstance(dtype, pl.Datetime):
        return sa.DateTime(timezone=dtype.time_zone is not None)
    if dtype.is_integer():
        return sa.BigInteger()
    if kind := _TYPES.get(type(dtype)):
        return kind
    raise SqlError(
        f"{table}: column '{column}' has the type {dtype}, which has no SQL equivalent. Expected text, numbers, dates or "
        "times; let the scenario publish it as JSON text."
    )


def _cast(schema: pl.Schema) -> list[pl.Expr]:
    """The columns in the types of the table: all integers in 64 bits, all floats in double precision."""
    kinds = {
        name: pl.Int64 if dtype.is_integer() else pl.Float64
        for name, dtype in schema.items()
        if dtype.is_numeric()
    }
    return [pl.col(name).cast(kinds[name]) if name in kinds else pl.col(name) for name in schema]


def _prepare(database: Database, table: sa.Table) -> None:
    """Create the table if it does not exist, and any missing columns."""
    names = database.columns(table)
    if not names:
        database.run(CreateTable(table))
        for index in table.indexes:
            database.run(CreateIndex(index))
        return
    for column in table.columns:
        if column.name not in names:
            database.add_column(table, column)
