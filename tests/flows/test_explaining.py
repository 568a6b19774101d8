"""`sales explain` on the command line, on a store with a published run."""

import polars as pl
import pytest

from models.sales.explanations import GROUPS
from tasks.storage.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(sales_store) -> pl.DataFrame:
    return Store(sales_store.uri).scan("sales/forecasts").collect().sort("sku", "store", "week")


def test_what_is_told_adds_up_to_the_published_medians_of_that_key(sales_store, command, published):
    sku, store = published.filter(rung="blend").select("sku", "store").row(0)
    output = command(
        "sales", "explain", "--sku", sku, "--store", store, "--store-uri", sales_store.uri, "--json"
    )
    assert output.status == 0, output.err
    rows = published.filter(sku=sku, store=store)
    lines = output.json["contributions"]
    assert [line["median"] for line in lines] == pytest.approx(rows["q50"].to_list())
    for line in lines:
        total = line["level"] + sum(line.get(group, 0.0) for group in GROUPS)
        assert total == pytest.approx(line["median"])
    assert {"price", "reasons"} <= set(output.json["plan"][0])
    assert not output.json["notes"]


def test_a_sku_or_store_that_is_not_there_is_told_with_near_names(sales_store, command, published):
    sku, store = published.select("sku", "store").row(0)
    where = ("--store-uri", sales_store.uri)
    other_sku = command("sales", "explain", "--sku", sku.upper() + "x", "--store", store, *where)
    other_store = command("sales", "explain", "--sku", sku, "--store", "s01", *where)
    assert other_sku.status == other_store.status == 1
    assert f"'{sku}'" in other_sku.err
    assert "other stores only" in other_store.err
    assert "'s001'" in other_store.err
