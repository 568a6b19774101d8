"""Speed and memory of the sales scenario on a simulated chain.

    python -m benchmarks.sales --skus 1000 --stores 83
    python -m benchmarks.sales --skus 1000 --stores 83 --shares 0.1 0.3 1.0

Each share of the SKUs is simulated, ingested, trained on and forecast in a separate store, on the
command line, as a user would; each row of the table is one share. Timings vary between machines: compare the rows
of one table with each other.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import Measured, run, table
from models.sales.simulation import simulate_parts

MEGABYTE = 1_000_000


def main() -> None:
    arguments = _arguments()
    root = Path(arguments.folder or tempfile.mkdtemp(prefix="almanac-benchmark-"))
    rows = []
    for share in arguments.shares:
        skus = max(1, round(arguments.skus * share))
        rows.append(_one(root / f"{skus}x{arguments.stores}", skus, arguments))
        print(table(rows[-1:]), flush=True)
    print("\nThe whole run, after training\n")
    print(table(rows))
    if not arguments.folder:
        shutil.rmtree(root)


def _one(folder: Path, skus: int, arguments: argparse.Namespace) -> dict[str, Any]:
    source, plan = folder / "source", folder / "plan"
    store = ["--store", str(folder / "store")]
    ingest: Measured | None = None
    training: Measured | None = None
    if not source.exists():
        simulate_files(folder, skus, arguments.stores, arguments.weeks, arguments.seed)
        ingest = run("sales", "ingest", "--source", str(source), "--plan", str(plan), *store)
        training = run("sales", "train", *store)
    forecast = run("sales", "forecast", *store)
    quantiles = forecast.result["rows"] * arguments.quantiles
    stages = forecast.result["stages"]
    return {
        "skus": skus,
        "keys": forecast.result["requested"],
        "quantiles": quantiles,
        "ingest s": ingest and ingest.seconds,
        "train s": training and training.seconds,
        "train MB": training and training.peak / MEGABYTE,
        **{f"{name} s": seconds for name, seconds in stages.items()},
        "run s": forecast.seconds,
        **_memory(forecast),
    }


def _memory(command: Measured) -> dict[str, float]:
    return {"peak MB": command.peak / MEGABYTE, "worker MB": command.peak_worker / MEGABYTE}


def simulate_files(folder: Path, skus: int, stores: int, weeks: int, seed: int) -> None:
    """Write the simulated history and plan as Parquet, one file per range of SKUs."""
    for name in ("source", "plan"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    parts = simulate_parts(skus, stores, weeks, seed)
    for number, part in enumerate(parts):
        frames: dict[str, pl.DataFrame] = {"source": part.history, "plan": part.plan}
        for name, frame in frames.items():
            frame.write_parquet(folder / name / f"{number:04d}.parquet")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skus", type=int, default=1000)
    parser.add_argument("--stores", type=int, default=83)
    parser.add_argument("--weeks", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quantiles", type=int, default=5, help="Quantiles per row, as trained.")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0], help="Shares of the SKUs to run.")
    parser.add_argument("--folder", help="Keep the data and the stores here, and reuse existing ones.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
