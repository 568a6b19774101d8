"""The backtest of a bundle, as the page of a sales run shows it."""

import re
from typing import Any

import polars as pl

from models.page import blocks as page
from models.page.blocks import Block, Chart, Grid, Text
from models.page.charts import chart, line

BASELINES = {"naive": "Naive (last week)", "seasonal_naive": "Seasonal naive (last year)"}


def figures(metrics: pl.DataFrame) -> dict[str, str]:
    """Key figures of the backtest as text; empty without a backtest."""
    overall = _measures(metrics, "all")
    wape = {"WAPE in the backtest": f"{overall['wape'][0]:.1%}"} if "wape" in overall.columns else {}
    coverages = {
        f"{label} band held": f"{overall[name][0]:.1%}" for name, label in _coverages(overall).items()
    }
    return wape | coverages


def accuracy_blocks(metrics: pl.DataFrame) -> list[Block]:
    """The backtest in words, by step, and by kind of demand, estimator and origin; a sentence if there is none."""
    overall = _measures(metrics, "all")
    if not overall.height:
        return []
    if "pinball" not in overall.columns:
        return [
            Text(
                "The history is too short, or has too few sales, for a backtest: there is no measure of accuracy."
            )
        ]
    blocks: list[Block] = [Text(_verdict(overall))]
    steps = (
        _measures(metrics, "step")
        .with_columns(pl.col("value_of_slice").cast(pl.Float64))
        .sort("value_of_slice")
    )
    if steps.height and "pinball" in steps.columns:
        blocks += [_loss_by_step(steps), _coverage_by_step(steps)]
    heads = {"kind": "Kind of demand", "rung": "Estimator", "origin": "Origin"}
    captions = {"kind": "By kind of demand", "rung": "By estimator", "origin": "By origin of the backtest"}
    for name, head in heads.items():
        rows = _measures(metrics, name)
        if rows.height > 1:
            blocks.append(_measure_grid(pl.concat([rows, overall], how="diagonal"), head, captions[name]))
    return blocks


def _verdict(overall: pl.DataFrame) -> str:
    row = overall.row(0, named=True)
    comparisons = [
        _against(1 - row["pinball"] / row[f"pinball_{name}"], label.split(" (")[0].lower())
        for name, label in BASELINES.items()
        if row.get(f"pinball_{name}")
    ]
    against = f" That is {' and '.join(comparisons)}." if comparisons else ""
    return (
        f"On rolling origins that the models had not seen, the pinball loss is **{row['pinball']:.3f}** "
        f"(mean over the quantiles, per unit sold; lower is better).{against} "
        f"{_wapes(row)}A 90% band should contain nine of ten weeks."
    )


def _wapes(row: dict[str, Any]) -> str:
    """A sentence that compares the WAPE of the medians with those of the naive forecasts; empty if they are unknown."""
    wapes = [
        f"{label.split(' (')[0].lower()} {row[f'wape_{name}']:.1%}"
        for name, label in BASELINES.items()
        if row.get(f"wape_{name}") is not None
    ]
    return f"The WAPE of the medians is {row['wape']:.1%}; of {', of '.join(wapes)}. " if wapes else ""


def _against(gain: float, naive: str) -> str:
    """How much better or worse than a naive forecast, in words; `gain` is the share by which the loss is lower."""
    if gain < 0:
        return f"{-gain:.0%} above {naive}, which is better"
    return f"{gain:.0%} below {naive}"


def _loss_by_step(steps: pl.DataFrame) -> Chart:
    x = steps["value_of_slice"]
    data = [line("This bundle", x, steps["pinball"], page.ACCENT)]
    colours = {"naive": page.MUTED, "seasonal_naive": page.SECOND}
    for name, label in BASELINES.items():
        if f"pinball_{name}" in steps.columns:
            data.append(line(label, x, steps[f"pinball_{name}"], colours[name]))
    return chart(
        data, "Pinball loss by step; lower is better.", "Pinball loss per unit sold", _steps_axis(zero=True)
    )


def _coverage_by_step(steps: pl.DataFrame) -> Chart:
    x, data = steps["value_of_slice"], []
    colours = [page.ACCENT, page.SECOND, page.THIRD]
    for i, (name, label) in enumerate(_coverages(steps).items()):
        colour, nominal = colours[i % 3], int(name.removeprefix("coverage_")) / 100
        data.append(line(f"{label} band", x, steps[name], colour))
        promise = line(f"promised {label}", x, [nominal] * len(x), colour, "2px,3px")
        data.append(promise | {"showlegend": False, "hoverinfo": "skip"})
    layout = _steps_axis(zero=False)
    layout["yaxis"] = {"range": [0, 1.02], "tickformat": ".0%"}
    return chart(
        data,
        "Share of weeks inside the band, by step; the dotted line is the nominal share.",
        "Weeks inside the band",
        layout,
    )


def _steps_axis(*, zero: bool) -> dict[str, Any]:
    x_axis = {"title": {"text": "Weeks ahead"}, "dtick": 1, "type": "linear"}
    return {"xaxis": x_axis, "yaxis": {"rangemode": "tozero"} if zero else {}}


def _measure_grid(rows: pl.DataFrame, head: str, caption: str) -> Grid:
    labels = {"rows": "Weeks", "units": "Units", "pinball": "Pinball"}
    labels |= {f"pinball_{name}": label.split(" (")[0] for name, label in BASELINES.items()}
    labels |= {"wape": "WAPE", "bias": "Bias"} | {
        name: f"In {label} band" for name, label in _coverages(rows).items()
    }
    columns = {name: label for name, label in labels.items() if name in rows.columns}
    frame = rows.select(
        pl.col("value_of_slice").replace("all", "All").str.replace_all("_", " ").alias(head),
        *[pl.col(name).alias(label) for name, label in columns.items()],
    )
    whole = {labels[name]: ",.0f" for name in ("rows", "units")}
    loss = {label: ".3f" for name, label in labels.items() if name.startswith("pinball")}
    ratios = {label: ".1%" for label in frame.columns if label == "WAPE" or label.startswith("In ")}
    return Grid(frame, caption, formats=whole | loss | ratios | {"Bias": "+.1%"})


def _measures(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The metrics of a slice, one column per metric and one row per value; empty if there are none."""
    if not table.height:
        return pl.DataFrame({"value_of_slice": []})
    rows = table.filter((pl.col("slice") == name) & pl.col("value").is_finite())
    return rows.pivot("metric", index="value_of_slice", values="value", aggregate_function="first")


def _coverages(table: pl.DataFrame) -> dict[str, str]:
    """Coverage columns -> the names of their bands, widest band first."""
    columns = [name for name in table.columns if re.fullmatch(r"coverage_\d+", name)]
    return {name: f"{name.removeprefix('coverage_')}%" for name in sorted(columns, reverse=True)}
