"""What there is to read of bundles and runs: the registry with its manifests, and the ledger."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from tasks.registry import bundles, ledger
from tasks.storage.store import Store


def bundle_lines(store: Store, scenario: str, last: int) -> list[dict[str, Any]]:
    """The newest `last` bundles, newest first; none where nothing was trained yet.

    `trained_on` has the version of each table and, where the bundle says so, its rows; `why` is the last
    that was decided about the bundle: promoted, refused or rolled back, with the reason.
    """
    known = bundles.events(store, scenario)
    if known is None:
        return []
    champion = bundles.champion(store, scenario)
    numbers = known["bundle"].unique().sort(descending=True).head(last)
    return [
        _line(bundles.manifest(store, scenario, n), known.filter(bundle=n), champion == n) for n in numbers
    ]


def _line(manifest: Mapping[str, Any], events: pl.DataFrame, champion: bool) -> dict[str, Any]:
    decided = events.filter(pl.col("event") != "registered").tail(1).to_dicts()
    rows = manifest.get("rows", {})
    return {
        "bundle": manifest["bundle"],
        "champion": champion,
        "as_of": manifest["as_of"],
        "trained": events["at"][0].strftime("%Y-%m-%d %H:%M"),
        "loss": manifest["loss"],
        "trained_on": {name: _table(version, rows.get(name)) for name, version in _versions(manifest)},
        "why": f"{decided[0]['event'].replace('_', ' ')}: {decided[0]['reason']}" if decided else None,
        "headline": dict(manifest["headline"]),
    }


def _versions(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    return sorted(manifest.get("versions", {}).items())


def _table(version: int, rows: int | None) -> str:
    return f"version {version}" if rows is None else f"version {version} ({rows:,} rows)"


def run_lines(store: Store, scenario: str, last: int) -> list[dict[str, Any]]:
    """The newest `last` rows of the ledger that are of a scenario, newest first; none where nothing was published."""
    rows = ledger.rows(store)
    if rows is None:
        return []
    found = rows.filter(scenario=scenario).sort("ended", "run_id", descending=True).head(last).collect()
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
        for row in found.iter_rows(named=True)
    ]
