"""The checks of `models.checks`: our scenarios pass them, and broken ones are refused with the name of the fault."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from models import checks
from models.checks import ScenarioError, check_scenario
from tests.toy import HOURLY, TOY, Plain, hourly_values, values

AS_OF = date(2024, 1, 3)


def rows_changed(scores, **columns):
    return replace(scores, rows=scores.rows.with_columns(**columns))


class LooksAhead(Plain):
    def score(self, model, tables, context, keys, as_of, options):
        return super().score(model, tables, context, keys, as_of + timedelta(days=1), options)


class TrainsAhead(Plain):
    def prepare_shard(self, tables, context, as_of, options):
        return super().prepare_shard(tables, context, as_of + timedelta(days=1), options)


class CountsKeys(Plain):
    def score(self, model, tables, context, keys, as_of, options):
        return rows_changed(
            super().score(model, tables, context, keys, as_of, options), value=pl.lit(float(keys.height))
        )


class CountsShard(Plain):
    def score(self, model, tables, context, keys, as_of, options):
        names = tables["values"].filter(pl.col("at") <= as_of).collect()["name"].n_unique()
        return rows_changed(
            super().score(model, tables, context, keys, as_of, options), value=pl.lit(float(names))
        )


class LosesKey(Plain):
    def score(self, model, tables, context, keys, as_of, options):
        return super().score(model, tables, context, keys.filter(pl.col("name") != "n07"), as_of, options)


class LosesRow(Plain):
    def score(self, *arguments):
        scores = super().score(*arguments)
        return replace(scores, rows=scores.rows.filter(pl.col("name") != "n07"))


class LosesColumn(Plain):
    def score(self, *arguments):
        scores = super().score(*arguments)
        return replace(scores, rows=scores.rows.drop("rung"))


class NumbersAsNames(Plain):
    """A scenario whose bundle does not survive JSON, which converts the names to text."""

    def fit(self, *arguments):
        return replace(super().fit(*arguments), files={"factor": {1: 2.0}})

    def load(self, files):
        return files["factor"][1]


class LosesType(Plain):
    """A scenario that loads without an error, and then scores differently."""

    def fit(self, *arguments):
        return replace(super().fit(*arguments), files={"factor": {1: 2.0}})

    def load(self, files):
        return files["factor"].get(1, 3.0)


class DrawsLots(Plain):
    draws = itertools.count()

    def score(self, *arguments):
        return rows_changed(super().score(*arguments), value=pl.lit(float(next(self.draws))))


class TrainsByLot(Plain):
    draws = itertools.count()

    def fit(self, *arguments):
        return replace(super().fit(*arguments), files={"factor": {"factor": float(next(self.draws))}})


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (LooksAhead, checks.LOOKS_AHEAD),
        (TrainsAhead, checks.LOOKS_AHEAD),
        (CountsKeys, checks.OTHER_KEYS),
        (CountsShard, checks.SHARDING),
        (LosesKey, checks.LOST_KEY),
        (LosesRow, checks.LOST_KEY),
        (LosesColumn, checks.COLUMNS),
        (NumbersAsNames, checks.ROUND_TRIP),
        (LosesType, checks.ROUND_TRIP),
        (DrawsLots, checks.RANDOM),
        (TrainsByLot, checks.RANDOM),
    ],
)
def test_a_broken_scenario_is_refused_with_the_name_of_its_fault(broken, fault):
    with pytest.raises(ScenarioError) as caught:
        check_scenario(broken(), {"values": values(days=6)}, AS_OF)
    assert caught.value.fault == fault
    assert str(caught.value).startswith(f"toy: {fault}. ")


@pytest.mark.parametrize(("scenario", "frame"), [(TOY, values(days=6)), (HOURLY, hourly_values(hours=8))])
def test_the_toy_passes_at_the_time_that_the_checks_choose(scenario, frame):
    check_scenario(scenario, {"values": frame})


@pytest.mark.slow
def test_sales_passes():
    from models.sales.scenario import SALES
    from models.sales.simulation import simulate

    market = simulate(4, 3, 90, seed=3)
    frames = {name: getattr(market, name) for name in ("history", "plan", "stores")}
    options = {"horizon": 6, "origins": 2, "training_rows": 2000, "statistical_skus": 2, "threads": 1}
    options |= {"trees": 20, "spread_trees": 8}
    check_scenario(SALES, frames, market.as_of - timedelta(weeks=3), options, times={"history": "week"})


@pytest.mark.slow
def test_devices_pass():
    from models.devices.scenario import DEVICES
    from models.devices.simulation import readings_of, simulate

    start = datetime(2026, 3, 2, tzinfo=UTC)
    frames = {"readings": readings_of(simulate(3, start, 20 * 60, seed=3).grid)}
    check_scenario(DEVICES, frames, start + timedelta(hours=18), {"threads": 1})


@pytest.mark.slow
def test_machines_pass():
    from models.machines.scenario import MACHINES
    from models.machines.simulation import simulate

    start = datetime(2024, 3, 1, tzinfo=UTC)
    frames = simulate(8, days=90, seed=3, interval_hours=6, start=start, components=2)
    options = {"horizons_hours": [24, 72], "threads": 1, "normal_days": 7, "training_rows": 2000}
    check_scenario(MACHINES, frames, start + timedelta(days=80), options)
