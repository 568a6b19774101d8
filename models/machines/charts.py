"""The charts of a machines page: calibration, precision and recall, importance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from models.machines.evaluation import average_precision, precision_recall, reliability
from models.page import blocks as page
from models.page.blocks import Chart
from models.page.charts import axis, bars, line

COLOURS = (page.ACCENT, page.SECOND, page.THIRD, page.MUTED)
_POINTS = 200
_FEW = 10
_FEATURES = 12


def span(hours: int) -> str:
    """A horizon as shown to readers.

    >>> span(24), span(168), span(36)
    ('24 h', '7 d', '36 h')
    """
    return f"{hours // 24} d" if hours % 24 == 0 and hours > 48 else f"{hours} h"


def calibration(backtests: Mapping[int, pl.DataFrame]) -> Chart:
    """Observed share of failures by predicted probability, per horizon; `backtests` have probability and failed."""
    diagonal = line("as promised", [0, 1], [0, 1], page.MUTED, "3px,3px", width=1)
    data: list[dict[str, Any]] = [diagonal | {"hoverinfo": "skip"}]
    for i, (hours, rows) in enumerate(backtests.items()):
        table = reliability(rows["probability"].to_numpy(), rows["failed"].to_numpy().astype(bool))
        table = table.filter(pl.col("rows") >= _FEW)
        trace = line(f"within {span(hours)}", table["probability"], table["share"], COLOURS[i % 4])
        marker = {"size": _sizes(table["rows"]), "color": COLOURS[i % 4]}
        text = [f"{n:,} rows" for n in table["rows"]]
        data.append(trace | {"mode": "lines+markers", "marker": marker, "text": text})
    axes = {
        "xaxis": axis("Predicted probability", tickformat=".0%", range=[0, 1], type="linear"),
        "yaxis": axis("Share that failed", tickformat=".0%", range=[0, 1.02]),
    }
    caption = (
        "Observed share of failures by predicted probability, in ten bins; larger dots stand for more "
        "rows, and bins with fewer than ten rows are left out. "
        "On the dotted line, both are equal."
    )
    return Chart({"data": data, "layout": {**axes, "hovermode": "closest"}}, caption)


def curves(backtests: Mapping[int, pl.DataFrame]) -> Chart:
    """Precision against recall at every threshold, per horizon, with the average precision."""
    data = []
    for i, (hours, rows) in enumerate(backtests.items()):
        p, is_failure = rows["probability"].to_numpy(), rows["failed"].to_numpy().astype(bool)
        precision, recall, threshold = precision_recall(p, is_failure)
        some = np.unique(np.linspace(0, len(recall) - 1, min(_POINTS, len(recall))).astype(int))
        name = f"within {span(hours)}, average precision {average_precision(p, is_failure):.2f}"
        trace = line(name, recall[some].tolist(), precision[some].tolist(), COLOURS[i % 4])
        data.append({**trace, "text": [f"threshold {t:.3f}" for t in threshold[some]]})
    axes = {
        "xaxis": axis("Recall", tickformat=".0%", range=[0, 1.01], type="linear"),
        "yaxis": axis("Precision", tickformat=".0%", range=[0, 1.02]),
    }
    caption = (
        "Rows of the backtest, all components together: the share of the rows above a threshold that failed "
        "(precision), and the share of failing rows that are above it (recall)."
    )
    return Chart({"data": data, "layout": {**axes, "hovermode": "closest"}}, caption)


def importance(metrics: pl.DataFrame, hours: Sequence[int]) -> Chart | None:
    """The most important features, as the mean over the components, per horizon; None if importance is unknown."""
    shares = []
    for horizon in hours:
        rows = metrics.filter(pl.col("slice").str.starts_with(f"importance_{horizon}h_"))
        models = max(rows["slice"].n_unique(), 1)
        share = rows.group_by("value_of_slice").agg((pl.col("value").sum() / models).alias("share"))
        shares.append(share.with_columns(pl.lit(horizon).alias("horizon")))
    table = pl.concat(shares) if shares else pl.DataFrame()
    if table.is_empty():
        return None
    top = (
        table.group_by("value_of_slice")
        .agg(pl.col("share").sum())
        .sort("share", "value_of_slice", descending=[True, False])
    )
    names = top["value_of_slice"].head(_FEATURES).to_list()[::-1]
    data = []
    for i, horizon in enumerate(hours):
        of = dict(table.filter(horizon=horizon).select("value_of_slice", "share").iter_rows())
        x, y = [of.get(name, 0.0) for name in names], [feature_label(name) for name in names]
        data.append(bars(f"within {span(horizon)}", x, y, COLOURS[i % 4]) | {"orientation": "h"})
    layout = {
        "height": 130 + 34 * len(names),
        "xaxis": axis("Share of the total importance", tickformat=".0%", type="linear"),
        "yaxis": {"type": "category", "automargin": True},
    }
    return Chart({"data": data, "layout": layout}, "The most important features, mean over the components")


def feature_label(feature: str) -> str:
    """The name of a feature as shown to readers.

    >>> feature_label("volt_mean_24h"), feature_label("comp1_replaced_days")
    ('volt mean 24 h', 'comp1 replaced days')
    """
    words = feature.split("_")
    if words[-1][:-1].isdigit() and words[-1].endswith("h"):
        words[-1] = f"{words[-1][:-1]} h"
    return " ".join(words)


def _sizes(rows: pl.Series) -> list[float]:
    """Diameters of dots: 5 to 18, by the logarithm of their number of rows."""
    logs = np.log10(np.maximum(rows.to_numpy(), 1))
    return (5 + 13 * logs / max(float(logs.max()), 1.0)).round(1).tolist() if len(logs) else []
