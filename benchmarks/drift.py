"""How soon a shift is detected, and how often there is a false alarm.

    python -m benchmarks.drift
    python -m benchmarks.drift --scenarios devices --first 1000 --seeds 200 --keys 0.3

Each of `--seeds` seeds, from `--first` on, simulates a scenario twice, with one training window and `--cycles` cycles
after it. Without a shift, `alarms` counts the cycles with at least one alarm, `in seeds` the seeds with such cycles, and
`per cycle` is their share. With a shift from the first cycle on, `found` is the share of seeds with an alarm
within two cycles, `right first` the share in which the shifted feature ranks first, and `delay` the mean
number of cycles until the alarm. 95 % intervals are in brackets.

The cycles of a seed are not independent: they are compared with the same training window, and neighbours
resemble each other. Many seeds with few cycles are therefore more informative than the reverse; the interval of the
rate is widened by the clustering of alarms in seeds, see `interval`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import beta

from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from models.devices.scenario import DEVICES
from models.devices.simulation import readings_of, recalibrated
from models.devices.simulation import simulate as simulate_devices
from models.drift import CYCLE, Rule, drift
from models.machines.scenario import MACHINES
from models.machines.simulation import joined_by
from models.machines.simulation import simulate as simulate_machines
from models.sales.scenario import SALES
from models.sales.simulation import price_war
from models.sales.simulation import simulate as simulate_sales
from models.scenario import AsOf, Scenario, WatchesInputs

START = datetime(2026, 3, 2, tzinfo=UTC)
Tables = dict[str, pl.DataFrame]


def main(
    *,
    scenarios: tuple[Literal["sales", "devices", "machines"], ...] = ("sales", "devices", "machines"),
    first: int = 1,
    seeds: int = 20,
    cycles: int = 50,
    keys: float = 1.0,
    training: float = 1.0,
    rate: float = Rule.rate,
    far: float = Rule.far,
) -> None:
    """Print a line for each scenario.

    Args:
        keys: Their number, as a share of the usual one.
        training: Its length, as a share of the usual one.
        far: 1: any excess of a limit is an alarm.
    """
    numbers, size, rule = range(first, first + seeds), Size(cycles, keys, training), Rule(rate=rate, far=far)
    rows = [_line(name, numbers, size, rule) for name in scenarios]
    print(
        f"Seeds {first} to {numbers[-1]}, each of {cycles} cycles; the stated rate is {rate:.2%} per cycle.\n"
    )
    print(table(rows))


@dataclass(frozen=True)
class Size:
    """The size of a simulation: cycles after the training, and keys and training as shares of the usual sizes."""

    cycles: int
    keys: float
    training: float


@dataclass(frozen=True)
class Case:
    """Tables without and with a shift, which begins after `trained`, the end of the training window."""

    scenario: Scenario
    quiet: Tables
    shifted: Tables
    trained: AsOf
    cycle: timedelta


def _sales(seed: int, size: Size) -> Case:
    """40 SKUs in 6 stores over two years; then all prices fall by a fifth."""
    weeks = round(104 * size.training) + size.cycles
    chain = simulate_sales(round(40 * size.keys), 6, weeks, seed=seed, with_truth=False)
    end = chain.as_of - timedelta(weeks=size.cycles)
    war = price_war(chain.history, end + timedelta(weeks=1))
    return Case(SALES, {"history": chain.history}, {"history": war}, end, timedelta(weeks=1))


def _devices(seed: int, size: Size) -> Case:
    """30 devices over a week; then the flow sensors of half of them read a fifth higher."""
    devices, hours = round(30 * size.keys), round(7 * 24 * size.training)
    intervals = (hours + size.cycles) * 6
    fleet = simulate_devices(devices, START, intervals, seed=seed, interval=timedelta(minutes=10))
    readings = readings_of(fleet.grid).drop("point_times", "point_values")
    end = START + timedelta(hours=hours)
    shifted = {"readings": recalibrated(readings, end)}
    return Case(DEVICES, {"readings": readings}, shifted, end, timedelta(hours=1))


def _machines(seed: int, size: Size) -> Case:
    """40 machines over four months; then 8 of a new model join them."""
    old, new, days = round(40 * size.keys), round(8 * size.keys), round(120 * size.training)
    tables = simulate_machines(old + new, days + size.cycles, seed=seed, interval_hours=4)
    last = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=days)
    before = {name: frame.filter(pl.col("machine_id") < f"M{old:05d}") for name, frame in tables.items()}
    return Case(MACHINES, before, joined_by(tables, new, last), last, timedelta(days=1))


CASES: dict[str, tuple[str, Callable[[int, Size], Case]]] = {
    "sales": ("price", _sales),
    "devices": ("flow", _devices),
    "machines": ("model", _machines),
}


def interval(alarms: Sequence[int], cycles: int) -> tuple[float, float]:
    """The 95 % interval of the share of cycles with an alarm, from the number of alarms in each seed of `cycles` cycles.

    Clopper and Pearson's interval at the effective number of cycles, which is reduced by the design effect: how much
    more the seeds differ than with independent cycles. Without an alarm, cycles count as independent.

    Korn & Graubard (1998), Survey Methodology 24(2).
    """
    number = len(alarms) * cycles
    rate = sum(alarms) / number
    together = float(np.var(alarms)) / (cycles * rate * (1 - rate)) if 0 < rate < 1 else 1.0
    effective = number / max(together, 1.0)
    return _exact(rate * effective, effective)


def _exact(hits: float, number: float) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share."""
    low = float(beta.ppf(0.025, hits, number - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, number - hits)) if hits < number else 1.0
    return low, high


def _line(name: str, seeds: Sequence[int], size: Size, rule: Rule) -> dict[str, Any]:
    feature, simulate = CASES[name]
    alarms: list[int] = []
    delays: list[int] = []
    right = 0
    for seed in seeds:
        case = simulate(seed, size)
        alarms.append(_drifted(case, case.quiet, size.cycles, rule)[CYCLE].n_unique())
        alarm = _drifted(case, case.shifted, 2, rule)
        if alarm.height:
            delays.append((alarm[CYCLE][0] - case.trained) // case.cycle)
            right += alarm["feature"][0] == feature
    low, high = interval(alarms, size.cycles)
    total = len(alarms) * size.cycles
    return {
        "scenario": name,
        "cycles": total,
        "alarms": sum(alarms),
        "in seeds": sum(1 for one in alarms if one),
        "per cycle": f"{sum(alarms) / total:.3%} ({low:.3%} to {high:.3%})",
        "found": _share(len(delays), len(alarms)),
        "right first": _share(right, len(alarms)),
        "delay": f"{sum(delays) / len(delays):.2f}" if delays else "",
    }


def _share(hits: int, seeds: int) -> str:
    low, high = _exact(hits, seeds)
    return f"{hits / seeds:.1%} ({low:.1%} to {high:.1%})"


def _drifted(case: Case, tables: Tables, cycles: int, rule: Rule) -> pl.DataFrame:
    until = case.trained + cycles * case.cycle
    scans = {name: frame.lazy() for name, frame in tables.items()}
    if not isinstance(case.scenario, WatchesInputs):
        raise TypeError(f"{case.scenario.name} watches no inputs.")
    inputs = case.scenario.watched_inputs(scans, case.trained, until, {})
    rows = inputs.drop(case.scenario.key, strict=False).collect()
    now = pl.col(CYCLE) > case.trained
    return drift(rows.filter(~now), rows.filter(now), rule).filter("drifted")


if __name__ == "__main__":
    run_benchmark(main, __doc__)
