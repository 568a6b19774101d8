"""The searches of the three scenarios on small simulated data: what a fold's loss depends on, and the effect of groups."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.machines.scenario import MACHINES
from models.sales import SALES
from models.sales.groups import GROUPS, used
from models.sales.options import Options
from models.scenario import train

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def studied(scenario, tables, as_of, options):
    """The folds of a study and the losses of `options`."""
    options = {"threads": 1, **options}
    context = scenario.context(tables, as_of, options)
    prepared = scenario.search.prepare(tables, context, as_of, options)
    parts = {name: frame.lazy() for name, frame in prepared.items()}
    return scenario.search.folds(parts, as_of, options), [
        *scenario.search.losses(parts, context, as_of, options)
    ]


@pytest.fixture(scope="module")
def sales():
    from models.sales.simulation import simulate

    market = simulate(skus=3, stores=2, weeks=90, seed=3)
    tables = {name: getattr(market, name).lazy() for name in ("history", "plan", "stores")}
    return tables, SALES.resolve_as_of(tables, None, NOW)


@pytest.fixture(scope="module")
def machines():
    from models.machines.simulation import simulate

    frames = simulate(machines=8, days=80, seed=3, interval_hours=6)
    tables = {name: frame.lazy() for name, frame in frames.items()}
    return tables, MACHINES.resolve_as_of(tables, None, NOW)


@pytest.fixture(scope="module")
def devices():
    from models.devices.simulation import readings_of, simulate

    plant = simulate(3, datetime(2026, 3, 2, tzinfo=UTC), 20 * 60, seed=3)
    return {"readings": readings_of(plant.grid).lazy()}, datetime(2026, 3, 2, 20, tzinfo=UTC)


# nothing after a fold is known in it


@pytest.mark.slow
def test_a_sales_fold_knows_no_sales_of_the_fold_that_judges(sales):
    tables, as_of = sales
    options = {"horizon": 8, "trees": 20}
    folds, losses = studied(SALES, tables, as_of, options)
    assert folds[-1] == (as_of - timedelta(weeks=8)).isoformat()
    assert folds == sorted(folds)
    assert len(losses) == len(folds) == 5
    late = pl.col("week") > as_of - timedelta(weeks=8)
    altered = tables["history"].with_columns(pl.when(late).then(pl.col("units") * 3 + 1).otherwise("units"))
    _, others = studied(SALES, tables | {"history": altered}, as_of, options)
    assert others[:-1] == pytest.approx(losses[:-1], rel=1e-9)
    assert others[-1] != pytest.approx(losses[-1], rel=1e-3)


def test_a_machines_fold_knows_no_failure_after_the_last_cut(machines):
    tables, as_of = machines
    options = {"horizons_hours": [24], "estimator": "decision_tree"}
    folds, losses = studied(MACHINES, tables, as_of, options)
    assert len(losses) == len(folds) == 3
    end = datetime.fromisoformat(folds[-1]).replace(tzinfo=UTC) + timedelta(days=3)
    failures = tables["failures"].filter(pl.col("time") < end)
    _, others = studied(MACHINES, tables | {"failures": failures}, as_of, options)
    assert others[:-1] == pytest.approx(losses[:-1])
    assert others[-1] != pytest.approx(losses[-1])


def test_a_devices_fold_knows_no_reading_after_its_hours(devices):
    tables, as_of = devices
    folds, losses = studied(DEVICES, tables, as_of, {})
    assert folds == [f"2026-03-02 {hour}:00" for hour in (14, 16, 18, 20)]
    late = pl.col("time") >= as_of - timedelta(hours=2)
    altered = tables["readings"].with_columns(
        pl.when(late).then(pl.col("mean") * 2).otherwise("mean").alias("mean")
    )
    _, others = studied(DEVICES, {"readings": altered}, as_of, {})
    assert others[:-1] == losses[:-1]
    assert others[-1] != losses[-1]


def test_too_short_a_history_has_no_folds(sales, machines, devices):
    for scenario, (tables, as_of), table, time in (
        (SALES, sales, "history", "week"),
        (MACHINES, machines, "telemetry", "time"),
        (DEVICES, devices, "readings", "time"),
    ):
        short = as_of - timedelta(weeks=20) if scenario is SALES else as_of - timedelta(hours=8)
        few = tables | {table: tables[table].filter(pl.col(time) > short)}
        context = scenario.context(few, as_of, {})
        parts = {n: f.lazy() for n, f in scenario.search.prepare(few, context, as_of, {}).items()}
        assert len(scenario.search.folds(parts, as_of, {})) < 2, scenario.name


# what the choices do


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["statistical", "blend"])
def test_one_estimator_for_all_gives_its_rung_to_every_sales_row_that_it_can_forecast(sales, estimator):
    tables, as_of = sales
    options = {"horizon": 8, "trees": 20, "threads": 1, "estimator": estimator, "origins": 2}
    training = train(SALES, tables, as_of, options)
    rungs = set(training.backtest.filter(pl.col("kind") != "new")["rung"])
    assert estimator in rungs
    assert not rungs & ({"pooled", "blend", "statistical"} - {estimator})


def test_every_group_of_sales_features_can_be_left_out_by_itself():
    names = [
        "level",
        "regular_4",
        "week_of_year",
        "season",
        "sku_season",
        "effect_deal",
        "others_deal",
        "educ",
        "deal",
    ]
    covariates = ["deal", "price"]
    assert used(names, covariates, Options()) == names
    remaining = {
        group: set(names) - set(used(names, covariates, Options(**{f"use_{group}": False})))
        for group in GROUPS
    }
    assert remaining == {
        "neighbours": {"others_deal"},
        "promotions": {"effect_deal"},
        "last_year": {"season", "sku_season"},
        "calendar": {"week_of_year"},
        "stores": {"educ"},
    }


def test_a_machines_bundle_uses_the_groups_that_it_learnt_from(machines):
    tables, as_of = machines
    options = {
        "horizons_hours": [24],
        "estimator": "decision_tree",
        "threads": 1,
        **dict.fromkeys(
            ("use_short_windows", "use_spread", "use_normal", "use_errors", "use_attributes"), False
        ),
    }
    context = MACHINES.context(tables, as_of, options)
    parts = {n: f.lazy() for n, f in MACHINES.prepare_shard(tables, context, as_of, options).items()}
    training = MACHINES.fit(parts, context, as_of, options)
    features = MACHINES.load(training.files).features
    assert [feature.name for feature in features] == training.features
    assert {feature.kind for feature in features} == {"sensor", "component", "machine"}
    sensors = [feature for feature in features if feature.kind == "sensor"]
    assert {(feature.statistic, feature.hours) for feature in sensors} == {("mean", 36)}


def test_the_numbers_of_a_detector_reach_it(devices):
    tables, as_of = devices
    losses = [
        studied(DEVICES, tables, as_of, {"detector": "one_class_svm", "nu": nu})[1] for nu in (0.001, 0.04)
    ]
    assert losses[0] != losses[1]
