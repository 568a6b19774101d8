"""How often healthy sensors with cycles in local time are called: office hours, weekends, drift, and a change of clocks.

    python -m benchmarks.cycles

Each sensor sends every ten minutes for four weeks, of which two are for training; it never has a fault. In winter, the
clocks do not change; in spring, they change in the middle of the two judged weeks. Detectors are trained with the days of
UTC, and with those of the sensors' own time zone.
"""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.measure import table
from benchmarks.pump import wandering
from benchmarks.real_series import Series, figures, judged, with_alarms
from models.devices.grid import Floats

STEP, DAYS, LEARNT_DAYS, SENSORS = 10, 28, 14, 4
SEASONS = {"winter": datetime(2026, 1, 5, tzinfo=UTC), "spring": datetime(2026, 3, 9, tzinfo=UTC)}
ZONE = "Europe/Zurich"
KINDS = ("office hours", "the day", "the day, less at weekends", "the day, drifting")


def series(kind: str, seed: int, start: datetime, timezone: str) -> Series:
    """One sensor of a `kind`, trained with the days of `timezone`; its noise has a standard deviation of 1."""
    per_day = 24 * 60 // STEP
    times = [start + timedelta(minutes=STEP * n) for n in range(DAYS * per_day)]
    time = pl.Series("time", times, dtype=pl.Datetime("us", "UTC"))
    local = time.dt.convert_time_zone(ZONE).dt
    hour: Floats = (local.hour() + local.minute() / 60).to_numpy()
    workday = (local.weekday() < 6).to_numpy()
    values = 20 + wandering(np.random.default_rng(seed), 0.6, len(times)) + _course(kind, hour, workday)
    readings = pl.DataFrame(
        {"device": f"{kind} {seed}", "tag": "t", "time": time, "mean": values, "shard": 0}
    )
    return Series(f"{kind} {seed}", readings, f"{STEP}m", times[LEARNT_DAYS * per_day], [], timezone)


def _course(kind: str, hour: Floats, workday: NDArray[np.bool_]) -> Floats:
    if kind == "office hours":
        return np.where(workday & (hour > 8) & (hour < 18), 10.0, 0.0)
    day: Floats = 5 * np.sin(2 * np.pi * hour / 24)
    if kind == "the day, less at weekends":
        return day * np.where(workday, 1.0, 0.3)
    drift = 6.0 if kind == "the day, drifting" else 0.0
    return day + np.linspace(0, drift, len(hour))


def compared() -> list[dict[str, Any]]:
    """A line for each kind, season and time zone of training: the shares called, and alarms a device and day."""
    lines = []
    for kind in KINDS:
        for (season, start), timezone in product(SEASONS.items(), ("UTC", ZONE)):
            every = [series(kind, seed, start, timezone) for seed in range(SENSORS)]
            called, alarms = figures([(one, with_alarms(judged(one), one.interval)[0]) for one in every])
            shares = {name: called[name] for name in ("normal at 0.01", "at 0.001")}
            lines.append(
                {
                    "cycle": kind,
                    "season": season,
                    "days of": timezone,
                    **shares,
                    "alarms a device and day": alarms[_FALSE],
                }
            )
    return lines


_FALSE = "false alarms a device and day"

if __name__ == "__main__":
    print(table(compared()))
