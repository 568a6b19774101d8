"""A panel together with the other inputs of its keys' features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales import assortment
from models.sales.events import EventsOfKeys
from models.sales.neighbours import PRICE
from models.sales.panel import Panel, Shared, panel_of
from models.sales.promotions import Others, Promotions, others, promotions
from models.scenario import Context


@dataclass(frozen=True)
class View:
    """A panel, its keys' promotions, and data on the other SKUs and on the SKUs in all stores.

    `attributes` are the numeric attributes of stores and SKUs, `groups` the text attributes of SKUs; `events` is None
    if there are none.
    """

    panel: Panel
    promotions: Promotions
    others: Others
    sku: Panel
    sku_promotions: Promotions
    sku_spread: np.ndarray | None
    sku_of_key: np.ndarray
    attributes: Mapping[str, np.ndarray]
    groups: Mapping[str, assortment.Group]
    events: EventsOfKeys | None


def view_of(panel: Panel, context: Context, flags: Sequence[str], attributes: pl.DataFrame | None) -> View:
    """The inputs of the features of the panel's keys; `context` are the frames that every shard needs."""
    own = promotions(panel, flags)
    skus = panel.keys.select(pl.col("sku").unique().sort())
    until = panel.week(panel.last)
    covariates = list(panel.covariates)
    horizon = panel.weeks - panel.last - 1
    weeks = context["sku_weeks"]
    sku = panel_of(weeks.lazy(), skus, covariates, panel.first_week, until, horizon)
    spread = Shared(sku, weeks, "sku").array("spread") if PRICE in covariates else None
    at = panel.keys.join(skus.with_row_index("_at"), on="sku", how="left", maintain_order="left")["_at"]
    of_sku, of_key = promotions(sku, flags), at.to_numpy()
    numbers = assortment.numbers(panel, context)
    if attributes is not None:
        of_store = panel.keys.join(attributes, on="store", how="left", maintain_order="left")
        numbers |= {
            name: of_store[name].to_numpy().astype(float) for name in attributes.columns if name != "store"
        }
    return View(
        panel,
        own,
        others(panel, own, context["store_weeks"]),
        sku,
        of_sku,
        spread,
        of_key,
        numbers,
        assortment.groups(panel, context),
        EventsOfKeys.of(panel, context, (sku, of_sku.is_promoted, of_key)),
    )
