"""Lists of bundles, from the registry and the manifests, and of runs, from the ledger."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from tasks.registry import bundles, ledger
from tasks.storage.store import Store


def bundle_lines(store: Store, scenario: str, last: int) -> list[dict[str, Any]]:
    """The newest `last` bundles, newest first; none if nothing has been trained yet.

    `trained_on` has the version of each table and, if the manifest has it, the number of rows; `why` is the last
    decision about the bundle: promoted, refused or rolled back, with the reason.
    """
    registry = bundles.events(store, scenario)
    if registry is None:
        return []
    champion = bundles.champion(store, scenario)
    numbers = registry["bundle"].unique().sort(descending=True).head(last)
    return [
        _line(bundles.manifest(store, scenario, n), registry.filter(bundle=n), champion == n) for n in numbers
    ]


def _line(manifest: Mapping[str, Any], events: pl.DataFrame, champion: bool) -> dict[str, Any]:
    decisions = events.filter(pl.col("event") != "registered").tail(1).to_dicts()
    rows, versions = manifest.get("rows", {}), manifest.get("versions", {})
    return {
        "bundle": manifest["bundle"],
        "champion": champion,
        "as_of": manifest["as_of"],
        "trained": events["at"][0].strftime("%Y-%m-%d %H:%M"),
        "loss": manifest["loss"],
        "trained_on": {name: _table(version, rows.get(name)) for name, version in sorted(versions.items())},
        "why": f"{decisions[0]['event'].replace('_', ' ')}: {decisions[0]['reason']}" if decisions else None,
        "headline": dict(manifest["headline"]),
    }


def _table(version: int, rows: int | None) -> str:
    return f"version {version}" if rows is None else f"version {version} ({rows:,} rows)"


def run_lines(store: Store, scenario: str, last: int) -> list[dict[str, Any]]:
    """The newest `last` ledger rows of a scenario, newest first; none if nothing has been published."""
    rows = ledger.rows(store)
    if rows is None:
        return []
    newest = rows.filter(scenario=scenario).sort("ended", "run_id", descending=True).head(last).collect()
    return [
        {
            "run_id": row["run_id"],
            "as_of": row["as_of"],
            "bundle": row["bundle"],
            **{name: row[name] for name in ledger.COUNTS},
            "ended": row["ended"].strftime("%Y-%m-%d %H:%M"),
            "seconds": round((row["ended"] - row["started"]).total_seconds(), 1),
            "reasons": json.loads(row["reasons"]),
        }
        for row in newest.iter_rows(named=True)
    ]
