"""Speed and memory of the devices scenario on a simulated fleet, compared with a loop over one model per sensor.

    python -m benchmarks.devices --sensors 50000
    python -m benchmarks.devices --sensors 50000 --shares 0.1 0.3 1.0

Each share of the sensors is simulated, five per device, with a reading per minute: a day to train on,
and the hour after it. On the command line, as a user would, the day is ingested and trained on; then
one `run` ingests the hour, scores it and publishes. Each row of the table is one share. Besides the seconds
it shows the processor seconds of all processes, which depend less on other load of the machine, and
their peak memory, including the local Prefect server.

The loop is what this replaces: scikit-learn's one-class SVM behind a standard scaler for each sensor of a sample,
stored by MLflow, loaded and applied one after the other on one core. Beside it are the same
SVMs in one vectorised pass, also on one core, which give the same scores; and the time of the run that scored
all sensors, including the start of the workers, reading and writing.
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.measure import Measured, run, table
from models.devices import one_class_svm
from models.devices.grid import Floats
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
    tables = folder / "store" / "devices"
    ingest: Measured | None = None
    training: Measured | None = None
    if not (tables / "readings").exists():
        sources = ["--source", str(folder / "day"), "--shards", str(arguments.shards)]
        ingest = run("devices", "ingest", *sources, *where)
    if not (tables / "bundles").exists():
        training = run("devices", "train", "--detector", arguments.detector, *where)
    hour = run("devices", "run", "--source", str(folder / "hour"), "--catch-up", "1", *where)
    stages = hour.result["stages"]
    return {
        "sensors": devices * len(TAGS),
        **_costs("ingest day", ingest),
        **_costs("train", training),
        "rows": hour.result["rows"],
        **{f"{name} s": seconds for name, seconds in stages.items()},
        **_costs("hour", hour),
        "worker MB": hour.peak_worker / MEGABYTE,
    }


def _costs(name: str, command: Measured | None) -> dict[str, float | None]:
    if command is None:
        return dict.fromkeys((f"{name} s", f"{name} CPU s", f"{name} MB"))
    return {
        f"{name} s": command.seconds,
        f"{name} CPU s": command.cpu,
        f"{name} MB": command.peak / MEGABYTE,
    }


def _compared(row: dict[str, Any], loop: dict[str, float], sample: int) -> dict[str, Any]:
    whole = {name: seconds / sample * row["sensors"] for name, seconds in loop.items()}
    return {
        "sensors": row["sensors"],
        **{f"{name} s": seconds for name, seconds in whole.items()},
        "loop / one pass": whole["loop"] / whole["one pass"],
        "score s": row["score s"],
        "loop / score": whole["loop"] / row["score s"],
    }


def _loop(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds to score the hour of a sample of sensors: in a `loop`, its share `of it loading`, and in `one pass`."""
    grid = simulate(-(-arguments.sample // len(TAGS)), START, arguments.minutes + HOUR, missing=0.0).grid
    grid = grid.take(np.arange(arguments.sample))
    past = np.arange(grid.intervals) < arguments.minutes
    with tempfile.TemporaryDirectory(prefix="almanac-loop-") as folder:
        _save_one_by_one(Path(folder), grid.values[:, past])
        one_by_one, loading, loop = _one_by_one(Path(folder), grid.values[:, ~past])
    params = one_class_svm.fit(grid, past)
    hour = replace(grid, values=grid.values[:, ~past])
    start = time.perf_counter()
    together = one_class_svm.score(params, hour)
    one_pass = time.perf_counter() - start
    np.testing.assert_allclose(together, -one_by_one, atol=1e-9)
    return {"loop": loop, "of it loading": loading, "one pass": one_pass}


def _save_one_by_one(folder: Path, past: Floats) -> None:
    import mlflow.sklearn
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    logging.disable(logging.WARNING)
    for sensor, values in enumerate(past):
        model = make_pipeline(StandardScaler(), OneClassSVM(nu=one_class_svm.NU)).fit(values[:, None])
        where = str(folder / f"{sensor}")
        mlflow.sklearn.save_model(model, where, serialization_format="cloudpickle", pip_requirements=[])


def _one_by_one(folder: Path, hour: Floats) -> tuple[Floats, float, float]:
    """Decision functions of each sensor's readings, the seconds for loading, and the total seconds."""
    import mlflow.sklearn

    decisions, loading, start = np.empty_like(hour), 0.0, time.perf_counter()
    for sensor, values in enumerate(hour):
        before = time.perf_counter()
        model = mlflow.sklearn.load_model(str(folder / f"{sensor}"))
        loading += time.perf_counter() - before
        decisions[sensor] = model.decision_function(values[:, None])
    return decisions, loading, time.perf_counter() - start


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
        fleet = simulate(size, START, arguments.minutes + HOUR, first=first, seed=arguments.seed)
        moment = (pl.col("time") + timedelta(seconds=20)).alias("time")
        yield readings_of(fleet.grid).select("device", "tag", moment, pl.col("mean").alias("value"))


def _workers(arguments: argparse.Namespace) -> list[str]:
    return ["--workers", str(arguments.workers)] if arguments.workers else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=50_000)
    parser.add_argument("--minutes", type=int, default=24 * HOUR, help="Length of the history to train on.")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--sample", type=int, default=500, help="Number of sensors in the loop.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shards", type=int, default=8, help="Shards; each is a task of the run.")
    parser.add_argument("--workers", type=int, help="Number of worker processes; default: one per core.")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0], help="Shares of the sensors to run."
    )
    parser.add_argument("--folder", help="Keep the data and the stores here, and reuse existing ones.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
