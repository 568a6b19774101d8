"""SKUs that replace another SKU: before their own first week, they use the history of their predecessor.

The attribute `predecessor` of a SKU names it. A SKU inherits only from its predecessor, not from earlier ones.
"""

from datetime import date, timedelta

import polars as pl

from models.sales.neighbours import HISTORY_WEEKS
from models.sales.panel import END, KEY
from models.scenario import Context, Frames

PREDECESSOR = "predecessor"
"""The attribute that names the SKU that it replaces."""
RECENT_WEEKS = 52
"""A predecessor without sales in this many weeks counts as no longer sold."""


def inherited(tables: Frames, as_of: date) -> dict[str, pl.DataFrame]:
    """The frame `inherited`, if there are predecessors: their rows of the history up to `as_of` before the successor's
    first week in the store, with the successor as `sku` and the predecessor as `predecessor`.
    """
    pairs = _pairs(tables)
    if pairs.is_empty():
        return {}
    past = tables["history"].filter(
        pl.col("week").is_between(as_of - timedelta(weeks=HISTORY_WEEKS - 1), as_of)
    )
    first = tables["history"].group_by(KEY).agg(pl.col("week").min().alias("first"))
    rows = (
        past.rename({"sku": PREDECESSOR})
        .join(pairs.lazy(), on=PREDECESSOR, how="inner")
        .join(first, on=KEY, how="left")
        .filter((pl.col("week") < pl.col("first")).fill_null(value=True))
    )
    names = tables["history"].collect_schema().names()
    return {"inherited": rows.select(*names, PREDECESSOR).sort(*KEY, "week").collect()}


def with_inherited(tables: Frames, context: Context) -> Frames:
    """The tables, complete or of a shard, with the weeks that their SKUs have inherited."""
    if "inherited" not in context or context["inherited"].is_empty():
        return tables
    there = pl.concat([tables[name].select("sku") for name in ("history", "plan") if name in tables]).unique()
    rows = context["inherited"].lazy().drop(PREDECESSOR).join(there, on="sku", how="semi")
    return {**tables, "history": pl.concat([tables["history"], rows], how="diagonal")}


def beginnings(context: Context) -> pl.DataFrame:
    """sku, store and the text `begins`, which names the SKU whose history a key begins with."""
    if "inherited" not in context:
        return pl.DataFrame(schema=dict.fromkeys((*KEY, "begins"), pl.String))
    until = pl.col("week").max().alias("until")
    weeks = context["inherited"].group_by(*KEY, PREDECESSOR).agg(until)
    return weeks.select(
        *KEY, begins=pl.format("begins with the history of {} up to {}", PREDECESSOR, "until")
    )


def notes(tables: Frames, as_of: date) -> list[str]:
    """Notes on predecessors that are no longer sold, and on those without an end, which are still forecast."""
    pairs = _pairs(tables)
    if pairs.is_empty():
        return []
    weeks = tables["history"].filter(pl.col("week").is_between(as_of - timedelta(weeks=RECENT_WEEKS), as_of))
    recent = weeks.select("sku").unique().collect()["sku"]
    lines = []
    for sku, predecessor, end in pairs.iter_rows():
        if predecessor not in recent:
            lines.append(
                f"SKU {sku} has the predecessor {predecessor}, which was not sold in the last {RECENT_WEEKS} weeks."
            )
        elif end is None:
            lines.append(
                f"SKU {sku} begins with the history of its predecessor {predecessor}, which is also forecast. If "
                f"{predecessor} ends, add its last day in a column `end` of the table of SKUs."
            )
    return lines


def _pairs(tables: Frames) -> pl.DataFrame:
    """sku, predecessor, and the predecessor's end, null if it has none; sorted by SKU."""
    if "skus" not in tables or PREDECESSOR not in (schema := tables["skus"].collect_schema()):
        return pl.DataFrame(schema=dict.fromkeys(("sku", PREDECESSOR, END), pl.String))
    end = pl.col(END) if END in schema else pl.lit(None, pl.String)
    ends = tables["skus"].select(pl.col("sku").alias(PREDECESSOR), end.alias(END))
    pairs = (
        tables["skus"].select("sku", PREDECESSOR).drop_nulls().filter(pl.col("sku") != pl.col(PREDECESSOR))
    )
    return pairs.join(ends, on=PREDECESSOR, how="left").sort("sku").collect()
