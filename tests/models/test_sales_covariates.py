"""The table of covariates of stores: how its rows are read, and which of them sales and plan get."""

from datetime import date, timedelta

import polars as pl
import pytest

from models.contracts import ROW
from models.errors import ContractError
from models.sales.contracts import TABLES
from models.sales.covariates import EVERY_STORE, joined
from models.sales.gaps import other_scales
from models.sales.panel import known_covariates

MONDAY = date(2024, 1, 1)
AS_OF, NEXT = MONDAY + timedelta(weeks=1), MONDAY + timedelta(weeks=2)


def accepted(**columns: list) -> pl.DataFrame:
    raw = pl.DataFrame(columns).with_row_index(ROW)
    good = TABLES["covariates"].accept(raw, {}).good
    return good.select("store", "week", pl.exclude("store", "week")).sort("store", "week")


def tables_of(covariates: list[tuple], plan: pl.DataFrame | None = None) -> dict[str, pl.LazyFrame]:
    weeks = [(sku, store, week) for sku in "ab" for store in ("s", "t") for week in (MONDAY, AS_OF)]
    history = pl.DataFrame(weeks, ["sku", "store", "week"], orient="row").with_columns(units=1.0, shard=0)
    rows = pl.DataFrame(covariates, ["store", "week", "sun", "rain"], orient="row", strict=False)
    frames = {"history": history, "covariates": rows.cast({"sun": pl.Float64, "rain": pl.Float64})}
    return {name: frame.lazy() for name, frame in (frames | ({} if plan is None else {"plan": plan})).items()}


def test_a_row_without_a_store_is_of_all_stores():
    weeks = ["2024-01-01", "2024-01-08"]
    assert accepted(week=weeks, sun=[1, 2]).rows() == [("*", MONDAY, 1.0), ("*", AS_OF, 2.0)]
    assert accepted(week=weeks, Store=["7", ""], sun=[1, 2]).rows() == [("*", AS_OF, 2.0), ("7", MONDAY, 1.0)]


def test_weeks_that_start_on_another_day_than_those_of_the_sales_are_refused():
    rows = accepted(week=["2024-01-02"], sun=[1])
    with pytest.raises(ContractError, match=r"start on Tuesday, e\.g\. .*store \*"):
        TABLES["covariates"].check(rows, tables_of([]))


def test_the_own_value_counts_more_than_that_of_the_store_and_that_more_than_that_of_all():
    tables = tables_of(
        [(EVERY_STORE, MONDAY, 1.0, 5.0), (EVERY_STORE, AS_OF, 2.0, None), ("t", MONDAY, 3.0, None)]
    )
    own = pl.when(sku="b", store="s").then(9.0).alias("sun")
    history = joined({**tables, "history": tables["history"].with_columns(own)}, AS_OF)["history"].collect()
    first = history.filter(week=MONDAY).sort("sku", "store")
    assert first.select("sku", "store", "sun", "rain").rows() == [
        ("a", "s", 1.0, 5.0),
        ("a", "t", 3.0, 5.0),
        ("b", "s", 9.0, 5.0),
        ("b", "t", 3.0, 5.0),
    ]
    assert history.filter(week=AS_OF, sku="a")["rain"].to_list() == [None, None]
    assert history.columns == ["sku", "store", "week", "units", "shard", "sun", "rain"]


def test_words_of_all_stores_are_covariates_too():
    tables = tables_of([])
    rows = accepted(week=["2024-01-01", "2024-01-08"], campaign=["Fair", "none"])
    history = joined({**tables, "covariates": rows.lazy()}, AS_OF)["history"].collect()
    assert history.filter(week=MONDAY)["campaign"].unique().to_list() == ["Fair"]


def test_without_a_plan_weeks_that_are_known_ahead_are_one():
    plan = joined(tables_of([("s", NEXT, 4.0, None), ("s", MONDAY, 1.0, 1.0)]), AS_OF)["plan"].collect()
    assert plan.select("sku", "store", "week", "sun").rows() == [("a", "s", NEXT, 4.0), ("b", "s", NEXT, 4.0)]


def test_what_is_known_only_afterwards_is_no_part_of_the_plan():
    plan = pl.DataFrame({"sku": "a", "store": "s", "week": [NEXT], "shard": 0})
    tables = joined(tables_of([(EVERY_STORE, MONDAY, 1.0, 1.0), (EVERY_STORE, NEXT, 4.0, None)], plan), AS_OF)
    assert known_covariates(tables) == ["sun"]
    assert tables["plan"].collect().rows() == [("a", "s", NEXT, 0, 4.0)]
    assert "plan" not in joined(tables_of([(EVERY_STORE, MONDAY, 1.0, 1.0)]), AS_OF)


def test_planned_prices_of_another_scale_than_those_of_the_history_are_told_and_a_sale_is_not():
    weeks = [date(2024, 1, 1) + timedelta(weeks=n) for n in range(12)]
    rows = pl.DataFrame([("A", "s", week, 4.0 if n % 3 else 2.0, n % 2) for n, week in enumerate(weeks)],
        ["sku", "store", "week", "price", "deal"], orient="row")  # fmt: skip
    history = rows[:8].with_columns(units=1.0)

    def notes(factor: float) -> list[str]:
        plan = rows[8:].with_columns(pl.col("price") * factor, pl.col("deal") * 100)
        return other_scales({"history": history.lazy(), "plan": plan.lazy()}, weeks[7])

    (note,) = notes(100)
    assert "1 of 1 SKUs, e.g. A: 200 to 400 planned, 2 to 4 before" in note
    assert len(notes(0.05)) == 1
    assert notes(0.5) == notes(2) == []
    assert other_scales({"history": history.lazy()}, weeks[7]) == []


def test_words_of_a_stored_plan_are_unknown_where_the_history_has_numbers():
    plan = pl.DataFrame({"sku": "a", "store": "s", "week": NEXT, "price": ["cheap", "1.5"]})
    tables = {"history": tables_of([])["history"].with_columns(price=2.0), "plan": plan.lazy()}
    assert joined(tables, AS_OF)["plan"].collect()["price"].to_list() == [None, 1.5]
