"""What the Azure page says about names and logs is what the worker and the flows do."""

import json
import re
from uuid import uuid4

import httpx
import pytest
import yaml

from tests.conftest import ROOT

PAGE = (ROOT / "docs/azure.md").read_text()
(LOG,) = [
    one["properties"]
    for one in json.loads((ROOT / "deployments/azure/main.json").read_text())["resources"]
    if one["type"].endswith("/savedSearches")
]
FLOW_OF = re.search(r'extend Flow = extract\(@"(.*?)", 1, ContainerGroup\)', LOG["query"])[1]
ENDED = re.search(r'extract\(@"(Flow run .*?)", 1, Message\)', PAGE)[1]
"""Patterns of the queries."""


@pytest.mark.parametrize("flow", ["sales-forecast", "devices-score", "machines-evaluate", "housekeeping"])
def test_the_queries_find_the_flow_in_a_container_groups_name(flow):
    assert re.search(FLOW_OF, f"{flow}-{uuid4()}")[1] == flow


def test_the_queries_leave_out_the_worker_and_the_server():
    assert not re.search(FLOW_OF, "almanac-worker")
    assert not re.search(FLOW_OF, "almanac-server")


def test_queries_read_the_tables_of_all_ways_and_name_only_columns_that_all_have():
    assert "union isfuzzy=true" in LOG["query"], "tables may be missing"
    assert "(AlmanacRun_CL | project TimeGenerated, ContainerGroup, Message)" in LOG["query"]
    assert (
        "(ContainerInstanceLog_CL | project TimeGenerated, ContainerGroup = ContainerGroup_s, Message)"
        in LOG["query"]
    )
    assert "(ContainerInstanceLog | project TimeGenerated, ContainerGroup, Message)" in LOG["query"]
    queries = re.findall(r"```kusto\n(.*?)```", PAGE, re.S)
    assert len(queries) == 3
    for query in queries:
        assert query.startswith(f"{LOG['functionAlias']}\n")
        assert not re.search(r"\w_(s|CL)\b", query)


def test_no_flows_name_is_cut_short_in_a_container_groups_name():
    from flows.modules import with_commands

    longest = 55 - len(str(uuid4()))
    names = [command.name for module in with_commands() for command in module.COMMANDS]
    assert names
    assert not [name for name in names if len(name) > longest]


def test_every_component_of_the_older_architectures_has_its_successor():
    table = PAGE.split("## What takes the place of what")[1].split("##")[0]
    older = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    for component in (
        "Logic Apps", "Batch", "Batch AI", "Container Instances", "Container Registry", "Blob", "Event Hubs",
        "Stream Analytics", "Databricks jobs", "notebooks", "DBFS", "scheduler container",
    ):  # fmt: skip
        assert [row for row in older if component in row], component


def test_files_that_the_page_links_to_are_there():
    for target in re.findall(r"\]\((\.\./[^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for command in re.findall(r"deployments/[\w/.-]+\.(?:sh|yaml)", PAGE):
        assert (ROOT / command).exists(), command


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_pages_pictures_and_headings_that_a_page_links_to_are_there(page):
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]
            assert heading in slugs, f"{target}#{heading}"


def test_the_dask_cluster_has_workers_from_zero_one_thread_each_and_no_public_address():
    documents = list(yaml.safe_load_all((ROOT / "deployments/dask/kubernetes.yaml").read_text()))
    kinds = {one["kind"]: one for one in documents}
    cluster, autoscaler = kinds["DaskCluster"]["spec"], kinds["DaskAutoscaler"]["spec"]
    (worker,) = cluster["worker"]["spec"]["containers"]
    assert autoscaler["minimum"] == cluster["worker"]["replicas"] == 0
    assert autoscaler["cluster"] == kinds["DaskCluster"]["metadata"]["name"]
    assert worker["args"][worker["args"].index("--nthreads") + 1] == "1"
    assert cluster["scheduler"]["service"]["type"] == "ClusterIP"
    internal = "service.beta.kubernetes.io/azure-load-balancer-internal"
    assert kinds["Service"]["metadata"]["annotations"][internal] == "true"


def test_the_dask_cluster_is_set_up_as_the_flows_set_up_their_own():
    import dask.config

    from flows.cluster import DASK_SETTINGS

    documents = list(yaml.safe_load_all((ROOT / "deployments/dask/kubernetes.yaml").read_text()))
    (cluster,) = [one["spec"] for one in documents if one["kind"] == "DaskCluster"]
    (scheduler,) = cluster["scheduler"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in scheduler["env"]}
    settings = dask.config.collect_env(environment)
    for name, value in DASK_SETTINGS.items():
        assert dask.config.get(name, config=settings) == value, name


def test_the_operator_hears_how_many_workers_the_dask_cluster_needs_and_nobody_sees_its_keys():
    import dask.config
    from distributed import LocalCluster

    documents = list(yaml.safe_load_all((ROOT / "deployments/dask/kubernetes.yaml").read_text()))
    kinds = {one["kind"]: one["spec"] for one in documents if one["kind"] in ("DaskCluster", "NetworkPolicy")}
    (scheduler,) = kinds["DaskCluster"]["scheduler"]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in scheduler["ports"]}
    doors = {
        port["port"]: str(rule["from"])
        for rule in kinds["NetworkPolicy"]["ingress"]
        for port in rule.get("ports", [])
    }
    assert "dask-operator" in doors[ports["http-dashboard"]]
    assert "almanac/runs" not in doors[ports["http-dashboard"]]

    settings = dask.config.collect_env({one["name"]: one["value"] for one in scheduler["env"]})
    routes = dask.config.get("distributed.scheduler.http.routes", config=settings)
    with (
        dask.config.set({"distributed.scheduler.http.routes": routes}),
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        httpx.Client(base_url=f"http://127.0.0.1:{cluster.scheduler.http_server.port}") as http,
    ):
        assert http.get("/api/v1/adaptive_target").json() == {"workers": 0}
        assert http.get("/health").status_code == 200
        for page in ("info/main/workers.html", "json/counts.json"):
            assert http.get(f"/{page}").status_code == 404


def test_every_door_is_tried_by_a_test_that_is_there():
    doors = re.findall(r"^\| .* \| .* \| `(test_\w+)` \|$", (ROOT / "docs/security.md").read_text(), re.M)
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(doors) >= 16
    assert [name for name in doors if f"def {name}(" not in tests] == []
