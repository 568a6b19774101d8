"""Withdrawn machines and records that end: later failures are unknown, so they are neither learnt nor ranked."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.machines import ground_truth as judging
from models.machines.findings import record_ends_early
from models.machines.labels import OBSERVED, fails_within, outcomes
from models.machines.scenario import MACHINES
from models.machines.scoring import OUT_OF_SERVICE
from models.machines.service import failures_until, longest_silence, out_of_service, silent_since
from models.machines.simulation import simulate
from tasks.ingest.status import is_stale
from tests.models.test_machines_scenario import cut, score, train, with_shards

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHEN = pl.Datetime("us", "UTC")


def daily(days: dict[str, int]) -> pl.LazyFrame:
    """Telemetry of each machine, once a day from `START` on, for so many days."""
    rows = [(m, START + i * DAY, 1.0) for m, many in days.items() for i in range(many)]
    return pl.LazyFrame(rows, schema={"machine_id": pl.String, "time": WHEN, "vib": pl.Float64}, orient="row")


def failures(*rows: tuple[str, float]) -> pl.LazyFrame:
    records = [(m, START + d * DAY, "pump") for m, d in rows]
    schema = {"machine_id": pl.String, "time": WHEN, "component": pl.String}
    return pl.LazyFrame(records, schema=schema, orient="row")


def test_a_machine_is_out_of_service_after_a_month_of_silence_and_not_before():
    ends = out_of_service({"telemetry": daily({"a": 100, "b": 60, "c": 75})}, START + 99 * DAY, 24)
    assert ends.rows() == [("b", START + 59 * DAY)]


def test_a_machine_whose_monthly_inspection_is_a_few_days_late_is_scored():
    times = [START + 32 * n * DAY for n in range(12)]
    frames = [
        pl.DataFrame({"machine_id": m, "time": times[:many], "vib": 1.0, "shard": 0})
        for m, many in (("a", 12), ("b", 11), ("c", 7))
    ]
    tables = {"telemetry": pl.concat(frames).lazy(), "failures": failures(("a", 5), ("b", 50))}
    keys = MACHINES.requested_keys(tables, times[-1], {}).collect()
    assert keys["machine_id"].to_list() == ["a", "b"]


def test_a_monthly_cadence_is_no_silence():
    assert longest_silence(730.0) > timedelta(days=60)
    assert longest_silence(1.0) == timedelta(days=28)


def test_the_last_rows_of_a_machine_that_was_withdrawn_are_neither_failing_nor_healthy():
    rows = pl.DataFrame({"machine_id": ["b"] * 3, "time": [START + d * DAY for d in (50, 58, 59)]})
    ends = pl.DataFrame({"machine_id": ["b"], "ended": [START + 59 * DAY]})
    rows_with_outcomes = outcomes(rows, failures(("b", 20)), ["pump"], START + 99 * DAY, ends)
    assert rows_with_outcomes[OBSERVED].to_list() == [9 * 24, 24, 0]
    assert rows_with_outcomes.select(fails_within("pump", 48)).to_series().to_list() == [False, None, None]


def test_a_machine_that_ran_to_its_failure_has_failed():
    rows = pl.DataFrame({"machine_id": ["b"] * 2, "time": [START + d * DAY for d in (50, 58)]})
    ends = pl.DataFrame({"machine_id": ["b"], "ended": [START + 59 * DAY]})
    rows_with_outcomes = outcomes(rows, failures(("b", 59)), ["pump"], START + 99 * DAY, ends)
    assert rows_with_outcomes.select(fails_within("pump", 48)).to_series().to_list() == [False, True]


def test_a_record_of_failures_that_ends_before_telemetry_is_told_and_one_that_is_only_quiet_is_not():
    tables = {
        "telemetry": daily(dict.fromkeys("abcde", 120)),
        "failures": failures(*((m, d + i) for i, m in enumerate("abcde") for d in range(10, 80, 16))),
    }
    last, newest = START + 119 * DAY, START + 78 * DAY
    assert failures_until(tables, last) == newest
    assert record_ends_early(tables, last)["table"].to_list() == ["failures"]
    assert failures_until(tables, newest + 6 * DAY) == newest + 6 * DAY
    few = {**tables, "failures": failures(("a", 10), ("b", 40), ("c", 60))}
    assert failures_until(few, last) == last
    assert record_ends_early(few, last).is_empty()


def test_a_fleet_of_which_few_machines_are_left_is_not_taken_for_a_record_that_ends():
    days = {f"m{i}": 20 + i for i in range(40)} | {"survivor": 120}
    tables = {
        "telemetry": daily(days),
        "failures": failures(*((m, d - 1) for m, d in days.items() if d < 100)),
    }
    assert failures_until(tables, START + 119 * DAY) == START + 119 * DAY


def test_silence_is_judged_at_each_row_by_what_was_known_then():
    times = [START + d * DAY for d in (40, 60, 100)]
    rows = pl.DataFrame({"machine_id": ["b"] * 3, "time": times, "readings": [1, 0, 0]}).cast({"time": WHEN})
    since = silent_since({"telemetry": daily({"b": 50})}, rows, 24)
    assert since.to_list() == [None, None, START + 49 * DAY]


def test_a_machine_that_stopped_with_a_failure_is_out_of_service_at_once_and_not_where_it_was_repaired():
    tables = {
        "telemetry": daily({"runs": 100, "failed": 98, "goes on": 100, "repaired": 98}),
        "failures": failures(("failed", 97), ("goes on", 90), ("repaired", 97)),
        "maintenance": failures(("repaired", 97)),
    }
    assert out_of_service(tables, START + 99 * DAY, 24).rows() == [("failed", START + 97 * DAY)]
    times = [START + d * DAY for d in (96, 97, 98)]
    for machine, since in {"failed": START + 97 * DAY, "repaired": None}.items():
        rows = pl.DataFrame({"machine_id": machine, "time": times, "readings": [1, 1, 1]}).cast(
            {"time": WHEN}
        )
        assert silent_since(tables, rows, 24).to_list() == [None, None, since]


def test_published_rows_of_a_machine_that_was_withdrawn_are_not_judged_and_not_pending():
    rows = pl.DataFrame(
        {
            "machine_id": ["b", "b"],
            "component": ["pump", "pump"],
            "time": [START + 30 * DAY, START + 48 * DAY],
            "horizon_hours": [168, 168],
            "probability": [0.1, 0.9],
            "rung": ["model", "model"],
            "reasons": [None, None],
            "as_of": [START, START],
        },
        schema_overrides={"time": WHEN, "horizon_hours": pl.Int32},
    )
    tables = {"telemetry": daily({"a": 100, "b": 50}), "failures": failures(("a", 90))}
    verdicts = judging.judge(rows.lazy(), tables, START + 99 * DAY)
    assert verdicts.select("failed", "pending").rows() == [(False, False), (None, False)]


@pytest.fixture(scope="module")
def withdrawn() -> dict[str, pl.DataFrame]:
    """A fleet of which the first machine was withdrawn after sixty of a hundred and ten days."""
    tables = simulate(10, days=110, seed=2, interval_hours=6, start=START, components=2)
    first = tables["machines"]["machine_id"][0]
    tables_before = {
        name: frame.filter((pl.col("machine_id") != first) | (pl.col("time") <= START + 60 * DAY))
        if "time" in frame.columns
        else frame
        for name, frame in tables.items()
    }
    return with_shards(tables_before)


def test_a_machine_out_of_service_is_listed_with_the_reason_and_not_ranked(withdrawn):
    as_of = START + 110 * DAY
    model = MACHINES.load(dict(train(withdrawn, as_of).files))
    first = withdrawn["machines"]["machine_id"][0]
    rows, keys = score(model, withdrawn, as_of)
    mine = rows.filter(machine_id=first)
    assert set(mine["rung"]) == {OUT_OF_SERVICE}
    assert mine.select("probability", "rank", "above_threshold").null_count().row(0) == (mine.height,) * 3
    assert mine["reasons"].str.starts_with("out of service: no telemetry since 2024-04-").all()
    assert set(keys.filter(machine_id=first)["status"]) == {"skipped"}
    assert rows.filter(pl.col("machine_id") != first)["probability"].is_not_null().all()


def test_a_range_holds_the_rows_of_a_machine_from_when_it_was_at_work(withdrawn):
    tables = cut({name: frame for name, frame in withdrawn.items() if name != "machines"})
    first = withdrawn["machines"]["machine_id"][0]
    as_of = START + 110 * DAY
    assert first not in MACHINES.requested_keys(tables, as_of, {}).collect()["machine_id"].to_list()
    since = {"score_from": (START + 50 * DAY).isoformat()}
    assert first in MACHINES.requested_keys(tables, as_of, since).collect()["machine_id"].to_list()
    assert np.all(
        MACHINES.requested_keys(tables, as_of, since).collect()["component"].is_not_null().to_numpy()
    )


@pytest.mark.parametrize(("step", "expected_days"), [(1 / 24, 1), (1, 1), (31, 31)])
def test_data_is_expected_as_often_as_it_comes_but_no_more_than_daily(step, expected_days):
    times = [datetime(2024, 1, 1, tzinfo=UTC) + n * timedelta(days=step) for n in range(9)]
    telemetry = pl.LazyFrame({"machine_id": "m", "time": times, "load": 1.0})
    paced = MACHINES.at_pace_of({"telemetry": telemetry})
    assert paced.cadence == timedelta(days=expected_days)
    assert is_stale(paced, times[-1], times[-1] + timedelta(days=2 * expected_days + 1))
    assert not is_stale(paced, times[-1], times[-1] + timedelta(days=2 * expected_days))
    assert MACHINES.at_pace_of({}).cadence == timedelta(days=1)
