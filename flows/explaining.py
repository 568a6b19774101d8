"""Explanations of published forecasts from a store. Not a flow: it needs no server."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from flows.parameters import ParameterError
from flows.settings import open_store
from models.sales import SALES
from models.sales.explanations import GROUPS, about
from models.sales.names import suggestion
from models.sales.panel import KEY
from tasks.registry import bundles, ledger
from tasks.scoring.runs import RunError, input_versions, read_context, scans
from tasks.storage.layout import Layout
from tasks.storage.store import Store

_EXACT = 1e-6


def explain(
    sku: str, store: str, as_of: date | None = None, store_uri: str | None = None
) -> Mapping[str, Any]:
    """Explain how a published forecast differs from what the SKU usually sells in the store.

    The level and the contributions of season, price, promotion, other SKUs, trend and the rest add up to the published
    median of each week, in units.

    Args:
        sku: The SKU, as in the sales.
        store: The store that sells it, as in the sales. The store with Almanac's tables is --store-uri.
        as_of: Any day of the last week that the forecast used; default: the newest forecast.
        store_uri: URI of the store with the tables; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store_uri)
    rows = _published_rows(data_store, sku, store, as_of)
    row, when = rows.row(0, named=True), rows["as_of"][0]
    entry = ledger.last(data_store, SALES.name, "forecast", when) or {}
    same = entry.get("run_id") == row["run_id"]
    versions = entry["versions"] if same else input_versions(SALES, data_store)
    tables = scans(SALES, data_store, versions)
    options = bundles.manifest(data_store, SALES.name, row["bundle"])["options"]
    try:
        context = read_context(data_store, f"{Layout(SALES.name).runs}/{row['run_id']}")
    except RunError:
        context = SALES.context(tables, when, options)
    model = bundles.model(SALES, data_store, row["bundle"])
    lines = SALES.explain(model, tables, context, rows, when, options)
    notes = [] if same else ["The ledger has no such run: the newest tables are used."]
    return _result(lines, row, when, [*notes, *_other_medians(lines)])


def _published_rows(data_store: Store, sku: str, store: str, as_of: date | None) -> pl.DataFrame:
    """The published rows of the key. Raises `ParameterError`, with similar names, if there are none."""
    table = Layout(SALES.name).table("forecasts")
    if (forecasts := data_store.find(table)) is None:
        raise ParameterError(
            f"{data_store.uri}: no forecast has been published yet. Publish one: python -m flows sales forecast. "
            "(--store names the shop; --store-uri or ALMANAC_STORE names the store with the tables.)"
        )
    newest = forecasts.select(pl.col("as_of").max()).collect().item()
    when = newest
    if as_of is not None:
        when = SALES.resolve_as_of(
            scans(SALES, data_store, input_versions(SALES, data_store)), as_of, datetime.now(UTC)
        )
    forecasts = forecasts.filter(pl.col("as_of") == when)
    rows = forecasts.filter(pl.col("sku") == sku, pl.col("store") == store).sort("week").collect()
    if rows.height:
        return rows
    keys = forecasts.select(KEY).unique().collect()
    if keys.is_empty():
        raise ParameterError(
            f"--as-of {as_of}: no forecast as of {when} has been published; the newest is as of {newest}."
        )
    stores = keys.filter(sku=sku)["store"].to_list()
    if stores:
        message = f"--store {store}: the forecast as of {when} has SKU '{sku}' in {len(stores):,} other stores only. "
        raise ParameterError(message + suggestion(store, stores))
    message = f"--sku {sku}: the forecast as of {when} has no such SKU. "
    raise ParameterError(message + suggestion(sku, keys["sku"].unique()))


def _result(lines: pl.DataFrame, row: Mapping[str, Any], when: date, notes: list[str]) -> dict[str, Any]:
    """The lines as tables: what each group adds, and the plan with the reasons."""
    level = lines["level"].drop_nulls()
    empty = [group for group in GROUPS if not (lines[group].fill_null(0.0).abs() > 1e-9).any()]
    plan = lines.select(pl.exclude(*KEY, "level", *GROUPS))
    plan = plan.drop("plan") if plan["plan"].dtype == pl.Null else plan.unnest("plan")
    sums = lines.select("week", "level", *[group for group in GROUPS if group not in empty], "median")
    return {
        "sku": row["sku"],
        "store": row["store"],
        "as_of": when.isoformat(),
        "bundle": row["bundle"],
        "run_id": row["run_id"],
        "models": [f"{rung}: {about(rung)}" for rung in lines["rung"].unique(maintain_order=True)],
        "contributions": sums.to_dicts() if len(level) else [],
        "plan": plan.to_dicts(),
        "notes": notes,
    }


def _other_medians(lines: pl.DataFrame) -> list[str]:
    """A note if the bundle now gives medians that differ from the published ones."""
    gap = (pl.sum_horizontal("level", *GROUPS) - pl.col("median")).abs()
    other = lines.drop_nulls("level").filter(gap > _EXACT * pl.col("median").clip(1.0)).height
    if not other:
        return []
    return [
        f"{other} weeks: the bundle now gives a median that differs from the published one, because tables or code have "
        "changed. The contributions add up to the current median."
    ]
