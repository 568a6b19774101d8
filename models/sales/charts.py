"""Line charts of the sales page, as plotly figures."""

from collections.abc import Mapping
from typing import Any

from models.page.blocks import Chart


def line(name: str, x: list[Any], y: list[Any], colour: str, dash: str = "solid") -> dict[str, Any]:
    """A plotly trace: a line through `y` over `x`."""
    style = {"color": colour, "width": 1.75, "dash": dash}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": style}


def chart(
    data: list[dict[str, Any]], caption: str, y_title: str, layout: Mapping[str, Any] | None = None
) -> Chart:
    """Traces on axes that begin at zero, unless `layout` says otherwise."""
    full_layout = dict(layout or {})
    full_layout["yaxis"] = {"title": {"text": y_title}, "rangemode": "tozero", **full_layout.get("yaxis", {})}
    return Chart({"data": data, "layout": full_layout}, caption)
