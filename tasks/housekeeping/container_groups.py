"""Leftovers of runs in an Azure resource group: deployment records, and container groups without a run."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from models.errors import AlmanacError

_RUN = re.compile(r"^(?P<flow>.+)-(?P<run>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
"""The name of a run's container group; the name of its deployment record begins with `_RECORD`."""

_RECORD = "prefect-"
_ENDED = ("Succeeded", "Failed", "Canceled")
_GRACE = timedelta(hours=1)
"""The time within which the container group of a finished run is deleted."""


class AzureError(AlmanacError):
    """Azure Resource Manager cannot be reached, or refuses a request."""

    is_temporary = True


def clients(subscription: str) -> tuple[Any, Any]:
    """Clients for deployments and container groups, with the identity of this process."""
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient
    from azure.mgmt.resource import ResourceManagementClient

    credential = DefaultAzureCredential()
    return ResourceManagementClient(credential, subscription), ContainerInstanceManagementClient(
        credential, subscription
    )


@task(name="expire-deployment-records")
def expire_deployment_records(group: str, record_days: int, now: datetime, *, dry_run: bool) -> list[str]:
    """Delete the deployment records of runs that are older than `record_days`; return their names. `group` is a resource ID.

    Only records that the container worker made for finished runs are deleted, not others such as those of the template.
    If someone else has deleted a record, that is not an error. Raises `AzureError`.
    """
    subscription, name = parts(group)

    def expire() -> list[str]:
        deployments = clients(subscription)[0].deployments
        old = [
            one.name
            for one in deployments.list_by_resource_group(name)
            if one.name.startswith(_RECORD)
            and _RUN.match(one.name)
            and one.properties.provisioning_state in _ENDED
            and one.properties.timestamp < now - timedelta(days=record_days)
        ]
        if not dry_run:
            for record in old:
                # Only who may read operations of the whole subscription could wait for the result.
                deployments.begin_delete(name, record, polling=False)
        return sorted(old)

    records: list[str] = _answer(group, expire)
    return records


@task(name="orphaned-container-groups")
def orphaned_container_groups(group: str, now: datetime) -> list[dict[str, Any]]:
    """Container groups of runs that ended more than an hour ago, or that the Prefect server does not know.

    `group` is a resource ID. The container groups are not deleted: someone may have kept one to inspect it, and one
    that this server does not know may belong to another server. Raises `AzureError`.
    """
    subscription, name = parts(group)
    containers = _answer(
        group, lambda: list(clients(subscription)[1].container_groups.list_by_resource_group(name))
    )
    runs = {one.name: match for one in containers if (match := _RUN.match(one.name))}
    orphans = []
    with get_client(sync_client=True) as client:
        for container, match in sorted(runs.items()):
            try:
                state = client.read_flow_run(UUID(match["run"])).state
            except ObjectNotFound:
                orphans.append({"group": container, "flow": match["flow"], "run": "unknown", "since": ""})
                continue
            if state and state.is_final() and state.timestamp < now - _GRACE:
                since = state.timestamp.isoformat(timespec="seconds")
                orphans.append({"group": container, "flow": match["flow"], "run": state.name, "since": since})
    return orphans


def parts(group: str) -> tuple[str, str]:
    """Subscription and name in the resource ID of a resource group.

    >>> parts("/subscriptions/0000/resourceGroups/almanac")
    ('0000', 'almanac')
    """
    match = re.fullmatch(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)", group.strip(), re.IGNORECASE)
    if not match:
        raise AzureError(
            f"'{group}' is not the resource ID of a resource group. Expected /subscriptions/ID/resourceGroups/NAME; "
            "`az group show --name NAME --query id` prints it."
        )
    return match[1], match[2]


def _answer(group: str, ask: Callable[[], Any]) -> Any:
    from azure.core.exceptions import AzureError as Refused

    try:
        return ask()
    except Refused as error:
        message = str(error).strip().splitlines()[0][:300]
        raise AzureError(
            f"{group}: Azure Resource Manager: {message}\nExpected an identity that may read container groups, and read "
            "and delete deployments: see the role for housekeeping in deployments/azure/main.json."
        ) from None
