from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from models.sales.options import QUANTILES, quantile_column
from models.sales.simulation import (
    KINDS,
    NEW_WEEKS,
    Shares,
    Simulated,
    simulate,
    simulate_parts,
)
from tests.quantiles import attained_level

KEY_WEEK = ["sku", "store", "week"]


@pytest.fixture(scope="module")
def market() -> Simulated:
    return simulate(60, 40, 120, seed=3)


def test_realised_units_fall_below_each_true_quantile_as_often_as_it_says_for_each_kind(market):
    for kind in KINDS:
        rows = market.truth.filter(kind=kind)
        error = 4 * (0.25 / len(rows)) ** 0.5
        for level in QUANTILES:
            units, quantile = rows["units"], rows[quantile_column(level)]
            assert (units < quantile).mean() <= level + error, (kind, level)
            assert (units <= quantile).mean() >= level - error, (kind, level)


def test_realised_units_follow_the_negative_binomial_that_the_truth_names(market):
    rng = np.random.default_rng(0)
    for kind in KINDS:
        rows = market.truth.filter(kind=kind)
        mean, size, units = (rows[name].to_numpy() for name in ("mean", "dispersion", "units"))
        distribution = stats.nbinom(size, size / (size + mean))
        uniform = distribution.cdf(units - 1) + rng.random(len(rows)) * distribution.pmf(units)
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3, kind


def test_true_quantiles_are_the_least_whole_numbers_that_reach_their_level(market):
    rows = market.truth.gather_every(97)
    size = rows["dispersion"].to_numpy()
    distribution = stats.nbinom(size, size / (size + rows["mean"].to_numpy()))
    for level in QUANTILES:
        quantile = rows[quantile_column(level)].to_numpy()
        assert np.all(quantile == np.round(quantile))
        assert np.all(distribution.cdf(quantile) >= level - 1e-9)
        assert np.all(distribution.cdf(quantile - 1) < level + 1e-9)


def test_bands_of_usual_demand_nearly_cover_what_they_say_even_when_both_ends_are_counted(market):
    rows = market.truth.filter(pl.col("kind").is_in(["regular", "promoted"]))
    covered = rows.select(
        half=pl.col("units").is_between("q25", "q75").mean(),
        most=pl.col("units").is_between("q5", "q95").mean(),
    )
    assert covered["half"].item() == pytest.approx(0.5, abs=0.015)
    assert covered["most"].item() == pytest.approx(0.9, abs=0.01)


def test_a_forecast_that_is_too_low_does_not_attain_its_level(market):
    low = pl.col("q50") * 0.8
    attained = market.truth.filter(kind="regular").select(attained_level(pl.col("units"), low, 0.5)).item()
    assert attained < 0.35


def test_the_same_seed_gives_the_same_rows_and_another_seed_gives_others():
    one, again, other = (simulate(5, 7, 60, seed=seed) for seed in (1, 1, 2))
    for name in ("history", "plan", "stores", "truth"):
        assert_frame_equal(getattr(one, name), getattr(again, name))
        assert not getattr(one, name).equals(getattr(other, name))


@pytest.mark.parametrize("skus_per_part", [1, 7, 12, 100])
def test_parts_joined_are_the_whole_whatever_their_size(skus_per_part):
    whole = simulate(27, 5, 40, seed=4)
    parts = list(simulate_parts(27, 5, 40, seed=4, skus_per_part=skus_per_part))
    for name in ("history", "plan", "truth"):
        assert_frame_equal(pl.concat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_the_first_skus_of_a_larger_simulation_are_the_smaller_one():
    small, large = simulate(5, 6, 40, seed=4), simulate(30, 6, 40, seed=4)
    names = small.history["sku"].unique()
    assert_frame_equal(large.history.filter(pl.col("sku").is_in(names.implode())), small.history)


def test_columns_types_and_order_are_as_promised(market):
    covariates = {"price": pl.Float64, "deal": pl.Float64, "feat": pl.Float64}
    key = {"sku": pl.String, "store": pl.String, "week": pl.Date}
    assert dict(market.history.schema) == {**key, "units": pl.Float64, **covariates}
    assert dict(market.plan.schema) == {**key, **covariates}
    for frame in (market.history, market.plan, market.truth):
        assert frame.equals(frame.sort(KEY_WEEK))
        assert not frame.select(KEY_WEEK).is_duplicated().any()
        assert frame.null_count().sum_horizontal().item() == 0
        assert set(frame["week"].dt.weekday()) == {1}
    assert set(market.history["store"]) == set(market.stores["store"])


def test_the_plan_and_the_truth_are_the_complete_weeks_after_the_history(market):
    assert market.history["week"].max() == market.as_of
    expected = [market.as_of + timedelta(weeks=step) for step in range(1, 14)]
    assert market.plan["week"].unique().sort().to_list() == expected
    assert set(market.plan.group_by("sku", "store").len()["len"]) == {13}
    assert_frame_equal(market.truth.select(KEY_WEEK), market.plan.select(KEY_WEEK))
    weeks = market.truth.select(pl.col("week") - pl.duration(weeks=pl.col("step")))
    assert weeks["week"].unique().to_list() == [market.as_of]


def test_new_keys_start_late_or_only_in_the_plan(market):
    first = market.history.group_by("sku", "store").agg(first=pl.col("week").min())
    keys = market.truth.select("sku", "store", "kind").unique().join(first, on=["sku", "store"], how="left")
    new_from = market.as_of - timedelta(weeks=NEW_WEEKS - 2)
    new = keys.filter(kind="new")
    assert new["first"].null_count() > 0
    assert new["first"].drop_nulls().len() > 0
    assert new["first"].drop_nulls().min() >= new_from
    started_late = first.filter(pl.col("first") > market.history["week"].min() + timedelta(weeks=10))
    assert len(started_late) > len(new)


def test_stopped_keys_have_a_history_and_no_plan(market):
    stopped = market.history.join(market.plan, on=["sku", "store"], how="anti")
    keys = stopped.group_by("sku", "store").agg(last=pl.col("week").max())
    assert 0.005 < len(keys) / (60 * 40) < 0.05
    assert keys["last"].max() < market.as_of - timedelta(weeks=3)


def test_weeks_are_missing_in_the_middle_of_histories(market):
    keys = market.history.group_by("sku", "store").agg(
        span=(pl.col("week").max() - pl.col("week").min()).dt.total_days() // 7 + 1, rows=pl.len()
    )
    missing = 1 - keys["rows"].sum() / keys["span"].sum()
    assert 0.008 < missing < 0.03


def test_intermittent_keys_are_mostly_zero_and_vary_more_than_poisson(market):
    slow = market.truth.filter(kind="intermittent").select("sku", "store").unique()
    units = market.history.join(slow, on=["sku", "store"])["units"]
    assert (units == 0).mean() > 0.35
    assert units.var() > 1.3 * units.mean()
    assert 0.04 < len(slow) / (60 * 40) < 0.2


def test_flags_go_with_deep_cuts_but_are_not_the_cuts(market):
    usual = pl.col("price").rolling_median(9, center=True, min_samples=1).over("sku", "store")
    rows = market.history.with_columns(depth=(1 - pl.col("price") / usual).clip(0))
    reduced, full = rows.filter(pl.col("depth") > 0.08), rows.filter(pl.col("depth") < 0.02)
    assert 0.75 < (reduced["deal"] > 0).mean() < 0.99
    assert 0.005 < (full["deal"] > 0).mean() < 0.06
    deep = reduced.filter(pl.col("depth") > 0.25)
    shallow = reduced.filter(pl.col("depth") < 0.18)
    assert (deep["feat"] > 0).mean() > (shallow["feat"] > 0).mean() + 0.1
    assert (full["feat"] > 0).mean() > 0.002
    assert set(market.history["deal"]) == {0.0, 1.0}
    assert market.history["feat"].min() == 0
    assert market.history["feat"].max() <= 1


def test_promotions_and_lower_prices_sell_more(market):
    means = market.truth.group_by("sku", "store").agg(
        promoted=pl.col("mean").filter(kind="promoted").mean(),
        regular=pl.col("mean").filter(kind="regular").mean(),
    )
    ratio = means.select(pl.col("promoted") / pl.col("regular")).to_series().drop_nulls()
    assert 1.3 < ratio.median() < 6
    assert (ratio > 1).mean() > 0.9


def test_levels_of_skus_are_heavy_tailed_and_stores_differ_in_size(market):
    by_sku = market.history.group_by("sku").agg(pl.col("units").mean())["units"]
    assert by_sku.max() > 4 * by_sku.median()
    by_store = market.history.group_by("store").agg(pl.col("units").mean()).join(market.stores, on="store")
    assert by_store.select(pl.corr("units", "size_m2", method="spearman")).item() > 0.7


def test_without_shares_every_key_is_complete():
    nothing = Shares(**dict.fromkeys(Shares.__dataclass_fields__, 0.0))
    whole = simulate(3, 4, 30, seed=1, shares=nothing)
    assert len(whole.history) == 3 * 4 * 30
    assert len(whole.plan) == 3 * 4 * 13
    assert set(whole.truth["kind"]) <= {"regular", "promoted"}


@pytest.mark.parametrize(("weeks", "horizon"), [(1, 1), (2, 13), (9, 4)])
def test_short_simulations_work(weeks, horizon):
    short = simulate(2, 3, weeks, seed=1, horizon=horizon)
    assert short.plan["week"].n_unique() == horizon
    assert short.history["week"].n_unique() <= weeks


def test_the_truth_can_be_left_out_and_the_rest_is_the_same():
    whole, bare = simulate(3, 4, 30, seed=1), simulate(3, 4, 30, seed=1, with_truth=False)
    assert_frame_equal(whole.history, bare.history)
    assert_frame_equal(whole.plan, bare.plan)
    assert bare.truth.is_empty()
    assert bare.truth.schema == whole.truth.schema


def test_wrong_sizes_and_a_first_week_that_is_no_monday_are_refused():
    with pytest.raises(ValueError, match="stores is 0"):
        simulate(1, 0, 10, seed=1)
    with pytest.raises(ValueError, match="Sunday"):
        simulate(1, 1, 10, seed=1, first_week=date(2023, 1, 1))
