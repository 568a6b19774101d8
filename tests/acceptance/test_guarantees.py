"""Guarantees that hold for every scenario: repeats, restarts, bundles that execute nothing."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

from models.devices.scenario import DEVICES
from models.machines.scenario import MACHINES
from models.sales.scenario import SALES
from models.scenario import DerivesTables, Scenario
from tasks.registry import ledger
from tasks.storage.store import Store
from tests import fleet, steps
from tests.conftest import ROOT, MadeOnce, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Small data, known early and late; what comes late also corrects something of before

Tables = dict[str, pl.DataFrame]


def chain() -> tuple[Tables, Tables]:
    """Sales of eight SKUs in three stores; late rows are one more week, and corrected units of the week before."""
    from models.sales.simulation import simulate

    market = simulate(skus=8, stores=3, weeks=72, seed=3, with_truth=False)
    week, last = pl.col("week"), market.as_of
    before = market.history.filter(week == last - timedelta(weeks=1)).with_columns(pl.col("units") + 50)
    plan = pl.concat([market.history.filter(week == last).drop("units"), market.plan], how="diagonal_relaxed")
    early = {"source": market.history.filter(week < last), "plan": plan, "stores": market.stores}
    return early, {"source": pl.concat([before, market.history.filter(week == last)])}


def sensors() -> tuple[Tables, Tables]:
    """Seven hours of six devices, one with a fault in the sixth; late rows are the last hour, and odd readings before it."""
    from models.devices.simulation import readings_of, simulate

    start, hour, time = datetime(2026, 3, 2, tzinfo=UTC), timedelta(hours=1), pl.col("time")
    readings = readings_of(simulate(6, start, 60 * 7).grid).rename({"mean": "value"})
    readings = readings.select("device", "tag", time + timedelta(seconds=20), "value")
    fault = (pl.col("tag") == "flow") & time.is_between(start + 5.2 * hour, start + 5.8 * hour)
    fault &= pl.col("device") == "d00001"
    readings = readings.with_columns(pl.col("value") + pl.when(fault).then(50.0).otherwise(0.0))
    again = readings.filter(time > start + 5.9 * hour, time < start + 6 * hour)
    again = again.with_columns(time + timedelta(seconds=20), pl.col("value") + 1000)
    late = pl.concat([again, readings.filter(time > start + 6 * hour)])
    return {"source": readings.filter(time < start + 6 * hour)}, {"source": late}


def machines() -> tuple[Tables, Tables]:
    """Three months of ten machines; late rows are six days, and corrected voltages of the hour before them."""
    tables = fleet.fleet()
    late = fleet.after_cut(tables)
    again = tables["telemetry"].filter(pl.col("time") == fleet.CUT).with_columns(pl.col("volt") + 100)
    return fleet.until_cut(tables), late | {"telemetry": pl.concat([again, late["telemetry"]])}


@dataclass(frozen=True)
class Case:
    """A scenario, its data, and how its bundle is trained and used."""

    scenario: Scenario
    data: Callable[[], tuple[Tables, Tables]]
    score: str
    training: Sequence[str] = ()
    newest: Sequence[str] = ()
    """Words without which more than the newest moment is scored."""
    shards: int = 2


CASES = {
    "sales": Case(SALES, chain, "forecast", training=("--training-rows", "2000")),
    "devices": Case(
        DEVICES,
        sensors,
        "score",
        training=("--as-of", "2026-03-02T05:00"),
        newest=("--catch-up", "1"),
        shards=12,
    ),
    "machines": Case(MACHINES, machines, "score", training=("--horizon", "3d")),
}


# Runs


@dataclass(frozen=True)
class Ready:
    """A store with a bundle and one published `as_of`, and the arguments that publish it again."""

    case: Case
    store: Store
    as_of: str
    late: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.case.scenario.name

    @property
    def words(self) -> list[str]:
        return [self.name, self.case.score, "--as-of", self.as_of, "--store", self.store.uri, "--json"]

    @property
    def tables(self) -> list[str]:
        """The published tables: the scores, and the tables derived from them."""
        scenario = self.case.scenario
        derived = scenario.derived_tables if isinstance(scenario, DerivesTables) else ()
        names = dict.fromkeys([scenario.published_table({}).name, *derived])
        return [f"{self.name}/{name}" for name in names]

    def rows(self) -> dict[str, pl.DataFrame]:
        """All rows published for the `as_of`, by table, in a fixed order."""
        tables = {name: self.store.scan(name).collect() for name in self.tables}
        moment = type(tables[self.tables[0]]["as_of"][0]).fromisoformat(self.as_of)
        return {name: _sorted(rows.filter(as_of=moment)) for name, rows in tables.items()}

    def height(self) -> int:
        """The number of rows that the first published table has now."""
        if self.store.version(self.tables[0]) is None:
            return 0
        return int(self.store.scan(self.tables[0]).select(pl.len()).collect().item())

    def versions(self) -> dict[str, int | None]:
        return {name: self.store.version(name) for name in [*self.tables, ledger.PATH]}

    def scored_shards(self) -> list[Path]:
        return sorted(Path(self.store.uri, self.name, "runs").glob("*/shards/*.json"))

    def copied(self, folder: Path, *without: str) -> "Ready":
        """A copy in another folder, without some tables and folders."""
        shutil.copytree(self.store.uri, folder)
        for name in without:
            shutil.rmtree(folder / name)
        return replace(self, store=Store(str(folder)))

    def unpublished(self, folder: Path) -> "Ready":
        """A copy in another folder, without the published tables and everything that led to them."""
        return self.copied(folder, *self.tables, f"{self.name}/runs", ledger.PATH)


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.drop("run_id")
    return rows.sort([c for c, dtype in rows.schema.items() if not dtype.is_nested()])


MAY_BE_EMPTY = {"machines/alarms", "devices/levels"}
"""Tables of rare events: in this data nothing is at risk, and nothing stays different."""


def same(actual: Ready, expected: Ready) -> None:
    """Assert that both have published the same rows, at least one."""
    for name, rows in expected.rows().items():
        assert rows.height or name in MAY_BE_EMPTY, name
        assert_frame_equal(actual.rows()[name], rows)


@pytest.fixture(scope="module")
def run(command) -> Callable[..., dict[str, Any]]:
    """`run("sales", "forecast", ...)`: the result of a command that must succeed."""

    def succeed(*words: str) -> dict[str, Any]:
        output = command(*words, *([] if "--json" in words else ["--json"]))
        assert output.status == 0, output.err
        return dict(output.json)

    return succeed


@pytest.fixture(scope="module", params=CASES)
def ready(request, command, made_once) -> Ready:
    return published(request.param, command, made_once)


def published(name: str, command: Callable[..., SimpleNamespace], made_once: MadeOnce) -> Ready:
    """The store of a case on this machine after its first run, which all processes of the tests share."""
    case = CASES[name]

    def make(folder: Path) -> None:
        early, late = case.data()
        fleet.sources(folder / "late", late)
        words = [*fleet.sources(folder / "early", early), "--shards", str(case.shards)]
        for stage in (["ingest", *words], ["train", *case.training], [case.score, *case.newest]):
            output = command(name, *stage, "--store", folder / "store", "--json")
            assert output.status == 0, output.err
        (folder / "as_of").write_text(output.json["as_of"])

    folder = made_once(f"published-{name}", make)
    late = [word for path in (folder / "late").iterdir() for word in (f"--{path.stem}", str(path))]
    return Ready(case, Store(str(folder / "store")), (folder / "as_of").read_text(), tuple(late))


def started(ready: Ready, **environment: str) -> subprocess.Popen[str]:
    """The run as a process group of its own; with a server and workers of its own, unless those are named."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *ready.words],
        cwd=ROOT,
        env={**os.environ, "ALMANAC_WORKERS": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The output of a run, once it has succeeded."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    assert "Traceback" not in err, err[-3000:]
    return dict(json.loads(out))


# Repeats


def test_the_same_run_twice_changes_nothing(ready, run, tmp_path):
    again = ready.copied(tmp_path / "again")
    summary = run(*again.words)
    assert "These rows had been published before." in summary["notes"]
    assert again.versions() == ready.versions()
    same(again, ready)


def test_an_older_moment_is_scored_as_it_was_after_newer_and_corrected_data_have_come(ready, run, tmp_path):
    later = ready.copied(tmp_path / "later", f"{ready.name}/runs", *ready.tables)
    run(ready.name, "ingest", *ready.late, "--store", later.store.uri)
    newest = run(ready.name, ready.case.score, *ready.case.newest, "--store", later.store.uri)
    assert datetime.fromisoformat(newest["as_of"]) > datetime.fromisoformat(ready.as_of)
    again = run(*later.words)
    assert again["as_of"] == ready.as_of
    assert again["reused_shards"] == 0
    assert any("Repeats run" in note for note in again["notes"])
    same(later, ready)


# Restarts

ONE_SCENARIO = pytest.mark.parametrize("ready", ["devices"], indirect=True)
"""For what is the same code for every scenario."""


@ONE_SCENARIO
def test_a_run_killed_in_the_middle_shows_nothing_leaves_nothing_behind_and_is_continued(
    ready, run, tmp_path
):
    killed = ready.unpublished(tmp_path / "killed")
    process = started(killed, ALMANAC_SERVER_IDLE_SECONDS="0")
    try:
        wait_until(
            lambda: killed.scored_shards() or process.poll() is not None, 300, "the first shard is scored"
        )
        assert process.poll() is None, process.communicate()[1][-3000:]
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shards_before = len(killed.scored_shards())
    assert killed.store.version(killed.tables[0]) is None, "readers see a run that is not complete"
    assert ledger.rows(killed.store) is None
    assert shards_before < len(ready.scored_shards()), "the run was over before it could be killed"
    assert len(family) >= 3, "a run has two workers"
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive, f"left behind: {[' '.join(p.cmdline()) for p in alive]}"

    assert run(*killed.words)["reused_shards"] == shards_before
    same(killed, ready)


@ONE_SCENARIO
def test_of_two_runs_of_the_same_moment_at_the_same_time_one_publishes_and_the_other_says_so(
    ready, prefect_api, dask_cluster, tmp_path
):
    both = ready.unpublished(tmp_path / "both")
    environment = {"PREFECT_API_URL": prefect_api, "ALMANAC_SCHEDULER": dask_cluster.scheduler_address}
    processes = [started(both, **environment) for _ in range(2)]
    heights = set()
    while any(process.poll() is None for process in processes):
        heights.add(both.height())
        time.sleep(0.05)
    results = [result(process) for process in processes]
    assert heights <= {0, ready.height()}, "readers see a part of a run"
    assert results[0]["run_id"] == results[1]["run_id"]
    assert results[0]["version"] == results[1]["version"] == both.store.version(both.tables[0])
    assert sum("These rows had been published before." in one["notes"] for one in results) == 1
    same(both, ready)
    assert ledger.rows(both.store).collect().height == 1


# Bundles


@ONE_SCENARIO
def test_a_bundle_with_a_changed_byte_is_not_loaded(ready, command, tmp_path):
    altered = ready.unpublished(tmp_path / "changed")
    folder = Path(altered.store.uri, altered.name, "bundles", "1")
    names = json.loads((folder / "manifest.json").read_text())["files"]
    victim = max((folder / name for name in names), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    output = command(*altered.words)
    assert (output.status, output.out) == (1, "")
    assert output.err.startswith("BundleError: ")
    assert f"{victim.name}: changed since it was saved." in output.err
    assert altered.store.version(altered.tables[0]) is None


class Smuggled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@ONE_SCENARIO
def test_a_pickle_in_a_bundle_is_refused_and_not_executed(ready, command, tmp_path):
    smuggled = ready.unpublished(tmp_path / "smuggled")
    folder = Path(smuggled.store.uri, smuggled.name, "bundles", "1")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "model.pkl").write_bytes(pickle.dumps(Smuggled(tmp_path / "executed")))
    manifest["files"]["model.pkl"] = {"sha256": "", "bytes": 0}
    steps.forge(smuggled.store, 1, manifest, smuggled.name)
    output = command(*smuggled.words)
    assert (output.status, output.out) == (1, "")
    assert output.err.startswith("BundleError: ")
    assert "model.pkl: not a kind of file that a bundle may hold" in output.err
    assert not (tmp_path / "executed").exists()
    assert smuggled.store.version(smuggled.tables[0]) is None
