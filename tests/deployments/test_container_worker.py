"""The real container worker on a real Prefect server; only Azure is simulated, and a container is a process."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tasks.registry import ledger
from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT, wait_until
from tests.deployments.test_container_pool import TEMPLATE, VARIABLES, environment
from tests.deployments.test_docs import ENDED
from tests.resource_manager import ResourceManager, kill, resolved, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "the-key-of-the-server"


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResourceManager]:
    """The simulated Azure, the only one that the worker's clients reach."""
    from azure.core.pipeline.policies import SansIOHTTPPolicy
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient
    from azure.mgmt.resource import ResourceManagementClient
    from prefect_azure.credentials import AzureContainerInstanceCredentials

    (tmp_path / "azure").mkdir()
    with serving(tmp_path / "azure") as manager:

        def made(kind: Any) -> Callable[[Any, str], Any]:
            policy: Any = SansIOHTTPPolicy()
            return lambda _, subscription: kind(
                object(), subscription, base_url=manager.url, authentication_policy=policy
            )

        monkeypatch.setattr(
            AzureContainerInstanceCredentials, "get_container_client", made(ContainerInstanceManagementClient)
        )
        monkeypatch.setattr(
            AzureContainerInstanceCredentials, "get_resource_client", made(ResourceManagementClient)
        )
        yield manager


@pytest.fixture
def submit(prefect_api: str, azure: ResourceManager, dask_cluster: Any) -> Callable[..., dict[str, Any]]:
    """`submit(entrypoint, store, parameters, **job_variables)`: a flow run in its own pool, after a worker ran it."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_KEY, temporary_settings
    from prefect_azure.workers.container_instance import AzureContainerWorker

    pool = f"containers-{uuid4()}"
    payload = {"name": pool, "type": "azure-container-instance", "base_job_template": TEMPLATE}
    httpx.post(f"{prefect_api}/work_pools/", json=payload).raise_for_status()

    def run(
        entrypoint: str, store: Store, parameters: dict[str, Any], **job_variables: Any
    ) -> dict[str, Any]:
        variables = VARIABLES | {
            "store": store.uri,
            "task_watch_poll_interval": 0.2,
            "log_endpoint": "https://127.0.0.1:9",  # away, which ends no run
            "log_rule": "dcr-1",
        }
        variables["env"] = {
            "ALMANAC_SCHEDULER": dask_cluster.scheduler_address,
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
        name = Path(entrypoint.partition(":")[0]).stem + "-" + entrypoint.partition(":")[2]
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(
                client.create_flow_from_name(name),
                f"in-{pool}",
                work_pool_name=pool,
                entrypoint=entrypoint,
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
                job_variables=variables | job_variables,
            )
            flow_run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        run.made = flow_run.id  # type: ignore[attr-defined]
        with temporary_settings({PREFECT_API_KEY: KEY}):
            asyncio.run(
                AzureContainerWorker(work_pool_name=pool).start(run_once=True, printer=lambda _: None)
            )
        return httpx.get(f"{prefect_api}/flow_runs/{flow_run.id}").json()

    return run


@pytest.fixture
def toys(without_run_logger: None, tmp_path: Path) -> Store:
    """A store in which the toy scenario can be scored."""
    store = Store(str(tmp_path / "toys"))
    steps.put(store, shards=10)
    steps.train(store)
    return store


def nothing_is_left(azure: ResourceManager) -> bool:
    return not azure.groups and azure.asked["DELETE group"] >= 1


TOY = "tests/toy/flows/toy.py:score"


def test_a_weekly_forecast_completes_in_a_container_while_azure_fails_now_and_then(
    submit, azure, sales_store, tmp_path
):
    store = Store(str(shutil.copytree(sales_store.uri, tmp_path / "store")))
    for folder in ("sales/forecasts", "sales/runs", "ledger"):
        shutil.rmtree(tmp_path / "store" / folder)
    kinds = ("PUT deployment", "GET operation", "GET deployment", "GET group", "DELETE group")
    azure.refuse = dict.fromkeys(kinds, 2) | {"GET group": 6}

    run = submit("flows/sales.py:forecast", store, {}, cpu=4, memory=16, priority="Spot")

    assert run["state_type"] == "COMPLETED", azure.told()
    (entry,) = ledger.rows(store).collect().to_dicts()
    assert entry["requested"] == entry["scored"] + entry["fallback"] + entry["skipped"] + entry["failed"]
    assert store.scan("sales/forecasts").collect().height == sales_store.result["rows"]
    assert set(azure.refuse.values()) == {0}
    assert nothing_is_left(azure)

    name, group = resolved(azure.submitted)
    container = group["properties"]["containers"][0]["properties"]
    assert name.endswith(run["id"]), "what the container writes is found by the flow run's id"
    assert len(name) <= 63
    assert re.search(ENDED, azure.told())[1] == "Completed", "what the query for failures looks for"
    assert run["infrastructure_pid"] == f"{run['id']}:{name}"
    assert container["image"] == VARIABLES["image"]
    assert container["command"] == ["python", "-m", "flows.relay", "prefect", "flow-run", "execute"]
    assert azure.told().count("cannot be sent to Azure Monitor") == 1
    assert container["resources"]["requests"] == {"cpu": 4, "memoryInGB": 16}
    assert group["properties"]["priority"] == "Spot"
    assert list(group["identity"]["userAssignedIdentities"]) == [VARIABLES["identity"]]
    assert group["properties"]["imageRegistryCredentials"] == [
        {"server": VARIABLES["registry"], "identity": VARIABLES["identity"]}
    ]
    assert environment(group)["PREFECT_API_KEY"] == {"name": "PREFECT_API_KEY", "secureValue": KEY}
    assert json.dumps(azure.submitted).count(KEY) == 1
    assert "diagnostics" not in group["properties"], "no key is looked up"


def test_a_container_that_is_killed_is_a_crashed_run_and_the_next_one_finishes_the_work(
    submit, azure, toys, prefect_api
):
    groups = []

    def kill_when_it_runs():
        def runs() -> bool:
            run_id = getattr(submit, "made", None)
            return (
                bool(run_id)
                and httpx.get(f"{prefect_api}/flow_runs/{run_id}").json()["state_type"] == "RUNNING"
            )

        wait_until(runs, 200, "the flow run is running")
        groups.extend(azure.groups)
        kill(azure.groups[groups[0]])

    killer = threading.Thread(target=kill_when_it_runs)
    killer.start()
    run = submit(TOY, toys, {"seconds": 1.0})
    killer.join(10)

    assert groups
    assert run["state_type"] == "CRASHED", azure.told()
    assert "137" in run["state"]["message"]
    assert nothing_is_left(azure)
    assert toys.version("toy/doubled") is None

    azure.deployments.clear()
    assert submit(TOY, toys, {})["state_type"] == "COMPLETED", azure.told()
    assert steps.published(toys).height == 12
    assert nothing_is_left(azure)


def test_an_image_that_cannot_be_pulled_is_a_crashed_run_that_says_so(submit, azure, toys):
    azure.pulls = False
    run = submit(TOY, toys, {})
    assert run["state_type"] == "CRASHED"
    assert "image is not accessible" in run["state"]["message"]
    assert nothing_is_left(azure)


def test_when_azure_takes_no_container_at_all_the_run_is_crashed_within_seconds(submit, azure, toys):
    azure.refuse = {"PUT deployment": 1_000}
    run = submit(TOY, toys, {})
    assert run["state_type"] == "CRASHED"
    assert azure.asked["PUT deployment"] < 20
    assert not azure.groups


def test_a_worker_whose_role_lacks_an_action_gets_a_crashed_run_that_names_it(submit, azure, toys):
    action = "Microsoft.ContainerInstance/containerGroups/write"
    azure.may -= {action}
    run = submit(TOY, toys, {})
    assert run["state_type"] == "CRASHED"
    assert action in run["state"]["message"]
    assert not azure.groups
