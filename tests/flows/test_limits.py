"""How long a flow may run, and how often it is tried again."""

import importlib
import math
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import yaml

from flows.deadlines import process_deadline
from flows.limits import INGESTING, SCORING, Limits, limited
from flows.settings import SettingsError
from tasks.ingest.sources import SourceError, UnreadableError
from tasks.storage.faults import StoreError
from tests.conftest import ROOT


def options(kind: Limits) -> tuple[float | None, int | None, float | None]:
    """The settings of a flow of this kind: seconds until it is ended, number of retries, seconds between them."""
    flow = limited(kind, name="nothing")(lambda: None)
    return flow.timeout_seconds, flow.retries, flow.retry_delay_seconds


def test_someone_at_a_terminal_is_told_at_once_and_a_run_of_a_deployment_is_tried_again(monkeypatch):
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    assert options(INGESTING) == (INGESTING.timeout_seconds, 0, 0)
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a-run")
    assert options(INGESTING) == (INGESTING.timeout_seconds, 3, 30)


def test_a_run_is_called_after_its_flow_and_the_local_time_at_which_it_began(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", "Asia/Tokyo")
    flow = limited(SCORING, name="devices-mute")(lambda: None)
    before, name, after = now_in_tokyo(), flow.flow_run_name(), now_in_tokyo()
    assert before <= name <= after


def now_in_tokyo() -> str:
    return f"devices-mute {datetime.now(ZoneInfo('Asia/Tokyo')):%Y-%m-%d %H:%M}"


def test_the_environment_names_another_time(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "90")
    assert options(SCORING)[0] == 90
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "")
    assert options(SCORING)[0] == SCORING.timeout_seconds
    monkeypatch.setenv("ALMANAC_TIMEOUT_SECONDS", "soon")
    with pytest.raises(SettingsError, match="ALMANAC_TIMEOUT_SECONDS=soon"):
        options(SCORING)


def test_every_flow_that_is_deployed_ends_in_time():
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        path, _, name = one["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert flow.timeout_seconds, one["entrypoint"]


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
    @limited(Limits(0.5), name="sleeps")
    def sleeps() -> None:
        time.sleep(30)

    state = sleeps(return_state=True)
    assert (state.is_failed(), state.name) == (True, "TimedOut")


HANGS = """
import ctypes
from flows import limits

limits._GRACE_SECONDS = 1

@limits.limited(limits.Limits(1), name="hangs")
def hangs() -> None:
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)

hangs()
"""


@pytest.mark.slow
def test_a_flow_that_hangs_in_native_code_is_ended_with_its_process_and_the_log_says_where(prefect_api):
    words = [sys.executable, "-c", HANGS]
    environment = os.environ | {"PREFECT_API_URL": prefect_api}
    process = subprocess.run(
        words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 1
    assert re.search(r'Timeout.*File "<string>", line \d+ in hangs', process.stderr, re.DOTALL)


def test_of_nested_deadlines_the_earliest_counts_and_none_is_left(monkeypatch):
    timers: list[float | None] = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda seconds, **_: timers.append(seconds))
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: timers.append(None))
    with process_deadline(1000), process_deadline(math.inf), process_deadline(10):
        pass
    *seconds, last = timers
    assert [round(one, -1) for one in seconds] == [1000, 1000, 10, 1000, 1000]
    assert last is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (SourceError("sales.csv has no column 'units'."), 1),
        (UnreadableError("sales.csv: the service does not answer."), 3),
        (StoreError("az://store: 503"), 3),
        (ZeroDivisionError("a mistake of ours"), 3),
    ],
)
def test_what_someone_has_to_correct_is_not_tried_again_and_what_may_pass_is(
    prefect_api, monkeypatch, error, tries
):
    tried = []
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a-run")

    @limited(Limits(60, retries=2), name="fails")
    def fails(store: str) -> None:
        tried.append(store)
        raise error

    monkeypatch.delenv("PREFECT__FLOW_RUN_ID")
    state = fails("a", return_state=True)
    assert state.is_failed()
    assert tried == ["a"] * tries
