"""A SKU that takes the place of another one begins with its history."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW
from models.sales import SALES, successors
from models.sales.contracts import TABLES
from models.scenario import train

MONDAY = date(2023, 1, 2)
WEEKS, HORIZON, NEW_WEEKS = 80, 4, 2
AS_OF = MONDAY + timedelta(weeks=WEEKS - 1)
OPTIONS = {"horizon": HORIZON, "origins": 2, "trees": 20, "spread_trees": 8, "threads": 1}
Tables = dict[str, pl.LazyFrame]


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Five SKUs in three stores, selling more the larger their number; `new` replaces `4` in the last two weeks."""
    random = np.random.default_rng(3)
    rows = []
    for sku in range(5):
        for store in range(3):
            for week in range(WEEKS):
                name = "new" if sku == 4 and week >= WEEKS - NEW_WEEKS else str(sku)
                units = 20.0 * (sku + 1) * (store + 1) * np.exp(random.normal(0, 0.05))
                rows.append((name, f"s{store}", MONDAY + timedelta(weeks=week), units))
    history = pl.DataFrame(rows, ["sku", "store", "week", "units"], orient="row").with_columns(shard=0)
    return {"history": history.lazy(), "skus": pl.LazyFrame({"sku": ["new"], "predecessor": ["4"]})}


def forecasts(tables: Tables) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of `new`, and their explanation."""
    model = SALES.load(train(SALES, tables, AS_OF, OPTIONS).files)
    context = SALES.context(tables, AS_OF, OPTIONS)
    keys = pl.DataFrame({"sku": "new", "store": ["s0", "s1", "s2"]})
    rows = SALES.score(model, tables, context, keys, AS_OF, OPTIONS).rows
    return rows, SALES.explain(model, tables, context, rows, AS_OF, OPTIONS)


def test_a_successor_is_forecast_from_the_weeks_of_its_predecessor_and_says_so(tables):
    rows, explained = forecasts(tables)
    assert not set(rows["rung"]) & {"short_history", "sku_profile", "store_profile"}
    median = rows.group_by("store").agg(pl.col("q50").mean()).sort("store")["q50"]
    assert (median / pl.Series([100.0, 200.0, 300.0])).to_list() == pytest.approx([1.0, 1.0, 1.0], abs=0.1)
    last = AS_OF - timedelta(weeks=NEW_WEEKS)
    assert explained["reasons"].str.ends_with(f"begins with the history of 4 up to {last}").all()


def test_a_shard_gets_the_weeks_of_a_predecessor_in_another_one(tables):
    rows_of_others = successors.inherited(tables, AS_OF)
    of_new = {"history": tables["history"].filter(sku="new")}
    rows = successors.with_inherited(of_new, rows_of_others)["history"].collect()
    assert (rows["sku"].unique().to_list(), rows.height) == (["new"], 3 * WEEKS)
    assert (
        successors.with_inherited({"history": tables["history"].filter(sku="1")}, rows_of_others)["history"]
        .collect()
        .height
        == 3 * WEEKS
    )


def test_nothing_after_the_origin_is_inherited(tables):
    early = AS_OF - timedelta(weeks=10)
    assert successors.inherited(tables, early)["inherited"]["week"].max() == early


def test_predecessors_that_are_unknown_or_have_no_end_are_told(tables):
    (note,) = SALES.omissions(tables, AS_OF)
    assert note.startswith("SKU new begins with the history of its predecessor 4, which is also forecast.")
    stray = pl.LazyFrame({"sku": ["new"], "predecessor": ["five"]})
    (note,) = SALES.omissions({**tables, "skus": stray}, AS_OF)
    assert note == "SKU new has the predecessor five, which was not sold in the last 52 weeks."
    with_end = pl.LazyFrame({"sku": ["new", "4"], "predecessor": ["4", None], "end": [None, str(AS_OF)]})
    assert SALES.omissions({**tables, "skus": with_end}, AS_OF) == []


def test_a_predecessor_is_a_name_whatever_it_looks_like():
    raw = pl.DataFrame(
        {
            "sku": ["1", "2", "3"],
            "predecessor": ["007 ", "", "n/a"],
            "end": [" NA", "2024-03-31", "-"],
        }
    )
    skus = TABLES["skus"].accept(raw.with_row_index(ROW), {}).good
    assert skus["predecessor"].to_list() == ["007", None, None]
    assert skus["end"].to_list() == [None, "2024-03-31", None]
