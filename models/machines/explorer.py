"""The part of a page that shows the readings, events and risks of any machine."""

from datetime import datetime, timedelta

import polars as pl

from models.machines import contracts
from models.machines.charts import span
from models.machines.next_in_time import with_next
from models.machines.scoring import KEY
from models.machines.view import View
from models.page import blocks as page
from models.page.blocks import Block, Explorer, Line, Mark, Text, Track

EXPLORER_ROWS = 1_500_000
"""Approximate number of readings in the explorer; machines with the highest risks come first."""
POINTS = 720
"""Maximum number of readings of a sensor in the explorer; they cover at most 120 days."""
MOMENTS = 60
"""Maximum number of earlier runs whose risks the explorer shows."""


def explorer(view: View) -> list[Block]:
    """The explorer; only of the machines with the highest risks if there are too many for one page."""
    if view.rows.is_empty():
        return [Text("There is nothing to show.")]
    telemetry = view.run.tables["telemetry"].filter(pl.col("time") <= view.as_of)
    sensors = contracts.sensors(telemetry)
    hours = (
        contracts.interval_hours(telemetry.filter(pl.col("time") > view.as_of - timedelta(days=60))) or 1.0
    )
    since = view.as_of - min(timedelta(hours=hours * POINTS), timedelta(days=120))
    points = max(1, int((view.as_of - since) / timedelta(hours=hours)) * max(1, len(sensors)))
    order = view.rows.group_by("machine_id").agg(pl.col("probability").max())
    order = order.sort("probability", "machine_id", descending=[True, False], nulls_last=True)
    machines = order.head(max(1, EXPLORER_ROWS // points)).select("machine_id")
    recent = telemetry.filter(pl.col("time") > since).join(machines.lazy(), on="machine_id", how="semi")
    longest = view.horizons[-1]
    components = sorted(view.rows["component"].unique())
    risks = _risk_tracks(view, machines.lazy(), since, longest)
    caption = (
        f"{machines.height:,} of {order.height:,} machines, those with the highest risks. "
        if machines.height < order.height
        else ""
    ) + (
        f"Readings since {since:%Y-%m-%d}; each event is marked at the reading that followed. Risks are within "
        f"{span(longest)}: of the last {MOMENTS} runs and, before them, of the backtest, whose models had not seen the data."
    )
    first = view.watch_list["machine_id"].head(1).to_list() or machines["machine_id"].head(1).to_list()
    explorer = Explorer(
        key={"machine_id": "Machine", "series": "Panel"},
        time="time",
        tracks=[_telemetry_track(view, recent, sensors, timedelta(hours=2 * hours)), *risks],
        panels="series",
        order=[*(_panel(c) for c in components), *sensors],
        start={"machine_id": first[0]} if first else {},
        about=_about(view, _panel(components[0]), machines.lazy()),
        caption=caption,
    )
    return [explorer]


def _panel(component: str) -> str:
    return f"{component} risk"


def _telemetry_track(view: View, recent: pl.LazyFrame, sensors: list[str], near: timedelta) -> Track:
    """Readings of each sensor, with errors, replacements and failures at the next reading, if it is `near`."""
    kinds = (("errors", "error"), ("maintenance", "component"), ("failures", "component"))
    names = [table for table, _ in kinds if table in view.run.tables]
    frame = (
        recent.sort("time")
        .select("machine_id", "time", *sensors)
        .unpivot(on=sensors, index=["machine_id", "time"], variable_name="series", value_name="value")
    )
    for table, column in kinds:
        if table in names:
            events = _at_readings(view.run.tables[table], recent, column, table, near)
            frame = frame.join(events, on=["machine_id", "time"], how="left", maintain_order="left")
    labels = {
        "errors": ("Error", page.SECOND),
        "maintenance": ("Replaced", page.ACCENT),
        "failures": ("Failed", page.ALERT),
    }
    return Track(frame, actual=Line("value", "Reading"), marks=[Mark(n, *labels[n]) for n in names])


def _at_readings(
    events: pl.LazyFrame, readings: pl.LazyFrame, column: str, name: str, near: timedelta
) -> pl.LazyFrame:
    """Events as text, by machine and the time of the reading that followed."""
    times = readings.select("machine_id", "time").sort("time").with_columns(at="time")
    return (
        with_next(events.select("machine_id", "time", column).sort("time"), times, within=near)
        .filter(pl.col("at").is_not_null())
        .group_by("machine_id", pl.col("at").alias("time"))
        .agg(pl.col(column).unique().sort().str.join(", ").alias(name))
    )


def _risk_tracks(view: View, machines: pl.LazyFrame, since: datetime, hours: int) -> list[Track]:
    """The probability of each component's failure over time, as published and in the backtest, and its failures."""
    inside = (pl.col("horizon_hours") == hours) & pl.col("time").is_between(since, view.as_of, closed="right")

    def track_rows(frames: list[pl.LazyFrame]) -> tuple[pl.LazyFrame, list[Mark]]:
        parts = [f.filter(inside).select(*KEY, "time", "probability", source=i) for i, f in enumerate(frames)]
        rows = pl.concat(parts).join(machines, on="machine_id", how="semi").sort("source")
        rows = rows.group_by(*KEY, "time").last().sort("time")
        marks = []
        if "failures" in view.run.tables:
            failures = _failed_before(rows, view.run.tables["failures"], view.options.every_hours)
            rows = rows.join(failures, on=[*KEY, "time"], how="left")
            marks = [Mark("failed", "Failed", page.ALERT)]
        series = pl.format(_panel("{}"), "component").alias("series")
        return rows.with_columns(series).drop("component"), marks

    published_rows, marks = track_rows([*_earlier(view, since, inside), view.run.published_rows])
    backtest, backtest_marks = track_rows([view.run.backtest])
    return [
        Track(published_rows, actual=Line("probability", "Published risk", page.ACCENT), marks=marks),
        Track(backtest, expected=Line("probability", "Risk in the backtest"), marks=backtest_marks),
    ]


def _failed_before(rows: pl.LazyFrame, failures: pl.LazyFrame, every_hours: int) -> pl.LazyFrame:
    """The first of `rows` after each failure, if it is near: key, time and `failed`."""
    times = rows.select(*KEY, "time").with_columns(at="time")
    near = timedelta(hours=max(24, 2 * every_hours))
    next_rows = with_next(failures.select(*KEY, "time").sort("time"), times, KEY, near)
    matches = next_rows.filter(pl.col("at").is_not_null())
    return matches.select(*KEY, pl.col("at").alias("time"), pl.lit(value=True).alias("failed")).unique()


def _earlier(view: View, since: datetime, inside: pl.Expr) -> list[pl.LazyFrame]:
    """The rows of earlier runs that match `inside`, the latest for each time; at most the last `MOMENTS` runs."""
    if "risks" not in view.run.derived_tables:
        return [] if view.run.previous is None else [view.run.previous]
    past = view.run.derived_tables["risks"].filter(
        pl.col("as_of").is_between(since, view.as_of, closed="none")
    )
    runs = past.select(pl.col("as_of").unique().sort().tail(MOMENTS)).collect()["as_of"]
    place = [*KEY, "time", "horizon_hours"]
    latest = past.filter(inside, pl.col("as_of").is_in(runs.implode())).sort("as_of").group_by(place)
    return [latest.agg(pl.col("probability").last())]


def _about(view: View, first: str, machines: pl.LazyFrame) -> pl.LazyFrame:
    """The explorer's header of each machine, with its first panel: model, age, and its highest risk."""
    highest = (
        view.watch_list.lazy()
        .group_by("machine_id", maintain_order=True)
        .first()
        .select(
            "machine_id",
            pl.format(
                "{}: {} % within {}",
                "component",
                (pl.col(f"within {view.horizons[-1]}") * 100).round(1),
                pl.lit(span(view.horizons[-1])),
            ).alias("Highest risk"),
            pl.col("why").alias("Why"),
        )
    )
    about = machines.select("machine_id", pl.lit(first).alias("series"))
    if "machines" in view.run.tables:
        attributes = view.run.tables["machines"].select(
            "machine_id",
            pl.col("model").alias("Model"),
            pl.format("{} years", pl.col("age_years").round(1)).alias("Age"),
        )
        about = about.join(attributes, on="machine_id", how="left")
    return about.join(highest, on="machine_id", how="left")
