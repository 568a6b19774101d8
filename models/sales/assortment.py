"""Attributes of SKUs: numbers are features; text, such as a product group, names SKUs that share their season.

The attribute `end` is the last day on which a SKU is sold: weeks that begin after it are forecast as zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.sales.panel import END, Panel, covariate_columns, panel_of
from models.sales.promotions import Promotions, promotions
from models.sales.seasons import YEAR
from models.sales.successors import PREDECESSOR
from models.scenario import Context, Frames

LEAST_SKUS = 2
"""Least average number of SKUs per value of an attribute; with fewer, the attribute identifies SKUs and forms no groups."""
ENDED = "ended"
"""The rung of weeks after the end of a SKU or store."""
UNSOLD_WEEKS = 10
"""A SKU or store without sales for this many weeks seems to have ended."""
_UNSOLD = {
    "sku": "Not sold in any store for {weeks} weeks or more, but still forecast as if they were on sale: SKUs {names}. If "
    "one has ended, give its last day in a column `end` of the table of SKUs: sales ingest --skus.",
    "store": "Nothing sold for {weeks} weeks or more, but still forecast as if they were open: stores {names}. If one has "
    "closed, give its last day in a column `end` of the table of stores: sales ingest --stores.",
}
_NO_GROUPS = ("sku", END, PREDECESSOR)
NAMED = 5
"""Maximum number of SKUs that a note names."""


def frames_of(tables: Frames, sku_weeks: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The frames of attributes that every shard needs; empty without the table `skus`.

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
    """The names of the attributes by which SKUs are pooled."""
    texts = [name for name, kind in skus.schema.items() if kind == pl.String and name not in _NO_GROUPS]
    return [
        name for name in texts if 0 < LEAST_SKUS * skus[name].drop_nulls().n_unique() <= skus[name].count()
    ]


@dataclass(frozen=True)
class Group:
    """Sales by value of an attribute, of all SKUs together, and the index of each key's value; -1 for none."""

    panel: Panel
    promotions: Promotions
    of_key: np.ndarray

    def by_key(self, values: np.ndarray) -> np.ndarray:
        """The element of `values` (one per value of the attribute) that belongs to each key; NaN for none."""
        return np.append(values, np.nan)[self.of_key]


def groups(panel: Panel, context: Context) -> dict[str, Group]:
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


def numbers(panel: Panel, context: Context) -> dict[str, np.ndarray]:
    """Numeric attributes of each key's SKU, by `of_sku_<name>`."""
    if "skus" not in context:
        return {}
    own = panel.keys.join(context["skus"], on="sku", how="left", maintain_order="left")
    return {
        f"of_sku_{name}": own[name].to_numpy().astype(float)
        for name in covariate_columns(context["skus"].schema)
    }


def without_ended(rows: pl.DataFrame, tables: Frames, columns: Sequence[str]) -> pl.DataFrame:
    """`rows` with the quantiles `columns` set to zero and the rung to `ended` in weeks after the end of a SKU or store."""
    for key in _UNSOLD:
        ends = _ends(tables, key).collect()
        if ends.is_empty():
            continue
        over = (pl.col("week") > pl.col(END)).fill_null(value=False)
        zero = [pl.when(over).then(0.0).otherwise(name).alias(name) for name in columns]
        rung = pl.when(over).then(pl.lit(ENDED)).otherwise("rung").alias("rung")
        table = rows.join(ends, on=key, how="left", maintain_order="left")
        rows = table.with_columns(*zero, rung).drop(END)
    return rows


def unsold(tables: Frames, as_of: date) -> list[str]:
    """Notes on SKUs and stores that sold nothing in the `UNSOLD_WEEKS` up to `as_of` and have no end."""
    week, has_sales = pl.col("week"), pl.col("units") > 0
    year = tables["history"].filter(week > as_of - timedelta(weeks=YEAR), week <= as_of, has_sales)
    year = year.group_by(*_UNSOLD).agg(week.max()).collect(engine="streaming").lazy()
    notes = []
    for key, note in _UNSOLD.items():
        last = year.group_by(key).agg(week.max()).filter(week <= as_of - timedelta(weeks=UNSOLD_WEEKS))
        last = last.join(_ends(tables, key), on=key, how="anti")
        if "plan" in tables:
            last = last.join(tables["plan"].filter(week > as_of), on=key, how="anti")
        names = last.sort(key).collect()[key]
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        if len(names):
            notes.append(note.format(weeks=UNSOLD_WEEKS, names=", ".join(names.head(NAMED)) + more))
    return notes


def late_stores(tables: Frames, newest: date) -> list[str]:
    """A note on stores without an end whose last row is less than `UNSOLD_WEEKS` before the week `newest`."""
    week = pl.col("week")
    last = tables["history"].filter(week <= newest).group_by("store").agg(week.max())
    late = last.filter(week < newest, week > newest - timedelta(weeks=UNSOLD_WEEKS))
    stores = late.join(_ends(tables, "store"), on="store", how="anti").sort("store").collect()
    if stores.is_empty():
        return []
    names = ", ".join(f"{store} (last week: {week})" for store, week in stores.head(NAMED).iter_rows())
    more = f" and {len(stores) - NAMED:,} more" if len(stores) > NAMED else ""
    return [
        f"Stores without rows in the newest week, {newest}: {names}{more}. If their files are late, ingest them."
    ]


def _ends(tables: Frames, key: str) -> pl.LazyFrame:
    """The SKUs or stores that have an end, with the end as a date."""
    rows = tables.get(f"{key}s", pl.LazyFrame(schema={key: pl.String}))
    if END not in rows.collect_schema():
        return pl.LazyFrame(schema={key: pl.String, END: pl.Date})
    return rows.select(key, pl.col(END).str.to_date("%Y-%m-%d", strict=False)).drop_nulls()
