"""Charts, their traces and axes, in plotly's form."""

from collections.abc import Iterable, Mapping
from typing import Any

from models.page.blocks import Chart


def line(
    name: str,
    x: Iterable[Any],
    y: Iterable[Any],
    colour: str,
    dash: str = "solid",
    *,
    width: float = 1.75,
    shape: str = "linear",
) -> dict[str, Any]:
    """A line through `y` over `x`."""
    style = {"color": colour, "width": width, "dash": dash, "shape": shape}
    return {"type": "scatter", "mode": "lines", "name": name, "x": [*x], "y": [*y], "line": style}


def area(name: str, x: Iterable[Any], low: Iterable[Any], high: Iterable[Any], colour: str) -> dict[str, Any]:
    """The area from `low` to `high` over `x`, behind all lines."""
    there, lows, highs = [*x], [*low], [*high]
    trace = line(name, there + there[::-1], highs + lows[::-1], colour)
    return trace | {"fill": "toself", "fillcolor": colour, "hoverinfo": "skip", "legendrank": 1}


def dots(name: str, x: Iterable[Any], y: Iterable[Any], colour: str, **style: Any) -> dict[str, Any]:
    """A dot at each `y` over `x`; `style` is more of plotly's `marker`, such as `symbol`."""
    marker = {"color": colour, "size": 7, **style}
    return {"type": "scatter", "mode": "markers", "name": name, "x": [*x], "y": [*y], "marker": marker}


def bars(name: str, x: Iterable[Any], y: Iterable[Any], colour: str) -> dict[str, Any]:
    """A bar from zero to each `y` over `x`."""
    return {"type": "bar", "name": name, "x": [*x], "y": [*y], "marker": {"color": colour}}


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, **settings}


def chart(
    data: list[dict[str, Any]], caption: str, y_title: str, layout: Mapping[str, Any] | None = None
) -> Chart:
    """Traces on axes that begin at zero, unless `layout` says otherwise."""
    full_layout = dict(layout or {})
    full_layout["yaxis"] = {**axis(y_title, rangemode="tozero"), **full_layout.get("yaxis", {})}
    return Chart({"data": data, "layout": full_layout}, caption)
