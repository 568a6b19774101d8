"""Plots of a run's metrics for MLflow."""

import polars as pl

_MOST_VALUES = 100


def plots(metrics: pl.DataFrame) -> dict[str, str]:
    """A page per slice of the long table `slice, value_of_slice, metric, value`, and the table itself as CSV.

    A slice by `step` is drawn as a line, any other as a bar for each of its values; a slice with one value, or more
    than 100, has no page. The first metric is visible; a click on a name shows another. Pages load plotly from its
    public address, as MLflow's own pages do.
    """
    pages = {"metrics.csv": metrics.write_csv()}
    for (name,), rows in metrics.group_by("slice", maintain_order=True):
        if 1 < rows["value_of_slice"].n_unique() <= _MOST_VALUES:
            pages[f"plots/by_{name}.html"] = _page(str(name), rows)
    return pages


def _page(name: str, rows: pl.DataFrame) -> str:
    from plotly.io import to_html

    kind, dtype = ("scatter", pl.Int64) if name == "step" else ("bar", pl.String)
    traces = [
        {
            "type": kind,
            "name": metric,
            "x": part["value_of_slice"].cast(dtype).to_list(),
            "y": part["value"].to_list(),
            "visible": True if number == 0 else "legendonly",
        }
        for number, ((metric,), part) in enumerate(rows.group_by("metric", maintain_order=True))
    ]
    layout = {"xaxis": {"title": {"text": name.replace("_", " ")}}, "showlegend": True}
    return str(to_html({"data": traces, "layout": layout}, include_plotlyjs="cdn", validate=False))
