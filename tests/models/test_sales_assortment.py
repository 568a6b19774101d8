"""Attributes of SKUs: how they are read, and what a new SKU takes over from similar ones."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import COLUMNS, FILE, ROW
from models.errors import ContractError
from models.sales import SALES, assortment, forecast_rows, views
from models.sales.contracts import TABLES
from models.sales.panel import KEY, panel_of

MONDAY = date(2021, 1, 4)
WEEKS = 110
AS_OF = MONDAY + timedelta(weeks=WEEKS - 1)
GROUPS = {"old": "ice", "older": "ice", "new": "ice", "soup": "hot", "stew": "hot", "odd": None}


def market(shift: float = 0.0) -> pl.DataFrame:
    """Ice sells in summer and soups in winter; `new` is sold in the last 20 weeks. `shift` is sold more in the last week."""
    rows = []
    for sku, group in GROUPS.items():
        for week in range(WEEKS - 20 if sku == "new" else 0, WEEKS):
            season = np.sin(2 * np.pi * week / 52) * {"ice": 0.5, "hot": -0.5}.get(group, 0.0)
            units = 10.0 * (1 + season) + shift * (week == WEEKS - 1)
            rows.append((sku, "s", MONDAY + timedelta(weeks=week), units))
    frame = pl.DataFrame(rows, ["sku", "store", "week", "units"], orient="row")
    return frame.with_columns(shard=pl.lit(0))


def built(history: pl.DataFrame, origin: int = WEEKS - 1) -> pl.DataFrame:
    """Features of the week 13 weeks after `origin`, a row per SKU."""
    skus = pl.DataFrame(
        {"sku": list(GROUPS), "group": list(GROUPS.values()), "fat": range(6), "label": list(GROUPS)}
    )
    tables = {"history": history.lazy(), "skus": skus.cast({"fat": pl.Float64}).lazy()}
    context = SALES.context(tables, AS_OF, {"horizon": 13})
    panel = panel_of(tables["history"], history.select(KEY).unique(), (), MONDAY, AS_OF, 0)
    rows = forecast_rows.build(views.view_of(panel, context, (), None), [origin], {origin: [13]})
    return pl.concat(
        [rows.frame.select("sku"), pl.DataFrame(rows.values, schema=list(rows.names))], how="horizontal"
    )


def test_numbers_and_text_are_kept():
    raw = pl.DataFrame({"sku": ["1", "2"], "group": ["ice ", ""], "fat": ["0.1", "NA"]}).with_row_index(ROW)
    good = TABLES["skus"].accept(raw, {})
    assert good.good.select("sku", "group", "fat").rows() == [("1", "ice", 0.1), ("2", None, None)]
    assert good.ignored == ()


def test_an_end_is_a_date_however_it_is_written_and_what_is_none_is_refused():
    raw = pl.DataFrame({"sku": ["1", "2", "3"], "end": ["2024-03-31", "", "31.3.2024"]}).with_row_index(ROW)
    assert TABLES["skus"].accept(raw, {}).good["end"].to_list() == ["2024-03-31", None, "2024-03-31"]
    with pytest.raises(ContractError, match="end is 'soon' for sku 2"):
        TABLES["skus"].accept(raw.with_columns(end=pl.Series(["2024-03-31", "soon", None])), {})


def test_weeks_that_begin_after_the_end_of_a_sku_are_forecast_as_zero():
    weeks = [MONDAY + timedelta(weeks=at) for at in range(3)]
    rows = pl.DataFrame({"sku": ["a"] * 3 + ["b"] * 3, "week": weeks * 2, "q50": 7.0, "rung": "pooled"})
    skus = pl.LazyFrame({"sku": ["a", "b"], "end": [str(weeks[1] + timedelta(days=3)), None]})
    forecasts = assortment.without_ended(rows, {"skus": skus}, ["q50"])
    assert forecasts["q50"].to_list() == [7.0, 7.0, 0.0, 7.0, 7.0, 7.0]
    assert forecasts["rung"].to_list() == ["pooled"] * 2 + ["ended"] + ["pooled"] * 3
    assert assortment.without_ended(rows, {}, ["q50"]).equals(rows)


def test_a_sku_that_is_not_sold_for_ten_weeks_is_named_unless_its_end_is_known_or_it_is_planned():
    late = AS_OF - timedelta(weeks=10)
    absent = pl.col("sku").is_in(["soup", "stew", "odd"]) & (pl.col("week") > late)
    tables = {"history": market().with_columns(units=pl.when(absent).then(0.0).otherwise("units")).lazy()}
    tables["skus"] = pl.LazyFrame({"sku": ["stew"], "end": [str(late)]})
    tables["plan"] = pl.LazyFrame({"sku": ["odd"], "store": ["s"], "week": [AS_OF + timedelta(weeks=1)]})
    (note,) = SALES.omissions(tables, AS_OF)
    assert "SKUs soup. If one has ended" in note
    assert SALES.omissions({"history": market().lazy()}, AS_OF) == []


def test_a_sku_of_two_groups_is_refused_unless_the_last_one_counts():
    rows = pl.DataFrame({"sku": ["1", "1"], "group": ["ice", "hot"]}).with_row_index(ROW)
    file = pl.DataFrame({ROW: pl.Series([0], dtype=pl.UInt32), FILE: "skus.csv", COLUMNS: [["sku", "group"]]})
    with pytest.raises(ContractError, match=r"several rows that differ.* sku 1: group"):
        TABLES["skus"].one_of_each(rows, file, {})
    assert TABLES["skus"].one_of_each(rows, file, {"duplicates": "last"})["group"].to_list() == ["hot"]


def test_a_new_sku_has_the_season_of_its_group():
    rows = {row["sku"]: row for row in built(market()).iter_rows(named=True)}
    assert rows["new"]["group_season_group"] == rows["old"]["group_season_group"]
    assert rows["new"]["group_season_group"] > 0.05 > -0.05 > rows["soup"]["group_season_group"]
    assert np.isnan(rows["new"]["season"])
    assert np.isnan(rows["odd"]["group_season_group"])
    assert [rows[sku]["of_sku_fat"] for sku in GROUPS] == [0, 1, 2, 3, 4, 5]


def test_a_text_that_each_sku_has_another_of_is_no_group():
    assert "group_season_label" not in built(market()).columns


def test_what_is_sold_after_the_origin_changes_nothing():
    before, after = (built(market(shift), WEEKS - 15) for shift in (0.0, 500.0))
    assert before.equals(after)


def test_a_store_without_sales_for_ten_weeks_is_told_unless_it_has_an_end_or_a_plan():
    closed = market().filter(pl.col("week") <= AS_OF - timedelta(weeks=12)).with_columns(store=pl.lit("shut"))
    tables = {"history": pl.concat([market(), closed]).lazy()}
    (note,) = assortment.unsold(tables, AS_OF)
    assert "stores shut. If one has closed, give its last day in a column `end`" in note
    stores = TABLES["stores"].accept(
        pl.DataFrame({"store": ["shut"], "end": ["31.10.2022"]}).with_row_index(ROW), {}
    )
    assert assortment.unsold({**tables, "stores": stores.good.lazy()}, AS_OF) == []
    plan = pl.LazyFrame({"sku": ["old"], "store": ["shut"], "week": [AS_OF + timedelta(weeks=1)]})
    assert assortment.unsold({**tables, "plan": plan}, AS_OF) == []


def test_a_store_without_rows_in_the_newest_week_is_named_unless_its_end_is_known():
    history = market().filter((pl.col("week") < AS_OF) | (pl.col("store") != "s"))
    history = pl.concat([history, market().with_columns(store=pl.lit("t"))])
    (note,) = SALES.omissions({"history": history.lazy()}, AS_OF)
    assert f"{AS_OF}: s (last week: {AS_OF - timedelta(weeks=1)}). If their files are late" in note
    stores = pl.LazyFrame({"store": ["s"], "end": [str(AS_OF)]})
    assert SALES.omissions({"history": history.lazy(), "stores": stores}, AS_OF) == []


def test_planned_skus_and_stores_that_the_history_lacks_are_told_unless_a_predecessor_is_known():
    week = AS_OF + timedelta(weeks=1)
    plan = pl.LazyFrame({"sku": ["soup", "broth"], "store": ["s", "7"], "week": [week] * 2})
    tables = {"history": market().lazy(), "plan": plan}
    skus, stores = SALES.omissions(tables, AS_OF)
    assert skus.startswith(
        "1 of the 2 planned SKUs are not in the history, such as 'broth': they are forecast as new"
    )
    assert stores.startswith("1 of the 2 planned stores are not in the history, such as '7'")
    heirs = pl.LazyFrame({"sku": ["broth"], "predecessor": ["stew"]})
    assert not any("planned SKUs" in note for note in SALES.omissions({**tables, "skus": heirs}, AS_OF))
    assert SALES.omissions({**tables, "plan": plan.filter(pl.col("week") <= AS_OF)}, AS_OF) == []
