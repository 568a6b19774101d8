"""Plots of a run's metrics for MLflow."""

import polars as pl

_MOST_VALUES = 100


def plots(metrics: pl.DataFrame) -> dict[str, str]:
    """A page per slice of the long table `slice, value_of_slice, metric, value`, and the table itself as CSV.

    A slice by `step` is a line, any other a bar for each of its values; one of a single value or of very
    many has no page. The first metric is shown, the others by a click on their name. Pages load plotly
    from its public address, as those that MLflow writes itself.
    """
    found = {"metrics.csv": metrics.write_csv()}
    for (name,), rows in metrics.group_by("slice", maintain_order=True):
        if 1 < rows["value_of_slice"].n_unique() <= _MOST_VALUES:
            found[f"plots/by_{name}.html"] = _page(str(name), rows)
    return found


def _page(name: str, rows: pl.DataFrame) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, ((metric,), part) in enumerate(rows.group_by("metric", maintain_order=True)):
        x, y = part["value_of_slice"].to_list(), part["value"].to_list()
        shown = True if number == 0 else "legendonly"
        if name == "step":
            figure.add_scatter(x=[int(step) for step in x], y=y, name=metric, visible=shown)
        else:
            figure.add_bar(x=x, y=y, name=metric, visible=shown)
    figure.update_layout(xaxis_title=name.replace("_", " "), template="plotly_white", showlegend=True)
    return str(figure.to_html(include_plotlyjs="cdn"))
