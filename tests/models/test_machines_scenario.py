"""The scenario from tables to published rows, which depend on no future, calendar or sharding; the ladder."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.errors import ContractError
from models.machines import scoring
from models.machines.evaluation import JUDGED, log_loss
from models.machines.labels import OBSERVED
from models.machines.options import Options
from models.machines.risks import Model, Risk
from models.machines.scenario import MACHINES
from models.machines.simulation import simulate
from models.machines.vocabulary import Vocabulary
from models.scenario import FitResult

START = datetime(2024, 3, 1, tzinfo=UTC)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"horizons_hours": [24, 72], "threads": 1, "normal_days": 7, "training_rows": 3000}
SHARDS = 3


def with_shards(tables: Mapping[str, pl.DataFrame], shards: int = SHARDS) -> dict[str, pl.DataFrame]:
    return {
        name: frame.with_columns(
            pl.col("machine_id")
            .map_elements(lambda m: crc32(m.encode()) % shards, return_dtype=pl.Int64)
            .alias("shard")
        )
        for name, frame in tables.items()
    }


def cut(tables: Mapping[str, pl.DataFrame], shard: int | None = None) -> dict[str, pl.LazyFrame]:
    return {
        n: f.lazy() if shard is None else f.lazy().filter(pl.col("shard") == shard) for n, f in tables.items()
    }


def train(
    tables: Mapping[str, pl.DataFrame], as_of: datetime, options: Mapping[str, Any] = OPTIONS
) -> FitResult:
    context = MACHINES.context(cut(tables), as_of, options)
    parts = [MACHINES.prepare_shard(cut(tables, i), context, as_of, options)["rows"] for i in range(SHARDS)]
    return MACHINES.fit({"rows": pl.concat(parts).lazy()}, context, as_of, options)


def score(
    model: Any, tables: Mapping[str, pl.DataFrame], as_of: datetime, options: Mapping[str, Any] = OPTIONS
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Published rows with ranks, and the status of the keys, shard by shard."""
    context = MACHINES.context(cut(tables), as_of, options)
    keys_requested = MACHINES.requested_keys(cut(tables), as_of, options).collect()
    shards = [
        MACHINES.score(
            model, cut(tables, i), context, keys_requested.filter(shard=i).drop("shard"), as_of, options
        )
        for i in range(SHARDS)
    ]
    rows = MACHINES.complete(pl.concat([s.rows for s in shards]).lazy()).collect()
    keys = pl.concat([s.keys for s in shards]).sort("machine_id", "component")
    assert keys.select("machine_id", "component").equals(
        keys_requested.select("machine_id", "component").sort("machine_id", "component")
    )
    return rows.sort("machine_id", "component", "time", "horizon_hours"), keys


@pytest.fixture(scope="module")
def fleet() -> dict[str, pl.DataFrame]:
    return with_shards(simulate(14, days=200, seed=2, interval_hours=4, start=START, components=2))


AS_OF = START + timedelta(days=150)


@pytest.fixture(scope="module")
def trained(fleet) -> FitResult:
    return train(fleet, AS_OF)


@pytest.fixture(scope="module")
def model(trained) -> Any:
    return MACHINES.load(json_and_back(trained))


def json_and_back(trained: FitResult) -> dict[str, Any]:
    """The bundle's files, with JSON converted to text and back."""
    return {n: json.loads(json.dumps(f)) if isinstance(f, dict) else f for n, f in trained.files.items()}


@pytest.fixture(scope="module")
def published(fleet, model) -> tuple[pl.DataFrame, pl.DataFrame]:
    return score(model, fleet, AS_OF)


def test_every_requested_component_is_scored_at_every_horizon(fleet, published):
    rows, keys = published
    assert rows.height == 14 * 2 * 2
    assert dict(rows.schema) == scoring.RISKS
    assert set(keys["status"]) == {"scored"}
    assert rows["probability"].is_between(0, 1).all()
    assert rows["time"].unique().to_list() == [AS_OF]


def test_a_probability_is_at_least_that_of_a_shorter_horizon():
    words = Vocabulary((), ("pump", "gear"), (), (), 1.0)
    rates = {("pump", 168): 0.1, ("pump", 24): 0.3, ("gear", 24): 0.2, ("gear", 168): 0.4}
    risks = [Risk(component, hours, "base_rate", rate) for (component, hours), rate in rates.items()]
    nothing = Risk("pump", 336, "no_model", 0.0)
    probabilities = Model(words, Options(), (*risks, nothing)).predict(np.zeros((2, 0), dtype=np.float32))
    assert {place: p.tolist() for place, p in probabilities.items() if place[1] < 336} == {
        ("pump", 24): [0.3, 0.3],
        ("pump", 168): [0.3, 0.3],
        ("gear", 24): [0.2, 0.2],
        ("gear", 168): [0.4, 0.4],
    }
    assert np.isnan(probabilities["pump", 336]).all()


def test_probabilities_rise_with_the_horizon(published):
    both = published[0].pivot(on="horizon_hours", index=["machine_id", "component"], values="probability")
    assert (both["72"] >= both["24"]).all()


def test_a_rank_is_over_all_shards_and_leaves_out_what_is_under_work(published):
    rows = published[0]
    for hours in (24, 72):
        of = rows.filter(horizon_hours=hours)
        ranked = of.filter(pl.col("rank").is_not_null()).sort("rank")
        assert ranked["rank"].to_list() == list(range(1, ranked.height + 1))
        assert (ranked["probability"].diff().drop_nulls() <= 0).all()
        assert set(of.filter(pl.col("rank").is_null())["rung"]) <= {"under_work"}


def test_training_twice_from_shards_in_another_order_gives_the_same_bundle(fleet, trained):
    turned = {name: frame[::-1] for name, frame in fleet.items()}
    again = train(turned, AS_OF)
    assert again.files == trained.files
    assert_frame_equal(again.backtest, trained.backtest, check_exact=True)
    assert again.loss == trained.loss


@pytest.mark.slow
@pytest.mark.parametrize("table", ["telemetry", "errors", "maintenance", "failures"])
def test_nothing_that_comes_after_as_of_changes_a_bundle_or_a_probability(
    fleet, trained, published, model, table
):
    frame = fleet[table]
    later = frame.filter(pl.col("time") > AS_OF)
    assert later.height > 0
    if table == "telemetry":
        altered = later.with_columns(pl.col("volt", "rotate") * 3 + 50)
    else:
        name = frame.columns[2]
        altered = later.with_columns(pl.lit("another").alias(name))
    tables = {**fleet, table: pl.concat([frame.filter(pl.col("time") <= AS_OF), altered])}
    rows, keys = score(model, tables, AS_OF)
    assert_frame_equal(rows, published[0], check_exact=True)
    assert keys.equals(published[1])
    if table in ("telemetry", "failures"):
        assert train(tables, AS_OF).files == trained.files


def test_the_whole_data_at_another_time_gives_the_same_probabilities(fleet, published, trained):
    shift = timedelta(days=1000, hours=7)
    elsewhere = {
        name: frame.with_columns(pl.col("time") + shift) if "time" in frame.columns else frame
        for name, frame in fleet.items()
    }
    again = train(elsewhere, AS_OF + shift)
    assert again.files == trained.files
    rows, _ = score(MACHINES.load(again.files), elsewhere, AS_OF + shift)
    assert_frame_equal(rows.drop("time"), published[0].drop("time"), check_exact=True)


def test_a_key_s_rows_do_not_depend_on_the_other_keys(fleet, model, published):
    context = MACHINES.context(cut(fleet), AS_OF, OPTIONS)
    rows = published[0].drop("rank")
    for key in rows.select("machine_id", "component").unique().sort(pl.all()).gather_every(9).iter_slices(1):
        alone = MACHINES.score(model, cut(fleet), context, key, AS_OF, OPTIONS)
        rows_of_key = rows.join(key, on=["machine_id", "component"], how="semi")
        assert_frame_equal(alone.rows.drop("rank"), rows_of_key, check_exact=True)


def test_a_range_has_at_each_time_what_a_run_for_that_time_had(fleet, model):
    options = {**OPTIONS, "score_from": (AS_OF - timedelta(hours=36)).isoformat()}
    several, _ = score(model, fleet, AS_OF, options)
    for back in (0, 24, 36):
        at = AS_OF - timedelta(hours=back)
        one, _ = score(model, fleet, at)
        assert_frame_equal(several.filter(time=at).drop("reasons"), one.drop("reasons"), check_exact=True)


def test_no_alarm_is_raised_while_a_component_is_under_work(fleet, model, published):
    rows = published[0]
    machine, component = rows.sort("probability")["machine_id", "component"].row(-1)
    just_now = AS_OF - timedelta(hours=3)
    event = pl.DataFrame(
        {"machine_id": [machine], "time": [just_now], "component": [component]},
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    more = pl.concat(
        [fleet["maintenance"], with_shards({"m": event})["m"].select(fleet["maintenance"].columns)]
    )
    bold = {**OPTIONS, "missed_failure_cost": 1e6}
    before = score(model, fleet, AS_OF, bold)[0].filter(machine_id=machine, component=component)
    assert before["above_threshold"].any()
    again, outcome = score(model, {**fleet, "maintenance": more}, AS_OF, bold)
    mine = again.filter(machine_id=machine, component=component)
    assert mine["rung"].to_list() == ["under_work"] * 2
    assert mine["above_threshold"].to_list() == [False, False]
    assert mine["rank"].null_count() == 2
    key = outcome.filter(machine_id=machine, component=component).row(0, named=True)
    assert (key["status"], key["rung"]) == ("scored", "under_work")


def test_alarms_follow_the_costs_that_are_given_when_scoring(fleet, model, published):
    bold, _ = score(model, fleet, AS_OF, {**OPTIONS, "missed_failure_cost": 1e6})
    shy, _ = score(model, fleet, AS_OF, {**OPTIONS, "missed_failure_cost": 1e-6})
    alarms = [rows["above_threshold"].sum() for rows in (shy, published[0], bold)]
    assert alarms == sorted(alarms)
    assert alarms[0] < alarms[-1]
    for risk in model.risks:
        here = published[0].filter(component=risk.component, horizon_hours=risk.horizon_hours, rung="model")
        threshold = risk.threshold(Options.of(OPTIONS))
        assert (here["above_threshold"] == (here["probability"] >= threshold)).all()


def test_a_cost_of_its_own_moves_the_alarms_of_one_component_and_of_no_other(fleet, model, published):
    dear = next(risk.component for risk in model.risks if risk.rung == "model")
    rows, _ = score(model, fleet, AS_OF, {**OPTIONS, "component_costs": [[dear, 1e6]]})
    bold, _ = score(model, fleet, AS_OF, {**OPTIONS, "missed_failure_cost": 1e6})
    for component in rows["component"].unique():
        expected = bold if component == dear else published[0]
        columns = ["machine_id", "horizon_hours", "threshold", "above_threshold"]
        both = [frame.filter(component=component).select(columns).sort(columns) for frame in (rows, expected)]
        assert both[0].equals(both[1], null_equal=True)


def test_a_cost_of_a_component_that_there_is_not_is_refused_by_name(fleet):
    options = OPTIONS | {"component_costs": [["flux capacitor", 2.0]]}
    context = MACHINES.context(cut(fleet), AS_OF, options)
    rows = MACHINES.prepare_shard(cut(fleet, 0), context, AS_OF, options)["rows"]
    with pytest.raises(ContractError, match=r"flux capacitor.*(.|\n)*Expected some of"):
        MACHINES.fit({"rows": rows.lazy()}, context, AS_OF, options)


def test_silent_machines_and_silent_sensors_are_scored_and_say_so(fleet, model):
    since = AS_OF - timedelta(days=3)
    late = pl.col("time") > since
    telemetry = fleet["telemetry"].filter(~(late & (pl.col("machine_id") == "M00001")))
    quiet = late & (pl.col("machine_id") == "M00002")
    without = pl.col("machine_id") == "M00003"
    telemetry = telemetry.with_columns(pl.when(~quiet & ~without).then("volt").alias("volt"))
    rows, keys = score(model, {**fleet, "telemetry": telemetry}, AS_OF)
    silent, partial = (keys.filter(machine_id=m) for m in ("M00001", "M00002"))
    assert set(silent["status"]) == {"fallback"}
    assert set(silent["rung"]) == {"without_telemetry"}
    assert set(silent["reason"]) == {"no telemetry in the last 36 h"}
    assert set(partial["status"]) == {"scored"}
    assert set(partial["reason"]) == {"no reading of volt in the last 36 h"}
    assert set(keys.filter(machine_id="M00003")["reason"]) == {None}, "it never had the sensor"
    usual = rows.filter(pl.col("rung") == "model")["probability"].mean()
    for machine in ("M00001", "M00002"):
        assert rows.filter(machine_id=machine)["probability"].mean() < 10 * usual


@pytest.fixture(scope="module")
def uneven(fleet) -> dict[str, pl.DataFrame]:
    """comp1 never fails in the training range, comp2 twice; both are replaced."""
    failures = fleet["failures"]
    second = failures.filter(component="comp2").sort("time")
    few = pl.concat([second[:2], second.filter(pl.col("time") > AS_OF)])
    first = failures.filter(pl.col("component") == "comp1", pl.col("time") > AS_OF)
    others = failures.filter(~pl.col("component").is_in(["comp1", "comp2"]))
    return {**fleet, "failures": pl.concat([others, few, first])}


def test_a_component_that_never_failed_has_no_model_and_one_that_seldom_did_a_base_rate(uneven):
    training = train(uneven, AS_OF)
    rows, keys = score(MACHINES.load(json_and_back(training)), uneven, AS_OF)
    never, seldom = (keys.filter(component=c) for c in ("comp1", "comp2"))
    assert set(never["status"]) == {"skipped"}
    assert never["reason"].str.starts_with("comp1 never failed in the training range of ").all()
    assert set(seldom["status"]) == {"fallback"}
    silent = rows.filter(component="comp1")
    assert silent["probability"].null_count() == silent["above_threshold"].null_count() == silent.height == 28
    assert set(silent["rung"]) == {"no_model"}
    assert silent["reasons"].str.starts_with("comp1 never failed in the training range of ").all()
    constant = rows.filter(component="comp2", horizon_hours=24)
    assert constant["probability"].n_unique() == 1
    assert 0 < constant["probability"][0] < 0.01
    assert any("comp1 never failed" in note for note in training.notes)


def test_a_component_that_the_bundle_has_not_heard_of_is_skipped_and_said(fleet, model):
    row = {"machine_id": "M00003", "time": AS_OF - timedelta(days=9), "component": "belt"}
    event = pl.DataFrame([row], schema_overrides={"time": pl.Datetime("us", "UTC")})
    more = pl.concat(
        [fleet["maintenance"], with_shards({"m": event})["m"].select(fleet["maintenance"].columns)]
    )
    rows, keys = score(model, {**fleet, "maintenance": more}, AS_OF)
    assert keys.filter(component="belt").height == 14
    assert set(keys.filter(component="belt")["status"]) == {"skipped"}
    assert rows.filter(component="belt")["reasons"].str.contains("was not on record").all()


def test_telemetry_at_another_interval_than_trained_on_is_not_scored(fleet, model):
    daily = fleet["telemetry"].filter(pl.col("time").dt.hour() == 0)
    rows, keys = score(model, {**fleet, "telemetry": daily}, AS_OF)
    assert rows.is_empty()
    assert set(keys["status"]) == {"skipped"}
    assert keys["reason"].str.contains("every 24 h, but the bundle was trained on telemetry every 4 h").all()


def test_a_range_from_before_the_first_telemetry_begins_with_it_and_says_so(fleet, model):
    early = {name: frame.clone() for name, frame in fleet.items()}
    first = START + timedelta(days=100, hours=3)
    early["telemetry"] = early["telemetry"].filter(pl.col("time") >= first)
    first = early["telemetry"]["time"].min()
    since = {**OPTIONS, "score_from": (START + timedelta(days=60)).isoformat()}
    rows, _ = score(model, early, AS_OF, since)
    assert first <= rows["time"].min() < first + timedelta(hours=12)
    assert "without_telemetry" not in set(rows["rung"])
    keys = MACHINES.requested_keys(cut(early), AS_OF, since).collect()

    def gaps(options: dict) -> pl.DataFrame:
        context = MACHINES.context(cut(early), AS_OF, options)
        every = MACHINES.gaps(cut(early), context, keys, AS_OF, options)
        return every.filter(finding="range before the data")

    (line,) = gaps(since).to_dicts()
    assert "requested from 2024-04-30 00:00" in line["examples"]
    assert f"{first:%Y-%m-%d %H:%M}" in line["examples"]
    inside = {**OPTIONS, "score_from": first.isoformat()}
    assert gaps(inside).is_empty()


def test_a_range_that_begins_after_its_end_is_refused(fleet):
    late = {**OPTIONS, "score_from": (AS_OF + timedelta(hours=1)).isoformat()}
    with pytest.raises(ContractError, match="Expected --from before"):
        MACHINES.requested_keys(cut(fleet), AS_OF, late)


def test_of_a_range_the_last_rows_have_reasons_and_of_the_others_those_at_risk(fleet, model, published):
    since = {**OPTIONS, "score_from": (AS_OF - timedelta(days=9)).isoformat()}
    rows, _ = score(model, fleet, AS_OF, since)
    assert_frame_equal(rows.filter(time=AS_OF).drop("rank"), published[0].drop("rank"))
    before = rows.filter(pl.col("time") < AS_OF, rung="model")
    has_reasons = before.group_by("above_threshold").agg((pl.col("reasons").fill_null("") != "").all())
    assert dict(has_reasons.iter_rows()) == {True: True, False: False}
    assert not (before.filter(~pl.col("above_threshold"))["reasons"].fill_null("") != "").any()


def test_an_evaluation_is_pending_where_the_horizon_is_not_over(fleet, model):
    end = START + timedelta(days=200)
    options = {**OPTIONS, "score_from": AS_OF.isoformat()}
    context = MACHINES.context(cut(fleet), end, options)
    parts = [MACHINES.evaluate(model, cut(fleet, i), context, end, options) for i in range(SHARDS)]
    verdicts = pl.concat(parts)
    assert list(verdicts.columns) == [*JUDGED, *scoring.QUANTILE_COLUMNS, OBSERVED]
    for hours in (24, 72):
        of = verdicts.filter(horizon_hours=hours)
        pending = of.filter(pl.col("failed").is_null())["time"]
        assert pending.min() > end - timedelta(hours=hours) >= of.drop_nulls("failed")["time"].max()
    table = MACHINES.measures(verdicts.lazy(), options)
    value = dict(table.filter(slice="horizon", value_of_slice="24h").select("metric", "value").iter_rows())
    assert value["f1"] > 0.4
    assert value["calibration_error"] < 0.03
    assert value["saved_to_never"] > 0


def test_an_evaluation_of_a_past_range_knows_all_outcomes_by_now(fleet, model):
    end = START + timedelta(days=200)
    options = {
        **OPTIONS,
        "score_from": AS_OF.isoformat(),
        "score_to": (AS_OF + timedelta(days=9)).isoformat(),
    }
    verdicts = MACHINES.evaluate(model, cut(fleet), MACHINES.context(cut(fleet), end, options), end, options)
    assert (verdicts["time"].min(), verdicts["time"].max()) == (AS_OF, AS_OF + timedelta(days=9))
    assert verdicts["failed"].null_count() == 0


def test_an_event_tells_of_each_machine_at_risk_the_worst_first(fleet, model):
    rows, _ = score(model, fleet, AS_OF, {**OPTIONS, "missed_failure_cost": 1e4})
    derived = MACHINES.derive(rows.lazy(), {}, {}, AS_OF, OPTIONS)
    events = MACHINES.events(rows.lazy(), derived, AS_OF, OPTIONS)
    alarms = rows.filter("above_threshold")
    assert len(events) == alarms["machine_id"].n_unique() > 0
    assert {event.name for event in events} == {"at_risk"}
    best = [min(risk["rank"] for risk in event.payload["risks"]) for event in events]
    assert best == sorted(best)
    assert sum(len(event.payload["risks"]) for event in events) == alarms.height
    assert json.loads(json.dumps(events[0].payload)) == events[0].payload
    assert len({event.resource for event in events}) == len(events)


def test_the_backtest_is_later_than_what_its_estimators_learnt_from(trained):
    span = AS_OF - START
    late = START + span * 0.8
    assert trained.backtest["time"].min() >= late
    assert trained.backtest["failed"].null_count() == 0
    assert trained.loss == log_loss(trained.backtest)
    assert trained.headline["average_precision_24h"] > 0.4


def test_a_bundle_is_the_same_however_many_estimators_are_fitted_at_once(fleet, trained):
    again = train(fleet, AS_OF, {**OPTIONS, "threads": 3})
    assert again.files == trained.files
    assert_frame_equal(again.backtest, trained.backtest, check_exact=True)


def test_a_champion_is_compared_on_rows_that_it_has_not_seen(fleet, model):
    later = START + timedelta(days=200)
    context = MACHINES.context(cut(fleet), later, OPTIONS)
    rows = MACHINES.prepare_shard(cut(fleet), context, later, OPTIONS)["rows"]
    challenger = MACHINES.fit({"rows": rows.lazy()}, context, later, OPTIONS)
    losses = MACHINES.rebacktest(model, {"rows": rows.lazy()}, challenger.backtest, AS_OF)
    assert losses is not None
    ours, theirs, count = losses
    unseen = challenger.backtest.filter(pl.col("time") > AS_OF)
    assert count == unseen.height > 0
    assert ours == log_loss(unseen)
    assert 0.2 < ours / theirs < 5
    assert MACHINES.rebacktest(model, {"rows": rows.lazy()}, challenger.backtest, later) is None
    itself = MACHINES.load(challenger.files)
    mine, again, _ = MACHINES.rebacktest(itself, {"rows": rows.lazy()}, challenger.backtest, AS_OF) or (
        0,
        0,
        0,
    )
    assert again < mine * 1.5


@pytest.mark.parametrize("estimator", ["random_forest", "decision_tree"])
def test_the_classical_estimators_go_the_same_way(fleet, estimator, monkeypatch):
    monkeypatch.setattr("models.machines.estimators.FOREST_TREES", 40)
    options = {**OPTIONS, "estimator": estimator, "horizons_hours": [24], "training_rows": 1500}
    training = train(fleet, AS_OF, options)
    frames = [f for f in training.files.values() if isinstance(f, pl.DataFrame)]
    assert len(frames) == 2
    rows, keys = score(MACHINES.load(json_and_back(training)), fleet, AS_OF, options)
    assert rows.height == 28
    assert set(keys["status"]) == {"scored"}
    assert rows.filter("above_threshold")["reasons"].str.contains(r"\(\+0\.\d+\)").all()
    assert training.headline["average_precision_24h"] > 0.2


def test_as_of_is_the_latest_telemetry_up_to_what_is_asked_for(fleet):
    tables = cut(fleet)
    last = START + timedelta(days=200)
    assert MACHINES.resolve_as_of(tables, None, NOW) == last
    assert MACHINES.resolve_as_of(tables, START + timedelta(days=9, hours=7), NOW) == START + timedelta(
        days=9, hours=4
    )
    assert MACHINES.resolve_as_of(tables, date(2024, 3, 5), NOW) == datetime(2024, 3, 6, tzinfo=UTC)
    for wrong in (date(2024, 2, 1), last + timedelta(days=3)):
        with pytest.raises(ContractError, match="There is telemetry from 2024-03-01T04:00Z"):
            MACHINES.resolve_as_of(tables, wrong, NOW)
    with pytest.raises(ContractError, match="the table has no rows"):
        MACHINES.resolve_as_of({**tables, "telemetry": tables["telemetry"].head(0)}, None, NOW)


def test_nothing_to_learn_from_is_an_error_that_says_what_to_do(fleet):
    empty = {**fleet, "telemetry": fleet["telemetry"].head(0)}
    context = MACHINES.context(cut(fleet), AS_OF, OPTIONS)
    rows = MACHINES.prepare_shard(cut(empty), context, AS_OF, OPTIONS)["rows"]
    with pytest.raises(ContractError, match="Ingest telemetry, maintenance and failures"):
        MACHINES.fit({"rows": rows.lazy()}, context, AS_OF, OPTIONS)


def test_a_short_range_trains_without_held_out_rows_and_says_so(fleet):
    options = {**OPTIONS, "train_from": (AS_OF - timedelta(days=12)).isoformat(), "horizons_hours": [72]}
    training = train(fleet, AS_OF, options)
    assert any("too short to hold out rows" in note for note in training.notes)
    rows, _ = score(MACHINES.load(training.files), fleet, AS_OF, options)
    assert rows.height == 28


def test_a_shard_without_machines_contributes_nothing(fleet):
    context = MACHINES.context(cut(fleet), AS_OF, OPTIONS)
    none = {n: f.filter(pl.col("shard") > 99).lazy() for n, f in fleet.items()}
    empty = MACHINES.prepare_shard(none, context, AS_OF, OPTIONS)["rows"]
    full = MACHINES.prepare_shard(cut(fleet, 0), context, AS_OF, OPTIONS)["rows"]
    assert empty.is_empty()
    assert empty.schema == full.schema


def test_options_that_make_no_sense_are_refused_with_what_was_expected():
    for wrong in (
        {"windows_hours": []},
        {"horizons_hours": [0]},
        {"estimator": "magic"},
        {"missed_failure_cost": -1.0},
        {"component_costs": [["pump", 0.0]]},
        {"needless_inspection_cost": float("nan")},
        {"held_out_share": 0.7},
        {"every_hours": 0},
    ):
        with pytest.raises(ValueError, match="Expected"):
            Options.of(wrong)
    assert np.isfinite(Options.of({"score_from": "2024-01-02"}).threshold)
