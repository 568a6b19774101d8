"""Parameters that a run omits may come from variables of the Prefect server, without another deployment."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ParameterTypeError
from prefect.logging import get_run_logger

from flows.parameters import ParameterError
from models.addresses import refuse_credential

P = ParamSpec("P")
R = TypeVar("R")


def with_variables(function: Callable[P, R]) -> Callable[P, R]:
    """`function` of a flow; variables supply the parameters that its run omits, see `names`.

    A run that is started on a terminal or by another flow has all its parameters, so no variable is read. Raises
    `ParameterError` for an invalid value, `CredentialError` for an address with a key.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def with_values(*args: P.args, **kwargs: P.kwargs) -> R:
        context = FlowRunContext.get()
        if context is None or context.flow is None or context.flow_run is None:
            return function(*args, **kwargs)
        if inspect.unwrap(context.flow.fn) is not inspect.unwrap(function):
            return function(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments
        left_out = [name for name in signature.parameters if name not in context.flow_run.parameters]
        if left_out and (values := _values(context.flow.name, left_out)):
            try:
                arguments = context.flow.validate_parameters(arguments | values)
            except ParameterTypeError as error:
                raise ParameterError(
                    f"A variable of the Prefect server has an invalid value. {error}"
                ) from None
        return function(**arguments)  # type: ignore[call-arg]

    return with_values


def names(flow: str, parameter: str) -> list[str]:
    """The variables that may hold a parameter of a flow; a later one overrides an earlier one.

    >>> names("devices-score", "alpha")
    ['almanac_alpha', 'almanac_devices_alpha', 'almanac_devices_score_alpha']
    """
    words = flow.replace("-", " ").split()
    return ["_".join(["almanac", *words[:count], parameter]) for count in range(len(words) + 1)]


def _values(flow: str, parameters: list[str]) -> dict[str, Any]:
    """Values of the parameters that have a variable; the run's log names each."""
    parameter_of = {name: one for one in parameters for name in names(flow, one)}
    with get_client(sync_client=True) as client:
        body = {"variables": {"name": {"any_": list(parameter_of)}}}
        entries = {
            one["name"]: one["value"] for one in client.request("POST", "/variables/filter", json=body).json()
        }
    values = {}
    for name in (name for name in parameter_of if name in entries):
        refuse_credential(f"The variable {name}", str(entries[name]))
        values[parameter_of[name]] = entries[name]
        get_run_logger().info("%s is %s, from the variable %s", parameter_of[name], entries[name], name)
    return values
