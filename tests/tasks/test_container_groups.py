"""What runs leave behind in a resource group, with the real clients; only Azure is simulated."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.flows import flow
from prefect.states import Completed, Running

from tasks.housekeeping import container_groups
from tasks.housekeeping.container_groups import (
    AzureError,
    expire_deployment_records,
    orphaned_container_groups,
)
from tests import steps
from tests.azure_permissions import granted
from tests.resource_manager import ResourceManager, serving

GROUP = "/subscriptions/0000/resourceGroups/almanac"
NOW = datetime.now(UTC)


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResourceManager]:
    """The simulated Azure, the only one that the clients reach."""
    from azure.core.pipeline.policies import SansIOHTTPPolicy
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient
    from azure.mgmt.resource import ResourceManagementClient

    with serving(tmp_path) as manager:

        def played(subscription: str):
            options = {"base_url": manager.url, "authentication_policy": SansIOHTTPPolicy(), "retry_total": 2}
            return tuple(
                kind(object(), subscription, **options)
                for kind in (ResourceManagementClient, ContainerInstanceManagementClient)
            )

        monkeypatch.setattr(container_groups, "clients", played)
        manager.may = granted("runs")
        yield manager


def record(flow: str = "devices-score") -> str:
    return f"prefect-{flow}-{uuid4()}"


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def expire(days: int = 7, *, dry_run: bool) -> list[str]:
    return expire_deployment_records.fn(GROUP, days, NOW, dry_run=dry_run)


def test_old_records_of_runs_go_and_no_others(azure, without_run_logger):
    old = {record(): ("Succeeded", ago(8 + day)) for day in range(4)} | {record(): ("Failed", ago(30))}
    recent = {
        record(): ("Succeeded", ago(6)),
        record(): ("Running", ago(9)),
        "almanac": ("Succeeded", ago(300)),
        "prefect-server-of-ours": ("Succeeded", ago(300)),
        f"other-{uuid4()}": ("Succeeded", ago(300)),
    }
    azure.records = old | recent
    assert expire(dry_run=True) == sorted(old)
    assert azure.records == old | recent
    assert azure.asked["DELETE deployment"] == 0
    assert expire(dry_run=False) == sorted(old)
    assert azure.records == recent
    assert expire(dry_run=False) == []


def test_records_are_deleted_while_azure_fails_now_and_then(azure, without_run_logger):
    azure.records = {record(): ("Succeeded", ago(8)) for _ in range(3)}
    azure.refuse = {"GET list": 1, "DELETE deployment": 1}
    assert len(expire(dry_run=False)) == 3
    assert azure.records == {}


def test_what_azure_refuses_is_told_with_what_to_do(azure, without_run_logger):
    azure.refuse = {"GET list": 1_000}
    with pytest.raises(AzureError, match="Expected an identity that may read container groups"):
        expire(dry_run=False)


def test_a_group_that_is_not_a_resource_id_is_told(without_run_logger):
    with pytest.raises(AzureError, match="Expected /subscriptions/ID/resourceGroups/NAME"):
        expire_deployment_records.fn("almanac", 7, NOW, dry_run=True)


# against a Prefect server


@flow(name="in-a-container")
def in_a_container() -> None:
    """Stands for a flow whose container group is inspected."""


@pytest.mark.slow
def test_container_groups_whose_run_is_over_or_unknown_are_reported(azure, prefect_api, command, store):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        running, over = (client.create_flow_run(in_a_container).id for _ in range(2))
        client.set_flow_run_state(running, Running(), force=True)
        client.set_flow_run_state(over, Completed(), force=True)
    stray = uuid4()
    azure.left = ["almanac-worker", *(f"in-a-container-{one}" for one in (running, over, stray))]
    azure.records = {record(): ("Succeeded", ago(8)), "almanac": ("Succeeded", ago(300))}

    later = datetime.now(UTC) + timedelta(hours=2)
    groups = orphaned_container_groups.fn(GROUP, later)
    output = {one["group"]: (one["run"], bool(one["since"])) for one in groups}
    assert output == {
        f"in-a-container-{over}": ("Completed", True),
        f"in-a-container-{stray}": ("unknown", False),
    }

    steps.put(store)
    words = ("housekeeping", "--store", store.uri, "--resource-group", GROUP, "--json")
    output = command(*words, "--dry-run")
    assert output.status == 0, output.err
    assert (output.json["dry_run"], output.json["deployment_records"]) == (True, 1)
    assert [one["run"] for one in output.json["orphaned_container_groups"]] == ["unknown"]
    assert len(azure.records) == 2
    assert command(*words).json["deployment_records"] == 1
    assert list(azure.records) == ["almanac"]
    assert len(azure.left) == 4
    wrong = command("housekeeping", "--store", store.uri, "--resource-group", "almanac")
    assert wrong.status == 1
    assert "Expected /subscriptions/ID/resourceGroups/NAME" in wrong.err
