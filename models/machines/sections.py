"""What the page of a machines run shows: what to look at first, any machine, and how far to trust it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from models.machines import charts, contracts
from models.machines.alarms import CLOSED, GOES_ON
from models.machines.charts import span
from models.machines.options import Options, moment
from models.machines.scoring import KEY, LIFE
from models.page import blocks as page
from models.page.blocks import Explorer, Figures, Grid, Line, Mark, Part, Section, Text, Track
from models.scenario import RunView

WATCHED = 100
FIRST = 10
EXPLORER_ROWS = 1_500_000
"""About so many readings in the explorer; machines with the highest risks come first."""
POINTS = 720
"""Readings of a sensor in the explorer, at most; and at most 120 days."""
MOMENTS = 60
"""Earlier runs whose risks the explorer shows, at most."""
CHANGES = 25
OTHERS = 200
PLACE = [*KEY, "horizon_hours"]
_SAVED = ("saved_to_never", "saved_to_every_n_days")


def sections(run: RunView) -> list[Section]:
    """Watch list, explorer, trust, importance, changes and what has no model; those without data say so."""
    view = _View(run)
    return [
        Section("Look at these first", _watch_list(view)),
        Section("Any machine", _explorer(view)),
        Section("How far to trust it", _trust(view)),
        Section("What the models look at", _importance(view)),
        Section("Changes since the last run", _changes(view)),
        Section("Without telemetry, without a model, under work", _others(view)),
    ]


def _days(name: str, columns: Sequence[str]) -> pl.Expr:
    """A quantile of the remaining life in days; null where an earlier version published the rows."""
    return pl.col(name).first() / 24 if name in columns else pl.lit(None, pl.Float64)


def _thresholds(columns: Sequence[str]) -> pl.Expr:
    """The thresholds of the horizons, shortest first; null where an earlier version published the rows."""
    if "threshold" not in columns:
        return pl.lit(None, pl.String)
    return pl.format("{} %", (pl.col("threshold") * 100).round_sig_figs(2)).str.join(", ")


def _band() -> pl.Expr:
    """The median of the remaining life and its band of 80 %; open above where it reaches beyond what is known."""
    low, middle, high = (pl.col(name).round(1).cast(pl.String) for name in LIFE[:3])
    whole = pl.format("{} ({} to {})", middle.fill_null("?"), low, high.fill_null("?"))
    return pl.when(pl.col(LIFE[0]).is_not_null()).then(whole).otherwise(pl.lit("–"))


class _View:
    """The run, with what several sections ask for."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.options = Options.of(run.options)
        self.as_of = moment(run.as_of)
        self.rows = run.published.filter(pl.col("time") == pl.col("time").max()).collect()
        self.horizons: list[int] = sorted(self.rows["horizon_hours"].unique())
        self.status = dict(run.keys.group_by("status").len().collect().iter_rows())

    @property
    def listed(self) -> pl.DataFrame:
        """One line per component with a probability, alarms first, those of the shortest horizon at the top."""
        known = self.rows.filter(pl.col("probability").is_not_null())
        alarm = pl.col("horizon_hours").filter("above_threshold").min()
        told = pl.coalesce(
            pl.col("reasons").filter("above_threshold").first(), pl.col("reasons").last(), pl.lit("")
        )
        return (
            known.sort(PLACE)
            .group_by(KEY, maintain_order=True)
            .agg(
                *(
                    pl.col("probability").filter(pl.col("horizon_hours") == h).first().alias(f"within {h}")
                    for h in self.horizons
                ),
                alarm.alias("alarm"),
                told.alias("why"),
                *(_days(name, known.columns).alias(name) for name in LIFE[:3]),
                _thresholds(known.columns).alias("from"),
                (pl.col("rung") == "under_work").any().alias("under work"),
            )
            .filter(~pl.col("under work"))
            .join(self.alarms, on=list(KEY), how="left", maintain_order="left")
            .sort(
                [pl.col("alarm"), *(f"within {h}" for h in self.horizons[::-1]), *KEY],
                descending=[False, *[True] * len(self.horizons), False, False],
                nulls_last=True,
            )
        )

    @property
    def alarms(self) -> pl.DataFrame:
        """Per component with an alarm what became of it in this run, in words; empty where no alarms are kept."""
        nothing = pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "state": pl.String})
        if "alarms" not in self.run.derived:
            return nothing
        found = self.run.derived["alarms"].filter(pl.col("as_of") == self.run.as_of).collect()
        since = pl.format("{} since {}", "state", pl.col("since").dt.strftime("%Y-%m-%d %H:%M"))
        closed = pl.format("closed: {}", "why")
        said = pl.when(state=GOES_ON).then(since).when(state=CLOSED).then(closed).otherwise("state")
        first = found.with_columns(said.alias("state")).sort(PLACE).group_by(KEY, maintain_order=True)
        return first.agg(pl.col("state").first()) if found.height else nothing


def _watch_list(view: _View) -> list[Part]:
    if view.rows.is_empty():
        return [Text("No component was scored.")]
    listed, rows = view.listed, view.rows
    counts = {
        f"At risk within {span(h)}": f"{rows.filter(horizon_hours=h)['above_threshold'].sum():,}"
        for h in view.horizons
    }
    figures = {
        **counts,
        "Machines": f"{rows['machine_id'].n_unique():,}",
        "Components scored": f"{view.status.get('scored', 0):,}",
        "By a fallback": f"{view.status.get('fallback', 0):,}",
        "Without a model, or failed": f"{view.status.get('skipped', 0) + view.status.get('failed', 0):,}",
    }
    alarms = listed.height - listed["alarm"].null_count()
    failure = f"{view.options.missed_failure_cost:g}"
    failure += "".join(f" ({name}: {cost:g})" for name, cost in view.options.component_costs)
    text = (
        f"Data up to **{view.as_of:%Y-%m-%d %H:%M} UTC**. A component is at risk where inspecting it is expected to "
        f"cost less than waiting: a missed failure costs {failure}, a needless inspection "
        f"{view.options.needless_inspection_cost:g}. From which probability that is so differs by component and horizon: "
        "it is the threshold that cost least on held-out time, and lies high where waiting brought certainty in time. "
        "So a component may be at risk at a lower probability than another. It is not listed while it is under work."
    )
    frame = listed.head(max(FIRST, alarms)).select(
        pl.col("machine_id").alias("Machine"),
        pl.col("component").alias("Component"),
        *(pl.col(f"within {h}").alias(f"Within {span(h)}") for h in view.horizons),
        pl.col("from").alias("At risk from"),
        pl.col("alarm").map_elements(span, return_dtype=pl.String).alias("At risk within"),
        pl.col("state").alias("Alarm"),
        _band().alias("Days left (80 %)"),
        pl.col("why").alias("Why"),
    )
    formats = {f"Within {span(h)}": ".1%" for h in view.horizons}
    caption = (
        "Probability of failure, from which one a component is at risk, what is at risk first, and days left: the "
        "median, and the band that holds 80 %; ? is longer than can be known. Open one in the explorer"
    )
    return [
        Figures(figures),
        Text(text),
        Grid(frame, caption, limit=WATCHED, formats=formats, key={"machine_id": "Machine"}),
    ]


def _explorer(view: _View) -> list[Part]:
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
    shown = order.head(max(1, EXPLORER_ROWS // points)).select("machine_id")
    recent = telemetry.filter(pl.col("time") > since).join(shown.lazy(), on="machine_id", how="semi")
    longest = view.horizons[-1]
    components = sorted(view.rows["component"].unique())
    risks = _risk_tracks(view, shown.lazy(), since, longest)
    caption = (
        f"{shown.height:,} of {order.height:,} machines, those with the highest risks. "
        if shown.height < order.height
        else ""
    ) + (
        f"Readings since {since:%Y-%m-%d}; what happened is marked at the reading that followed. Risks are within "
        f"{span(longest)}: those of the last {MOMENTS} runs, and before them of the backtest, which its models had not seen."
    )
    first = view.listed["machine_id"].head(1).to_list() or shown["machine_id"].head(1).to_list()
    explorer = Explorer(
        key={"machine_id": "Machine", "series": "Panel"},
        time="time",
        tracks=[_telemetry_track(view, recent, sensors, timedelta(hours=2 * hours)), *risks],
        panels="series",
        order=[*(_panel(c) for c in components), *sensors],
        start={"machine_id": first[0]} if first else {},
        about=_about(view, _panel(components[0]), shown.lazy()),
        caption=caption,
    )
    return [explorer]


def _panel(component: str) -> str:
    return f"{component} risk"


def _telemetry_track(view: _View, recent: pl.LazyFrame, sensors: list[str], near: timedelta) -> Track:
    """Readings of each sensor, with errors, replacements and failures where the next reading is, if `near`."""
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
    """Events by machine and the time of the reading that followed: which, as text."""
    times = readings.select("machine_id", "time").sort("time").with_columns(at="time")
    return (
        events.select("machine_id", "time", column)
        .sort("time")
        .join_asof(
            times, on="time", by="machine_id", strategy="forward", tolerance=near, check_sortedness=False
        )
        .filter(pl.col("at").is_not_null())
        .group_by("machine_id", pl.col("at").alias("time"))
        .agg(pl.col(column).unique().sort().str.join(", ").alias(name))
    )


def _risk_tracks(view: _View, shown: pl.LazyFrame, since: datetime, hours: int) -> list[Track]:
    """The probability of each component's failure over time, as published and in the backtest, and its failures."""
    inside = (pl.col("horizon_hours") == hours) & pl.col("time").is_between(since, view.as_of, closed="right")

    def told(frames: list[pl.LazyFrame]) -> tuple[pl.LazyFrame, list[Mark]]:
        parts = [f.filter(inside).select(*KEY, "time", "probability", source=i) for i, f in enumerate(frames)]
        rows = pl.concat(parts).join(shown, on="machine_id", how="semi").sort("source")
        rows = rows.group_by(*KEY, "time").last().sort("time")
        marks = []
        if "failures" in view.run.tables:
            failed = _failed_before(rows, view.run.tables["failures"], view.options.every_hours)
            rows, marks = (
                rows.join(failed, on=[*KEY, "time"], how="left"),
                [Mark("failed", "Failed", page.ALERT)],
            )
        return rows.with_columns(pl.format(_panel("{}"), "component").alias("series")).drop(
            "component"
        ), marks

    published, failed = told([*_earlier(view, since, inside), view.run.published])
    backtest, failed_then = told([view.run.backtest])
    return [
        Track(published, actual=Line("probability", "Published risk", page.ACCENT), marks=failed),
        Track(backtest, expected=Line("probability", "Risk in the backtest"), marks=failed_then),
    ]


def _failed_before(rows: pl.LazyFrame, failures: pl.LazyFrame, every_hours: int) -> pl.LazyFrame:
    """The first of `rows` after each failure, if near: key, time and `failed`."""
    times = rows.select(*KEY, "time").with_columns(at="time")
    near = timedelta(hours=max(24, 2 * every_hours))
    following = (
        failures.select(*KEY, "time")
        .sort("time")
        .join_asof(times, on="time", by=list(KEY), strategy="forward", tolerance=near, check_sortedness=False)
    )
    found = following.filter(pl.col("at").is_not_null())
    return found.select(*KEY, pl.col("at").alias("time"), pl.lit(value=True).alias("failed")).unique()


def _earlier(view: _View, since: datetime, inside: pl.Expr) -> list[pl.LazyFrame]:
    """Rows `inside` that earlier runs published, of each time the last word; at most the last `MOMENTS` runs."""
    if "risks" not in view.run.derived:
        return [] if view.run.previous is None else [view.run.previous]
    kept = view.run.derived["risks"].filter(pl.col("as_of").is_between(since, view.as_of, closed="none"))
    runs = kept.select(pl.col("as_of").unique().sort().tail(MOMENTS)).collect()["as_of"]
    place = [*KEY, "time", "horizon_hours"]
    latest = kept.filter(inside, pl.col("as_of").is_in(runs.implode())).sort("as_of").group_by(place)
    return [latest.agg(pl.col("probability").last())]


def _about(view: _View, first: str, shown: pl.LazyFrame) -> pl.LazyFrame:
    """What the explorer says about a machine, with its first panel: model, age, and its highest risk."""
    highest = (
        view.listed.lazy()
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
    about = shown.select("machine_id", pl.lit(first).alias("series"))
    if "machines" in view.run.tables:
        kept = view.run.tables["machines"].select(
            "machine_id",
            pl.col("model").alias("Model"),
            pl.format("{} years", pl.col("age_years").round(1)).alias("Age"),
        )
        about = about.join(kept, on="machine_id", how="left")
    return about.join(highest, on="machine_id", how="left")


def _trust(view: _View) -> list[Part]:
    judged = {}
    for hours in view.horizons:
        of = view.run.backtest.filter(
            pl.col("horizon_hours") == hours,
            pl.col("failed").is_not_null(),
            pl.col("probability").is_not_null(),
        )
        rows = of.select("probability", "failed").collect()
        if rows["failed"].any():
            judged[hours] = rows
    if not judged:
        return [
            Text(
                "There is no backtest with failures in it: nothing is known of how good the probabilities are."
            )
        ]
    text = (
        "On the last part of the training range, which its models had not seen. A row is one component of one machine "
        f"every {view.options.every_hours} hours; an alarm is right where that very component fails within the horizon. "
        f"Saved is what the alarms would have saved there, against never inspecting and against inspecting everything "
        f"every {view.options.inspect_every_days} days, with the interval that holds 80 % if machines are drawn anew."
    )
    return [
        Text(text),
        *(_measures(view, h) for h in judged),
        *_first(view, list(judged)),
        charts.calibration(judged),
        charts.curves(judged),
    ]


def _first(view: _View, horizons: Sequence[int]) -> list[Part]:
    """How good the list to look at first was; nothing of a bundle of an earlier version."""
    found = view.run.metrics.filter(pl.col("slice") == "first")
    of = {
        h: dict(found.filter(pl.col("value_of_slice") == f"{h}h").select("metric", "value").iter_rows())
        for h in horizons
    }
    told = [
        f"within {span(h)} some component failed in **{one['precision']:.1%}** of them, at best **{one['best']:.1%}**"
        for h, one in of.items()
        if one
    ]
    if not told:
        return []
    many = next(one["machines"] for one in of.values() if one)
    return [Text(f"Of the {many:g} machines to look at first, each day anew: {'; '.join(told)}.")]


def _measures(view: _View, hours: int) -> Grid:
    """Measures of each component and of all, at one horizon."""
    metrics = view.run.metrics
    whole = metrics.filter(pl.col("slice") == "horizon", pl.col("value_of_slice") == f"{hours}h")
    each = metrics.filter(pl.col("slice") == f"component_{hours}h")
    rows = pl.concat([each, whole.with_columns(pl.lit("all").alias("value_of_slice"))])
    table = rows.pivot(on="metric", index="value_of_slice", values="value", aggregate_function="first")
    lead = view.options.lead(hours)
    table = table.with_columns(_interval(name) for name in _SAVED if f"{name}_low" in table.columns)
    labels = {
        "failures": "Failures",
        "warned": "Warned of",
        "warned_early": f"Warned of {span(lead)} ahead",
        "lead_hours": "Hours ahead",
        "precision": "Precision",
        "recall": "Recall",
        "f1": "F1",
        "average_precision": "Average precision",
        "calibration_error": "Calibration error",
        "saved_to_never": "Saved to never",
        "saved_to_every_n_days": "Saved to the plan",
    }
    shown = {name: label for name, label in labels.items() if name in table.columns}
    frame = table.select(
        pl.col("value_of_slice").alias("Component"), *(pl.col(n).alias(label) for n, label in shown.items())
    )
    formats = {label: ".2f" for name, label in shown.items() if name in ("precision", "recall", "f1")}
    formats |= {
        "Average precision": ".2f",
        "Calibration error": ".2%",
        "Warned of": ".0%",
        "Failures": ",.0f",
    }
    formats |= {"Hours ahead": ",.0f", f"Warned of {span(lead)} ahead": ".0%"}
    formats |= {labels[n]: "+,.0f" for n in _SAVED if table.schema.get(n) == pl.Float64}
    return Grid(frame, f"Failures within {span(hours)}", formats=formats)


def _interval(name: str) -> pl.Expr:
    """What was saved, with the interval of 80 %."""
    whole = (pl.col(c).round(0).cast(pl.Int64) for c in (name, f"{name}_low", f"{name}_high"))
    return pl.format("{} ({} to {})", *whole).alias(name)


def _importance(view: _View) -> list[Part]:
    chart = charts.importance(view.run.metrics, view.horizons)
    return [Text("The bundle does not say.")] if chart is None else [chart]


def _changes(view: _View) -> list[Part]:
    """What is newly at risk, what no longer is, and the largest changes of probability."""
    if view.run.previous is None:
        return [Text("This is the first run.")]
    before = view.run.previous.filter(pl.col("time") == pl.col("time").max()).collect()
    both = view.rows.join(
        before.select(
            *PLACE,
            pl.col("probability").alias("before"),
            pl.col("above_threshold").alias("was at risk"),
            then="time",
        ),
        on=PLACE,
        how="left",
    ).with_columns(
        (pl.col("probability") - pl.col("before").fill_null(0.0)).alias("change"),
        pl.col("above_threshold").fill_null(value=False),
        pl.col("was at risk").fill_null(value=False),
    )
    new = both.filter(pl.col("above_threshold") & ~pl.col("was at risk"))
    gone = both.filter(~pl.col("above_threshold") & pl.col("was at risk"))
    when = before["time"].dt.strftime("%Y-%m-%d %H:%M").max()
    text = (
        f"Against the run for **{when!s} UTC**: {new.height:,} newly at risk, "
        f"{gone.height:,} no longer, of {both.height:,} components and horizons."
    )
    parts: list[Part] = [Text(text)]
    for rows, caption, up in ((new, "Newly at risk", True), (gone, "No longer at risk", False)):
        if rows.height:
            parts.append(_change_grid(rows, caption, up=up))
    steady = both.filter(pl.col("above_threshold") == pl.col("was at risk"), pl.col("change").abs() >= 0.01)
    if steady.height:
        largest = steady.sort(pl.col("change").abs(), descending=True).head(CHANGES)
        parts.append(_change_grid(largest, "Largest other changes", up=True))
    return parts


def _change_grid(rows: pl.DataFrame, caption: str, *, up: bool) -> Grid:
    ordered = rows.sort(
        "change", *KEY, "horizon_hours", descending=[up, False, False, False], nulls_last=True
    )
    frame = ordered.select(
        pl.col("machine_id").alias("Machine"),
        pl.col("component").alias("Component"),
        pl.col("horizon_hours").map_elements(span, return_dtype=pl.String).alias("Within"),
        pl.col("before").alias("Before"),
        pl.col("probability").alias("Now"),
        pl.col("change").alias("Change"),
        pl.col("reasons").alias("Why"),
    )
    formats = {"Before": ".1%", "Now": ".1%", "Change": "+.1%"}
    return Grid(frame, caption, limit=CHANGES, formats=formats, key={"machine_id": "Machine"})


def _others(view: _View) -> list[Part]:
    """Components that no model with all its telemetry spoke for, and what is odd in the tables."""
    other = view.run.keys.filter(pl.col("rung").is_not_null() | (pl.col("status") == "failed"))
    groups = (
        other.group_by(
            pl.col("status").str.to_titlecase().alias("Outcome"),
            pl.col("rung").fill_null("–").str.replace_all("_", " ").alias("Estimator"),
            pl.col("reason").fill_null("not said").alias("Reason"),
        )
        .agg(pl.len().alias("Components"), pl.col("machine_id").min().alias("Such as"))
        .sort("Components", "Outcome", "Estimator", "Reason", descending=[True, False, False, False])
        .collect()
    )
    parts: list[Part] = []
    if groups.height:
        parts.append(
            Grid(
                groups,
                "Components that are not as usual, and why",
                limit=OTHERS,
                key={"machine_id": "Such as"},
            )
        )
    else:
        parts.append(Text("None: every component has a model and all its telemetry."))
    if view.run.gaps.height:
        heads = {c: c.capitalize() for c in view.run.gaps.columns}
        parts.append(
            Grid(view.run.gaps.rename(heads), "What is odd in the tables, and what the run does about it")
        )
    return parts
