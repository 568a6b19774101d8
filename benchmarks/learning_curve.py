"""The accuracy of the sales model by the number of training rows.

    python -m benchmarks.learning_curve --skus 300 --stores 83 --rows 25000 50000 100000 200000 400000

One simulated chain is trained with each number of rows in a separate store; the loss is the pinball
loss of the same backtest, per unit sold, on the same keys and origins.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command_line import run_benchmark
from benchmarks.measure import run, table
from benchmarks.sales import simulate_files


def main(
    *,
    skus: int = 300,
    stores: int = 83,
    weeks: int = 120,
    seed: int = 7,
    rows: tuple[int, ...] = (25_000, 50_000, 100_000, 200_000, 400_000),
) -> None:
    """Print a line for each number of rows."""
    with tempfile.TemporaryDirectory(prefix="almanac-curve-") as name:
        folder = Path(name)
        simulate_files(folder, skus, stores, weeks, seed)
        sources = ("--source", str(folder / "source"), "--plan", str(folder / "plan"))
        run("sales", "ingest", *sources, "--store", str(folder / "store"))
        print(table([_one(folder, number) for number in rows]))


def _one(folder: Path, rows: int) -> dict[str, Any]:
    store = folder / f"store-{rows}"
    shutil.copytree(folder / "store", store)
    training = run("sales", "train", "--training-rows", str(rows), "--store", str(store))
    shutil.rmtree(store)
    headline = training.result["headline"]
    return {
        "rows": rows,
        "pinball": headline["pinball"],
        "wape": headline["wape"],
        "fit s": training.result["stages"]["fit"],
        "train s": training.seconds,
        "peak MB": training.peak / 1e6,
    }


if __name__ == "__main__":
    run_benchmark(main, __doc__)
