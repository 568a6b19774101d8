"""The sales scenario on the command line, on a small simulated chain."""

from pathlib import Path

import polars as pl
import pytest

from tasks.storage.store import Store

pytestmark = pytest.mark.slow
QUANTILES = ["q5", "q25", "q50", "q75", "q95"]


def forecasts(uri: str) -> pl.DataFrame:
    return Store(uri).scan("sales/forecasts").collect().sort("sku", "store", "week")


def test_a_run_accounts_for_every_key_and_forecasts_every_row_of_the_plan(sales_store):
    result, rows = sales_store.result, forecasts(sales_store.uri)
    total = sum(result[name] for name in ("scored", "fallback", "skipped", "failed"))
    assert result["requested"] == total > 0
    assert result["failed"] == 0
    assert rows.height == result["rows"]
    plan = pl.read_parquet(sales_store.sources["plan"]).select("sku", "store", "week")
    assert plan.join(rows, on=plan.columns, how="anti").is_empty()
    assert Path(result["page"]).read_text().startswith("<!doctype html>")


def test_quantiles_are_finite_and_never_negative_and_never_cross(sales_store):
    values = forecasts(sales_store.uri).select(QUANTILES).to_numpy()
    assert (values >= 0).all()
    assert (values[:, 1:] >= values[:, :-1]).all()
