"""What `health` reports of a scenario, from the contents of its store."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from flows import health as health_command
from flows import watching
from models.scenario import DerivesTables, EmitsEvents
from tasks.monitoring.health import health, prometheus
from tasks.scoring import catch_up
from tasks.scoring.catch_up import skipped
from tasks.scoring.events import derive
from tests import steps, toy
from tests.toy import TOY, Toy

pytestmark = pytest.mark.usefixtures("without_run_logger")


class Daily(Toy):
    """The toy, whose values are expected every day; those of `toy.values` end with 2024-01-03."""

    @property
    def cadence(self):
        return timedelta(days=1)


AFTER = datetime(2024, 1, 4, 8, tzinfo=UTC)


def test_of_a_scenario_that_nothing_was_ingested_for_nothing_is_said(store):
    assert health(TOY, store, AFTER) is None


def test_what_is_due_is_late_once_there_was_time_to_publish_it(store):
    steps.put(store)
    steps.train(store)
    early = health(Daily(), store, AFTER - timedelta(hours=7))
    assert (early.late, early.published, early.due) == (False, None, "2024-01-03")
    assert health(Daily(), store, AFTER).late
    steps.score(store)
    status = health(Daily(), store, AFTER)
    assert (status.late, status.published, status.failed_keys) == (False, "2024-01-03", 0)
    assert (status.champion, status.fallback_share, status.quarantined_rows) == (1, 0.0, 0)
    steps.put(store, toy.values(days=4))
    assert health(Daily(), store, AFTER + timedelta(days=1)).late


def test_days_between_the_last_published_one_and_this_are_named_once_there_is_one(store, monkeypatch):
    events = []
    monkeypatch.setattr(catch_up, "emit", lambda *event: events.append(event[2]))
    steps.put(store)
    steps.train(store)
    assert skipped.fn(Daily(), store, "score", date(2024, 1, 3)) == []
    steps.score(store)
    assert skipped.fn(Daily(), store, "score", date(2024, 1, 3)) == []
    assert skipped.fn(Daily(), store, "score", date(2024, 1, 4)) == []
    assert skipped.fn(TOY, store, "score", date(2024, 1, 9)) == []
    assert not events
    (note,) = skipped.fn(Daily(), store, "score", date(2024, 1, 6))
    assert "2 complete periods were never scored" in note
    assert "toy backfill --from 2024-01-04 --to 2024-01-05" in note
    assert [(one.name, dict(one.payload)["count"]) for one in events] == [("left_out", 2)]


def test_data_that_no_newer_ones_follow_are_stale(store):
    steps.put(store)
    last = datetime.combine(date(2024, 1, 3), datetime.min.time(), UTC)
    assert not health(Daily(), store, last + timedelta(days=2, hours=6)).stale
    assert health(Daily(), store, last + timedelta(days=2, hours=7)).stale
    assert health(TOY, store, last + timedelta(days=99)).stale is None


class Alarming(Daily, EmitsEvents, DerivesTables):
    """The toy with an alarm for two names in each run."""

    derived_tables = ("doubles",)
    alarms = ("doubles", pl.col("name").is_in(["n01", "n02"]))

    def derive(self, rows, earlier, tables, as_of, options):
        return {"doubles": rows.select("name", "value").collect()}

    def events(self, rows, frames, as_of, options):
        return []


def test_alarms_are_counted_by_the_day_over_the_runs_of_the_last_week(store):
    scenario = Alarming()
    steps.put(store, toy.values(names=4, days=10))
    steps.train(store, date(2024, 1, 1), scenario)
    for day in (1, 9, 10):
        run = steps.resolve(store, date(2024, 1, day), scenario=scenario)
        steps.commit(run, steps.outcomes(run))
        derive.fn(run)
    status = health(scenario, store, AFTER)
    assert status.alarms_per_day == 2.0
    assert "; 2.0 alarms a day; quarantine 0.0%" in str(status)
    assert health(Daily(), store, AFTER).alarms_per_day is None


def test_each_scenario_has_a_line_of_its_own(command, store):
    steps.put(store)
    steps.train(store)
    steps.score(store)
    output = command("health", "--store", store.uri)
    assert output.status == 0
    assert output.out.count("\n") == 1
    assert output.out.startswith("toy: ok; published 2024-01-03, due 2024-01-03; data ")
    assert re.search(r"; data [\d,]+ days old; ", output.out)


def test_prometheus_reads_a_line_for_each_figure_that_is_known(store):
    steps.put(store)
    one = health(Daily(), store, AFTER)
    lines = prometheus([one, replace(one, scenario="other", champion=2)]).splitlines()
    assert lines.count("# TYPE almanac_champion gauge") == 1
    assert [line for line in lines if line.startswith("almanac_champion{")] == [
        'almanac_champion{scenario="other"} 2'
    ]
    assert 'almanac_data_age_hours{scenario="toy"} 32' in lines
    assert all(line.startswith(("# TYPE almanac_", "almanac_")) for line in lines)


def test_the_watch_tells_by_an_event_what_is_late_and_of_nothing_else(store, monkeypatch, prefect_api):
    events = []
    monkeypatch.setattr(
        watching, "emit", lambda _, scenario, event, occasion: events.append((scenario, event.name, occasion))
    )
    monkeypatch.setattr(health_command, "scenarios", lambda: [Daily()])
    assert watching.watch(store=store.uri)["late"] == []
    steps.put(store)
    steps.train(store)
    assert watching.watch(store=store.uri)["late"] == ["toy"]
    assert events == [("toy", "late", "2024-01-03")]
    steps.score(store)
    assert watching.watch(store=store.uri)["late"] == []
    assert len(events) == 1
