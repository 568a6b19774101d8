"""The section of a page with the drift of a bundle's inputs and scores since its training."""

import polars as pl

from models.drift import Rule
from models.page import blocks as page
from models.page.blocks import Block, Chart, Grid, Section, Text
from models.page.charts import axis, line

AS_OF = "as_of"
DRAWN = 4
"""The number of features that are drawn: the first ones of the newest lines."""
CYCLES = 60
"""The maximum number of cycles that are drawn, the newest ones."""

_COLOURS = (page.ACCENT, page.SECOND, page.THIRD, page.MUTED)
_LABELS = {
    "feature": "Feature",
    "kind": "Kind",
    "drifted": "Drifted",
    "psi": "PSI",
    "limit": "Limit",
    "distance": "Distance",
    "mean_before": "Mean was",
    "mean_now": "Mean is",
    "missing_before": "Missing was",
    "missing_now": "Missing is",
    "unseen": "Unseen",
}


def sections(drift: pl.DataFrame) -> list[Section]:
    """One section with a table of the newest lines, worst first, and a chart of the first few over time.

    `drift` has the lines of all cycles, see `models.drift.SCHEMA`, with `as_of` and `kind`. No section if
    nothing has been compared yet.
    """
    if drift.is_empty():
        return []
    latest = drift.filter(pl.col(AS_OF) == drift[AS_OF].max()).sort("rank")
    blocks: list[Block] = [Text(_summary(latest)), *_course(drift, latest)]
    shares = dict.fromkeys(("Missing was", "Missing is", "Unseen"), ".1%")
    formats = shares | dict.fromkeys(("PSI", "Limit", "Distance"), ".3f")
    grid = latest.select(pl.col(name).alias(label) for name, label in _LABELS.items())
    caption = f"As of {latest[AS_OF][0]:%Y-%m-%d %H:%M}, against the bundle's training."
    blocks.append(Grid(grid, caption.replace(" 00:00", ""), limit=20, formats=formats))
    return [Section("Drift", blocks)]


def _summary(latest: pl.DataFrame) -> str:
    alarms = latest.filter("drifted")
    if alarms.height:
        names = ", ".join(f"**{name}**" for name in alarms["feature"].head(3))
        more = f" and {alarms.height - 3} more" if alarms.height > 3 else ""
        summary = f"Different from the training: {names}{more}."
    elif latest["limit"].is_null().all():
        summary = "There are too few cycles in the training to say what is usual."
    elif latest.filter(pl.col("psi") > pl.col("limit")).height:
        summary = "Beyond its limit once, which is not an alarm yet: see the next cycle."
    else:
        summary = "All watched features are within the usual range of the training."
    return (
        f"{summary} The population stability index (PSI) measures how much a cycle differs from the training; "
        "the limit reflects how much cycles of the training differ from each other."
    )


def _course(drift: pl.DataFrame, latest: pl.DataFrame) -> list[Block]:
    features = latest.filter(pl.col("limit").is_not_null())["feature"].head(DRAWN).to_list()
    if not features:
        return []
    times = drift[AS_OF].unique().sort().tail(CYCLES)
    recent = drift.filter(pl.col(AS_OF).is_in(times.implode()), pl.col("limit") > 0).sort(AS_OF)
    data = []
    for name, colour in zip(features, _COLOURS, strict=False):
        lines = recent.filter(feature=name)
        trace = line(name, lines[AS_OF], lines["psi"] / lines["limit"], colour, width=2)
        data.append(trace | {"mode": "lines+markers", "hovertemplate": "%{x}: %{y:.2f}<extra></extra>"})
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1}
    layout = {
        "height": 300,
        "showlegend": False,
        "xaxis": {"type": "date"},
        "yaxis": axis("PSI over its limit", rangemode="tozero"),
        "shapes": [limit | {"line": {"color": page.ALERT, "width": 1, "dash": "4px,3px"}}],
    }
    note = f"The features that moved furthest. Above 1 twice in a row is an alarm; above {Rule.far:g}, once is enough."
    return [Chart({"data": data, "layout": layout}, note)]
