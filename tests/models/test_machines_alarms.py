"""Alarms of machines: they are opened and announced once, go on, and are closed; there are no more than can be inspected."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from models.machines import alarms
from models.machines.options import Options
from models.machines.scenario import MACHINES
from models.machines.scoring import RISKS

START = datetime(2024, 3, 1, tzinfo=UTC)


def risks(at: datetime, probabilities: dict[tuple[str, str], float | None], **columns: Any) -> pl.DataFrame:
    """Published rows with a threshold of 0.2, from the probability of each machine and component."""
    rows = [
        {
            "machine_id": machine, "component": component, "time": at, "horizon_hours": 24, "probability": p,
            "above_threshold": None if p is None else p >= 0.2, "threshold": 0.2, "rung": "model", "reasons": "",
            "rank": 1, **columns,
        }
        for (machine, component), p in probabilities.items()
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=RISKS)


def course(probabilities: list[float | None], every_hours: int = 12, **options: Any) -> list[str | None]:
    """The state of one alarm in runs that follow each other."""
    previous, states = None, []
    for i, p in enumerate(probabilities):
        at = START + timedelta(hours=i * every_hours)
        previous = alarms.alarms(risks(at, {("a", "fan"): p}), previous, at, Options.of(options))
        states.append(previous["state"].item() if previous.height else None)
    return states


@pytest.mark.parametrize(
    ("probabilities", "states"),
    [
        ([0.1, 0.3, 0.4, 0.05, 0.05], [None, "opened", "goes on", "closed", "closed"]),
        ([0.3, 0.15, 0.3, 0.11, 0.09], ["opened", "goes on", "goes on", "goes on", "closed"]),
        ([0.3, 0.05, 0.3, 0.05], ["opened", "closed", "goes on", "closed"]),
        ([0.3, 0.05, 0.05, 0.05, 0.3], ["opened", "closed", "closed", "closed", "opened"]),
        ([0.3, None, None, None, None], ["opened", "closed", "closed", "closed", None]),
    ],
)
def test_an_alarm_opens_once_goes_on_while_the_risk_is_half_the_threshold_and_rests_after_it(
    probabilities, states
):
    assert course(probabilities) == states


def test_without_cooldown_what_rises_again_is_another_alarm():
    assert course([0.3, 0.05, 0.3], cooldown_hours=0) == ["opened", "closed", "opened"]


def test_work_closes_an_alarm_and_what_follows_is_a_new_one():
    first = alarms.alarms(risks(START, {("a", "fan"): 0.3}), None, START, Options())
    later = START + timedelta(hours=12)
    worked = risks(later, {("a", "fan"): 0.3}, rung="under_work", above_threshold=False)
    second = alarms.alarms(worked, first, later, Options())
    assert second.select("state", "why", "closed_at").row(0) == ("closed", "under work", later)
    again = later + timedelta(hours=12)
    third = alarms.alarms(risks(again, {("a", "fan"): 0.3}), second, again, Options())
    assert third.select("state", "since", "closed_at").row(0) == ("opened", again, None)


def test_the_most_worthwhile_are_opened_as_far_as_inspections_of_a_day_go_and_the_others_wait():
    probabilities = {("a", "fan"): 0.3, ("b", "fan"): 0.9, ("c", "fan"): 0.5, ("d", "fan"): 0.1}
    options = Options(inspections_per_day=1)
    first = alarms.alarms(risks(START, probabilities), None, START, options)
    assert dict(first.select("machine_id", "state").iter_rows()) == {
        "a": "waits",
        "b": "opened",
        "c": "waits",
    }
    half, next_day = START + timedelta(hours=12), START + timedelta(hours=24)
    second = alarms.alarms(risks(half, probabilities), first, half, options)
    assert second["state"].to_list() == ["waits", "goes on", "waits"]
    third = alarms.alarms(risks(next_day, probabilities), second, next_day, options)
    assert third["state"].to_list() == ["waits", "goes on", "opened"]


def test_an_inspection_of_a_component_counts_once_for_all_its_horizons():
    rows = risks(START, {("a", "fan"): 0.3, ("b", "fan"): 0.25})
    both = pl.concat([rows, rows.with_columns(horizon_hours=pl.lit(168, pl.Int32))])
    first = alarms.alarms(both, None, START, Options(inspections_per_day=1))
    assert first["state"].to_list() == ["opened", "opened", "waits", "waits"]
    later = START + timedelta(hours=36)
    week = rows.filter(machine_id="a").with_columns(horizon_hours=pl.lit(168, pl.Int32), time=pl.lit(later))
    second = alarms.alarms(week, first, later, Options(inspections_per_day=1))
    assert second.filter(machine_id="a")["state"].to_list() == ["closed", "goes on"]


def test_a_second_run_tells_only_of_what_is_new():
    first, second = START, START + timedelta(hours=12)
    one = risks(first, {("a", "fan"): 0.3, ("a", "pump"): 0.1, ("b", "fan"): 0.1})
    two = risks(second, {("a", "fan"): 0.4, ("a", "pump"): 0.5, ("b", "fan"): 0.1})
    first_alarms = MACHINES.derive(one.lazy(), {}, {}, first, {})
    earlier = {"alarms": first_alarms["alarms"].with_columns(as_of=pl.lit(first)).lazy()}
    then = MACHINES.derive(two.lazy(), earlier, {}, second, {})
    (event,) = MACHINES.events(two.lazy(), then, second, {})
    assert [risk["component"] for risk in event.payload["risks"]] == ["pump"]
    assert len(MACHINES.events(one.lazy(), first_alarms, first, {})) == 1
