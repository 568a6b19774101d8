"""Attributes of SKUs: numbers are features; text, such as a product group, names SKUs that share their season."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales.panel import Panel, covariate_columns, panel_of
from models.sales.promotions import Promotions, promotions
from models.scenario import Frames

LEAST_SKUS = 2
"""SKUs that share a value of an attribute, on average, or it is the name of each and no group."""


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
        known = rows.drop_nulls("units").group_by("value", "week").agg(units.sum())
        weeks.append(
            known.sort("value", "week").select(pl.lit(name).alias("attribute"), "value", "week", "units")
        )
    empty = pl.DataFrame(
        schema={"attribute": pl.String, "value": pl.String, "week": pl.Date, "units": pl.Float64}
    )
    return {"skus": skus, "group_weeks": pl.concat([empty, *weeks])}


def _texts(skus: pl.DataFrame) -> list[str]:
    """Attributes by which SKUs are pooled."""
    texts = [name for name, kind in skus.schema.items() if kind == pl.String and name != "sku"]
    return [
        name for name in texts if 0 < LEAST_SKUS * skus[name].drop_nulls().n_unique() <= skus[name].count()
    ]


@dataclass(frozen=True)
class Group:
    """Sales of the values of an attribute, all SKUs together, and which of them each key of a panel has; -1 for none."""

    panel: Panel
    promotions: Promotions
    of_key: np.ndarray

    def by_key(self, values: np.ndarray) -> np.ndarray:
        """What a key has of `values`, one for each value of the attribute; NaN for none."""
        return np.append(values, np.nan)[self.of_key]


def groups(panel: Panel, shared: Mapping[str, pl.DataFrame]) -> dict[str, Group]:
    """The groups of the panel's keys, by attribute."""
    found = {}
    for name in shared["group_weeks"]["attribute"].unique().sort() if "skus" in shared else ():
        own = panel.keys.join(
            shared["skus"].select("sku", value=name), on="sku", how="left", maintain_order="left"
        )
        values = own.select(pl.col("value").drop_nulls().unique().sort())
        rows = shared["group_weeks"].filter(attribute=name).lazy()
        weeks = panel_of(rows, values, (), panel.first_week, panel.week(panel.last), 0)
        at = own.join(values.with_row_index("_at"), on="value", how="left", maintain_order="left")["_at"]
        found[name] = Group(weeks, promotions(weeks, ()), at.cast(pl.Int64).fill_null(-1).to_numpy())
    return found


def numbers(panel: Panel, shared: Mapping[str, pl.DataFrame]) -> dict[str, np.ndarray]:
    """The attributes of each key's SKU that are numbers, by `of_sku_<name>`."""
    if "skus" not in shared:
        return {}
    own = panel.keys.join(shared["skus"], on="sku", how="left", maintain_order="left")
    return {
        f"of_sku_{name}": own[name].to_numpy().astype(float)
        for name in covariate_columns(shared["skus"].schema)
    }
