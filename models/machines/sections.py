"""The page of a machines run: what to look at first, any machine, and how far to trust the probabilities."""

from collections.abc import Sequence

import polars as pl

from models.machines import charts, contracts
from models.machines.charts import span
from models.machines.explorer import explorer
from models.machines.few_failures import few_failures
from models.machines.scoring import KEY, LIFE
from models.machines.view import PLACE, View
from models.machines.vocabulary import by_component
from models.page.blocks import Block, Figures, Grid, Section, Text
from models.scenario import RunView

WATCHED = 100
FIRST = 10
CHANGES = 25
OTHERS = 200
_SAVED = ("saved_to_never", "saved_to_every_n_days")


def sections(run: RunView) -> list[Section]:
    """Watch list, explorer, trust, importance, changes and components without a model; each says if it has no data."""
    view = View(run)
    return [
        Section("Look at these first", _watch_list(view)),
        Section("Any machine", explorer(view)),
        Section("How far to trust it", _trust(view)),
        Section("What the models look at", _importance(view)),
        Section("Changes since the last run", _changes(view)),
        Section("Without telemetry, without a model, under work", _others(view)),
    ]


def _band() -> pl.Expr:
    """The median of the remaining life and its 80 % band; the upper end is open if it is beyond the known range."""
    low, middle, high = (pl.col(name).round(1).cast(pl.String) for name in LIFE[:3])
    whole = pl.format("{} ({} to {})", middle.fill_null("?"), low, high.fill_null("?"))
    return pl.when(pl.col(LIFE[0]).is_not_null()).then(whole).otherwise(pl.lit("–"))


def _watch_list(view: View) -> list[Block]:
    if view.rows.is_empty():
        return [Text("No component was scored.")]
    watch_list = view.watch_list
    alarms = watch_list.height - watch_list["alarm"].null_count()
    failure = f"{view.options.missed_failure_cost:g}"
    failure += "".join(f" ({name}: {cost:g})" for name, cost in view.options.component_costs)
    text = (
        f"Data up to **{view.as_of:%Y-%m-%d %H:%M} UTC**. A component is at risk if inspecting it is expected to "
        f"cost less than waiting: a missed failure costs {failure}, a needless inspection "
        f"{view.options.needless_inspection_cost:g}. The probability from which that is so, the threshold, differs by "
        "component and horizon: it is the cheapest one on held-out time, and it is high if waiting brought "
        "certainty in time. "
        "So a component may be at risk at a lower probability than another. It is not listed while it is under work."
    )
    frame = watch_list.head(max(FIRST, alarms)).select(
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
        "The probability of failure, the probability from which a component is at risk, and the days left: the median, "
        "and the 80 % band; ? means longer than can be known. Components at risk come first. Select a row to open the "
        "explorer"
    )
    return [
        _figures(view),
        Text(text),
        Grid(frame, caption, limit=WATCHED, formats=formats, key={"machine_id": "Machine"}),
    ]


def _figures(view: View) -> Figures:
    """The numbers of components at risk, of machines, and of components by their status."""
    rows, status = view.rows, view.status
    counts = {
        f"At risk within {span(h)}": f"{rows.filter(horizon_hours=h)['above_threshold'].sum():,}"
        for h in view.horizons
    }
    return Figures(
        {
            **counts,
            "Machines": f"{rows['machine_id'].n_unique():,}",
            "Components scored": f"{status.get('scored', 0):,}",
            "By a fallback": f"{status.get('fallback', 0):,}",
            "Without a model, or failed": f"{status.get('skipped', 0) + status.get('failed', 0):,}",
        }
    )


def _trust(view: View) -> list[Block]:
    backtests = {}
    for hours in view.horizons:
        of = view.run.backtest.filter(
            pl.col("horizon_hours") == hours,
            pl.col("failed").is_not_null(),
            pl.col("probability").is_not_null(),
        )
        rows = of.select("probability", "failed").collect()
        if rows["failed"].any():
            backtests[hours] = rows
    if not backtests:
        return [
            Text("There is no backtest with failures in it, so the quality of the probabilities is unknown.")
        ]
    text = (
        "Measured on the last part of the training range, which the models had not seen. A row is one component of one "
        f"machine every {view.options.every_hours} hours; an alarm is right if that component fails within the horizon. "
        f"The savings are those of the alarms there, compared with never inspecting and with inspecting everything "
        f"every {view.options.inspect_every_days} days, with the 80 % interval for other samples of machines."
    )
    tables = by_component(view.run.tables, view.rows["component"].unique().sort().to_list())
    counts = contracts.tables_at(tables, view.as_of)["failures"].group_by("component").len().collect()
    few = few_failures(dict(counts.iter_rows()))
    return [
        Text(text),
        *([Text(f"There are {few}.")] if few else []),
        *(_measures(view, h) for h in backtests),
        *_first(view, list(backtests)),
        charts.calibration(backtests),
        charts.curves(backtests),
    ]


def _first(view: View, horizons: Sequence[int]) -> list[Block]:
    """The quality of the list of machines to look at first; nothing for a bundle of an earlier version."""
    metrics = view.run.metrics.filter(pl.col("slice") == "first")
    of = {
        h: dict(metrics.filter(pl.col("value_of_slice") == f"{h}h").select("metric", "value").iter_rows())
        for h in horizons
    }
    texts = [
        f"within {span(h)} some component failed in **{one['precision']:.1%}** of them (at best: **{one['best']:.1%}**)"
        for h, one in of.items()
        if one
    ]
    if not texts:
        return []
    many = next(one["machines"] for one in of.values() if one)
    return [Text(f"Of each day's {many:g} machines to look at first: {'; '.join(texts)}.")]


def _measures(view: View, hours: int) -> Grid:
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
        "saved_to_never": "Saved against never",
        "saved_to_every_n_days": "Saved against the plan",
    }
    columns = {name: label for name, label in labels.items() if name in table.columns}
    frame = table.select(
        pl.col("value_of_slice").alias("Component"), *(pl.col(n).alias(label) for n, label in columns.items())
    )
    formats = {label: ".2f" for name, label in columns.items() if name in ("precision", "recall", "f1")}
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
    """The saving, with its 80 % interval."""
    whole = (pl.col(c).round(0).cast(pl.Int64) for c in (name, f"{name}_low", f"{name}_high"))
    return pl.format("{} ({} to {})", *whole).alias(name)


def _importance(view: View) -> list[Block]:
    chart = charts.importance(view.run.metrics, view.horizons)
    return [Text("The bundle does not contain the importance of features.")] if chart is None else [chart]


def _changes(view: View) -> list[Block]:
    """Components newly at risk and no longer at risk, and the largest changes of probability."""
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
    former = both.filter(~pl.col("above_threshold") & pl.col("was at risk"))
    when = before["time"].dt.strftime("%Y-%m-%d %H:%M").max()
    text = (
        f"Compared with the run for **{when!s} UTC**: {new.height:,} newly at risk, "
        f"{former.height:,} no longer, of {both.height:,} components and horizons."
    )
    parts: list[Block] = [Text(text)]
    for rows, caption, up in ((new, "Newly at risk", True), (former, "No longer at risk", False)):
        if rows.height:
            parts.append(_change_grid(rows, caption, up=up))
    steady = both.filter(pl.col("above_threshold") == pl.col("was at risk"), pl.col("change").abs() >= 0.01)
    if steady.height:
        largest = steady.sort(pl.col("change").abs(), descending=True).head(CHANGES)
        parts.append(_change_grid(largest, "Largest other changes", up=True))
    return parts


def _change_grid(rows: pl.DataFrame, caption: str, *, up: bool) -> Grid:
    ranking = rows.sort(
        "change", *KEY, "horizon_hours", descending=[up, False, False, False], nulls_last=True
    )
    frame = ranking.select(
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


def _others(view: View) -> list[Block]:
    """Components that were not scored by a model with complete telemetry, and oddities in the tables."""
    other = view.run.keys.filter(pl.col("rung").is_not_null() | (pl.col("status") == "failed"))
    groups = (
        other.group_by(
            pl.col("status").str.to_titlecase().alias("Outcome"),
            pl.col("rung").fill_null("–").str.replace_all("_", " ").alias("Estimator"),
            pl.col("reason").fill_null("no reason given").alias("Reason"),
        )
        .agg(pl.len().alias("Components"), pl.col("machine_id").min().alias("Such as"))
        .sort("Components", "Outcome", "Estimator", "Reason", descending=[True, False, False, False])
        .collect()
    )
    parts: list[Block] = []
    if groups.height:
        parts.append(
            Grid(
                groups,
                "Components that were not scored as usual, and why",
                limit=OTHERS,
                key={"machine_id": "Such as"},
            )
        )
    else:
        parts.append(Text("None: every component has a model and all its telemetry."))
    if view.run.gaps.height:
        heads = {c: c.capitalize() for c in view.run.gaps.columns}
        parts.append(
            Grid(view.run.gaps.rename(heads), "Oddities in the tables, and what the run does about them")
        )
    return parts
