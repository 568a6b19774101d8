"""The project's deployments, work pool and automations on the Prefect server, all through its API."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, WorkPoolFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings
from prefect.workers.base import BaseWorker

from deployments.declarations import MINE
from deployments.environment import POOLS
from flows.server import ServerError, admission, check_api


@contextmanager
def connected(values: Mapping[str, str]) -> Iterator[SyncPrefectClient]:
    """A client of the server that the environment names. Raises `ServerError` if none answers."""
    url = values["PREFECT_API_URL"]
    check_api(url, "Start one with `make deploy` or `prefect server start`, or correct the variable.")
    with temporary_settings(admission(url)), get_client(sync_client=True) as client:
        yield client


def check_version(client: SyncPrefectClient) -> str:
    """The version of the server. Raises `ServerError` if its minor version is older than that of this client."""
    server, here = client.api_version(), prefect.__version__
    if _minor(server) < _minor(here):
        raise ServerError(
            f"{client.api_url} runs Prefect {server}, older than the client's {here}. Expected the same minor version or a "
            "newer one: upgrade the server first; see docs/upgrading.md."
        )
    return server


def _minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    >>> _minor("3.8.8rc1")
    (3, 8)
    """
    return tuple(int(part) for part in version.split(".")[:2])


def apply_pool(client: SyncPrefectClient, values: Mapping[str, str]) -> str:
    """Create the work pool, or update its template from the file; return `created`, `updated` or `unchanged`.

    Raises `ServerError` if a pool of that name has another type.
    """
    name, kind = values["ALMANAC_POOL"], values["ALMANAC_POOL_TYPE"]
    template = template_of(kind)
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        return "created"
    if pool.type != kind:
        raise ServerError(
            f"ALMANAC_POOL={name} is a work pool of type {pool.type}; ALMANAC_POOL_TYPE is {kind}. "
            "Choose another name, or delete that pool."
        )
    if pool.base_job_template == template:
        return "unchanged"
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return "updated"


def template_of(kind: str) -> dict[str, Any]:
    """The base job template of pools of a type. A file without a job configuration adds variables to Prefect's own."""
    content: dict[str, Any] = json.loads((POOLS / f"{kind}.json").read_text())
    if "job_configuration" in content:
        return content
    template = BaseWorker.get_worker_class_from_type(kind).get_default_base_job_template()  # type: ignore[union-attr]
    template["variables"]["properties"] |= content["variables"]["properties"]
    return template


def ours(client: SyncPrefectClient, pool: str) -> dict[str, DeploymentResponse]:
    """The deployments of the work pool that have the project's tag, by flow and name."""
    tag = DeploymentFilter.model_validate({"tags": {"all_": [MINE]}})
    of_pool = WorkPoolFilter.model_validate({"name": {"any_": [pool]}})
    deployments: dict[str, DeploymentResponse] = {}
    while page := client.read_deployments(
        deployment_filter=tag, work_pool_filter=of_pool, offset=len(deployments)
    ):
        of_page = FlowFilter.model_validate({"id": {"any_": [*{one.flow_id for one in page}]}})
        names = {flow.id: flow.name for flow in client.read_flows(flow_filter=of_page)}
        deployments |= {f"{names[one.flow_id]}/{one.name}": one for one in page}
    return dict(sorted(deployments.items()))


def triggers(client: SyncPrefectClient, deployment: DeploymentResponse) -> dict[str, Automation]:
    """The automations that run a deployment, by name, including those that someone made by hand."""
    automations = client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")
    return {
        one.name: one
        for one in automations
        if any(getattr(action, "deployment_id", None) == deployment.id for action in one.actions)
    }


def automation_facts(automation: AutomationCore) -> Any:
    """The facts of an automation by which two are compared."""
    fields = {"name", "description", "enabled", "tags", "trigger", "actions"}
    return comparable(automation.model_dump(mode="json", include=fields))


def comparable(value: Any) -> Any:
    """A value of the API in a comparable form: without ids and empty values, lists of texts sorted.

    >>> comparable({"id": 1, "expect": ["b", "a"], "posture": None})
    {'expect': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {k: comparable(one) for k, one in value.items() if k != "id" and one not in (None, [], {}, "")}
    if isinstance(value, list):
        items = [comparable(one) for one in value]
        return sorted(items) if all(isinstance(one, str) for one in items) else items
    return value
