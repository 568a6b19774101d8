import io
import warnings
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sales import contest, local_level, regression, statistical
from models.sales.options import QUANTILES, quantile_column
from models.sales.panel import Panel, panel_of, past_and_plan
from models.sales.simulation import FIRST_WEEK, Shares, simulate
from tests.quantiles import attained_level

NAMES = [quantile_column(level) for level in QUANTILES]
COVARIATES = ["price", "deal", "feat"]
MONDAY = date(2022, 1, 3)
KEY = ["sku", "store"]


@pytest.fixture(autouse=True)
def no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def panel_from(units: dict[tuple[str, str], np.ndarray], **covariates: np.ndarray) -> Panel:
    """A panel of the given keys, whose units are arrays over weeks; covariates have shape (weeks, keys)."""
    keys = sorted(units)
    frame = pl.DataFrame(keys, schema=KEY, orient="row")
    values = np.stack([np.asarray(units[key], dtype=float) for key in keys], axis=1)
    return Panel(frame, MONDAY, len(values) - 1, values, covariates)


def only(panel: Panel, skus: list[str]) -> Panel:
    at = panel.keys.with_row_index().filter(pl.col("sku").is_in(skus))["index"].to_numpy()
    covariates = {name: values[:, at] for name, values in panel.covariates.items()}
    return Panel(panel.keys[at], panel.first_week, panel.last, panel.units[:, at], covariates)


def market_panel(simulated) -> Panel:
    keys = pl.concat([simulated.history.select(KEY), simulated.plan.select(KEY)]).unique()
    rows = past_and_plan(
        {"history": simulated.history.lazy(), "plan": simulated.plan.lazy()}, COVARIATES, simulated.as_of, 13
    )
    return panel_of(rows, keys, COVARIATES, FIRST_WEEK, simulated.as_of, 13)


@pytest.fixture(scope="module")
def simulated():
    return simulate(24, 12, 118, seed=8)


@pytest.fixture(scope="module")
def market(simulated) -> Panel:
    return market_panel(simulated)


@pytest.fixture(scope="module")
def params(market) -> pl.DataFrame:
    return statistical.fit(market, market.last, 13, QUANTILES)


@pytest.fixture(scope="module")
def forecasts(params, market) -> pl.DataFrame:
    return statistical.forecast(params, market, market.last, 13, QUANTILES)


def gappy_walk(seed: int, weeks: int = 90) -> np.ndarray:
    rng = np.random.default_rng(seed)
    series = np.cumsum(rng.normal(0, 0.1, weeks)) + rng.normal(0, 0.2, weeks) + 4
    series[rng.random(weeks) < 0.15] = np.nan
    series[: seed % 5] = np.nan
    return series


@pytest.mark.parametrize("variances", [(0.04, 0.01), (0.3, 0.0), (1e-4, 0.5)])
def test_the_filter_gives_what_statsmodels_gives_with_the_same_parameters(variances):
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    series = np.stack([gappy_walk(seed) for seed in range(6)], axis=1)
    noise, drift = (np.full(6, value) for value in variances)
    levels = local_level.filtered_levels(series, noise, drift)
    for at in range(6):
        first = np.flatnonzero(np.isfinite(series[:, at]))[0]
        model = UnobservedComponents(series[first:, at], "llevel", use_exact_diffuse=True)
        expected = model.filter(list(variances)).filtered_state[0]
        np.testing.assert_allclose(levels[first:, at], expected, rtol=1e-9)
        assert np.isnan(levels[:first, at]).all()


def test_variances_are_the_maximum_of_the_likelihood_that_statsmodels_computes():
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    units = np.expm1(gappy_walk(3))
    params = statistical.fit(panel_from({("a", "s"): units}), len(units) - 1, 13, QUANTILES)
    variances = params.select("variance_noise", "variance_level").row(0)
    series = np.log1p(units[3:])
    model = UnobservedComponents(series - np.nanmean(series), "llevel", use_exact_diffuse=True)
    best = model.loglike(variances)
    assert params["reason"].item() is None
    for factor in (0.8, 1.25):
        assert model.loglike([variances[0] * factor, variances[1]]) < best + 1e-6
        assert model.loglike([variances[0], variances[1] * factor]) < best + 1e-6


def test_a_forecast_does_not_extrapolate_a_covariate_beyond_the_weeks_that_are_known():
    rng = np.random.default_rng(3)
    known, ahead = 60, 4
    usual = {
        "warmth": rng.uniform(0, 10, (known + ahead, 2)),
        "coupon": np.stack([np.zeros(known + ahead), rng.uniform(0, 6, known + ahead)], axis=1),
        "price": np.exp(rng.normal(0, 0.2, (known + ahead, 2))),
    }
    log_units = 5 + 0.1 * usual["warmth"] + 0.1 * usual["coupon"] - np.log(usual["price"])
    units = np.exp(log_units[:known] + rng.normal(0, 0.05, (known, 2)))

    def medians(**plan: float) -> np.ndarray:
        values = {name: value.copy() for name, value in usual.items()}
        for name, value in plan.items():
            values[name][known:] = value
        panel = panel_from({("a", "s"): units[:, 0], ("a", "t"): units[:, 1]}, **values)
        fitted = statistical.fit(panel, known - 1, ahead, QUANTILES)
        return statistical.forecast(fitted, panel, known - 1, ahead, QUANTILES)["q50"].to_numpy()

    assert medians(warmth=30) == pytest.approx(medians(warmth=10), rel=0.05)
    assert (medians(warmth=10) > 1.5 * medians(warmth=2)).all()
    of_store_without_coupons = slice(0, ahead)
    gain = (medians(coupon=6) / medians(coupon=0))[of_store_without_coupons]
    assert (gain > 1.1).all()
    assert (medians(price=0.2) > 1.5 * medians(price=0.5)).all()


def test_coefficients_are_least_squares_with_a_ridge_over_all_store_weeks():
    rng = np.random.default_rng(0)
    weeks, stores = 60, 4
    price = np.exp(rng.normal(0, 0.2, (weeks, stores)))
    deal = (rng.random((weeks, stores)) < 0.3).astype(float)
    units = np.exp(5 - 2 * np.log(price) + 0.5 * deal + rng.normal(0, 0.1, price.shape))
    units[rng.random(units.shape) < 0.1] = np.nan
    keys = {("a", f"s{at}"): units[:, at] for at in range(stores)}
    params = statistical.fit(panel_from(keys, price=price, deal=deal), weeks - 1, 13, QUANTILES)

    x, y = [], []
    for store in range(stores):
        finite = np.isfinite(units[:, store])
        logs = np.log1p(units[finite, store])
        for week in np.flatnonzero(finite):
            log_price = np.log(price[:, store])
            x.append([log_price[week] - log_price[-52:].mean(), deal[week, store] - deal[-52:, store].mean()])
            y.append(np.log1p(units[week, store]) - logs.mean())
    x = np.array(x) - np.mean(x, axis=0)
    ridge = np.diag(regression.RIDGE_WEEKS * x.var(axis=0))
    expected = np.linalg.inv(x.T @ x + ridge) @ x.T @ np.array(y)
    assert params.select("beta_price", "beta_deal").row(0) == pytest.approx(tuple(expected), rel=1e-6)
    assert params["beta_price"].item() == pytest.approx(-2, abs=0.15)
    assert params["beta_deal"].item() == pytest.approx(0.5, abs=0.1)


def test_stores_that_come_and_go_do_not_move_the_level():
    level = np.full(60, 100.0)
    large = level * 50
    large[:20] = large[45:] = np.nan
    panel = panel_from({("a", "s"): level, ("a", "t"): level * 2, ("a", "u"): large})
    params = statistical.fit(panel, 59, 4, QUANTILES)
    assert params["reason"].item() == "mean: it never changes"
    forecasts = statistical.forecast(params, panel, 59, 4, QUANTILES)
    for store, size in (("s", 1), ("t", 2), ("u", 50)):
        assert forecasts.filter(store=store)["q50"].to_list() == pytest.approx([100 * size] * 4, rel=0.01)


def test_quantiles_of_simulated_demand_are_near_the_true_ones(simulated, forecasts):
    rows = forecasts.drop("units").join(simulated.truth, on=[*KEY, "week"], suffix="_true")
    usual = rows.filter(pl.col("kind").is_in(["regular", "promoted"]))
    assert len(usual) > 2500
    for level, name in zip(QUANTILES, NAMES, strict=True):
        attained = usual.select(attained_level(pl.col("units"), pl.col(name), level)).item()
        assert attained == pytest.approx(level, abs=0.06)

    def loss(suffix: str) -> float:
        errors = [
            (q, pl.col("units") - pl.col(name + suffix)) for q, name in zip(QUANTILES, NAMES, strict=True)
        ]
        return usual.select(sum(pl.max_horizontal(q * e, (q - 1) * e).mean() for q, e in errors)).item()

    assert loss("") < 1.2 * loss("_true")


def test_rows_are_complete_in_order_and_without_keys_that_have_no_history(simulated, market, forecasts):
    assert forecasts.columns == [*KEY, "origin", "week", "step", "units", *NAMES]
    assert forecasts.schema["step"] == pl.Int32
    assert forecasts.select(*KEY, "week").rows() == sorted(forecasts.select(*KEY, "week").rows())
    assert forecasts.group_by(KEY).len()["len"].unique().to_list() == [13]
    assert forecasts["week"].to_list() == [market.week(market.last + step) for step in forecasts["step"]]
    pairs = simulated.history.select(KEY).unique()
    assert len(forecasts.join(pairs, on=KEY, how="semi")) == len(forecasts) == 13 * len(pairs)
    values = forecasts.select(NAMES).to_numpy()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()


def test_nothing_later_than_the_origin_is_used_except_the_plan(market):
    origin = market.last - 20
    changed_units = market.units.copy()
    changed_units[origin + 1 :] = 1e6
    changed_prices = {name: values.copy() for name, values in market.covariates.items()}
    for values in changed_prices.values():
        values[origin + 14 :] = 77.0
    altered = Panel(market.keys, market.first_week, market.last, changed_units, changed_prices)
    params = statistical.fit(market, origin, 13, QUANTILES)
    assert params.equals(statistical.fit(altered, origin, 13, QUANTILES))
    one, other = (statistical.forecast(params, panel, origin, 13, QUANTILES) for panel in (market, altered))
    assert one.drop("units").equals(other.drop("units"))
    assert other["units"].drop_nulls().unique().to_list() == [1e6]


def test_a_skus_parameters_and_rows_do_not_depend_on_the_other_skus(market, params, forecasts):
    for skus in (["sku00003"], ["sku00002", "sku00017", "sku00024"]):
        part = only(market, skus)
        alone = statistical.fit(part, part.last, 13, QUANTILES)
        assert alone.equals(params.filter(pl.col("sku").is_in(skus)))
        alone = statistical.forecast(params, part, part.last, 13, QUANTILES)
        assert alone.equals(forecasts.filter(pl.col("sku").is_in(skus)))


def test_an_sku_with_a_single_store_has_the_same_rows_alone():
    units = {(f"k{at}", "s"): np.expm1(gappy_walk(at)) for at in range(5)}
    panel = panel_from(units, price=np.exp(np.stack([gappy_walk(at + 9) for at in range(5)], axis=1)))
    params = statistical.fit(panel, 80, 9, QUANTILES)
    forecasts = statistical.forecast(params, panel, 80, 9, QUANTILES)
    for sku in ("k0", "k3"):
        part = only(panel, [sku])
        alone = statistical.fit(part, 80, 9, QUANTILES)
        assert alone.equals(params.filter(sku=sku))
        assert statistical.forecast(alone, part, 80, 9, QUANTILES).equals(forecasts.filter(sku=sku))


def test_fitting_twice_gives_the_same(market, params):
    assert statistical.fit(market, market.last, 13, QUANTILES).equals(params)


def test_parameters_survive_a_parquet_file_and_serve_a_later_origin(market):
    origin = market.last - 13
    params = statistical.fit(market, origin, 13, QUANTILES)
    file = io.BytesIO()
    params.write_parquet(file)
    file.seek(0)
    later = statistical.forecast(pl.read_parquet(file), market, market.last, 13, QUANTILES)
    assert later.equals(statistical.forecast(params, market, market.last, 13, QUANTILES))
    assert set(params.drop("sku", "reason", "weeks").dtypes) == {pl.Float64}


def test_newer_data_move_the_level_at_fixed_parameters():
    rng = np.random.default_rng(4)
    units = 200 * np.exp(rng.normal(0, 0.1, 80))
    units[60:] *= 2
    panel = panel_from({("a", "s"): units})
    params = statistical.fit(panel, 50, 13, QUANTILES)
    before, after = (
        statistical.forecast(params, panel, origin, 1, QUANTILES)["q50"].item() for origin in (55, 79)
    )
    assert before == pytest.approx(200, rel=0.1)
    assert after == pytest.approx(400, rel=0.2)


def test_a_lower_planned_price_and_a_planned_deal_sell_more(market, params):
    covariates = {name: values.copy() for name, values in market.covariates.items()}
    covariates["price"][market.last + 1 :] *= 0.7
    cheaper = Panel(market.keys, market.first_week, market.last, market.units, covariates)
    one, other = (
        statistical.forecast(params, panel, market.last, 13, QUANTILES) for panel in (market, cheaper)
    )
    ratio = (other["q50"] / one["q50"]).drop_nulls()
    assert ratio.median() > 1.4


def test_without_a_plan_prices_and_flags_count_as_usual(market, params, forecasts):
    planless = {name: values[: market.last + 1] for name, values in market.covariates.items()}
    for covariates in (planless, {}):
        bare = Panel(market.keys, market.first_week, market.last, market.units, covariates)
        unplanned = statistical.forecast(params, bare, market.last, 13, QUANTILES)
        assert len(unplanned) == len(forecasts)
        assert np.isfinite(unplanned.select(NAMES).to_numpy()).all()


def test_the_band_of_a_wandering_level_widens_with_the_step_and_that_of_a_steady_one_does_not():
    rng = np.random.default_rng(5)
    steady, wandering = rng.normal(0, 0.1, (2, 30, 120))
    units = {("steady", f"s{at:02d}"): 200 * np.exp(steady[at]) for at in range(30)}
    walk = np.cumsum(rng.normal(0, 0.15, 120))
    units |= {("walk", f"s{at:02d}"): 900 * np.exp(walk + wandering[at]) for at in range(30)}
    panel = panel_from(units)
    params = statistical.fit(panel, 119, 13, QUANTILES)
    forecasts = statistical.forecast(params, panel, 119, 13, QUANTILES)
    width = forecasts.with_columns(width=(pl.col("q95") / pl.col("q5")).log())
    width = width.group_by("sku", "step").agg(pl.col("width").mean()).sort("step")
    grows = {sku: rows["width"][-1] / rows["width"][0] for (sku,), rows in width.group_by("sku")}
    assert grows["walk"] > 1.6
    assert grows["steady"] < 1.1


PROBLEMS = {
    "one week": [7.0],
    "two weeks": [7.0, 9.0],
    "one week after gaps": [np.nan] * 20 + [7.0],
    "zeros": [0.0] * 40,
    "a constant": [5.0] * 40,
    "a constant with gaps": [5.0, np.nan] * 30,
    "mostly zero": [0.0, 0.0, 0.0, 4.0] * 20,
    "huge": [1e12, 3e12] * 20,
    "an outlier": [5.0] * 30 + [1e9] + [5.0] * 9,
}
CONDITIONS = {
    "no covariates": [],
    "constant": [("price", 2.0), ("deal", 0.0)],
    "unknown": [("price", np.nan), ("deal", np.nan)],
    "impossible prices": [("price", 0.0), ("price_other", -1.0)],
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_difficult_histories_are_forecast_without_failing(problem, condition):
    units = np.array(PROBLEMS[problem])
    covariates = {name: np.full((len(units) + 13, 1), value) for name, value in CONDITIONS[condition]}
    panel = panel_from({("a", "s"): units}, **covariates)
    params = statistical.fit(panel, len(units) - 1, 13, QUANTILES)
    forecasts = statistical.forecast(params, panel, len(units) - 1, 13, QUANTILES)
    values = forecasts.select(NAMES).to_numpy()
    assert values.shape == (13, 5)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    flat = set(units[np.isfinite(units)])
    if len(flat) == 1:
        assert forecasts["q50"].to_list() == pytest.approx([flat.pop()] * 13)


@pytest.mark.parametrize(("weeks", "share"), [(40, 27 / 53), (100, 52 / 78)])
def test_errors_on_one_side_move_the_median_less_the_fewer_weeks_they_are(weeks, share, monkeypatch):
    at = np.arange(weeks)
    panel = panel_from({("a", "s"): np.where(at % 5 == 0, 1000.0, 100.0) + at % 3})
    shrunk = statistical.fit(panel, weeks - 1, 13, QUANTILES)["shape_q50"][0]
    monkeypatch.setattr(statistical, "STEADY_WEEKS", 0.0)
    median = statistical.fit(panel, weeks - 1, 13, QUANTILES)["shape_q50"][0]
    assert median < -0.1
    assert shrunk == pytest.approx(share * median)


def test_collinear_covariates_do_no_harm():
    rng = np.random.default_rng(1)
    deal = (rng.random((70, 3)) < 0.3).astype(float)
    units = 100 * np.exp(0.8 * deal + rng.normal(0, 0.1, deal.shape))
    panel = panel_from(
        {("a", f"s{at}"): units[:, at] for at in range(3)}, deal=deal, same=deal, twice=2 * deal
    )
    params = statistical.fit(panel, 69, 13, QUANTILES)
    total = params.select(pl.col("beta_deal") + pl.col("beta_same") + 2 * pl.col("beta_twice")).item()
    assert total == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("failure", ["raises", "does not converge"])
def test_an_optimiser_that_fails_leaves_smoothing_and_says_so(monkeypatch, failure):
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    fit = UnobservedComponents.fit

    def failing(self, **options):
        if failure == "raises":
            raise np.linalg.LinAlgError("singular")
        result = fit(self, **options)
        result.mle_retvals["converged"] = False
        return result

    monkeypatch.setattr(UnobservedComponents, "fit", failing)
    panel = panel_from({("a", "s"): np.expm1(gappy_walk(2))})
    params = statistical.fit(panel, 89, 13, QUANTILES)
    assert params["reason"].item() == "exponential smoothing: the optimiser did not converge"
    assert np.isfinite(statistical.forecast(params, panel, 89, 13, QUANTILES).select(NAMES).to_numpy()).all()


def test_the_fixed_variances_are_exponential_smoothing():
    noise, drift = 1.0, local_level.FORGETTING**2 / (1 - local_level.FORGETTING)
    rng = np.random.default_rng(0)
    series = rng.normal(0, 1, 200)
    level = local_level.filtered_levels(series[:, None], np.array([noise]), np.array([drift]))[:, 0]
    gain = (level[-1] - level[-2]) / (series[-1] - level[-2])
    assert gain == pytest.approx(local_level.FORGETTING, rel=1e-3)


def test_short_histories_say_how_many_weeks_are_needed():
    panel = panel_from({("a", "s"): [5.0], ("b", "s"): [5.0]})
    params = statistical.fit(panel, 0, 13, QUANTILES)
    assert params["reason"].unique().to_list() == ["mean: 1 week of history, 12 are needed"]


def test_an_sku_without_parameters_or_units_has_no_rows(market, params):
    some = params.filter(pl.col("sku") != "sku00001")
    forecasts = statistical.forecast(some, market, market.last, 13, QUANTILES)
    assert set(forecasts["sku"]) == set(some["sku"])
    nothing = panel_from({("a", "s"): [np.nan] * 30})
    assert statistical.fit(nothing, 29, 13, QUANTILES).is_empty()


def test_an_origin_outside_the_panel_is_refused():
    panel = panel_from({("a", "s"): [5.0] * 20})
    with pytest.raises(
        ValueError, match=r"origin is 20\. Expected the index of a week of the panel, 0 to 19"
    ):
        statistical.fit(panel, 20, 13, QUANTILES)


def test_an_empty_panel_gives_empty_frames():
    panel = Panel(pl.DataFrame(schema=dict.fromkeys(KEY, pl.String)), MONDAY, 20, np.zeros((21, 0)), {})
    params = statistical.fit(panel, 20, 13, QUANTILES)
    assert params.is_empty()
    assert statistical.forecast(params, panel, 20, 13, QUANTILES).columns[-5:] == NAMES


@settings(max_examples=25)
@given(st.data())
def test_any_panel_gives_finite_positive_quantiles_in_order(data):
    weeks = data.draw(st.integers(1, 30))
    keys = data.draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from("stu")), min_size=1, max_size=4, unique=True
        )
    )
    value = st.one_of(st.just(np.nan), st.just(0.0), st.integers(0, 40).map(float), st.floats(0, 1e12))
    units = {key: data.draw(st.lists(value, min_size=weeks, max_size=weeks)) for key in keys}
    number = st.one_of(st.just(np.nan), st.floats(-1e3, 1e6))
    price = data.draw(st.lists(number, min_size=(weeks + 2) * len(keys), max_size=(weeks + 2) * len(keys)))
    panel = panel_from(units, price=np.reshape(price, (weeks + 2, len(keys))))
    params = statistical.fit(panel, weeks - 1, 3, QUANTILES)
    forecasts = statistical.forecast(params, panel, weeks - 1, 3, QUANTILES)
    values = forecasts.select(NAMES).to_numpy()
    assert len(forecasts) == 3 * sum(bool(np.isfinite(series).any()) for series in units.values())
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()


def backtests(gain: np.ndarray, noise: float, origins: int = 4) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of two models; the loss of `own` is less by `gain`, give or take `noise` per origin, in logs."""
    rng = np.random.default_rng(0)
    rows = [
        (
            f"k{key:03d}",
            "s",
            MONDAY + timedelta(weeks=13 * origin),
            MONDAY + timedelta(weeks=13 * origin + step),
        )
        for key in range(len(gain))
        for origin in range(origins)
        for step in range(1, 5)
    ]
    frame = pl.DataFrame(rows, schema=["sku", "store", "origin", "week"], orient="row")
    frame = frame.with_columns(units=pl.lit(100.0))
    shares = np.repeat(np.exp(-gain[:, None] + rng.normal(0, noise, (len(gain), origins))), 4)
    pooled = frame.with_columns(pl.lit(80.0).alias(name) for name in NAMES)
    own = frame.with_columns(pl.Series(name, 100 - 20 * shares) for name in NAMES)
    return pooled, own


def test_keys_are_chosen_where_the_own_model_is_clearly_better():
    gain = np.array([0.3] * 30 + [-0.3] * 70)
    better = contest.better_keys(*backtests(gain, 0.05), QUANTILES)
    assert better["sku"].to_list() == [f"k{key:03d}" for key in range(30)]
    assert better["gain"].to_list() == pytest.approx([0.3] * 30, abs=0.1)


def test_noise_alone_chooses_almost_no_key():
    better = contest.better_keys(*backtests(np.full(200, -0.02), 0.3), QUANTILES)
    assert len(better) < 10


def test_a_small_gain_or_a_single_origin_is_not_enough():
    assert contest.better_keys(*backtests(np.full(50, 0.01), 0.0), QUANTILES).is_empty()
    assert contest.better_keys(*backtests(np.full(50, 0.5), 0.05, origins=1), QUANTILES).is_empty()
    assert not contest.better_keys(*backtests(np.full(50, 0.5), 0.05), QUANTILES).is_empty()


def test_rows_of_only_one_model_and_keys_without_loss_do_not_count():
    pooled, own = backtests(np.array([0.3, 0.3]), 0.01)
    perfect = pooled.with_columns(pl.col("units").alias(name) for name in NAMES)
    assert contest.better_keys(perfect, own, QUANTILES).is_empty()
    assert contest.better_keys(pooled.clear(), own, QUANTILES).is_empty()
    assert contest.better_keys(pooled, own.filter(sku="k000"), QUANTILES)["sku"].to_list() == ["k000"]


def test_two_years_of_history_are_needed_for_a_season():
    quiet = Shares(**dict.fromkeys(Shares.__dataclass_fields__, 0.0))
    short = market_panel(simulate(2, 3, 100, seed=1, shares=quiet))
    long = market_panel(simulate(2, 3, 110, seed=1, shares=quiet))
    assert statistical.fit(short, short.last, 13, QUANTILES)["beta_year_sin1"].to_list() == [0.0, 0.0]
    assert 0.0 not in statistical.fit(long, long.last, 13, QUANTILES)["beta_year_sin1"].to_list()


TIMELY = (regression.TREND, "year_sin1", "year_cos1", "year_sin2", "year_cos2")
"""Regressors that are the same for all keys."""


def coefficients(logs: np.ndarray) -> pl.DataFrame:
    """Trend and season of SKUs with a single store each, from their log units of shape (weeks, SKUs)."""
    units = {(f"{at:02}", "s"): np.expm1(logs[:, at]) for at in range(logs.shape[1])}
    params = statistical.fit(panel_from(units), len(logs) - 1, 13, QUANTILES)
    return params.select(pl.col(statistical.BETA + name).alias(name) for name in TIMELY)


def waves(weeks: int) -> np.ndarray:
    phase = 2 * np.pi * (7 * np.arange(weeks) + MONDAY.toordinal()) / 365.25
    return np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase)], axis=1)


def test_a_level_that_wanders_passes_for_a_season_less_than_by_least_squares():
    walks = 6 + np.random.default_rng(3).normal(0, 0.05, (156, 30)).cumsum(axis=0)
    least_squares = np.linalg.lstsq(waves(156), walks - walks.mean(axis=0), rcond=None)[0]
    season = coefficients(walks).select(TIMELY[1:]).to_numpy()
    assert (season**2).mean() < 0.5 * (least_squares**2).mean()


def test_a_season_beside_a_level_that_wanders_is_found():
    level = 6 + np.random.default_rng(4).normal(0, 0.02, 156).cumsum()
    coefficient = coefficients((level + 0.5 * waves(156)[:, 0])[:, None]).row(0, named=True)
    assert coefficient["year_sin1"] == pytest.approx(0.5, abs=0.1)
    assert coefficient["year_cos1"] == pytest.approx(0.0, abs=0.1)


def test_a_peak_of_a_few_weeks_comes_back_after_five_years_of_it():
    weeks = 268
    of_year = np.arange(weeks) % 52.18
    units = 100 * np.exp(np.random.default_rng(8).normal(0, 0.1, weeks)) * np.where(of_year < 3, 3, 1)
    panel = panel_from({("a", "s"): units})
    params = statistical.fit(panel, 254, 13, QUANTILES)
    median = statistical.forecast(params, panel, 254, 13, QUANTILES)["q50"].to_numpy()
    assert median[of_year[255:] < 3].mean() > 2 * np.median(median)


def test_coefficients_of_one_model_are_generalised_least_squares():
    rng = np.random.default_rng(6)
    series, x = rng.normal(0, 1, (40, 1)).cumsum(axis=0), rng.normal(0, 1, (40, 2))
    series[[3, 17]] = np.nan
    squares, deviance, weeks = local_level.innovations(series, x)
    weeks_of_units = np.flatnonzero(np.isfinite(series[:, 0]))
    for at, ratio in enumerate(local_level.RATIOS):
        walk = ratio * np.minimum.outer(
            weeks_of_units - weeks_of_units[0], weeks_of_units - weeks_of_units[0]
        )
        inverse = np.linalg.inv(walk + np.eye(len(weeks_of_units)))
        ones = np.ones((len(weeks_of_units), 1))
        design = np.concatenate([ones, x[weeks_of_units]], axis=1)
        beta = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ series[weeks_of_units, 0])
        ours = np.linalg.solve(squares[at, 0, 1:, 1:], squares[at, 0, 1:, 0])
        assert ours == pytest.approx(beta[1:], rel=1e-6)
        log_determinant = np.linalg.slogdet(walk + np.eye(len(weeks_of_units)))[1]
        precision = np.log((ones.T @ inverse @ ones).item())
        assert deviance[at, 0] == pytest.approx(log_determinant + precision, rel=1e-6, abs=1e-9)
    assert weeks.tolist() == [len(weeks_of_units) - 1]


def test_an_sku_that_grows_goes_on_growing_by_less_and_less():
    units = 100 * 1.01 ** np.arange(150) * np.exp(np.random.default_rng(5).normal(0, 0.05, 150))
    assert coefficients(np.log1p(units)[:, None])[regression.TREND].item() == pytest.approx(
        np.log(1.01), rel=0.1
    )
    panel = panel_from({("a", "s"): units})
    params = statistical.fit(panel, 149, 13, QUANTILES)
    median = statistical.forecast(params, panel, 149, 13, QUANTILES)["q50"].to_numpy()
    growth = np.diff(np.log(median))
    assert (growth > 0).all()
    assert growth[-1] < growth[0] / 2
    assert units[-8:].mean() < median[0] < median[-1] < 100 * 1.01**163
