"""Labels, and the traps of reference implementations: each has a test here or among the features."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.machines.labels import OBSERVED, fails_within, next_failure_column, outcomes
from models.machines.sampling import STEPS, draw, folds, masked_copies, row_count, shares

START = datetime(2024, 3, 1, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_TIME = pl.Datetime("us", "UTC")
PARTS = ["pump", "gear", "belt"]


def rows_at(*hours: float, machine: str = "m") -> pl.DataFrame:
    times = pl.Series("time", [START + h * HOUR for h in hours], dtype=UTC_TIME)
    return pl.DataFrame({"machine_id": pl.Series([machine] * len(hours), dtype=pl.String), "time": times})


def failures_at(*events: tuple[float, str], machine: str = "m") -> pl.LazyFrame:
    return pl.LazyFrame(
        [(machine, START + h * HOUR, component) for h, component in events],
        schema={"machine_id": pl.String, "time": UTC_TIME, "component": pl.String},
        orient="row",
    )


def labels(
    rows: pl.DataFrame, failures: pl.LazyFrame, observed_hours: float, horizon: float, components=PARTS
) -> dict[str, list[bool | None]]:
    rows_with_outcomes = outcomes(rows, failures, components, START + observed_hours * HOUR)
    return {c: rows_with_outcomes.select(fails_within(c, horizon)).to_series().to_list() for c in components}


def test_two_components_that_fail_within_one_horizon_are_two_labels_and_no_third_class():
    """The known trap: one-hot labels summed, so that two failures at once became a class of their own."""
    by_component = labels(rows_at(0), failures_at((5, "pump"), (5, "gear")), 100, 24)
    assert by_component == {"pump": [True], "gear": [True], "belt": [False]}
    twice = labels(rows_at(0), failures_at((5, "pump"), (9, "pump")), 100, 24)
    assert twice["pump"] == [True]


def test_the_horizon_is_time_and_not_a_number_of_rows():
    """The known trap: the label was filled back over a fixed number of rows, however far apart they were."""
    rows = rows_at(0, 12, 60, 61, 62, 63)
    assert labels(rows, failures_at((64, "pump")), 200, 24)["pump"] == [False, False, True, True, True, True]
    assert labels(rows, failures_at((64, "pump")), 200, 3)["pump"] == [False, False, False, True, True, True]


def test_a_failure_at_the_end_of_the_horizon_is_in_it_and_one_at_the_row_itself_is_past():
    by_component = labels(rows_at(0, 24, 25), failures_at((24, "pump"), (48, "pump")), 200, 24)
    assert by_component["pump"] == [True, True, True]
    alone = labels(rows_at(-1, 0, 23, 24), failures_at((24, "pump")), 200, 24)
    assert alone["pump"] == [False, True, True, False]


def test_a_row_whose_horizon_reaches_past_what_is_observed_is_pending_and_not_healthy():
    rows = rows_at(0, 24, 76, 77, 90)
    by_component = labels(rows, failures_at((80, "pump")), 100, 24)
    assert by_component["gear"] == [False, False, False, None, None]
    assert by_component["pump"] == [False, False, True, None, None]


def test_failures_after_what_is_observed_change_nothing():
    rows = rows_at(*range(0, 100, 7))
    before = outcomes(rows, failures_at((50, "pump")), PARTS, START + 60 * HOUR)
    after = outcomes(rows, failures_at((50, "pump"), (61, "pump"), (70, "gear")), PARTS, START + 60 * HOUR)
    assert before.equals(after)


def test_where_nothing_has_failed_yet_there_is_only_what_was_observed():
    ends = pl.DataFrame({"machine_id": ["m"], "ended": [START + 5 * HOUR]}).cast({"ended": UTC_TIME})
    assert outcomes(rows_at(0), failures_at(), (), START + 9 * HOUR, ends).rows() == [(5.0,)]


def test_failures_of_another_machine_are_not_the_machine_s_own():
    both = pl.concat([rows_at(0), rows_at(0, machine="n")])
    failures = pl.concat([failures_at((3, "pump")), failures_at((4, "gear"), machine="n")])
    assert labels(both, failures, 100, 24) == {
        "pump": [True, False],
        "gear": [False, True],
        "belt": [False, False],
    }


events = st.lists(st.tuples(st.integers(-50, 300), st.sampled_from(PARTS)), max_size=12, unique=True)


@settings(max_examples=60)
@given(events, st.lists(st.integers(-60, 310), max_size=8), st.integers(0, 300), st.integers(1, 200))
def test_outcomes_are_what_a_loop_over_the_failures_finds(happened, hours, observed, horizon):
    rows = rows_at(*hours)
    lines = outcomes(rows, failures_at(*happened), PARTS, START + observed * HOUR)
    for i, at in enumerate(hours):
        for component in PARTS:
            later = [h - at for h, c in happened if c == component and at < h <= observed]
            assert lines[next_failure_column(component)][i] == (min(later) if later else None)
        assert lines[OBSERVED][i] == observed - at
    for component in PARTS:
        flags = lines.select(fails_within(component, horizon)).to_series().to_list()
        for i, at in enumerate(hours):
            inside = any(c == component and at < h <= min(at + horizon, observed) for h, c in happened)
            assert flags[i] == (inside if at + horizon <= observed else None)


@pytest.mark.parametrize("horizon", [24, 168])
def test_no_window_of_any_machine_lies_across_a_cut_and_no_row_is_on_both_sides(horizon):
    """The known trap: rows at the split, whose label was taken from the other side of it."""
    hours = np.arange(0, 24 * 100, 12)
    rows = pl.concat([rows_at(*hours.tolist(), machine=m) for m in ("m", "n")])
    window, end = 36, START + 2400 * HOUR
    cuts = folds(START, end, 0.2)
    for boundary in cuts:
        train, held_out = (
            rows.filter(boundary.learnt(horizon)),
            rows.filter(boundary.held_out(horizon, window)),
        )
        assert train.height > 0
        assert held_out.height > 0
        assert train["time"].max() + horizon * HOUR <= boundary.cut
        assert held_out["time"].min() - window * HOUR >= boundary.cut
        assert held_out["time"].min() - train["time"].max() >= horizon * HOUR
        assert held_out["time"].max() + horizon * HOUR <= boundary.until
    first, last = cuts
    held_first = rows.filter(first.held_out(horizon, window))
    held_last = rows.filter(last.held_out(horizon, window))
    assert held_first["time"].max() + horizon * HOUR <= last.cut < held_last["time"].min()
    assert last.until == end


def sample(machines: int, steps: int) -> pl.DataFrame:
    return pl.DataFrame({"machine_id": [f"m{i}" for i in range(machines)]}).join(
        pl.DataFrame({STEPS: np.arange(steps, dtype=np.int32)}), how="cross"
    )


def test_what_a_row_draws_hangs_on_its_machine_and_step_alone_and_is_spread_evenly():
    rows = sample(50, 400)
    draws = draw(rows, seed=7)
    shuffled = rows.with_columns(draws.alias("here")).sample(fraction=0.3, shuffle=True, seed=1)
    assert draw(shuffled, seed=7).to_list() == shuffled["here"].to_list()
    assert not np.allclose(draw(rows, seed=8).to_numpy(), draws.to_numpy())
    counts, _ = np.histogram(draws.to_numpy(), bins=20, range=(0, 1))
    assert counts.min() > 850
    assert counts.max() < 1150
    by_machine = rows.with_columns(draws).group_by("machine_id").agg(pl.col("drawn").mean())["drawn"]
    assert by_machine.is_between(0.4, 0.6).all()


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.integers(10, 20_000))
def test_shares_keep_about_as_many_rows_as_wanted_and_failing_ones_first(positives, negatives, most):
    failing, healthy = shares(positives, negatives, most)
    assert 0 <= healthy <= 1
    assert 0 < failing <= 1
    assert failing == 1.0 or failing * positives == pytest.approx(most / 2)
    count = failing * positives + healthy * negatives
    assert count == pytest.approx(min(most, count)) or count <= most + 1
    if failing == 1.0:
        assert count == pytest.approx(min(most, positives + negatives), abs=1e-6)


def test_masked_copies_lack_one_sensor_or_all_and_nothing_else():
    from models.machines.features import feature_list
    from models.machines.options import Options
    from models.machines.vocabulary import Vocabulary

    features = feature_list(Vocabulary(("a", "b"), ("pump",), ("e",), (), 1.0), Options())
    X = np.arange(4000 * len(features), dtype=np.float32).reshape(4000, -1)
    draws = np.linspace(0, 1, 4000, endpoint=False)
    copies, which = masked_copies(X, draws, features)
    assert len(copies) == 200
    patterns = set()
    for copy, row in zip(copies, which, strict=True):
        hidden = frozenset(f.subject for f, x in zip(features, copy, strict=True) if np.isnan(x))
        patterns.add(hidden)
        for j, f in enumerate(features):
            assert np.isnan(copy[j]) == (f.kind == "sensor" and f.subject in hidden)
            assert np.isnan(copy[j]) or copy[j] == X[row, j]
    assert patterns == {frozenset("a"), frozenset("b"), frozenset("ab")}


def test_row_times_are_counted_back_from_the_last_and_reach_the_first():
    for hours in (0, 11, 12, 13, 36):
        assert row_count(START, START + hours * HOUR, 12) == hours // 12 + 1
    assert row_count(START, START - HOUR, 12) == 0
