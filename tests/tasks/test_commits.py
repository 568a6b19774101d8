"""The facts that commits record, and how many commits are read."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from tasks.storage.commits import moment_spans

TABLE = "toy/values"


def commit(store, hour: int | None) -> None:
    """A commit whose rows belong to an hour; with None, one that names no times."""
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour or 0)
    metadata = (
        {} if hour is None else {"from": begin.isoformat(), "to": (begin + timedelta(hours=1)).isoformat()}
    )
    frame = pl.DataFrame({"value": [hour]}, schema={"value": pl.Int64})
    properties = CommitProperties(custom_metadata=metadata)
    write_deltalake(store.uri_of(TABLE), frame, mode="append", commit_properties=properties)


def versions(store, after: int) -> list[int]:
    return sorted(version for version, _, _ in moment_spans(store, TABLE, after))


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The number of commits that each reading of a log read."""
    counts: list[int] = []
    history = DeltaTable.history

    def counted(table, limit=None):
        counts.append(limit)
        return history(table, limit)

    monkeypatch.setattr(DeltaTable, "history", counted)
    return counts


def test_each_commit_is_read_once_however_often_it_is_asked_for(store, read):
    for hour in range(6):
        commit(store, hour)
    assert versions(store, 1) == [2, 3, 4, 5]
    assert versions(store, 1) == [2, 3, 4, 5]
    commit(store, None)
    commit(store, 7)
    assert versions(store, 3) == [4, 5, 7]
    assert read == [4, 2]
    begins = {version: begin for version, begin, _ in moment_spans(store, TABLE, 3)}
    assert begins[7] == datetime(2026, 1, 1, 7, tzinfo=UTC)
    assert read == [4, 2]


def test_commits_before_those_that_are_known_are_read_and_so_are_those_of_a_table_made_anew(store, read):
    for hour in range(6):
        commit(store, hour)
    assert versions(store, 4) == [5]
    assert versions(store, 1) == [2, 3, 4, 5]
    assert versions(store, 4) == [5]
    assert versions(store, 1) == [2, 3, 4, 5], "someone who looks less far back forgets nothing"
    assert versions(store, 9) == []
    write_deltalake(store.uri_of("toy/other"), pl.DataFrame({"value": [1]}))
    store.put_json(
        "toy/commits/other.json", {"after": 0, "through": 40, "spans": [[30, "2026-01-01", "2026-01-02"]]}
    )
    assert moment_spans(store, "toy/other", 0) == []
    assert read == [1, 4]
