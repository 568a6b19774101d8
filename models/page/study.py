"""The page of a study: whether it found better hyperparameters, which choices mattered, and every trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import polars as pl

from models.page import blocks as page
from models.page.blocks import Block, Chart, Figures, Grid, Section, Text
from models.page.charts import axis, bars, dots, line

_SLICES = 4
_TRIALS = 20


@dataclass(frozen=True)
class StudyView:
    """The result of a study.

    `trials` has number, state (complete, pruned or failed), loss, folds, seconds, reason and one text column
    per choice, empty if the choice did not apply. `folds` names the folds; the last one judges the winner. `before`
    and `after` are the losses of the incumbent and the winner at each fold, empty without a winner.
    `choices` has one row per choice: choice, before, after, importance (null where unknown).
    """

    trials: pl.DataFrame
    folds: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    choices: pl.DataFrame
    reason: str
    logarithmic: Sequence[str] = ()
    """Choices on a logarithmic scale."""


def sections(view: StudyView) -> list[Section]:
    """The sections of the page, the verdict first."""
    return [
        Section("Result", _verdict(view)),
        Section("Which choices mattered", _choices(view)),
        Section("Trials", [_history(view), _best(view)]),
    ]


def _verdict(view: StudyView) -> list[Block]:
    states = view.trials["state"].to_list()
    figures = {
        "Trials complete": f"{states.count('complete'):,}",
        "Given up early": f"{states.count('pruned'):,}",
    }
    if states.count("failed"):
        figures["Failed"] = f"{states.count('failed'):,}"
    if not view.after:
        return [Text(view.reason), Figures(figures)]
    search_folds = slice(0, -1)
    losses = {
        "Loss before": fmean(view.before[search_folds]),
        "Loss after": fmean(view.after[search_folds]),
        "Unseen before": view.before[-1],
        "Unseen after": view.after[-1],
    }
    figures = {name: f"{loss:.4f}" for name, loss in losses.items()} | figures
    return [Text(view.reason), Figures(figures), _by_fold(view)]


def _by_fold(view: StudyView) -> Chart:
    names = [*view.folds[:-1], f"{view.folds[-1]} (unseen)"]
    data = [
        bars("before", names, view.before, page.MUTED),
        bars("after", names, view.after, page.ACCENT),
    ]
    layout = {"xaxis": axis("Fold", type="category"), "yaxis": axis("Loss"), "hovermode": "x"}
    caption = (
        "The loss by which bundles are compared, fold by fold. The last fold took no part in the search."
    )
    return Chart({"data": data, "layout": layout}, caption)


def _choices(view: StudyView) -> list[Block]:
    blocks: list[Block] = []
    ranking = view.choices.drop_nulls("importance").sort("importance", descending=True)
    if ranking.is_empty():
        blocks.append(Text("There are too few complete trials to tell."))
    else:
        blocks.append(_importance(ranking))
        blocks += [_slice(view, name) for name in ranking["choice"].head(_SLICES)]
    table = view.choices.rename({"choice": "Choice", "before": "Before", "after": "After"})
    table = table.rename({"importance": "Importance"}).sort("Importance", descending=True, nulls_last=True)
    blocks.append(Grid(table, formats={"Importance": ".1%"}))
    return blocks


def _importance(ranking: pl.DataFrame) -> Chart:
    rows = ranking.reverse()
    names = [name.replace("_", " ") for name in rows["choice"]]
    bar = bars("importance", rows["importance"], names, page.ACCENT) | {"orientation": "h"}
    title = "Share of the difference between the best and all trials"
    layout = {
        "height": 130 + 26 * rows.height,
        "xaxis": axis(title, tickformat=".0%", type="linear"),
        "yaxis": {"type": "category", "automargin": True},
    }
    caption = (
        "How much the best trials' values of a choice differ from those of all complete trials (PED-ANOVA). "
        "With few trials, this is only a rough guide."
    )
    return Chart({"data": [bar], "layout": layout}, caption)


def _slice(view: StudyView, name: str) -> Chart:
    rows = view.trials.filter(pl.col(name).is_not_null(), pl.col("state") == "complete")
    numbers = rows[name].cast(pl.Float64, strict=False)
    numeric = numbers.null_count() == 0
    kind = "category" if not numeric else "log" if name in view.logarithmic else "linear"
    values = numbers if numeric else rows[name]
    trials = dots("complete trials", values, rows["loss"], page.ACCENT, opacity=0.7)
    trials["text"] = [f"trial {number}" for number in rows["number"]]
    layout = {
        "height": 280,
        "xaxis": axis(name.replace("_", " "), type=kind),
        "yaxis": axis("Loss"),
        "hovermode": "closest",
        "showlegend": False,
    }
    return Chart({"data": [trials], "layout": layout})


def _history(view: StudyView) -> Chart:
    complete = view.trials.filter(state="complete").sort("number")
    pruned = view.trials.filter(state="pruned").sort("number")
    data = [
        dots("complete", complete["number"], complete["loss"], page.ACCENT, symbol="circle"),
        dots("given up early", pruned["number"], pruned["loss"], page.MUTED, symbol="x"),
        line("best so far", complete["number"], complete["loss"].cum_min(), page.INK, shape="hv"),
    ]
    layout = {"xaxis": axis("Trial", type="linear"), "yaxis": axis("Loss"), "hovermode": "closest"}
    caption = (
        "The mean loss over the folds that a trial reached; if it was given up early, over its first folds."
    )
    return Chart({"data": data, "layout": layout}, caption)


def _best(view: StudyView) -> Grid:
    order = {"complete": 0, "pruned": 1, "failed": 2}
    rows = view.trials.with_columns(
        pl.col("state").replace_strict(order, return_dtype=pl.Int8).alias("_order")
    )
    rows = rows.sort("_order", "loss", "number", nulls_last=True).drop("_order")
    rows = rows.select(column for column in rows if column.null_count() < len(column))
    rows = rows.select(pl.all().name.map(lambda name: name.replace("_", " ").capitalize()))
    return Grid(rows.with_columns(_short(rows)), "Trials, the best first", limit=_TRIALS)


def _short(rows: pl.DataFrame) -> list[pl.Expr]:
    """Numbers in text columns, to four digits."""

    def short(text: str) -> str:
        try:
            return f"{float(text):.4g}"
        except ValueError:
            return text

    names = [name for name in rows.columns if rows[name].dtype == pl.String]
    return [pl.col(name).map_elements(short, pl.String, skip_nulls=True) for name in names]


def choices(
    names: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any], importance: Mapping[str, float]
) -> pl.DataFrame:
    """The choices of a `StudyView`, in the order of `names`; values as text, null where a choice does not apply."""

    def text_of(values: Mapping[str, Any], name: str) -> str | None:
        value = values.get(name)
        return None if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [(name, text_of(before, name), text_of(after, name), importance.get(name)) for name in names]
    types = {"choice": pl.String, "before": pl.String, "after": pl.String, "importance": pl.Float64}
    return pl.DataFrame(rows, schema=types, orient="row")
