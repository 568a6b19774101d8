"""How long a flow may run, and how often it is tried again."""

import importlib
import re
import time

import pytest
import yaml
from prefect import flow

from flows.limits import INGESTING, SCORING, Limits, limits
from flows.settings import SettingsError
from tests.conftest import ROOT


def test_someone_at_a_terminal_is_told_at_once_and_a_run_of_a_deployment_is_tried_again(monkeypatch):
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    assert set(limits(INGESTING)) == {"timeout_seconds"}
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a-run")
    assert (limits(INGESTING)["retries"], limits(INGESTING)["retry_delay_seconds"]) == (3, 30)


def test_the_environment_names_another_time(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "90")
    assert limits(SCORING)["timeout_seconds"] == 90
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "")
    assert limits(SCORING)["timeout_seconds"] == SCORING.timeout_seconds
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "soon")
    with pytest.raises(SettingsError, match="ALMANAC_TIMEOUT_SECONDS=soon"):
        limits(SCORING)


def test_every_flow_that_is_deployed_ends_in_time():
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        path, _, name = one["entrypoint"].partition(":")
        found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert found.timeout_seconds, one["entrypoint"]


def test_the_page_says_of_every_deployment_what_its_flow_and_its_queue_are():
    page = (ROOT / "docs/operations.md").read_text().partition("## Limits")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (\d+) h \| (.*?) ?\| (.*?) ?\|$", page, re.M)
    stated = {verb: row[1:] for row in rows for verb in row[0].split(", ")}
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        path, _, name = one["entrypoint"].partition(":")
        kind = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        hours, _, queue = stated["health-watch" if kind.name == "health-watch" else kind.name.split("-")[-1]]
        assert kind.timeout_seconds == int(hours) * 3600, kind.name
        assert one["work_pool"]["work_queue_name"] == queue.strip("`"), kind.name


@pytest.mark.slow
def test_a_flow_that_takes_too_long_ends_as_timed_out(prefect_api):
    @flow(name="sleeps", **limits(Limits(0.5)))
    def sleeps() -> None:
        time.sleep(30)

    state = sleeps(return_state=True)
    assert (state.is_failed(), state.name) == (True, "TimedOut")
