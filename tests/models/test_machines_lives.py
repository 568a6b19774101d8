"""Remaining lives: the hazard, its calibration, and their agreement with the published probabilities."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.machines.hazards import _levels, _periods
from models.machines.lives import QUANTILES, agreeing, inverse
from models.machines.scenario import MACHINES
from models.machines.scoring import LIFE

START = datetime(2024, 3, 1, tzinfo=UTC)
END = START + timedelta(days=80)
OPTIONS: dict[str, Any] = {
    "every_hours": 24,
    "horizons_hours": [120, 240],
    "threads": 1,
    "training_rows": 6000,
    "keep_columns": ["wear"],
}


def fleet(machines: int, seed: int = 1) -> dict[str, pl.LazyFrame]:
    """Machines that wear until they fail, each on its own day between 30 and 80; one sensor shows it."""
    rng = np.random.default_rng(seed)
    parts, ends = [], []
    for i in range(machines):
        days = int(rng.integers(30, 80))
        remaining = np.arange(days - 1, -1, -1)
        worn = np.maximum(0, 30 - remaining) + rng.normal(0, 1.5, days)
        times = [START + timedelta(days=d + 1) for d in range(days)]
        parts.append(pl.DataFrame({"machine_id": f"m{i:02d}", "time": times, "wear": worn}))
        ends.append((f"m{i:02d}", times[-1], "rotor"))
    failures = pl.DataFrame(ends, schema=["machine_id", "time", "component"], orient="row")
    tables = {"telemetry": pl.concat(parts), "failures": failures}
    when = pl.col("time").cast(pl.Datetime("us", "UTC"))
    return {name: frame.with_columns(when, shard=pl.lit(0)).lazy() for name, frame in tables.items()}


def bundle(tables: dict[str, pl.LazyFrame]) -> Any:
    context = MACHINES.context(tables, END, OPTIONS)
    rows = MACHINES.prepare_shard(tables, context, END, OPTIONS)["rows"].lazy()
    return MACHINES.fit({"rows": rows}, context, END, OPTIONS)


def scored(files: Any, tables: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    options = {**OPTIONS, "score_from": START.isoformat()}
    context = MACHINES.context(tables, END, options)
    keys = tables["failures"].select("machine_id", "component").collect()
    return MACHINES.score(MACHINES.load(files), tables, context, keys, END, options).rows


@pytest.fixture(scope="module")
def trained() -> Any:
    return bundle(fleet(40))


def test_unseen_machines_fail_when_it_says_and_as_often_within_the_band(trained):
    tables = fleet(20, seed=2)
    ends = tables["failures"].select("machine_id", pl.col("time").alias("end")).collect()
    rows = scored(trained.files, tables).filter(horizon_hours=240).join(ends, on="machine_id")
    remaining = (pl.col("end") - pl.col("time")).dt.total_hours()
    near = rows.with_columns(remaining.alias("left")).filter(pl.col("left").is_between(24, 20 * 24))
    assert near["life_q50_hours"].null_count() == 0
    assert (near["life_q50_hours"] - near["left"]).abs().median() < 3 * 24
    inside = near["left"].is_between(near["life_q10_hours"], near["life_q90_hours"].fill_null(9e9))
    assert 0.65 < inside.mean() < 0.97


def test_quantiles_rise_and_lie_within_a_horizon_just_where_its_probability_reaches_them(trained):
    rows = scored(trained.files, fleet(20, seed=2)).drop_nulls("probability")
    in_service = rows.filter(pl.col("rung") != "out_of_service")
    values = in_service.select(pl.col(LIFE[:3]).fill_null(float("inf"))).to_numpy()
    assert in_service.height
    assert (np.diff(np.nan_to_num(values, posinf=1e9), axis=1) >= 0).all()
    for i, level in enumerate(QUANTILES):
        within = values[:, i] <= in_service["horizon_hours"].to_numpy()
        assert (within == (in_service["probability"].to_numpy() >= level)).all()


def test_what_is_not_known_is_null_and_says_why(trained):
    rows = scored(trained.files, fleet(20, seed=2))
    assert rows.filter(pl.col("life_q90_hours").is_null())["life_note"].null_count() == 0
    assert rows.filter(pl.col("life_q90_hours").is_not_null())["life_note"].null_count() == (
        rows["life_q90_hours"].count()
    )


def test_too_few_failures_give_no_remaining_life_and_a_note():
    training = bundle(fleet(9))
    assert all(
        "remaining life needs 20 failures" in life["reason"] for life in training.files["model"]["lives"]
    )
    rows = scored(training.files, fleet(9))
    assert rows["life_q50_hours"].null_count() == rows.height
    assert rows["life_note"].str.contains("needs 20 failures|out of service").all()


def test_a_bundle_without_lives_scores_without_them(trained):
    model = {name: value for name, value in trained.files["model"].items() if name != "lives"}
    rows, full = (scored({**trained.files, "model": m}, fleet(9)) for m in (model, trained.files["model"]))
    assert rows.drop(LIFE).equals(full.drop(LIFE))
    assert rows["life_q50_hours"].null_count() == rows.height
    assert rows["life_note"].str.contains("train again|out of service").all()


def test_a_row_counts_in_the_periods_that_are_known_and_fails_in_the_last_of_them():
    hours = np.array([5.0, 20.0, 50.0, 20.0, 9.0])
    failed = np.array([True, True, True, False, False])
    row, period, event = _periods(hours, failed, [10.0, 20.0, 40.0])
    periods = list(zip(row.tolist(), period.tolist(), event.tolist(), strict=True))
    assert periods == [
        *[(0, 0, True), (1, 0, False), (1, 1, True)],
        *[(2, 0, False), (2, 1, False), (2, 2, False), (3, 0, False), (3, 1, False)],
    ]


def test_levels_are_the_quantiles_of_what_was_reached():
    reached = np.random.default_rng(0).uniform(0, 1, 4_000) ** 2
    quantiles = _levels(reached, np.zeros(4_000), np.ones(4_000))
    assert quantiles == pytest.approx(np.quantile(reached, QUANTILES), abs=0.01)


def test_a_quantile_gives_way_to_a_probability():
    quantiles = inverse(np.array([[0.05, 0.6, 0.95]]), [24.0, 48.0, 96.0], QUANTILES)
    assert agreeing(quantiles, {24: np.array([0.7]), 72: np.array([0.95])})[0].tolist() == [24.0, 24.0, 72.0]
    assert agreeing(quantiles, {72: np.array([0.05])})[0].tolist() == [73.0, 73.0, pytest.approx(624 / 7)]
    assert agreeing(quantiles, {72: np.array([np.nan])}).tolist() == quantiles.tolist()
