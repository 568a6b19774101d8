"""Deploying to a real Prefect server: its state afterwards, what starts runs or holds them back, and differences."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events import Event
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Failed, Pending, Running, Scheduled, State

from deployments.automations import AUTOMATIONS_FILE, apply_automations, automations
from deployments.connections import WrongError, _Server
from deployments.environment import environment
from deployments.local import SERVER, Local
from deployments.queues import QUEUES, queues
from tests import steps
from tests.conftest import ROOT, wait_until
from tests.deployments.conftest import access
from tests.deployments.test_declaration import TABLE, by_hand
from tests.deployments.test_runbook import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STORE = "az://almanac/store"


@pytest.fixture(scope="module")
def all_of_it(deployments) -> Any:
    """The whole file, deployed."""
    sources = {
        "ALMANAC_SALES_SOURCE": "az://in/sales",
        "ALMANAC_DEVICES_SOURCE": "az://in/iot",
        **{f"ALMANAC_MACHINES_{name}": "az://in/m" for name in ("TELEMETRY", "MAINTENANCE", "FAILURES")},
    }
    output = deployments("deploy", ALMANAC_STORE=STORE, ALMANAC_TIMEZONE="Europe/Zurich", **sources)
    assert output.status == 0, output.out + output.err
    return output


def runs_of(client, name: str) -> list[Any]:
    deployment = client.read_deployment_by_name(name)
    answer = client._client.post(
        "/flow_runs/filter",
        json={"deployments": {"id": {"any_": [str(deployment.id)]}}, "sort": "EXPECTED_START_TIME_ASC"},
    )
    return answer.raise_for_status().json()


def emit(client, name: str, **content: Any) -> None:
    """Emit an event to the server of `client`; `emit_event` would bind this process to that server for good."""
    payload = Event.model_validate({"event": name, **content}).model_dump(mode="json")
    client._client.post("/events", json=[payload]).raise_for_status()


# all deployments


def test_every_deployment_is_there_and_the_server_agrees_with_the_file(all_of_it, client):
    assert "File and server agree." in all_of_it.out
    for name in TABLE:
        deployment = client.read_deployment_by_name(name)
        assert deployment.enforce_parameter_schema
        assert deployment.job_variables["env"]["ALMANAC_STORE"] == STORE
        assert deployment.global_concurrency_limit.limit == 1


def test_the_server_plans_the_next_ten_times_also_across_a_change_of_the_clocks(all_of_it, client):
    scheduled = [name for name, when in TABLE.items() if when]
    wait_until(lambda: all(len(runs_of(client, name)) >= 10 for name in scheduled), 150, "ten runs of each")
    for name in scheduled:
        moments = [datetime.fromisoformat(run["expected_start_time"]) for run in runs_of(client, name)]
        zone = "UTC" if "hourly" in name else "Europe/Zurich"
        start = moments[0].replace(second=0, microsecond=0)
        assert [moment.astimezone(UTC) for moment in moments[:10]] == by_hand(name, zone, start), name
    months = [
        datetime.fromisoformat(run["expected_start_time"]) for run in runs_of(client, "sales-train/monthly")
    ]
    assert len({moment.astimezone(UTC).hour for moment in months}) == 2


def test_an_event_of_new_data_starts_the_scoring_of_its_range_with_typed_parameters(all_of_it, client):
    name = "machines-score/on-new-data"
    assert runs_of(client, name) == []
    payload = {"from": "2015-07-01T00:00:00+00:00", "to": None, "store": "az://almanac/store", "tables": {}}
    emit(
        client,
        "almanac.machines.ingested",
        resource={"prefect.resource.id": "almanac.machines"},
        payload=payload,
    )
    wait_until(lambda: runs_of(client, name), 60, "the event starts a run")
    (run,) = runs_of(client, name)
    assert run["parameters"] == {"from_": payload["from"], "to": None, "store": payload["store"]}


def test_a_run_can_be_started_with_other_parameters_and_wrong_ones_are_refused(all_of_it, client):
    deployment = client.read_deployment_by_name("sales-forecast/weekly")
    parameters = {"as_of": "2024-01-07", "dry_run": True}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    assert run.parameters == parameters
    assert "almanac" in run.tags
    client.delete_flow_run(run.id)
    for wrong in ({"as_of": 7}, {"bundle": 0}, {"dry_run": "perhaps"}):
        with pytest.raises(PrefectHTTPStatusError) as error:
            client.create_flow_run_from_deployment(deployment.id, parameters=wrong)
        assert error.value.response.status_code in (409, 422)


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        ("sales-forecast/weekly", {"store": "az://c/store?SIG=hush"}),
        ("sales-forecast/weekly", {"store": "https://user:hush@host/store"}),
        ("machines-score/daily", {"store": "AccountName=a;AccountKey=hush"}),
        ("machines-score/daily", {"store": "AccountName%3Da%3BAccountKey%3Dhush"}),
        ("devices-ingest/hourly", {"column": ["time=ts", "s3://key:hush@bucket/b.csv"]}),
    ],
)
def test_a_key_in_a_form_is_refused_before_the_server_keeps_it(all_of_it, client, flow, parameters):
    deployment = client.read_deployment_by_name(flow)
    with pytest.raises(PrefectHTTPStatusError) as error:
        client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    assert error.value.response.status_code in (409, 422)
    assert "hush" not in str(runs_of(client, flow))


# again, drift


def test_deployed_twice_there_are_no_duplicates(deployments, client, few, tmp_path):
    pool = {"ALMANAC_STORE": STORE, "ALMANAC_POOL": tmp_path.name}
    file = few("score", change=machines_only)
    first = deployments("deploy", "--prefect-file", file, **pool)
    assert first.status == 0, first.out + first.err
    assert f"work pool {tmp_path.name}: created" in first.out
    name = f"machines-score/on-new-data-{tmp_path.name}"
    before = client.read_deployment_by_name(name)
    count = len(client.read_automations())
    again = deployments("deploy", "--prefect-file", file, **pool)
    assert again.status == 0, again.out + again.err
    assert f"work pool {tmp_path.name}: unchanged" in again.out
    assert client.read_deployment_by_name(name).id == before.id
    assert len(client.read_automations()) == count
    daily = client.read_deployment_by_name(f"machines-score/daily-{tmp_path.name}")
    assert len(daily.schedules) == 1


def test_two_trainings_do_not_hold_back_the_hours_scores(deployments, client, few, tmp_path):
    pool = tmp_path.name
    file = few("train", "score", change=scheduled_without_machines)
    output = deployments("deploy", "--prefect-file", file, ALMANAC_STORE=STORE, ALMANAC_POOL=pool)
    assert output.status == 0, output.out + output.err
    assert list(queues(client, pool))[:4] == list(QUEUES)
    sales, devices, hour = (
        client.create_flow_run_from_deployment(client.read_deployment_by_name(f"{name}-{pool}").id).id
        for name in ("sales-train/monthly", "devices-train/weekly", "devices-score/hourly")
    )

    def handed_out() -> list[str]:
        """The runs that a worker gets which may run ten at once."""
        answer = client.request("POST", f"/work_pools/{pool}/get_scheduled_flow_runs", json={"limit": 10})
        return [one["flow_run"]["id"] for one in answer.json()]

    assert handed_out() == [str(hour), str(sales)]
    client.set_flow_run_state(sales, Running(), force=True)
    assert handed_out() == [str(hour)]
    client.set_flow_run_state(sales, Failed(), force=True)
    assert handed_out() == [str(hour), str(devices)]


def test_what_differs_is_told_and_repaired(deployments, client, few, tmp_path):
    pool = {
        "ALMANAC_STORE": STORE,
        "ALMANAC_POOL": tmp_path.name,
        "ALMANAC_SALES_SOURCE": "az://in/sales",
    }
    full = few("housekeeping", "forecast", change=with_two_schedules)
    assert deployments("deploy", "--prefect-file", full, **pool).status == 0
    forecast = client.read_deployment_by_name(f"sales-forecast/weekly-{tmp_path.name}")
    assert {one.slug for one in forecast.schedules} == {"weekly", "evening"}

    file = few("forecast", change=later)
    output = deployments("drift", "--prefect-file", file, **pool)
    assert output.status == 1
    words = " ".join(output.out.split())
    assert f"housekeeping/daily-{tmp_path.name}: deployment is only on the server" in words
    assert f"sales-forecast/weekly-{tmp_path.name}: schedule evening is only on the server" in words
    assert "schedule weekly is '0 7 * * 1' UTC on in the file, '0 6 * * 1' UTC on on the server" in words
    assert "3 differences" in words

    repaired = deployments("drift", "--repair", "--prefect-file", file, **pool)
    assert repaired.status == 0, repaired.out + repaired.err
    forecast = client.read_deployment_by_name(f"sales-forecast/weekly-{tmp_path.name}")
    assert [(one.slug, one.schedule.cron) for one in forecast.schedules] == [("weekly", "0 7 * * 1")]
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name(f"housekeeping/daily-{tmp_path.name}")


def machines_only(deployments: list[dict[str, Any]]) -> None:
    deployments[:] = [one for one in deployments if "machines" in one["entrypoint"]]


def scheduled_without_machines(deployments: list[dict[str, Any]]) -> None:
    deployments[:] = [
        one for one in deployments if "machines" not in one["entrypoint"] and one.get("schedules")
    ]


def with_two_schedules(deployments: list[dict[str, Any]]) -> None:
    for one in deployments:
        if one["entrypoint"].endswith("forecast"):
            evening = {"slug": "evening", "cron": "0 18 * * 1", "timezone": "UTC", "active": True}
            one["schedules"] = [*one["schedules"], evening]


def later(deployments: list[dict[str, Any]]) -> None:
    deployments[0]["schedules"][0]["cron"] = "0 7 * * 1"


def test_what_runs_depend_on_is_asked_and_each_thing_that_is_wrong_says_what_to_do(deployments, tmp_path):
    pool = {"ALMANAC_STORE": str(tmp_path / "store"), "ALMANAC_POOL": tmp_path.name}
    before = deployments("check", ALMANAC_ALERT_BLOCK="slack-webhook/nobody", **pool)
    assert before.status == 1
    verdicts = {what: verdict for verdict, what in re.findall(r"^(right|WRONG)  (\w+):", before.out, re.M)}
    right = {"store", "server", "password", "leases", "retention"}
    assert verdicts == dict.fromkeys(right, "right") | {"worker": "WRONG", "alerts": "WRONG"}
    assert f"there is no work pool {tmp_path.name} yet" in before.out
    assert "slack-webhook/nobody: the server has no such block" in before.out
    away = deployments("check", PREFECT_API_URL="http://127.0.0.1:9/api", **pool)
    assert away.status == 1
    assert "no Prefect server answers there" in away.out
    assert (
        deployments("check", "--variables-only", PREFECT_API_URL="http://127.0.0.1:9/api", **pool).status == 0
    )


def test_a_missing_variable_is_named_before_anything_is_deployed(deployments, client, tmp_path):
    output = deployments("deploy", ALMANAC_POOL=tmp_path.name)
    assert output.status == 1
    assert "ALMANAC_STORE is not set: store of all runs" in output.err
    assert tmp_path.name not in {pool.name for pool in client.read_work_pools()}


def test_nothing_is_deployed_to_a_server_that_is_older_than_its_client(
    deployments, client, tmp_path, monkeypatch
):
    monkeypatch.setattr("deployments.server.prefect.__version__", "3.99.0")
    output = deployments("deploy", ALMANAC_STORE=STORE, ALMANAC_POOL=tmp_path.name)
    assert output.status == 1
    assert re.search(r"runs Prefect 3\.\d+\.\d+, older than the client's 3\.99\.0", output.err)
    assert tmp_path.name not in {pool.name for pool in client.read_work_pools()}


def test_a_server_without_the_settings_that_are_checked_is_named_as_too_old():
    class Old:
        def request(self, method, path):
            return httpx.Response(200, json={"server": {"services": {}}})

    for check in (_Server(Old(), {}).leases, _Server(Old(), {}).retention):
        with pytest.raises(WrongError, match=r"the server does not have the setting \w+\.\w+: upgrade it"):
            check()


def test_a_server_that_does_not_answer_is_named(deployments):
    output = deployments("drift", ALMANAC_STORE=STORE, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert output.status == 1
    assert "PREFECT_API_URL=http://127.0.0.1:9/api: no Prefect server answers there" in output.err


def test_a_lease_outlives_a_server_that_is_killed(local):
    headers = {"Authorization": f"Basic {b64encode(local.password().encode()).decode()}"}
    with httpx.Client(base_url=local.url, headers=headers, timeout=60) as api:
        limit = {"name": "lease-of-a-test", "limit": 1}
        assert api.post("/v2/concurrency_limits/", json=limit).is_success
        payload = {"names": [limit["name"]], "slots": 1, "lease_duration": 300}
        lease = api.post("/v2/concurrency_limits/increment-with-lease", json=payload).json()["lease_id"]
        server = local.running(SERVER)
        server.kill()
        server.wait(20)
        assert local.start_server()
        renewed = api.post(f"/v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": 300})
        assert renewed.is_success


def test_a_run_goes_on_when_its_server_is_killed_and_started_again(local, client, store, without_run_logger):
    steps.put(store, shards=10)
    steps.train(store)
    words = ["toy", "score", "--seconds", "1", "--store", store.uri, "--workers", "1", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.toy", *words],
        cwd=ROOT,
        env=os.environ | access(local),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(
            lambda: any("/shards/" in one for one in store.names("toy/runs")), 200, "a shard is scored"
        )
        server = local.running(SERVER)
        server.kill()
        server.wait(20)
        assert local.start_server()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    assert json.loads(out)["scored"] == steps.published(store).height == 12
    (run,) = (one for one in client.read_flow_runs() if one.name == "toy-score 2024-01-03")
    assert run.state.is_completed()


# who may


def test_another_web_page_starts_no_run(all_of_it, client, local):
    deployment = client.read_deployment_by_name("sales-forecast/weekly")
    url = f"{local.url}/deployments/{deployment.id}/create_flow_run"
    foreign = {"Origin": "http://evil.example"}
    preflight = foreign | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    response = httpx.options(url, headers=preflight)
    assert "access-control-allow-origin" not in response.headers
    # A page may send this without asking: a body that has no content type. So may a page whose name is now 127.0.0.1.
    body = b'{"job_variables": {"command": "true"}}'
    for headers in (foreign, foreign | {"Host": "evil.example"}):
        rejection = httpx.post(url, content=body, headers=headers)
        assert rejection.status_code == httpx.codes.UNAUTHORIZED
        assert "access-control-allow-origin" not in rejection.headers
    own = httpx.options(url, headers=preflight | {"Origin": local.ui})
    assert own.headers["access-control-allow-origin"] == local.ui


def test_the_password_of_the_server_is_its_owners_and_stays(local, tmp_path):
    assert stat.S_IMODE(local.password_file.stat().st_mode) == 0o600
    assert Local(1, local.folder).password() == local.password()
    assert Local(1, tmp_path / "other").password() != local.password()
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o700, "logs name keys and sources"


# a run


def test_a_worker_runs_a_deployment_with_the_store_of_the_environment(
    deployments, client, local, few, store, tmp_path, without_run_logger
):
    steps.put(store)
    pool = {"ALMANAC_STORE": store.uri, "ALMANAC_POOL": tmp_path.name}
    assert deployments("deploy", "--prefect-file", few("housekeeping"), **pool).status == 0
    assert f"no worker serves the work pool {tmp_path.name}" in deployments("check", **pool).out
    assert local.start_worker(environment({"PREFECT_API_URL": local.url, **pool}))
    assert not local.start_worker(environment({"PREFECT_API_URL": local.url, **pool}))
    deployment = client.read_deployment_by_name(f"housekeeping/daily-{tmp_path.name}")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"retention_days": 30})
    wait_until(lambda: client.read_flow_run(run.id).state.is_final(), 120, "the run ends")
    completed = client.read_flow_run(run.id)
    assert completed.state.is_completed(), (local.folder / "worker.log").read_text()[-3000:]
    assert completed.parameters == {"dry_run": False, "retention_days": 30}
    wait_until(
        lambda: "Finished in state Completed()" in logs(client, run.id), 30, "its log is on the server"
    )
    assert f"local serves the work pool {tmp_path.name}" in deployments("check", **pool).out


def logs(client, run: Any) -> list[str]:
    """The log of a flow run, as the UI shows it."""
    answer = client._client.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [str(run)]}}})
    return [one["message"] for one in answer.raise_for_status().json()]


# a run while another goes on


ONE_AFTER_THE_OTHER, SKIPPED_WHILE_ONE_RUNS = "flows/sales.py:forecast", "flows/devices.py:score"
"""Deployments of the file with each kind of limit."""


def waiting(kept: list[dict[str, Any]]) -> None:
    """The file's deployments with all their limits, but with a flow that a test can hold."""
    kept[:] = [one for one in kept if one["entrypoint"] in (ONE_AFTER_THE_OTHER, SKIPPED_WHILE_ONE_RUNS)]
    for one in kept:
        one |= {"entrypoint": "tests/deployments/waiting.py:waiting", "parameters": {}, "schedules": []}


@pytest.fixture
def pool(deployments: Any, few: Any, local: Any, tmp_path: Path) -> Iterator[str]:
    """A work pool with both deployments, and a worker that could run four flows at once."""
    name = tmp_path.name
    file = few("forecast", "score", change=waiting)
    output = deployments("deploy", "--prefect-file", file, ALMANAC_STORE=STORE, ALMANAC_POOL=name)
    assert output.status == 0, output.out + output.err
    words = ["worker", "start", "--pool", name, "--type", "process", "--limit", "4"]
    quick = {**access(local), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            cwd=ROOT,
            env={**os.environ, **quick},
            stdout=log,
            stderr=log,
        )
    yield name
    worker.terminate()
    worker.wait(60)


def test_while_one_runs_another_is_queued_or_cancelled_as_its_deployment_says(client, pool, tmp_path):
    go_on, names = tmp_path / "go-on", {"queue": f"weekly-{pool}", "cancel": f"hourly-{pool}"}
    ids = {kind: client.read_deployment_by_name(f"waiting/{name}").id for kind, name in names.items()}

    def start(kind: str) -> Any:
        parameters = {"until": str(go_on)}
        return client.create_flow_run_from_deployment(ids[kind], parameters=parameters).id

    def state(run: Any) -> Any:
        return client.read_flow_run(run).state

    def log() -> str:
        return (tmp_path / "worker.log").read_text()[-3000:]

    first = {kind: start(kind) for kind in ids}
    wait_until(lambda: all(state(run).is_running() for run in first.values()), 120, f"both run: {log()}")
    second = {kind: start(kind) for kind in ids}
    wait_until(lambda: state(second["cancel"]).is_cancelled(), 60, "the second is cancelled")
    wait_until(lambda: state(second["queue"]).name == "AwaitingConcurrencySlot", 60, "the second is queued")
    assert all(state(run).is_running() for run in first.values())

    go_on.touch()
    wait_until(lambda: state(second["queue"]).is_completed(), 120, f"the queued one runs: {log()}")
    assert all(state(run).is_completed() for run in first.values())
    end = client.read_flow_run(first["queue"]).end_time
    assert client.read_flow_run(second["queue"]).start_time >= end
    assert client.read_flow_run(second["cancel"]).run_count == 0
    assert state(second["cancel"]).is_cancelled()
    limits = [client.read_deployment(one).global_concurrency_limit for one in ids.values()]
    assert [(one.limit, one.active_slots) for one in limits] == [(1, 0)] * 2, "the slots are free again"


# automations


@pytest.fixture
def received() -> Iterator[list[str]]:
    """The bodies posted to a local address; first, that address."""
    posted: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    posted.append(f"http://127.0.0.1:{listener.server_port}/")
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield posted
    listener.shutdown()


def test_failed_late_silent_and_waiting_runs_raise_an_alert(all_of_it, client, local, received, tmp_path):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    address = received.pop()
    with temporary_settings({PREFECT_API_URL: local.url, PREFECT_API_AUTH_STRING: local.password()}):
        content = {"subject": "{{subject}}", "body": "{{body}}"}
        CustomWebhookNotificationBlock(name="test", url=address, json_data=content).save(
            "alerts", overwrite=True
        )
    quick = tmp_path / "automations.yaml"
    quick.write_text(re.sub(r"within: (300|900)", "within: 10", AUTOMATIONS_FILE.read_text()))
    values = environment(
        {"PREFECT_API_URL": local.url, "ALMANAC_STORE": STORE, "ALMANAC_ALERT_BLOCK": "custom-webhook/alerts"}
    )
    apply_automations(client, automations(client, values, quick))
    time.sleep(3)

    silent = started(client, "silent", Running())
    flow = f"prefect.flow.{client.read_flow_run(silent).flow_id}"
    tags = {"tag": "prefect.tag.almanac", "flow": flow}
    related = [{"prefect.resource.id": one, "prefect.resource.role": role} for role, one in tags.items()]
    run_id = {"prefect.resource.id": f"prefect.flow-run.{silent}"}
    emit(client, "prefect.flow-run.heartbeat", resource=run_id, related=related)
    started(client, "breaks", Failed(message="the disk is full"))
    started(client, "waits", Pending())
    started(client, "hangs", Cancelling())
    late = client.read_deployment_by_name("sales-forecast/weekly")
    state = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=1))
    client.create_flow_run_from_deployment(late.id, state=state)
    expected = (
        *("breaks has failed", "sales-forecast is late", "It has stopped without a word"),
        *("waits stays Pending", "hangs stays Cancelling"),
    )
    wait_until(
        lambda: all(any(one in text for text in received) for one in expected), 240, (expected, received)
    )
    assert any("the disk is full" in text for text in received)
    assert "database is locked" not in (local.folder / "server.log").read_text()
    assert client.read_flow_run(silent).state.is_crashed()
    states = apply_automations(client, automations(client, {**values, "ALMANAC_ALERT_BLOCK": ""}))
    assert set(states.values()) == {"updated"}
    assert set(
        apply_automations(client, automations(client, {**values, "ALMANAC_ALERT_BLOCK": ""})).values()
    ) == {"unchanged"}


def started(client, name: str, state: State) -> Any:
    """A flow run with the project's tag, in a state that is set as a worker or the server sets it."""
    from prefect import flow

    @flow(name=name)
    def stands_for_one() -> None:
        """Never called."""

    run = client.create_flow_run(stands_for_one, tags=["almanac"])
    client.set_flow_run_state(run.id, Running(), force=True)
    if not state.is_running():
        client.set_flow_run_state(run.id, state, force=True)
    return run.id


def test_a_block_that_the_server_does_not_have_is_named(client, local):
    values = {"ALMANAC_ALERT_BLOCK": "slack-webhook/nobody", "ALMANAC_POOL": "almanac"}
    with pytest.raises(Exception, match="slack-webhook/nobody: the server has no such block"):
        automations(client, values)


# the runbook


def test_the_prefect_commands_of_the_runbook_do_their_work(all_of_it, client, local, monkeypatch):
    from prefect.cli._app import _app as prefect

    deployment = client.read_deployment_by_name("sales-forecast/weekly").id
    run = client.create_flow_run_from_deployment(deployment).id
    ends_at_once = [
        one
        for one in commands("runbook")
        if one.startswith("prefect ") and "--watch" not in one and "worker start" not in one
    ]
    for name, value in access(local).items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: local.url, PREFECT_API_AUTH_STRING: local.password()}):
        for one in sorted(ends_at_once):
            words = one.replace("RUN_ID", str(run)).replace("DEPLOYMENT_ID", str(deployment)).split()
            status: Any = 0
            try:
                prefect(words[1:])
            except SystemExit as end:
                status = end.code
            assert not status, one
    assert client.read_flow_run(run).state.name in ("Cancelling", "Cancelled"), "by one of the commands"
