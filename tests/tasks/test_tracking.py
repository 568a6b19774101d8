from pathlib import Path

import polars as pl
import pytest

from tasks.registry.tracking import log_run, tracking_uri
from tasks.storage.store import Store

pytestmark = pytest.mark.slow

METRICS = pl.DataFrame(
    [("all", "all", "wape", 0.5), ("kind", "new & odd", "wape", 0.75), ("step", "2", "wape", 0.6)],
    schema=["slice", "value_of_slice", "metric", "value"],
    orient="row",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store of its own, since its records are counted."""
    return Store(str(tmp_path_factory.mktemp("tracking") / "store"))


def log(store: Store, run_id: str, bundle: int) -> str | None:
    return log_run(
        store,
        scenario="toy",
        kind="train",
        run_id=run_id,
        params={"horizon": 13, "quantiles": [0.05, 0.95], "long": "x" * 1000},
        metrics={"pinball": 0.25, "unknown": float("nan")},
        tags={"bundle": str(bundle), "reason": "because"},
        slices=METRICS,
        files={"plots/by_step.html": "<p>plot</p>"},
    )


@pytest.fixture(scope="module")
def client(store):
    from mlflow import MlflowClient

    uri = tracking_uri(store)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def test_a_local_store_keeps_its_records_beside_its_tables(store):
    assert tracking_uri(store) == f"sqlite:///{store.uri}/mlflow.db"


def test_a_server_that_is_named_is_used(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(store) == "http://tracking:5000"
    assert tracking_uri(Store("az://container/store")) == "http://tracking:5000"


def test_a_remote_store_without_a_server_has_no_records():
    store = Store("az://container/store")
    assert tracking_uri(store) is None
    assert log(store, "r", 1) is None


def test_a_training_is_a_run_with_its_parameters_metrics_and_bundle(store, client):
    record = client.get_run(log(store, "r1", 1))
    assert record.data.params["horizon"] == "13"
    assert record.data.params["quantiles"] == "[0.05, 0.95]"
    assert record.data.metrics == {"pinball": 0.25, "wape.kind.new _ odd": 0.75, "wape.by_step": 0.6}
    assert record.data.tags["bundle"] == "1"
    assert record.data.tags["kind"] == "train"
    assert record.data.tags["code_version"]
    plot = Path(store.uri, "mlflow", record.info.run_id, "artifacts", "plots", "by_step.html")
    assert plot.read_text() == "<p>plot</p>"
    assert record.info.status == "FINISHED"
    assert Path(store.uri, "mlflow.db").exists()


def test_a_run_whose_logging_was_stopped_is_completed(store, client):
    experiment = client.get_experiment_by_name("almanac-toy").experiment_id
    unfinished = client.create_run(experiment, tags={"almanac_run_id": "r5", "kind": "train"})
    assert log(store, "r5", 5) == unfinished.info.run_id
    assert client.get_run(unfinished.info.run_id).data.metrics["pinball"] == 0.25


def test_runs_of_two_kinds_may_share_an_id(store):
    train = log(store, "r6", 6)
    tune = log_run(store, scenario="toy", kind="tune", run_id="r6", params={}, metrics={})
    assert train != tune


def test_a_training_that_is_logged_again_has_one_record(store, client):
    first = log(store, "r4", 4)
    assert log(store, "r4", 4) == first
    experiment = client.get_experiment_by_name("almanac-toy").experiment_id
    assert len(client.search_runs([experiment], "tags.almanac_run_id = 'r4'")) == 1
