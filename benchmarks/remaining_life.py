"""Remaining useful life of held-out engines that are cut off at random.

    python -m benchmarks.remaining_life --data ../shared/data/cmapss
    python -m benchmarks.remaining_life --data ../shared/data/cmapss --conditions 6

Each file of the folder has machines run to failure: `unit`, `cycle`, and readings; a machine fails at its last cycle.
A seed divides the machines into quarters, and each quarter in turn is held out: its machines are cut off at random
cycles, and the prediction at the cut is compared with the cycles that were left. So every machine is
judged once per seed, by a model of the others. `RMSE` is the error of the median, with remaining lives capped at 125
cycles, as in the literature (Heimes 2008, PHM), `uncapped` the same without the cap; an unknown median counts
as the longest known life. `coverage` is the share of lives between the 10 % and 90 % quantiles,
`within 125` the coverage of engines with at most 125 cycles left. `precision` is the average precision of the
probability of a failure within 10 cycles, over all cycles of the held-out machines.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from models.machines.evaluation import average_precision
from models.machines.scenario import MACHINES
from models.scenario import train

CAP = 125
QUARTERS = 4
HORIZON = 10
START = datetime(2020, 1, 1, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"every_hours": 24, "horizons_hours": [24 * HORIZON], "threads": 1}


def main(*, data: Path, seeds: int = 1, cuts: int = 6, conditions: int = 1) -> None:
    """Print a table for each file.

    Args:
        data: Folder of Parquet files: unit, cycle, and readings.
        seeds: Number of ways to divide the machines.
        cuts: Cuts of each machine that is held out.
        conditions: Number of simulated operating conditions; see `_in_conditions`.
    """
    for file in sorted(data.glob("*.parquet")):
        engines = _in_conditions(pl.read_parquet(file), conditions)
        print(f"\n{file.stem}: {engines['unit'].n_unique()} machines\n")
        rows, every = [], []
        for seed, quarter in product(range(seeds), range(QUARTERS)):
            lives, precision = _trial(engines, seed, quarter, cuts)
            every.append(lives)
            rows.append({"held out": f"{seed}.{quarter + 1}", **measures(lives), "precision": precision})
        mean = float(np.mean([row["precision"] for row in rows]))
        rows.append({"held out": "all", **measures(pl.concat(every)), "precision": mean})
        print(table(rows))


def _in_conditions(engines: pl.DataFrame, count: int) -> pl.DataFrame:
    """`engines` with a random operating condition in each cycle, which moves and scales the readings of every sensor.

    Conditions are tens of standard deviations apart, as in the other engines of the simulation (C-MAPSS FD002, FD004).
    """
    if count == 1:
        return engines
    rng = np.random.default_rng(0)
    condition = rng.integers(0, count, engines.height)
    sensors = [name for name in engines.columns if name not in ("unit", "cycle")]
    columns = []
    for name in sensors:
        values = engines[name].to_numpy()
        middle, spread = values.mean(), values.std() or 1.0
        levels, scales = rng.normal(0, 40 * spread, count), rng.uniform(0.7, 1.1, count)
        columns.append(pl.Series(name, middle + levels[condition] + scales[condition] * (values - middle)))
    return engines.with_columns(columns)


def measures(lives: pl.DataFrame) -> dict[str, float]:
    """Errors and coverage of `low`, `middle`, `high` (null: unknown), compared with `left`, the remaining cycles."""
    longest = pl.max_horizontal(pl.col("left").max(), pl.col("middle").max())
    filled = lives.with_columns(pl.col("middle").fill_null(longest))
    capped = filled.select(pl.col("middle").clip(upper_bound=CAP), pl.col("left").clip(upper_bound=CAP))
    inside = (pl.col("left") >= pl.col("low").fill_null(-1)) & (
        pl.col("left") <= pl.col("high").fill_null(float("inf"))
    )
    near = lives.filter(pl.col("left") <= CAP)
    return {
        "cuts": lives.height,
        "RMSE": _rmse(capped),
        "uncapped": _rmse(filled),
        "coverage": lives.select(inside.mean()).item(),
        "within 125": near.select(inside.mean()).item(),
        "band": near.select((pl.col("high") - pl.col("low")).mean()).item(),
    }


def _rmse(rows: pl.DataFrame) -> float:
    return float(np.sqrt(rows.select(((pl.col("middle") - pl.col("left")) ** 2).mean()).item()))


def _trial(engines: pl.DataFrame, seed: int, quarter: int, cuts: int) -> tuple[pl.DataFrame, float]:
    rng = np.random.default_rng(seed)
    units = engines["unit"].unique().sort().to_numpy()
    test_units = rng.permutation(units)[quarter::QUARTERS]
    training = engines.filter(~pl.col("unit").is_in(test_units.tolist()))
    end = START + timedelta(days=int(engines["cycle"].max()))  # type: ignore[arg-type]
    tables = _tables(training.with_columns(time=_time("cycle")))
    model = MACHINES.load(train(MACHINES, tables, end, OPTIONS).files)
    whole = _tables(
        engines.filter(pl.col("unit").is_in(test_units.tolist())).with_columns(time=_time("cycle"))
    )
    test_rows = MACHINES.evaluate(model, whole, MACHINES.context(whole, end, OPTIONS), end, OPTIONS)
    test_rows = test_rows.filter(pl.col("next_failure_hours").is_not_null())
    failed = (test_rows["next_failure_hours"] <= 24 * HORIZON).to_numpy()
    precision = average_precision(test_rows["probability"].to_numpy(), failed)
    return _lives(model, engines, test_units, cuts, rng, end), precision


def _lives(
    model: Any, engines: pl.DataFrame, units: np.ndarray, cuts: int, rng: np.random.Generator, end: datetime
) -> pl.DataFrame:
    """Per cut: `left`, the cycles to the failure, and the prediction: `low`, `middle`, `high`."""
    parts = []
    for unit in sorted(units.tolist()):
        one = engines.filter(unit=unit)
        last = int(one["cycle"].max())  # type: ignore[arg-type]
        for i, end_cycle in enumerate(rng.integers(20, last, cuts)):
            history = one.filter(pl.col("cycle") <= int(end_cycle)).with_columns(
                pl.lit(f"{unit}-{i}").alias("unit"), time=_time(pl.col("cycle") - int(end_cycle), end)
            )
            parts.append(history.with_columns(left=pl.lit(float(last - end_cycle))))
    histories = pl.concat(parts)
    tables = {**_tables(histories.drop("left")), "failures": _failures(histories).head(0).lazy()}
    context = MACHINES.context(tables, end, OPTIONS)
    keys = histories.select(pl.col("unit").alias("machine_id"), pl.lit("engine").alias("component")).unique()
    scores = MACHINES.score(model, tables, context, keys.sort("machine_id"), end, OPTIONS).rows
    quantiles = {f"life_q{q}_hours": name for q, name in ((10, "low"), (50, "middle"), (90, "high"))}
    cycles = scores.select("machine_id", *(pl.col(c).alias(name) / 24 for c, name in quantiles.items()))
    cycles_left = histories.group_by(pl.col("unit").alias("machine_id")).agg(pl.col("left").first())
    return cycles.join(cycles_left, on="machine_id").sort("machine_id")


def _time(cycle: str | pl.Expr, zero: datetime = START) -> pl.Expr:
    """A cycle is a day, counted from `zero`."""
    days = pl.col(cycle) if isinstance(cycle, str) else cycle
    return (pl.lit(zero) + pl.duration(days=days)).cast(pl.Datetime("us", "UTC"))


def _tables(engines: pl.DataFrame) -> Mapping[str, pl.LazyFrame]:
    telemetry = engines.with_columns(pl.col("unit").cast(pl.String).alias("machine_id"), shard=pl.lit(0))
    failures = _failures(engines)
    return {"telemetry": telemetry.drop("unit", "cycle").lazy(), "failures": failures.lazy()}


def _failures(engines: pl.DataFrame) -> pl.DataFrame:
    ends = engines.group_by(pl.col("unit").cast(pl.String).alias("machine_id")).agg(pl.col("time").max())
    return ends.sort("machine_id").with_columns(component=pl.lit("engine"), shard=pl.lit(0))


if __name__ == "__main__":
    run_benchmark(main, __doc__)
