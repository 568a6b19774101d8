"""The ledger: one row per published scoring run; requested = scored + fallback + skipped + failed."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
from deltalake import CommitProperties, write_deltalake

from models.scenario import AsOf
from tasks.storage.store import Store

PATH = "ledger"
COUNTS = ("requested", "scored", "fallback", "skipped", "failed")


def record(
    store: Store,
    *,
    run_id: str,
    scenario: str,
    flow: str,
    as_of: AsOf,
    bundle: int,
    versions: Mapping[str, int],
    counts: Mapping[str, int],
    reasons: Mapping[str, int],
    start: datetime,
    is_published: bool = True,
) -> bool:
    """Enter the row of a run, which supersedes that of an earlier start; return whether a row was entered.

    A start that published nothing, because the rows were already there, only fills in a missing row. `as_of` is
    stored as text in ISO form, because its type differs between scenarios.
    """
    row = {
        "run_id": run_id,
        "scenario": scenario,
        "flow": flow,
        "as_of": as_of.isoformat(),
        "bundle": bundle,
        "versions": json.dumps(dict(versions), sort_keys=True),
        **{name: int(counts[name]) for name in COUNTS},
        "reasons": json.dumps(dict(reasons), sort_keys=True),
        "started": start,
        "ended": datetime.now(UTC),
    }
    is_new = bool(store.retrying(PATH, lambda: _enter(store, row, replace=is_published)))
    if is_new:
        store.compact_at_times(PATH)
    return is_new


def _enter(store: Store, row: Mapping[str, Any], *, replace: bool) -> bool:
    """Append the row; return whether it was appended. The cost does not depend on the number of rows."""
    frame = pl.DataFrame([row])
    if not replace:
        ledger = rows(store)
        if ledger is not None and ledger.filter(run_id=row["run_id"]).select(pl.len()).collect().item():
            return False
    if (table := store.find_table(PATH)) is None:
        once = CommitProperties(max_commit_retries=0)
        write_deltalake(store.url_of(PATH), frame, mode="error", commit_properties=once)
    else:
        write_deltalake(table, frame, mode="append")
    return True


def rows(store: Store) -> pl.LazyFrame | None:
    """The ledger with the last row of each run; None if nothing has been published yet."""
    if (every := store.find(PATH)) is None:
        return None
    return every.sort("ended").unique("run_id", keep="last", maintain_order=True)


def last(store: Store, scenario: str, flow: str, as_of: AsOf) -> dict[str, Any] | None:
    """The newest run of a flow for an `as_of`, with `versions` as a mapping."""
    ledger = rows(store)
    if ledger is None:
        return None
    same = ledger.filter(scenario=scenario, flow=flow, as_of=as_of.isoformat())
    newest = same.sort("ended").tail(1).collect().to_dicts()
    return {**newest[0], "versions": json.loads(newest[0]["versions"])} if newest else None


def other_run(store: Store, scenario: str, flow: str, as_of: AsOf, run_id: str) -> dict[str, Any] | None:
    """The newest run of a flow for an `as_of`, as `last` returns it, if it is another one than `run_id`."""
    entry = last(store, scenario, flow, as_of)
    return None if entry is None or entry["run_id"] == run_id else entry


def versions(store: Store, scenario: str, flow: str, as_ofs: Collection[str]) -> dict[str, dict[str, int]]:
    """The table versions of the newest run for each of `as_ofs`, which are in ISO form."""
    ledger = rows(store)
    if ledger is None:
        return {}
    same = ledger.filter(pl.col("as_of").is_in([*as_ofs]), scenario=scenario, flow=flow).sort("ended")
    newest = same.group_by("as_of").agg(pl.col("versions").last()).collect()
    return {as_of: json.loads(text) for as_of, text in newest.iter_rows()}
