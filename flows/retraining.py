"""Training that a person, a schedule or an event requests."""

from collections.abc import Mapping
from typing import Annotated, Any

from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows.runs import train_bundle
from models.scenario import AsOf, Scenario
from tasks.storage.store import Store
from tasks.training.retraining import record_training, request_training

Budget = Annotated[int, Field(ge=0, le=100)]
"""The number of trainings in 30 days that events may start."""


def train_for(
    reason: str | None,
    budget: int,
    scenario: Scenario,
    store: Store,
    as_of: AsOf | None,
    options: Mapping[str, Any],
) -> Any:
    """Train a bundle. With the `reason` of an event, train only within the budget; beyond it the run ends as Skipped."""
    if reason is None:
        return train_bundle(scenario, store, as_of, options)
    request = request_training(scenario, store, reason, budget)
    if request.refusal is not None:
        record_training(scenario, store, request)
        get_run_logger().info(request.refusal)
        result = {"bundle": None, "promoted": False, "asked_for": reason, "notes": [request.refusal]}
        return Completed(name="Skipped", message=request.refusal, data=result)
    training = train_bundle(scenario, store, as_of, options)
    record_training(scenario, store, request, training)
    return {**training, "asked_for": reason}
