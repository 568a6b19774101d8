"""How long a flow may run and how often it is tried again, by what it does, with the reasons."""

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

from flows.settings import settings
from flows.variables import with_variables
from models.errors import AlmanacError
from models.times import local_timezone

P = ParamSpec("P")
R = TypeVar("R")

_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """Of one kind of flow: the seconds after which it is ended, and further tries, so many seconds apart."""

    timeout_seconds: float
    retries: int = 0
    retry_delay_seconds: int = 0


INGESTING = Limits(3 * _HOUR, 3, 30)
"""Sources come over a network and may be written to as they are read: what fails now may be there in half a minute.
A million rows take a minute or two.
"""
SCORING = Limits(4 * _HOUR, 2, 60)
"""What a first try has scored is kept, so another one costs what is missing. The largest benchmark takes 20 minutes."""
TRAINING = Limits(12 * _HOUR, 1, 300)
"""A training begins anew, which is dear: once more, and only after what was wrong has had time to pass."""
TUNING = Limits(24 * _HOUR, 1, 300)
"""A study goes on where it was; its own limits, in trials and in time, end it before."""
BACKFILLING = Limits(48 * _HOUR, 2, 60)
"""One scoring after the other, of which those that are published are not done again. A month of hours takes hours."""
BY_HAND = Limits(2 * _HOUR)
"""Someone looks at what comes of it, and starts it again."""
TIDYING = Limits(6 * _HOUR)
"""The next day's does what is left. The first one of an old store has much to do."""


def limited(kind: Limits, name: str, **options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's decorator `@flow` with its `name` and `options`, and the limits of a kind of flow.

    A run is called after the flow and the time at which it began, until it knows more of itself; see `progress.name_run`.

    They are as they are when its module is imported: when its run starts. `ALMANAC_TIMEOUT_SECONDS` names another time
    for whatever this process runs. Only a run that a worker has started is tried again, and not after an error that
    would come again: someone at a terminal is told at once. What a deployment leaves out may come from `flows.variables`.
    """
    limits: dict[str, Any] = {"timeout_seconds": settings().timeout_seconds or kind.timeout_seconds}
    if unattended() and kind.retries:
        limits |= {"retries": kind.retries, "retry_delay_seconds": kind.retry_delay_seconds}

    def make(function: Callable[P, R]) -> Flow[P, R]:
        run = with_variables(function)
        if "retries" in limits:
            run = _worth_another_try(run)
        return flow(name=name, flow_run_name=partial(_begun, name), **options, **limits)(run)

    return make


def _begun(name: str) -> str:
    return f"{name} {datetime.now(local_timezone()):%Y-%m-%d %H:%M}"


def _worth_another_try(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, after an error of which that does not pass by itself its run is not tried again."""

    @wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AlmanacError as error:
            if not error.passing:
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


def unattended() -> bool:
    """Whether this process is the run of a deployment, which a worker has started."""
    return bool(os.environ.get("PREFECT__FLOW_RUN_ID"))
