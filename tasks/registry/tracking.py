"""MLflow: every training, tuning and evaluation is a run; for bundles, see `tasks.registry.registered_models`.

The store's own tables and registry are authoritative; MLflow mirrors them for people and other tools.
`MLFLOW_TRACKING_URI` names the server; without it, a local store keeps a SQLite file beside its tables.
"""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from models.addresses import refuse_credential
from tasks.registry.code import code_version
from tasks.storage.store import Store
from tasks.storage.uris import is_remote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
_PASSWORDS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGUSER and PGPASSWORD for PostgreSQL"
_BATCH = 500
_TEXT = 500
RUN_ID = "almanac_run_id"


def tracking_uri(store: Store) -> str | None:
    """The address of MLflow's records; None for a remote store without a tracking server.

    Raises `CredentialError` for an address with a password, because errors of MLflow would repeat it.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        refuse_credential("MLFLOW_TRACKING_URI", server, _PASSWORDS)
        return server
    return None if is_remote(store.uri) else f"sqlite:///{store.uri}/mlflow.db"


def client_of(uri: str) -> Any:
    """The MLflow client of a tracking server that is also the model registry."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def model_name(scenario: str) -> str:
    """The name of a scenario's experiment and of its registered model."""
    return f"almanac-{scenario}"


def log_run(
    store: Store,
    *,
    scenario: str,
    kind: str,
    run_id: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str] | None = None,
    slices: pl.DataFrame | None = None,
    files: Mapping[str, str] | None = None,
) -> str | None:
    """Log a run to the scenario's experiment; return the MLflow run's id, None without a tracking server.

    `kind` is `train`, `tune` or `evaluate`; it becomes a tag, as does the version of the code. `metrics` that are not
    finite are left out. `slices` is the long table `slice, value_of_slice, metric, value`; a slice by `step` becomes
    the metric's step. `files` are texts by name, such as a plot as HTML. A `run_id` that is logged completely is not
    logged again; interrupted logging is completed.
    """
    uri = tracking_uri(store)
    if uri is None:
        return None
    from mlflow.entities import Param

    client = client_of(uri)
    mlflow_run = _mlflow_run(client, store, scenario, kind, run_id)
    record = str(mlflow_run.info.run_id)
    if mlflow_run.info.status == "FINISHED":
        return record
    for name, value in {"code_version": code_version(), **(tags or {})}.items():
        client.set_tag(record, name, value)
    pairs = [Param(name, json.dumps(value, default=str)[:_TEXT]) for name, value in params.items()]
    for first in range(0, len(pairs), 100):
        client.log_batch(record, params=pairs[first : first + 100])
    values = [*_headline(metrics), *([] if slices is None else _slice_metrics(slices))]
    for first in range(0, len(values), _BATCH):
        client.log_batch(record, metrics=values[first : first + _BATCH])
    for name, text in (files or {}).items():
        client.log_text(record, text, name)
    client.set_terminated(record)
    return record


@task(name="track-run")
def track_run(store: Store, **facts: Any) -> str | None:
    """`log_run`, but a failing tracking server causes only a warning, because the store is authoritative."""
    try:
        return log_run(store, **facts)
    except Exception as error:
        get_run_logger().warning("MLflow tracking failed; nothing else depends on it: %s", error)
        return None


def _mlflow_run(client: Any, store: Store, scenario: str, kind: str, run_id: str) -> Any:
    """The run with this `run_id` and kind, created if it does not exist."""
    experiment = _experiment(client, store, model_name(scenario))
    query = f"tags.{RUN_ID} = '{run_id}' and tags.kind = '{kind}'"
    same = client.search_runs([experiment], query, max_results=1)
    if same:
        return same[0]
    return client.create_run(experiment, tags={RUN_ID: run_id, "kind": kind}, run_name=run_id)


def _experiment(client: Any, store: Store, name: str) -> str:
    """The id of an experiment, created if it does not exist; several processes may try at the same time."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, _artifacts(store)))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def _headline(headline: Mapping[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(_name(key), float(number), _now(), 0)
        for key, number in headline.items()
        if math.isfinite(number)
    ]


def _slice_metrics(metrics: pl.DataFrame) -> list[Any]:
    """The long table of metrics: `pinball.kind.promoted`; a slice by step becomes the metric's step."""
    from mlflow.entities import Metric

    points = []
    for row in metrics.filter(pl.col("slice") != "all", pl.col("value").is_finite()).iter_rows(named=True):
        by_step = row["slice"] == "step"
        label = "by_step" if by_step else f"{row['slice']}.{row['value_of_slice']}"
        step = int(row["value_of_slice"]) if by_step else 0
        points.append(Metric(_name(f"{row['metric']}.{label}"), float(row["value"]), _now(), step))
    return points


def _name(text: str) -> str:
    """A name that MLflow accepts: letters, digits, and a few signs."""
    return re.sub(r"[^\w./ -]", "_", text)


def _now() -> int:
    return int(time.time() * 1000)


def _artifacts(store: Store) -> str | None:
    """The place in which MLflow may put files; None if a tracking server decides."""
    local = not is_remote(store.uri) and not os.environ.get("MLFLOW_TRACKING_URI")
    return Path(store.uri, "mlflow").as_uri() if local else None
