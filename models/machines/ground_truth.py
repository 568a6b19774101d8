"""Ground truth of published risks: whether the component failed within the horizon, according to the telemetry so far.

A judged row is a published row with `failed` (null while pending), `next_failure_hours`, `observed_hours` and
`under_work`. A remaining life is followed until its 90 % quantile. A time that several runs have scored counts once in
the measures, as first published.
"""

from datetime import datetime

import polars as pl

from models.machines.contracts import interval_hours, tables_at
from models.machines.evaluation import log_loss
from models.machines.labels import OBSERVED
from models.machines.next_in_time import with_next
from models.machines.scoring import KEY, QUANTILE_COLUMNS, RISKS, UNDER_WORK
from models.machines.service import ENDED, failures_until, out_of_service
from models.machines.vocabulary import by_component
from models.scenario import TALLIES, ControlChart, Frames, GroundTruth

GROUND_TRUTH = GroundTruth(
    ("failures", "telemetry"),
    since=pl.col("time").min(),
    until=(pl.col("time") + pl.duration(hours=pl.max_horizontal("horizon_hours", QUANTILE_COLUMNS[2]))).max(),
)
CHARTS = {"brier": ControlChart("Brier score of the probabilities", every="week", format=".4f")}
PLACE = [*KEY, "horizon_hours", "time"]
_HOUR = 3_600_000_000


def judge(published_rows: pl.LazyFrame, tables: Frames, until: datetime) -> pl.DataFrame:
    """Judged rows of one `as_of`, sorted by machine, component, time and horizon.

    `failed`: in (time, time + horizon], its last moment included; pending if the horizon ends after
    `until`, the last telemetry, or after the record of failures. Null, and not pending, if a machine went out of
    service within the horizon without a further failure, because nobody observed it. `next_failure_hours`: from
    the row's time to the component's next failure that is on record at `until`. `observed_hours`: how long after the
    row's time failures are known.
    """
    rows = published_rows.drop("as_of", "reasons", "life_note", strict=False).collect().sort("time")
    rows = rows.with_columns(
        pl.lit(None, RISKS[name]).alias(name) for name in QUANTILE_COLUMNS if name not in rows.columns
    )
    time = pl.col("time")
    nothing = pl.LazyFrame(schema={name: rows.schema[name] for name in (*KEY, "time")})
    of_these = by_component(tables, rows["component"].unique().sort().to_list())
    failures = tables_at(of_these, until).get("failures", nothing)
    next_failures = failures.select(*KEY, time, failed_at=time).unique().sort("time").collect()
    table = with_next(rows, next_failures, KEY, later=True)
    due = time + pl.duration(hours="horizon_hours")
    record = pl.lit(failures_until(tables, until), rows.schema["time"])
    is_pending = due > record
    quiet = pl.col("failed_at").is_null().all().over("machine_id", "time")
    unseen = (due > pl.col(ENDED)).fill_null(value=False) & quiet
    end = pl.min_horizontal(record, pl.when(quiet).then(ENDED))
    hours = (pl.col("failed_at") - time).dt.total_microseconds() / _HOUR
    within = (hours <= pl.col("horizon_hours")).fill_null(value=False)
    return (
        table.join(_ended(tables, until), on="machine_id", how="left", maintain_order="left")
        .with_columns(
            pl.when(~is_pending & ~unseen).then(within).alias("failed"),
            hours.alias("next_failure_hours"),
            ((end - time).dt.total_microseconds() / _HOUR).alias(OBSERVED),
            (pl.col("rung") == UNDER_WORK).alias("under_work"),
            is_pending.alias("pending"),
        )
        .drop("failed_at", ENDED)
        .sort(*KEY, "time", "horizon_hours")
    )


def _ended(tables: Frames, until: datetime) -> pl.DataFrame:
    if "telemetry" not in tables:
        return pl.DataFrame(schema={"machine_id": pl.String, ENDED: pl.Datetime("us", "UTC")})
    visible = tables_at(tables, until)
    return out_of_service(visible, until, interval_hours(visible["telemetry"]) or 1.0)


def first_judgements(judged_rows: pl.LazyFrame) -> pl.DataFrame:
    """Judged rows with each machine, component, time and horizon once, from the first `as_of` that published it."""
    return judged_rows.sort("as_of").unique(PLACE, keep="first", maintain_order=True).collect().sort(PLACE)


def tallies(judged_rows: pl.DataFrame) -> pl.DataFrame:
    """Squared errors and rows of each week (from Monday) and horizon; a missing probability counts as none."""
    error = pl.col("probability").fill_null(0.0) - pl.col("failed").cast(pl.Float64)
    return (
        judged_rows.filter(pl.col("failed").is_not_null())
        .group_by("horizon_hours", pl.col("time").dt.truncate("1w").dt.date().alias("period"))
        .agg((error**2).sum().alias("numerator"), pl.len().cast(pl.Int64).alias("rows"))
        .sort("horizon_hours", "period")
        .select(
            pl.lit("brier").alias("chart"),
            pl.format("within {} h", "horizon_hours").alias("series"),
            "period",
            "numerator",
            pl.col("rows").cast(pl.Float64).alias("denominator"),
            "rows",
        )
        .select(list(TALLIES))
    )


def losses(backtest: pl.LazyFrame, judged_rows: pl.LazyFrame) -> tuple[float, float, int] | None:
    """Log losses of `backtest` and `judged_rows` on the components, times and horizons that both have.

    They use the outcomes of `judged_rows`; each horizon has the same weight. None if there are no such rows.
    """
    final_rows = first_judgements(judged_rows.filter(pl.col("failed").is_not_null())).lazy()
    ours = backtest.select(*PLACE, pl.col("probability").alias("our_probability"))
    rows = final_rows.join(ours, on=PLACE, how="inner").sort(PLACE).collect(engine="streaming")
    own, theirs = log_loss(rows.with_columns(probability="our_probability")), log_loss(rows)
    return None if own is None or theirs is None else (own, theirs, rows.height)
