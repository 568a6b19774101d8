"""Every resource of the templates, with every combination of parameters, against Azure's published schemas.

They lie beside the project, see `ALMANAC_AZURE_SCHEMAS`; without them the tests are skipped.
"""

import itertools
import json
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from tests.arm import GROUP, Template
from tests.conftest import ROOT
from tests.deployments.test_azure_template import EXISTING, OWN, TEMPLATE
from tests.deployments.test_container_pool import configured

SCHEMAS = Path(os.environ.get("ALMANAC_AZURE_SCHEMAS", ROOT.parent / "shared" / "azure-schemas"))
FILES = {
    "Microsoft.Network": "Microsoft.Network.NRP",
    "Microsoft.Network/privateDnsZones": "Microsoft.Network.privateDns",
}

COMBINATIONS = [
    {**server, **image, **key, "storageSku": sku}
    for server, image, key, sku in itertools.product(
        ({**OWN}, {**EXISTING}),
        ({"workerImage": ""}, {"workerImage": "almanac-worker:1"}),
        ({"prefectApiKey": ""}, {"prefectApiKey": "key"}),
        TEMPLATE["parameters"]["storageSku"]["allowedValues"],
    )
] + [
    {**one, **other}
    for one, other in itertools.product(
        (OWN, EXISTING),
        (
            {"prefectAuthString": ""},
            {"prefectAuthString": "admin:word"},
            {"closed": True},
            {"closed": True, "building": True, "workerImage": ""},
        ),
    )
]

RUNS = [
    {name: value for one in options for name, value in one.items()}
    for options in itertools.product(
        ({}, {"subnet_ids": [f"{GROUP}/providers/Microsoft.Network/virtualNetworks/v/subnets/s"]}),
        ({}, {"dns_servers": ["10.20.0.10"]}),
        ({}, {"log_endpoint": "https://e.ingest.monitor.azure.com", "log_rule": "dcr-1"}),
        ({}, {"priority": "Spot"}),
        ({}, {"cpu": 0.5, "memory": 1.5}),
        ({}, {"env": {"ALMANAC_SCHEDULER": "tls://10.20.0.4:8786"}, "command": "python -m flows health"}),
    )
]

pytestmark = pytest.mark.skipif(not SCHEMAS.exists(), reason=f"no Azure schemas at {SCHEMAS}")


@cache
def registry() -> Registry:
    schemas = [json.loads(path.read_text()) for path in SCHEMAS.glob("*/*.json")]
    return Registry().with_resources(
        (one["id"].rstrip("#"), Resource(contents=one, specification=DRAFT4)) for one in schemas
    )


@cache
def schema_of(kind: str, version: str) -> tuple[str, str]:
    """The schema of a resource type, and the place of the type in it."""
    provider, *names = kind.split("/")
    name = FILES.get(f"{provider}/{names[0]}", FILES.get(provider, provider))
    path = SCHEMAS / version / f"{name}.json"
    assert path.exists(), f"no schema of {kind} in API {version}"
    content = json.loads(path.read_text())
    group = next(
        group
        for group in ("resourceDefinitions", "extension_resourceDefinitions", "unknown_resourceDefinitions",
                      "subscription_resourceDefinitions", "resourceGroup_resourceDefinitions")
        if "_".join(names) in content.get(group, {})
    )  # fmt: skip
    return content["id"].rstrip("#"), f"/{group}/{'_'.join(names)}"


def faults(resource: dict[str, Any]) -> list[str]:
    """The errors that the schema of a resource's API version finds in it.

    A null is left out, as Azure does. Three faults are the schemas': they know some children by the last part of the name,
    have every REST `double`, such as the cores of a container, as a whole number, and list only Azure's own streams of a
    data collection rule, whose REST specification also admits others.
    """
    whole, last = resource["name"], resource["name"].split("/")[-1]
    return min((_faults({**resource, "name": name}) for name in (whole, last)), key=len)


def _faults(resource: dict[str, Any]) -> list[str]:
    uri, pointer = schema_of(resource["type"], resource["apiVersion"])
    validator = Draft4Validator({"$ref": f"{uri}#{pointer}"}, registry=registry())
    errors = [best_match([error]) for error in validator.iter_errors(comparable(resource))]
    return [
        f"{resource['type']}: {'/'.join(map(str, one.absolute_path))}: {one.message[:300]}" for one in errors
    ]


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): comparable(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    if isinstance(value, float):
        return math.ceil(value)
    if isinstance(value, str):
        return "Microsoft-Event" if value.startswith("Custom-") else str(value)
    return value


@pytest.mark.parametrize("parameters", COMBINATIONS, ids=str)
def test_every_resource_is_valid_in_the_api_version_that_it_names(parameters):
    resources = Template(TEMPLATE, **parameters).resources()
    assert [fault for one in resources for fault in faults(one)] == []


@pytest.mark.slow
@pytest.mark.parametrize("values", RUNS, ids=str)
def test_the_container_group_of_a_run_is_valid_in_the_api_version_that_it_names(values):
    template = Template(configured(**values).arm_template, container_group_name="sales-forecast-1")
    (group,) = template.resources()
    assert faults(group) == []
    properties = group["properties"]
    assert ("subnetIds" in properties, "dnsConfig" in properties) == (
        "subnet_ids" in values,
        "dns_servers" in values,
    )
    assert faults({**group, "properties": {**properties, "osType": "BeOS"}})


def test_a_property_of_a_wrong_type_is_a_fault():
    (zone,) = [
        one for one in Template(TEMPLATE, **OWN).resources() if one["type"].endswith("/privateDnsZones")
    ]
    assert faults({name: value for name, value in zone.items() if name != "properties"})
    assert faults({**zone, "location": 7})
