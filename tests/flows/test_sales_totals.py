"""Totals of a run on the command line: published with the forecasts, shown on the page, missing only with a reason."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from models.sales import totals
from tasks.storage.store import Store

pytestmark = pytest.mark.slow


def test_a_run_publishes_totals_and_its_page_has_their_band(sales_store):
    rows = Store(sales_store.uri).scan("sales/totals").collect()
    keys = Store(sales_store.uri).scan("sales/forecasts").select("sku", "store").unique().collect()
    whole = rows.filter(level="total", weeks=13)
    assert whole["keys"].to_list() == [keys.height]
    assert rows.filter(level="store", weeks=13)["expected"].sum() == pytest.approx(whole["expected"].item())
    assert rows.select((pl.col("q5") <= pl.col("q50")) & (pl.col("q50") <= pl.col("q95"))).to_series().all()
    page = Path(sales_store.result["page"]).read_text()
    assert "of the total" in page
    assert totals.NOTE not in sales_store.result["notes"]


def test_levels_and_weeks_of_totals_are_what_is_asked_for(sales_store, command, tmp_path):
    uri = shutil.copytree(sales_store.uri, tmp_path / "store")
    options = ("--totals", "sku*store", "--total-weeks", "4")
    output = command("sales", "forecast", *options, "--store", str(uri), "--json")
    assert output.status == 0, output.err
    totals = Store(str(uri)).scan("sales/totals").collect()
    assert totals["level"].unique().to_list() == ["sku*store"]
    assert totals["weeks"].unique().sort().to_list() == [1, 4, 13]
    refusal = command("sales", "forecast", "--totals", "region", "--store", str(uri))
    assert refusal.status == 1
    assert "'region' is neither sku nor store" in refusal.err
