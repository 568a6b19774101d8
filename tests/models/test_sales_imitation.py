"""New series that the backtest imitates: long ones that are cut."""

from datetime import timedelta

import polars as pl
import pytest

from models.sales import SALES, imitation
from models.sales.demand import NEW, NEW_WEEKS
from models.sales.forecast_rows import ENOUGH_WEEKS
from models.sales.options import Options
from models.sales.panel import KEY
from models.sales.simulation import simulate

HORIZON = 6
OPTIONS = {"horizon": HORIZON, "origins": 2, "training_rows": 2000, "statistical_skus": 2, "threads": 1}
OPTIONS |= {"trees": 10, "spread_trees": 4}


@pytest.fixture(scope="module")
def simulated():
    return simulate(6, 4, 84, seed=4, horizon=HORIZON)


def tables_of(simulated, history: pl.DataFrame) -> dict[str, pl.LazyFrame]:
    tables = {"history": history, "plan": simulated.plan}
    sharded = {name: table.with_columns(shard=pl.lit(0)).lazy() for name, table in tables.items()}
    return sharded | {"stores": simulated.stores.lazy()}


def parts_of(simulated, history: pl.DataFrame) -> dict[str, pl.DataFrame]:
    tables = tables_of(simulated, history)
    context = SALES.context(tables, simulated.as_of, OPTIONS)
    return imitation.prepare(tables, context, simulated.as_of, Options.of(OPTIONS))


def test_an_imitated_series_knows_only_its_last_weeks(simulated):
    week, origins = pl.col("week"), Options.of(OPTIONS).backtest_origins(simulated.as_of)
    parts = parts_of(simulated, simulated.history)
    assert set(parts["imitated"]["origin"]) == set(parts["imitated_statistical"]["origin"]) == set(origins)
    assert set(parts["imitated"]["kind"]) == {NEW}
    weeks = parts["imitated"]["f:weeks_known"]
    assert ENOUGH_WEEKS <= weeks.min() < weeks.max() < NEW_WEEKS
    is_left = week > min(origins) - timedelta(weeks=NEW_WEEKS - 1)
    earlier = pl.when(is_left).then("units").otherwise(pl.col("units") * 3 + 5)
    for name, part in parts_of(simulated, simulated.history.with_columns(earlier.alias("units"))).items():
        assert part.equals(parts[name])
    later = pl.when(week <= max(origins)).then("units").otherwise(pl.col("units") * 3 + 5)
    changed = parts_of(simulated, simulated.history.with_columns(later.alias("units")))
    for name, part in changed.items():
        assert part.drop("units").equals(parts[name].drop("units"))


def test_imitated_series_calibrate_new_ones_and_nothing_else(simulated):
    tables = tables_of(simulated, simulated.history)
    context = SALES.context(tables, simulated.as_of, OPTIONS)
    context |= SALES.training_context(tables, context, simulated.as_of, OPTIONS)
    parts = SALES.prepare_shard(tables, context, simulated.as_of, OPTIONS)
    real = {name: part for name, part in parts.items() if "imitated" not in name}
    with_imitated, without = (
        SALES.fit({name: part.lazy() for name, part in some.items()}, context, simulated.as_of, OPTIONS)
        for some in (parts, real)
    )
    of_new = (pl.col("kind") == NEW).fill_null(value=False)
    offsets, earlier = (training.files["offsets"] for training in (with_imitated, without))
    assert offsets.filter(~of_new).equals(earlier.filter(~of_new))
    rung = pl.col("rung") == "blend"
    clusters = [table.filter(rung, of_new)["clusters"].max() or 0 for table in (offsets, earlier)]
    assert clusters[0] > clusters[1]
    backtests = [training.backtest.filter(~of_new) for training in (with_imitated, without)]
    assert backtests[0].equals(backtests[1])
    assert not with_imitated.backtest.select(*KEY, "origin", "week").is_duplicated().any()
