"""Speed and memory of the machines scenario on a simulated fleet with a year of hourly telemetry.

    python -m benchmarks.machines --machines 1000
    python -m benchmarks.machines --machines 1000 --shares 0.1 0.3 1.0

Each share of the machines is simulated, ingested, trained on and scored in a separate store, on the
command line, as a user would; each row of the table is one share. `features` and `fit` are stages of
training. Besides the seconds of each command the table shows the processor seconds of all its processes, which
depend less on other load of the machine, and their peak memory, including the local Prefect server.
"""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.command_line import folder_or_temporary, run_benchmark
from benchmarks.measure import costs, run, table
from models.machines.simulation import simulate_parts

TABLES = ("telemetry", "errors", "maintenance", "failures", "machines")


def main(
    *,
    machines: int = 1000,
    days: int = 365,
    seed: int = 7,
    shards: int = 32,
    workers: int | None = None,
    shares: tuple[float, ...] = (1.0,),
    folder: Path | None = None,
) -> None:
    """Print a line for each share.

    Args:
        shards: Shards of the store.
        workers: Number of worker processes; default: one per core.
        shares: Shares of the machines to run.
        folder: Keep the simulated data here, and reuse existing data.
    """
    rows = []
    with folder_or_temporary(folder) as root:
        for count in (max(1, round(machines * share)) for share in shares):
            place = root / f"{count}"
            shutil.rmtree(place / "store", ignore_errors=True)
            telemetry = _simulate(place, count, days, seed)
            where = ["--store", str(place / "store"), *(["--workers", str(workers)] if workers else [])]
            rows.append({"machines": count, "telemetry": telemetry, **_one(place, shards, where)})
            print(table(rows[-1:]), flush=True)
    print(f"\nFrom the files to the published risks\n\n{table(rows)}")


def _one(folder: Path, shards: int, where: list[str]) -> dict[str, Any]:
    sources = [word for name in TABLES for word in (f"--{name}", str(folder / name))]
    ingest = run("machines", "ingest", *sources, "--shards", str(shards), *where)
    training = run("machines", "train", *where)
    scoring = run("machines", "score", *where)
    stages = training.result["stages"]
    return {
        **costs("ingest", ingest),
        "features s": stages["prepare"],
        "fit s": stages["fit"],
        **costs("train", training),
        **costs("score", scoring),
        "all s": ingest.seconds + training.seconds + scoring.seconds,
        "all CPU s": ingest.cpu + training.cpu + scoring.cpu,
        "peak MB": max(m.peak for m in (ingest, training, scoring)) / 1e6,
    }


def _simulate(folder: Path, machines: int, days: int, seed: int) -> int:
    """Write the simulated tables as Parquet, one file per range of machines; returns the number of telemetry rows."""
    marker = folder / "telemetry.rows"
    if not marker.exists():
        for name in TABLES:
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows = 0
        for number, part in enumerate(simulate_parts(machines, days, seed)):
            frames: dict[str, pl.DataFrame] = {name: part[name] for name in TABLES}
            for name, frame in frames.items():
                frame.write_parquet(folder / name / f"{number:04d}.parquet")
            rows += frames["telemetry"].height
        marker.write_text(str(rows))
    return int(marker.read_text())


if __name__ == "__main__":
    run_benchmark(main, __doc__)
