from pathlib import Path

import polars as pl
import pytest

from tasks.store import Store
from tasks.tracking import log_training, tracking_uri

pytestmark = pytest.mark.slow

METRICS = pl.DataFrame(
    [("all", "all", "wape", 0.5), ("kind", "new & odd", "wape", 0.75), ("step", "2", "wape", 0.6)],
    schema=["slice", "value_of_slice", "metric", "value"],
    orient="row",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A store with the record of one training."""
    made = Store(str(tmp_path_factory.mktemp("tracking") / "store"))
    made.put("toy/bundles/1/manifest.json", b"{}")
    return made


def log(store: Store, run_id: str, bundle: int, *, champion: bool) -> str | None:
    return log_training(
        store,
        scenario="toy",
        run_id=run_id,
        params={"horizon": 13, "quantiles": [0.05, 0.95], "long": "x" * 1000},
        headline={"pinball": 0.25, "unknown": float("nan")},
        metrics=METRICS,
        bundle=bundle,
        champion=champion,
        reason="because",
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
    assert log(store, "r", 1, champion=True) is None


def test_a_training_is_a_run_with_its_parameters_metrics_and_bundle(store, client):
    record = client.get_run(log(store, "r1", 1, champion=True))
    assert record.data.params["horizon"] == "13"
    assert record.data.params["quantiles"] == "[0.05, 0.95]"
    assert record.data.metrics == {"pinball": 0.25, "wape.kind.new _ odd": 0.75, "wape.by_step": 0.6}
    assert record.data.tags["bundle"] == "1"
    assert record.info.status == "FINISHED"
    assert Path(store.uri, "mlflow.db").exists()


def test_every_bundle_is_a_version_of_a_model_and_the_alias_follows_the_champion(store, client):
    log(store, "r1", 1, champion=True)
    assert client.get_model_version_by_alias("almanac-toy", "champion").tags["bundle"] == "1"
    log(store, "r2", 2, champion=False)
    assert client.get_model_version_by_alias("almanac-toy", "champion").tags["bundle"] == "1"
    log(store, "r3", 3, champion=True)
    version = client.get_model_version_by_alias("almanac-toy", "champion")
    assert version.tags["bundle"] == "3"
    assert version.source == f"{store.uri}/toy/bundles/3"


def test_a_training_that_is_logged_again_has_one_record(store, client):
    first = log(store, "r4", 4, champion=False)
    assert log(store, "r4", 4, champion=False) == first
    assert (
        len([v for v in client.search_model_versions("name='almanac-toy'") if v.tags["bundle"] == "4"]) == 1
    )
