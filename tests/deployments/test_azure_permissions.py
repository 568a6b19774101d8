"""The permissions of the template's identities, compared with what they do; the table is in docs/azure.md."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.azure_permissions import BUILT_IN, REQUESTS, custom_roles, granted, lacking
from tests.conftest import ROOT
from tests.resource_manager import MOST_RECORDS, ResourceManager

ROWS = [
    tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
    for line in (ROOT / "docs/azure.md").read_text().splitlines()
    if re.match(r"\| (worker|runs) \|", line)
]
SUBNET = {"id": "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s"}
IDENTITY = "/subscriptions/0/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/almanac-runs"
DEPLOYMENTS = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Resources/deployments"
GROUP = {
    "type": "Microsoft.ContainerInstance/containerGroups",
    "name": "one",
    "identity": {"userAssignedIdentities": {IDENTITY: {}}},
    "properties": {"subnetIds": [SUBNET]},
}
BODY = {"properties": {"template": {"parameters": {}, "resources": [GROUP]}, "parameters": {}}}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[2]}")
def test_each_operation_is_allowed_by_the_role_that_the_table_names(row):
    identity, _, action, role = row
    assert not lacking([action], custom_roles()[identity] if role == "own" else BUILT_IN[role])


@pytest.mark.parametrize("identity", ["worker", "runs"])
def test_the_roles_of_our_own_allow_nothing_that_the_table_has_no_operation_for(identity):
    assert {row[2] for row in ROWS if row[0] == identity and row[3] == "own"} == custom_roles()[identity]


def test_the_table_has_every_request_that_azure_is_asked_in_the_tests():
    assert set(REQUESTS.values()) <= {row[2] for row in ROWS}


@pytest.mark.parametrize(
    "action",
    [
        "Microsoft.Resources/deployments/write",
        "Microsoft.ContainerInstance/containerGroups/write",
        "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action",
        "Microsoft.Network/virtualNetworks/subnets/join/action",
    ],
)
def test_a_container_group_is_refused_to_who_lacks_one_action(action, tmp_path):
    azure = ResourceManager(tmp_path, pulls=False)
    assert azure.answer("PUT", f"{DEPLOYMENTS}/one", BODY)[0] == 201
    azure.may = granted("worker") - {action}
    status, content, _ = azure.answer("PUT", f"{DEPLOYMENTS}/two", BODY)
    assert (status, content["error"]["code"]) == (403, "AuthorizationFailed")
    assert action.rpartition("/*/")[2] in content["error"]["message"]
    assert set(azure.deployments) == {"one"}


def test_nine_hundred_runs_find_room_for_their_records_only_where_the_oldest_may_be_deleted(tmp_path: Path):
    now = datetime.now(UTC)
    azure = ResourceManager(tmp_path, pulls=False)
    azure.records = {
        f"prefect-{n}": ("Succeeded", now - timedelta(hours=900 - n)) for n in range(MOST_RECORDS)
    }
    for run in range(100):
        assert azure.answer("PUT", f"{DEPLOYMENTS}/run-{run}", BODY)[0] == 201
    assert "prefect-0" not in azure.records
    assert f"prefect-{MOST_RECORDS - 1}" in azure.records

    azure.may -= {"Microsoft.Resources/deployments/delete"}
    azure.records |= {f"prefect-{n}": ("Succeeded", now) for n in range(MOST_RECORDS)}
    status, content, _ = azure.answer("PUT", f"{DEPLOYMENTS}/refused", BODY)
    assert (status, content["error"]["code"]) == (409, "DeploymentQuotaExceeded")
