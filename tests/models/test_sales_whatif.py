"""A changed plan beside the stored one, on rows that are given here."""

from datetime import date

import polars as pl
import pytest

from models.errors import ContractError
from models.sales import whatif

AS_OF = date(2024, 6, 3)
FIRST, SECOND, LATER = date(2024, 6, 10), date(2024, 6, 17), date(2025, 6, 9)


def rows(*lines: tuple, columns: str = "price deal") -> pl.DataFrame:
    names = ["sku", "store", "week", *columns.split()]
    return pl.DataFrame(list(lines), schema=names, orient="row").with_columns(pl.lit(0).alias("shard"))


STORED = rows(("A", "1", FIRST, 2.0, 0.0), ("A", "1", SECOND, 2.0, 1.0), ("B", "1", FIRST, 3.0, 0.0))
TABLES = {
    "history": rows(
        ("A", "1", AS_OF, 9.0, 2.0, 0.0), ("B", "1", AS_OF, 9.0, 3.0, 0.0), columns="units price deal"
    ).lazy(),
    "plan": STORED.lazy(),
}


def test_rows_and_columns_that_the_plan_leaves_out_keep_what_is_stored():
    plan = whatif.merged(STORED, rows(("A", "1", SECOND, 1.5), columns="price"))
    rest = plan.filter((pl.col("sku") == "B") | (pl.col("week") == FIRST))
    assert rest.select(STORED.columns).equals(
        STORED.filter(~((pl.col("sku") == "A") & (pl.col("week") == SECOND)))
    )
    assert plan.filter(sku="A", week=SECOND).select("price", "deal").row(0) == (1.5, 1.0)
    assert whatif.changed(STORED, plan).select("week").to_series().to_list() == [SECOND]


def test_an_empty_cell_is_unknown_and_a_new_pair_has_what_the_file_says():
    plan = whatif.merged(STORED, rows(("A", "1", FIRST, None), ("A", "2", FIRST, 1.0), columns="price"))
    assert plan.filter(sku="A", store="1", week=FIRST)["price"].to_list() == [None]
    assert plan.filter(store="2").select("price", "deal").row(0) == (1.0, None)


def test_unknown_skus_and_stores_and_weeks_that_are_not_forecast_are_told_and_left_out():
    plan = rows(
        ("A", "1", FIRST, 1.0),
        ("a1", "1", FIRST, 1.0),
        ("A", "7", FIRST, 1.0),
        ("A", "1", LATER, 1.0),
        columns="price",
    )
    rows_to_use, notes = whatif.usable(plan, TABLES, AS_OF, 2)
    assert rows_to_use.select(whatif.ON).rows() == [("A", "1", FIRST)]
    text = " ".join(notes)
    for name in ("'a1'", "Near: 'A'", "'7'", "2025-06-09"):
        assert name in text
    with pytest.raises(ContractError, match="a1"):
        whatif.usable(plan.filter(sku="a1"), TABLES, AS_OF, 2)


def test_a_plan_in_cents_is_noted_if_prices_on_record_are_in_euros():
    _, notes = whatif.usable(rows(("A", "1", FIRST, 200.0), columns="price"), TABLES, AS_OF, 2)
    assert "price is on another scale in the plan than in the history for 1 of 1 SKUs, e.g. A" in notes[-1]
    assert not whatif.usable(rows(("A", "1", FIRST, 1.5), columns="price"), TABLES, AS_OF, 2)[1]


def test_keys_of_the_same_sku_or_store_are_affected_and_others_are_not():
    keys = pl.DataFrame({"sku": ["A", "A", "B", "B"], "store": ["1", "2", "1", "2"]})
    pairs = whatif.affected(keys, rows(("A", "1", FIRST, 1.0), columns="price"))
    assert pairs.rows() == [("A", "1"), ("A", "2"), ("B", "1")]


def test_a_median_that_moves_with_the_price_is_held_only_where_nothing_else_differs():
    before = rows(
        ("A", "1", FIRST, 10.0), ("B", "1", FIRST, 10.0), ("A", "1", SECOND, 10.0), columns="q50"
    ).drop("shard")
    now = before.with_columns(pl.col("q50") - 1)
    lines = whatif.differences(before, now, ["q50"], "q50")
    one = whatif.merged(STORED, rows(("A", "1", FIRST, 1.0), columns="price"))
    both = whatif.merged(STORED, rows(("A", "1", FIRST, 1.0), ("B", "1", FIRST, 1.0), columns="price"))
    deal_too = whatif.merged(STORED, rows(("A", "1", FIRST, 1.0, 1.0)))
    for plan, differences in ((one, [0.0, -1.0, -1.0]), (both, [-1.0] * 3), (deal_too, [-1.0] * 3)):
        changes, notes = whatif.in_order(lines, STORED, plan)
        assert changes["difference"].to_list() == differences
        assert len(notes) == (0.0 in differences)
