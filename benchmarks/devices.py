"""Speed and memory of the devices scenario on a simulated fleet, compared with a loop over one model per sensor.

    python -m benchmarks.devices --sensors 50000
    python -m benchmarks.devices --sensors 50000 --shares 0.1 0.3 1.0

Each share of the sensors is simulated, five per device, with a reading per minute: a day to train on,
and the hour after it. On the command line, as a user would, the day is ingested and trained on; then
one `run` ingests the hour, scores it and publishes. Each row of the table is one share. Besides the seconds
it shows the processor seconds of all processes, which depend less on other load of the machine, and
their peak memory, including the local Prefect server.

The loop is the method that this replaces: scikit-learn's one-class SVM behind a standard scaler for each sensor of a
sample, stored by MLflow, loaded and applied one after the other on one core. It is compared with the same
SVMs in one vectorised pass, also on one core, which produces the same scores, and with the time of the run that scored
all sensors, including the start of the workers, reading and writing.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.command_line import folder_or_temporary, run_benchmark
from benchmarks.measure import Measured, costs, run, table
from models.devices import one_class_svm
from models.devices.grid import Floats
from models.devices.simulation import TAGS, readings_of, simulate

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = 60
CHUNK = 500


def main(
    *,
    sensors: int = 50_000,
    minutes: int = 24 * HOUR,
    detector: str = "auto",
    sample: int = 500,
    seed: int = 7,
    shards: int = 8,
    workers: int | None = None,
    shares: tuple[float, ...] = (1.0,),
    folder: Path | None = None,
) -> None:
    """Print a line for each share, and the comparison with a loop.

    Args:
        minutes: Length of the history to train on.
        sample: Number of sensors in the loop.
        shards: Shards; each is a task of the run.
        workers: Number of worker processes; default: one per core.
        shares: Shares of the sensors to run.
        folder: Keep the data and the stores here, and reuse existing ones.
    """
    rows = []
    with folder_or_temporary(folder) as root:
        for devices in (max(1, round(sensors * share / len(TAGS))) for share in shares):
            place = root / f"{devices * len(TAGS)}"
            _simulate(place, devices, minutes, seed)
            where = ["--store", str(place / "store"), *(["--workers", str(workers)] if workers else [])]
            rows.append({"sensors": devices * len(TAGS), **_one(place, shards, detector, where)})
            print(table(rows[-1:]), flush=True)
    print(f"\nFrom the files to the published scores\n\n{table(rows)}")
    print("\nThe hour, compared with a loop over one scikit-learn model per sensor\n")
    loop = _loop(sample, minutes)
    print(table([_compared(row, loop, sample) for row in rows]))


def _one(folder: Path, shards: int, detector: str, where: list[str]) -> dict[str, Any]:
    tables = folder / "store" / "devices"
    ingest: Measured | None = None
    training: Measured | None = None
    if not (tables / "readings").exists():
        ingest = run("devices", "ingest", "--source", str(folder / "day"), "--shards", str(shards), *where)
    if not (tables / "bundles").exists():
        training = run("devices", "train", "--detector", detector, *where)
    hour = run("devices", "run", "--source", str(folder / "hour"), "--catch-up", "1", *where)
    return {
        **costs("ingest day", ingest),
        **costs("train", training),
        "rows": hour.result["rows"],
        **{f"{name} s": seconds for name, seconds in hour.result["stages"].items()},
        **costs("hour", hour),
        "worker MB": hour.peak_worker / 1e6,
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


def _loop(sample: int, minutes: int) -> dict[str, float]:
    """Seconds to score the hour of a sample of sensors: in a `loop`, its share `of it loading`, and in `one pass`."""
    grid = simulate(-(-sample // len(TAGS)), START, minutes + HOUR, missing_share=0.0).grid
    grid = grid.take(np.arange(sample))
    past = np.arange(grid.intervals) < minutes
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


def _simulate(folder: Path, devices: int, minutes: int, seed: int) -> None:
    """Write the raw readings of the day and of the hour after it, one file per range of devices."""
    if (folder / "day").exists():
        return
    for name in ("day", "hour"):
        (folder / name).mkdir(parents=True)
    until = START + timedelta(minutes=minutes)
    for number, readings in enumerate(_readings(devices, minutes, seed)):
        for name, part in (("day", pl.col("time") < until), ("hour", pl.col("time") >= until)):
            readings.filter(part).write_parquet(folder / name / f"{number:04d}.parquet")


def _readings(devices: int, minutes: int, seed: int) -> Iterator[pl.DataFrame]:
    for first in range(0, devices, CHUNK):
        size = min(CHUNK, devices - first)
        fleet = simulate(size, START, minutes + HOUR, first=first, seed=seed)
        moment = (pl.col("time") + timedelta(seconds=20)).alias("time")
        yield readings_of(fleet.grid).select("device", "tag", moment, pl.col("mean").alias("value"))


if __name__ == "__main__":
    run_benchmark(main, __doc__)
