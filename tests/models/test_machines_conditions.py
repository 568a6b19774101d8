"""Operating conditions: they are found where there are several, and readings are compared within them."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.machines import training_rows
from models.machines.conditions import IN_CONDITION, Conditions, conditions_of
from models.machines.features import build, feature_list
from models.machines.options import Options
from models.machines.scenario import MACHINES
from models.machines.vocabulary import Vocabulary, vocabulary
from models.scenario import train

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 120
LEVELS = np.array([[0.0, 100.0], [300.0, 40.0], [500.0, 900.0]])
SCALES = np.array([[1.0, 2.0], [0.5, 3.0], [2.0, 1.0]])


def fleet(machines: int = 12, conditions: int = 3, seed: int = 1) -> dict[str, pl.LazyFrame]:
    """Two sensors that drift away in the ten days before each failure, in a condition that changes every few hours."""
    rng, parts, failures = np.random.default_rng(seed), [], []
    hours = np.arange(DAYS * 8) * 3
    for machine in range(machines):
        ends = np.cumsum(rng.integers(12 * 24, 48 * 24, DAYS // 12))
        drift = np.maximum(0, 240 - (ends[np.searchsorted(ends, hours)] - hours)) / 60
        own = rng.normal(size=(len(hours), 2)) + drift[:, None]
        switches = np.random.default_rng((seed, machine)).integers(0, conditions, len(hours))
        condition = np.repeat(switches, 2)[: len(hours)]
        values = LEVELS[condition] + SCALES[condition] * own
        times = [START + timedelta(hours=int(hour)) for hour in hours]
        parts.append(
            pl.DataFrame(
                {"machine_id": f"m{machine:02}", "time": times, "a": values[:, 0], "b": values[:, 1]}
            )
        )
        failed = [START + timedelta(hours=int(hour), minutes=5) for hour in ends if hour < DAYS * 24]
        failures += [(f"m{machine:02}", time, "pump") for time in failed]
    telemetry = pl.concat(parts).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")), shard=pl.lit(0))
    records = pl.DataFrame(failures, schema=["machine_id", "time", "component"], orient="row")
    records = records.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")), shard=pl.lit(0))
    return {"telemetry": telemetry.lazy(), "failures": records.lazy()}


END = START + timedelta(days=DAYS)
OPTIONS = {"threads": 1}


def test_several_conditions_are_found_and_one_is_none():
    found = conditions_of(fleet()["telemetry"], ["a", "b"])
    assert found is not None
    assert np.abs(np.array(found.means) - LEVELS).max() < 3
    assert conditions_of(fleet(conditions=1)["telemetry"], ["a", "b"]) is None


rng = np.random.default_rng(3)
COUNT = 4_000


@pytest.mark.parametrize(
    "values",
    [
        rng.normal(size=COUNT),
        rng.uniform(size=COUNT),
        rng.lognormal(0, 1.5, COUNT),
        np.arange(COUNT) % 500 / 10 + rng.normal(size=COUNT),
        np.where(np.arange(COUNT) % 100 == 0, 1_000, 0) + rng.normal(size=COUNT),
        np.where(np.arange(COUNT) < COUNT // 3, 1_000, 0) + rng.normal(size=COUNT),
        np.zeros(COUNT),
        np.full(COUNT, np.nan),
    ],
    ids=["normal", "uniform", "skewed", "wear", "seldom", "one machine's own", "constant", "missing"],
)
def test_what_is_no_condition_is_not_found(values):
    rows = pl.DataFrame(
        {"machine_id": np.repeat(["m1", "m2", "m3"], -(-COUNT // 3))[:COUNT], "time": range(COUNT)}
    )
    assert conditions_of(rows.with_columns(x=pl.Series(values)).lazy(), ["x"]) is None


def test_readings_are_those_of_an_average_condition_and_missing_ones_stay_missing():
    conditions = Conditions(("a", "b"), tuple(map(tuple, LEVELS)), tuple(map(tuple, SCALES)))
    own = np.array([[0.0, 0.0], [2.0, -1.0]])
    expected = LEVELS.mean(axis=0) + own * SCALES.mean(axis=0)
    for level, scale in zip(LEVELS, SCALES, strict=True):
        assert conditions.at_average(level + scale * own) == pytest.approx(expected)
    alone = conditions.at_average(np.array([[np.nan, 900.0], [np.nan, np.nan]]))
    assert alone[0, 1] == pytest.approx(expected[0, 1])
    assert np.isnan([alone[0, 0], *alone[1]]).all()


def test_features_do_not_change_with_the_condition():
    frames = []
    for seed in (1, 2):
        tables = fleet(seed=1)
        words = replace(vocabulary(tables, END), conditions=conditions_of(tables["telemetry"], ["a", "b"]))
        values = tables["telemetry"].collect()
        other = np.random.default_rng(seed).integers(0, 3, values.height)
        found = np.array(words.conditions.means), np.array(words.conditions.spreads)
        plain = words.conditions.at_average(values.select("a", "b").to_numpy())
        z = (plain - found[0].mean(axis=0)) / found[1].mean(axis=0)
        moved = found[0][other] + z * found[1][other]
        telemetry = values.with_columns(a=pl.Series(moved[:, 0]), b=pl.Series(moved[:, 1])).lazy()
        frames.append(build({"telemetry": telemetry}, words, ["m00", "m01"], END, 20, Options()))
    names = [f.name for f in feature_list(words, Options()) if f.subject.endswith(IN_CONDITION)]
    assert len(names) == 2 * 3 * 6
    difference = frames[0].select(names).to_numpy() - frames[1].select(names).to_numpy()
    assert np.nanmax(np.abs(difference)) < 1e-2
    assert frames[0]["a_mean_12h"].to_list() != frames[1]["a_mean_12h"].to_list()


def test_a_sensor_that_is_left_out_is_compared_in_no_condition_and_conditions_survive_a_bundle():
    conditions = Conditions(("a", "b"), ((1.0, 2.0), (3.0, 4.0)), ((0.5, 0.5), (0.1, 0.1)))
    words = Vocabulary(("b",), ("pump",), (), (), 1.0, conditions=conditions)
    assert words.signals == ("b", f"b{IN_CONDITION}")
    assert Vocabulary.of_dict(json.loads(json.dumps(asdict(words)))) == words
    earlier = {name: value for name, value in asdict(words).items() if name != "conditions"}
    assert Vocabulary.of_dict(earlier).signals == ("b",)


def test_no_backtest_knows_of_later_readings():
    tables = fleet()
    context = MACHINES.context(tables, END, OPTIONS)
    cut = START + timedelta(days=(1 - 2 * Options().held_out_share) * DAYS)
    later = pl.when(pl.col("time") > cut).then(pl.col("a") * 7).otherwise("a").alias("a")
    changed = tables["telemetry"].with_columns(later)
    texts = [
        training_rows.conditions_before(telemetry, context, OPTIONS).item()
        for telemetry in (tables["telemetry"], changed, tables["telemetry"].with_columns(pl.col("a") * 7))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_fleet_whose_condition_changes_is_predicted_as_well_as_one_whose_does_not():
    losses = {}
    for conditions in (1, 3):
        result = train(MACHINES, fleet(20, conditions), END, OPTIONS)
        losses[conditions] = result.loss
        assert any("operating conditions: 3" in note for note in result.notes) == (conditions == 3)
    assert losses[3] < 1.07 * losses[1]
