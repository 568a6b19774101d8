"""Prefect's command line, whose server loses no alert on SQLite: `python -m deployments.prefect_server server start`.

For each event, Prefect reads what its automations have counted so far and then writes it. SQLite refuses the second
step at once, whatever the time to wait for a lock, where another transaction has written in between. Prefect gives up
an event after four tries, and with it the alert. Here, that transaction takes the lock for writing before it reads.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.cli import app
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from sqlalchemy.ext.asyncio import AsyncSession


@asynccontextmanager
async def locking_session(begin_transaction: bool = False) -> AsyncIterator[AsyncSession]:
    """A session of the server's database whose transaction, if it has one, keeps other writers waiting from its begin."""
    database = provide_database_interface()
    async with database.session_context(begin_transaction, with_for_update=True) as session:
        yield session


if __name__ == "__main__":
    triggers.automations_session = locking_session  # type: ignore[assignment]
    app()
