"""Features against loops written from their definitions, on random sales with gaps, late starts and stops."""

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from dateutil.easter import easter
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sales import demand, features, forecast_rows, last_year, neighbours, views
from models.sales.panel import KEY, panel_of, past_and_plan

pytestmark = pytest.mark.filterwarnings("error")

MONDAY = date(2022, 1, 3)
WEEKS, HORIZON = 80, 4
LAST = WEEKS - 1
AS_OF = MONDAY + timedelta(weeks=LAST)
FLAGS = ("deal", "feat")


def market(seed: int, covariates: tuple[str, ...] = ("price", "deal", "feat")) -> dict[str, pl.DataFrame]:
    """Three SKUs in three stores: history with gaps, late starts, stops and zeros, and a plan with holes."""
    rng = np.random.default_rng(seed)
    rows = []
    for sku in ("a", "b", "c"):
        for store in ("s1", "s2", "s3"):
            first, last = rng.choice([0, 0, 20, 70]), rng.choice([LAST, LAST, 60]) + HORIZON
            usual, level = rng.uniform(1, 5), rng.choice([0.4, 8, 300])
            for week in range(first, min(last, LAST + HORIZON) + 1):
                if rng.random() < 0.15:
                    continue
                reduction = rng.choice([0, 0, 0, 0.02, 0.15, 0.4])
                row = {"sku": sku, "store": store, "week": MONDAY + timedelta(weeks=week)}
                row |= {
                    "price": usual * (1 - reduction),
                    "deal": float(reduction > 0.1),
                    "feat": round(rng.random() * reduction, 2),
                }
                row["units"] = float(rng.poisson(level * math.exp(3 * reduction)))
                if rng.random() < 0.05:
                    row["price"] = None
                rows.append(
                    {
                        name: v
                        for name, v in row.items()
                        if name in ("sku", "store", "week", "units", *covariates)
                    }
                )
    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.lit(0).alias("shard"))
    return {
        "history": frame.filter(pl.col("week") <= AS_OF),
        "plan": frame.filter(pl.col("week") > AS_OF).drop("units"),
        "stores": pl.DataFrame({"store": ["s1", "s2"], "size": [1.5, 2.5]}),
    }


def view_of(
    frames: dict[str, pl.DataFrame], keys: pl.DataFrame | None = None, as_of: date = AS_OF
) -> views.View:
    tables = {name: frame.lazy() for name, frame in frames.items()}
    covariates = [name for name in ("deal", "feat", "price") if name in frames["history"].columns]
    context = neighbours.shared_frames(tables, as_of, HORIZON)
    keys = frames["history"].select(KEY).unique() if keys is None else keys
    rows = past_and_plan(tables, covariates, as_of, HORIZON)
    panel = panel_of(rows, keys, covariates, MONDAY, as_of, HORIZON)
    flags = neighbours.flag_names(context["covariates"])
    return views.view_of(panel, context, flags, neighbours.store_attributes(tables))


def built(view: views.View, origin: int) -> pl.DataFrame:
    rows = forecast_rows.build(view, [origin], {origin: range(1, HORIZON + 1)})
    values = pl.DataFrame(rows.values, schema=[f"f:{name}" for name in rows.names])
    return pl.concat([rows.frame, values], how="horizontal")


class Oracle:
    """The same features, one key at a time, by loops over the weeks of a dictionary."""

    def __init__(self, frames: dict[str, pl.DataFrame], sku: str, store: str) -> None:
        every = pl.concat([frames["history"], frames["plan"]], how="diagonal")
        self.all = {
            (row["sku"], row["store"], (row["week"] - MONDAY).days // 7): row
            for row in every.iter_rows(named=True)
        }
        self.sku, self.store = sku, store
        self.rows = {week: row for (a, b, week), row in self.all.items() if (a, b) == (sku, store)}

    def usual(self, until: int) -> float | None:
        level = None
        for week in range(until + 1):
            price = self.price(week)
            if price is None:
                continue
            log = math.log(price)
            level = log if level is None or log > level else level + 0.1 * (log - level)
        return None if level is None else math.exp(level)

    def price(self, week: int) -> float | None:
        return self.rows.get(week, {}).get("price")

    def depth(self, week: int) -> float | None:
        price = self.price(week)
        return None if price is None else 1 - price / self.usual(week)

    def promoted(self, week: int) -> bool | None:
        row = self.rows.get(week)
        if row is None:
            return None
        depth = self.depth(week)
        return (depth is not None and depth >= 0.05) or row["deal"] >= 0.5 or row["feat"] >= 0.5

    def units(self, weeks: range, *, regular: bool) -> list[float]:
        present = [week for week in weeks if self.rows.get(week, {}).get("units") is not None]
        return [self.rows[week]["units"] for week in present if not (regular and self.promoted(week))]

    def level(self, origin: int) -> float | None:
        def past(n: int) -> range:
            return range(max(0, origin - n + 1), origin + 1)

        recent = self.units(past(26), regular=True)
        units = recent if len(recent) >= 4 else self.units(past(52), regular=True)
        if sum(units) <= 0:
            units = self.units(past(52), regular=False)
        return sum(units) / len(units) if sum(units) > 0 else None


def log_mean(values: list[float], level: float | None) -> float | None:
    return None if not values or level is None else math.log(sum(values) / len(values) / level + 0.1)


def agree(value: float | None, expected: float | None) -> bool:
    if value is None or not math.isfinite(value):
        return expected is None
    return expected is not None and value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(10, LAST))
def test_sales_features_are_what_their_definitions_say(seed, origin):
    frames = market(seed)
    for row in built(view_of(frames), origin).iter_rows(named=True):
        oracle = Oracle(frames, row["sku"], row["store"])
        level = oracle.level(origin)
        assert agree(row["level"], level)
        for n in (1, 4, 13):
            past = range(max(0, origin - n + 1), origin + 1)
            assert agree(row[f"f:regular_{n}"], log_mean(oracle.units(past, regular=True), level))
            assert agree(row[f"f:all_{n}"], log_mean(oracle.units(past, regular=False), level))
        year = oracle.units(range(max(0, origin - 51), origin + 1), regular=False)
        assert agree(row["f:zeros"], sum(u == 0 for u in year) / len(year) if year else None)
        recent = oracle.units(range(max(0, origin - 25), origin + 1), regular=False)
        assert row["enough"] == (len(year) >= 8 and len(recent) > 0 and level is not None)
        target = origin + row["step"]
        actual = oracle.rows.get(target, {}).get("units")
        assert agree(row["units"], actual)
        if target >= 54:
            ago = range(target - 52, target - 51)
            assert agree(row["f:year_ago"], log_mean(oracle.units(ago, regular=False), level))
            around = oracle.units(range(target - 65, min(target - 38, origin + 1)), regular=True)
            near = oracle.units(range(target - 54, target - 49), regular=True)
            usual = sum(around) / len(around) if around and sum(around) > 0 else None
            assert agree(row["f:season"], log_mean(near, usual))
        else:
            assert math.isnan(row["f:year_ago"])


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(10, LAST))
def test_promotion_features_are_what_their_definitions_say(seed, origin):
    frames = market(seed)
    for row in built(view_of(frames), origin).iter_rows(named=True):
        oracle = Oracle(frames, row["sku"], row["store"])
        target = origin + row["step"]
        assert agree(row["f:depth"], oracle.depth(target))
        assert agree(row["f:deal"], oracle.rows.get(target, {}).get("deal"))
        since = next((n for n in range(1, 26) if oracle.promoted(target - n)), 26)
        assert row["f:since_promotion"] == since
        promotions = [oracle.promoted(week) for week in range(max(0, target - 8), target)]
        promotions = [one for one in promotions if one is not None]
        assert agree(row["f:promoted_before"], sum(promotions) / len(promotions) if promotions else None)
        assert row["planned"] == (target in oracle.rows)
        promoted = oracle.promoted(target)
        if row["kind"] in ("regular", "promoted"):
            assert (row["kind"] == "promoted") == bool(promoted)
        others = [
            math.log(other["price"])
            for (sku, store, week), other in oracle.all.items()
            if store == row["store"] and week == target and sku != row["sku"] and other["price"] is not None
        ]
        price = oracle.price(target)
        comparable = price is not None and bool(others)
        assert agree(
            row["f:price_to_others"], math.log(price) - sum(others) / len(others) if comparable else None
        )


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(20, LAST))
def test_effects_of_past_promotions_borrow_from_the_sku(seed, origin):
    frames = market(seed)
    view = view_of(frames)
    for row in built(view, origin).filter(step=1).iter_rows(named=True):
        oracle = Oracle(frames, row["sku"], row["store"])
        level = oracle.level(origin)
        flagged = [week for week in range(origin + 1) if oracle.rows.get(week, {}).get("deal", 0) >= 0.5]
        ratios = [log_mean([oracle.rows[week]["units"]], level) for week in flagged]
        if level is None:
            continue
        own = sum(ratios) / len(ratios) if ratios else 0.0
        of_sku = (row["f:effect_deal"] * (len(ratios) + 4) - own * len(ratios)) / 4
        assert abs(of_sku) < 6
        if len(ratios) >= 12:
            assert abs(row["f:effect_deal"] - own) <= abs(of_sku - own) * 4 / 16 + 1e-4


def changed_after(frames: dict[str, pl.DataFrame], week: date, columns: list[str]) -> dict[str, pl.DataFrame]:
    later = pl.col("week") > week
    return {
        name: frame.with_columns(
            pl.when(later).then(pl.col(column) * 0.3 + 0.7).otherwise(column).alias(column)
            for column in columns
            if column in frame.columns
        )
        if "week" in frame.columns
        else frame
        for name, frame in frames.items()
    }


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(10, LAST - 1))
def test_units_after_the_origin_change_no_feature(seed, origin):
    frames = market(seed)
    other = changed_after(frames, MONDAY + timedelta(weeks=origin), ["units"])
    before, after = built(view_of(frames), origin), built(view_of(other), origin)
    assert before.drop("units").equals(after.drop("units"))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(10, LAST), st.integers(1, HORIZON))
def test_plans_after_the_target_week_change_no_feature(seed, origin, step):
    frames = market(seed)
    target = MONDAY + timedelta(weeks=origin + step)
    other = changed_after(frames, target, ["units", "price", "deal", "feat"])
    before = built(view_of(frames), origin).filter(step=step)
    after = built(view_of(other), origin).filter(step=step)
    assert before.equals(after)


def test_the_plan_of_the_target_week_does_change_features():
    frames = market(3)
    other = changed_after(frames, AS_OF, ["price"])
    before, after = built(view_of(frames), LAST), built(view_of(other), LAST)
    assert not before.equals(after)


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(10, LAST), st.integers(1, 8))
def test_a_key_has_the_same_features_alone_and_in_company(seed, origin, n):
    frames = market(seed)
    keys = frames["history"].select(KEY).unique().sort(KEY)
    together = built(view_of(frames), origin)
    for part in (keys[:n], keys[n:], keys[n - 1 : n]):
        if part.height:
            alone = built(view_of(frames, part), origin)
            assert alone.sort(*KEY, "week").equals(together.join(part, on=KEY, how="semi").sort(*KEY, "week"))


@pytest.mark.parametrize("covariates", [(), ("price",), ("deal",), ("price", "deal", "feat")])
def test_features_need_no_covariate_in_particular(covariates):
    view = view_of(market(5, covariates))
    rows = forecast_rows.build(view, [LAST], {LAST: [1, HORIZON]})
    assert rows.values.shape == (2 * view.panel.keys.height, len(rows.names))
    plain = [name for name in rows.names if not features.needs_plan(name, covariates)]
    assert ("depth" in rows.names) == ("price" in covariates)
    assert len(plain) == len(rows.names) if not covariates else len(plain) < len(rows.names)


def test_a_week_flagged_wholesale_changes_flags_only():
    view = view_of(market(5))
    plain = forecast_rows.build(view, [LAST], {LAST: [1]})
    flagged = forecast_rows.build(view, [LAST], {LAST: [1]}, frozenset({(LAST, 1)}))
    differ = {
        name
        for i, name in enumerate(plain.names)
        if not np.array_equal(plain.values[:, i], flagged.values[:, i], equal_nan=True)
    }
    assert differ == {f"{kind}{flag}" for flag in FLAGS for kind in ("", "others_", "sku_")}


def test_store_attributes_and_calendar_are_features():
    view = view_of(market(5))
    rows = built(view, LAST)
    assert set(rows.filter(store="s2")["f:size"]) == {2.5}
    assert rows.filter(store="s3")["f:size"].is_nan().all()
    week = (AS_OF + timedelta(weeks=2)).isocalendar().week
    assert set(rows.filter(step=2)["f:week_of_year"]) == {float(week)}


def test_totals_of_all_shards_are_those_of_their_definition():
    frames = market(11)
    tables = {name: frame.lazy() for name, frame in frames.items()}
    context = neighbours.shared_frames(tables, AS_OF, HORIZON)
    every = pl.concat([frames["history"], frames["plan"]], how="diagonal")
    for row in context["sku_weeks"].iter_rows(named=True):
        rows = every.filter(sku=row["sku"], week=row["week"])
        assert row["keys"] == rows.height
        assert agree(row["units"], rows["units"].mean())
        logs = rows["price"].log()
        assert agree(row["price"], None if logs.mean() is None else math.exp(logs.mean()))
        assert agree(row["spread"], logs.std(ddof=0))
    store = context["store_weeks"].row(5, named=True)
    rows = every.filter(store=store["store"], week=store["week"])
    assert store["sum_deal"] == pytest.approx(rows["deal"].sum())
    assert store["n_price"] == rows["price"].count()


def test_six_years_of_history_count_and_no_more():
    weeks = [AS_OF - timedelta(weeks=ago) for ago in (0, 311, 312)]
    history = pl.DataFrame({"sku": "a", "store": "s1", "week": weeks, "units": [1.0, 2.0, 3.0]})
    context = neighbours.shared_frames({"history": history.lazy()}, AS_OF, HORIZON)
    assert context["calendar"]["first_week"].item() == weeks[1]
    assert context["sku_weeks"]["units"].to_list() == [2.0, 1.0]


def test_totals_are_the_same_to_the_bit_in_any_order_of_rows():
    frames = market(12)
    shuffled = {n: f.sample(fraction=1, shuffle=True, seed=1) for n, f in frames.items()}
    first, second = (
        neighbours.shared_frames({n: f.lazy() for n, f in some.items()}, AS_OF, HORIZON)
        for some in (frames, shuffled)
    )
    assert all(first[name].equals(second[name]) for name in first)


@settings(max_examples=6)
@given(st.integers(0, 10_000), st.sampled_from([40, 51, 53, 60]))
def test_a_horizon_beyond_a_year_does_not_look_ahead(seed, step):
    frames = market(seed)
    origin = 20
    other = changed_after(frames, MONDAY + timedelta(weeks=origin), ["units"])
    before, after = (
        forecast_rows.build(view_of(some), [origin], {origin: [step]}) for some in (frames, other)
    )
    assert np.array_equal(before.values, after.values, equal_nan=True)
    assert before.frame["seasonal_naive"].equals(after.frame["seasonal_naive"])


def grown(stores: dict[str, float], spike: str) -> pl.DataFrame:
    """A SKU that sells what `stores` say, 1.5 times that in the second year, and 4 times in one week of one store."""
    rows = [
        ("a", store, MONDAY + timedelta(weeks=week), units * (1.5 if week >= 52 else 1.0), 0)
        for store, units in stores.items()
        for week in range(70)
    ]
    frame = pl.DataFrame(rows, ["sku", "store", "week", "units", "shard"], orient="row")
    special = (pl.col("store") == spike) & (pl.col("week") == MONDAY + timedelta(weeks=20))
    return frame.with_columns(units=pl.when(special).then(pl.col("units") * 4).otherwise("units"))


def at_level(level: np.ndarray) -> dict[str, np.ndarray]:
    """The arguments of `last_year.last_year` at the origin, for keys that do not move with Easter."""
    return {"_level": level, "_easter": np.zeros(len(level), dtype=bool)}


def test_last_year_is_the_week_of_the_key_and_of_its_sku_at_the_level_of_this_year():
    view = view_of({"history": grown({"s1": 100.0, "s2": 50.0}, "s1")})
    level = np.array([130.0, 65.0])
    expected_logs = last_year.last_year(view, 69, 72, at_level(level))
    around = view.panel.units[:47].mean(axis=0)
    of_sku = around * (225.0 / view.sku.units[:47, 0].mean())
    own = np.array([400.0, 50.0])
    logs = 0.6 * demand.to_log(own, level) + 0.4 * demand.to_log(of_sku, level)
    assert expected_logs == pytest.approx(demand.from_log(logs, level) * 1.5**last_year.GROWTH_SHARE)


def test_a_typing_error_of_a_store_a_year_ago_hardly_moves_last_year_of_the_others():
    market = grown({f"s{i}": 100.0 for i in range(4)}, "s1")
    typo = (pl.col("store") == "s1") & (pl.col("week") == MONDAY + timedelta(weeks=20))
    market = market.with_columns(units=pl.when(typo).then(12_000.0).otherwise("units"))
    level = np.full(4, 130.0)
    logs = last_year.last_year(view_of({"history": market}), 69, 72, at_level(level))
    assert logs[[0, 2, 3]] == pytest.approx(np.full(3, 100 * 1.5**last_year.GROWTH_SHARE), rel=0.7)


def test_last_year_is_unknown_in_the_first_year():
    view = view_of({"history": grown({"s1": 100.0}, "s1")})
    assert np.isnan(last_year.last_year(view, 30, 34, features.origin_features(view, 30))).all()


def seen(weekly_units: list[float]) -> views.View:
    """The view of one key with these weekly units."""
    weeks = [MONDAY + timedelta(weeks=at) for at in range(len(weekly_units))]
    rows = [("a", "s", week, units, 0) for week, units in zip(weeks, weekly_units, strict=True)]
    frame = pl.DataFrame(rows, ["sku", "store", "week", "units", "shard"], orient="row")
    return view_of({"history": frame}, as_of=weeks[-1])


def with_easter(weeks: int) -> views.View:
    """A key that sells 100 a week, and 400 in that of Good Friday."""
    days = [MONDAY + timedelta(weeks=at, days=4) for at in range(weeks)]
    return seen([400.0 if day == easter(day.year) - timedelta(days=2) else 100.0 for day in days])


def test_what_moved_with_easter_before_is_expected_where_easter_is():
    good_friday = easter(MONDAY.year + 3) - timedelta(days=2)
    target = (good_friday - MONDAY).days // 7
    view = with_easter(target - 3)
    fixed = features.origin_features(view, target - 4)
    assert fixed["_easter"].all()
    assert last_year.last_year(view, target - 4, target, fixed) == pytest.approx(400.0, rel=0.02)
    then = (easter(MONDAY.year + 2) - timedelta(days=2) - MONDAY).days // 7
    assert then + 52 != target
    assert last_year.last_year(view, target - 4, then + 52, fixed) == pytest.approx(100.0, rel=0.02)


def test_one_easter_does_not_tell_whether_a_key_moves_with_it():
    good_friday = easter(MONDAY.year + 1) - timedelta(days=2)
    view = with_easter((good_friday - MONDAY).days // 7)
    assert not features.origin_features(view, view.panel.last)["_easter"].any()


def test_days_around_christmas_are_compared_with_the_same_days_of_last_year():
    """Christmas is on a Monday in 2023 and on a Wednesday in 2024: two days of its week were in the week before."""
    before_christmas, christmas = date(2023, 12, 18), date(2024, 12, 23)
    target = (christmas - MONDAY).days // 7
    weeks = (MONDAY + timedelta(weeks=at) for at in range(target - 9))
    view = seen([400.0 if week == before_christmas else 100.0 for week in weeks])
    fixed = at_level(np.array([100.0]))
    expected = {target: (5 * 100 + 2 * 400) / 7, target - 1: (5 * 400 + 2 * 100) / 7, target - 4: 100.0}
    forecasts = {at: last_year.last_year(view, target - 10, at, fixed).item() for at in expected}
    assert forecasts == pytest.approx(expected, rel=0.02)


def test_another_numeric_covariate_is_a_feature_with_its_deviation_from_usual():
    frames = market(5)
    warmth = pl.col("week").dt.month().cast(pl.Float64) * 10
    frames = {
        n: f.with_columns(warmth.alias("warmth")) if "week" in f.columns else f for n, f in frames.items()
    }
    tables = {name: frame.lazy() for name, frame in frames.items()}
    context = neighbours.shared_frames(tables, AS_OF, HORIZON)
    assert neighbours.flag_names(context["covariates"]) == FLAGS
    covariates = ["deal", "feat", "price", "warmth"]
    rows = past_and_plan(tables, covariates, AS_OF, HORIZON)
    panel = panel_of(rows, frames["history"].select(KEY).unique(), covariates, MONDAY, AS_OF, HORIZON)
    feature_rows = built(views.view_of(panel, context, FLAGS, None), LAST)
    year = frames["history"].filter(pl.col("week") > AS_OF - timedelta(weeks=52))
    usual = year.group_by(KEY).agg(usual=pl.col("warmth").mean())
    plan_rows = feature_rows.filter("planned").join(usual, on=KEY)
    assert plan_rows.height > 0
    assert np.allclose(plan_rows["f:unusual_warmth"], plan_rows["f:warmth"] - plan_rows["usual"], atol=1e-3)
