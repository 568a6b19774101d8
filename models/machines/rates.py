"""How often components fail, whatever the model: base rates, and the risk without a model."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import expm1

import polars as pl

from models.machines.labels import fails_within, failure_time, has_component, next_failure
from models.machines.lives import times
from models.machines.options import Options
from models.machines.risks import BASE_RATE, NO_MODEL, Risk


def failures_after(rows: pl.LazyFrame, components: Sequence[str]) -> dict[str, int]:
    """The number of failures of each component after some row."""
    at = {c: pl.struct("machine_id", failure_time(next_failure(c))) for c in components}
    counts = rows.select(at[c].filter(next_failure(c).is_not_null()).n_unique().alias(c) for c in components)
    return {c: int(counts_of[0]) for c, counts_of in counts.collect().to_dict(as_series=False).items()}


def base_rates(
    rows: pl.LazyFrame, components: Sequence[str], hours: int, until: datetime | None = None
) -> dict[str, float]:
    """Share of the rows that a failure of each component follows, among rows whose horizon ends at `until` or before.

    Without `until`, among all rows.
    """
    if until is not None:
        rows = rows.filter(pl.col("time") <= until - timedelta(hours=hours))
    means = [fails_within(c, hours).mean().fill_null(0.0).alias(c) for c in components]
    return rows.select(means).collect().row(0, named=True)


def machine_hours(rows: pl.LazyFrame, component: str) -> float:
    """Hours from the first to the last row, of all machines with `component` together."""
    time = pl.col("time")
    spans = (
        rows.filter(has_component(component))
        .group_by("machine_id")
        .agg((time.max() - time.min()).dt.total_seconds().alias("seconds"))
    )
    return float(spans.select(pl.col("seconds").sum()).collect().item()) / 3600


def without_model(
    component: str, hours: int, failures: int, base: float, options: Options, at_work: float = 0.0
) -> Risk:
    """The risk of a component that failed too seldom for a model, or never, in `at_work` hours of machines.

    If no row failed within the horizon, the base rate is the number of failures per hour at work. A component
    that never failed has a 95 % upper bound of three failures in that time. Hanley & Lippman-Hand (1983), JAMA 249.
    """
    if not failures:
        reason = f"{component} never failed in the training range"
        if at_work:
            most = -expm1(-3 * hours / at_work)
            reason += f" of {at_work / 24:,.0f} machine days: at most {most:.2%} within {hours} h, with 95 % confidence"
        return Risk(component, hours, NO_MODEL, base, reason)
    if not base and at_work:
        base = -expm1(-failures * hours / at_work)
    reason = (
        f"{component} failed {times(failures)} in the training range; a model needs {options.min_failures}"
    )
    if failures >= options.min_failures:
        reason = (
            f"{component} failed {times(failures)} in the training range, but too seldom within {hours} h after a row "
            "of the training: there are rows only if there is telemetry. Choose a longer horizon with --horizon"
        )
    return Risk(component, hours, BASE_RATE, base, reason)
