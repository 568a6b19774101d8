"""Speed and memory of the devices scenario on a simulated fleet, and of a loop over one model per sensor.

    python -m benchmarks.devices --sensors 50000
    python -m benchmarks.devices --sensors 50000 --shares 0.1 0.3 1.0

Each share of the sensors is simulated, five to a device, with a reading a minute: a day to train on,
and the hour after it. By the command line, as a user would, the day is ingested and trained on; then
one `run` loads the hour, scores it and publishes. One row of the table is one share. Next to the seconds
stand the processor seconds of all processes, which depend less on what else the machine does, and
their peak memory, each with the local Prefect server.

The loop has scikit-learn's one-class SVM behind a standard scaler for each of a sample of sensors. Its
models are in memory already: loading them would come on top. Its seconds are those of one core.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.measure import Measured, run, table
from models.devices.simulation import TAGS, readings_of, simulate

MEGABYTE = 1_000_000
START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = 60
CHUNK = 500


def main() -> None:
    arguments = _arguments()
    root = Path(arguments.folder or tempfile.mkdtemp(prefix="almanac-benchmark-"))
    rows = []
    for share in arguments.shares:
        devices = max(1, round(arguments.sensors * share / len(TAGS)))
        rows.append(_one(root / f"{devices * len(TAGS)}", devices, arguments))
        print(table(rows[-1:]), flush=True)
    print("\nFrom the files to the published scores\n")
    print(table(rows))
    print("\nThe hour, against a loop with one scikit-learn model per sensor\n")
    loop = _loop(arguments)
    print(table([_compared(row, loop, arguments.sample) for row in rows]))
    if not arguments.folder:
        shutil.rmtree(root)


def _one(folder: Path, devices: int, arguments: argparse.Namespace) -> dict[str, Any]:
    _simulate(folder, devices, arguments)
    where = ["--store", str(folder / "store"), *_workers(arguments)]
    if not (folder / "store").exists():
        ingested: Measured | None = run("devices", "ingest", "--source", str(folder / "day"), *where)
        trained: Measured | None = run("devices", "train", "--detector", arguments.detector, *where)
    else:
        ingested = trained = None
    hour = run("devices", "run", "--source", str(folder / "hour"), "--catch-up", "1", *where)
    stages = hour.result["stages"]
    return {
        "sensors": devices * len(TAGS),
        **_costs("ingest day", ingested),
        **_costs("train", trained),
        "rows": hour.result["rows"],
        **{f"{name} s": seconds for name, seconds in stages.items()},
        **_costs("hour", hour),
        "worker MB": hour.peak_worker / MEGABYTE,
    }


def _costs(name: str, measured: Measured | None) -> dict[str, float | None]:
    if measured is None:
        return dict.fromkeys((f"{name} s", f"{name} CPU s", f"{name} MB"))
    return {
        f"{name} s": measured.seconds,
        f"{name} CPU s": measured.cpu,
        f"{name} MB": measured.peak / MEGABYTE,
    }


def _compared(row: dict[str, Any], loop: float, sample: int) -> dict[str, Any]:
    whole = loop / sample * row["sensors"]
    return {
        "sensors": row["sensors"],
        "loop s (from the sample)": whole,
        "score s": row["score s"],
        "loop / score": whole / row["score s"],
        "loop / whole hour": whole / row["hour s"],
    }


def _loop(arguments: argparse.Namespace) -> float:
    """Seconds to score the hour of a sample of sensors, each with its own model, one after the other."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    values = simulate(
        -(-arguments.sample // len(TAGS)), START, arguments.minutes + HOUR, missing=0.0
    ).grid.values
    values = values[: arguments.sample]
    models = [
        make_pipeline(StandardScaler(), OneClassSVM(nu=0.01)).fit(past[:, None])
        for past in values[:, : arguments.minutes]
    ]
    hour = pl.DataFrame(
        {
            "sensor": np.repeat(np.arange(len(values)), HOUR),
            "value": values[:, arguments.minutes :].ravel(),
        }
    )
    begun = time.perf_counter()
    found = []
    for (sensor,), readings in hour.group_by("sensor", maintain_order=True):
        model = models[int(str(sensor))]
        scores = model.decision_function(readings.select("value").to_numpy())
        found.append(readings.with_columns(pl.Series("score", scores), pl.Series("label", scores < 0)))
    pl.concat(found)
    return time.perf_counter() - begun


def _simulate(folder: Path, devices: int, arguments: argparse.Namespace) -> None:
    """Write the raw readings of the day and of the hour after it, one file per range of devices."""
    if (folder / "day").exists():
        return
    for name in ("day", "hour"):
        (folder / name).mkdir(parents=True)
    until = START + timedelta(minutes=arguments.minutes)
    for number, readings in enumerate(_readings(devices, arguments)):
        for name, part in (("day", pl.col("time") < until), ("hour", pl.col("time") >= until)):
            readings.filter(part).write_parquet(folder / name / f"{number:04d}.parquet")


def _readings(devices: int, arguments: argparse.Namespace) -> Iterator[pl.DataFrame]:
    for first in range(0, devices, CHUNK):
        size = min(CHUNK, devices - first)
        made = simulate(size, START, arguments.minutes + HOUR, first=first, seed=arguments.seed)
        moment = (pl.col("time") + timedelta(seconds=20)).alias("time")
        yield readings_of(made.grid).select("device", "tag", moment, pl.col("mean").alias("value"))


def _workers(arguments: argparse.Namespace) -> list[str]:
    return ["--workers", str(arguments.workers)] if arguments.workers else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=50_000)
    parser.add_argument("--minutes", type=int, default=24 * HOUR, help="Length of the history to train on.")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--sample", type=int, default=500, help="Sensors that the loop is measured on.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, help="Worker processes; default: the cores.")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0], help="Shares of the sensors to run."
    )
    parser.add_argument("--folder", help="Keep the data and the stores here; what is there is used again.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
