"""Repeated records, many kinds of errors, and components that failed a few times or never."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.errors import ContractError
from models.machines.calibration import IDENTITY, calibrated_probabilities, calibrations_of_few, towards
from models.machines.chains import first_of_chains
from models.machines.contracts import TABLES, repeats, tables_at
from models.machines.estimators import Flags, Floats
from models.machines.few_failures import few_failures
from models.machines.findings import findings
from models.machines.leaks import without_leaks
from models.machines.options import Options
from models.machines.rates import without_model
from models.machines.risks import BASE_RATE, MODEL, Risk
from models.machines.scenario import MACHINES
from models.machines.simulation import simulate
from models.machines.training import missing_models
from models.machines.vocabulary import (
    OTHER,
    OTHER_COMPONENTS,
    Vocabulary,
    by_component,
    components_of,
    kind_of_error,
    vocabulary,
)
from models.scenario import train

START = datetime(2024, 3, 1, tzinfo=UTC)
WHEN = pl.Datetime("us", "UTC")


def events(*hours: float, machine: str = "m", component: str = "pump") -> pl.LazyFrame:
    rows = [(machine, START + timedelta(hours=h), component) for h in hours]
    schema = {"machine_id": pl.String, "time": WHEN, "component": pl.String}
    return pl.LazyFrame(rows, schema=schema, orient="row")


def hours_of(failures: pl.LazyFrame) -> list[float]:
    times = failures.sort("time").select((pl.col("time") - START).dt.total_hours())
    return times.collect()["time"].to_list()


def test_a_failure_that_is_logged_until_it_is_repaired_is_one():
    logged = events(*range(0, 60, 3))
    assert hours_of(first_of_chains(logged, events(61))) == [0]
    assert hours_of(first_of_chains(logged, None)) == [0]


def test_a_failure_after_the_repair_or_a_day_later_is_another():
    assert hours_of(first_of_chains(events(0, 3, 10), events(5))) == [0, 10]
    assert hours_of(first_of_chains(events(0, 3, 10), events(0))) == [0, 3]
    assert hours_of(first_of_chains(events(0, 24, 49), None)) == [0, 49]


def test_failures_of_other_machines_and_components_repeat_nothing():
    several = pl.concat([events(0), events(1, machine="n"), events(2, component="gear")])
    assert hours_of(first_of_chains(several, None)) == [0, 1, 2]


def test_records_that_repeat_are_counted_and_told():
    telemetry = pl.LazyFrame(
        {"machine_id": ["m"], "time": [START], "vib": [1.0]}, schema_overrides={"time": WHEN}
    )
    tables = {"telemetry": telemetry, "failures": events(0, 3, 6, 100)}
    as_of = START + timedelta(hours=200)
    assert repeats(tables, as_of) == 2
    assert hours_of(tables_at(tables, as_of)["failures"]) == [0, 100]
    again = findings(tables, as_of).filter(finding="failure logged again")
    assert again.select("machine_id", "count").rows() == [("m", 2)]


def errors_of(texts: list[str]) -> pl.LazyFrame:
    times = [START + timedelta(minutes=i) for i in range(len(texts))]
    return pl.LazyFrame(
        {"machine_id": ["m"] * len(texts), "time": times, "error": texts}, schema_overrides={"time": WHEN}
    )


def kinds(texts: list[str]) -> tuple[tuple[str, ...], list[str]]:
    telemetry = pl.LazyFrame(
        {"machine_id": ["m"], "time": [START], "vib": [1.0]}, schema_overrides={"time": WHEN}
    )
    tables = {"telemetry": telemetry, "errors": errors_of(texts)}
    names = vocabulary(tables, START + timedelta(days=30)).errors
    return names, errors_of(texts).select(kind_of_error(names)).collect().to_series().to_list()


def test_messages_that_differ_by_their_numbers_are_of_one_kind():
    texts = [f"Overload {i} at 0.{i:03} bar" for i in range(200)] + [f"odd {'x' * i}" for i in range(5)]
    names, kinds_of_texts = kinds(texts)
    assert names == ("Overload # at # bar", OTHER)
    assert kinds_of_texts == ["Overload # at # bar"] * 200 + [OTHER] * 5


def test_a_code_that_tells_of_failures_is_a_kind_however_many_others_there_are():
    """And a leak is no other error either once it is left out."""
    codes = [f"E{i}" for i in range(60) for _ in range(30)] + ["repair order"] * 12
    when = [START + timedelta(hours=17 * i % 4_000) for i in range(1_800)]
    orders = [START + timedelta(hours=300 * i) for i in range(12)]
    errors = pl.LazyFrame(
        {"machine_id": "m", "time": when + orders, "error": codes}, schema_overrides={"time": WHEN}
    )
    telemetry = pl.LazyFrame(
        {"machine_id": "m", "time": [START + timedelta(hours=h) for h in range(4_000)], "vib": 1.0},
        schema_overrides={"time": WHEN},
    )
    tables = {
        "telemetry": telemetry,
        "errors": errors,
        "failures": events(*(300 * i + 10 for i in range(12))),
    }
    end = START + timedelta(hours=4_000)
    options = {"horizons_hours": [24]}
    context = MACHINES.context(tables, end, options)
    words = Vocabulary.of_frame(context["vocabulary"])
    assert "repair order" in words.errors
    assert len(words.errors) == 41
    rows = MACHINES.prepare_shard(tables, context, end, options)["rows"].lazy()
    words, notes = without_leaks(rows, words, Options.of(options))
    assert "error repair order: it is above 0 only before failures, 12 of 12 of pump within 24 h" in notes[0]
    kinds_of_errors = errors.select(kind_of_error(words.errors, words.left_out)).collect().to_series()
    assert kinds_of_errors.tail(12).to_list() == ["repair order"] * 12
    assert "repair order" not in words.errors


def test_many_codes_are_told_apart_up_to_a_bound():
    texts = [f"E{i}" for i in range(60) for _ in range(3 + i)]
    names, kinds_of_texts = kinds(texts)
    assert len(names) == 41
    assert kinds_of_texts[-1] == "E59"
    assert kinds_of_texts[0] == OTHER


def test_a_few_kinds_of_error_stay_as_they_are():
    names, kinds_of_texts = kinds(["error 1", "error 2"])
    assert names == ("error 1", "error 2")
    assert kinds_of_texts == ["error 1", "error 2"]


def test_the_mean_of_few_failures_is_the_base_rate_and_the_order_stays():
    raw = np.random.default_rng(1).uniform(0.0001, 0.01, 5_000)
    weight = np.linspace(0.5, 1.5, 5_000)
    probabilities = calibrated_probabilities(raw, towards(IDENTITY, raw, weight, 0.02))
    assert np.average(probabilities, weights=weight) == pytest.approx(0.02, rel=1e-6)
    assert (np.argsort(probabilities) == np.argsort(raw)).all()


def calibrated_few(raw: Floats, failed: Flags) -> Floats:
    return calibrated_probabilities(
        raw, calibrations_of_few({"c": raw}, {"c": failed}, {"c": np.ones(len(raw))})["c"]
    )


def test_components_that_fail_seldom_share_a_slope_and_keep_their_own_means():
    rng = np.random.default_rng(5)
    odds = rng.normal(-5, 1, (4, 2_000))
    raw = {str(i): 1 / (1 + np.exp(-row)) for i, row in enumerate(odds)}
    failed = {c: rng.uniform(size=2_000) < p / (1 + int(c)) for c, p in raw.items()}
    calibrations = calibrations_of_few(raw, failed, dict.fromkeys(raw, np.ones(2_000)))
    assert len({how["slope"] for how in calibrations.values()}) == 1
    for c, how in calibrations.items():
        assert calibrated_probabilities(raw[c], how).mean() == pytest.approx(failed[c].mean(), rel=1e-6)


def test_what_tells_nothing_of_machines_that_were_not_seen_is_taken_for_the_base_rate():
    rng = np.random.default_rng(3)
    failed = np.arange(4_000) < 12
    useless, telling = rng.uniform(0.0001, 0.3, 4_000), np.where(failed, 0.3, 0.001)
    flat = calibrated_few(useless, failed)
    assert flat.max() < 4 * 0.003
    probabilities = calibrated_few(telling, failed)
    assert probabilities[0] > 100 * probabilities[-1]
    assert flat.mean() == pytest.approx(probabilities.mean()) == pytest.approx(0.003, rel=1e-6)


def test_three_early_failures_in_all_give_probabilities_as_often_as_it_failed():
    tables = simulate(8, days=366, seed=3, interval_hours=24, start=START, components=1)
    times = [START + timedelta(days=day) for day in (40, 90, 150)]
    tables["failures"] = pl.DataFrame(
        {"machine_id": tables["machines"]["machine_id"][:3], "time": times, "component": "comp1"}
    )
    frames = {name: frame.lazy() for name, frame in tables.items()}
    end, options = START + timedelta(days=366), {"threads": 1, "every_hours": 24}
    context = MACHINES.context(frames, end, options)
    rows = MACHINES.prepare_shard(frames, context, end, options)["rows"].lazy()
    training = MACHINES.fit({"rows": rows}, context, end, options)
    assert any("few failures (comp1 3)" in note for note in training.notes)
    model = MACHINES.load(training.files)
    late = rows.filter(pl.col("time") > START + timedelta(days=270)).collect()
    for (component, hours), probabilities in model.predict(model.matrix(late)).items():
        base = next(r.base_rate for r in model.risks if (r.component, r.horizon_hours) == (component, hours))
        assert 0.6 < probabilities.mean() / base < 1.5


@pytest.mark.parametrize(("machines", "failures"), [(4, 2), (1, 8)])
def test_two_failures_in_all_and_a_single_machine_are_learnt_from(machines, failures):
    tables = simulate(machines, days=200, seed=3, interval_hours=24, start=START, components=1)
    names = tables["machines"]["machine_id"]
    rows = [(names[i % machines], START + timedelta(days=20 * i + 9), "comp1") for i in range(failures)]
    tables["failures"] = pl.DataFrame(rows, schema=["machine_id", "time", "component"], orient="row")
    frames = {name: frame.lazy() for name, frame in tables.items()}
    end, options = START + timedelta(days=200), {"threads": 1, "every_hours": 24}
    rungs = {risk.rung for risk in MACHINES.load(train(MACHINES, frames, end, options).files).risks}
    assert rungs == {MODEL if failures == 8 else BASE_RATE}


def fleet_of(machines: int, days: int, hours: int, failures: int) -> tuple[dict[str, pl.LazyFrame], datetime]:
    """Telemetry of one sensor, failures at random times and one before the first reading, and the last time."""
    rng = np.random.default_rng(4)
    times = [START + timedelta(hours=step * hours) for step in range(1 + days * 24 // hours)]
    telemetry = pl.DataFrame({"time": times}).join(pl.DataFrame({"machine_id": range(machines)}), how="cross")
    telemetry = telemetry.with_columns(
        pl.col("machine_id").cast(pl.String), s=rng.normal(size=telemetry.height)
    )
    moments = [START + timedelta(hours=hour) for hour in (-1, *rng.uniform(0, days * 24, failures - 1))]
    owners = rng.integers(0, machines, failures).astype(str)
    records = pl.DataFrame({"machine_id": owners, "time": moments, "component": ["pump"] * failures})
    frames = {"telemetry": telemetry, "failures": records}
    whole = {name: frame.lazy().with_columns(shard=pl.lit(0)) for name, frame in frames.items()}
    return {
        name: one.with_columns(pl.col("time").dt.cast_time_unit("us")) for name, one in whole.items()
    }, times[-1]


@pytest.mark.parametrize(
    ("machines", "days", "hours", "failures"),
    [(3, 40, 24 * 7, 20), (8, 10, 24 * 30, 2), (1, 10, 24 * 7, 20), (25, 3, 24 * 30, 60)],
    ids=["weeks", "one time", "one machine", "many failures at one time"],
)
def test_a_fleet_with_next_to_nothing_is_learnt_from_and_scored(machines, days, hours, failures):
    frames, end = fleet_of(machines, days, hours, failures)
    options = {"threads": 1, "every_hours": min(hours, 24 * 7)}
    model = MACHINES.load(train(MACHINES, frames, end, options).files)
    keys = MACHINES.requested_keys(frames, end, options).collect()
    scores = MACHINES.score(model, frames, MACHINES.context(frames, end, options), keys, end, options)
    assert scores.keys.height == keys.height == machines
    assert scores.rows["probability"].drop_nulls().is_between(0, 1).all()


def test_telemetry_without_a_sensor_is_nothing_to_learn_from():
    frames, end = fleet_of(3, 120, 6, 4)
    with pytest.raises(ContractError, match="Nothing to learn from: 0 rows"):
        train(MACHINES, frames | {"telemetry": frames["telemetry"].drop("s")}, end, {"threads": 1})


def test_what_is_said_of_a_component_without_model_is_true_of_its_failures():
    never = without_model("fan", 168, 0, 0.0, Options(), at_work=24 * 3_000.0)
    assert never.reason == (
        "fan never failed in the training range of 3,000 machine days: at most 0.70% within 168 h, with 95 % confidence"
    )
    few = without_model("fan", 168, 2, 0.01, Options(), at_work=72_000.0)
    assert few.reason == "fan failed 2 times in the training range; a model needs 3"
    between = without_model("fan", 24, 31, 0.0, Options(), at_work=72_000.0)
    assert "needs" not in str(between.reason)
    assert between.base_rate == pytest.approx(31 * 24 / 72_000, rel=0.01)


def test_of_components_that_are_texts_a_few_are_named_and_the_way_out_is():
    risks = [Risk(f"pump of order {n}", 24, BASE_RATE, 0.1, "it failed once") for n in range(40)]
    first, *examples = missing_models([*risks, Risk("gear", 24, "model", 0.1, None)])
    assert first.startswith("40 of 41 components have no model")
    assert len(examples) == 10
    assert missing_models(risks[:2]) == [f"pump of order {n} at 24 h: it failed once" for n in range(2)]


def test_few_failures_are_told_with_what_they_leave_open():
    assert few_failures({"pump": 20, "fan": 0}) is None
    note = few_failures({"pump": 5, "gear": 400, "fan": 12})
    assert note is not None
    assert note.startswith("few failures (pump 5, fan 12): no precision can be claimed")
    assert "0.5 to 1.9 times" in note


PUMP = ["pump seal leak", "pump-seal leak.", "pump seal, leak", "pump seal"]


def test_texts_of_the_same_words_are_one_component_called_as_it_was_at_first():
    tables = {"failures": pl.concat(events(n, component=text) for n, text in enumerate(PUMP))}
    as_of = START + timedelta(days=30)
    assert components_of(tables, as_of) == ("pump seal", "pump seal leak")
    rows = by_component(tables, components_of(tables, as_of))["failures"].collect()
    assert rows["component"].to_list() == ["pump seal leak"] * 3 + ["pump seal"]
    assert (
        by_component(tables, ["pump-seal leak."])["failures"].collect()["component"][0] == "pump-seal leak."
    )
    assert components_of({}, as_of) == ()


def test_of_many_components_those_that_are_seldom_are_one():
    often = [events(n, n + 40, n + 90, component=f"part {n}") for n in range(45)]
    seldom = [events(n, component=f"broke in some way {n}") for n in range(60)]
    tables = {"failures": pl.concat(often + seldom)}
    names = components_of(tables, START + timedelta(days=30))
    assert len(names) == 46
    assert names[-1] == OTHER_COMPONENTS
    counts = by_component(tables, names)["failures"].collect()["component"].value_counts()
    assert dict(counts.iter_rows())[OTHER_COMPONENTS] == 60


def test_an_ingest_tells_which_texts_are_one_component():
    rows = pl.concat(events(n, component=text) for n, text in enumerate(PUMP)).collect()
    assert TABLES["failures"].notes(rows, {}, {}) == (
        "failures: 4 texts are read as 2 components: 'pump seal leak' = 'pump seal, leak' = 'pump-seal leak.'.",
    )
    assert TABLES["failures"].notes(rows.tail(1), {}, {}) == ()


@pytest.mark.parametrize(
    ("hour", "options", "is_noted"),
    [
        (0, {}, True),
        (0, {"telemetry_marks": "start"}, False),
        (6, {}, False),
        (22, {}, False),
        (22, {"timezone": "Europe/Zurich"}, True),
    ],
)
def test_an_ingest_asks_which_day_telemetry_is_of_where_failures_have_times(hour, options, is_noted):
    midnight = datetime(2024, 7, 1, hour, tzinfo=UTC)
    telemetry = pl.LazyFrame({"time": [midnight + timedelta(days=day) for day in range(5)]})
    failures = pl.DataFrame(
        {"time": [midnight + timedelta(hours=31 * n) for n in range(4)], "component": "pump"}
    )
    notes = TABLES["failures"].notes(failures, {"telemetry": telemetry}, options)
    assert [note.partition(",")[0] for note in notes] == ["telemetry: all times are 00:00"] * is_noted
    by_day = telemetry.collect().with_columns(component=pl.lit("pump"))
    assert TABLES["failures"].notes(by_day, {"telemetry": telemetry}, options) == ()


def test_failures_in_many_spellings_are_learnt_scored_and_judged_as_one_component():
    tables = simulate(8, days=200, seed=3, interval_hours=24, start=START, components=1)
    spelt = ["Seal-Leak", "seal leak", "seal leak!"]
    tables |= {
        name: tables[name].with_columns(component=pl.Series([spelt[i % 3] for i in range(tables[name].height)]))
        for name in ("failures", "maintenance")
    }  # fmt: skip
    frames = {name: frame.lazy().with_columns(shard=pl.lit(0)) for name, frame in tables.items()}
    end, options = START + timedelta(days=150), {"threads": 1, "every_hours": 24, "horizons_hours": [168]}
    context = MACHINES.context(frames, end, options)
    rows = MACHINES.prepare_shard(frames, context, end, options)["rows"].lazy()
    model = MACHINES.load(MACHINES.fit({"rows": rows}, context, end, options).files)
    (risk,) = model.risks
    assert risk.rung == "model"
    keys = MACHINES.requested_keys(frames, end, options).collect()
    assert keys["component"].unique().to_list() == [risk.component]
    last = START + timedelta(days=200)
    later = MACHINES.context(frames, last, options)
    verdicts = MACHINES.evaluate(model, frames, later, last, options | {"score_from": end})
    assert verdicts["component"].unique().to_list() == [risk.component]
    failed = tables["failures"].filter(pl.col("time") > end).height
    assert verdicts.filter("failed").height >= failed > 0
