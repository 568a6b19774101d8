from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.sales import ladder, ladder_profiles, neighbours
from models.sales.options import QUANTILES, quantile_column
from models.sales.simulation import NEW_WEEKS, Simulated, simulate
from tests.quantiles import attained_level

AS_OF = date(2024, 6, 3)
NAMES = [quantile_column(level) for level in QUANTILES]
KEY = ["sku", "store"]


@pytest.fixture(scope="module")
def market() -> Simulated:
    return simulate(80, 40, 120, seed=5)


@pytest.fixture(scope="module")
def profiles(market) -> dict[str, pl.DataFrame]:
    return ladder_profiles.profiles(market.history, market.as_of, QUANTILES)


def weeks(sku: str, store: str, units: list[float], last: date = AS_OF, **covariates: float) -> pl.DataFrame:
    """History of one key, one row a week, ending with `last`."""
    return pl.DataFrame(
        {
            "sku": sku,
            "store": store,
            "week": [last - timedelta(weeks=len(units) - 1 - at) for at in range(len(units))],
            "units": [float(value) for value in units],
            **covariates,
        }
    )


def keys(*pairs: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(pairs), schema=KEY, orient="row")


def answer(pairs: pl.DataFrame, history: pl.DataFrame, plan: pl.DataFrame | None = None, horizon: int = 3):
    profiles = ladder_profiles.profiles(history, AS_OF, QUANTILES)
    return ladder.answer(pairs, history, profiles, AS_OF, horizon, QUANTILES, plan)


def planned(sku: str, store: str, horizon: int = 3, **covariates: float) -> pl.DataFrame:
    ahead = [AS_OF + timedelta(weeks=step) for step in range(1, horizon + 1)]
    return pl.DataFrame({"sku": sku, "store": store, "week": ahead, **covariates})


def order_statistic(values: list[float], level: float) -> float:
    rank = int(np.floor(level * (len(values) + 1) + 0.5))
    return sorted(values)[min(max(rank, 1), len(values)) - 1]


def test_a_key_with_history_gets_the_order_statistics_of_its_last_year():
    units = list(np.random.default_rng(1).poisson(0.7, 40)) + list(np.random.default_rng(2).normal(50, 9, 30))
    answers = answer(keys(("a", "s")), weeks("a", "s", units))
    assert answers["rung"].unique().to_list() == ["own_history"]
    positive = sum(value > 0 for value in units[-52:])
    assert answers["reason"][0] == f"sold in {positive} of its last 52 weeks"
    for level, name in zip(QUANTILES, NAMES, strict=True):
        assert answers[name].unique().to_list() == [order_statistic(units[-52:], level)]


def test_promoted_and_regular_weeks_of_the_plan_take_their_own_quantiles():
    regular, promoted = [float(value) for value in range(1, 11)], [float(value) for value in range(101, 111)]
    history = pl.concat(
        [
            weeks("a", "s", regular, deal=0.0, price=2.0),
            weeks("a", "s", promoted, AS_OF - timedelta(weeks=10), deal=1.0, price=2.0),
        ]
    )
    plan = planned("a", "s", deal=1.0, price=2.0).with_columns(deal=pl.Series([1.0, 0.0, 0.0]))
    plan = plan.with_columns(price=pl.Series([2.0, 2.0, 1.0]))
    answers = answer(keys(("a", "s")), history, plan)
    expected = [order_statistic(promoted, 0.5), order_statistic(regular, 0.5), order_statistic(promoted, 0.5)]
    assert answers["q50"].to_list() == expected


def test_a_week_that_the_plan_lacks_takes_the_quantiles_of_all_weeks():
    history = pl.concat(
        [
            weeks("a", "s", [4.0] * 10, deal=0.0),
            weeks("a", "s", [9.0] * 9, AS_OF - timedelta(weeks=10), deal=1.0),
        ]
    )
    answers = answer(keys(("a", "s")), history, planned("a", "s", deal=1.0).head(1))
    assert answers["q50"].to_list() == [9.0, 4.0, 4.0]


def test_a_new_key_takes_its_sku_in_other_stores_scaled_by_the_size_of_its_store():
    history = pl.concat(
        [
            *(weeks("a", store, [10.0 * size] * 12) for store, size in (("s", 1), ("t", 3))),
            *(weeks("b", store, [20.0 * size] * 12) for store, size in (("s", 1), ("t", 3), ("u", 2))),
        ]
    )
    answers = answer(keys(("a", "u")), history)
    assert answers["rung"].unique().to_list() == ["sku_profile"]
    assert answers["reason"][0] == "no history; taken from 2 stores that have the SKU"
    profiles = ladder_profiles.profiles(history, AS_OF, QUANTILES)
    size = profiles["ladder_store"].filter(store="u", demand="any")["size"].item()
    assert size == pytest.approx(1.0)
    sizes = {"s": (10 + 20) / (20 + 40), "t": (30 + 60) / (20 + 40)}
    pooled = [10 / sizes["s"]] * 12 + [30 / sizes["t"]] * 12
    of_sku = [size * order_statistic(pooled, level) for level in QUANTILES]
    assert answers.select(NAMES).row(0) == pytest.approx(mixed(of_sku, [40.0] * 5, weeks=24))


def coverage(rows: pl.DataFrame) -> tuple[float, float]:
    """The shares of units in the 50 % and in the 90 % band."""
    bands = rows.select(
        pl.col("units").is_between("q25", "q75").mean().alias("half"),
        pl.col("units").is_between("q5", "q95").mean().alias("most"),
    )
    return bands.row(0)


def test_the_band_of_an_unknown_store_holds_stores_of_any_size(market):
    """Five times, a fifth of the stores is withheld from the history."""
    stores = market.stores["store"]
    parts = []
    for at in range(5):
        out = pl.col("store").is_in(stores.gather_every(5, at).implode())
        history = market.history.filter(~out)
        profiles = ladder_profiles.profiles(history, market.as_of, QUANTILES)
        pairs = market.truth.filter(out, kind="regular").select(KEY)
        parts.append(ladder.answer(pairs, history, profiles, market.as_of, 13, QUANTILES, market.plan))
    rows = pl.concat(parts).filter(rung="sku_profile")
    rows = rows.join(market.truth.filter(kind="regular"), on=[*KEY, "week"], suffix="_true")
    assert len(rows) > 20_000
    half, most = coverage(rows)
    assert most == pytest.approx(0.9, abs=0.03)
    assert half == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("rung", "new"), [("store_profile", ["sku"]), ("everything", KEY)])
def test_the_quantiles_of_a_new_sku_are_those_of_skus_of_any_sales(market, rung, new):
    """Five times, a fifth of the SKUs is withheld, and for the last rung a fifth of the stores."""
    parts = []
    for at in range(5):
        withheld = [
            pl.col(c).is_in(market.history[c].unique().sort().gather_every(5, at).implode()) for c in new
        ]
        history = market.history.filter(~pl.any_horizontal(withheld))
        profiles = ladder_profiles.profiles(history, market.as_of, QUANTILES)
        pairs = market.truth.filter(withheld).select(KEY)
        parts.append(ladder.answer(pairs, history, profiles, market.as_of, 13, QUANTILES, market.plan))
    rows = pl.concat(parts).join(market.truth, on=[*KEY, "week"], suffix="_true")
    assert rows["rung"].unique().to_list() == [rung]
    assert len(rows) > 4000
    for level, name in zip(QUANTILES, NAMES, strict=True):
        attained = rows.select(attained_level(pl.col("units"), pl.col(name), level)).item()
        assert attained == pytest.approx(level, abs=0.06), name


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_weeks_of_an_sku_in_a_single_store_have_the_spread_of_other_skus(count):
    """A chain of one store, where half of the SKUs are new: what their profile lacks is how much weeks differ."""
    market = simulate(80, 1, 120, seed=2)
    names = market.history["sku"].unique().sort()
    is_new = pl.col("sku").is_in(names.gather_every(2).implode())
    recent = pl.col("week") > market.as_of - timedelta(weeks=count)
    history = market.history.filter(~is_new | recent)
    profiles = ladder_profiles.profiles(history, market.as_of, QUANTILES)
    truth = market.truth.filter(is_new)
    answers = ladder.answer(truth.select(KEY), history, profiles, market.as_of, 13, QUANTILES, market.plan)
    rows = answers.filter(rung="short_history").join(truth, on=[*KEY, "week"], suffix="_true")
    assert len(rows) > 300
    assert coverage(rows)[1] > 0.75


def mixed(of_sku: list[float], of_store: list[float], weeks: int) -> list[float]:
    """The quantiles of an SKU that has so many weeks, mixed with those of its store's SKUs, by the definition."""

    def mean(own: float, other: float, prior: float) -> float:
        return (own**weeks * other**prior) ** (1 / (weeks + prior))

    level, store_level = np.mean(of_sku), np.mean(of_store)
    shape = [
        mean(own / level + 0.1, other / store_level + 0.1, 16) - 0.1
        for own, other in zip(of_sku, of_store, strict=True)
    ]
    return [mean(level, store_level, 4) * value for value in shape]


def test_an_sku_that_few_weeks_show_may_sell_as_much_as_any_other_of_the_store(market):
    """A third of the SKUs are known from two weeks in one store; the band of their other stores is of all SKUs."""
    old = market.history.filter(pl.col("week") < market.as_of - timedelta(weeks=20))
    of_old = market.history.join(old.select(KEY).unique(), on=KEY, how="semi")
    late = of_old.select("sku").unique().sort("sku").gather_every(3)
    of_late = of_old.join(late, on="sku", how="semi").filter(
        pl.col("week") > market.as_of - timedelta(weeks=2)
    )
    seen = of_late.filter(pl.col("store") == pl.col("store").first().over("sku"))
    history = pl.concat([of_old.join(late, on="sku", how="anti"), seen])
    profiles = ladder_profiles.profiles(history, market.as_of, QUANTILES)
    truth = market.truth.filter(kind="regular").join(seen.select("sku").unique(), on="sku")
    truth = truth.join(seen, on=KEY, how="anti")
    answers = ladder.answer(truth.select(KEY), history, profiles, market.as_of, 13, QUANTILES, market.plan)
    rows = answers.join(truth, on=[*KEY, "week"], suffix="_true")
    assert rows["rung"].unique().to_list() == ["sku_profile"]
    assert len(rows) > 3000
    half, most = coverage(rows)
    assert most == pytest.approx(0.9, abs=0.08)
    assert half == pytest.approx(0.5, abs=0.1)


def chain_with_late_pairs(share: float) -> pl.DataFrame:
    """Ten SKUs in three stores for 30 weeks, each in a fourth one for its last 5, with `share` of the usual sales."""
    old = [weeks(f"k{sku}", store, [100.0] * 30) for sku in range(10) for store in "stu"]
    filler = [weeks(f"f{sku}", "v", [100.0] * 30) for sku in range(10)]
    shelf = [weeks(f"f{sku}", store, [100.0] * 30) for sku in range(10) for store in "stu"]
    late = [weeks(f"k{sku}", "v", [100.0 * share * (1 + sku)] * 5) for sku in range(10)]
    return pl.concat([*old, *filler, *shelf, *late])


def answer_after_late_pairs(pairs: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    context = neighbours.shared_frames({"history": history.lazy()}, AS_OF, 3)
    late = ladder_profiles.late_weeks(history.lazy(), context["sku_weeks"])
    profiles = ladder_profiles.profiles(history, AS_OF, QUANTILES, late)
    return ladder.answer(pairs, history, profiles, AS_OF, 3, QUANTILES)


def test_a_pair_that_begins_late_sells_as_little_as_such_pairs_did():
    history = pl.concat(
        [chain_with_late_pairs(0.01), *(weeks("n", store, [50.0] * 20) for store in ("s", "t", "u"))]
    )
    answers = answer_after_late_pairs(keys(("n", "v")), history)
    assert answers["rung"].unique().to_list() == ["late_start"]
    assert answers["reason"][0] == "no history; taken from 10 pairs of SKU and store that began late"
    profiles = ladder_profiles.profiles(history, AS_OF, QUANTILES)
    size = profiles["ladder_store"].filter(store="v", demand="any")["size"].item()
    shares = [0.01 * (1 + sku) for sku in range(10) for _ in range(5)]
    expected = [50 * size * order_statistic(shares, level) for level in QUANTILES]
    sku_mean = profiles["ladder_sku"].filter(sku="n", demand="any")["mean"].item()
    assert answers.select(NAMES).row(0) == pytest.approx([sku_mean / 50 * value for value in expected])


def test_the_band_of_a_late_pair_holds_what_such_pairs_sell():
    """Late pairs sell a share of the SKU's mean, from a hundredth to a third; those to come do, too."""
    random = np.random.default_rng(4)
    shares = np.exp(random.uniform(np.log(0.01), np.log(0.33), 200))
    old = [weeks(f"k{sku}", store, [100.0] * 30) for sku in range(200) for store in "st"]
    filler = [weeks(f"f{sku}", store, [100.0] * 30) for sku in range(4) for store in "stvw"]
    late = [weeks(f"k{sku}", "v", [100 * share] * 5) for sku, share in enumerate(shares[:100])]
    answers = answer_after_late_pairs(
        keys(*((f"k{sku}", "w") for sku in range(100, 200))), pl.concat([*old, *filler, *late])
    )
    assert answers["rung"].unique().to_list() == ["late_start"]
    units = pl.DataFrame({"sku": [f"k{sku}" for sku in range(200)], "units": 100 * shares})
    half, most = coverage(answers.join(units, on="sku"))
    assert most == pytest.approx(0.9, abs=0.06)
    assert half == pytest.approx(0.5, abs=0.1)


def test_a_new_pair_is_like_the_others_where_late_pairs_are_or_its_sku_or_store_is_new():
    new_sku = [weeks("n", store, [50.0] * 5) for store in ("s", "t", "u")]
    alike = pl.concat([chain_with_late_pairs(0.15), *new_sku, weeks("k0", "w", [100.0] * 5)])
    low = pl.concat([chain_with_late_pairs(0.01), *new_sku, weeks("k0", "w", [100.0] * 5)])
    for history, pair in ((alike, ("f0", "w")), (low, ("n", "v")), (low, ("k1", "w"))):
        assert answer_after_late_pairs(keys(pair), history)["rung"].unique().to_list() == ["sku_profile"]


def test_what_late_pairs_sell_after_the_origin_does_not_change_their_share():
    history = chain_with_late_pairs(0.01)
    later = [weeks(f"f{sku}", "z", [1.0] * 3, AS_OF + timedelta(weeks=20)) for sku in range(10)]
    later += [weeks(f"k{sku}", "v", [9999.0] * 3, AS_OF + timedelta(weeks=3)) for sku in range(10)]
    shares = []
    for rows in (history, pl.concat([history, *later])):
        context = neighbours.shared_frames({"history": rows.lazy()}, rows["week"].max(), 3)
        late = ladder_profiles.late_weeks(rows.lazy(), context["sku_weeks"])
        shares.append(ladder_profiles.profiles(rows, AS_OF, QUANTILES, late)["ladder_late"])
    assert shares[0].height == 1
    assert_frame_equal(*shares)


def test_a_short_history_moves_its_skus_level_towards_its_own():
    others = [weeks("a", f"s{at}", [100.0, 110.0, 90.0, 100.0] * 5) for at in range(6)]
    history = pl.concat([*others, weeks("a", "u", [40.0, 40.0, 40.0])])
    profiles = ladder_profiles.profiles(pl.concat(others), AS_OF, QUANTILES)
    answers = ladder.answer(keys(("a", "u")), history, profiles, AS_OF, 2, QUANTILES)
    assert answers["rung"].unique().to_list() == ["short_history"]
    assert answers["reason"][0] == "3 weeks of history, 8 are needed"
    prior = ladder_profiles.PRIOR_WEEKS * 100 * (3 * 40 + 1) / (3 * 100 + 1)
    factor = (3 * 40 + prior) / (3 * 100 + prior)
    assert answers["q50"][0] == pytest.approx(factor * 100)
    assert answers["q5"][0] == pytest.approx(factor * 90)


def test_where_stores_sell_very_different_amounts_two_weeks_of_a_key_say_more_than_other_stores():
    others = [
        weeks("a", f"s{level}", [0.9 * level, 1.1 * level, 1.0 * level] * 6)
        for level in (10, 100, 1000, 10_000)
    ]
    history = pl.concat([*others, weeks("a", "u", [10.0, 11.0])])
    answers = answer(keys(("a", "u")), history)
    assert answers["rung"].unique().to_list() == ["short_history"]
    assert 9 < answers["q50"][0] < 20


@pytest.mark.parametrize(("count", "level"), [(1, 0.85), (2, 0.8), (6, 0.6)])
def test_a_pair_whose_first_weeks_sell_little_may_still_sell_like_the_other_pairs_of_its_sku(count, level):
    """With n weeks, it is a usual pair with the probability 1 / (n + 2); else it sells 1, and never more."""
    usual = [float(value) for value in range(100, 151)]
    others = [weeks("a", f"s{at}", usual[at : at + 26]) for at in range(0, 26, 2)]
    others += [weeks(f"b{at}", store, [100.0] * 26) for at in range(20) for store in ("s0", "s2", "u")]
    history = pl.concat([*others, weeks("a", "u", [1.0] * count)])
    answers = answer(keys(("a", "u")), history)
    assert answers["rung"].unique().to_list() == ["short_history"]
    recent = [value for at in range(0, 26, 2) for value in usual[at : at + 26]] + [1.0] * count
    assert answers["q50"][0] < 3
    assert answers["q95"][0] == pytest.approx(np.quantile(recent, level), rel=0.25)


def test_a_late_pair_whose_first_weeks_sell_little_may_still_sell_like_the_other_late_pairs():
    old = [weeks(f"k{sku}", store, [100.0] * 30) for sku in range(22) for store in "st"]
    filler = [weeks(f"f{sku}", store, [100.0] * 30) for sku in range(40) for store in "stv"]
    late = [weeks(f"k{sku}", "v", [1.0 + sku] * 5) for sku in range(20)]
    history = pl.concat([*old, *filler, *late, weeks("k20", "v", [0.1])])
    answers = answer_after_late_pairs(keys(("k20", "v"), ("k21", "v")), history)
    short, late_start = (answers.filter(rung=rung) for rung in ("short_history", "late_start"))
    at_85_percent = (late_start["q75"][0] + late_start["q95"][0]) / 2
    assert 10 < at_85_percent < 20
    assert short["q95"][0] == pytest.approx(at_85_percent, rel=0.02)


def test_the_reason_of_a_single_week_is_in_the_singular():
    answers = answer(keys(("a", "s")), weeks("a", "s", [5.0]))
    assert answers["reason"][0] == "1 week of history, 8 are needed"


@pytest.mark.parametrize(
    ("pair", "rung"), [(("new", "s"), "store_profile"), (("new", "unknown"), "everything")]
)
def test_what_is_unknown_takes_the_next_rung(pair, rung):
    history = pl.concat([weeks("a", "s", [3.0] * 10), weeks("a", "t", [7.0] * 10)])
    answers = answer(keys(pair), history)
    assert answers["rung"].unique().to_list() == [rung]
    assert answers["q50"][0] == (3.0 if rung == "store_profile" else pytest.approx(7.0))


def test_without_any_history_the_last_rung_still_answers():
    nothing = weeks("a", "s", [1.0]).clear()
    for profiles in ({}, ladder_profiles.profiles(nothing, AS_OF, QUANTILES)):
        answers = ladder.answer(keys(("a", "s"), ("b", "t")), nothing, profiles, AS_OF, 4, QUANTILES)
        assert len(answers) == 8
        assert answers["rung"].unique().to_list() == ["everything"]
        assert answers.select(NAMES).sum().row(0) == (0.0,) * 5


def test_a_stopped_key_gets_zero_unless_the_plan_has_it():
    history = weeks("a", "s", [9.0] * 20, AS_OF - timedelta(weeks=30))
    answers = answer(keys(("a", "s")), history)
    assert answers["rung"].unique().to_list() == ["stopped"]
    assert answers["reason"][0] == "last seen 30 weeks ago and not in the plan"
    assert answers["q95"].max() == 0
    assert answer(keys(("a", "s")), history, planned("a", "s", deal=0.0))["q50"].to_list() == [9.0] * 3


@pytest.mark.parametrize("units", [[0.0] * 30, [5.0] * 30, [0.0], [7.0, 7.0]])
def test_flat_and_tiny_histories_are_repeated(units):
    answers = answer(keys(("a", "s")), weeks("a", "s", units))
    assert answers.select(NAMES).unique().row(0) == pytest.approx((units[0],) * 5)


def test_no_row_later_than_as_of_counts(market, profiles):
    later = market.plan.with_columns(units=pl.lit(1e6)).select(market.history.columns)
    history = pl.concat([market.history, later])
    of_the_past = ladder_profiles.profiles(history, market.as_of, QUANTILES)
    pairs = market.plan.select(KEY).unique().sort(KEY).head(50)
    for name, frame in profiles.items():
        assert_frame_equal(of_the_past[name], frame)
    answers, before = (
        ladder.answer(pairs, rows, profiles, market.as_of, 13, QUANTILES, market.plan)
        for rows in (history, market.history)
    )
    assert_frame_equal(answers, before)


def test_the_order_of_rows_does_not_matter(market, profiles):
    shuffled = ladder_profiles.profiles(
        market.history.sample(fraction=1.0, shuffle=True, seed=1), market.as_of, QUANTILES
    )
    for name, frame in profiles.items():
        assert frame.equals(shuffled[name])


def test_a_key_is_answered_the_same_whatever_other_keys_are_asked_for(market, profiles):
    pairs = market.truth.filter(pl.col("kind") != "regular").select(KEY).unique().sort(KEY).head(300)
    together = ladder.answer(pairs, market.history, profiles, market.as_of, 13, QUANTILES, market.plan)
    assert together["rung"].n_unique() == 3
    for part in (pairs.gather_every(37), pairs.gather_every(101, 5)):
        alone = ladder.answer(part, market.history, profiles, market.as_of, 13, QUANTILES, market.plan)
        assert alone.equals(together.join(part, on=KEY, how="semi", maintain_order="left"))


def test_profiles_are_small_and_survive_without_covariates(market, profiles):
    skus, stores = market.history["sku"].n_unique(), market.history["store"].n_unique()
    assert len(profiles["ladder_sku"]) <= 3 * skus
    assert len(profiles["ladder_store"]) <= 3 * stores
    assert len(profiles["ladder_all"]) <= 3
    bare = ladder_profiles.profiles(market.history.select(*KEY, "week", "units"), market.as_of, QUANTILES)
    assert set(bare["ladder_sku"]["demand"]) == {"any", "regular"} - {"regular"}


def test_slow_and_new_keys_of_a_simulated_market_are_covered_as_said(market, profiles):
    old = market.history.group_by("sku").agg(pl.col("week").min() < market.as_of - timedelta(weeks=20))
    old = old.filter("week").select("sku")
    pairs = market.truth.filter(pl.col("kind").is_in(["new", "intermittent"])).join(old, on="sku")
    answers = ladder.answer(
        pairs.select(KEY), market.history, profiles, market.as_of, 13, QUANTILES, market.plan
    )
    rows = answers.join(market.truth, on=[*KEY, "week"], suffix="_true")
    for kind, tolerance in (("intermittent", 0.02), ("new", 0.08)):
        some = rows.filter(kind=kind)
        assert len(some) > 500
        for level, name in zip(QUANTILES, NAMES, strict=True):
            attained = some.select(attained_level(pl.col("units"), pl.col(name), level)).item()
            assert attained == pytest.approx(level, abs=tolerance), (kind, name)


key_names = st.sampled_from(["a", "b", "c"]), st.sampled_from(["s", "t", "u"])
row = st.tuples(
    *key_names,
    st.integers(-40, 3),
    st.one_of(st.just(0.0), st.integers(0, 50).map(float), st.floats(0, 1e9)),
    st.one_of(st.none(), st.floats(-1, 100)),
    st.one_of(st.none(), st.sampled_from([0.0, 1.0])),
)


def frame_of(rows: list[tuple], without: set[str]) -> pl.DataFrame:
    schema = {"sku": pl.String, "store": pl.String, "at": pl.Int64, "units": pl.Float64, "price": pl.Float64}
    frame = pl.DataFrame(rows, schema={**schema, "deal": pl.Float64}, orient="row")
    week = pl.lit(AS_OF) + pl.duration(weeks="at")
    return frame.select(pl.all().exclude("at", *without), week=week.cast(pl.Date)).unique(
        [*KEY, "week"], keep="first"
    )


@settings(max_examples=40)
@given(
    st.lists(row, max_size=60),
    st.lists(row, max_size=10),
    st.lists(st.tuples(*key_names), min_size=1, max_size=5),
    st.sets(st.sampled_from(["price", "deal"])),
    st.booleans(),
)
def test_every_key_and_week_is_answered_and_quantiles_are_finite_positive_and_in_order(
    history, plan, pairs, without, empty_context
):
    history = frame_of(history, without)
    plan = frame_of(plan, {"units"}).with_columns(pl.col("week") + timedelta(weeks=2))
    profiles = {} if empty_context else ladder_profiles.profiles(history, AS_OF, QUANTILES)
    answers = ladder.answer(keys(*pairs), history, profiles, AS_OF, 3, QUANTILES, plan)
    expected = sorted({(sku, store, step) for sku, store in pairs for step in (1, 2, 3)})
    assert answers.select(*KEY, "step").rows() == expected
    values = answers.select(NAMES).to_numpy()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert set(answers["rung"]) <= set(ladder.RUNGS)
    assert answers["reason"].null_count() == 0
    assert answers.group_by(KEY).agg(pl.col("rung").n_unique())["rung"].max() == 1
    assert answers["week"].to_list() == [AS_OF + timedelta(weeks=step) for step in answers["step"]]


def test_what_is_new_is_the_same_here_and_in_the_simulation():
    assert ladder_profiles.OWN_WEEKS == NEW_WEEKS


def test_a_flag_of_any_name_has_the_same_uplift():
    def forecast(flag: str) -> pl.DataFrame:
        history = pl.concat(
            [
                weeks("a", "s", [4.0] * 12, **{flag: 0.0}),
                weeks("a", "s", [9.0] * 9, AS_OF - timedelta(weeks=12), **{flag: 1.0}),
            ]
        )
        return answer(keys(("a", "s")), history, planned("a", "s", **{flag: 1.0}))

    assert forecast("werbung")["q50"].to_list() == [9.0] * 3
    assert forecast("werbung").equals(forecast("deal"))


def test_a_covariate_that_is_hardly_ever_zero_marks_no_promotion():
    history = weeks("a", "s", [4.0] * 12, in_stock=1.0, share=0.4)
    assert ladder_profiles.profiles(history, AS_OF, QUANTILES)["ladder_flags"].is_empty()


@pytest.mark.parametrize(("count", "highest"), [(5, 80), (20, 60)])
@pytest.mark.parametrize("error", [1e6, -1e6])
def test_a_typing_error_moves_no_quantile_far_beyond_what_was_sold(count, highest, error):
    units = [30.0 + week % 10 for week in range(count)]
    answers = answer(keys(("a", "s")), weeks("a", "s", [*units[:-1], error]))
    assert answers["q50"].is_between(25, 40).all()
    assert answers["q95"].max() < highest
