"""Small fleets with few failures: how far the mean probability is from the later rate of failures.

    python -m benchmarks.few_failures --seeds 1

Each fleet has daily telemetry of a year, with a random number of failures around the expected number. The model is
judged on the following half year, on its machines and on many more of the same kind, so that their share of failing rows
varies little by chance. `ratio` is the mean probability divided by that share. `base` is the same for the base
rate, the share of failing rows in training, so that only chance is left. `possible` says whether the share
lies in the 80 % interval of a rate around the mean probability with this many failures (Garwood 1936).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from math import gamma
from typing import Any

import numpy as np
import polars as pl

from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from models.machines.estimators import Floats
from models.machines.few_failures import rate_interval
from models.machines.scenario import MACHINES
from models.scenario import train

MACHINES_LEARNT, MACHINES_MORE = 25, 300
LEARNT_DAYS, DAYS = 365, 548
START = datetime(2024, 1, 1, tzinfo=UTC)
EXPECTED = (4, 8, 16)
OPTIONS: dict[str, Any] = {"every_hours": 24, "horizons_hours": [24, 168], "threads": 1}


@dataclass(frozen=True)
class Kind:
    """How machines of a fleet fail: Weibull lives of `shape`, for each of the `components`.

    Before a failure, a sensor drifts away for `warning_days` (0: no warning); `season` is the amplitude of a yearly cycle
    in all sensors. A machine that is `scrapped` at its failure ends there, and another one replaces it.
    """

    shape: float = 1.0
    components: int = 1
    warning_days: int = 0
    season: float = 0.0
    scrapped: bool = False


KINDS = {
    "constant hazard, nothing to see": Kind(),
    "constant hazard, a season in the sensors": Kind(season=2.0),
    "wear-out, nothing to see": Kind(shape=4.0),
    "infant mortality, nothing to see": Kind(shape=0.7),
    "a warning of 5 days": Kind(warning_days=5),
    "wear-out, a warning of 30 days": Kind(shape=4.0, warning_days=30),
    "three components, one warning each": Kind(components=3, warning_days=5),
    "run to failure, nothing to see": Kind(scrapped=True),
    "run to failure, wear-out, a warning of 60 days": Kind(shape=4.0, warning_days=60, scrapped=True),
}


def main(*, seeds: int = 1) -> None:
    """Print a line for each component and horizon, and a summary.

    Args:
        seeds: Number of fleets of each kind and number of failures.
    """
    lines = []
    for seed, (name, kind), expected in product(range(seeds), KINDS.items(), EXPECTED):
        for line in judged(kind, expected, seed):
            lines.append({"fleet": name, "expected": expected, "seed": seed, **line})
    print(table(lines))
    print()
    print(table([_summary(lines, hours) for hours in OPTIONS["horizons_hours"]]))


def judged(kind: Kind, expected: int, seed: int) -> list[dict[str, Any]]:
    """A line per component that failed and horizon, of one fleet."""
    tables = fleet(kind, expected, seed)
    end, last = START + timedelta(days=LEARNT_DAYS), START + timedelta(days=DAYS)
    own = {name: frame.filter(pl.col("own"), pl.col("time") <= end) for name, frame in tables.items()}
    learnt = {name: frame.drop("own").lazy() for name, frame in own.items()}
    model = MACHINES.load(train(MACHINES, learnt, end, OPTIONS).files)
    every = {name: frame.drop("own").lazy() for name, frame in tables.items()}
    options = OPTIONS | {"score_from": end}
    after = MACHINES.evaluate(model, every, MACHINES.context(every, last, options), last, options)
    done = after.filter(pl.col("failed").is_not_null(), pl.col("probability").is_not_null())
    counts = dict(own["failures"].group_by("component").len().iter_rows())
    base = {(risk.component, risk.horizon_hours): risk.base_rate for risk in model.risks}
    lines = []
    for (component, hours), some in done.group_by("component", "horizon_hours", maintain_order=True):
        said = float(some["probability"].to_numpy().mean())
        share = float(some["failed"].to_numpy().mean())
        place = {"component": component, "hours": hours, "failures": counts[component]}
        rates = {"said": said, "share": share, "base": base[str(component), int(str(hours))] / share}
        low, high = rate_interval(counts[component])
        lines.append({**place, **rates, "ratio": said / share, "possible": low <= share / said <= high})
    return lines


def fleet(kind: Kind, expected: int, seed: int) -> dict[str, pl.DataFrame]:
    """Telemetry and failures of the fleet's `own` machines and of others; `expected` is the expected number of failures of
    each component of the own machines in training."""
    rng = np.random.default_rng([seed, expected, *f"{kind}".encode()])
    mean_days = MACHINES_LEARNT * LEARNT_DAYS / expected
    telemetry, failures = [], []
    for place in range(MACHINES_LEARNT + MACHINES_MORE):
        failed = [_renewals(rng, kind.shape, mean_days) for _ in range(kind.components)]
        bounds = (
            [0.0, *failed[0][(failed[0] > 0) & (failed[0] < DAYS)], DAYS] if kind.scrapped else [0.0, DAYS]
        )
        readings = _readings(rng, kind, failed)
        for number, (first, until) in enumerate(pairwise(bounds)):
            of = [
                pl.lit(f"m{place}-{number}").alias("machine_id"),
                pl.lit(place < MACHINES_LEARNT).alias("own"),
            ]
            inside = pl.col("day").is_between(first, until, closed="right")
            telemetry.append(readings.filter(inside).with_columns(of))
            failures += [
                pl.DataFrame({"day": times}).filter(inside).with_columns(*of, component=pl.lit(f"c{i}"))
                for i, times in enumerate(failed)
            ]
    return {"telemetry": _dated(telemetry), "failures": _dated(failures)}


def _renewals(rng: np.random.Generator, shape: float, mean_days: float) -> Floats:
    """Days of failure, whole numbers, beginning long before the start, so that ages are mixed at the start."""
    scale = mean_days / gamma(1 + 1 / shape)
    lives = np.maximum(1, scale * rng.weibull(shape, 200))
    times = np.cumsum(lives) - (5 + rng.uniform()) * mean_days
    return np.unique(np.ceil(times[times < DAYS + 100]))


def _readings(rng: np.random.Generator, kind: Kind, failed: Sequence[Floats]) -> pl.DataFrame:
    """A sensor for each component and two more, with noise of deviation 1."""
    days = np.arange(1.0, DAYS + 1)
    columns = {"day": days}
    for i in range(kind.components + 2):
        values = (
            rng.standard_normal(DAYS) + rng.standard_normal() + kind.season * np.sin(2 * np.pi * days / 365)
        )
        if kind.warning_days and i < kind.components:
            left = (np.append(failed[i], np.inf)[np.searchsorted(failed[i], days)] - days) / kind.warning_days
            values += 5.0 * np.clip(1 - left, 0, 1)
        columns[f"s{i}"] = values
    return pl.DataFrame(columns)


def _dated(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """One table, its `day` as a time."""
    time = (pl.lit(START) + pl.duration(days=pl.col("day"))).cast(pl.Datetime("us", "UTC"))
    return pl.concat(parts).with_columns(time.alias("time"), shard=pl.lit(0)).drop("day")


def _summary(lines: list[dict[str, Any]], hours: int) -> dict[str, Any]:
    rows = pl.DataFrame(lines).filter(hours=hours)
    tenths = {f"q{10 * i}": rows["ratio"].quantile(i / 10, "linear") for i in (1, 5, 9)}
    bases = {f"base q{10 * i}": rows["base"].quantile(i / 10, "linear") for i in (1, 5, 9)}
    return {
        "hours": hours,
        "rows": rows.height,
        **tenths,
        "possible": rows["possible"].cast(int).mean(),
        **bases,
    }


if __name__ == "__main__":
    run_benchmark(main, __doc__)
