"""MLflow: every training is a run, every bundle a version of a registered model.

The store's registry decides which bundle is champion; MLflow mirrors it for people and other tools.
`MLFLOW_TRACKING_URI` names the server; without it a local store keeps a sqlite file beside its tables.
"""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import polars as pl

from tasks.store import Store, is_remote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
_BATCH = 500


def tracking_uri(store: Store) -> str | None:
    """Where MLflow keeps its records; None for a remote store without a tracking server."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    return None if is_remote(store.uri) else f"sqlite:///{store.uri}/mlflow.db"


def log_training(
    store: Store,
    *,
    scenario: str,
    run_id: str,
    params: Mapping[str, Any],
    headline: Mapping[str, float],
    metrics: pl.DataFrame,
    bundle: int,
    champion: bool,
    reason: str,
) -> str | None:
    """Log a training, register its bundle and move the alias `champion`; the MLflow run's id.

    Logging the same `run_id` again returns the record that exists.
    """
    uri = tracking_uri(store)
    if uri is None:
        return None
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    name = f"almanac-{scenario}"
    experiment = client.get_experiment_by_name(name)
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment(name, _artifacts(store))
    )
    same = client.search_runs([experiment_id], f"tags.almanac_run_id = '{run_id}'", max_results=1)
    if same:
        return str(same[0].info.run_id)
    tags = {"almanac_run_id": run_id, "bundle": str(bundle), "reason": reason}
    record = client.create_run(experiment_id, tags=tags, run_name=run_id)
    logged = [Param(key, json.dumps(value, default=str)[:500]) for key, value in params.items()]
    client.log_batch(record.info.run_id, params=logged)
    values = [*_headline(headline), *_sliced(metrics)]
    for first in range(0, len(values), _BATCH):
        client.log_batch(record.info.run_id, metrics=values[first : first + _BATCH])
    client.set_terminated(record.info.run_id)
    _register(
        client, name, store.uri_of(f"{scenario}/bundles/{bundle}"), record.info.run_id, bundle, champion
    )
    return str(record.info.run_id)


def _headline(headline: Mapping[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(key, float(number), _now(), 0) for key, number in headline.items() if math.isfinite(number)
    ]


def _sliced(metrics: pl.DataFrame) -> list[Any]:
    """The long table of metrics: `pinball.kind.promoted`; a slice by step becomes the metric's step."""
    from mlflow.entities import Metric

    found = []
    for row in metrics.filter(pl.col("slice") != "all", pl.col("value").is_finite()).iter_rows(named=True):
        by_step = row["slice"] == "step"
        label = "by_step" if by_step else f"{row['slice']}.{row['value_of_slice']}"
        name = re.sub(r"[^\w./ -]", "_", f"{row['metric']}.{label}")
        found.append(Metric(name, float(row["value"]), _now(), int(row["value_of_slice"]) if by_step else 0))
    return found


def _now() -> int:
    return int(time.time() * 1000)


def _artifacts(store: Store) -> str | None:
    """Where MLflow may put files of its own; the tracking server decides where the store is remote."""
    return None if is_remote(store.uri) else f"file://{store.uri}/mlflow"


def _register(client: Any, name: str, source: str, record: str, bundle: int, champion: bool) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(
            name, description="Bundles of Almanac; `source` is the bundle's folder."
        )
    made = client.create_model_version(name, source, run_id=record, tags={"bundle": str(bundle)})
    if champion:
        client.set_registered_model_alias(name, "champion", made.version)
