"""The section of a page with the control charts of published rows."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from models.control import BACKTEST, FALSE_ALARMS, newest
from models.page import blocks as page
from models.page.blocks import Block, Chart, Grid, Section, Text
from models.page.charts import axis, dots, line
from models.scenario import ControlChart

POINTS = 60
"""The maximum number of points of a series that are drawn, the newest ones."""


def sections(charts: Mapping[str, ControlChart], control: pl.DataFrame) -> list[Section]:
    """One section with a chart per series and a table of the newest points; none without evaluations."""
    if control.is_empty():
        return []
    latest = newest(control)
    blocks: list[Block] = [Text(_summary(latest))]
    for (name, series), points in control.group_by("chart", "series", maintain_order=True):
        blocks.append(_chart(charts[str(name)], str(series), points.sort("period").tail(POINTS)))
    others = {"low": "Lower limit", "high": "Upper limit", "baseline": "Points before"}
    columns = ("series", "period", "value", "low", "centre", "high", "baseline", "verdict")
    labels = {name: others.get(name, name.capitalize()) for name in columns}
    if latest.height:
        grid = latest.select(pl.col(name).alias(label) for name, label in labels.items())
        blocks.append(Grid(grid, "The newest point of each series."))
    return [Section("Accuracy so far", blocks)]


def _summary(latest: pl.DataFrame) -> str:
    worse = latest.filter(verdict="degraded")
    verdicts = latest.filter(pl.col("verdict") != "unknown")
    if worse.height:
        names = ", ".join(f"**{row['series']}** ({row['period']})" for row in worse.iter_rows(named=True))
        summary = f"Worse than chance would explain: {names}."
    elif verdicts.height:
        summary = (
            "Published rows are as accurate as before; differences are no larger than chance would explain."
        )
    else:
        summary = "There are too few points yet to say what chance would explain."
    return (
        f"{summary} By chance alone, one point in {1 / FALSE_ALARMS:,.0f} lies beyond the limits, if it is like those "
        "before it."
    )


def _chart(chart: ControlChart, series: str, points: pl.DataFrame) -> Chart:
    x = points["period"].to_list()
    data = [_limit("limit", x, points["low"], "0px"), _limit("limits", x, points["high"], "0px", fill=True)]
    data.append(_limit("centre", x, points["centre"], "4px,3px"))
    for label, which, colour, symbol in (
        ("backtest", pl.col("source") == BACKTEST, page.MUTED, "circle-open"),
        (
            "published",
            (pl.col("source") != BACKTEST) & (pl.col("verdict") != "degraded"),
            page.ACCENT,
            "circle",
        ),
        ("degraded", pl.col("verdict") == "degraded", page.ALERT, "diamond"),
    ):
        of = points.filter(which)
        if of.height:
            marks = dots(label, of["period"], of["value"], colour, symbol=symbol, size=8)
            hover = f"%{{x}}: %{{y:{chart.format}}}, %{{text}}<extra></extra>"
            data.append(marks | {"text": of["verdict"].to_list(), "hovertemplate": hover})
    layout = {
        "height": 260,
        "showlegend": False,
        "xaxis": {"type": "date"},
        "yaxis": axis(chart.label, rangemode="tozero", tickformat=chart.format),
    }
    return Chart({"data": data, "layout": layout}, f"{chart.label}, {series}, by {chart.every}.")


def _limit(name: str, x: list[Any], values: pl.Series, dash: str, *, fill: bool = False) -> dict[str, Any]:
    trace = line(name, x, values, page.MUTED, dash, width=0 if dash == "0px" else 1, shape="hvh")
    trace |= {"hoverinfo": "skip", "showlegend": name != "limit"}
    return trace | ({"fill": "tonexty", "fillcolor": page.OUTER} if fill else {})
