"""The cost of a small run: seconds and processor seconds of commands that have little to do, phase by phase.

    python -m benchmarks.start
    python -m benchmarks.start --folder FOLDER    # keep the stores there, and use them again

It measures the help, the list of bundles, a forecast of 240 keys with its own Prefect server and with a running one,
and one hour of 60 sensors with a running one. Processor seconds are those of the command and of all processes that it
starts, without a server that is already running. They depend less on other load of the machine.

`imports` ends when the command is loaded, `server` when its server answers; a new server is started
before the imports. `cluster` is the start of the workers, which `scoring` leaves out; `other` are the announcements,
the ledger, and the time between the steps; `shutdown` begins with the end of the run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

from benchmarks.command_line import folder_or_temporary, run_benchmark
from benchmarks.measure import counted, run, table
from flows.sales import simulated
from flows.server import prefect_server
from models.devices.simulation import TAGS, readings_of, simulate
from tasks.storage.store import Store

PHASES = ("imports", "server", "cluster", "plan", "scoring", "publishing", "page", "other", "shutdown")
_LIBRARIES = ("prefect", "distributed", "polars", "flows")
_START = datetime(2026, 3, 2, tzinfo=UTC)
_TRAINED = (_START + timedelta(days=1)).isoformat()


def main(*, folder: Path | None = None, seed: int = 7) -> None:
    """Print the table of phases.

    Args:
        folder: Keep the data and the stores there, and use existing ones.
        seed: Seed of the simulated data.
    """
    with folder_or_temporary(folder) as root:
        for name, sources, when in (("sales", _chain, []), ("devices", _fleet, ["--as-of", _TRAINED])):
            if not (root / name / "trained").exists():
                (root / name).mkdir(parents=True, exist_ok=True)
                store = ["--store", str(root / name / "training")]
                run(name, "ingest", *sources(root / name, seed), *store)
                run(name, "train", *when, *store)
                (root / name / "training").rename(root / name / "trained")
        _print_phases(root)


def _print_phases(root: Path) -> None:
    print(f"Python's bytecode: {_bytecode()}\n", flush=True)
    sales, devices = (str(root / name / "store") for name in ("sales", "devices"))
    forecast, score = (
        ["sales", "forecast", "--store", sales],
        ["devices", "score", "--catch-up", "1", "--store", devices],
    )
    _measured("the catalogue of commands is created", ["--help"])
    rows = [
        _measured("--help", ["--help"]),
        _measured("sales bundles", ["sales", "bundles", "--store", sales]),
        _measured("forecast, 240 keys", forecast, anew=root / "sales"),
    ]
    with prefect_server(leave_up=False):
        rows.append(_measured("forecast, PREFECT_API_URL", forecast, anew=root / "sales"))
        rows.append(_measured("an hour, 60 sensors", score, anew=root / "devices"))
    print(table(rows))


def _measured(name: str, words: Sequence[str], anew: Path | None = None) -> dict[str, Any]:
    """A row of the table; the store in the folder `anew` is first reset to its state after the training."""
    if anew:
        shutil.rmtree(anew / "store", ignore_errors=True)
        shutil.copytree(anew / "trained", anew / "store")
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder, "marks.json")
        program = [sys.executable, "-m", "benchmarks.marks", str(marks), *words]
        start = time.time()
        with counted() as usage:
            process = subprocess.run(program, capture_output=True, text=True)
            end = time.time()
        if process.returncode:
            raise RuntimeError(
                f"{' '.join(words)} ended with status {process.returncode}:\n{process.stderr[-4000:]}"
            )
        times = json.loads(marks.read_text())
    phases = _phases(times, start, end) if times else {}
    return {
        "command": name,
        "wall s": end - start,
        "CPU s": usage.seconds,
        **{p: phases.get(p) for p in PHASES},
    }


def _phases(times: dict[str, Any], start: float, end: float) -> dict[str, float]:
    """Seconds of the phases, from the times at which they ended and from the run's own result."""
    stages = times["stages"]
    phases = {
        "imports": times["loaded"] - start,
        "server": times["served"] - times["loaded"],
        "cluster": times["cluster"],
        "plan": stages["plan"],
        "scoring": stages["score"] - times["cluster"],
        "publishing": stages["publish"],
        "page": stages["page"],
        "shutdown": end - times["returned"],
    }
    return phases | {"other": end - start - sum(phases.values())}


def _chain(folder: Path, seed: int) -> list[str]:
    """The options of an ingest of sales of 240 keys, which are written to `folder`."""
    sources = simulated(Store(str(folder)), seed)
    return [word for name, uri in sources.items() for word in (f"--{name}", uri)]


def _fleet(folder: Path, _: int) -> list[str]:
    """The options of an ingest of 25 hours of 60 sensors, which are written to `folder`."""
    readings = readings_of(simulate(60 // len(TAGS), _START, 60 * 25).grid).rename({"mean": "value"})
    readings.select("device", "tag", "time", "value").write_parquet(folder / "readings.parquet")
    return ["--source", str(folder / "readings.parquet")]


def _bytecode() -> str:
    """Whether the libraries' bytecode exists, and whether this process would write it."""
    origins = {name: spec.origin for name in _LIBRARIES if (spec := find_spec(name)) and spec.origin}
    lacking = [name for name, origin in origins.items() if not Path(cache_from_source(origin)).exists()]
    policy = "is not kept" if os.environ.get("PYTHONDONTWRITEBYTECODE") else "is kept"
    return f"{'not compiled: ' + ', '.join(lacking) if lacking else 'compiled'}; what a process compiles {policy}"


if __name__ == "__main__":
    run_benchmark(main, __doc__)
