import numpy as np
import polars as pl
import pytest

from models.sales import contest
from models.sales.accuracy import _against

QUANTILES = (0.05, 0.5, 0.95)


def backtest(units: float, medians: dict[str, float], kind: str = "regular") -> pl.DataFrame:
    """One row per candidate, whose quantiles all are its median, relative to a level of 10."""
    values = [np.log(median / 10 + 0.1) for median in medians.values()]
    return pl.DataFrame(
        {"rung": list(medians), "kind": kind, "units": units, "level": 10.0}
        | {f"v{i}": values for i in range(len(QUANTILES))}
    )


def choice(raw: pl.DataFrame) -> dict[str, str]:
    return dict(contest.chosen(raw, QUANTILES).iter_rows())


def test_a_naive_forecast_that_was_best_is_used_for_its_kind_of_demand_alone():
    raw = pl.concat(
        [
            backtest(20.0, {"mean_of_models": 10.0, "seasonal_naive": 20.0}),
            backtest(20.0, {"mean_of_models": 20.0, "seasonal_naive": 10.0}, "intermittent"),
        ]
    )
    found = choice(raw)
    assert found["regular"] == "seasonal_naive"
    assert found["intermittent"] == found["new"] == contest.DEFAULT


def test_a_candidate_that_is_hardly_better_is_not_chosen():
    assert choice(backtest(20.0, {"mean_of_models": 10.0, "naive": 10.05}))["regular"] == contest.DEFAULT


def test_the_quantiles_of_a_naive_forecast_are_as_wide_as_those_of_the_models():
    rows = pl.DataFrame({"naive": [30.0], "seasonal_naive": [5.0], "level": [10.0]})
    pooled = np.array([[-1.0, 0.0, 0.5]])
    found = contest.candidates(pooled, np.full((1, 3), np.nan), rows, 1)
    assert found["naive"] - np.log(3.1) == pytest.approx(pooled)
    assert found["mean_of_models"] == pytest.approx(pooled)
    assert np.isnan(found["statistical"]).all()


def test_a_page_says_in_words_that_a_naive_forecast_is_better():
    assert _against(-0.15, "seasonal naive") == "15% above seasonal naive, which is better"
    assert _against(0.4, "naive") == "40% below naive"
