"""Attributes of SKUs: numbers are features; text, such as a product group, names SKUs that share their season.

The attribute `end` is the last day on which a SKU is sold: weeks that begin after it are forecast as zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.sales.panel import END, Panel, covariate_columns, panel_of
from models.sales.promotions import Promotions, promotions
from models.sales.seasons import YEAR
from models.sales.successors import PREDECESSOR
from models.scenario import Frames

LEAST_SKUS = 2
"""SKUs per value of an attribute, on average; with fewer, the attribute identifies SKUs and forms no groups."""
ENDED = "ended"
"""The rung of weeks after the end of a SKU."""
UNSOLD_WEEKS = 10
"""A SKU without sales for this many weeks seems to have ended."""
_NO_GROUPS = ("sku", END, PREDECESSOR)
NAMED = 5
"""SKUs, at most, that a note names."""


def frames_of(tables: Frames, sku_weeks: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The frames of attributes that every shard needs; none without the table `skus`.

    `skus`: sku and its attributes. `group_weeks`: attribute, value, week and the units of all SKUs with that value, from
    the `sku_weeks` of `neighbours.shared_frames`.
    """
    if "skus" not in tables:
        return {}
    skus = tables["skus"].sort("sku").collect()
    units = pl.col("units") * pl.col("keys")
    weeks = []
    for name in _texts(skus):
        rows = sku_weeks.join(skus.select("sku", value=name).drop_nulls(), on="sku")
        sums = rows.drop_nulls("units").group_by("value", "week").agg(units.sum())
        weeks.append(
            sums.sort("value", "week").select(pl.lit(name).alias("attribute"), "value", "week", "units")
        )
    empty = pl.DataFrame(
        schema={"attribute": pl.String, "value": pl.String, "week": pl.Date, "units": pl.Float64}
    )
    return {"skus": skus, "group_weeks": pl.concat([empty, *weeks])}


def _texts(skus: pl.DataFrame) -> list[str]:
    """Attributes by which SKUs are pooled."""
    texts = [name for name, kind in skus.schema.items() if kind == pl.String and name not in _NO_GROUPS]
    return [
        name for name in texts if 0 < LEAST_SKUS * skus[name].drop_nulls().n_unique() <= skus[name].count()
    ]


@dataclass(frozen=True)
class Group:
    """Sales of the values of an attribute, all SKUs together, and the index of each key's value; -1 for none."""

    panel: Panel
    promotions: Promotions
    of_key: np.ndarray

    def by_key(self, values: np.ndarray) -> np.ndarray:
        """The element of `values` (one per value of the attribute) that belongs to each key; NaN for none."""
        return np.append(values, np.nan)[self.of_key]


def groups(panel: Panel, context: Mapping[str, pl.DataFrame]) -> dict[str, Group]:
    """The groups of the panel's keys, by attribute."""
    by_attribute = {}
    for name in context["group_weeks"]["attribute"].unique().sort() if "skus" in context else ():
        own = panel.keys.join(
            context["skus"].select("sku", value=name), on="sku", how="left", maintain_order="left"
        )
        values = own.select(pl.col("value").drop_nulls().unique().sort())
        rows = context["group_weeks"].filter(attribute=name).lazy()
        weeks = panel_of(rows, values, (), panel.first_week, panel.week(panel.last), 0)
        at = own.join(values.with_row_index("_at"), on="value", how="left", maintain_order="left")["_at"]
        by_attribute[name] = Group(weeks, promotions(weeks, ()), at.cast(pl.Int64).fill_null(-1).to_numpy())
    return by_attribute


def numbers(panel: Panel, context: Mapping[str, pl.DataFrame]) -> dict[str, np.ndarray]:
    """Numeric attributes of each key's SKU, by `of_sku_<name>`."""
    if "skus" not in context:
        return {}
    own = panel.keys.join(context["skus"], on="sku", how="left", maintain_order="left")
    return {
        f"of_sku_{name}": own[name].to_numpy().astype(float)
        for name in covariate_columns(context["skus"].schema)
    }


def without_ended(rows: pl.DataFrame, tables: Frames, columns: Sequence[str]) -> pl.DataFrame:
    """`rows` with zero as the quantiles `columns`, and the rung `ended`, in weeks that begin after the end of a SKU."""
    ends = _ends(tables).collect()
    if ends.is_empty():
        return rows
    over = (pl.col("week") > pl.col(END)).fill_null(value=False)
    zero = [pl.when(over).then(0.0).otherwise(name).alias(name) for name in columns]
    rung = pl.when(over).then(pl.lit(ENDED)).otherwise("rung").alias("rung")
    return rows.join(ends, on="sku", how="left", maintain_order="left").with_columns(*zero, rung).drop(END)


def unsold(tables: Frames, as_of: date) -> list[str]:
    """A note on SKUs that sold nothing in any store in the `UNSOLD_WEEKS` up to `as_of` and have no end."""
    week, has_sales = pl.col("week"), pl.col("units") > 0
    year = tables["history"].filter(week > as_of - timedelta(weeks=YEAR), week <= as_of, has_sales)
    last = year.group_by("sku").agg(week.max()).filter(week <= as_of - timedelta(weeks=UNSOLD_WEEKS))
    last = last.join(_ends(tables), on="sku", how="anti")
    if "plan" in tables:
        last = last.join(tables["plan"].filter(week > as_of), on="sku", how="anti")
    skus = last.sort("sku").collect()["sku"]
    if skus.is_empty():
        return []
    more = f" and {len(skus) - NAMED:,} more" if len(skus) > NAMED else ""
    return [
        f"Not sold in any store for {UNSOLD_WEEKS} weeks or more, but still forecast as if they were on sale: SKUs "
        f"{', '.join(skus.head(NAMED))}{more}. If one has ended, give its last day in a column `end` of the table of "
        "SKUs: sales ingest --skus."
    ]


def _ends(tables: Frames) -> pl.LazyFrame:
    """sku and end, as a date, of the SKUs that have one."""
    skus = tables.get("skus", pl.LazyFrame(schema={"sku": pl.String}))
    if END not in skus.collect_schema():
        return pl.LazyFrame(schema={"sku": pl.String, END: pl.Date})
    return skus.select("sku", pl.col(END).str.to_date("%Y-%m-%d", strict=False)).drop_nulls()
