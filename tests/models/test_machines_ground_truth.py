"""The ground truth of published risks, compared with a loop over failures."""

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.machines import MACHINES, evaluation, ground_truth
from models.machines.scoring import RISKS

START = datetime(2024, 3, 1, tzinfo=UTC)
UNTIL = START + timedelta(hours=60)
HORIZONS = (24, 48)


def published(as_of: datetime, times: list[datetime], probability: float | None = 0.2) -> pl.DataFrame:
    rows = [
        {
            "machine_id": machine, "component": component, "time": time, "horizon_hours": horizon,
            "probability": probability, "rank": 1, "reasons": "", "above_threshold": True, "rung": "model",
            "as_of": as_of, "bundle": 1, "run_id": "r",
        }
        for machine in ("a", "b") for component in ("fan", "pump") for time in times for horizon in HORIZONS
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=RISKS | {"as_of": pl.Datetime("us", "UTC")})


def failures(hours: list[tuple[str, str, int]]) -> pl.LazyFrame:
    rows = [(machine, component, START + timedelta(hours=hour)) for machine, component, hour in hours]
    schema = {"machine_id": pl.String, "component": pl.String, "time": pl.Datetime("us", "UTC")}
    return pl.LazyFrame(rows, schema=schema, orient="row")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["fan", "pump"]), st.integers(-5, 90)), max_size=9
    )
)
def test_a_row_failed_where_its_component_fails_within_the_horizon_and_is_pending_where_that_is_not_over(
    events,
):
    times = [START + timedelta(hours=hour) for hour in (0, 12, 24, 36)]
    rows = published(times[-1], times)
    verdicts = ground_truth.judge(rows.lazy(), {"failures": failures(events)}, UNTIL)
    assert verdicts.height == rows.height
    for row in verdicts.iter_rows(named=True):
        later = [
            START + timedelta(hours=hour)
            for machine, component, hour in events
            if (machine, component) == (row["machine_id"], row["component"])
            and not any((machine, component, hour - back) in events for back in range(1, 25))
            and row["time"] < START + timedelta(hours=hour) <= UNTIL
        ]
        end = row["time"] + timedelta(hours=row["horizon_hours"])
        assert row["pending"] == (end > UNTIL)
        assert row["failed"] == (None if end > UNTIL else any(time <= end for time in later))
        hours = (min(later) - row["time"]).total_seconds() / 3600 if later else None
        assert row["next_failure_hours"] == hours


def test_without_a_table_of_failures_nothing_failed():
    verdicts = ground_truth.judge(published(START, [START]).lazy(), {}, UNTIL)
    assert verdicts["failed"].to_list() == [False] * verdicts.height
    assert verdicts["next_failure_hours"].null_count() == verdicts.height


def test_a_time_that_two_runs_have_scored_counts_once_as_the_first_has_said():
    tables = {"failures": failures([])}
    first, second = (
        ground_truth.judge(published(as_of, [START], p).lazy(), tables, UNTIL).with_columns(
            as_of=pl.lit(as_of)
        )
        for as_of, p in ((START, 0.2), (START + timedelta(hours=12), 0.9))
    )
    table = MACHINES.measures(pl.concat([second, first]).lazy(), {})
    values = dict(table.filter(slice="horizon", value_of_slice="24h").select("metric", "value").iter_rows())
    assert values["rows"] == 4
    assert values["brier"] == pytest.approx(0.04)


def test_tallies_add_up_to_the_brier_score_of_each_week():
    times = [START + timedelta(days=day) for day in (0, 2, 9)]
    tables = {"failures": failures([("a", "fan", 10), ("b", "pump", 50)])}
    verdicts = ground_truth.judge(published(START, times).lazy(), tables, START + timedelta(days=30))
    table = MACHINES.tallies(verdicts, {})
    for row in table.iter_rows(named=True):
        hours = int(row["series"].split()[1])
        of = verdicts.filter(
            pl.col("horizon_hours") == hours, pl.col("time").dt.truncate("1w").dt.date() == row["period"]
        )
        errors = [(r["probability"] - r["failed"]) ** 2 for r in of.iter_rows(named=True)]
        assert row["numerator"] == pytest.approx(sum(errors))
        assert row["denominator"] == row["rows"] == len(errors)
    assert table["rows"].sum() == verdicts.height


def test_losses_of_two_bundles_are_of_the_rows_that_both_speak_of():
    tables = {"failures": failures([("a", "fan", 10)])}
    verdicts = ground_truth.judge(published(START, [START]).lazy(), tables, UNTIL).with_columns(
        as_of=pl.lit(START)
    )
    other = published(START, [START, START + timedelta(days=9)], 0.1).filter(component="fan")
    ours, theirs, rows = ground_truth.losses(other.lazy(), verdicts.lazy())
    assert rows == 4
    assert theirs == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2)
    assert ours == pytest.approx(-(math.log(0.1) + math.log(0.9)) / 2)
    assert ground_truth.losses(other.filter(machine_id="z").lazy(), verdicts.lazy()) is None


def test_the_first_machines_of_each_day_are_judged_beside_the_best_that_was_possible():
    chance = {"a": 0.9, "b": 0.5, "c": 0.7, "d": 0.1}
    failing = {(0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "d")}
    rows = pl.DataFrame(
        [
            {
                "machine_id": m, "component": c, "time": START + timedelta(days=day, hours=hour),
                "probability": chance[m] if c == "fan" else 0.05, "under_work": m == "a" and c == "fan" and day == 1,
                "failed": (day, m) in failing and c == "pump" if hour == 0 else None,
            }
            for day in (0, 1) for hour in (0, 12) for m in chance for c in ("fan", "pump")
        ]
    )  # fmt: skip
    measures = evaluation.first_looked_at(rows, 2)
    assert measures == {"precision": 2 / 4, "best": 4 / 4, "machines": 2.0, "days": 2.0}
    assert evaluation.first_looked_at(rows, 10)["best"] == 5 / 8
    assert evaluation.first_looked_at(rows.head(0), 2) == {}


def test_a_remaining_life_is_judged_once_its_band_is_over():
    lives = pl.DataFrame(
        {
            "life_q10_hours": [10.0, 10.0, 10.0, 10.0, 10.0],
            "life_q50_hours": [20.0, 20.0, 20.0, 20.0, 20.0],
            "life_q90_hours": [30.0, 30.0, 30.0, 99.0, None],
            "next_failure_hours": [24.0, 5.0, None, 20.0, 20.0],
            "observed_hours": [60.0, 60.0, 60.0, 60.0, 60.0],
        }
    )
    measures = evaluation.life_measures(lives)
    assert measures["rows"] == 3
    assert measures["in_band"] == pytest.approx(1 / 3)
    assert measures["rmse_hours"] == pytest.approx(math.sqrt((4**2 + 15**2 + 40**2) / 3))
    assert evaluation.life_measures(lives.tail(2)) == {}


def test_published_lives_are_followed_until_their_band_is_over_and_older_tables_have_none():
    rows = published(START, [START]).with_columns(life_q90_hours=pl.lit(200.0))
    verdicts = ground_truth.judge(rows.lazy(), {"failures": failures([("a", "fan", 10)])}, UNTIL)
    assert set(verdicts["observed_hours"]) == {60.0}
    assert verdicts.select(ground_truth.GROUND_TRUTH.until).item() == START + timedelta(hours=200)
    older = ground_truth.judge(rows.drop("life_q90_hours").lazy(), {}, UNTIL)
    assert older.select(ground_truth.GROUND_TRUTH.until).item() == START + timedelta(hours=max(HORIZONS))
    assert (
        MACHINES.measures(older.with_columns(as_of=pl.lit(START)).lazy(), {}).filter(slice="life").is_empty()
    )
