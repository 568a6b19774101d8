"""The ledger: one row per published scoring run; requested = scored + fallback + skipped + failed."""

import json
from collections.abc import Mapping
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
    started: datetime,
    published: bool = True,
) -> bool:
    """Enter the row of a run, in place of the one of an earlier start; whether anything was entered.

    A start that has not `published`, since the rows were there already, changes nothing but a missing row.
    `as_of` is kept as text in ISO form, since scenarios differ in its type.
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
        "started": started,
        "ended": datetime.now(UTC),
    }
    return bool(store.retrying(PATH, lambda: _enter(store, row, replace=published)))


def _enter(store: Store, row: Mapping[str, Any], *, replace: bool) -> bool:
    frame = pl.DataFrame([row])
    once = CommitProperties(max_commit_retries=0)
    if store.version(PATH) is None:
        write_deltalake(store.url_of(PATH), frame, mode="error", commit_properties=once)
        return True
    table = store.table(PATH)
    known = pl.scan_delta(table).filter(run_id=row["run_id"]).select("run_id").collect()
    if known.height and not replace:
        return False
    table.merge(
        frame,
        predicate="t.run_id = s.run_id",
        source_alias="s",
        target_alias="t",
        commit_properties=once,
    ).when_matched_update_all().when_not_matched_insert_all().execute()
    return True


def rows(store: Store) -> pl.LazyFrame | None:
    """The ledger, None where nothing was published yet; the first row of a run.

    Two starts of a run that end at the same moment can each append its row before it sees the other's.
    """
    if store.version(PATH) is None:
        return None
    return store.scan(PATH).sort("ended").unique("run_id", keep="first", maintain_order=True)


def last(store: Store, scenario: str, flow: str, as_of: AsOf) -> dict[str, Any] | None:
    """The newest run of a flow for an `as_of`, with `versions` as a mapping."""
    ledger = rows(store)
    if ledger is None:
        return None
    same = ledger.filter(scenario=scenario, flow=flow, as_of=as_of.isoformat())
    found = same.sort("ended").tail(1).collect().to_dicts()
    return {**found[0], "versions": json.loads(found[0]["versions"])} if found else None
