"""Alarms as decisions: each is announced once, goes on while the risk is high, and is closed when it is not.

An alarm concerns a machine, a component and a horizon. It opens when the probability reaches the threshold, and goes on as
long as the probability stays above `STAYS` times the threshold, so that a probability that fluctuates around the threshold
is one alarm. An alarm is also closed if its component is under work or no longer has a probability. If the risk rises again
within the cooldown, without work in between, it is the same alarm, and is not announced again.

At most the number of inspections per day is opened within 24 hours, shorter horizons first, then by the expected saving of
an inspection; the others wait for the next run. A component with an alarm already has its inspection.
"""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from models.machines.costs import missed_cost
from models.machines.options import Options
from models.machines.scoring import KEY, RISKS, UNDER_WORK
from models.scenario import Event

OPENED, GOES_ON, CLOSED, WAITS = "opened", "goes on", "closed", "waits"
STAYS = 0.5
PLACE = (*KEY, "horizon_hours")
_DAY = timedelta(days=1)
_TIME = pl.Datetime("us", "UTC")
_WORK = "under work"

ALARMS: dict[str, Any] = {
    **{name: RISKS[name] for name in PLACE},
    "state": pl.String,
    "since": _TIME,
    "closed_at": _TIME,
    "why": pl.String,
    "time": _TIME,
    **{name: RISKS[name] for name in ("probability", "threshold", "rank", "reasons")},
}
"""`state`: `opened` in this run, `goes on`, `closed` (kept for the cooldown), or `waits` for a free inspection.
`since`: when it was opened; `closed_at` and `why`: when and why it was closed. The rest is as in `RISKS`."""


def alarms(
    rows: pl.DataFrame, previous: pl.DataFrame | None, as_of: datetime, options: Options
) -> pl.DataFrame:
    """The alarms (see `ALARMS`) after the run for `as_of`, by machine, component and horizon.

    `rows` are the published risks at `as_of` (an earlier version published no thresholds); `previous` are the alarms of
    the last run before it.
    """
    past = _last_alarms(previous, as_of, options)
    if "threshold" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, RISKS["threshold"]).alias("threshold"))
    both = rows.select(*PLACE, "probability", "threshold", "rank", "reasons", "above_threshold", "rung")
    both = both.join(past, on=list(PLACE), how="full", coalesce=True)
    above = pl.col("above_threshold").fill_null(value=False)
    is_under_work = (pl.col("rung") == UNDER_WORK).fill_null(value=False)
    high = (pl.col("probability") >= STAYS * pl.col("threshold")).fill_null(value=False) & ~is_under_work
    is_open = pl.col("state").is_in([OPENED, GOES_ON]).fill_null(value=False)
    is_resting = (pl.col("state") == CLOSED) & (pl.col("why") != _WORK)
    is_resting = is_resting & (pl.col("closed_at") >= as_of - timedelta(hours=options.cooldown_hours))
    why = (
        pl.when(is_under_work)
        .then(pl.lit(_WORK))
        .when(pl.col("probability").is_null())
        .then(pl.lit("it no longer has a probability"))
        .otherwise(pl.lit("the probability fell"))
    )
    state = (
        pl.when(is_open & (above | high) | is_resting.fill_null(value=False) & above)
        .then(pl.lit(GOES_ON))
        .when(is_open)
        .then(pl.lit(CLOSED))
        .when(above)
        .then(pl.lit(WAITS))
        .when(pl.col("state") == CLOSED)
        .then(pl.lit(CLOSED))
    )
    closes, is_closed = is_open & ~(above | high), state == CLOSED
    current = both.with_columns(
        state.alias("state"),
        pl.when(closes).then(pl.lit(as_of, _TIME)).when(is_closed).then("closed_at").alias("closed_at"),
        pl.when(closes).then(why).when(is_closed).then("why").alias("why"),
        pl.lit(as_of, _TIME).alias("time"),
    ).filter(pl.col("state").is_not_null())
    return _with_openings(current, past, as_of, options).select(list(ALARMS)).sort(PLACE)


def _last_alarms(previous: pl.DataFrame | None, as_of: datetime, options: Options) -> pl.DataFrame:
    """The alarms of the last run that may still matter, without the columns that the new rows have."""
    names = [*PLACE, "state", "since", "closed_at", "why"]
    if previous is None:
        return pl.DataFrame(schema={name: ALARMS[name] for name in names})
    retention = max(timedelta(hours=options.cooldown_hours), _DAY)
    matters = pl.col("state").is_in([OPENED, GOES_ON]) | (pl.col("closed_at") >= as_of - retention)
    return previous.filter(matters).select(names)


def _with_openings(
    current: pl.DataFrame, past: pl.DataFrame, as_of: datetime, options: Options
) -> pl.DataFrame:
    """`current`, with waiting alarms opened as long as there are free inspections."""
    p = pl.col("probability")
    saves = p * missed_cost(options) - (1 - p) * options.needless_inspection_cost
    candidates = current.filter(state=WAITS).with_columns(saves.alias("saves"))
    inspections = current.filter(state=GOES_ON).select(*KEY, inspected=pl.lit(value=True)).unique()
    candidates = candidates.join(inspections, on=list(KEY), how="left").sort(
        "horizon_hours", "saves", *KEY, descending=[False, True, False, False]
    )
    counts = pl.struct(KEY).is_first_distinct() & pl.col("inspected").is_null()
    candidates = candidates.with_columns(counts.cum_sum().alias("nth"))
    candidates = candidates.with_columns(
        pl.when(pl.col("inspected").is_null()).then(pl.col("nth").first().over(KEY)).otherwise(0).alias("nth")
    )
    if options.inspections_per_day is not None:
        lately = past.filter(pl.col("since") > as_of - _DAY).select(KEY).unique().height
        candidates = candidates.filter(pl.col("nth") <= max(0, options.inspections_per_day - lately))
    openings = candidates.select(*PLACE, opens=pl.lit(value=True))
    opens = pl.col("opens").fill_null(value=False)
    return current.join(openings, on=list(PLACE), how="left").with_columns(
        pl.when(opens).then(pl.lit(OPENED)).otherwise("state").alias("state"),
        pl.when(opens).then(pl.lit(as_of, _TIME)).when(pl.col("state") != WAITS).then("since").alias("since"),
    )


def at_risk(alarm_rows: pl.DataFrame) -> list[Event]:
    """An event for each machine with newly opened alarms (see `ALARMS`), the machine of the best rank first.

    The payload has `machine_id`, `time`, and `risks`: component, horizon_hours, probability, rank and reasons
    of each such alarm, the shortest horizon first.
    """
    columns = ["component", "horizon_hours", "probability", "rank", "reasons"]
    machines = (
        alarm_rows.filter(state=OPENED)
        .sort("horizon_hours", "rank", *KEY)
        .group_by("machine_id", maintain_order=True)
        .agg(pl.col("time").first(), pl.struct(columns).alias("risks"), pl.col("rank").min().alias("best"))
        .sort("best", "machine_id")
    )
    return [
        Event(
            "at_risk",
            f"machines.{row['machine_id']}.{row['time']:%Y-%m-%dT%H:%MZ}",
            {"machine_id": row["machine_id"], "time": row["time"].isoformat(), "risks": row["risks"]},
        )
        for row in machines.iter_rows(named=True)
    ]
