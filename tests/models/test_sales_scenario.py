"""The sales scenario from tables to published rows, on small simulated sales."""

import io
import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.errors import ContractError
from models.sales import (
    SALES,
    backtest,
    choices,
    contest,
    explanations,
    ladder,
    preparation,
    training,
    training_notes,
    whatif,
)
from models.sales.model import steps
from models.sales.options import Options
from models.sales.panel import KEY, panel_of, plausible
from models.sales.simulation import Shares, simulate
from models.scenario import FitResult, Scores
from tests.quantiles import attained_level

HORIZON = 6
OPTIONS = {
    "horizon": HORIZON,
    "origins": 2,
    "training_rows": 6000,
    "statistical_skus": 2,
    "trees": 20,
    "spread_trees": 8,
    "threads": 1,
}
QUANTILES = ["q5", "q25", "q50", "q75", "q95"]
Tables = dict[str, pl.LazyFrame]


def tables_of(simulated) -> Tables:
    def sharded(frame: pl.DataFrame) -> pl.LazyFrame:
        return frame.with_columns(pl.lit(0).alias("shard")).lazy()

    history, plan = sharded(simulated.history), sharded(simulated.plan)
    return {"history": history, "plan": plan, "stores": simulated.stores.lazy()}


@pytest.fixture(scope="module")
def simulated():
    return simulate(8, 6, 84, seed=4, horizon=HORIZON)


@pytest.fixture(scope="module")
def tables(simulated) -> Tables:
    return tables_of(simulated)


def context_of_training(tables: Tables, as_of: date, options: dict) -> dict[str, pl.DataFrame]:
    context = SALES.context(tables, as_of, options)
    return context | SALES.training_context(tables, context, as_of, options)


def trained_on(tables: Tables, as_of: date, options: dict = OPTIONS) -> tuple[FitResult, Tables]:
    context = context_of_training(tables, as_of, options)
    parts = {name: part.lazy() for name, part in SALES.prepare_shard(tables, context, as_of, options).items()}
    return SALES.fit(parts, context, as_of, options), parts


@pytest.fixture(scope="module")
def trained(simulated, tables) -> tuple[FitResult, Tables]:
    return trained_on(tables, simulated.as_of)


@pytest.fixture(scope="module")
def model(trained):
    return SALES.load(saved_and_read(trained[0].files))


def saved_and_read(files: dict) -> dict:
    """The files as they come back from a store: JSON, text and Parquet."""
    contents = {}
    for name, content in files.items():
        if isinstance(content, pl.DataFrame):
            content.write_parquet(stream := io.BytesIO())
            contents[name] = pl.read_parquet(stream.getvalue())
        else:
            contents[name] = json.loads(json.dumps(content))
    return contents


def scored(model, tables: Tables, as_of: date, keys: pl.DataFrame | None = None) -> Scores:
    context = SALES.context(tables, as_of, OPTIONS)
    keys = SALES.requested_keys(tables, as_of, OPTIONS).collect() if keys is None else keys
    return SALES.score(model, tables, context, keys, as_of, OPTIONS)


@pytest.fixture(scope="module")
def scores(model, tables, simulated) -> Scores:
    return scored(model, tables, simulated.as_of)


def assert_complete(scores: Scores, keys: pl.DataFrame, as_of: date) -> None:
    """Assert that every key has each step once, valid quantiles, and one status that fits its rows."""
    assert dict(scores.rows.schema) == dict(SALES.published_table(OPTIONS).schema)
    steps = keys.select(KEY).join(pl.DataFrame({"step": range(1, HORIZON + 1)}), how="cross")
    assert (
        scores.rows.select(*KEY, "step")
        .sort(*KEY, "step")
        .equals(steps.cast({"step": pl.Int32}).sort(*KEY, "step"))
    )
    weeks = scores.rows.select((pl.col("week") - as_of).dt.total_days() / 7 == pl.col("step")).to_series()
    assert weeks.all()
    values = scores.rows.select(QUANTILES).to_numpy()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert scores.keys.select(KEY).sort(KEY).equals(keys.select(KEY).sort(KEY))
    assert set(scores.keys["status"]) <= {"scored", "fallback"}
    assert scores.keys.filter(status="fallback")["reason"].null_count() == 0


def test_a_horizon_of_more_than_a_quarter_has_origins_a_quarter_apart_judged_as_far_as_is_known(
    simulated, tables
):
    options = OPTIONS | {"horizon": 18, "origins": 1, "training_rows": 3000, "statistical_skus": 1}
    training = trained_on(tables, simulated.as_of, options)[0]
    steps = training.backtest.group_by(ago=(simulated.as_of - pl.col("origin")).dt.total_days() // 7).agg(
        pl.col("step").max(), pl.col("week").max()
    )
    assert steps.sort("ago").rows() == [
        (13, 13, simulated.as_of),
        (26, 18, simulated.as_of - timedelta(weeks=8)),
    ]
    whole = training.metrics.filter(slice="all", metric="rows")["value"].item()
    assert whole == training.backtest.filter(pl.col("origin") == simulated.as_of - timedelta(weeks=26)).height


def test_quantiles_of_slow_keys_are_whole_numbers_that_are_met_as_often_as_they_say():
    """Except for those of an SKU that is sold by weight."""
    slow = simulate(12, 8, 84, seed=3, horizon=HORIZON, shares=Shares(slow_skus=0.9))
    by_weight = pl.when(sku="sku00001").then(pl.col("units") * 0.37).otherwise("units").alias("units")
    tables = tables_of(replace(slow, history=slow.history.with_columns(by_weight)))
    result, _ = trained_on(tables, slow.as_of)
    backtest = result.backtest.filter(kind="intermittent")
    scores = scored(SALES.load(result.files), tables, slow.as_of)
    forecasts = scores.rows.join(backtest.select(KEY).unique(), on=KEY)
    for rows in (backtest, forecasts):
        values = rows.filter(pl.col("sku") != "sku00001").select(QUANTILES).to_numpy()
        assert len(values) > 300
        assert (values == np.round(values)).all()
        values = rows.filter(sku="sku00001").select(QUANTILES).to_numpy()
        assert (values != np.round(values)).any()
    counts = backtest.filter(pl.col("sku") != "sku00001")
    for name, level in zip(QUANTILES, (0.05, 0.25, 0.5, 0.75, 0.95), strict=True):
        attained = counts.select(attained_level(pl.col("units"), pl.col(name), level)).item()
        assert attained == pytest.approx(level, abs=0.02), name


def test_errors_of_the_weeks_that_are_judged_do_not_choose_or_calibrate(trained, tables, simulated):
    options = Options.of(OPTIONS)
    context = SALES.context(tables, simulated.as_of, OPTIONS)
    parts = {name: part.collect() for name, part in trained[1].items()}
    raw = training.candidates(parts, context, options)
    raw = raw.with_columns(
        [
            pl.Series(f"v{i}", np.log(raw[name].to_numpy() / raw["level"].to_numpy() + 0.1))
            for i, name in enumerate(QUANTILES)
        ]
    ).with_columns(steps(HORIZON), imitated=pl.lit(value=False))
    rows = raw.filter(pl.col("origin") == raw["origin"].max())
    late = rows.with_columns(units=pl.col("units") * 9, origin=pl.col("origin") - timedelta(weeks=1))
    rest = raw.filter(pl.col("origin") < raw["origin"].max())
    assert choices.forecasts_of_origin(pl.concat([rest, late]), rows, True, options).equals(
        choices.forecasts_of_origin(rest, rows, True, options)
    )


@pytest.mark.parametrize("key", ["sku", "store"])
def test_a_sku_or_store_that_has_ended_sells_nothing(model, tables, simulated, key):
    name = simulated.history[key].min()
    ends = pl.LazyFrame({key: [name], "end": [str(simulated.as_of)]})
    rows = scored(model, {**tables, f"{key}s": ends}, simulated.as_of).rows.filter(pl.col(key) == name)
    assert rows.height
    assert rows.select("rung", *QUANTILES).unique().row(0) == ("ended", *[0.0] * len(QUANTILES))


def test_calibration_moves_the_median_less_the_fewer_origins_a_third_of_the_horizon_has():
    options = Options.of({"quantiles": [0.5]})
    origins = [(date(2024, 1, 1), 0), (date(2024, 4, 1), 0), (date(2024, 7, 1), 0), (date(2024, 7, 1), 2)]
    raw = pl.DataFrame(
        [
            {"rung": "pooled", "kind": "regular", "sku": str(sku), "origin": origin, "steps": third}
            for origin, third in origins
            for sku in range(300)
        ]
    ).with_columns(units=20.0, level=10.0, v0=0.0, imitated=False)
    offsets = choices.offsets(raw, options).drop_nulls("steps")["offset0"]
    assert offsets[1] == pytest.approx(offsets[0] * (1 / 5) / (3 / 7), rel=0.1)


def test_of_pairs_that_sell_next_to_nothing_some_that_grow_a_hundredfold_do_not_make_the_band_of_all_of_them():
    options = Options.of({"quantiles": [0.5, 0.95]})
    units = [1000.0 if sku % 10 == 0 else 10.0 for sku in range(300)]
    raw = pl.DataFrame({"sku": [str(sku) for sku in range(300)], "units": units}).with_columns(
        rung=pl.lit("short_history"),
        kind=pl.lit("new"),
        steps=0,
        origin=date(2024, 1, 1),
        level=10.0,
        v0=0.0,
        v1=0.1,
        imitated=False,
    )
    offsets = choices.offsets(raw, options)
    assert offsets["offset1"].max() == pytest.approx(np.log(3))


def test_every_requested_key_is_answered_once(scores, tables, simulated):
    keys = SALES.requested_keys(tables, simulated.as_of, OPTIONS).collect()
    assert_complete(scores, keys, simulated.as_of)
    assert "blend" in set(scores.keys["rung"])


def test_requested_are_keys_with_history_in_the_last_year_or_in_the_plan(tables, simulated):
    as_of = simulated.as_of
    requested = SALES.requested_keys(tables, as_of, OPTIONS).collect()
    recent = simulated.history.filter(pl.col("week") > as_of - timedelta(weeks=52))
    expected = pl.concat([recent.select(KEY), simulated.plan.select(KEY)]).unique().sort(KEY)
    assert requested.select(KEY).equals(expected)


def test_a_key_has_the_same_rows_to_the_bit_alone_and_in_company(model, scores, tables, simulated):
    keys = scores.keys.select(KEY)
    for part in (keys[::2], keys[1::2], keys[5:6], keys[-1:]):
        alone = scored(model, tables, simulated.as_of, part)
        assert alone.rows.equals(scores.rows.join(part, on=KEY, how="semi"))
        assert alone.keys.equals(scores.keys.join(part, on=KEY, how="semi"))


def test_a_run_for_an_older_week_is_the_run_of_that_week(model, simulated, tables):
    as_of = simulated.as_of - timedelta(weeks=7)
    past = simulated.history.filter(pl.col("week") <= as_of)
    covariates = simulated.history.drop("units").filter(pl.col("week") > as_of)
    plan = pl.concat([covariates, simulated.plan])
    then = {
        "history": past.with_columns(shard=pl.lit(0)).lazy(),
        "plan": plan.with_columns(shard=pl.lit(0)).lazy(),
    }
    now = {**then, "history": tables["history"]}
    keys = past.select(KEY).unique()
    assert scored(model, now, as_of, keys).rows.equals(scored(model, then, as_of, keys).rows)


def test_the_backtest_of_an_origin_knows_nothing_after_it(trained, tables, simulated):
    origin = simulated.as_of - timedelta(weeks=HORIZON)
    later = pl.col("week") > origin
    units = pl.when(later).then(pl.col("units") * 7 + 100).otherwise("units").alias("units")
    other, _ = trained_on({**tables, "history": tables["history"].with_columns(units)}, simulated.as_of)
    columns = [*KEY, "week", *QUANTILES, "rung"]
    before, after = (
        one.backtest.filter(pl.col("origin") == origin, pl.col("rung") != "stopped").select(columns)
        for one in (trained[0], other)
    )
    assert before.height > 100
    assert before.equals(after)


def test_metrics_can_be_computed_again_from_the_backtest(trained):
    training = trained[0]
    options = Options.of(OPTIONS)
    assert backtest.measured(training.backtest, options).equals(training.metrics)
    assert training.loss == training.headline["pinball"] == backtest.loss(training.backtest, options)
    assert set(training.metrics["slice"]) == {"all", "origin", "step", "kind", "rung"}
    assert training.backtest["origin"].n_unique() == 2
    assert training.loss < training.headline["pinball_naive"]


def test_a_backtest_row_is_unique_and_follows_its_origin(trained):
    rows = trained[0].backtest
    assert rows.select(*KEY, "origin", "week").is_unique().all()
    assert (((rows["week"] - rows["origin"]).dt.total_days() // 7) == rows["step"]).all()
    assert rows["units"].null_count() == 0


def test_the_files_of_a_bundle_are_text_frames_and_json(trained):
    for name, content in trained[0].files.items():
        assert isinstance(content, str | dict | pl.DataFrame), name
        if isinstance(content, str):
            assert content.startswith("tree\n")


def test_training_twice_gives_the_same_bundle(trained, tables, simulated):
    again, _ = trained_on(tables, simulated.as_of)
    for name, content in trained[0].files.items():
        same = (
            again.files[name].equals(content)
            if isinstance(content, pl.DataFrame)
            else again.files[name] == content
        )
        assert same, name
    assert again.backtest.equals(trained[0].backtest)


@pytest.mark.slow
def test_several_shards_make_the_bundle_and_backtest_of_one(tables, simulated):
    """A SKU begins three weeks before the last origin, in one store after it."""
    skus = simulated.history["sku"].unique().sort()
    begin = pl.when(store="s001").then(HORIZON - 2).otherwise(HORIZON + 3)
    weeks_ago = (simulated.as_of - pl.col("week")).dt.total_days() // 7
    late = (pl.col("sku") == skus[-1]) & (weeks_ago >= begin)
    tables = {**tables, "history": tables["history"].filter(~late)}
    context = context_of_training(tables, simulated.as_of, OPTIONS)
    trained = trained_on(tables, simulated.as_of)
    pieces: dict[str, list[pl.DataFrame]] = {}
    for some in (skus[:3], skus[3:]):
        shard = {n: t.filter(pl.col("sku").is_in(some.to_list())) for n, t in tables.items() if n != "stores"}
        shard["stores"] = tables["stores"]
        for name, part in SALES.prepare_shard(shard, context, simulated.as_of, OPTIONS).items():
            pieces.setdefault(name, []).append(part)
    parts = {name: pl.concat(some).lazy() for name, some in pieces.items()}
    for name in ("train", "backtest"):
        order = [*KEY, "origin", "week"]
        whole, together = (each[name].sort(order).collect() for each in (trained[1], parts))
        assert together.equals(whole), name
    result = SALES.fit(parts, context, simulated.as_of, OPTIONS)
    assert {"short_history", "sku_profile"} <= {*trained[0].backtest["rung"]}
    assert result.backtest.equals(trained[0].backtest)
    for name, content in trained[0].files.items():
        same = result.files[name]
        assert content.equals(same) if isinstance(content, pl.DataFrame) else content == same, name


@pytest.mark.parametrize(("pair", "rung"), [(("n", "s001"), "store_profile"), (("n", "n"), "everything")])
def test_new_pairs_that_no_backtest_had_sell_as_the_ladder_says(model, tables, simulated, pair, rung):
    """Errors of other pairs do not calibrate them."""
    plan = (
        tables["plan"]
        .sort(KEY)
        .unique("week", keep="first", maintain_order=True)
        .with_columns(sku=pl.lit(pair[0]), store=pl.lit(pair[1]))
    )
    pairs = pl.DataFrame([pair], KEY, orient="row")
    own = tables | {"plan": pl.concat([tables["plan"], plan])}
    rows = scored(model, own, simulated.as_of, pairs).rows
    context = SALES.context(own, simulated.as_of, OPTIONS)
    levels = Options.of(OPTIONS).quantiles
    answers = ladder.answer(pairs, own["history"], context, simulated.as_of, HORIZON, levels, own["plan"])
    assert rows["rung"].unique().to_list() == [rung]
    assert rows["q95"].min() > 0
    assert rows.select(QUANTILES).to_numpy() == pytest.approx(answers.select(QUANTILES).to_numpy(), rel=1e-9)


def test_an_older_champion_is_compared_on_rows_that_it_has_not_seen(trained, tables, simulated, model):
    until = simulated.as_of - timedelta(weeks=HORIZON)
    older, _ = trained_on(tables, until)
    champion = SALES.load(older.files)
    result = SALES.rebacktest(champion, trained[1], trained[0].backtest, until)
    assert result is not None
    challenger_loss, champion_loss, rows = result
    unseen = trained[0].backtest.filter(
        pl.col("week") > until, pl.col("rung").is_in(["pooled", "pooled_no_plan", "statistical", "blend"])
    )
    assert rows == unseen.height
    assert challenger_loss == pytest.approx(backtest.loss(unseen, Options.of(OPTIONS)))
    assert 0 < champion_loss < 1
    assert SALES.rebacktest(model, trained[1], trained[0].backtest, simulated.as_of) is None


def odd_history(as_of: date) -> pl.DataFrame:
    """A series of length 1, one of zeros, a constant one, one that stopped, and one that starts twice."""

    def series(sku: str, ages: range, units: float) -> pl.DataFrame:
        weeks = [as_of - timedelta(weeks=age) for age in ages]
        fixed = {"store": "s001", "units": units, "price": 2.0, "deal": 0.0, "feat": 0.0, "shard": 0}
        return pl.DataFrame({"sku": sku, "week": weeks}).with_columns(
            pl.lit(v).alias(n) for n, v in fixed.items()
        )

    return pl.concat(
        [
            series("once", range(1), 7.0),
            series("zeros", range(60), 0.0),
            series("constant", range(60), 5.0),
            series("stopped", range(40, 80), 9.0),
            series("again", range(0, 80, 9), 4.0),
        ]
    )


def test_odd_series_are_answered_with_a_reason(model, tables, simulated):
    odd = odd_history(simulated.as_of)
    order = tables["history"].collect_schema().names()
    history = pl.concat([tables["history"].collect(), odd.select(order).cast({"shard": pl.Int32})]).lazy()
    with_odd = {**tables, "history": history}
    keys = pl.concat(
        [odd.select(KEY).unique(), pl.DataFrame([("nowhere", "s999")], schema=KEY, orient="row")]
    )
    forecasts = scored(model, with_odd, simulated.as_of, keys)
    assert_complete(forecasts, keys, simulated.as_of)
    rung = dict(forecasts.keys.select("sku", "rung").iter_rows())
    middle = dict(forecasts.rows.group_by("sku").agg(pl.col("q50").mean()).iter_rows())
    assert rung["constant"] == "pooled_no_plan"
    assert middle["constant"] == pytest.approx(5, rel=0.5)
    assert middle["zeros"] == 0
    assert rung["stopped"] == "stopped"
    assert middle["stopped"] == 0
    assert middle["once"] > 0
    assert rung["nowhere"] == "everything"


def test_without_a_plan_every_key_is_forecast_without_it(model, tables, simulated):
    forecasts = scored(model, {n: t for n, t in tables.items() if n != "plan"}, simulated.as_of)
    assert set(forecasts.keys.filter(status="scored")["rung"]) <= {"pooled_no_plan", "statistical"}
    assert (
        forecasts.keys.filter(rung="pooled_no_plan")["reason"]
        .str.contains("6 of 6 weeks are not in the plan")
        .all()
    )


def test_a_week_that_is_not_in_the_plan_says_so(model, tables, simulated, scores):
    key = scores.keys.filter(rung="blend").row(0, named=True)
    week = simulated.as_of + timedelta(weeks=3)
    this = (pl.col("sku") == key["sku"]) & (pl.col("store") == key["store"])
    plan = tables["plan"].filter(~(this & (pl.col("week") == week)))
    forecasts = scored(model, {**tables, "plan": plan}, simulated.as_of, scores.keys.select(KEY))
    assert forecasts.rows.filter(this)["rung"].to_list() == [
        "pooled_no_plan" if step == 3 else "blend" for step in range(1, HORIZON + 1)
    ]
    assert forecasts.keys.filter(this)["reason"].item() == "1 of 6 weeks are not in the plan"


def test_a_blend_is_the_mean_of_the_logarithms_of_quantiles_weighted_by_the_width_of_bands(
    model, tables, simulated
):
    bare = replace(model, offsets=model.offsets.clear(), own_keys=model.own_keys.clear())
    forecasts = {
        rung: scored(replace(bare, own_first=first, blended=blended), tables, simulated.as_of).rows
        for rung, first, blended in (
            ("pooled", False, False),
            ("statistical", True, False),
            ("blend", False, True),
        )
    }
    blend = forecasts["blend"].filter(rung="blend")
    on = [*KEY, "week"]
    pooled, own = (
        forecasts[rung].join(blend.select(on), on=on, how="semi").filter(rung=rung)
        for rung in ("pooled", "statistical")
    )
    assert blend.height == pooled.height == own.height > 100
    a, b, both = (rows.select(QUANTILES).to_numpy() for rows in (pooled, own, blend))
    # the logarithm is of units over the level plus a tenth, which matters little to sales that are not slow
    assert ((np.minimum(a, b) - 1e-9 <= both) & (both <= np.maximum(a, b) + 1e-9)).all()
    large = a[:, 0] > 20
    a, b, both = (np.log(values[large]) for values in (a, b, both))
    trust = [1 / (values[:, -1:] - values[:, :1]) for values in (a, b)]
    assert np.abs(both - (trust[0] * a + trust[1] * b) / sum(trust)).max() < 0.03


def test_own_models_that_did_badly_in_the_backtest_have_no_part_in_the_forecast(trained, tables, simulated):
    parts = trained[1]
    bad = parts["statistical_backtest"].with_columns(pl.col(QUANTILES) * 8)
    context = SALES.context(tables, simulated.as_of, OPTIONS)
    training = SALES.fit({**parts, "statistical_backtest": bad}, context, simulated.as_of, OPTIONS)
    unblended = SALES.load(saved_and_read(training.files))
    assert not unblended.blended
    assert unblended.own_keys.is_empty()
    assert set(training.backtest["rung"]).isdisjoint({"blend", "statistical"})


def test_without_covariates_keys_are_forecast_by_the_candidate_of_their_kind_of_demand(simulated):
    bare = simulated.history.select(*KEY, "week", "units").with_columns(shard=pl.lit(0))
    tables = {"history": bare.lazy()}
    training, _ = trained_on(tables, simulated.as_of)
    model = SALES.load(saved_and_read(training.files))
    scores = scored(model, tables, simulated.as_of)
    assert_complete(scores, SALES.requested_keys(tables, simulated.as_of, OPTIONS).collect(), simulated.as_of)
    rungs = set(model.unplanned["rung"])
    assert set(scores.keys.filter(status="scored")["rung"]) <= rungs <= set(contest.MEMBERS)
    assert set(training.backtest["rung"]) & set(contest.MEMBERS)
    earlier = {name: file for name, file in model.files().items() if name != "unplanned"}
    assert SALES.load(saved_and_read(earlier)).unplanned.is_empty()


def test_a_history_too_short_for_a_backtest_is_still_answered(simulated):
    as_of = simulated.history["week"].min() + timedelta(weeks=9)
    tables = tables_of(simulated)
    training, _ = trained_on(tables, as_of)
    assert training.backtest.is_empty()
    assert any("0 of 2 origins" in note for note in training.notes)
    scores = scored(SALES.load(saved_and_read(training.files)), tables, as_of)
    assert_complete(scores, SALES.requested_keys(tables, as_of, OPTIONS).collect(), as_of)


@pytest.mark.parametrize(("horizon", "weeks_ahead"), [(HORIZON, HORIZON), (13, 8)])
def test_the_last_third_of_a_short_history_calibrates_and_chooses(simulated, horizon, weeks_ahead):
    as_of = simulated.history["week"].min() + timedelta(weeks=23)
    training, parts = trained_on(tables_of(simulated), as_of, OPTIONS | {"horizon": horizon})
    origin = as_of - timedelta(weeks=weeks_ahead)
    assert training.backtest["origin"].unique().to_list() == [origin]
    assert training.backtest["step"].max() == weeks_ahead
    assert parts["statistical_backtest"].collect()["origin"].unique().to_list() == [origin]
    rungs = training.files["offsets"].drop_nulls("steps")["rung"]
    assert {contest.POOLED, contest.STATISTICAL, contest.BLEND} <= set(rungs)
    is_partial = any(f"judged {weeks_ahead} weeks ahead, not {horizon}" in note for note in training.notes)
    assert is_partial == (weeks_ahead < horizon)


def test_what_was_sold_in_weeks_out_of_stock_is_not_believed(model, tables, simulated):
    as_of, sold_out = simulated.as_of, pl.col("week") > simulated.as_of - timedelta(weeks=5)
    sku, store = simulated.history.select(KEY).row(0)
    young = (pl.col("sku") == sku) & (pl.col("store") == store)

    def of(units: float, **in_stock: pl.Expr) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
        history = tables["history"].with_columns(
            units=pl.when(sold_out).then(units).otherwise("units"), **in_stock
        )
        history = history.filter(~young | (pl.col("week") > as_of - timedelta(weeks=9)))
        altered = {**tables, "history": history}
        context = context_of_training(altered, as_of, OPTIONS)
        parts = SALES.prepare_shard(altered, context, as_of, OPTIONS)
        return scored(model, altered, as_of).rows, parts

    covariates = {"in_stock": pl.when(sold_out).then(0.2).otherwise(1.0)}
    (none, parts), (many, other) = of(0.0, **covariates), of(999.0, **covariates)
    assert none.equals(many)
    assert "short_history" in set(none["rung"])
    assert not none.equals(of(0.0)[0])
    assert all(parts[name].equals(other[name]) for name in parts)
    assert "in_stock" not in "".join(parts["train"].columns)
    count = simulated.history.filter(sold_out).height
    assert f"demanded: {count:,}." in training_notes.about_weeks(parts["weeks"])[0]


def test_pieces_on_hand_are_not_taken_for_a_share_in_stock(simulated):
    shares, pieces = (simulated.history.with_columns(in_stock=pl.lit(value)) for value in (0.5, 40.0))
    SALES.tables["history"].check(shares, {})
    with pytest.raises(ContractError, match=r"in_stock is 40 for sku .* 0 to 1.*pieces on hand"):
        SALES.tables["history"].check(pieces, {})


def test_names_of_quantiles_follow_the_options():
    schema = SALES.published_table({"quantiles": [0.1, 0.5, 0.975]}).schema
    assert [name for name in schema if name.startswith("q")] == ["q10", "q50", "q97.5"]
    with pytest.raises(ValueError, match="rising order"):
        SALES.published_table({"quantiles": [0.5, 0.1]})


def about_weeks(units: list[float]) -> list[str]:
    first = date(2024, 1, 1)
    weeks = [first + timedelta(weeks=at) for at in range(len(units))]
    rows = pl.DataFrame({"sku": "a", "store": "s", "week": weeks, "units": units}).drop_nans("units")
    panel = panel_of(rows.lazy(), rows.select(KEY).unique(), (), first, weeks[-1], 0)
    return training_notes.about_weeks(preparation._weeks(panel))


def test_many_weeks_without_a_row_are_asked_about_and_a_few_are_not():
    nan = float("nan")
    assert about_weeks([nan, 1.0, 2.0, nan, 3.0, 2.0, 1.0, 4.0, nan]) == []
    notes = about_weeks([nan, 1.0, nan, nan, 3.0, nan])
    assert [note[:16] for note in notes] == ["50% of the weeks"]


def test_a_typing_error_counts_as_the_highest_week_before_and_the_notes_say_so():
    notes = about_weeks([30.0, 40.0] * 10 + [1_000_000.0] + [35.0] * 5)
    assert len(notes) == 1
    assert "highest week before: 1." in notes[0]


def test_a_second_implausible_week_in_a_row_is_believed_and_so_are_early_ones_and_promotions():
    def changed(values: list[float]) -> list[int]:
        units = np.array(values)[:, None]
        return np.flatnonzero(plausible(units) != units).tolist()

    assert changed([30.0, 40.0] * 10 + [4000.0] * 4) == [20]
    assert (
        changed([30.0, 40.0] * 10 + [1500.0])
        == changed([1.0, 1000.0] * 8)
        == changed([0.0] * 20 + [60.0])
        == []
    )
    errors = [35.0] * 20 + [1e6] + [35.0] * 4 + [1e6, 35.0]
    assert changed(errors) == [20, 25]
    assert plausible(np.array(errors)[:, None]).max() == 35.0


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize("error", [1e6, -1e6])
def test_the_first_weeks_of_a_key_are_judged_by_each_other(at, error):
    units = np.array([30.0, 40.0, 35.0, 33.0, 38.0])
    units[at] = error
    cleaned = plausible(units[:, None])[:, 0]
    assert cleaned[at] == (0.0 if error < 0 else max(np.delete(units, at)))
    assert np.delete(cleaned, at).tolist() == np.delete(units, at).tolist()
    for launch in ([1.0, 900.0], [2.0, 1.0, 1500.0], [1.0, 5000.0, 5000.0]):
        assert plausible(np.array(launch)[:, None])[:, 0].tolist() == launch


def explained(model, tables: Tables, as_of: date, rows: pl.DataFrame) -> pl.DataFrame:
    context = SALES.context(tables, as_of, OPTIONS)
    return SALES.explain(model, tables, context, rows, as_of, OPTIONS)


def test_level_and_contributions_add_up_to_the_published_median(model, scores, tables, simulated):
    explained_rows = explained(model, tables, simulated.as_of, scores.rows)
    forecasts = scores.rows.sort(*KEY, "week")
    assert explained_rows.select(*KEY, "week", "rung").equals(forecasts.select(*KEY, "week", "rung"))
    assert explained_rows["median"].equals(forecasts["q50"].alias("median"))
    parts = explained_rows.drop_nulls("level")
    total = parts.select(pl.sum_horizontal("level", *explanations.GROUPS)).to_series()
    np.testing.assert_allclose(total, parts["median"], rtol=1e-9, atol=1e-9)
    assert "blend" in set(parts["rung"])


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["pooled", "statistical", "blend", "pooled_no_plan", *contest.MEMBERS])
def test_what_is_left_to_calibration_is_calibration_whatever_the_rung(model, tables, simulated, rung):
    """Without offsets, with ordered quantiles and far from zero, the median depends on features and regressors only."""
    has_plan = rung in ("pooled", "blend") or rung == "statistical"
    bare = replace(
        model,
        offsets=model.offsets.clear(),
        own_first=rung == "statistical",
        own_keys=model.own_keys.clear(),
        blended=rung == "blend",
        unplanned=contest.always(rung) if rung in contest.MEMBERS else contest.nothing(),
    )
    inputs = tables if has_plan else {name: frame for name, frame in tables.items() if name != "plan"}
    rows = scored(bare, inputs, simulated.as_of).rows
    explanations = explained(bare, inputs, simulated.as_of, rows).filter(rung=rung)
    assert explanations.height
    own_shape = 0.25 if rung != "pooled" else 1e-6
    remainder = (explanations["calibration"].abs() / explanations["median"].clip(1.0)).median()
    assert remainder < own_shape
    if rung in ("pooled", "pooled_no_plan", "naive", "seasonal_naive"):
        assert remainder < 1e-5


@pytest.mark.parametrize("factor", [0.98, 0.9, 0.6])
def test_a_lower_price_alone_never_lowers_a_median_of_a_changed_plan(
    model, scores, tables, simulated, factor
):
    plan = tables["plan"].collect()
    skus = plan["sku"].unique().sort()
    one_of_each_store = plan.filter(
        pl.col("sku")
        == pl.col("store").rank("dense").cast(pl.Int64).map_elements(lambda i: skus[i - 1], pl.String)
    )
    cheaper = one_of_each_store.with_columns(pl.col("price") * factor)
    other = whatif.merged(plan, cheaper)
    rows = scored(model, {**tables, "plan": other.lazy()}, simulated.as_of).rows
    lines, _ = whatif.in_order(whatif.differences(scores.rows, rows, QUANTILES, "q50"), plan, other)
    of_cheaper = lines.join(cheaper, on=whatif.ON, how="semi")
    assert of_cheaper.height == cheaper.height
    assert (of_cheaper["difference"] >= 0).all()
    assert (of_cheaper["difference"] > 0).any()
