"""Transactions of a Prefect server on SQLite that take the lock for writing when they begin, and so wait for each other.

Prefect begins most of its transactions without the lock, reads and then writes. SQLite refuses that write at once, however
long one may wait for a lock, where another transaction has written since the read. The client tries a refused request
again five times and then gives up, and with it the run; the server tries to evaluate an event four times and then drops
it, and with it the alert. With 50 runs at once and busy processors, 28 of 50 could not be created; none when all
transactions take the lock first. Sessions that only read have no transaction and wait for nobody.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


@asynccontextmanager
async def _begin(
    _: AioSqliteConfiguration, session: AsyncSession, **_with_for_update: bool
) -> AsyncIterator[AsyncSessionTransaction]:
    """A transaction that has the lock; sessions that are opened in it begin as outside of it."""
    async with session.begin() as transaction:
        token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()
        finally:
            SQLITE_BEGIN_MODE.reset(token)
        yield transaction


def lock_when_transactions_begin() -> None:
    """Make the transactions of a server that is started in this process take SQLite's lock for writing first."""
    AioSqliteConfiguration.begin_transaction = _begin  # type: ignore[assignment,method-assign]
