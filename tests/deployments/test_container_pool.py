"""The container pool's base job template, from which the worker's own class makes job configurations."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from prefect.workers.process import ProcessWorker

from deployments.server import template_of
from tests.conftest import ROOT

TEMPLATE = json.loads((ROOT / "deployments/work_pools/azure-container-instance.json").read_text())
GROUP = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/almanac"
VARIABLES = {
    "image": "example.azurecr.io/almanac:1",
    "registry": "example.azurecr.io",
    "identity": f"{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/almanac-runs",
    "identity_client_id": "00000000-0000-0000-0000-000000000002",
    "subscription_id": "00000000-0000-0000-0000-000000000001",
    "resource_group_name": "almanac",
    "store": "abfss://almanac@example.dfs.core.windows.net/store",
}


def configured(**values: Any) -> Any:
    """The job configuration of a flow run, ready to be submitted; it needs nothing from a server."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_azure.workers.container_instance import AzureContainerJobConfiguration

    run = FlowRun(id=uuid4(), name="a-run", flow_id=uuid4())
    pending = AzureContainerJobConfiguration.from_template_and_values(
        TEMPLATE, VARIABLES | values, client=object()
    )
    configuration = asyncio.run(pending)
    configuration.prepare_for_flow_run(run)
    return configuration


def container_group(**values: Any) -> dict[str, Any]:
    return configured(**values).arm_template["resources"][0]


def environment(group: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        one["name"]: one for one in group["properties"]["containers"][0]["properties"]["environmentVariables"]
    }


def test_every_setting_of_the_installed_worker_is_set_but_those_that_do_nothing_or_hold_secrets():
    from prefect_azure.workers.container_instance import AzureContainerWorker

    theirs = AzureContainerWorker.get_default_base_job_template()["job_configuration"]
    ours = TEMPLATE["job_configuration"]
    assert set(theirs) - set(ours) == {"gpu_count", "gpu_sku", "aci_credentials"}
    assert set(ours) <= set(theirs)
    (group,), (default,) = ours["arm_template"]["resources"], theirs["arm_template"]["resources"]
    assert group["apiVersion"] >= "2023-05-01", "priority is not known before"
    assert group["properties"].items() >= default["properties"].items()
    assert ours["arm_template"]["parameters"].items() >= theirs["arm_template"]["parameters"].items()


def test_the_variables_are_those_that_are_used_and_each_says_what_it_is():
    import re

    names = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    variables = TEMPLATE["variables"]["properties"]
    assert names | {"env"} == set(variables)
    assert all(variable["title"] and variable["description"] for variable in variables.values())


def test_variables_are_checked():
    schema = TEMPLATE["variables"]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(VARIABLES)
    for wrong in ({"priority": "Low"}, {"cpu": 0}, {"memory": "8 GB"}, {"subnet_ids": "one"}):
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate(VARIABLES | wrong)
    for name in VARIABLES:
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate({k: v for k, v in VARIABLES.items() if k != name})


def test_the_server_takes_the_template(prefect_api):
    import httpx

    pool = {"name": f"pool-{uuid4()}", "type": "azure-container-instance", "base_job_template": TEMPLATE}
    response = httpx.post(f"{prefect_api}/work_pools/", json=pool)
    assert response.status_code == 201, response.text
    assert response.json()["base_job_template"] == TEMPLATE


def test_the_image_is_pulled_and_the_store_is_opened_by_the_identity():
    group = container_group()
    properties = group["properties"]
    assert group["identity"] == {
        "type": "UserAssigned",
        "userAssignedIdentities": {VARIABLES["identity"]: {}},
    }
    assert properties["imageRegistryCredentials"] == [
        {"server": VARIABLES["registry"], "identity": VARIABLES["identity"]}
    ]
    assert properties["containers"][0]["properties"]["image"] == VARIABLES["image"]
    variables = environment(group)
    assert variables["AZURE_CLIENT_ID"]["value"] == VARIABLES["identity_client_id"]
    assert variables["ALMANAC_STORE"]["value"] == VARIABLES["store"]


def test_the_container_runs_the_flow_run_without_an_entry_point():
    container = container_group()["properties"]["containers"][0]["properties"]
    assert container["command"] == ["python", "-m", "flows.relay", "prefect", "flow-run", "execute"]
    own = container_group(command="python -m flows devices score")["properties"]["containers"][0]
    assert own["properties"]["command"] == ["python", "-m", "flows", "devices", "score"]


def test_cores_memory_and_priority_are_a_deployments_own():
    configuration = configured(cpu=4, memory=16, priority="Spot")
    (group,) = configuration.arm_template["resources"]
    container = group["properties"]["containers"][0]["properties"]
    assert container["resources"]["requests"] == {"cpu": 4, "memoryInGB": 16}
    assert group["properties"]["priority"] == "[parameters('priority')]"
    assert configuration.arm_template["parameters"]["priority"]["defaultValue"] == "Spot"
    assert configured().arm_template["parameters"]["priority"]["defaultValue"] == "Regular"
    assert configured().task_start_timeout_seconds >= 600


def test_a_subnet_is_there_only_where_one_is_given():
    assert "subnetIds" not in container_group()["properties"]
    subnet = f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v/subnets/s"
    properties = container_group(subnet_ids=[subnet], dns_servers=["10.0.0.4"])["properties"]
    assert properties["subnetIds"] == [{"id": subnet}]
    assert properties["dnsConfig"] == {"nameServers": ["10.0.0.4"]}


def test_the_output_goes_to_the_rule_by_the_identity_and_no_key_is_looked_up():
    rule = {"log_endpoint": "https://e.ingest.monitor.azure.com", "log_rule": "dcr-1"}
    variables = environment(container_group(**rule))
    assert variables["ALMANAC_LOG_ENDPOINT"]["value"] == rule["log_endpoint"]
    assert variables["ALMANAC_LOG_RULE"]["value"] == rule["log_rule"]
    assert "listKeys" not in json.dumps(TEMPLATE)


def test_a_deployments_environment_comes_to_that_of_the_pool_and_keys_of_the_server_are_secure(monkeypatch):
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, temporary_settings

    with temporary_settings({PREFECT_API_KEY: "known-to-nobody", PREFECT_API_AUTH_STRING: "user:word"}):
        group = container_group(env={"ALMANAC_SCHEDULER": "tcp://10.0.0.5:8786"})
    variables = environment(group)
    assert variables["ALMANAC_SCHEDULER"]["value"] == "tcp://10.0.0.5:8786"
    assert variables["AZURE_CLIENT_ID"]["value"] == VARIABLES["identity_client_id"]
    assert variables["PREFECT_API_KEY"] == {"name": "PREFECT_API_KEY", "secureValue": "known-to-nobody"}
    assert variables["PREFECT_API_AUTH_STRING"] == {
        "name": "PREFECT_API_AUTH_STRING",
        "secureValue": "user:word",
    }
    readable = json.dumps([v for v in variables.values() if "value" in v])
    assert "known-to-nobody" not in readable
    assert "user:word" not in readable


def test_a_pool_of_processes_has_prefects_own_template_with_an_image():
    template, containers = template_of("process"), template_of("azure-container-instance")
    own = ProcessWorker.get_default_base_job_template()
    assert template["job_configuration"] == own["job_configuration"]
    assert template["variables"]["properties"].keys() - own["variables"]["properties"].keys() == {"image"}
    assert containers == TEMPLATE
