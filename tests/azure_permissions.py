"""What each identity of the Azure template may do, and what an operation needs: the roles, and a resource manager's rule.

The actions of Azure's own roles are those of its documentation, as far as they matter here:
https://learn.microsoft.com/azure/role-based-access-control/built-in-roles.
"""

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from tests.conftest import ROOT

BUILT_IN = {
    "AcrPull": {"Microsoft.ContainerRegistry/registries/pull/read"},
    "Managed Identity Operator": {
        "Microsoft.ManagedIdentity/userAssignedIdentities/*/read",
        "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action",
    },
    "Monitoring Metrics Publisher": {
        "Microsoft.Insights/Metrics/Write",
        "Microsoft.Insights/Telemetry/Write",
    },
    "Storage Blob Data Contributor": {
        "Microsoft.Storage/storageAccounts/blobServices/containers/read",
        "Microsoft.Storage/storageAccounts/blobServices/containers/write",
        "Microsoft.Storage/storageAccounts/blobServices/containers/delete",
        "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/move/action",
        "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action",
    },
}

_DEPLOYMENT = "Microsoft.Resources/deployments"
_GROUP = "Microsoft.ContainerInstance/containerGroups"
REQUESTS = {
    "GET deployment": f"{_DEPLOYMENT}/read",
    "PUT deployment": f"{_DEPLOYMENT}/write",
    "DELETE deployment": f"{_DEPLOYMENT}/delete",
    "GET operation": f"{_DEPLOYMENT}/operationstatuses/read",
    "GET group": f"{_GROUP}/read",
    "DELETE group": f"{_GROUP}/delete",
    "GET deletion": f"{_GROUP}/operationResults/read",
    "POST stop": f"{_GROUP}/stop/action",
    "GET logs": f"{_GROUP}/containers/logs/read",
}
"""The action that each kind of request needs."""


def custom_roles() -> dict[str, set[str]]:
    """The actions of the template's own roles, by the identity that has them."""
    template = json.loads((ROOT / "deployments/azure/main.json").read_text())
    roles = {
        one["name"]: set(one["properties"]["permissions"][0]["actions"])
        for one in template["resources"]
        if one["type"] == "Microsoft.Authorization/roleDefinitions"
    }
    return {
        "worker": roles["[variables('workerRole')]"],
        "runs": roles["[variables('housekeepingRole')]"],
    }


def granted(identity: str) -> set[str]:
    """Every action that `worker` or `runs` may take."""
    further = "Managed Identity Operator" if identity == "worker" else "Storage Blob Data Contributor"
    return custom_roles()[identity] | BUILT_IN["AcrPull"] | BUILT_IN[further]


def lacking(actions: Iterable[str], may: set[str]) -> list[str]:
    """The actions in question that are not granted."""
    return [one for one in actions if not any(fnmatchcase(one, pattern) for pattern in may)]


def needed_by_template(template: dict[str, Any]) -> list[str]:
    """The actions that the caller needs, besides writing the deployment, for the resources of its template."""
    text = json.dumps(template)
    needed = [f"{one['type']}/write" for one in template["resources"]]
    if re.search(r"userAssignedIdentities/", text):
        needed.append("Microsoft.ManagedIdentity/userAssignedIdentities/almanac-runs/assign/action")
    if any(one["properties"].get("subnetIds") for one in template["resources"]):
        needed.append("Microsoft.Network/virtualNetworks/subnets/join/action")
    return needed
