"""The server of `make deploy` as it starts, without a server."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from deployments.local import Local, LocalError
from flows import server
from flows._locking import lock_when_transactions_begin


@pytest.fixture
def starting(tmp_path: Path, monkeypatch) -> Local:
    """A server that has been started, and answers the fourth time that it is asked."""
    answers = iter([False, False, False, True])
    monkeypatch.setattr(Local, "_answers", lambda _: next(answers))
    monkeypatch.setattr(Local, "running", lambda *_: True)
    return Local(1, tmp_path)


def test_a_server_is_waited_for_as_long_as_it_starts_and_it_is_said_for_how_long(
    starting, monkeypatch, capsys
):
    monkeypatch.setattr(server, "_NEWS_SECONDS", 0)
    starting._wait()
    assert capsys.readouterr().err.count("The Prefect server has been starting for 0 s") == 3


def test_a_server_that_ends_is_waited_for_no_longer(starting, monkeypatch):
    monkeypatch.setattr(Local, "running", lambda *_: None)
    with pytest.raises(LocalError, match=r"did not start. Its log says why: .*server\.log"):
        starting._wait()


def test_transactions_of_a_server_keep_other_writers_waiting_before_they_read_but_no_readers(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    lock_when_transactions_begin()
    file = tmp_path / "prefect.db"

    async def begin_beside_it() -> None:
        database = provide_database_interface()
        async with database.session_context(begin_transaction=True):
            async with database.session_context() as reader:
                assert (await reader.execute(sa.text("select 1"))).scalar() == 1
            with closing(sqlite3.connect(file, timeout=0)) as other:
                other.execute("begin immediate")

    with (
        temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{file}"}),
        pytest.raises(sqlite3.OperationalError, match="database is locked"),
    ):
        asyncio.run(begin_beside_it())
