"""Trainings that events request: they keep to a budget and are recorded."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.training import retraining
from tests import steps
from tests.toy import TOY, values

pytestmark = pytest.mark.usefixtures("without_run_logger")


def asked(store, days: int, budget: int = 2, reason: str = "drifted") -> retraining.Request:
    """A request after an ingest of `days` days, recorded with its outcome."""
    steps.put(store, values(days=days))
    request = retraining.request_training.fn(TOY, store, reason, budget)
    result = {"bundle": days, "promoted": True, "reason": "better"} if request.refusal is None else None
    retraining.record_training.fn(TOY, store, request, result)
    return request


def test_over_the_budget_of_thirty_days_a_training_is_refused_and_both_are_on_record(store):
    assert [asked(store, days).refusal is None for days in (3, 4, 5)] == [True, True, False]
    requests = retraining.retrainings(store, "toy")
    assert requests["granted"].to_list() == [True, True, False]
    assert requests["bundle"].to_list() == [3, 4, None]
    assert requests["note"].to_list()[:2] == ["better", "better"]
    assert "The budget is exhausted: events have already requested 2 of " in requests["note"][2]


def test_after_thirty_days_the_budget_is_free_again(store, monkeypatch):
    asked(store, 3, budget=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2100, 1, 1, tzinfo=UTC) + timedelta(days=31)

    assert asked(store, 4, budget=1).refusal is not None
    monkeypatch.setattr(retraining, "datetime", Later)
    assert asked(store, 5, budget=1).refusal is None


def test_two_events_about_the_same_data_lead_to_one_training(store):
    asked(store, 3, reason="drifted: value")
    again = retraining.request_training.fn(TOY, store, "degraded", 9)
    assert again.refusal == "Bundle 3 was trained from the same tables: drifted: value"


def test_a_training_that_was_not_finished_is_granted_again(store):
    steps.put(store)
    first, second = (retraining.request_training.fn(TOY, store, "drifted", 1) for _ in range(2))
    assert first.refusal is None
    assert second.refusal is None


def test_without_tables_it_is_said_what_to_do(store):
    with pytest.raises(Exception, match="python -m flows toy ingest"):
        retraining.request_training.fn(TOY, store, "drifted", 1)
    assert retraining.retrainings(store, "toy").is_empty()
