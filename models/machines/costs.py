"""The cost of an inspection policy: failures without an inspection before them, and needless inspections.

An inspection of a component at T prevents the first failure in (T, T + horizon]. It is needless if
there is none, and the component is not inspected again for that long. The two settings are the cost of
a failure that was not prevented and the cost of a needless inspection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import log, sqrt

import numpy as np
import polars as pl

from models.machines.next_in_time import with_next
from models.machines.options import Options

COMPONENT = ("machine_id", "component")
THRESHOLDS = (
    *(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2),
    *(0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
)
_ENOUGH = 10


@dataclass(frozen=True)
class Bill:
    """The numbers of prevented and missed failures and of needless inspections, and their cost."""

    prevented: int
    missed: int
    needless: int
    cost: float


def bill(
    inspections: pl.DataFrame,
    failures: pl.DataFrame,
    horizon_hours: int,
    options: Options,
    lead_hours: int = 0,
) -> Bill:
    """The bill for `inspections`, given the actual `failures`; both have machine_id, component, time.

    Inspections must be those that were made, see `alarms` and `every`. An inspection `lead_hours` or less before the
    failure does not prevent it, although it was not needless.
    """
    table = counts(inspections, failures, horizon_hours, lead_hours)
    sums = table.select(pl.col("prevented", "missed", "needless").sum(), cost=cost_of_counts(options).sum())
    return Bill(*sums.row(0))


def cost_of_counts(options: Options) -> pl.Expr:
    """The cost of each row of `counts`."""
    return pl.col("missed") * missed_cost(options) + pl.col("needless") * options.needless_inspection_cost


def missed_cost(options: Options) -> pl.Expr:
    """The cost of a failure of each row's `component` that no inspection prevented."""
    if not options.component_costs:
        return pl.lit(options.missed_failure_cost)
    return pl.col("component").replace_strict(
        dict(options.component_costs), default=options.missed_failure_cost, return_dtype=pl.Float64
    )


def counts(
    inspections: pl.DataFrame, failures: pl.DataFrame, horizon_hours: int, lead_hours: int = 0
) -> pl.DataFrame:
    """`prevented`, `missed` and `needless` of each machine's component with an inspection or a failure, see `bill`."""
    times = failures.sort("time").with_columns(failed_at="time")
    next_failures = with_next(inspections.sort("time"), times, COMPONENT, later=True)
    useful = (pl.col("failed_at") <= pl.col("time") + pl.duration(hours=horizon_hours)).fill_null(value=False)
    soon = pl.col("failed_at") <= pl.col("time") + pl.duration(hours=lead_hours)
    prevented_failures = next_failures.filter(useful & ~soon).select(*COMPONENT, "failed_at").unique()
    came = failures.select(*COMPONENT, "time").unique()
    parts = [
        prevented_failures.group_by(COMPONENT).agg(prevented=pl.len(), missed=-pl.len().cast(pl.Int64)),
        came.group_by(COMPONENT).agg(missed=pl.len()),
        next_failures.group_by(COMPONENT).agg(needless=(~useful).sum()),
    ]
    schema = {
        **dict.fromkeys(COMPONENT, pl.String),
        **dict.fromkeys(("prevented", "missed", "needless"), pl.Int64),
    }
    whole = [pl.DataFrame(schema=schema), *(part.cast({pl.UInt32: pl.Int64}) for part in parts)]
    table = pl.concat(whole, how="diagonal_relaxed").group_by(COMPONENT).sum()
    return table.sort(COMPONENT)


def alarms(rows: pl.DataFrame, horizon_hours: int) -> pl.DataFrame:
    """The inspections that a model's alarms lead to; `rows` (machine_id, component, time) are those with an alarm.

    A component is not inspected again within the horizon; the next alarm after that counts again.
    Times are compared to the second. Each step takes the next inspection of all components, so there are as
    many steps as one component has inspections.
    """
    candidates = rows.select(*COMPONENT, "time").sort(*COMPONENT, "time")
    if candidates.is_empty():
        return candidates
    seconds = candidates["time"].dt.epoch("s").to_numpy()
    seconds = seconds - seconds.min()
    pause = horizon_hours * 3600
    group = candidates.select(pl.struct(COMPONENT).rle_id()).to_series().to_numpy().astype(np.int64)
    key = group * (seconds.max() + pause + 1) + seconds
    at = np.flatnonzero(np.diff(group, prepend=-1))
    picks = []
    while len(at):
        picks.append(at)
        next_at = np.searchsorted(key, key[at] + pause)
        inside = next_at < len(key)
        here, next_at = at[inside], next_at[inside]
        at = next_at[group[next_at] == group[here]]
    return candidates[np.sort(np.concatenate(picks))]


def bills(
    rows: pl.DataFrame, failures: pl.DataFrame, horizon_hours: int, lead_hours: int = 0
) -> list[dict[str, float]]:
    """The result of alarms from each of `THRESHOLDS` on: threshold, missed, needless; see `bill`.

    `rows` are judged rows of one horizon. A bundle keeps the result, to find the threshold for any costs.
    """
    lines = []
    awake = rows.filter(~pl.col("under_work"))
    for threshold in THRESHOLDS:
        inspections = alarms(awake.filter(pl.col("probability") >= threshold), horizon_hours)
        one = bill(inspections, failures, horizon_hours, Options(), lead_hours)
        lines.append({"threshold": threshold, "missed": one.missed, "needless": one.needless})
    return lines


def cheapest(table: Sequence[Mapping[str, float]], failures: int, options: Options) -> float:
    """The threshold nearest to `options.threshold` among those of `table` (see `bills`) that are as good as the cheapest.

    The cheapest threshold on held-out time may lie far above the probability from which an inspection pays at once,
    `options.threshold`: if waiting brings certainty before the failure, it is worth more. But with a handful of
    failures, this may be due to chance. So a threshold nearer to `options.threshold` in log-odds is as good if it misses no
    more failures, and its additional cost is at most the standard error of the difference, with Poisson counts: the less
    evidence there is for the cheapest, the nearer the result. With fewer than ten failures, it is `options.threshold`.
    """
    if failures < _ENOUGH or not table:
        return options.threshold
    failure_cost, inspection_cost = options.missed_failure_cost, options.needless_inspection_cost
    cost = [row["missed"] * failure_cost + row["needless"] * inspection_cost for row in table]
    least, best = min(zip(cost, table, strict=True), key=lambda pair: (pair[0], pair[1]["missed"]))

    def is_as_good(row: Mapping[str, float], its_cost: float) -> bool:
        fewer_misses, more_needless = best["missed"] - row["missed"], row["needless"] - best["needless"]
        error = sqrt(failure_cost**2 * abs(fewer_misses) + inspection_cost**2 * abs(more_needless))
        return its_cost <= least * (1 + 1e-12) or (fewer_misses >= 0 and its_cost - least <= error)

    good = [row["threshold"] for row, its_cost in zip(table, cost, strict=True) if is_as_good(row, its_cost)]
    return min(good, key=lambda threshold: (abs(_logit(threshold) - _logit(options.threshold)), threshold))


def every(components: pl.DataFrame, first: datetime, last: datetime, days: int) -> pl.DataFrame:
    """An inspection of each of `components` (machine_id, component) at `first` and every `days` days after it."""
    times = pl.Series("time", [first]).cast(pl.Datetime("us", "UTC"))
    if last > first:
        times = pl.datetime_range(first, last, timedelta(days=days), time_unit="us", eager=True).alias("time")
    return components.select(COMPONENT).unique().sort(COMPONENT).join(times.to_frame(), how="cross")


def _logit(p: float) -> float:
    inside = min(max(p, 1e-12), 1 - 1e-12)
    return log(inside / (1 - inside))
