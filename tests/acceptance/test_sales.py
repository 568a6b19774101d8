"""The sales scenario on the command line, on a small simulated chain."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from tasks.store import Store

pytestmark = pytest.mark.slow
QUANTILES = ["q5", "q25", "q50", "q75", "q95"]


def forecasts(uri: str) -> pl.DataFrame:
    return Store(uri).scan("sales/forecasts").collect().sort("sku", "store", "week")


def test_a_run_accounts_for_every_key_and_forecasts_every_row_of_the_plan(sales_store):
    result, rows = sales_store.result, forecasts(sales_store.uri)
    counted = sum(result[name] for name in ("scored", "fallback", "skipped", "failed"))
    assert result["requested"] == counted > 0
    assert result["failed"] == 0
    assert rows.height == result["rows"]
    planned = pl.read_parquet(sales_store.sources["plan"]).select("sku", "store", "week")
    assert planned.join(rows, on=planned.columns, how="anti").is_empty()
    assert Path(result["page"]).read_text().startswith("<!doctype html>")


def test_quantiles_are_finite_and_never_negative_and_never_cross(sales_store):
    values = forecasts(sales_store.uri).select(QUANTILES).to_numpy()
    assert (values >= 0).all()
    assert (values[:, 1:] >= values[:, :-1]).all()


def test_the_same_run_again_changes_nothing(sales_store, command):
    before, version = forecasts(sales_store.uri), Store(sales_store.uri).version("sales/forecasts")
    again = command("sales", "forecast", "--store", sales_store.uri, "--json")
    assert again.status == 0, again.err
    assert forecasts(sales_store.uri).equals(before)
    assert Store(sales_store.uri).version("sales/forecasts") == version


def test_the_same_inputs_in_another_store_give_the_same_rows(sales_store, command, tmp_path):
    sources = sales_store.sources
    files = ("--source", sources["history"], "--plan", sources["plan"], "--stores", sources["stores"])
    done = command("sales", "run", *files, "--store", str(tmp_path), "--json")
    assert done.status == 0, done.err
    assert forecasts(str(tmp_path)).drop("run_id").equals(forecasts(sales_store.uri).drop("run_id"))


def test_an_as_of_after_the_data_and_one_before_it_are_told_apart(sales_store, command):
    last = sales_store.made.as_of
    late = command("sales", "forecast", "--as-of", str(last + timedelta(weeks=2)), "--store", sales_store.uri)
    early = command("sales", "forecast", "--as-of", "1990-01-01", "--store", sales_store.uri)
    assert (late.status, early.status) == (1, 1)
    assert "after the last complete week" in late.err
    assert "before the data" in early.err


def test_an_unknown_bundle_is_named_with_those_there_are(sales_store, command):
    done = command("sales", "forecast", "--bundle", "99", "--store", sales_store.uri)
    assert done.status == 1
    assert "there is no bundle 99 of sales. There are: 1." in " ".join(done.err.split())
