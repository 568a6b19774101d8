"""Timeouts and retries of flows by their kind, with the reasons."""

import inspect
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from flows.deadlines import process_deadline
from flows.parameters import without_credentials
from flows.settings import settings
from flows.variables import with_variables
from models.errors import AlmanacError
from models.moments import local_timezone

P = ParamSpec("P")
R = TypeVar("R")

_HOUR = 3600.0
_GRACE_SECONDS = 60.0
"""The time that a flow has, after its timeout, before its process is ended."""


@dataclass(frozen=True)
class Limits:
    """The limits of one kind of flow: the timeout, and the number of retries and the delay before each."""

    timeout_seconds: float
    retries: int = 0
    retry_delay_seconds: int = 0


INGESTING = Limits(3 * _HOUR, 3, 30)
"""Sources may be written while they are read over a network: a failed read may succeed half a minute later. A million
rows take a minute or two."""
SCORING = Limits(4 * _HOUR, 2, 60)
"""Finished shards are kept, so a retry repeats only unfinished ones. The largest benchmark takes 20 minutes."""
TRAINING = Limits(12 * _HOUR, 1, 300)
"""A training starts from the beginning, which is expensive: one retry, after a temporary fault has had time to pass."""
TUNING = Limits(24 * _HOUR, 1, 300)
"""A study continues where it stopped; its own limits, in trials and in time, end it earlier."""
BACKFILLING = Limits(48 * _HOUR, 2, 60)
"""One scoring run after the other; published ones are not repeated. A month of hours takes hours."""
BY_HAND = Limits(2 * _HOUR)
"""A person sees the result and starts the run again."""
TIDYING = Limits(6 * _HOUR)
"""The next day's run does the rest. The first run on an old store has much to do."""


def limited(kind: Limits, name: str, **options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's decorator `@flow` with its `name` and `options`, and the limits of a kind of flow.

    A run is named after the flow and its start time until `progress.name_run` gives it a better name.

    The limits are read when the module is imported, that is, when a run starts. `ALMANAC_TIMEOUT_SECONDS` sets another
    timeout for everything that this process runs. Only a run that a worker has started is retried, and not after an
    error that would recur: a person at a terminal sees the error at once. Parameters that a deployment omits may come
    from `flows.variables`. The schema of a deployment's parameters admits no text with a credential.
    """
    limits: dict[str, Any] = {"timeout_seconds": settings().timeout_seconds or kind.timeout_seconds}
    is_unattended = bool(os.environ.get("PREFECT__FLOW_RUN_ID"))  # this process is the run of a deployment
    if is_unattended and kind.retries:
        limits |= {"retries": kind.retries, "retry_delay_seconds": kind.retry_delay_seconds}

    def make(function: Callable[P, R]) -> Flow[P, R]:
        run = _with_deadline(with_variables(function), limits["timeout_seconds"] + _GRACE_SECONDS)
        if "retries" in limits:
            run = _worth_another_try(run)
        signature = inspect.signature(run, eval_str=True)
        parameters = [
            p.replace(annotation=without_credentials(p.annotation)) for p in signature.parameters.values()
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return flow(name=name, flow_run_name=partial(_begun, name), **options, **limits)(run)

    return make


def _with_deadline(function: Callable[P, R], seconds: float) -> Callable[P, R]:
    """`function`, whose process is ended if Prefect's timeout did not end it."""

    @wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        with process_deadline(seconds):
            return function(*args, **kwargs)

    return watched


def _begun(name: str) -> str:
    return f"{name} {datetime.now(local_timezone()):%Y-%m-%d %H:%M}"


def _worth_another_try(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, without retries after an error that does not pass by itself."""

    @wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AlmanacError as error:
            if not error.is_temporary:
                _try_no_more()
            raise

    return tried


def _try_no_more() -> None:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    policy = run.empirical_policy.model_copy(update={"retries": 0})
    with suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        client.update_flow_run(run.id, empirical_policy=policy)
