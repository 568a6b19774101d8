"""Speed and memory of the machines scenario on a simulated fleet with a year of hourly telemetry.

    python -m benchmarks.machines --machines 1000
    python -m benchmarks.machines --machines 1000 --shares 0.1 0.3 1.0

Each share of the machines is simulated, ingested, trained on and scored in a separate store, on the
command line, as a user would; each row of the table is one share. `features` and `fit` are stages of
training. Besides the seconds of each command the table shows the processor seconds of all its processes, which
depend less on other load of the machine, and their peak memory, including the local Prefect server.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import Measured, run, table
from models.machines.simulation import simulate_parts

MEGABYTE = 1_000_000
TABLES = ("telemetry", "errors", "maintenance", "failures", "machines")


def main() -> None:
    arguments = _arguments()
    root = Path(arguments.folder or tempfile.mkdtemp(prefix="almanac-benchmark-"))
    rows = []
    for share in arguments.shares:
        machines = max(1, round(arguments.machines * share))
        rows.append(_one(root / f"{machines}", machines, arguments))
        print(table(rows[-1:]), flush=True)
    print("\nFrom the files to the published risks\n")
    print(table(rows))
    if not arguments.folder:
        shutil.rmtree(root)


def _one(folder: Path, machines: int, arguments: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(folder / "store", ignore_errors=True)
    rows = _simulate(folder, machines, arguments)
    where = ["--store", str(folder / "store"), *_workers(arguments)]
    sources = [word for name in TABLES for word in (f"--{name}", str(folder / name))]
    shards = ["--shards", str(arguments.shards)] if arguments.shards else []
    ingest = run("machines", "ingest", *sources, *shards, *where)
    training = run("machines", "train", *where)
    scoring = run("machines", "score", *where)
    stages = training.result["stages"]
    return {
        "machines": machines,
        "telemetry": rows,
        **_costs("ingest", ingest),
        "features s": stages["prepare"],
        "fit s": stages["fit"],
        **_costs("train", training),
        **_costs("score", scoring),
        "all s": ingest.seconds + training.seconds + scoring.seconds,
        "all CPU s": ingest.cpu + training.cpu + scoring.cpu,
        "peak MB": max(m.peak for m in (ingest, training, scoring)) / MEGABYTE,
    }


def _costs(name: str, command: Measured) -> dict[str, float]:
    return {
        f"{name} s": command.seconds,
        f"{name} CPU s": command.cpu,
        f"{name} MB": command.peak / MEGABYTE,
    }


def _workers(arguments: argparse.Namespace) -> list[str]:
    return ["--workers", str(arguments.workers)] if arguments.workers else []


def _simulate(folder: Path, machines: int, arguments: argparse.Namespace) -> int:
    """Write the simulated tables as Parquet, one file per range of machines; the number of telemetry rows."""
    marker = folder / "telemetry.rows"
    if not marker.exists():
        for name in TABLES:
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows = 0
        for number, part in enumerate(simulate_parts(machines, arguments.days, arguments.seed)):
            frames: dict[str, pl.DataFrame] = {name: part[name] for name in TABLES}
            for name, frame in frames.items():
                frame.write_parquet(folder / name / f"{number:04d}.parquet")
            rows += frames["telemetry"].height
        marker.write_text(str(rows))
    return int(marker.read_text())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shards", type=int, help="Shards of the store; default: that of the command line.")
    parser.add_argument("--workers", type=int, help="Number of worker processes; default: one per core.")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0], help="Shares of the machines to run."
    )
    parser.add_argument("--folder", help="Keep the simulated data here, and reuse existing data.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
