"""Speed and memory of the sales scenario on a simulated chain.

    python -m benchmarks.sales --skus 1000 --stores 83
    python -m benchmarks.sales --skus 1000 --stores 83 --shares 0.1 0.3 1.0
    python -m benchmarks.sales --skus 3000 --stores 83 --cluster 2    # through a Dask scheduler with two workers

Each share of the SKUs is simulated, ingested, trained on and forecast in a separate store, on the
command line, as a user would; each row of the table is one share. Timings vary between machines: compare the rows
of one table with each other.
"""

from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.command_line import folder_or_temporary, run_benchmark
from benchmarks.measure import Measured, run, table
from models.sales.simulation import simulate_parts


def main(
    *,
    skus: int = 1000,
    stores: int = 83,
    weeks: int = 120,
    seed: int = 7,
    quantiles: int = 5,
    shares: tuple[float, ...] = (1.0,),
    cluster: int = 0,
    folder: Path | None = None,
) -> None:
    """Print a line for each share.

    Args:
        quantiles: Quantiles per row, as trained.
        shares: Shares of the SKUs to run.
        cluster: Workers of a Dask scheduler outside the commands, to train and forecast with; 0: their own.
        folder: Keep the data and the stores here, and reuse existing ones.
    """
    rows = []
    with folder_or_temporary(folder) as root:
        for count in (max(1, round(skus * share)) for share in shares):
            line = _one(root / f"{count}x{stores}", count, stores, weeks, seed, cluster)
            rows.append({"skus": count, "quantiles": line["rows"] * quantiles, **line})
            print(table(rows[-1:]), flush=True)
    print(f"\nThe whole run, after training\n\n{table(rows)}")


def _one(folder: Path, skus: int, stores: int, weeks: int, seed: int, cluster: int) -> dict[str, Any]:
    source, plan = folder / "source", folder / "plan"
    store = ["--store", str(folder / "store")]
    ingest: Measured | None = None
    training: Measured | None = None
    if not source.exists():
        simulate_files(folder, skus, stores, weeks, seed)
        ingest = run("sales", "ingest", "--source", str(source), "--plan", str(plan), *store)
        training = run("sales", "train", *store, cluster=cluster)
    forecast = run("sales", "forecast", *store, cluster=cluster)
    return {
        "keys": forecast.result["requested"],
        "rows": forecast.result["rows"],
        "ingest s": ingest and ingest.seconds,
        "train s": training and training.seconds,
        "train MB": training and training.peak / 1e6,
        **{f"{name} s": seconds for name, seconds in forecast.result["stages"].items()},
        "run s": forecast.seconds,
        "peak MB": forecast.peak / 1e6,
        "worker MB": forecast.peak_worker / 1e6,
    }


def simulate_files(folder: Path, skus: int, stores: int, weeks: int, seed: int) -> None:
    """Write the simulated history and plan as Parquet, one file per range of SKUs."""
    for name in ("source", "plan"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    parts = simulate_parts(skus, stores, weeks, seed)
    for number, part in enumerate(parts):
        frames: dict[str, pl.DataFrame] = {"source": part.history, "plan": part.plan}
        for name, frame in frames.items():
            frame.write_parquet(folder / name / f"{number:04d}.parquet")


if __name__ == "__main__":
    run_benchmark(main, __doc__)
