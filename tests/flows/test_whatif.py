"""`sales whatif` on the command line: both plans side by side, and an unchanged store."""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from tasks.storage.store import Store

pytestmark = pytest.mark.slow


def content(uri: str) -> dict[str, str]:
    files = [path for path in Path(uri).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_changed_plan_is_scored_beside_the_stored_one_and_the_store_stays_as_it_is(
    sales_store, command, tmp_path
):
    plan = pl.read_parquet(sales_store.sources["plan"])
    sku, week = plan["sku"][0], plan["week"].min()
    cheaper = plan.filter(sku=sku, week=week).select("sku", "store", "week", pl.col("price") * 0.7)
    stray = cheaper.head(1).with_columns(pl.lit(f"{sku}9").alias("sku"))
    pl.concat([cheaper, stray]).write_csv(tmp_path / "plan.csv")
    before = content(sales_store.uri)
    out = ("--page", str(tmp_path / "page.html"), "--to", str(tmp_path / "lines.csv"))
    output = command(
        "sales", "whatif", "--plan", str(tmp_path / "plan.csv"), *out, "--store", sales_store.uri, "--json"
    )
    assert output.status == 0, output.err
    assert content(sales_store.uri) == before
    assert output.json["plan_rows_changed"] == cheaper.height
    assert any(f"'{sku}9'" in note and f"'{sku}'" in note for note in output.json["notes"])
    lines = pl.read_csv(tmp_path / "lines.csv", try_parse_dates=True)
    assert lines.filter(sku=sku, week=week)["difference"].min() >= 0
    assert lines.filter(sku=sku, week=week)["difference"].max() > 0
    assert lines["difference"].sum() == pytest.approx(output.json["total"]["difference"], abs=0.1)
    whole = {band["plan"]: band for band in output.json["bands"] if band["weeks"] == 13}
    assert whole["stored"]["q5"] < whole["stored"]["expected"] < whole["stored"]["q95"]
    assert whole["changed"]["expected"] != whole["stored"]["expected"]
    assert "band of the total with the changed plan" in (tmp_path / "page.html").read_text()
    forecasts = Store(sales_store.uri).scan("sales/forecasts").collect()
    both = lines.join(forecasts, on=["sku", "store", "week"])
    assert both.height == lines.height
    assert both["stored"].to_list() == pytest.approx(both["q50"].to_list())
    assert "another plan" in (tmp_path / "page.html").read_text()


def test_a_plan_of_unknown_skus_only_is_refused(sales_store, command, tmp_path):
    plan = pl.read_parquet(sales_store.sources["plan"]).head(2)
    plan.with_columns(pl.lit("nothing like it").alias("sku")).head(1).write_csv(tmp_path / "plan.csv")
    output = command("sales", "whatif", "--plan", str(tmp_path / "plan.csv"), "--store", sales_store.uri)
    assert output.status == 1
    assert "'nothing like it'" in output.err
