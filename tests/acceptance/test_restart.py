"""A run that is really killed, with all its processes, on a machine of its own; and two at the same time."""

import json
import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import psutil
import pytest
from polars.testing import assert_frame_equal

from tasks import ledger
from tasks.store import Store
from tests import steps
from tests.conftest import ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_run_logger")]

TABLE = "toy/doubled"
NAMES, SHARDS = 12, 9


def a_store(folder: Path) -> Store:
    """A store of the toy in nine shards, with a bundle."""
    store = Store(str(folder))
    steps.put(store, shards=10)
    steps.train(store, date(2024, 1, 1))
    return store


def start(store: Store, *words: str) -> subprocess.Popen:
    """The command line in a process group of its own, with a Prefect server and workers of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.toy",
        "toy",
        "score",
        "--store",
        store.uri,
        "--workers",
        "2",
        "--json",
    ]
    return subprocess.Popen(
        [*command, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def scored_shards(store: Store) -> int:
    names = store.names("toy/runs") if Path(store.uri, "toy/runs").exists() else []
    return sum("/shards/" in name and name.endswith(".json") for name in names)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it has started."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> set[str]:
    """The addresses on which processes listen."""
    found = set()
    for process in processes:
        try:
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def result(process: subprocess.Popen) -> dict:
    """What a run printed, once it has ended well."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    assert "Traceback" not in err, err[-3000:]
    return json.loads(out)


def test_a_run_that_was_killed_leaves_nothing_behind_and_two_starts_at_once_complete_it(tmp_path):
    store, other = a_store(tmp_path / "killed"), a_store(tmp_path / "undisturbed")
    steps.score(other)

    first = start(store, "--seconds", "1.0")
    try:
        wait_until(
            lambda: scored_shards(store) >= 2 or first.poll() is not None, 300, "two shards are scored"
        )
        assert first.poll() is None, first.communicate()[1][-3000:]
        running = family(first)
        addresses = listening(running)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    done = scored_shards(store)
    assert store.version(TABLE) is None, "readers see a run that is not complete"
    assert ledger.rows(store) is None
    assert done < SHARDS, "the run was over before it could be killed"
    assert len(running) >= 4, "a run has a server and two workers"
    assert addresses == {"127.0.0.1"}
    _, alive = psutil.wait_procs(running, timeout=120)
    assert not alive, f"left behind: {[' '.join(p.cmdline()) for p in alive]}"

    both = [start(store, "--seconds", "1.0") for _ in range(2)]
    wait_until(
        lambda: scored_shards(store) > done or any(p.poll() is not None for p in both), 300, "they go on"
    )
    running = [process for one in both if one.poll() is None for process in family(one)]
    results = [result(one) for one in both]
    assert all(one["reused_shards"] >= done for one in results)
    assert {one["run_id"] for one in results} == {results[0]["run_id"]}
    assert {one["version"] for one in results} == {store.version(TABLE)}
    assert sum("These rows had been published before." in one["notes"] for one in results) == 1
    assert_frame_equal(steps.published(store).drop("run_id"), steps.published(other).drop("run_id"))
    (row,) = ledger.rows(store).collect().to_dicts()
    assert (row["requested"], row["scored"]) == (NAMES, NAMES)
    _, alive = psutil.wait_procs(running, timeout=120)
    assert not alive, f"left behind: {[' '.join(p.cmdline()) for p in alive]}"
