"""Trainings that events request: within a budget, with a record of each request, granted or not.

The table `<scenario>/retrainings` has a row per request: its time and reason, whether it was `granted` and why, the
table versions at that time, and the result.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from prefect import task

from models.scenario import Scenario
from tasks.scoring.runs import input_versions
from tasks.storage.layout import Layout
from tasks.storage.store import Store

RETRAININGS = "retrainings"
MONTH = timedelta(days=30)
SCHEMA: dict[str, Any] = {
    "at": pl.Datetime("us", "UTC"),
    "reason": pl.String,
    "granted": pl.Boolean,
    "note": pl.String,
    "versions": pl.String,
    "bundle": pl.Int64,
    "promoted": pl.Boolean,
}


@dataclass(frozen=True)
class Request:
    """A requested training. `refusal` says why it is refused; None if it is granted."""

    reason: str
    versions: str
    refusal: str | None


@task(name="request-training")
def request_training(scenario: Scenario, store: Store, reason: str, budget: int) -> Request:
    """Grant a training if the budget of 30 days is not exhausted and the tables have changed; else refuse it.

    A training that was stopped does not count, and is granted again.
    """
    now = datetime.now(UTC)
    versions = json.dumps(input_versions(scenario, store), sort_keys=True)
    grants = retrainings(store, scenario.name).filter("granted")
    same = grants.filter(versions=versions).sort("at")
    recent = grants.filter(pl.col("at") > now - MONTH)
    refusal = None
    if same.height:
        refusal = f"Bundle {same['bundle'][-1]} was trained from the same tables: {same['reason'][-1]}"
    elif recent.height >= budget:
        refusal = f"The budget is exhausted: events have already requested {recent.height} of {budget} trainings in 30 days."
    return Request(reason, versions, refusal)


@task(name="record-training")
def record_training(
    scenario: Scenario, store: Store, request: Request, result: Mapping[str, Any] | None = None
) -> None:
    """Record the result of a request; `result` is that of the training, None if there was none."""
    now = datetime.now(UTC)
    line = {
        "at": now,
        "reason": request.reason,
        "granted": request.refusal is None,
        "note": request.refusal or (result or {}).get("reason"),
        "versions": request.versions,
        "bundle": (result or {}).get("bundle"),
        "promoted": bool((result or {}).get("promoted", False)),
    }
    store.append(_path(scenario.name), pl.DataFrame([line], schema=SCHEMA), once=f"asked-{now.isoformat()}")


def retrainings(store: Store, scenario: str) -> pl.DataFrame:
    """All requests, oldest first."""
    requests = store.find(_path(scenario))
    return pl.DataFrame(schema=SCHEMA) if requests is None else requests.sort("at").collect()


def _path(scenario: str) -> str:
    return Layout(scenario).table(RETRAININGS)
