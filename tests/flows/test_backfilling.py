"""Scoring a range of the past: its times, those that are left out, and a time that cannot be scored."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest

from flows.backfilling import as_ofs
from flows.parameters import ParameterError
from tasks.storage.store import Store
from tests import steps, toy

DAYS = [date(2024, 3, day) for day in range(1, 6)]


@pytest.fixture
def ready(tmp_path, without_run_logger) -> Store:
    store = Store(str(tmp_path / "store"))
    steps.put(store, toy.values(names=2, days=5, start=DAYS[0]))
    steps.train(store, DAYS[0])
    return store


def test_a_range_ends_at_the_last_complete_time_unless_told(ready):
    assert as_ofs(toy.TOY, ready, DAYS[1], None) == DAYS[1:]
    assert as_ofs(toy.TOY, ready, DAYS[1], DAYS[2]) == DAYS[1:3]


def test_times_are_as_far_apart_as_the_data_shows(ready, monkeypatch):
    monkeypatch.setattr(type(toy.TOY), "at_pace_of", lambda *_: SimpleNamespace(cadence=timedelta(days=2)))
    assert as_ofs(toy.TOY, ready, DAYS[1], None) == [DAYS[2], DAYS[4]]


def test_a_time_of_day_begins_or_ends_a_range_of_days(ready):
    noon = datetime(2024, 3, 3, 12, tzinfo=UTC)
    assert as_ofs(toy.TOY, ready, noon, None) == DAYS[3:]


@pytest.mark.parametrize("first", [DAYS[-1] + timedelta(days=1), DAYS[0] - timedelta(days=20_000)])
def test_a_range_of_no_times_or_too_many_is_refused(ready, first):
    with pytest.raises(ParameterError, match=r"Expected 1 to 10,000"):
        as_ofs(toy.TOY, ready, first, None)


def test_a_range_of_reversed_or_unknown_times_is_told_by_its_own_options(ready):
    with pytest.raises(ParameterError, match=r"--from 2024-03-03 is after --to 2024-03-02"):
        as_ofs(toy.TOY, ready, DAYS[2], DAYS[1])
    with pytest.raises(ParameterError, match=r"--to 2024-04-01"):
        as_ofs(toy.TOY, ready, DAYS[2], date(2024, 4, 1))
    assert as_ofs(toy.TOY, ready, DAYS[2], DAYS[2]) == [DAYS[2]]


@pytest.mark.slow
def test_what_is_published_stays_and_what_cannot_be_scored_stops_no_other(command, ready):
    steps.score(ready, DAYS[3])
    before = steps.published(ready)
    words = ("toy", "backfill", "--store", ready.uri, "--json")
    failed = command(*words, "--from", DAYS[0] - timedelta(days=2))
    assert failed.status == 1
    assert "2 of 6 times could not be scored; the others are published" in failed.err
    assert "2024-02-28: ContractError" in failed.err
    rows = steps.published(ready)
    assert rows["as_of"].unique().sort().to_list() == DAYS
    assert rows.filter(as_of=DAYS[3]).equals(before)

    again = command(*words, "--from", DAYS[0])
    assert again.status == 0, again.err
    assert {name: again.json[name] for name in ("scored", "published_before", "rows")} == {
        "scored": 0,
        "published_before": 5,
        "rows": 0,
    }
    assert steps.published(ready).equals(rows)
