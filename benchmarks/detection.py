"""How well the devices scenario detects faults, and how often it alarms without any.

    python -m benchmarks.detection
    python -m benchmarks.detection --devices 70 --seeds 3 --detectors isolation_forest

Each seed simulates a fleet of its own, five sensors to a device, with a reading a minute. Detectors are
trained on a day; the hours after it are scored twice, without faults and with one in each device.

The first table is about faults: for each kind, over all seeds, `recall` is the share that is detected, `delay` the
median number of minutes until then, `precision` the share of the called readings of devices with this fault that belong
to it. It is compared with scikit-learn's one-class SVM at its default threshold, and with a z-score over the last hour.

The second is about devices without faults: the rate at which a reading is called an anomaly, as a multiple of alpha,
by rung, with a 95 % interval in which a device counts as one observation. A missing reading is a
separate row; its rate is per interval. The third has the same for all readings of each seed.

The table of alarms has the same for alarms, at budgets of false alarms per day for 100 devices: their number on
devices without faults, then recall and delay of each fault, as if it were the only one of its fleet. An alarm
is raised at the end of its hour; the delay is that of the first called reading.

Before them, if the data is available (`benchmarks.real_series`), there is the same for real series, with the delay of each
fault of a chemical plant, and for a simulated pump (`benchmarks.pump`), in which every reading has a label.
"""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import polars as pl

from benchmarks import pump
from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from benchmarks.real_series import PLANT, compared, delays, judgements, real_sets
from models.devices.alarms import PER_DEVICE_AND_DAY
from models.devices.evaluation import alarm_outcomes, compare, false_alarms, rate_with_error, trial
from models.devices.simulation import FAULTS, TAGS

START = datetime(2026, 3, 2, tzinfo=UTC)
ALPHAS = (0.01, 0.001)
BUDGETS = (1, 10, 100)
"""Times the default budget of alarms."""
_RECALL = ((pl.col("recall") * pl.col("faults")).sum() / pl.col("faults").sum()).alias("recall")


def main(
    *,
    devices: int = 105,
    hours: int = 6,
    seeds: int = 12,
    fault_seeds: int = 2,
    real: tuple[str, ...] | None = None,
    detectors: tuple[str, ...] = ("auto", "one_class_svm"),
) -> None:
    """Print the tables.

    Args:
        devices: Devices of each seed.
        hours: Hours to score after the day of training.
        seeds: Number of seeds; 0: real sets only.
        fault_seeds: Number of seeds with faults.
        real: Real sets; default: all whose data is available.
    """
    for name in real_sets() if real is None else real:
        by_method = judgements(name)
        print(f"{name}\n\n{table(compared(name, by_method))}\n")
        if name == PLANT:
            print(f"Delays in minutes, by fault\n\n{table(delays(by_method))}\n")
    if not seeds:
        return
    print(f"A pump with a reading a second\n\n{table(pump.compared())}\n")
    faults, counts, alarms = [], [], []
    for detector, seed in product(detectors, range(1, seeds + 1)):
        result = trial(devices, START, hours=hours, detector=detector, seed=seed)
        rates = false_alarms(result.fine, ALPHAS)
        counts.append(rates.with_columns(detector=pl.lit(detector), seed=pl.lit(seed)))
        if seed <= fault_seeds:
            measures = compare(result, ALPHAS, baselines=detector == detectors[0])
            faults.append(measures.with_columns(seed=pl.lit(seed)))
            for times in BUDGETS:
                outcomes = alarm_outcomes(result, times * PER_DEVICE_AND_DAY)
                alarms.append(outcomes.with_columns(detector=pl.lit(detector), times=pl.lit(times)))
    together = pl.concat(counts)
    print(f"Faults in {devices * fault_seeds:,} devices: precision, recall, and delay in minutes\n")
    print(table(_by_fault(pl.concat(faults))))
    print("\nThe same for alarms\n")
    print(table(_by_budget(pl.concat(alarms))))
    print("\nAlarms without faults, as multiples of alpha\n")
    print(table(_false_alarms(together, hours)))
    print("\nThe same by seed, all readings\n")
    print(table(_by_seed(together)))


def _by_fault(found: pl.DataFrame) -> list[dict[str, Any]]:
    """Recall is over all faults; precision and delay are means of the seeds that have one."""
    rows = found.group_by("method", "fault", maintain_order=True).agg(
        _RECALL, pl.mean("precision", "delay", "alarm_rate")
    )
    lines = []
    for (method,), part in rows.group_by("method", maintain_order=True):
        line: dict[str, Any] = {"method": method, "false alarms": f"{part['alarm_rate'][0]:.2%}"}
        for fault in FAULTS:
            row = part.filter(fault=fault).row(0, named=True)
            delay = "-" if row["delay"] is None else f"{row['delay']:.0f}"
            line[fault] = f"{row['precision'] or 0:.2f} {row['recall']:.2f} {delay:>2}"
        lines.append(line)
    return lines


def _by_budget(found: pl.DataFrame) -> list[dict[str, Any]]:
    """As `_by_fault`, without precision; the budget and the false alarms are those a day for 100 devices."""
    by_fault = found.group_by("detector", "times", "fault", maintain_order=True).agg(
        pl.mean("false_alarms", "delay"), _RECALL
    )
    lines = []
    for (detector, _), part in by_fault.group_by("detector", "times", maintain_order=True):
        first = part.row(0, named=True)
        budget, false = (100 * n for n in (first["times"] * PER_DEVICE_AND_DAY, first["false_alarms"]))
        line: dict[str, Any] = {"detector": detector, "budget": budget, "false alarms a day": false}
        for row in part.iter_rows(named=True):
            line[row["fault"]] = f"{row['recall']:.2f} {row['delay'] or 0:>2.0f}"
        lines.append(line)
    return lines


def _false_alarms(counts: pl.DataFrame, hours: int) -> list[dict[str, Any]]:
    lines = []
    readings = counts.filter(pl.col("rung") != "missing")
    lost = counts.filter(rung="missing").with_columns(pl.lit(60 * hours * len(TAGS)).alias("rows"))
    for (detector,), part in readings.group_by("detector", maintain_order=True):
        for rung in ("all readings", *part["rung"].unique().sort()):
            chosen = part if rung == "all readings" else part.filter(rung=rung)
            lines.append({"detector": detector, "rung": rung, **_multiples(chosen)})
        devices = part.select("seed", "device").unique()
        mine = devices.join(lost.filter(detector=detector), on=["seed", "device"], how="left")
        mine = mine.with_columns(
            pl.col("rows").fill_null(60 * hours * len(TAGS)), pl.col("^at_.*$").fill_null(0)
        )
        lines.append({"detector": detector, "rung": "missing", **_multiples(mine)})
    return lines


def _by_seed(counts: pl.DataFrame) -> list[dict[str, Any]]:
    readings = counts.filter(pl.col("rung") != "missing").sort("detector", "seed")
    groups = readings.group_by("detector", "seed", maintain_order=True)
    return [{"detector": detector, "seed": seed, **_multiples(part)} for (detector, seed), part in groups]


def _multiples(counts: pl.DataFrame) -> dict[str, Any]:
    """The rate as a multiple of alpha, with its interval; a device is one observation."""
    per_device = counts.group_by("seed", "device").agg(pl.sum("rows", "^at_.*$"))
    line: dict[str, Any] = {"rows": int(per_device["rows"].sum())}
    for alpha in ALPHAS:
        rate, error = rate_with_error(per_device[f"at_{alpha:g}"], per_device["rows"])
        line[f"at {alpha:g}"] = f"{rate / alpha:.2f} ± {error / alpha:.2f}"
    return line


if __name__ == "__main__":
    run_benchmark(main, __doc__)
