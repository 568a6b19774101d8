"""The whole story of the Azure template against a subscription that refuses what Azure would refuse."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tests.deployments.test_azure_permissions import BODY, DEPLOYMENTS
from tests.deployments.test_azure_schemas import SCHEMAS, faults
from tests.resource_manager import MOST_RECORDS, ResourceManager
from tests.subscription import Refusal, Subscription, answering

EXISTING = ("--prefect-api-url", "https://prefect.example/api")
SECRETS = {"POSTGRESQL_PASSWORD": "word", "PREFECT_API_AUTH_STRING": "u:word"}


@cache
def faults_of(resource: str) -> list[str]:
    return faults(json.loads(resource))


@pytest.fixture
def azure(tmp_path):
    """`deploy(*words)` and `delete(*words)` run the scripts; `subscription` is what they change."""
    subscription = Subscription(ResourceManager(tmp_path, pulls=False))
    if SCHEMAS.exists():
        subscription.faults = lambda resource: faults_of(json.dumps(resource, sort_keys=True))
    with answering(subscription, tmp_path) as environment:

        def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
            path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
            return subprocess.run(
                [ROOT / "deployments/azure" / script, "--resource-group", "g", "--yes", *words],
                cwd=tmp_path,
                env={**path, **environment, **SECRETS},
                capture_output=True,
                text=True,
                timeout=120,
            )

        def deploy(tag: str, *words: str) -> subprocess.CompletedProcess[str]:
            return run("deploy.sh", "--location", "westeurope", "--tag", tag, *words)

        yield SimpleNamespace(
            subscription=subscription, deploy=deploy, delete=lambda *words: run("delete.sh", *words)
        )


def run_flows(subscription: Subscription, count: int) -> None:
    """Deploy the container groups of runs as the worker does, an hour each; each must be accepted."""
    manager = subscription.manager
    manager.may = subscription.worker_may()
    for number in range(count):
        name = f"prefect-run-{number}"
        status, answer, _ = manager.answer("PUT", f"{DEPLOYMENTS}/{name}", BODY)
        assert status == 201, answer
        del manager.deployments[name]
        manager.records[name] = ("Succeeded", datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [EXISTING, ("--self-hosted", "--closed")], ids=["existing", "self-hosted closed"]
)
def test_deployed_run_nine_hundred_times_deleted_and_deployed_again(azure, words):
    subscription = azure.subscription
    for tag in ("one", "two"):
        output = azure.deploy(tag, *words)
        assert output.returncode == 0, output.stderr
        assert any(image.endswith(f"almanac-worker:{tag}") for image in subscription.images)
    run_flows(subscription, 900)
    assert 0 < len(subscription.manager.records) <= MOST_RECORDS

    kept = azure.delete("--keep-store")
    assert kept.returncode == 0, kept.stderr
    kinds = {one["type"].partition("/")[0] for one in subscription.resources.values()}
    assert kinds == {"Microsoft.Storage", "Microsoft.ManagedIdentity"}
    assert subscription.roles == {}
    assert any(one.startswith("InUse") for one in subscription.refusals), "deleted in a later round"
    output = azure.deploy("three", *words)
    assert output.returncode == 0, output.stderr
    run_flows(subscription, 1)

    deleted = azure.delete()
    assert deleted.returncode == 0, deleted.stderr
    assert (subscription.resources, subscription.roles) == (None, {})
    output = azure.deploy("four", *words)
    assert output.returncode == 0, output.stderr
    run_flows(subscription, 1)


def test_what_azure_refuses_stops_the_deployment_with_its_message(azure):
    subscription = azure.subscription
    assert azure.deploy("one", *EXISTING).returncode == 0

    def refused(message: str) -> None:
        output = azure.deploy("two", *EXISTING)
        assert output.returncode != 0
        assert message in output.stderr
        assert "The work pool's template" not in output.stdout

    identity = next(i for i in subscription.resources if i.endswith("-runs"))
    subscription.az(["resource", "delete", "--ids", identity])
    refused("RoleAssignmentUpdateNotPermitted")
    subscription.principals[identity] -= 1
    subscription.cores = 0.1
    refused("ContainerGroupQuotaReached")
    subscription.cores = 10
    subscription.taken |= {one["name"] for one in subscription.resources.values()}
    refused("AlreadyTaken")
    subscription.taken.clear()
    subscription.manager.records |= {str(n): ("Succeeded", datetime.now(UTC)) for n in range(MOST_RECORDS)}
    refused("DeploymentQuotaExceeded")


def test_a_registry_that_was_opened_to_build_images_is_closed_again_if_one_cannot_be_built(
    azure, monkeypatch
):
    def fail(_: object) -> None:
        raise Refusal("the build failed")

    monkeypatch.setattr(azure.subscription, "_acr_build", fail)
    output = azure.deploy("one", *EXISTING, "--closed")
    assert output.returncode != 0
    assert "The registry is closed again." in output.stderr
    (registry,) = [
        one for one in azure.subscription.resources.values() if one["type"].endswith("/registries")
    ]
    assert registry["properties"]["networkRuleSet"]["defaultAction"] == "Deny"


@pytest.mark.skipif(not SCHEMAS.exists(), reason=f"no Azure schemas at {SCHEMAS}")
def test_a_resource_that_is_not_valid_is_refused(azure, tmp_path):
    template = (ROOT / "deployments/azure/main.json").read_text().replace('"StorageV2"', "7")
    path = Path(tmp_path, "main.json")
    path.write_text(template)
    words = ["deployment", "group", "create", "--name", "x", "--template-file", str(path), "--parameters"]
    azure.subscription.az(["group", "create", "--name", "g"])
    with pytest.raises(Exception, match="InvalidTemplate"):
        azure.subscription.az([*words, "prefectApiUrl=https://prefect.example/api"])
