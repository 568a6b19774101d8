"""Bundles as models of MLflow, on a real tracking server and on a file beside the store."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import polars as pl
import pytest
from prefect.logging import disable_run_logger

from flows.server import free_port
from models.interchange import Interchange
from models.sales import SALES
from models.scenario import HasEstimators
from tasks.registry import bundles
from tasks.registry.bundles import BundleError
from tasks.registry.plots import plots
from tasks.registry.promotion import promote
from tasks.registry.registered_models import _load_pyfunc, move_alias
from tasks.registry.tracking import client_of, tracking_uri
from tasks.scoring.runs import resolve_training
from tasks.storage.store import Store
from tasks.training.fit import track
from tests import steps
from tests.conftest import ROOT, wait_until
from tests.toy import TOY, Toy

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Doubling(Toy, HasEstimators):
    """The toy, with an estimator that works without a store."""

    def estimate(self, model: Any, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(doubled=pl.col("value") * model)

    def interchange(self, model: Any) -> Interchange:
        raise NotImplementedError


@pytest.fixture(scope="module")
def server(mlflow_database, tmp_path_factory) -> Iterator[str]:
    """The address of a real `mlflow server` that keeps artifacts itself."""
    folder, port = tmp_path_factory.mktemp("mlflow-server"), free_port()
    shutil.copy(mlflow_database, folder)
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    where = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/files",
    ]
    log = (folder / "log").open("wb")
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        [sys.executable, *words, *where], cwd=folder, env=quiet, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(healthy, 300, f"an MLflow server answers at {url}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def train(store: Store, loss: float, scenario: Toy = TOY) -> str | None:
    """Train a bundle, compare it with the champion, and log it; returns the MLflow run."""
    with disable_run_logger():
        challenger, verdict = steps.train(store, scenario=scenario, loss=loss)
        run = resolve_training.fn(scenario, store, None, {"loss": loss})
        return track.fn(run, challenger, verdict)


LOADED_ELSEWHERE = """
import json, os, sys
import mlflow.pyfunc, pandas as pd
server = os.environ["MLFLOW_TRACKING_URI"]
import tests.tasks.test_registered_models
mlflow.set_tracking_uri(server)
model = mlflow.pyfunc.load_model("models:/almanac-toy@champion")
print(json.dumps(model.predict(pd.DataFrame({"name": ["a", "b"], "value": [1.5, 4.0]}))["doubled"].to_list()))
"""


def test_on_a_server_a_bundle_is_trained_promoted_and_loaded_in_another_process(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    store = Store(str(tmp_path / "store"))
    with disable_run_logger():
        steps.put(store)
    records = [train(store, loss, Doubling()) for loss in (2.0, 3.0)]
    client = client_of(server)
    run = client.get_run(records[0])
    assert run.data.params["values_version"] == "0"
    assert run.data.tags["code_version"] == bundles.manifest(store, "toy", 1)["code"]
    assert {item.path for item in client.list_artifacts(records[0])} >= {"metrics.csv", "model"}
    version = client.get_model_version_by_alias("almanac-toy", "champion")
    assert (version.tags["bundle"], version.run_id) == ("1", records[0])
    with disable_run_logger():
        promote.fn(TOY, store, 2, "try it")
    assert move_alias(store, "toy", 2) is None
    version = client.get_model_version_by_alias("almanac-toy", "champion")
    assert version.tags["bundle_uri"] == f"{store.uri}/toy/bundles/2"
    process = subprocess.run(
        [sys.executable, "-c", LOADED_ELSEWHERE], capture_output=True, text=True, timeout=400, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [3.0, 8.0]
    assert not [item for item in Path(tmp_path).rglob("*") if item.suffix in (".pkl", ".pickle")]


@pytest.fixture(scope="module")
def local(mlflow_database, tmp_path_factory) -> Store:
    """A store with a file of records beside it, and three bundles."""
    store = Store(str(tmp_path_factory.mktemp("registered") / "store"))
    Path(store.uri).mkdir()
    shutil.copy(mlflow_database, store.uri)
    with disable_run_logger():
        steps.put(store)
    for loss in (3.0, 4.0, 2.0):
        train(store, loss)
    return store


def test_every_bundle_is_a_version_and_the_alias_follows_the_champion(local):
    client = client_of(tracking_uri(local))
    versions = client.search_model_versions("name='almanac-toy'")
    assert sorted(version.tags["bundle"] for version in versions) == ["1", "2", "3"]
    assert client.get_model_version_by_alias("almanac-toy", "champion").tags["bundle"] == "3"
    assert move_alias(local, "toy", 1) is None
    assert client.get_model_version_by_alias("almanac-toy", "champion").tags["bundle"] == "1"
    assert "has no version of almanac-toy for bundle 9" in move_alias(local, "toy", 9)


def test_a_bundle_that_is_logged_again_is_one_version(local):
    client = client_of(tracking_uri(local))
    with disable_run_logger():
        run = resolve_training.fn(TOY, local, None, {"loss": 3.0})
        from tasks.training.fit import Challenger, Verdict

        track.fn(run, Challenger(1, 3.0, {}, ()), Verdict(1, True, 1, "again"))
    assert len(client.search_model_versions("name='almanac-toy' and tags.bundle='1'")) == 1


def test_a_model_without_an_estimator_says_so(local):
    folder = Path(local.uri) / "toy" / "bundles" / "1"
    with pytest.raises(BundleError, match="toy: its bundles have no estimator"):
        _load_pyfunc(str(folder)).predict(pd.DataFrame({"value": [1.0]}))


def test_loading_checks_the_files_and_makes_nothing_but_a_scenario(local, tmp_path):
    folder = shutil.copytree(Path(local.uri) / "toy" / "bundles" / "1", tmp_path / "bundle")
    (folder / "remark.txt").write_text("halves")
    with pytest.raises(BundleError, match=r"remark\.txt: changed"):
        _load_pyfunc(str(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    for other in ("subprocess:Popen", "tasks.storage.store:Store", "", "tests.toy:nothing"):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"implementation": other}))
        with pytest.raises(BundleError, match="not a scenario of the installed Almanac"):
            _load_pyfunc(str(folder))
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        _load_pyfunc(str(tmp_path))


def test_loading_imports_no_module_that_is_not_known(local, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = shutil.copytree(Path(local.uri) / "toy" / "bundles" / "1", tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"implementation": "planted:Scenario"}))
    with pytest.raises(
        BundleError, match=r"module 'planted', which is not one of Almanac's.*import it first"
    ):
        _load_pyfunc(str(folder))
    assert not (tmp_path / "ran").exists()


def test_the_quantiles_of_a_loaded_sales_model_are_those_of_the_bundle(sales_store):
    folder = Path(sales_store.uri) / "sales" / "bundles" / "1"
    model = bundles.model(SALES, Store(sales_store.uri), 1)
    names = model.with_plan.features
    rows = pl.DataFrame({f"f:{name}": [0.1, None, -2.0] for name in names}).with_columns(
        planned=pl.Series([True, True, False]),
        kind=pl.lit("regular"),
        step=pl.Series([1, 9, 13]),
        level=pl.lit(4.0),
    )
    forecasts = _load_pyfunc(str(folder)).predict(rows.to_pandas())
    assert forecasts["rung"].to_list() == ["pooled", "pooled", "pooled_no_plan"]
    expected = SALES.estimate(model, rows).select(model.columns)
    assert pl.from_pandas(forecasts).select(model.columns).equals(expected)
    assert (expected.to_numpy()[:, 1:] >= expected.to_numpy()[:, :-1]).all()


def test_metrics_have_a_page_per_slice_with_all_their_metrics():
    rows = [("all", "all", "loss", 1.0)]
    rows += [("step", str(step), metric, step / 2) for step in (1, 2, 10) for metric in ("loss", "bias")]
    rows += [("key", str(key), "loss", 1.0) for key in range(500)]
    files = plots(pl.DataFrame(rows, schema=["slice", "value_of_slice", "metric", "value"], orient="row"))
    assert set(files) == {"metrics.csv", "plots/by_step.html"}
    assert '"bias"' in files["plots/by_step.html"]
    assert files["metrics.csv"].startswith("slice,value_of_slice,metric,value\nall,all,loss,1.0\n")
