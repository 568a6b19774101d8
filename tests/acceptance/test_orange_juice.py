"""The real sales, as a planner would run them: one command, in a process with all that it starts."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from tasks.registry import ledger
from tasks.storage.store import Store
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORES = 4
"""Of the 83, chosen by number; the figures of all of them are in docs/sales.md."""
QUANTILES = {"q5": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
SOURCES = {"source": "sales", "plan": "plan", "stores": "stores"}
MAX_PINBALL = 0.147
"""Per ounce sold, mean over the quantiles, on four rolling origins."""
MAX_COVERAGE_ERROR = 0.03


@pytest.fixture(scope="module")
def tables(orange_juice):
    """Sales, plan and stores of some of the stores, by name."""
    frames = {name: pl.read_parquet(orange_juice / f"{name}.parquet") for name in SOURCES.values()}
    some = frames["stores"]["store"].unique().sort().gather_every(21).head(STORES).implode()
    return {name: table.filter(pl.col("store").is_in(some)) for name, table in frames.items()}


@pytest.fixture(scope="module")
def done(tables, prefect_database, tmp_path_factory):
    """What `sales run` printed, where it stored, and which of its processes were left."""
    folder = tmp_path_factory.mktemp("orange-juice")
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    store = folder / "store"
    words = [f"--{name}={folder / file}.parquet" for name, file in SOURCES.items()]
    words += ["--shards", "2", "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "sales", "run", *words, "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ALMANAC_SERVER_IDLE_SECONDS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes, addresses = {}, set()
    while True:
        try:
            out, err = process.communicate(timeout=3)
            break
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                processes[child.pid] = child
                addresses |= _listening(child)
    _, alive = psutil.wait_procs(list(processes.values()), timeout=60)
    assert process.returncode == 0, err[-4000:]
    return {
        "out": out,
        "err": err,
        "store": Store(str(store)),
        "left": alive,
        "seen": processes,
        "addresses": addresses,
    }


def _listening(process: psutil.Process) -> set[str]:
    try:
        return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    except psutil.NoSuchProcess:
        return set()


def test_one_json_object_is_printed_and_no_traceback(done):
    assert len(done["out"].strip().splitlines()) == 1
    result = json.loads(done["out"])
    keys = {
        "run_id", "as_of", "bundle", "requested", "scored", "fallback", "skipped", "failed", "table", "version", "page",
        "seconds",
    }  # fmt: skip
    assert set(result) >= keys
    assert "Traceback" not in done["err"]


def test_the_server_has_recorded_the_end_of_every_task_before_it_ended(done, prefect_home):
    states = """select task_run.state_type from task_run join flow_run on flow_run.id = task_run.flow_run_id
        where flow_run.parameters like ?"""
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
        rows = database.execute(states, [f"%{done['store'].uri}%"]).fetchall()
    assert len(rows) > 10
    assert set(rows) == {("COMPLETED",)}


def test_every_series_is_accounted_for_and_every_row_of_the_plan_is_forecast(done, tables):
    result, plan = (
        json.loads(done["out"]),
        tables["plan"].with_columns(pl.col("sku", "store").cast(pl.String)),
    )
    series = plan.select("sku", "store").n_unique()
    assert series == tables["sales"].select("sku", "store").n_unique()
    assert result["requested"] == series
    assert sum(result[name] for name in ("scored", "fallback", "skipped", "failed")) == series
    assert result["failed"] == 0
    rows = done["store"].scan("sales/forecasts").collect()
    rows = rows.with_columns(pl.col("week").cast(plan.schema["week"]))
    missing = plan.join(rows, on=["sku", "store", "week"], how="anti")
    assert missing.is_empty()
    assert rows.select("sku", "store", "week").is_unique().all()


def test_quantiles_are_finite_and_never_negative_and_never_cross(done):
    values = done["store"].scan("sales/forecasts").select(list(QUANTILES)).collect().to_numpy()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values[:, 1:] >= values[:, :-1]).all()


def test_the_page_shows_the_forecast_and_the_measures_of_the_backtest(done):
    page = Path(json.loads(done["out"])["page"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "Pinball" in page


def test_the_ledger_has_the_run(done):
    (row,) = ledger.rows(done["store"]).collect().to_dicts()
    assert row["requested"] == json.loads(done["out"])["requested"]
    assert row["run_id"] == json.loads(done["out"])["run_id"]


def test_on_four_origins_that_it_has_not_seen_the_forecasts_are_good_and_their_bands_hold(done):
    """Measured from the published table by the definitions, not by the code that measures them elsewhere."""
    rows = done["store"].scan("sales/backtests").filter(bundle=1).collect()
    assert rows["origin"].n_unique() == 4
    assert rows.filter(pl.col("week") <= pl.col("origin")).is_empty()
    assert rows.filter(pl.col("units").is_null()).is_empty()
    units = rows["units"].to_numpy()
    losses = []
    for name, q in QUANTILES.items():
        error = units - rows[name].to_numpy()
        losses.append(np.where(error >= 0, q * error, (q - 1) * error))
    assert np.mean(losses, axis=0).sum() / units.sum() < MAX_PINBALL
    for low, high, share in (("q25", "q75", 0.5), ("q5", "q95", 0.9)):
        covered = (units >= rows[low].to_numpy()) & (units <= rows[high].to_numpy())
        assert abs(covered.mean() - share) < MAX_COVERAGE_ERROR, (low, high)


def test_nothing_of_the_run_is_left_and_nothing_listened_beyond_this_machine(done):
    assert len(done["seen"]) >= 2, "a run has a server and workers"
    assert not done["left"]
    assert done["addresses"] == {"127.0.0.1"}
