"""How many alarms per day healthy fleets raise, compared with the budget.

    python -m benchmarks.budget --devices 12 100
    python -m benchmarks.budget --devices 100 --first 100    # other devices

Each device has five sensors with a reading every ten minutes: a level, a daily cycle, office hours, a slow drift, and one
that wanders. One week is for training and one is judged; its third day is a holiday. In the fleet that `changes`, one
device in ten moves to another level by three standard deviations and stays there. The last column is the number of false
alarms as a multiple of the budget, with a 95 % interval of the expected number (Garwood 1936, Biometrika 28): a week of a
small fleet says little.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from benchmarks.pump import wandering
from benchmarks.real_series import Series, judged, with_alarms
from models.devices.alarms import PER_DEVICE_AND_DAY
from models.devices.grid import Floats

START, STEP, LEARNT_DAYS, DAYS = datetime(2026, 1, 5, tzinfo=UTC), timedelta(minutes=10), 7, 14
BUDGETS = (1, 5)
"""Times the default budget."""


def device(number: int, *, changes: bool) -> pl.DataFrame:
    """Readings of a healthy device; if the fleet `changes`, every tenth device changes its level in the judged week."""
    random, per_day = np.random.default_rng(number), timedelta(days=1) // STEP
    n = DAYS * per_day
    times = pl.datetime_range(START, START + (n - 1) * STEP, STEP, time_unit="us", eager=True).alias("time")
    hour: Floats = (np.arange(n) % per_day) / per_day * 24
    day = np.arange(n) // per_day
    at_work = (day % 7 < 5) & (day != LEARNT_DAYS + 2) & (hour > 8) & (hour < 18)
    courses = {
        "level": np.zeros(n),
        "day": 5 * np.sin(2 * np.pi * hour / 24),
        "office": 10.0 * at_work,
        "drift": np.linspace(0, 2, n),
    }
    values = {tag: 20 + course + wandering(random, 0.5, n) for tag, course in courses.items()}
    values["wanders"] = np.cumsum(random.normal(size=n)) / 5
    if changes and number % 10 == 0:
        values["level"][random.integers(LEARNT_DAYS * per_day, n) :] += 3
    wide = pl.DataFrame([times, *(pl.Series(tag, x) for tag, x in values.items())])
    rows = wide.unpivot(index="time", variable_name="tag", value_name="mean")
    return rows.select(
        pl.lit(f"d{number:05}").alias("device"), "tag", "time", "mean", pl.lit(0).alias("shard")
    )


def alarms_a_day(devices: int, first: int, *, changes: bool) -> list[dict[str, Any]]:
    """A line for each budget: alarms a day, those of levels that moved, and how many times the budget the others are."""
    readings = pl.concat([device(number, changes=changes) for number in range(first, first + devices)])
    rows = judged(Series("fleet", readings, "10m", START + timedelta(days=LEARNT_DAYS), []))
    lines = []
    for times in BUDGETS:
        borne = times * PER_DEVICE_AND_DAY * devices
        _, new = with_alarms(rows, "10m", borne)
        true = new.filter(tag="level").filter(pl.col("device").str.slice(1).cast(pl.Int64) % 10 == 0, changes)
        a_day, moved = (n / (DAYS - LEARNT_DAYS) for n in (new.height, true.height))
        called = f"{rows.select(pl.mean('is_anomaly')).item():.3%}"
        line = {"devices": devices, "changes": changes, "called at 0.001": called, "borne a day": borne}
        share = _with_interval(new.height - true.height, (DAYS - LEARNT_DAYS) * borne)
        lines.append({**line, "alarms a day": a_day, "of new levels": moved, "of the budget": share})
    return lines


def _with_interval(count: int, expected: float) -> str:
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return f"{count / expected:.2f} ({low / expected:.2f} to {chi2.ppf(0.975, 2 * count + 2) / 2 / expected:.2f})"


def main(*, devices: tuple[int, ...] = (12, 100), first: int = 0) -> None:
    """Print a line for each size of fleet, with and without changes, and budget; devices number `first` and up."""
    every = [(n, changes) for n in devices for changes in (False, True)]
    print(table([line for n, changes in every for line in alarms_a_day(n, first, changes=changes)]))


if __name__ == "__main__":
    run_benchmark(main, __doc__)
