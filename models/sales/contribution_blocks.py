"""Page blocks on what moves the forecasts: tables of contributions, and a chart of one key's weeks."""

import polars as pl

from models.page import blocks as page
from models.page.blocks import Block, Grid, Text
from models.page.charts import bars, chart, line
from models.sales.explanations import GROUPS
from models.sales.panel import KEY

COLOURS = {
    "season": page.OUTER,
    "price": page.ACCENT,
    "promotion": page.SECOND,
    "other_skus": page.THIRD,
    "trend": page.ALERT,
}
"""Groups of contributions that have their own colour; all others share one."""
NOTHING = 1e-9
"""Groups that add no more than this to any week are left out."""


def contribution_blocks(lines: pl.DataFrame) -> list[Block]:
    """Contributions to the medians of the largest keys: the average week of each, and the weeks of the largest."""
    if lines.is_empty():
        return []
    groups = [name for name in GROUPS if (lines[name].fill_null(0.0).abs() > NOTHING).any()]
    parts = ["level", *groups, "median"]
    mean = lines.group_by(KEY).agg(pl.col(parts).mean(), pl.col("rung").mode().sort().first())
    mean = mean.sort("median", *KEY, descending=[True, False, False])
    grid = mean.select(
        pl.col("sku").alias("SKU"),
        pl.col("store").alias("Store"),
        *[pl.col(name).alias(in_title(name)) for name in parts],
        pl.col("rung").str.replace_all("_", " ").alias("Estimator"),
    )
    forms = {in_title(name): "+,.0f" for name in groups}
    forms |= {in_title(name): ",.0f" for name in ("level", "median")}
    text = (
        "A forecast is the **level** (the SKU's usual sales in the store in a week without promotion) plus the "
        f"contribution of each group, in units per week. Here are the {mean.height} pairs with the largest forecasts. "
        "For any other pair: `python -m flows sales explain --sku SKU --store STORE`."
    )
    first = lines.join(mean.drop_nulls("level").head(1).select(KEY), on=KEY, how="semi").sort("week")
    caption = "Means over the weeks of the forecast. Select a row to open the pair above."
    blocks: list[Block] = [
        Text(text),
        Grid(grid, caption, formats=forms, key={"sku": "SKU", "store": "Store"}),
    ]
    if first.height:
        blocks.append(_bars(first, groups))
        blocks.append(Grid(_plan_lines(first), "The plan of this pair, and what moves each week most"))
    return blocks


def _bars(lines: pl.DataFrame, groups: list[str]) -> Block:
    """The weeks of one key: the contribution of each group, and the median minus the level."""
    weeks = lines["week"]
    rest = [name for name in groups if name not in COLOURS]
    data = [
        bars(in_title(name), weeks, lines[name], colour) for name, colour in COLOURS.items() if name in groups
    ]
    if rest:
        data.append(bars("Rest", weeks, lines.select(pl.sum_horizontal(rest)).to_series(), page.MUTED))
    data.append(line("Median less level", weeks, lines["median"] - lines["level"], page.INK))
    sku, store, level = lines.select("sku", "store", "level").row(0)
    caption = f"SKU {sku} in store {store}: contributions to its level of {page.compact(level)} units, week by week."
    layout = {"barmode": "relative", "yaxis": {"rangemode": "normal"}}
    return chart(data, caption, "Units per week", layout)


def _plan_lines(lines: pl.DataFrame) -> pl.DataFrame:
    rows = lines.select(
        pl.col("week").alias("Week"), "plan", pl.col("median").alias("Median"), pl.col("reasons").alias("Why")
    )
    return rows.drop("plan") if rows["plan"].dtype == pl.Null else rows.unnest("plan")


def in_title(name: str) -> str:
    """The name of a group as a heading.

    >>> in_title("other_skus"), in_title("sku_and_store")
    ('Other SKUs', 'SKU and store')
    """
    words = name.replace("_", " ").replace("sku", "SKU")
    return words[0].upper() + words[1:]
