"""What runs leave behind in an Azure resource group: records of deployments, and container groups without a run."""

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
"""The name of a run's container group; that of the record of its deployment begins with `_RECORD`."""

_RECORD = "prefect-"
_ENDED = ("Succeeded", "Failed", "Canceled")
_GRACE = timedelta(hours=1)
"""A group whose run ended so short a time ago is being deleted."""


class AzureError(AlmanacError):
    """Azure Resource Manager cannot be asked, or refuses."""

    passing = True


def clients(subscription: str) -> tuple[Any, Any]:
    """Clients of deployments and of container groups, with the identity of this process."""
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient
    from azure.mgmt.resource import ResourceManagementClient

    credential = DefaultAzureCredential()
    return ResourceManagementClient(credential, subscription), ContainerInstanceManagementClient(
        credential, subscription
    )


@task(name="expire-deployment-records")
def expire_deployment_records(group: str, record_days: int, now: datetime, *, dry_run: bool) -> list[str]:
    """Names of the records of runs that are older than `record_days`, deleted; `group` is a resource ID.

    Only records that the container worker has made for runs that are over; no others, such as those of the
    template. A record that has been deleted by someone else is as good. Raises `AzureError`.
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
            for poller in [deployments.begin_delete(name, record) for record in old]:
                poller.result()
        return sorted(old)

    found: list[str] = _asked(group, expire)
    return found


@task(name="orphaned-container-groups")
def orphaned_container_groups(group: str, now: datetime) -> list[dict[str, Any]]:
    """Container groups of runs that ended more than an hour ago, or that the Prefect server does not know.

    `group` is a resource ID. Nothing is done to them: a group may have been kept to look into it, and one
    that the server does not know may be of another server. Raises `AzureError`.
    """
    subscription, name = parts(group)
    listed = _asked(
        group, lambda: list(clients(subscription)[1].container_groups.list_by_resource_group(name))
    )
    runs = {one.name: found for one in listed if (found := _RUN.match(one.name))}
    orphaned = []
    with get_client(sync_client=True) as client:
        for container, found in sorted(runs.items()):
            try:
                state = client.read_flow_run(UUID(found["run"])).state
            except ObjectNotFound:
                orphaned.append({"group": container, "flow": found["flow"], "run": "unknown", "since": ""})
                continue
            if state and state.is_final() and state.timestamp < now - _GRACE:
                since = state.timestamp.isoformat(timespec="seconds")
                orphaned.append(
                    {"group": container, "flow": found["flow"], "run": state.name, "since": since}
                )
    return orphaned


def parts(group: str) -> tuple[str, str]:
    """Subscription and name in the resource ID of a resource group.

    >>> parts("/subscriptions/0000/resourceGroups/almanac")
    ('0000', 'almanac')
    """
    found = re.fullmatch(r"/subscriptions/([^/]+)/resourceGroups/([^/]+)", group.strip(), re.IGNORECASE)
    if not found:
        raise AzureError(
            f"'{group}' is not the resource ID of a resource group. Expected /subscriptions/ID/resourceGroups/NAME; "
            "`az group show --name NAME --query id` says it."
        )
    return found[1], found[2]


def _asked(group: str, ask: Callable[[], Any]) -> Any:
    from azure.core.exceptions import AzureError as Refused

    try:
        return ask()
    except Refused as error:
        told = str(error).strip().splitlines()[0][:300]
        raise AzureError(
            f"{group}: Azure Resource Manager: {told}\nExpected an identity that may read container groups, and read "
            "and delete deployments: see the role for housekeeping in deployments/azure/main.json."
        ) from None
