"""Drift by its definition: PSI, the limit learnt from the past, and the rate of false alarms."""

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from models.drift import CYCLE, Rule, Usual, drift, psi

FIRST = date(2024, 1, 1)
COUNTS = st.lists(st.integers(0, 500), min_size=4, max_size=4)


def cycles(first: int, number: int, rows: int, seed: int, **shift: float) -> pl.DataFrame:
    """Cycles with a season, clusters of four rows, a share and a kind; `shift` shifts each of them."""
    parts = []
    for cycle in range(first, first + number):
        rng = np.random.default_rng([seed, cycle])
        common = np.repeat(rng.normal(0, 0.5, rows // 4 + 1), 4)[:rows]
        season = 0.3 * math.sin(2 * math.pi * cycle / 52)
        parts.append(
            pl.DataFrame(
                {
                    CYCLE: [FIRST + timedelta(weeks=cycle)] * rows,
                    "level": season + common + rng.normal(shift.get("level", 0.0), 1, rows),
                    "share": (rng.random(rows) < 0.1 + shift.get("share", 0.0)).astype(float),
                    "kind": np.where(
                        rng.random(rows) < shift.get("kind", 0.0), "new", rng.choice(["a", "b"], rows)
                    ),
                    "given": np.where(
                        rng.random(rows) < shift.get("given", 0.0), np.nan, rng.normal(0, 1, rows)
                    ),
                }
            ).with_columns(pl.col("given").fill_nan(None))
        )
    return pl.concat(parts)


def at(rows: pl.DataFrame, cycle: int) -> pl.DataFrame:
    return rows.with_columns(pl.lit(FIRST + timedelta(weeks=cycle)).alias(CYCLE))


def first(lines: pl.DataFrame) -> dict:
    return lines.row(0, named=True)


@given(COUNTS, COUNTS)
def test_the_index_is_the_sum_over_the_bins_by_its_definition(counts, reference):
    total = sum(reference) + 2
    expected = [(one + 0.5) / total for one in reference]
    share = [(one + of) / (sum(counts) + 1) for one, of in zip(counts, expected, strict=True)]
    by_hand = sum((p - q) * math.log(p / q) for p, q in zip(share, expected, strict=True))
    assert psi(np.array([counts], float), np.array([reference], float))[0] == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("feature", ["level", "share", "kind", "given"])
def test_a_shift_is_an_alarm_in_its_first_cycle_and_its_feature_comes_first(feature):
    amount = {"level": 2.0, "share": 0.5, "kind": 0.2, "given": 0.4}[feature]
    for seed in range(3):
        lines = drift(cycles(0, 80, 120, seed), cycles(80, 1, 120, seed, **{feature: amount}))
        assert lines.filter("drifted")["feature"].to_list() == [feature]
        assert first(lines)["rank"] == 1
        assert first(lines)["psi"] > first(lines)["limit"] >= 0.1


def test_what_is_beyond_its_limit_is_an_alarm_when_it_is_so_again_in_the_next_cycle():
    before, usual = cycles(0, 80, 120, 1), cycles(81, 1, 120, 1)
    shift, again = (at(cycles(80, 1, 120, 1, level=1.0), cycle) for cycle in (80, 82))
    silent = usual.with_columns(pl.lit(float("nan")).alias("level"))

    def course(*current: pl.DataFrame) -> pl.DataFrame:
        return drift(before, pl.concat(current)).filter(feature="level").sort(CYCLE)

    lines = course(shift, at(shift, 81))
    assert (lines["psi"] / lines["limit"]).is_between(1, 2).all()
    assert lines["drifted"].to_list() == [False, True]
    for between in (usual, silent):
        assert course(shift, between, again)["drifted"].to_list() == [False, False, False]


@pytest.mark.slow
def test_of_few_rows_a_limit_that_is_exceeded_too_often_does_not_make_more_alarms_than_stated():
    """16 independent features, and 168 cycles from which a rate of 1 in 16,000 is learnt."""
    rng = np.random.default_rng(7)
    frame = pl.DataFrame({CYCLE: np.repeat(np.arange(668), 30)}).with_columns(
        pl.Series(f"x{one}", rng.normal(0, 1, 668 * 30)) for one in range(16)
    )
    lines = drift(frame.filter(pl.col(CYCLE) < 168), frame.filter(pl.col(CYCLE) >= 168))
    assert lines.filter(pl.col("psi") > pl.col("limit"))[CYCLE].n_unique() >= 3
    assert not lines["drifted"].any()


def test_an_alarm_without_a_shift_is_as_rare_as_the_rule_says():
    """500 cycles at a rate of 0.1 %: half an alarm on average; more than three have a probability of 0.2 %."""
    alarms = 0
    for seed in range(10):
        frame = cycles(0, 130, 60, seed)
        boundary = FIRST + timedelta(weeks=80)
        lines = drift(frame.filter(pl.col(CYCLE) < boundary), frame.filter(pl.col(CYCLE) >= boundary))
        alarms += lines.filter("drifted")[CYCLE].n_unique()
    assert alarms <= 3


def test_of_independent_normal_rows_the_textbook_s_limit_would_alarm_for_nothing_and_this_one_does_not():
    rng = np.random.default_rng(5)
    rows = pl.DataFrame({CYCLE: np.repeat(np.arange(160), 25), "x": rng.normal(0, 1, 160 * 25)})
    lines = drift(rows.filter(pl.col(CYCLE) < 80), rows.filter(pl.col(CYCLE) >= 80), Rule(bins=10))
    assert (lines["psi"] > 0.1).mean() > 0.1
    assert lines["drifted"].sum() == 0


def test_a_row_without_a_value_by_nature_does_not_count_and_a_missing_one_does():
    rows = pl.DataFrame({CYCLE: np.repeat(np.arange(21), 10), "x": np.tile(np.arange(10.0), 21)})
    now = rows.filter(pl.col(CYCLE) == 20)
    by_nature = now.with_columns(pl.when(pl.col("x") < 5).then(float("nan")).otherwise("x").alias("x"))
    missing = now.with_columns(pl.when(pl.col("x") < 5).then(None).otherwise("x").alias("x"))
    before = rows.filter(pl.col(CYCLE) < 20)
    assert first(drift(before, by_nature))["rows"] == 5
    assert first(drift(before, missing))["missing_now"] == 0.5
    assert first(drift(before, missing))["missing_before"] == 0.0


def test_what_is_told_beside_the_index_follows_its_definition():
    before = pl.DataFrame(
        {CYCLE: np.repeat(np.arange(20), 4), "x": np.tile([1.0, 2.0, 3.0, 4.0], 20), "k": ["a", "b"] * 40}
    )
    now = pl.DataFrame({CYCLE: [20] * 4, "x": [3.0, 4.0, 5.0, 6.0], "k": ["a", "a", "c", "c"]})
    lines = {row["feature"]: row for row in drift(before, now).iter_rows(named=True)}
    assert (lines["x"]["distance"], lines["x"]["unseen"]) == (0.5, 0.5)
    assert (lines["x"]["mean_before"], lines["x"]["mean_now"]) == (2.5, 4.5)
    assert (lines["k"]["distance"], lines["k"]["unseen"]) == (0.5, 0.5)
    assert lines["k"]["mean_now"] is None


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30)
)
def test_the_distance_of_numbers_is_that_of_kolmogorov_and_smirnov(a, b):
    before = pl.DataFrame({CYCLE: [0] * len(a), "x": a})
    lines = drift(before, pl.DataFrame({CYCLE: [1] * len(b), "x": b}))
    assert first(lines)["distance"] == pytest.approx(ks_2samp(a, b, method="asymp").statistic)


def test_with_too_few_cycles_nothing_is_an_alarm_and_no_limit_is_told():
    lines = drift(cycles(0, 11, 60, 1), cycles(11, 1, 60, 1, level=9.0))
    assert lines["limit"].null_count() == lines.height
    assert not lines["drifted"].any()


def test_features_that_are_empty_or_constant_or_only_on_one_side_do_no_harm():
    before = pl.DataFrame(
        {CYCLE: np.repeat(np.arange(20), 3), "a": [1.0] * 60, "b": [float("nan")] * 60, "c": [0.0] * 60}
    )
    before = before.with_columns(pl.lit(None, pl.Float64).alias("n"))
    now = pl.DataFrame(
        {CYCLE: [20], "a": [1.0], "b": [2.0], "d": [1.0], "n": [None]}, schema_overrides={"n": pl.Float64}
    )
    lines = drift(before, now)
    assert set(lines["feature"]) == {"a", "b", "n"}
    assert not lines["drifted"].any()


def test_the_order_of_rows_changes_nothing():
    before, now = cycles(0, 40, 30, 2), cycles(40, 2, 30, 2, kind=0.5)
    shuffled = drift(before.sample(fraction=1.0, shuffle=True, seed=3), now.reverse())
    assert drift(before, now).equals(shuffled)


def test_neighbours_that_resemble_each_other_widen_the_limit():
    values = np.exp(np.sin(np.arange(60) / 10)) / 10
    mixed = np.random.default_rng(1).permutation(values)
    assert Usual.of(values).limit(0.001) > Usual.of(mixed).limit(0.001) >= values.max()
