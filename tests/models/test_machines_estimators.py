"""Trees as arrays, calibration, costs and measures, each against the library or a slow loop."""

import io
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score
from sklearn.tree import DecisionTreeClassifier

from models.errors import ContractError
from models.machines import costs, estimators, evaluation
from models.machines.calibration import IDENTITY, calibrated_probabilities, platt
from models.machines.estimators import Learner
from models.machines.explanations import reasons
from models.machines.features import feature_list
from models.machines.options import ESTIMATORS, Options
from models.machines.trees import Trees
from models.machines.vocabulary import Vocabulary

START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def problem(rows: int = 900, seed: int = 0, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which some fail, for reasons that the first columns show; a twentieth of the values is missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, width)).astype(np.float32)
    failed = X[:, 0] + X[:, 1] * (X[:, 2] > 0) + 0.3 * rng.normal(size=rows) > 1.5
    X[rng.random(X.shape) < 0.05] = np.nan
    return X, failed


def through_parquet(frame: pl.DataFrame) -> pl.DataFrame:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    buffer.seek(0)
    return pl.read_parquet(buffer)


@pytest.mark.parametrize("trees", [1, 30])
@pytest.mark.parametrize("depth", [1, 6, None])
def test_trees_from_their_frame_score_as_sklearn_does(trees, depth):
    X, failed = problem()
    if trees == 1:
        model = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(X, failed)
        ours = Trees.of_sklearn([model])
    else:
        model = RandomForestClassifier(trees, max_depth=depth, random_state=0).fit(X, failed)
        ours = Trees.of_sklearn(model.estimators_)
    again = Trees.of_frame(through_parquet(ours.to_frame()))
    fresh, _ = problem(500, seed=9)
    edges = np.concatenate([fresh, np.repeat(again.threshold[:9, None], 9, axis=1).astype(np.float32)])
    edges = np.concatenate([edges, np.full((1, 9), np.nan, dtype=np.float32)])
    np.testing.assert_allclose(again.predict(edges), model.predict_proba(edges)[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "child"), [("left", 0), ("right", 0), ("left", 10**6), ("right", -1)])
def test_trees_whose_paths_do_not_end_or_leave_the_frame_are_refused(side, child):
    X, failed = problem()
    frame = Trees.of_sklearn([DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, failed)]).to_frame()
    crafted = frame.with_columns(pl.when(pl.int_range(pl.len()) == 1).then(child).otherwise(side).alias(side))
    with pytest.raises(ContractError, match="The nodes of a decision tree are damaged"):
        Trees.of_frame(crafted)


def test_a_row_s_score_does_not_depend_on_the_rows_beside_it(monkeypatch):
    X, failed = problem()
    forest = RandomForestClassifier(20, max_depth=5, random_state=0).fit(X, failed)
    ours = Trees.of_sklearn(forest.estimators_)
    whole = ours.predict(X)
    monkeypatch.setattr("models.machines.trees._CHUNK_CELLS", 50)
    assert np.array_equal(ours.predict(X), whole)
    assert np.array_equal(np.concatenate([ours.predict(X[i : i + 1]) for i in range(40)]), whole[:40])


def test_contributions_of_trees_are_the_steps_on_the_path_and_add_up_to_the_score():
    X, failed = problem(300)
    forest = RandomForestClassifier(7, max_depth=4, random_state=1).fit(X, failed)
    ours = Trees.of_sklearn(forest.estimators_)
    contributions = ours.contributions(X)
    np.testing.assert_allclose(contributions.sum(axis=1), ours.predict(X), atol=1e-12)
    for row in (0, 17, 123):
        by_hand = np.zeros(X.shape[1] + 1)
        for tree_of_forest in forest.estimators_:
            tree = tree_of_forest.tree_
            path = tree_of_forest.decision_path(X[row : row + 1]).indices
            share = tree.value[:, 0, 1] / tree.value[:, 0, :].sum(axis=1)
            by_hand[-1] += share[0]
            for here, then in pairwise(path):
                by_hand[tree.feature[here]] += share[then] - share[here]
        np.testing.assert_allclose(contributions[row], by_hand / 7, atol=1e-12)


def test_a_tree_of_one_class_says_that_class():
    X, _ = problem(50)
    for value in (True, False):
        tree = DecisionTreeClassifier().fit(X, np.full(50, value))
        assert set(Trees.of_sklearn([tree]).predict(X)) == {float(value)}


@pytest.mark.parametrize("estimator", ["lightgbm", "decision_tree"])
def test_a_learner_of_some_rows_learns_from_these_alone(estimator):
    X, failed = problem()
    X, weight = np.round(X), np.linspace(0.5, 2, len(X))
    some = np.arange(len(X)) % 3 > 0
    options = Options(estimator=estimator, leaves=4)
    part = Learner(X, weight, options).where(some).fit(failed[some], trees=20)
    alone = Learner(X[some], weight[some], options).fit(failed[some], trees=20)
    assert np.array_equal(part.estimator.predict(X), alone.estimator.predict(X))
    assert not np.array_equal(
        part.estimator.predict(X), Learner(X, weight, options).fit(failed, trees=20).estimator.predict(X)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_estimator_loaded_from_its_file_says_the_same(estimator):
    X, failed = problem()
    options = Options(estimator=estimator, threads=1)
    classifier = Learner(X, np.ones(len(X)), options).fit(failed, trees=25).estimator
    file = classifier.file()
    again = estimators.load(through_parquet(file) if isinstance(file, pl.DataFrame) else file, threads=1)
    assert np.array_equal(classifier.predict(X), again.predict(X))
    contributions = again.contributions(X)
    total = contributions.sum(axis=1)
    probabilities = again.predict(X)
    np.testing.assert_allclose(
        total,
        np.log(probabilities / (1 - probabilities)) if again.unit == "odds" else probabilities,
        atol=1e-6,
    )
    share = classifier.importance(X.shape[1])
    assert share.sum() == pytest.approx(1)
    assert share[:3].sum() > 0.6


def test_lightgbm_gives_the_same_for_any_number_of_threads_and_whatever_was_fitted_before():
    X, failed = problem(700)
    judge, validation = problem(400, seed=4)
    other, later = np.random.default_rng(0).random(700) < 0.1, (validation, np.ones(400, dtype=bool))
    texts = []
    for threads, before in ((1, False), (2, False), (1, True)):
        learner = Learner(X, np.ones(700), Options(threads=threads), judge)
        if before:
            learner.fit(other, later=later)
        texts.append(learner.fit(failed, later=later))
    assert texts[0].trees == texts[1].trees == texts[2].trees
    predictions = [estimators.estimator.predict(judge) for estimators in texts]
    assert np.array_equal(predictions[0], predictions[1])
    assert np.array_equal(predictions[0], predictions[2])


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 3), st.floats(-2, 2))
def test_platt_undoes_a_known_distortion(seed, slope, intercept):
    rng = np.random.default_rng(seed)
    truth = 1 / (1 + np.exp(-rng.normal(-1.5, 1.5, 20_000)))
    failed = rng.random(20_000) < truth
    z = (np.log(truth / (1 - truth)) - intercept) / slope
    distorted = np.clip(1 / (1 + np.exp(-z)), 1e-6, 1 - 1e-6)
    how = json.loads(json.dumps(platt(distorted, failed)))
    assert np.abs(calibrated_probabilities(distorted, how) - truth).mean() < 0.02


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_calibration_never_falls_and_is_never_certain(seed, failures):
    rng = np.random.default_rng(seed)
    raw = rng.random(400)
    failed = np.zeros(400, dtype=bool)
    failed[rng.choice(400, failures, replace=False)] = True
    grid = np.concatenate([[0.0], np.linspace(1e-9, 1, 500)])
    out = calibrated_probabilities(grid, platt(raw, failed))
    assert (np.diff(out) >= -1e-12).all()
    assert out.min() > 0
    assert out.max() < 1


def test_a_perfectly_separated_sample_gives_no_certainty_and_one_class_gives_no_calibration():
    raw = np.concatenate([np.full(500, 1e-5), np.full(6, 0.999)])
    failed = np.arange(506) >= 500
    out = calibrated_probabilities(raw, platt(raw, failed))
    assert 0.9 < out[-1] < 1
    assert 0 < out[0] < 0.01
    assert platt(raw, np.zeros(506, dtype=bool)) == platt(raw, np.ones(506, dtype=bool)) == IDENTITY


def test_the_threshold_is_where_inspecting_begins_to_cost_less_than_waiting():
    for cost_of_failure, needless in ((10.0, 1.0), (1.0, 1.0), (3.0, 500.0)):
        options = Options(missed_failure_cost=cost_of_failure, needless_inspection_cost=needless)
        for p in np.linspace(0, 1, 1001):
            inspecting, waiting = (1 - p) * needless, p * cost_of_failure
            if abs(inspecting - waiting) > 1e-9:
                assert (p >= options.threshold) == (inspecting < waiting)


hours_of = st.lists(st.tuples(st.integers(0, 400), st.sampled_from("ab")), max_size=12, unique=True)


def events(pairs: list[tuple[int, str]]) -> pl.DataFrame:
    rows = [("m", component, START + hour * HOUR) for hour, component in pairs]
    schema = {"machine_id": pl.String, "component": pl.String, "time": pl.Datetime("us", "UTC")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_the_threshold_of_a_week_is_that_of_alarms_that_come_before_those_of_a_day():
    """A probability of 0.2 for a week before each failure, and of 0.9 on the last day."""
    failed = pl.DataFrame(
        {"machine_id": "m", "component": "a", "time": [START + 24 * (10 + 20 * i) * HOUR for i in range(12)]}
    )
    days = pl.DataFrame({"time": [START + 24 * i * HOUR for i in range(240)]}).with_columns(
        pl.lit("m").alias("machine_id"), pl.lit("a").alias("component"), under_work=False
    )
    rows = days.join_asof(
        failed.select("time", failed_at="time"), on="time", strategy="forward", allow_exact_matches=False
    )
    hours_to_failure = (pl.col("failed_at") - pl.col("time")).dt.total_hours().fill_null(9999)
    rows = rows.with_columns(
        pl.when(hours_to_failure <= 24)
        .then(0.9)
        .when(hours_to_failure <= 168)
        .then(0.2)
        .otherwise(0.01)
        .alias("probability")
    )
    counts_of_misses = [
        {row["threshold"]: row["missed"] for row in costs.bills(rows, failed, 168, lead)}[0.9]
        for lead in (0, 24)
    ]
    assert counts_of_misses == [0, 12]
    assert costs.cheapest(costs.bills(rows, failed, 168, 24), 12, Options()) <= 0.2


@settings(max_examples=80)
@given(hours_of, hours_of, st.integers(1, 120), st.integers(0, 60))
def test_a_bill_counts_failures_and_inspections_as_a_loop_does(inspected, failed, horizon, lead):
    own = {"component_costs": (("b", 30.0),)}
    options = Options(missed_failure_cost=7.0, needless_inspection_cost=2.0, **own)
    bill = costs.bill(events(inspected), events(failed), horizon, options, lead)
    prevented, needless = set(), 0
    for at, component in inspected:
        following = sorted(h for h, c in failed if c == component and at < h)
        if not following or following[0] > at + horizon:
            needless += 1
        elif following[0] > at + lead:
            prevented.add((following[0], component))
    unprevented = set(failed) - prevented
    cost = sum(30.0 if component == "b" else 7.0 for _, component in unprevented) + 2.0 * needless
    assert bill == costs.Bill(len(prevented), len(unprevented), needless, cost)


@settings(max_examples=80)
@given(hours_of, st.integers(1, 120))
def test_a_component_that_was_inspected_is_left_alone_for_the_horizon(alarmed, horizon):
    alarms = costs.alarms(events(alarmed), horizon)
    for component in "ab":
        alarm_hours: list[int] = []
        for at in sorted(h for h, c in alarmed if c == component):
            if not alarm_hours or at >= alarm_hours[-1] + horizon:
                alarm_hours.append(at)
        times = alarms.filter(component=component)["time"].to_list()
        assert [(t - START) / HOUR for t in times] == alarm_hours


@pytest.mark.parametrize(("missed", "needless"), [(10.0, 1.0), (1.0, 5.0), (1e4, 1.0)])
def test_the_threshold_of_a_bundle_costs_hardly_more_than_the_cheapest_of_those_tried_on_held_out_rows(
    missed, needless
):
    options = Options(missed_failure_cost=missed, needless_inspection_cost=needless)
    rows = judged(11, rows=1500)
    failures = evaluation.failures_of(rows)
    table = costs.bills(rows, failures, 24)
    cheapest_of_bundle = costs.cheapest(json.loads(json.dumps(table)), failures.height, options)
    price, count = {}, {}
    for threshold in costs.THRESHOLDS:
        alarmed = costs.alarms(rows.filter(pl.col("probability") >= threshold), 24)
        one = costs.bill(alarmed, failures, 24, options)
        price[threshold], count[threshold] = one.cost, (one.missed, one.needless)
    cheapest = min(price, key=lambda threshold: price[threshold])
    differ = [abs(a - b) for a, b in zip(count[cheapest_of_bundle], count[cheapest], strict=True)]
    allowed = (missed**2 * differ[0] + needless**2 * differ[1]) ** 0.5
    assert price[cheapest_of_bundle] - price[cheapest] <= allowed + 1e-9
    nearer = [
        t
        for t in price
        if abs(logit(t) - logit(options.threshold))
        < abs(logit(cheapest_of_bundle) - logit(options.threshold))
    ]
    assert all(price[t] > price[cheapest] for t in nearer)
    assert costs.cheapest(table, 9, options) == options.threshold
    assert costs.cheapest([], 99, options) == options.threshold


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_a_threshold_far_from_the_break_even_probability_needs_many_failures_that_speak_for_it():
    """A higher threshold saves one needless inspection for twelve failures, or forty for a hundred and twenty."""
    few = [{"threshold": 0.1, "missed": 0, "needless": 1}, {"threshold": 0.6, "missed": 0, "needless": 0}]
    many = [{"threshold": 0.1, "missed": 0, "needless": 40}, {"threshold": 0.6, "missed": 0, "needless": 0}]
    assert costs.cheapest(few, 12, Options()) == 0.1
    assert costs.cheapest(many, 120, Options()) == 0.6


def test_inspecting_everything_every_n_days_begins_at_the_first_row():
    inspections = costs.every(events([(3, "a"), (5, "b"), (9, "a")]), START, START + timedelta(days=21), 10)
    assert inspections.height == 6
    assert sorted({(t - START).days for t in inspections["time"].to_list()}) == [0, 10, 20]


def judged(seed: int, rows: int = 400, pending: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(rows) ** 3, 2)
    failed = rng.random(rows) < p
    is_pending = np.arange(rows) < pending
    return pl.DataFrame(
        {
            "machine_id": "m",
            "component": rng.choice(["a", "b"], rows),
            "horizon_hours": pl.Series([24] * rows, dtype=pl.Int32),
            "time": [START + 12 * i * HOUR for i in range(rows)],
            "probability": p,
            "threshold": 0.3,
            "above_threshold": p >= 0.3,
            "failed": failed,
            "next_failure_hours": np.where(failed, 13.0, 100.0),
            "under_work": False,
            "rung": "model",
        }
    ).with_columns(pl.when(~pl.Series(is_pending)).then("failed").alias("failed"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_measures_are_those_of_sklearn_and_of_a_loop(seed):
    rows = judged(seed)
    measures = evaluation.measures(rows, Options())
    p, y, alarm = (rows[c].to_numpy() for c in ("probability", "failed", "above_threshold"))
    assert measures["average_precision"] == pytest.approx(average_precision_score(y, p))
    assert measures["f1"] == pytest.approx(f1_score(y, alarm))
    assert measures["brier"] == pytest.approx(brier_score_loss(y, p))
    error = 0.0
    for k in range(10):
        inside = (p >= k / 10) & ((p < (k + 1) / 10) | (k == 9))
        if inside.any():
            error += abs(p[inside].mean() - y[inside].mean()) * inside.mean()
    assert measures["calibration_error"] == pytest.approx(error)


def test_f1_over_the_components_pools_their_rows():
    rows = judged(5)
    table = evaluation.metrics(rows, Options())
    hits, alarms, failing = 0, 0, 0
    for component in "ab":
        one = rows.filter(component=component)
        hits += one.filter("failed", "above_threshold").height
        alarms += one.filter("above_threshold").height
        failing += one.filter("failed").height
    value = table.filter(slice="horizon", value_of_slice="24h", metric="f1")["value"].item()
    assert value == pytest.approx(2 * hits / (alarms + failing))


def test_pending_rows_change_no_measure():
    rows = judged(6, pending=100)
    measures = evaluation.measures(rows, Options())
    assert measures == evaluation.measures(rows.filter(pl.col("failed").is_not_null()), Options())
    assert measures["rows"] == 300


def test_rows_without_model_count_against_it():
    rows = judged(7).with_columns(
        pl.when(pl.col("component") == "a").then("probability"),
        pl.when(pl.col("component") == "a").then("above_threshold"),
    )
    measures, all_known = (evaluation.measures(r, Options()) for r in (rows, judged(7)))
    assert measures["recall"] < all_known["recall"]
    assert measures["log_loss"] > all_known["log_loss"]
    assert measures["failing_rows"] == all_known["failing_rows"]


def test_lead_time_runs_from_the_first_alarm_within_the_horizon():
    rows = pl.DataFrame(
        {
            "machine_id": "m",
            "component": "a",
            "horizon_hours": pl.Series([48] * 5, dtype=pl.Int32),
            "time": [START + 12 * i * HOUR for i in range(5)],
            "probability": [0.9, 0.1, 0.9, 0.9, 0.1],
            "threshold": 0.5,
            "above_threshold": [True, False, True, True, False],
            "failed": [False, True, True, True, True],
            "next_failure_hours": [54.0, 42.0, 30.0, 18.0, 6.0],
            "under_work": False,
            "rung": "model",
        }
    )
    measures = evaluation.measures(rows, Options())
    assert (measures["failures"], measures["warned"], measures["lead_hours"]) == (1.0, 1.0, 30.0)
    assert measures["warned_early"] == 1.0
    assert evaluation.measures(rows, Options(lead_hours=30))["warned_early"] == 0.0
    assert measures["saved_to_never_low"] == measures["saved_to_never"] == measures["saved_to_never_high"]


def test_what_may_happen_in_a_day_may_happen_in_a_week():
    day = judged(8)
    week = day.with_columns(
        pl.lit(168, pl.Int32).alias("horizon_hours"), (1 - pl.col("probability")).alias("probability")
    )
    rows = evaluation.coherent(pl.concat([week, day]))
    both = rows.pivot(on="horizon_hours", index=["component", "time"], values="probability")
    assert (both["168"] >= both["24"]).all()
    assert sorted(both["24"]) == sorted(day["probability"])


def test_reasons_name_what_speaks_for_a_failure_in_words_and_numbers():
    words = Vocabulary(("heat",), ("pump",), ("E1",), ("A", "B"), 1.0)
    features = feature_list(words, Options())
    names = [f.name for f in features]
    rng = np.random.default_rng(0)
    X = rng.normal(50, 1, (3000, len(names))).astype(np.float32)
    hot = rng.random(3000) < 0.1
    X[hot, names.index("heat_mean_24h")] += 20
    X[:, names.index("heat_deviation_24h")] = np.where(hot, 6.5, 0.1)
    X[:, names.index("E1_count_24h")] = np.where(rng.random(3000) < 0.3, 2, 0)
    failed = hot & (X[:, names.index("E1_count_24h")] > 0)
    for estimator, unit in (("lightgbm", "odds x "), ("random_forest", "+0.")):
        options = Options(estimator=estimator, threads=1)
        classifier = Learner(X, np.ones(3000), options).fit(failed, trees=30).estimator
        texts = reasons(classifier, X, features)
        for i in np.flatnonzero(failed)[:10]:
            assert "heat averages 7" in texts[i] or "heat averages 6" in texts[i]
            assert "6.5 deviations above its normal" in texts[i]
            assert "E1: 2 in the last 24 h" in texts[i]
            assert unit in texts[i]
            assert len(texts[i].split("; ")) <= 3
        assert not any("6.5 deviations" in texts[i] for i in np.flatnonzero(~hot))
        assert reasons(classifier, X[:0], features) == []
        assert reasons(classifier, X[5:6], features) == texts[5:6]
