"""Ground truth of verdicts: how many readings were called anomalies, and which of them were in labelled faults.

A judged row summarises the intervals of one sensor in one hour and, if there is one, in one fault: `hour` (its
start), `phase` (`during` a fault, `after` it for up to `AFTERMATH` intervals, else null), `fault`, `fault_tag`,
`fault_start`, `readings`, `anomalies`, `first_anomaly`, and how many p-values are at most 0.01 and 0.001. A
fault concerns its tag, or all tags if that is `*`, and the device's joint detector; if faults
overlap, the one that began first counts. Labels are assumed to be complete up to the end of the last one:
`labelled`. No verdict is pending: calls are known at once, and later labels update the rest.
"""

from datetime import datetime, timedelta

import polars as pl

from models.devices.contracts import JOINT_TAG, KEY
from models.devices.evaluation import AFTERMATH
from models.devices.options import Options
from models.metrics import SCHEMA, by_slice
from models.scenario import TALLIES, ControlChart, Frames, GroundTruth

GROUND_TRUTH = GroundTruth(
    ("labels",),
    since=None,
    until=pl.when(pl.col("labelled").all()).then(pl.col("as_of").max()),
)
ALPHA = 0.01
"""The alarm rate is watched at this p-value, whatever the alpha of the run, and should equal it."""
CHARTS = {
    "alarm_rate": ControlChart(
        f"Share of readings with a p-value of at most {ALPHA}", every="day", worse="either side", format=".3%"
    )
}
FAULT = ["device", "fault_tag", "fault_start", "fault"]
_HOUR = timedelta(hours=1)
_AT = {0.01: "at_0.01", 0.001: "at_0.001"}
_SENSORS = ~pl.col("rung").is_in(["missing", "none"]) & (pl.col("tag") != JOINT_TAG)


def judge(published_rows: pl.LazyFrame, tables: Frames, options: Options) -> pl.DataFrame:
    """Judged rows of one `as_of`, sorted by sensor, rung and phase; see the module's docstring."""
    columns = [*KEY, "time", "p_value", "is_anomaly", "rung", "as_of", "bundle", "run_id"]
    rows = published_rows.select(columns)
    first = rows.select(pl.col("as_of").first()).collect()
    as_of = first.item() if first.height else None
    labels, is_labelled = _labels(tables, as_of, options)
    marks = _marks(rows.select(*KEY, "time"), labels)
    p = pl.col("p_value")
    place = [*KEY, "rung", "phase", "fault", "fault_tag", "fault_start"]
    return (
        rows.join(marks, on=[*KEY, "time"], how="left")
        .group_by(place)
        .agg(
            (pl.col("as_of").first() - _HOUR).alias("hour"),
            pl.len().cast(pl.Int64).alias("readings"),
            pl.col("is_anomaly").sum().cast(pl.Int64).alias("anomalies"),
            pl.col("time").filter("is_anomaly").min().alias("first_anomaly"),
            *((p <= alpha).sum().cast(pl.Int64).alias(name) for alpha, name in _AT.items()),
            pl.col("bundle", "run_id").first(),
        )
        .with_columns(pl.lit(is_labelled).alias("labelled"), pl.lit(value=False).alias("pending"))
        .sort(place, nulls_last=True)
        .collect(engine="streaming")
    )


def _labels(tables: Frames, as_of: datetime | None, options: Options) -> tuple[pl.LazyFrame, bool]:
    """The faults that touch the hour, and whether labels are complete up to its end."""
    if "labels" not in tables or as_of is None:
        times = dict.fromkeys(("fault_start", "end", "over"), pl.Datetime("us", "UTC"))
        texts = dict.fromkeys(("device", "fault_tag", "fault"), pl.String())
        return pl.LazyFrame(schema={**texts, **times}), False
    last = tables["labels"].select(pl.col("end").max()).collect().item()
    over = pl.col("end") + AFTERMATH * options.step
    near = tables["labels"].filter(pl.col("start") < as_of, over > as_of - _HOUR)
    faults = near.rename({"tag": "fault_tag", "start": "fault_start"}).with_columns(over.alias("over"))
    columns = ["device", "fault_tag", "fault", "fault_start", "end", "over"]
    return faults.select(columns), last is not None and last >= as_of


def _marks(rows: pl.LazyFrame, labels: pl.LazyFrame) -> pl.LazyFrame:
    """The rows in a fault or its aftermath: sensor, time, phase and the fault."""
    time, tag = pl.col("time"), pl.col("fault_tag")
    concerns = (tag == pl.col("tag")) | (tag == JOINT_TAG) | (pl.col("tag") == JOINT_TAG)
    during = time < pl.col("end")
    return (
        rows.join(labels, on="device", how="inner")
        .filter(concerns, time >= pl.col("fault_start"), time < pl.col("over"))
        .with_columns(pl.when(during).then(pl.lit("during")).otherwise(pl.lit("after")).alias("phase"))
        .sort("phase", "fault_start", "fault_tag", "fault", descending=[True, False, False, False])
        .unique([*KEY, "time"], keep="first", maintain_order=True)
        .select(*KEY, "time", "phase", "fault", "fault_tag", "fault_start")
    )


def measures(judged_rows: pl.LazyFrame) -> pl.DataFrame:
    """Long: slice, value_of_slice, metric, value. Slices `all`, `day`, `rung`, `tag`, and `fault` by kind.

    `readings`; `alarm_rate`, called anomalies, and `alarm_rate_at_0.01` and `_0.001`, of readings outside
    faults. With labels: `faults`, `precision` (share of called readings in a
    fault or just after it), `recall` (share of faults with a called reading), `delay_minutes`
    (median, from the fault's start to the first call).
    """
    day = pl.col("hour").dt.date().alias("day")
    normal = judged_rows.filter(_SENSORS, pl.col("phase").is_null()).group_by("tag", "rung", day)
    counts = ("readings", "anomalies", *_AT.values())
    sums = normal.agg(pl.col(*counts).sum()).sort("day", "rung", "tag").collect(engine="streaming")
    readings = pl.col("readings").sum()
    rates = {"readings": readings, "alarm_rate": pl.col("anomalies").sum() / readings}
    rates |= {f"alarm_rate_{name}": pl.col(name).sum() / readings for name in _AT.values()}
    return pl.concat([by_slice(sums, rates, [None, "day", "rung", "tag"]), _of_faults(judged_rows)])


def _of_faults(sums: pl.LazyFrame) -> pl.DataFrame:
    """Measures of labelled faults, overall and by kind; no rows without labels."""
    is_relevant = (pl.col("anomalies") > 0) | (pl.col("phase") == "during")
    rows = sums.filter("labelled", is_relevant).collect(engine="streaming")
    alarms = pl.col("anomalies").sum()
    faults = (
        rows.filter(phase="during")
        .group_by(FAULT)
        .agg(alarms.alias("anomalies"), pl.col("first_anomaly").min())
        .sort(FAULT)
    )
    if rows.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    delay = (pl.col("first_anomaly") - pl.col("fault_start")).dt.total_seconds() / 60
    by_fault = {
        "faults": pl.len(),
        "recall": (pl.col("anomalies") > 0).mean(),
        "delay_minutes": delay.median(),
    }
    parts = [by_slice(faults, by_fault, [None, "fault"])] if faults.height else []
    if rows["anomalies"].sum():
        inside = pl.col("anomalies").filter(pl.col("phase").is_not_null()).sum() / alarms
        parts.append(by_slice(rows, {"precision": inside}, [None]))
    return pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)


def tallies(judged_rows: pl.DataFrame) -> pl.DataFrame:
    """Readings of each day outside faults, and how many of them have a p-value of at most `ALPHA`."""
    normal = judged_rows.filter(_SENSORS, pl.col("phase").is_null())
    days = normal.group_by(pl.col("hour").dt.date().alias("period")).agg(
        pl.col(_AT[ALPHA]).sum().cast(pl.Float64).alias("numerator"), pl.col("readings").sum().alias("rows")
    )
    return _points(days)


def backtest_tallies(backtest: pl.LazyFrame) -> pl.DataFrame:
    """As `tallies`, for the backtest's unchanged readings."""
    days = backtest.filter(~pl.col("injected")).group_by(pl.col("time").dt.date().alias("period"))
    counts = days.agg(
        (pl.col("p_value") <= ALPHA).sum().cast(pl.Float64).alias("numerator"),
        pl.len().cast(pl.Int64).alias("rows"),
    )
    return _points(counts.collect(engine="streaming"))


def _points(days: pl.DataFrame) -> pl.DataFrame:
    columns = days.with_columns(
        pl.lit("alarm_rate").alias("chart"),
        pl.lit("all sensors").alias("series"),
        pl.col("rows").cast(pl.Float64).alias("denominator"),
    )
    return columns.select(list(TALLIES)).sort("period")
