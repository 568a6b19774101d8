"""The accuracy of the sales model by the number of training rows.

    python -m benchmarks.learning_curve --skus 300 --stores 83 --rows 25000 50000 100000 200000 400000

One simulated chain is trained with each number of rows in a separate store; the loss is the pinball
loss of the same backtest, per unit sold, on the same keys and origins.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import run, table
from benchmarks.sales import simulate_files


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="almanac-curve-") as name:
        folder = Path(name)
        simulate_files(folder, arguments.skus, arguments.stores, arguments.weeks, arguments.seed)
        sources = ("--source", str(folder / "source"), "--plan", str(folder / "plan"))
        run("sales", "ingest", *sources, "--store", str(folder / "store"))
        print(table([_one(folder, rows) for rows in arguments.rows]))


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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skus", type=int, default=300)
    parser.add_argument("--stores", type=int, default=83)
    parser.add_argument("--weeks", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000, 400_000])
    return parser.parse_args()


if __name__ == "__main__":
    main()
