"""Every bundle is a version of the scenario's registered model in MLflow; the alias `champion` follows the store.

A version consists of the bundle's own files, uploaded as artifacts of the training's run, and an `MLmodel` file that
names the loader below: `mlflow.pyfunc.load_model("models:/almanac-sales@champion")` returns a model wherever Almanac is
installed. Nothing is pickled, and loading checks each file's SHA-256, as loading from the store does.
"""

import importlib
import platform
import sys
from pathlib import Path
from typing import Any

import polars as pl

from models.scenario import HasEstimators, Scenario
from tasks.registry import bundles
from tasks.registry.bundles import BundleError
from tasks.registry.tracking import client_of, model_name, tracking_uri
from tasks.storage.scratch import scratch
from tasks.storage.store import Store

CHAMPION = "champion"
_MODEL, _DATA = "model", "bundle"
_MODELS = "models"
"""The package from which a bundle may have modules imported."""


def register(store: Store, scenario: str, bundle: int, record: str, *, champion: bool) -> None:
    """Register a bundle of the MLflow run `record` as a version of the model; with `champion`, under that alias.

    A bundle that is already registered is not registered again.
    """
    uri = tracking_uri(store)
    if uri is None:
        return
    from mlflow.exceptions import MlflowException

    client, name = client_of(uri), model_name(scenario)
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="Bundles of Almanac.")
    uri_of_bundle = store.uri_of(bundles.folder(scenario, bundle))
    version = _version(client, name, uri_of_bundle)
    if version is None:
        _upload(client, store, scenario, bundle, record)
        tags = {"bundle": str(bundle), "bundle_uri": uri_of_bundle}
        source = f"{client.get_run(record).info.artifact_uri}/{_MODEL}"
        version = client.create_model_version(name, source, run_id=record, tags=tags)
    if champion:
        client.set_registered_model_alias(name, CHAMPION, version.version)


def move_alias(store: Store, scenario: str, bundle: int) -> str | None:
    """Move the alias `champion` to a bundle; return a note if that is impossible, else None."""
    uri = tracking_uri(store)
    if uri is None:
        return None
    client, name = client_of(uri), model_name(scenario)
    version = _version(client, name, store.uri_of(bundles.folder(scenario, bundle)))
    if version is None:
        return f"MLflow has no version of {name} for bundle {bundle}: its alias was not moved."
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return None


def _version(client: Any, name: str, bundle_uri: str) -> Any:
    """The version for a bundle of this store; None if it does not exist. A server may serve several stores."""
    query = f"name = '{name}' and tags.bundle_uri = '{bundle_uri}'"
    versions = client.search_model_versions(query, max_results=1)
    return versions[0] if versions else None


def _upload(client: Any, store: Store, scenario: str, bundle: int, record: str) -> None:
    """Upload the bundle's files and the MLmodel file as artifacts of a run."""
    from mlflow.models import Model

    source = bundles.folder(scenario, bundle)
    facts = bundles.manifest(store, scenario, bundle)
    with scratch("register") as folder:
        data = folder / _DATA
        data.mkdir()
        for name in (bundles.MANIFEST, *facts["files"]):
            (data / name).write_bytes(store.get(f"{source}/{name}") or b"")
        model = Model(run_id=record)
        version = platform.python_version()
        model.add_flavor("python_function", loader_module=__name__, data=_DATA, python_version=version)
        model.save(str(folder / "MLmodel"))
        client.log_artifacts(record, str(folder), _MODEL)


class BundleModel:
    """A bundle for batch use without a store, which MLflow loads as a `python_function`."""

    def __init__(self, scenario: Scenario, model: Any) -> None:
        self._scenario, self._model = scenario, model

    def predict(self, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
        """The estimates of the scenario's estimators for rows of features; see `HasEstimators.estimate`.

        `model_input` is a pandas or polars frame; the result is of the same kind.
        """
        is_polars = isinstance(model_input, pl.DataFrame)
        rows = model_input if is_polars else pl.from_pandas(model_input)
        if not isinstance(self._scenario, HasEstimators):
            raise BundleError(
                f"{self._scenario.name}: its bundles have no estimator that takes rows of features."
            )
        estimates = self._scenario.estimate(self._model, rows)
        return estimates if is_polars else estimates.to_pandas()


def _load_pyfunc(path: str) -> BundleModel:
    """Called by `mlflow.pyfunc.load_model` with the folder of a bundle's files.

    Importing a module runs it, so the module that a bundle names is imported only if it is one of Almanac's models.
    Import the module of any other scenario first.
    """
    facts = bundles.read_manifest(Path(path))
    module, _, name = str(facts.get("implementation", "")).partition(":")
    if module and module.partition(".")[0] != _MODELS and module not in sys.modules:
        raise BundleError(
            f"{path}: made by a scenario in the module '{module}', which is not one of Almanac's and not imported. "
            "If you know the module and trust the bundle, import it first."
        )
    kind = getattr(importlib.import_module(module), name, None) if module else None
    if not (isinstance(kind, type) and Scenario in kind.__mro__):
        raise BundleError(
            f"{path}: made by '{facts.get('implementation')}', which is not a scenario of the installed Almanac."
        )
    scenario = kind()
    return BundleModel(scenario, scenario.load(bundles.read_folder(Path(path))))
