"""How soon a shift is found, and how often there is an alarm without one.

    python -m benchmarks.drift
    python -m benchmarks.drift --scenarios sales --seeds 40 --cycles 50

Each seed simulates a scenario, a training window and `--cycles` cycles after it, twice. Without a shift,
`alarms` counts the cycles with at least one, `per cycle` is their share, beside the `rate` that the rule
states, and `at most` the upper end of its 95 % interval (Clopper-Pearson). With a shift from the first cycle on, `found` is
the share of the seeds with an alarm within two cycles, `right first` that in which the feature that was
moved is ranked first, and `delay` the mean number of cycles until then.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from scipy.stats import beta

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
from models.scenario import AsOf, Scenario

START = datetime(2026, 3, 2, tzinfo=UTC)
Tables = dict[str, pl.DataFrame]


def main() -> None:
    arguments = _arguments()
    rows = [
        _line(name, CASES[name], arguments.seeds, arguments.cycles, Rule(rate=arguments.rate))
        for name in arguments.scenarios
    ]
    print(f"{arguments.seeds} seeds of {arguments.cycles} cycles, a rate of {arguments.rate:g} per cycle\n")
    print(table(rows))


def _sales(seed: int, cycles: int) -> tuple[Scenario, Tables, Tables, AsOf, timedelta]:
    """40 SKUs in 6 stores over two years; then all prices are a fifth lower."""
    made = simulate_sales(40, 6, 104 + cycles, seed=seed, with_truth=False)
    trained = made.as_of - timedelta(weeks=cycles)
    war = price_war(made.history, trained + timedelta(weeks=1))
    return SALES, {"history": made.history}, {"history": war}, trained, timedelta(weeks=1)


def _devices(seed: int, cycles: int) -> tuple[Scenario, Tables, Tables, AsOf, timedelta]:
    """30 devices over a week; then the flow sensors of half of them show a fifth more."""
    hours = 7 * 24
    made = simulate_devices(30, START, (hours + cycles) * 6, seed=seed, interval=timedelta(minutes=10))
    readings = readings_of(made.grid).drop("point_times", "point_values")
    trained = START + timedelta(hours=hours)
    shifted = {"readings": recalibrated(readings, trained)}
    return DEVICES, {"readings": readings}, shifted, trained, timedelta(hours=1)


def _machines(seed: int, cycles: int) -> tuple[Scenario, Tables, Tables, AsOf, timedelta]:
    """40 machines over four months; then 8 of a new model join them."""
    tables = simulate_machines(48, 120 + cycles, seed=seed, interval_hours=4)
    last = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=120)
    before = {name: frame.filter(pl.col("machine_id") < "M00040") for name, frame in tables.items()}
    return MACHINES, before, joined_by(tables, 8, last), last, timedelta(days=1)


CASES: dict[str, tuple[str, Callable[[int, int], tuple[Scenario, Tables, Tables, AsOf, timedelta]]]] = {
    "sales": ("price", _sales),
    "devices": ("flow", _devices),
    "machines": ("model", _machines),
}


def _line(
    name: str, case: tuple[str, Callable[..., Any]], seeds: int, cycles: int, rule: Rule
) -> dict[str, Any]:
    feature, simulated = case
    alarms, delays, right = 0, [], 0
    for seed in range(1, seeds + 1):
        scenario, quiet, shifted, trained, cycle = simulated(seed, cycles)
        alarms += _drifted(scenario, quiet, trained, trained + cycles * cycle, rule)[CYCLE].n_unique()
        found = _drifted(scenario, shifted, trained, trained + 2 * cycle, rule)
        if found.height:
            delays.append((found[CYCLE][0] - trained) // cycle)
            right += found["feature"][0] == feature
    total = seeds * cycles
    return {
        "scenario": name,
        "alarms": alarms,
        "per cycle": f"{alarms / total:.2%}",
        "at most": f"{beta.ppf(0.975, alarms + 1, total - alarms):.2%}",
        "found": f"{len(delays) / seeds:.0%}",
        "right first": f"{right / seeds:.0%}",
        "delay": f"{sum(delays) / len(delays):.2f}" if delays else "",
    }


def _drifted(scenario: Scenario, tables: Tables, trained: AsOf, until: AsOf, rule: Rule) -> pl.DataFrame:
    watched = scenario.watched({name: frame.lazy() for name, frame in tables.items()}, trained, until, {})
    if watched is None:
        return pl.DataFrame()
    rows = watched.drop(scenario.key, strict=False).collect()
    now = pl.col(CYCLE) > trained
    return drift(rows.filter(~now), rows.filter(now), rule).filter("drifted")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--rate", type=float, default=Rule.rate)
    return parser.parse_args()


if __name__ == "__main__":
    main()
