"""Bands of stores of which only a few weeks are known: a level that drifts is less certain in more weeks."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.sales import SALES, widening
from models.sales.panel import Panel, panel_of
from models.sales.scoring import UNJUDGED
from models.scenario import FitResult, Scores, train

HORIZON, SKUS = 13, 80
OPTIONS = {"trees": 20, "spread_trees": 8, "threads": 1}


def sales_of(weeks: int, level_step: float, noise: float, seed: int = 1) -> tuple[pl.DataFrame, date]:
    """Sales of SKUs in one store, in `weeks` and the horizon after it, and the last of the weeks."""
    rng = np.random.default_rng(seed)
    shape = (weeks + HORIZON, SKUS)
    level = np.log(rng.uniform(100, 5000, SKUS)) + np.cumsum(rng.normal(0, level_step, shape), axis=0)
    units = np.exp(level + rng.normal(0, noise, shape))
    first = date(2024, 1, 1)
    days = [first + timedelta(weeks=at) for at in range(weeks + HORIZON)]
    frames = [
        pl.DataFrame({"sku": f"{sku:03}", "store": "1", "week": days, "units": units[:, sku]})
        for sku in range(SKUS)
    ]
    return pl.concat(frames), days[weeks - 1]


def panel_of_weeks(weeks: int, level_step: float, noise: float) -> Panel:
    history, last = sales_of(weeks, level_step, noise)
    keys = history.select("sku", "store").unique().sort("sku", "store")
    return panel_of(history.lazy(), keys, [], last - timedelta(weeks=weeks - 1), last, 0)


def scores_of(history: pl.DataFrame, as_of: date) -> tuple[FitResult, Scores]:
    past = history.filter(pl.col("week") <= as_of)
    tables = {"history": past.with_columns(shard=pl.lit(0)).lazy()}
    training, context = train(SALES, tables, as_of, OPTIONS), SALES.context(tables, as_of, OPTIONS)
    keys = past.select("sku", "store").unique()
    return training, SALES.score(SALES.load(training.files), tables, context, keys, as_of, OPTIONS)


def trained_and_scored(history: pl.DataFrame, as_of: date) -> tuple[FitResult, pl.DataFrame]:
    training, scores = scores_of(history, as_of)
    return training, scores.rows.join(history, on=["sku", "store", "week"])


@pytest.mark.slow
@pytest.mark.parametrize("weeks", [4, 6, 10, 20])
@pytest.mark.parametrize(("level_step", "noise"), [(0.1, 0.05), (0.0, 0.2)])
def test_bands_of_a_few_weeks_hold_what_they_say_whether_the_level_drifts_or_not(weeks, level_step, noise):
    history, as_of = sales_of(weeks, level_step, noise)
    _, rows = trained_and_scored(history, as_of)
    assert rows.height == SKUS * HORIZON
    for steps in (range(1, 6), range(9, 14)):
        some = rows.filter(pl.col("step").is_in(steps))
        assert 0.8 <= some.select(pl.col("units").is_between("q5", "q95").mean()).item() <= 0.99


def test_a_drifting_level_widens_bands_by_the_step_and_a_steady_one_hardly():
    steady, drifting = (
        widening.widths(widening.likelihoods(panel_of_weeks(10, *steps)), 10, 0, HORIZON)
        for steps in ((0.0, 0.2), (0.1, 0.05))
    )
    assert list(drifting) == sorted(drifting)
    assert drifting[-1] > 2
    assert steady[-1] < 1.3


def test_bands_are_wider_only_beyond_the_steps_that_the_backtest_had():
    widths = widening.widths(widening.likelihoods(panel_of_weeks(20, 0.1, 0.05)), 20, 6, HORIZON)
    assert widths[:6] == pytest.approx([1.0] * 6)
    assert 1.1 < widths[-1] < 1.5


def test_without_any_history_the_usual_drift_of_weekly_sales_counts():
    none = widening.likelihoods(panel_of_weeks(1, 0.1, 0.05))
    assert none.is_empty()
    assert 1 < widening.widths(none, 1, 0, HORIZON)[-1] < 1.6


def test_without_a_backtest_the_skus_own_models_forecast_and_the_notes_say_so():
    history, as_of = sales_of(12, 0.1, 0.05)
    training, rows = trained_and_scored(history, as_of)
    assert set(rows["rung"]) == {"statistical"}
    assert any("not calibrated" in note and "own models" in note for note in training.notes)


@pytest.mark.parametrize(("skus", "reason"), [(6, UNJUDGED), (SKUS, None)])
def test_a_key_with_few_weeks_says_that_its_bands_may_be_too_narrow_unless_the_backtest_imitates_enough(
    skus, reason
):
    history, as_of = sales_of(70, 0.1, 0.05)
    is_short = pl.col("sku") == "003"
    long = history.filter(~is_short | (pl.col("week") > as_of - timedelta(weeks=10)))
    keys = scores_of(long.filter(pl.col("sku").rank("dense") <= skus), as_of)[1].keys
    assert keys.filter(is_short)["reason"].item() == reason
    assert keys.filter(~is_short)["reason"].null_count() == skus - 1
