import numpy as np
import polars as pl
import pytest

from models.sales import choices, contest, training_notes
from models.sales.accuracy import _against
from models.sales.model import Model
from models.sales.options import Options

QUANTILES = (0.05, 0.5, 0.95)


def backtest(units: float, medians: dict[str, float], kind: str = "regular") -> pl.DataFrame:
    """One row per candidate, all of whose quantiles are its median, relative to a level of 10."""
    values = [np.log(median / 10 + 0.1) for median in medians.values()]
    return pl.DataFrame(
        {"rung": list(medians), "kind": kind, "units": units, "level": 10.0, "last_year": 10.0}
        | {f"v{i}": values for i in range(len(QUANTILES))}
    )


def choice(*origins: pl.DataFrame) -> dict[str, str]:
    """The choice in weeks without a plan."""
    raw = pl.concat(
        rows.with_columns(sku=pl.lit("1"), store=pl.lit("1"), origin=i, week=i)
        for i, rows in enumerate(origins)
    )
    return dict(contest.better_than(raw, contest.DEFAULT, contest.MEMBERS, QUANTILES).iter_rows())


def test_a_naive_forecast_that_was_best_is_used_for_its_kind_of_demand_alone():
    raw = pl.concat(
        [
            backtest(20.0, {"mean_of_models": 10.0, "seasonal_naive": 20.0}),
            backtest(20.0, {"mean_of_models": 19.0, "seasonal_naive": 10.0}, "intermittent"),
            backtest(20.0, {"mean_of_models": 20.0, "seasonal_naive": 10.0}, "promoted"),
        ]
    )
    assert choice(raw, raw) == {"regular": "seasonal_naive"}


def test_a_candidate_that_is_hardly_better_is_not_chosen():
    raw = backtest(20.0, {"mean_of_models": 10.0, "naive": 10.05})
    assert choice(raw, raw) == {}


def test_a_season_is_judged_where_last_year_is_known_and_at_a_single_origin_has_to_save_much():
    unmeasured = backtest(20.0, {"mean_of_models": 10.0, "last_year_with_mean": 10.0}).with_columns(
        last_year=float("nan")
    )
    much = backtest(20.0, {"mean_of_models": 10.0, "last_year_with_mean": 14.0})
    little = backtest(20.0, {"mean_of_models": 10.0, "last_year_with_mean": 11.0})
    assert choice(unmeasured, unmeasured, much) == {"regular": "last_year_with_mean"}
    assert choice(unmeasured, unmeasured, little) == {}


def test_the_quantiles_of_a_naive_forecast_are_as_wide_as_those_of_the_models():
    rows = pl.DataFrame({"naive": [30.0], "seasonal_naive": [5.0], "last_year": [20.0], "level": [10.0]})
    pooled = np.array([[-1.0, 0.0, 0.5]])
    candidates = contest.candidates(pooled, np.full((1, 3), np.nan), rows, 1)
    assert candidates["naive"] - np.log(3.1) == pytest.approx(pooled)
    assert candidates["mean_of_models"] == pytest.approx(pooled)
    assert np.isnan(candidates["statistical"]).all()


def test_the_narrower_its_own_band_the_more_a_forecast_counts_in_a_mean():
    wide, narrow = np.array([[-1.0, 0.0, 1.0]]), np.array([[-0.2, 0.3, 0.8]])
    assert contest.mean_of([wide, narrow])[0, 1] == pytest.approx((1 * 0.0 + 2 * 0.3) / 3)
    assert contest.mean_of([wide, np.full((1, 3), np.nan)]) == pytest.approx(wide)


def test_last_year_counts_twice_as_much_as_the_models_and_where_it_is_unknown_the_models_answer():
    rows = pl.DataFrame({name: [10.0, 10.0] for name in ("naive", "seasonal_naive", "level")}).with_columns(
        last_year=pl.Series([40.0, float("nan")])
    )
    models, usual, year_ago = np.full((2, 1), 0.5), 0.5, np.log(4.1)
    candidates = contest.candidates(models, models, rows, 0, has_plan=True)
    assert candidates["last_year_with_blend"][0] == pytest.approx((usual + 2 * year_ago) / 3)
    assert candidates["blend_with_last_year"][0] == pytest.approx((2 * usual + year_ago) / 3)
    assert np.isnan([candidates[name][1] for name in contest.PLANNED if "last_year" in name]).all()
    unplanned = contest.candidates(models, models, rows, 0)
    assert unplanned["last_year_with_mean"][1] == pytest.approx(usual)


def of_origins(units: dict[str, list[float]]) -> pl.DataFrame:
    """Forecasts of 20 units by name, one of each origin."""
    count = len(next(iter(units.values())))
    return pl.concat(
        backtest(20.0, {name: values[i] for name, values in units.items()}).with_columns(
            sku=pl.lit("1"), store=pl.lit("1"), origin=i, week=i
        )
        for i in range(count)
    )


def planned(units: dict[str, list[float]]) -> dict[str, str]:
    """The choice in planned weeks, from the forecasts `of_origins`."""
    return dict(contest.better_than(of_origins(units), "blend", contest.PLANNED, QUANTILES).iter_rows())


@pytest.mark.parametrize(
    ("pooled", "rung"),
    [([17.0, 19.5, 19.0], "blend"), ([19.0, 19.5, 19.5], "pooled"), ([18.2], "blend"), ([12.0] * 3, "blend")],
    ids=["better in one season", "better time after time", "a little better at the only origin", "worse"],
)
def test_the_mean_of_the_models_gives_way_to_the_pooled_one_only_where_that_is_better_by_more_than_noise(
    pooled, rung
):
    raw = of_origins({"blend": [18.0, 15.0, 18.0][: len(pooled)], "pooled": pooled})
    is_blended = choices.of_errors(
        raw.with_columns(whole=False, steps=0, imitated=False), True, Options(quantiles=QUANTILES)
    )["blended"]
    assert is_blended == (rung == "blend")


def test_in_planned_weeks_a_forecast_takes_the_place_of_the_models_where_it_is_better_time_after_time():
    steady = {
        "blend": [14.0, 13.0, 14.0],
        "blend_with_naive": [17.0] * 3,
        "seasonal_naive": [19.0, 18.0, 19.0],
    }
    assert planned(steady) == {"regular": "seasonal_naive"}


def test_in_planned_weeks_one_lucky_season_replaces_no_model():
    assert planned({"blend": [10.0, 18.0, 18.0], "seasonal_naive": [20.0, 17.9, 17.9]}) == {}
    assert planned({"blend": [10.0], "seasonal_naive": [11.0]}) == {}


def test_what_saves_most_takes_the_place_of_the_models_whatever_the_young_models_of_the_first_origin_lost():
    losses = {
        "blend": [2.0, 14.0, 14.0],
        "naive": [18.2, 15.2, 15.2],
        "seasonal_naive": [12.8, 17.0, 17.0],
    }
    assert planned(losses) == {"regular": "seasonal_naive"}


def test_a_page_says_in_words_that_a_naive_forecast_is_better():
    assert _against(-0.15, "seasonal naive") == "15% above seasonal naive, which is better"
    assert _against(0.4, "naive") == "40% below naive"


def test_what_a_kind_of_demand_is_forecast_by_is_noted_without_the_rows_of_new_pairs():
    nothing = pl.DataFrame()
    planned = pl.DataFrame({"kind": ["new"], "rung": ["seasonal_naive"]})
    model = Model(
        *(QUANTILES, 1, (), (), None, None, nothing, nothing, nothing, False, False), planned=planned
    )
    rows = pl.DataFrame(
        {
            "kind": "new",
            "rung": ["seasonal_naive", "sku_profile"],
            "units": 10.0,
            "q50": [9.0, 99.0],
            "naive": 5.0,
            "seasonal_naive": [9.0, 0.0],
        }
    )
    notes = training_notes._beside_naive(rows, model, Options(quantiles=QUANTILES))
    assert "WAPE of the naive forecast 10.0%, of the published one 10.0%" in notes[-1]
