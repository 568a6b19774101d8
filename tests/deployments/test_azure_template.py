"""The template of everything in Azure: what it refers to exists, roles are minimal, and no secret is in plain text."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from graphlib import TopologicalSorter
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deployments.pool_template import TemplateError, with_defaults
from tests.arm import Template, resource_id
from tests.conftest import ROOT
from tests.deployments.test_container_pool import TEMPLATE as POOL

TEMPLATE = json.loads((ROOT / "deployments/azure/main.json").read_text())
RESOURCES = TEMPLATE["resources"]
CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
RULES = "Microsoft.Insights/dataCollectionRules"
IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"

ROLES = {
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "Monitoring Metrics Publisher": "3913510d-42f4-4e42-8a64-420c390055eb",
    "Managed Identity Operator": "f1a07417-d97a-45cb-824c-7a7467783830",
}
"""Built-in roles by the ids that every tenant has."""


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, keys included, with its place."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from strings(inner, f"{path}[{number}]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}", key
            yield from strings(inner, f"{path}.{key}")


def of_type(kind: str) -> list[dict[str, Any]]:
    return [resource for resource in RESOURCES if resource["type"] == kind]


def the(kind: str) -> dict[str, Any]:
    (one,) = of_type(kind)
    return one


OWN = {
    "selfHosted": True,
    "workerImage": "almanac-worker:1",
    "postgresqlPassword": "pass:word/",
    "prefectAuthString": "admin:word",
}
EXISTING = {
    "workerImage": "almanac-worker:1",
    "prefectApiUrl": "https://prefect.example/api",
    "prefectApiKey": "the-key",
}
CASES = {
    "first": {},
    "existing server": EXISTING,
    "own server": OWN,
    "closed": {**EXISTING, "closed": True},
}
both = pytest.mark.parametrize(
    "template", [Template(TEMPLATE, **given) for given in CASES.values()], ids=CASES
)


# What the template refers to


def test_every_resource_has_a_type_a_version_and_a_name_of_its_own():
    for resource in RESOURCES:
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", resource["apiVersion"]), resource["type"]
        assert resource["type"].startswith("Microsoft.")
    names = [(r["type"], r["name"], r.get("scope")) for r in RESOURCES]
    assert len(set(names)) == len(names)


def test_parameters_and_variables_are_declared_and_used():
    text = json.dumps({key: TEMPLATE[key] for key in ("variables", "resources", "outputs")})
    for kind in ("parameters", "variables"):
        names = set(re.findall(rf"{kind}\('(\w+)'\)", text))
        assert names == set(TEMPLATE[kind]), kind
    assert all(one["metadata"]["description"] for one in TEMPLATE["parameters"].values())


@both
def test_every_expression_can_be_evaluated(template):
    assert len(template.resources()) >= 15
    outputs = template.value(TEMPLATE["outputs"])
    assert not re.search(r"(parameters|variables|resourceId)\(", json.dumps([template.resources(), outputs]))


def test_variables_do_not_ask_for_what_is_known_only_at_run_time():
    for name, text in strings(TEMPLATE["variables"]):
        assert "reference(" not in text, name
        assert "listKeys(" not in text, name


@both
def test_what_a_resource_waits_for_and_what_is_looked_up_is_made_by_the_template(template):
    resources = template.resources()
    ids = {resource["id"] for resource in resources}
    every = ids | {resource["id"] for resource in Template(TEMPLATE, **OWN).resources()}
    template.value(TEMPLATE["outputs"])
    assert set(template.looked_up) <= ids
    assert {name for resource in resources for name in resource.get("dependsOn", [])} <= every


@both
def test_a_resource_waits_for_every_other_that_it_looks_up_or_belongs_to(template):
    for resource in TEMPLATE["resources"]:
        if not template.value(resource.get("condition", True)):
            continue
        template.looked_up.clear()
        whole = template.value({key: value for key, value in resource.items() if key != "condition"})
        waits = set(whole.get("dependsOn", []))
        assert set(template.looked_up) <= waits, whole["name"]
        assert whole.get("scope") in {None, *waits}, whole["name"]
        kind, name = whole["type"].split("/"), whole["name"].split("/")
        if len(name) > 1:
            assert resource_id("/".join(kind[:-1]), *name[:-1]) in waits, whole["name"]


@both
def test_no_resource_waits_for_itself_in_a_circle(template):
    waits = {resource["id"]: set(resource.get("dependsOn", [])) for resource in template.resources()}
    assert tuple(TopologicalSorter(waits).static_order())


@pytest.mark.parametrize("name", ["alm", "almanac", "abcdefghijk"])
def test_names_are_as_long_as_azure_takes_them(name):
    names = {r["type"]: r["name"] for r in Template(TEMPLATE, name=name, **OWN).resources()}
    assert re.fullmatch(r"[a-z0-9]{3,24}", names["Microsoft.Storage/storageAccounts"])
    assert re.fullmatch(r"[a-z0-9]{5,50}", names["Microsoft.ContainerRegistry/registries"])
    assert re.fullmatch(
        r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", names["Microsoft.DBforPostgreSQL/flexibleServers"]
    )
    assert re.fullmatch(
        r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", names["Microsoft.ContainerInstance/containerGroups"]
    )
    assert names["Microsoft.Network/privateDnsZones"].endswith(".postgres.database.azure.com")


# Secrets


def test_secrets_are_secure_parameters_without_a_value():
    for name, parameter in TEMPLATE["parameters"].items():
        if re.search(r"key|password|auth|secret|token", name, re.I):
            assert parameter["type"] == "securestring", name
            assert parameter["defaultValue"] == ""


def test_secure_parameters_go_nowhere_but_into_secure_values():
    secure = [name for name, one in TEMPLATE["parameters"].items() if one["type"] == "securestring"]
    secure_variables = ["keyEnvironment", "authEnvironment"]
    assert len(secure) == 3
    for path, text in strings(TEMPLATE["resources"]):
        if any(f"parameters('{name}')" in text for name in secure):
            assert path.endswith((".secureValue", ".administratorLoginPassword")), path
        if any(f"variables('{name}')" in text for name in secure_variables):
            assert path.endswith(".environmentVariables"), path
    for name in secure_variables:
        assert re.search(r"'secureValue', parameters\('\w+'\)\)", TEMPLATE["variables"][name])
    for name, text in strings(TEMPLATE["variables"]):
        if any(f"parameters('{one}')" in text for one in secure):
            assert name.strip(".") in secure_variables
    assert not any(
        f"parameters('{name}')" in text for name in secure for _, text in strings(TEMPLATE["outputs"])
    )


def test_no_output_holds_a_key():
    assert "listKeys" not in json.dumps(TEMPLATE["outputs"])
    assert all(output["type"] in ("string", "object") for output in TEMPLATE["outputs"].values())


# What is built


def test_the_store_has_folders_and_is_neither_public_nor_opened_by_keys():
    account = the("Microsoft.Storage/storageAccounts")
    assert account["kind"] == "StorageV2"
    properties = account["properties"]
    assert properties["isHnsEnabled"] is True
    assert properties["minimumTlsVersion"] == "TLS1_2"
    assert properties["supportsHttpsTrafficOnly"] is True
    assert properties["allowBlobPublicAccess"] is False
    assert properties["allowSharedKeyAccess"] is False
    assert (
        the("Microsoft.Storage/storageAccounts/blobServices/containers")["properties"]["publicAccess"]
        == "None"
    )
    assert the("Microsoft.ContainerRegistry/registries")["properties"]["adminUserEnabled"] is False


def test_roles_are_known_and_as_narrow_as_can_be():
    roles = {
        "storageBlobDataContributor": ("Storage Blob Data Contributor", CONTAINERS, {"runs"}),
        "monitoringMetricsPublisher": ("Monitoring Metrics Publisher", RULES, {"runs"}),
        "acrPull": ("AcrPull", "Microsoft.ContainerRegistry/registries", {"runs", "worker"}),
        "managedIdentityOperator": ("Managed Identity Operator", IDENTITIES, {"worker"}),
    }  # fmt: skip
    assignments = of_type("Microsoft.Authorization/roleAssignments")
    for variable, (name, scope, who) in roles.items():
        assert ROLES[name] in TEMPLATE["variables"][variable]
        role_assignments = [a for a in assignments if variable in a["properties"]["roleDefinitionId"]]
        assert {
            re.search(r"variables\('(\w+)'\)\), '2023", a["properties"]["principalId"])[1]
            for a in role_assignments
        } == who
        assert all(f"'{scope}'" in a["scope"] for a in role_assignments)
    ids = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", json.dumps(TEMPLATE))
    assert set(ids) == set(ROLES.values())
    on_the_group = [a for a in assignments if "scope" not in a]
    assert len(on_the_group) == len(assignments) - 5 == 2
    assert all("Role'))" in a["properties"]["roleDefinitionId"] for a in on_the_group)


def test_roles_of_our_own_can_do_what_is_needed_and_neither_give_roles_nor_read_data():
    roles = of_type("Microsoft.Authorization/roleDefinitions")
    actions = {role["name"]: role["properties"]["permissions"][0]["actions"] for role in roles}
    for role in roles:
        assert role["properties"]["assignableScopes"] == ["[resourceGroup().id]"]
        assert role["properties"]["permissions"][0]["dataActions"] == []
    for granted in actions.values():
        assert not [a for a in granted if "*" in a or a.startswith("Microsoft.Authorization")]
    worker, housekeeping = actions["[variables('workerRole')]"], actions["[variables('housekeepingRole')]"]
    groups, records = "Microsoft.ContainerInstance/containerGroups", "Microsoft.Resources/deployments"
    assert {f"{groups}/{verb}" for verb in ("read", "write", "delete")} <= set(worker)
    assert {f"{records}/{verb}" for verb in ("read", "write", "delete", "operationstatuses/read")} <= set(
        worker
    )
    assert f"{records}/delete" in housekeeping
    assert not [a for a in housekeeping if a.endswith("/write")]


def test_between_runs_only_the_worker_runs_unless_the_server_is_our_own():
    (worker,) = [r for r in of_type("Microsoft.ContainerInstance/containerGroups") if "'worker'" in r["name"]]
    (server,) = [r for r in of_type("Microsoft.ContainerInstance/containerGroups") if "'server'" in r["name"]]
    assert worker["condition"] == "[not(empty(parameters('workerImage')))]"
    assert "parameters('selfHosted')" in server["condition"]
    request = worker["properties"]["containers"][0]["properties"]["resources"]["requests"]
    assert (request["cpu"], request["memoryInGB"]) == (1, 1), "the least of a container group"
    assert worker["properties"]["restartPolicy"] == "Always"
    assert not TEMPLATE["parameters"]["selfHosted"]["defaultValue"]
    for resource in RESOURCES:
        if resource["type"].startswith(("Microsoft.Network/", "Microsoft.DBforPostgreSQL/")):
            assert resource["condition"] in ("[parameters('selfHosted')]", "[variables('inNetwork')]")
    there = {one["type"].partition("/")[0] for one in Template(TEMPLATE, **EXISTING).resources()}
    assert not there & {"Microsoft.Network", "Microsoft.DBforPostgreSQL"}


def test_closed_the_store_answers_the_subnet_of_the_runs_only_and_the_registry_no_address():
    def made(**parameters):
        resources = {one["type"]: one for one in Template(TEMPLATE, **EXISTING, **parameters).resources()}
        return (
            resources["Microsoft.Storage/storageAccounts"]["properties"]["networkAcls"],
            resources["Microsoft.ContainerRegistry/registries"],
            resources.get("Microsoft.Network/virtualNetworks"),
        )

    store, registry, network = made()
    assert (store["defaultAction"], registry["sku"]["name"], network) == ("Allow", "Basic", None)
    store, registry, network = made(closed=True)
    (subnet,) = [one for one in network["properties"]["subnets"] if one["name"] == "containers"]
    assert (store["defaultAction"], store["bypass"]) == ("Deny", "None")
    assert [rule["id"] for rule in store["virtualNetworkRules"]] == [f"{network['id']}/subnets/containers"]
    assert subnet["properties"]["serviceEndpoints"] == [{"service": "Microsoft.Storage"}]
    assert subnet["properties"]["natGateway"], "a run reaches the Prefect server and Azure through it"
    rules = registry["properties"]["networkRuleSet"]
    assert (registry["sku"]["name"], rules) == ("Premium", {"defaultAction": "Deny", "ipRules": []})
    assert registry["properties"]["networkRuleBypassOptions"] == "AzureServices", "groups pull by identity"
    _, registry, _ = made(closed=True, building=True)
    assert registry["properties"]["networkRuleSet"]["defaultAction"] == "Allow"
    variables = Template(TEMPLATE, **EXISTING, closed=True).value(
        TEMPLATE["outputs"]["poolVariables"]["value"]
    )
    assert variables["subnet_ids"] == [f"{network['id']}/subnets/containers"]


def test_a_server_of_our_own_and_its_database_have_no_public_address():
    (server,) = [r for r in of_type("Microsoft.ContainerInstance/containerGroups") if "'server'" in r["name"]]
    assert server["properties"]["ipAddress"]["type"] == "Private"
    database = the("Microsoft.DBforPostgreSQL/flexibleServers")["properties"]["network"]
    assert database["delegatedSubnetResourceId"] == "[variables('databaseSubnet')]"
    subnets = the("Microsoft.Network/virtualNetworks")["properties"]["subnets"]
    assert {s["name"]: s["properties"]["delegations"][0]["properties"]["serviceName"] for s in subnets} == {
        "containers": "Microsoft.ContainerInstance/containerGroups",
        "database": "Microsoft.DBforPostgreSQL/flexibleServers",
    }
    variables = TEMPLATE["variables"]
    assert "'containers')" in variables["containerSubnet"]
    assert "'database')" in variables["databaseSubnet"]


VERIFIES = """
import asyncio, ssl
from unittest.mock import patch
from prefect.server.database.dependencies import provide_database_interface
with patch("prefect.server.database.configurations.create_async_engine") as create:
    asyncio.run(provide_database_interface().engine())
context = create.call_args.kwargs["connect_args"]["ssl"]
print(context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname and bool(context.get_ca_certs()))
"""


def server_environment() -> dict[str, str]:
    """The environment of the Prefect server in Azure."""
    (group,) = [one for one in Template(TEMPLATE, **OWN).resources() if one["name"] == "almanac-server"]
    (container,) = group["properties"]["containers"]
    variables = container["properties"]["environmentVariables"]
    return {one["name"]: one.get("value", one.get("secureValue")) for one in variables}


@pytest.mark.slow
def test_the_server_sends_the_password_of_its_database_over_a_verified_connection_only(tmp_path):
    variables = server_environment() | {"PREFECT_HOME": str(tmp_path)}
    words = [sys.executable, "-c", VERIFIES]
    process = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1:] == ["True"], process.stderr


ANSWERS = """
import json
from fastapi.testclient import TestClient
from prefect.server.api.server import create_app
client = TestClient(create_app(), base_url="http://10.20.0.4:4200")
asked = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
allowed = client.options("/api/deployments/filter", headers=asked).headers.get("access-control-allow-origin")
print(json.dumps([allowed, client.get("/ui-settings").json()["api_url"]]))
"""


@pytest.mark.slow
def test_the_server_answers_no_other_web_page_and_its_ui_asks_the_address_that_it_came_from(tmp_path):
    variables = server_environment()
    del variables["PREFECT_API_DATABASE_CONNECTION_URL"]
    process = subprocess.run(
        [sys.executable, "-c", ANSWERS],
        env={**variables, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [None, "/api"]


def test_container_groups_write_to_the_workspace_and_pull_by_identity():
    for group in of_type("Microsoft.ContainerInstance/containerGroups"):
        logs = group["properties"]["diagnostics"]["logAnalytics"]
        assert logs["workspaceKey"].startswith("[listKeys(")
        assert "password" not in group["properties"]["imageRegistryCredentials"][0]
        assert (
            group["properties"]["imageRegistryCredentials"][0]["identity"]
            in group["identity"]["userAssignedIdentities"]
        )


def workers_environment(parameters):
    groups = [
        r
        for r in Template(TEMPLATE, **parameters).resources()
        if r["name"] == "almanac-worker" and "/containerGroups" in r["type"]
    ]
    (container,) = groups[0]["properties"]["containers"]
    return {one["name"]: one for one in container["properties"]["environmentVariables"]}, groups[0]


def test_the_worker_answers_for_its_health_on_loopback_only_and_its_probe_asks_there():
    variables, group = workers_environment(EXISTING)
    assert variables["PREFECT_WORKER_WEBSERVER_HOST"]["value"] == "127.0.0.1"
    probe = group["properties"]["containers"][0]["properties"]["livenessProbe"]
    assert probe["timeoutSeconds"] > 5, "Azure's default is a second"
    statuses = [200, 503]

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        python, *words = probe["exec"]["command"]
        command = [sys.executable, *(word.replace(":8080/", f":{server.server_port}/") for word in words)]
        codes = [subprocess.run(command, stderr=subprocess.DEVNULL).returncode for _ in range(2)]
        server.shutdown()
    assert python == "python"
    assert (codes[0], bool(codes[1])) == (0, True)


def test_the_worker_is_told_where_the_server_is_and_its_keys_securely():
    existing, group = workers_environment(EXISTING)
    assert existing["PREFECT_API_URL"]["value"] == "https://prefect.example/api"
    assert existing["PREFECT_API_KEY"] == {"name": "PREFECT_API_KEY", "secureValue": "the-key"}
    assert "PREFECT_API_AUTH_STRING" not in existing
    assert group["properties"]["subnetIds"] is None
    own, group = workers_environment(OWN)
    assert re.fullmatch(
        r"http://reference .*/almanac-server\.ipAddress\.ip:4200/api", own["PREFECT_API_URL"]["value"]
    )
    assert own["PREFECT_API_AUTH_STRING"]["secureValue"] == "admin:word"
    assert group["properties"]["subnetIds"][0]["id"].endswith("/subnets/containers")


def test_a_password_with_any_character_reaches_the_database():
    from sqlalchemy import make_url

    url = make_url(server_environment()["PREFECT_API_DATABASE_CONNECTION_URL"])
    assert url.password == OWN["postgresqlPassword"]
    assert url.host.endswith(".postgres.database.azure.com")


# What the pool is told


def test_the_template_gives_the_pool_every_value_that_it_needs():
    variables = TEMPLATE["outputs"]["poolVariables"]["value"]
    assert set(POOL["variables"]["required"]) <= set(variables) <= set(POOL["variables"]["properties"])
    assert with_defaults(POOL, variables)["variables"]["required"] == []


@both
def test_what_the_pool_is_told_is_what_was_made(template):
    ids = {resource["id"] for resource in template.resources()}
    of = {one["type"].split("/")[-1]: one["id"] for one in template.resources()}
    variables = template.value(TEMPLATE["outputs"])["poolVariables"]["value"]
    assert variables["identity"] in ids
    assert variables["log_endpoint"] == f"reference {of['dataCollectionEndpoints']}.logsIngestion.endpoint"
    assert variables["log_rule"] == f"reference {of['dataCollectionRules']}.immutableId"
    account = next(
        r["name"] for r in template.resources() if r["type"] == "Microsoft.Storage/storageAccounts"
    )
    assert variables["store"] == f"abfss://almanac@{account}.dfs.core.windows.net/store"
    parameters = template.parameters
    assert bool(variables["subnet_ids"]) == (parameters["selfHosted"] or parameters["closed"])


def test_a_filled_template_has_values_as_defaults_and_is_otherwise_the_same():
    values = {"image": "r.azurecr.io/almanac:2", "subnet_ids": None}
    template = with_defaults(POOL, values)
    variables = template["variables"]["properties"]
    assert variables["image"]["default"] == "r.azurecr.io/almanac:2"
    assert variables["subnet_ids"] == POOL["variables"]["properties"]["subnet_ids"]
    assert set(POOL["variables"]["required"]) - set(template["variables"]["required"]) == {"image"}
    assert template["job_configuration"] == POOL["job_configuration"]
    assert "default" not in POOL["variables"]["properties"]["image"]


def test_a_value_without_a_variable_is_an_error_that_names_it():
    with pytest.raises(TemplateError, match="imgae: not a variable"):
        with_defaults(POOL, {"imgae": "x"})
