import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from tasks.registry import ledger
from tasks.scoring.shards import reconcile
from tasks.storage.store import Store
from tests import steps

pytestmark = pytest.mark.usefixtures("without_run_logger")

STARTED = datetime(2024, 1, 3, 12, tzinfo=UTC)
COUNTS = {"requested": 10, "scored": 6, "fallback": 2, "skipped": 1, "failed": 1}


def record(store, run_id="r1", counts=COUNTS, as_of=date(2024, 1, 3), **other):
    facts = {
        "scenario": "toy", "flow": "score", "bundle": 1, "versions": {"values": 3},
        "reasons": {"fallback: single": 2}, "start": STARTED,
    }  # fmt: skip
    return ledger.record(store, run_id=run_id, as_of=as_of, counts=counts, **facts | other)


def all_rows(store):
    return ledger.rows(store).collect()


def test_a_store_without_a_run_has_no_ledger(store):
    assert ledger.rows(store) is None
    assert ledger.last(store, "toy", "score", date(2024, 1, 3)) is None


def test_a_row_has_all_that_the_run_used_and_did(store):
    assert record(store)
    (row,) = all_rows(store).to_dicts()
    assert row["started"] == STARTED
    assert row["ended"] > STARTED
    del row["started"], row["ended"]
    assert row == {
        "run_id": "r1", "scenario": "toy", "flow": "score", "as_of": "2024-01-03", "bundle": 1,
        "versions": '{"values": 3}', **COUNTS, "reasons": '{"fallback: single": 2}',
    }  # fmt: skip


def test_a_run_has_one_row_however_often_it_is_entered(store):
    assert record(store)
    before = all_rows(store)
    assert not record(store, is_published=False)
    assert all_rows(store).equals(before)
    assert record(store, counts={**COUNTS, "scored": 7, "failed": 0})
    assert record(store, "r2")
    rows = all_rows(store).sort("run_id")
    assert rows["run_id"].to_list() == ["r1", "r2"]
    assert rows["failed"].to_list() == [0, 1]


def test_a_run_that_was_stopped_between_its_commit_and_the_ledger_is_entered_by_the_next_start(store):
    steps.put(store)
    steps.train(store)
    run = steps.resolve(store)
    outcomes = steps.outcomes(run)
    counts = reconcile.fn(run, outcomes)
    steps.commit(run, outcomes)
    assert all_rows(store).height == 1
    store.files.delete(store.names("ledger"))
    again = steps.resolve(store)
    assert steps.commit(again, steps.outcomes(again)).already
    (row,) = all_rows(store).to_dicts()
    assert row["run_id"] == run.id
    assert {name: row[name] for name in counts} == counts
    assert row["requested"] == row["scored"] + row["fallback"] + row["skipped"] + row["failed"]


def test_a_run_is_said_to_have_started_when_it_was_first_started(store):
    steps.put(store)
    steps.train(store)
    first = steps.resolve(store)
    later = replace(first, started=first.started + timedelta(hours=1))
    steps.commit(later, steps.outcomes(later))
    assert all_rows(store)["started"].item() == first.started


def test_the_last_run_of_a_day_is_the_one_that_was_published_last(store):
    record(store, "r1")
    record(store, "r2", versions={"values": 4})
    record(store, "other day", as_of=date(2024, 1, 4))
    record(store, "other flow", flow="rescore")
    record(store, "other scenario", scenario="sales")
    last = ledger.last(store, "toy", "score", date(2024, 1, 3))
    assert (last["run_id"], last["versions"]) == ("r2", {"values": 4})
    record(store, "r1", is_published=False)
    assert ledger.last(store, "toy", "score", date(2024, 1, 3))["run_id"] == "r2"
    record(store, "r1")
    assert ledger.last(store, "toy", "score", date(2024, 1, 3))["run_id"] == "r1"


def test_runs_that_end_at_the_same_time_are_all_entered(store, together):
    record(store, "before")
    together(_record_many, [(store, f"p{n}") for n in range(4)])
    together(_record_many, [(store, "p0")] * 3)
    run_ids = all_rows(store)["run_id"]
    assert run_ids.n_unique() == len(run_ids) == 13


def test_the_first_runs_of_a_store_that_end_at_the_same_time_are_all_entered(store, together):
    together(_record_many, [(store, f"p{n}") for n in range(4)])
    assert all_rows(store)["run_id"].n_unique() == all_rows(store).height == 12


def _record_many(store, name):
    for number in range(3):
        record(store, f"{name}-{number}")


def test_the_files_of_the_ledger_do_not_grow_in_number_with_its_runs(store):
    counts = []
    for number in range(45):
        record(store, f"r{number}")
        counts.append(len(store.table(ledger.PATH).file_uris()))
    assert max(counts) <= 21
    assert all_rows(store)["run_id"].to_list() == [f"r{number}" for number in range(45)]


def test_a_run_is_entered_without_the_rows_of_others_being_read(store, monkeypatch):
    record(store, "r1")
    monkeypatch.setattr(Store, "scan", lambda *_: pytest.fail("the ledger was read"))
    assert record(store, "r2")


def test_reasons_are_text_that_can_be_read_again(store):
    reasons = {'skipped: "odd", é, \n': 3}
    record(store, reasons=reasons)
    assert json.loads(all_rows(store)["reasons"].item()) == reasons
