"""The page of a sales run: key figures, any series, the total, and its accuracy."""

import re
from datetime import timedelta

import numpy as np
import polars as pl

from models.page import blocks as page
from models.page.blocks import Band, Block, Explorer, Figures, Grid, Line, Mark, Section, Text, Track
from models.page.charts import area, chart, line
from models.sales import accuracy
from models.sales.contribution_blocks import contribution_blocks
from models.sales.totals import TOTAL
from models.scenario import RunView

KEY = ("sku", "store")
TOTALS = {"level": pl.String, "as_of": pl.Date, "weeks": pl.Int32, "week": pl.Date}
EXPLORER_KEYS = 120_000
"""Maximum number of keys in the explorer: those with the largest forecasts."""
EXPLORER_WEEKS = 10_500_000
"""Approximate number of history weeks of all keys in the explorer together; each key has between 52 and 208."""
TOTAL_WEEKS = 104
RECENT_WEEKS = 52
CHANGES = 25
FALLBACKS = 200


def sections(run: RunView) -> list[Section]:
    """Key figures, explorer, contributions, total demand, accuracy, fallbacks and changes, if there is data for them.

    Columns of `run.published` with names such as `q5` and `q97.5` are quantiles.
    """
    view = _View(run)
    return [
        Section("This forecast", _summary(view)),
        Section("Any SKU and store", _explorer(view)),
        Section("What moves the forecasts", contribution_blocks(view.run.explanations)),
        Section("Total demand", _total(view)),
        Section("Accuracy in the backtest", accuracy.accuracy_blocks(run.metrics)),
        Section("Fallbacks", _fallbacks(view)),
        Section("Changes since the last forecast", _changes(view)),
    ]


class _View:
    """The run, with frames that several sections need."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.as_of = run.as_of
        self.quantiles = quantile_columns(run.published_rows.collect_schema().names())
        self.median = min(self.quantiles, key=lambda name: abs(self.quantiles[name] - 50))
        self.history = run.tables["history"].filter(pl.col("week") <= self.as_of)
        weeks = run.published_rows.select(
            pl.col("week").min().alias("first"), pl.col("week").max().alias("last"), pl.len().alias("rows")
        )
        self.weeks = weeks.collect(engine="streaming").row(0, named=True)
        totals = run.derived_tables.get("totals", pl.LazyFrame(schema=TOTALS))
        of_all = (pl.col("level") == TOTAL) & (pl.col("as_of") == self.as_of)
        self.totals = totals.filter(of_all).sort("weeks", "week").collect()
        """The totals of all keys, for single weeks and several; empty if none were published."""
        self.status = dict(run.keys.group_by("status").len().collect().iter_rows())

    def count(self, *statuses: str) -> int:
        """Keys with one of the statuses; all keys if none is given."""
        return sum(n for status, n in self.status.items() if not statuses or status in statuses)

    @property
    def bands(self) -> list[Band]:
        """Pairs of mirrored quantiles, outermost first."""
        pairs = [(name, q) for name, q in self.quantiles.items() if q < 50]
        mirrors = {q: name for name, q in self.quantiles.items()}
        return [
            Band(name, mirrors[round(100 - q, 6)], f"{q:g}–{100 - q:g}%")
            for name, q in sorted(pairs, key=lambda pair: pair[1])
            if round(100 - q, 6) in mirrors
        ]


def quantile_columns(names: list[str]) -> dict[str, float]:
    """The quantile columns among `names` and their percentages, in rising order.

    >>> quantile_columns(["sku", "q50", "q5", "quality", "q97.5"])
    {'q5': 5.0, 'q50': 50.0, 'q97.5': 97.5}
    """
    percentages = {name: float(name[1:]) for name in names if re.fullmatch(r"q\d+(\.\d+)?", name)}
    return dict(sorted(percentages.items(), key=lambda item: item[1]))


def _summary(view: _View) -> list[Block]:
    run, weeks = view.run, view.weeks
    if not weeks["rows"]:
        return [Text(f"No row was published; {view.count():,} SKU-store pairs were requested.")]
    horizon = (weeks["last"] - weeks["first"]).days // 7 + 1
    units = run.published_rows.select(pl.col(view.median).sum()).collect(engine="streaming").item()
    recent = view.history.filter(pl.col("week") > view.as_of - timedelta(weeks=horizon))
    recent_units = recent.select(pl.col("units").sum()).collect(engine="streaming").item()
    whole = view.totals.filter(pl.col("weeks") == horizon)
    if whole.height:
        units = whole["expected"].item()
    figures = {
        "SKU-store pairs": f"{view.count():,}",
        ("Expected" if whole.height else "Sum of median forecasts") + ", units": page.compact(units),
        f"Against the last {horizon} weeks": f"{units / recent_units - 1:+.1%}" if recent_units else "–",
        "Answered by a fallback": share(view.count("fallback"), view.count()),
    }
    if view.count("skipped", "failed"):
        figures["Skipped or failed"] = share(view.count("skipped", "failed"), view.count())
    if whole.height and view.bands:
        band = view.bands[0]
        figures[f"{band.label} band of it"] = (
            f"{page.compact(whole[band.low].item())} – {page.compact(whole[band.high].item())}"
        )
    figures |= accuracy.figures(run.metrics)
    text = (
        f"Sales are known up to the week of **{view.as_of}**. The forecast is for {horizon} weeks, "
        f"**{weeks['first']}** to **{weeks['last']}**."
    )
    return [Figures(figures), Text(text)]


def _explorer(view: _View) -> list[Block]:
    if not view.weeks["rows"]:
        return []
    run, key = view.run, list(KEY)
    size = run.published_rows.group_by(key).agg(pl.col(view.median).sum().alias("size"))
    sizes = size.sort("size", *key, descending=[True, False, False]).collect(engine="streaming")
    weeks = max(52, min(208, EXPLORER_WEEKS // max(1, sizes.height)))
    history = view.history.filter(pl.col("week") > view.as_of - timedelta(weeks=weeks))
    rows, about = run.published_rows, run.keys
    is_limited = sizes.height > EXPLORER_KEYS
    if is_limited:
        largest = sizes.head(EXPLORER_KEYS).select(key).lazy()
        history, rows, about = (f.join(largest, on=key, how="semi") for f in (history, rows, about))
    forecasts = _with_plan(rows, run.tables.get("plan"))
    median = Line(view.median, "Median forecast" if view.median == "q50" else view.median)
    forecast = Track(forecasts, expected=median, bands=view.bands, marks=_deals(forecasts))
    explorer = Explorer(
        {"sku": "SKU", "store": "Store"},
        "week",
        [Track(history, Line("units", "Sold"), marks=_deals(history)), forecast],
        unit="Units per week",
        start=dict(zip(KEY, sizes.row(0), strict=False)),
        about=_about(about),
        recent=RECENT_WEEKS + run.options.get("horizon", 13),
        caption=_explorer_caption(weeks, is_limited),
    )
    return [explorer]


def _with_plan(rows: pl.LazyFrame, plan: pl.LazyFrame | None) -> pl.LazyFrame:
    """The published rows with the plan's deals, if there is such a column."""
    if plan is None or "deal" not in plan.collect_schema():
        return rows
    return rows.join(plan.select(*KEY, "week", "deal"), on=[*KEY, "week"], how="left")


def _deals(frame: pl.LazyFrame) -> list[Mark]:
    return [Mark("deal", "On deal")] if "deal" in frame.collect_schema() else []


def _about(keys: pl.LazyFrame) -> pl.LazyFrame:
    """The explorer's facts about a key: status, estimator and reason."""
    return keys.select(
        *KEY,
        pl.col("status").str.to_titlecase().alias("Outcome"),
        pl.col("rung").str.replace_all("_", " ").alias("Estimator"),
        pl.col("reason").alias("Reason"),
    )


def _explorer_caption(weeks: int, is_limited: bool) -> str:
    keys = f" The {EXPLORER_KEYS:,} pairs with the largest forecasts are shown." if is_limited else ""
    return (
        f"Up to {weeks} weeks of history.{keys} Missing weeks are gaps in the line. "
        "Values are rounded to a small fraction of each series’ range; the published table has the exact values."
    )


def _total(view: _View) -> list[Block]:
    if not view.weeks["rows"]:
        return []
    since = view.as_of - timedelta(weeks=TOTAL_WEEKS)
    sales = _weekly(view.history.filter(pl.col("week") > since), ["units"])
    data = [line("Sold", sales["week"], sales["units"], page.INK)]
    caption = "Units per week over all SKU-store pairs: sold, and "
    ahead = view.totals.filter(pl.col("weeks") == 1)
    if ahead.height:
        colours = (page.OUTER, *[page.INNER] * len(view.bands))
        areas = [
            area(f"{band.label} of the total", ahead["week"], ahead[band.low], ahead[band.high], colour)
            for band, colour in zip(view.bands, colours, strict=False)
        ]
        median = line("Median of the total", ahead["week"], ahead[view.median], page.MEDIAN, "5px,3px")
        return [
            chart([*areas, *data, median], caption + "the forecast of the total.", "Units per week"),
            _totals(view),
        ]
    ahead = _weekly(view.run.published_rows, [view.median])
    data.append(line("Sum of medians", ahead["week"], ahead[view.median], page.MEDIAN, "5px,3px"))
    note = (
        "If demand is skewed, a sum of medians lies below the expected total. There is no band: quantiles do not "
        "add up, and this run published no totals. "
    )
    return [
        chart(data, caption + "the sum of the median forecasts.", "Units per week"),
        Text(note + _total_error(view)),
    ]


def _totals(view: _View) -> Text:
    """An explanation of the bands, and the totals of the first weeks in words."""
    sentences = [
        "The bands are those of the total: they allow for errors that SKUs and stores had in common in the backtest, "
        "and were calibrated on its sums."
    ]
    for row in view.totals.filter(pl.col("weeks") > 1).iter_rows(named=True):
        between = "".join(
            f"; {band.label} band {row[band.low]:,.0f} to {row[band.high]:,.0f}" for band in view.bands[:1]
        )
        sentences.append(
            f"Over the first {row['weeks']} weeks **{row['expected']:,.0f}** units are expected{between}."
        )
    return Text(
        " ".join(sentences) + " Totals by store, SKU and other levels are in the table `sales/totals`."
    )


def _weekly(frame: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    return frame.group_by("week").agg(pl.col(columns).sum()).sort("week").collect(engine="streaming")


def _total_error(view: _View) -> str:
    """How far the backtest's summed medians were from the total sold."""
    totals = (
        view.run.backtest.group_by("origin", "step")
        .agg(pl.col("units").sum(), pl.col(view.median).sum().alias("forecast"))
        .filter(pl.col("units") > 0)
        .select((pl.col("forecast") / pl.col("units") - 1).alias("error"))
        .collect(engine="streaming")["error"]
    )
    if totals.len() < 8:
        return ""
    errors = totals.to_numpy()
    usual, lean = float(np.quantile(np.abs(errors), 0.9)), float(errors.mean())
    return (
        f"In the backtest, the sum of medians was within **{usual:.0%}** of the units sold in nine of ten weeks "
        f"({len(errors)} weeks at all origins and steps); its mean error was {page.number(lean, '+.1%')}."
    )


def _fallbacks(view: _View) -> list[Block]:
    other = view.run.keys.filter(pl.col("status") != "scored")
    if not view.count("fallback", "skipped", "failed"):
        return [Text(f"None: all {view.count():,} SKU-store pairs were scored.")]
    pattern = pl.col("reason").str.replace_all(r"\d+", "n").fill_null("not said")
    groups = (
        other.group_by(
            pl.col("status").str.to_titlecase().alias("Outcome"),
            pl.col("rung").fill_null("–").str.replace_all("_", " ").alias("Estimator"),
            pattern.alias("Reason"),
        )
        .agg(pl.len().alias("Pairs"))
        .with_columns((pl.col("Pairs") / view.count()).alias("Share"))
        .sort("Pairs", "Outcome", "Estimator", "Reason", descending=[True, False, False, False])
        .collect()
    )
    rows = (
        other.sort((pl.col("status") == "fallback"), *KEY)
        .select(
            pl.col("sku").alias("SKU"),
            pl.col("store").alias("Store"),
            pl.col("status").str.to_titlecase().alias("Outcome"),
            pl.col("rung").str.replace_all("_", " ").alias("Estimator"),
            pl.col("reason").alias("Reason"),
        )
        .collect()
    )
    counts = ", ".join(f"{n:,} {s}" for s in ("fallback", "skipped", "failed") if (n := view.count(s)))
    return [
        Text(f"Of {view.count():,} SKU-store pairs: {view.count('scored'):,} scored, {counts}."),
        Grid(
            groups, "Why, by estimator and reason (n stands for a number)", limit=30, formats={"Share": ".1%"}
        ),
        Grid(
            rows, "The pairs; open one in the explorer", limit=FALLBACKS, key={"sku": "SKU", "store": "Store"}
        ),
    ]


def _changes(view: _View) -> list[Block]:
    previous = view.run.previous
    if previous is None:
        return []
    key, median = list(KEY), pl.col(view.median)
    now = view.run.published_rows.select(*key, "week", median.alias("now"))
    before = previous.select(*key, "week", median.alias("before"), "as_of")
    pairs = (
        now.join(before, on=[*key, "week"])
        .group_by(key)
        .agg(pl.col("now", "before").sum(), pl.len().alias("weeks"), pl.col("as_of").max())
        .with_columns((pl.col("now") - pl.col("before")).alias("change"))
        .collect(engine="streaming")
    )
    if not pairs.height:
        return [Text("This forecast has no SKU, store and week in common with the last one.")]
    total, old = float(pairs["now"].sum()), float(pairs["before"].sum())
    relative = f" ({page.number(total / old - 1, '+.1%')})" if old else ""
    text = (
        f"Compared with the forecast as of **{pairs['as_of'].to_list()[0]}**, over the {pairs['weeks'].max()!s} weeks that "
        f"both cover and {pairs.height:,} pairs: **{page.number(total - old, '+,.0f')} units**{relative}, by medians."
    )
    return [Text(text), _change_grid(pairs, up=True), _change_grid(pairs, up=False)]


def _change_grid(pairs: pl.DataFrame, *, up: bool) -> Grid:
    change = pl.col("change")
    rows = pairs.filter(change > 0 if up else change < 0).sort("change", *KEY, descending=[up, False, False])
    frame = rows.head(CHANGES).select(
        pl.col("sku").alias("SKU"),
        pl.col("store").alias("Store"),
        pl.col("before").alias("Before, units"),
        pl.col("now").alias("Now, units"),
        change.alias("Change, units"),
        pl.when(pl.col("before") > 0).then(change / pl.col("before")).alias("Change"),
    )
    return Grid(
        frame,
        "Largest increases" if up else "Largest decreases",
        formats={"Change, units": "+,.0f", "Change": "+.0%", "Before, units": ",.0f", "Now, units": ",.0f"},
        key={"sku": "SKU", "store": "Store"},
    )


def share(part: int, whole: int) -> str:
    """A count and its percentage of the whole.

    >>> share(41, 913), share(0, 0)
    ('41 (4.5%)', '0')
    """
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"
