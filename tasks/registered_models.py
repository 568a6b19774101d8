"""Every bundle is a version of the scenario's registered model in MLflow; the alias `champion` follows the store."""

from typing import Any

from tasks.store import Store
from tasks.tracking import client_of, model_name, tracking_uri

CHAMPION = "champion"


def register(store: Store, scenario: str, bundle: int, record: str, *, champion: bool) -> None:
    """Register a bundle as a version of the model, of the MLflow run `record`; with `champion` under that alias.

    A bundle that is registered is not registered again.
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
    version = _version(client, name, record) or client.create_model_version(
        name, store.uri_of(f"{scenario}/bundles/{bundle}"), run_id=record, tags={"bundle": str(bundle)}
    )
    if champion:
        client.set_registered_model_alias(name, CHAMPION, version.version)


def move_alias(store: Store, scenario: str, bundle: int) -> str | None:
    """Have the alias `champion` name a bundle; what stood in the way, in words, else None."""
    uri = tracking_uri(store)
    if uri is None:
        return None
    client, name = client_of(uri), model_name(scenario)
    found = client.search_model_versions(f"name = '{name}' and tags.bundle = '{bundle}'", max_results=1)
    if not found:
        return f"MLflow knows no version of {name} for bundle {bundle}: its alias was not moved."
    client.set_registered_model_alias(name, CHAMPION, found[0].version)
    return None


def _version(client: Any, name: str, record: str) -> Any:
    found = client.search_model_versions(f"name = '{name}' and run_id = '{record}'", max_results=1)
    return found[0] if found else None
