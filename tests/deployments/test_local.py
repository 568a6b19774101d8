"""The server of `make deploy` as it starts, without a server."""

from pathlib import Path

import pytest

from deployments.local import Local, LocalError
from flows import server


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
