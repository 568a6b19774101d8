"""Types of flow parameters that several flows share."""

import re
import types
from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BeforeValidator, Field

from models.addresses import PLAIN
from models.errors import AlmanacError

_HOURS = {"h": 1, "d": 24, "w": 168}


class ParameterError(AlmanacError):
    """A parameter is invalid, or it contradicts another one."""


def _as_written(value: Any) -> Any:
    """Text as a date if it is as short as one, else as a time: midnight is not the whole day."""
    if not isinstance(value, str):
        return value
    return date.fromisoformat(value) if len(value) <= len("2015-07-31") else datetime.fromisoformat(value)


Moment = Annotated[date | datetime, BeforeValidator(_as_written)]
"""A point in time or a day; as text in ISO 8601."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A share of a whole, 0 to 1."""

Number = Annotated[int, Field(ge=1)]
"""A whole number, 1 or more."""

Bundle = Annotated[int | None, Field(ge=1)]
"""The number of a bundle; None: the champion, unless the flow says otherwise."""

Shards = Annotated[int | None, Field(ge=1, le=1000)]
"""The number of shards of a store; None: as before, or the default."""

_Text = Annotated[str, Field(json_schema_extra={"pattern": PLAIN})]


def without_credentials(annotation: Any) -> Any:
    """The annotation of a parameter whose texts, by its JSON schema, carry no credential.

    A Prefect server refuses them in a form before it keeps them; the schema changes nothing in Python.
    """
    inner = get_args(annotation)
    if annotation is str:
        return _Text
    if get_origin(annotation) is Annotated:
        return Annotated[without_credentials(inner[0]), *inner[1:]]
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(map(without_credentials, inner))]  # noqa: UP007
    return list[without_credentials(inner[0])] if get_origin(annotation) is list else annotation  # type: ignore[misc]


def hours(durations: Iterable[str]) -> list[int]:
    """Durations in whole hours. Raises `ParameterError` for one that is not a number of hours, days or weeks.

    >>> hours(["24h", "7d", "1w"])
    [24, 168, 168]
    """
    result = []
    for text in durations:
        match = re.fullmatch(r"([1-9]\d{0,5})([hdw])", text.strip())
        if not match:
            raise ParameterError(f"'{text}' is not a duration. Expected hours, days or weeks: 24h, 7d or 1w.")
        result.append(int(match[1]) * _HOURS[match[2]])
    return result


def amounts(words: Iterable[str]) -> list[tuple[str, float]]:
    """Names and amounts. Raises `ParameterError` for text that is not NAME=AMOUNT, or a repeated name.

    >>> amounts(["pump=40", "main valve=2.5"])
    [('pump', 40.0), ('main valve', 2.5)]
    """
    costs: dict[str, float] = {}
    for word in words:
        name, _, amount = word.rpartition("=")
        name = name.strip()
        try:
            cost = float(amount)
        except ValueError:
            cost = -1.0
        if not name or name in costs or not 0 < cost < float("inf"):
            raise ParameterError(
                f"'{word}' is not a cost. Expected each name once, with an amount above 0: pump=40."
            )
        costs[name] = cost
    return list(costs.items())


_SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(duration: str) -> float:
    """A duration in seconds. Raises `ParameterError` for text that is not a number of seconds, minutes or hours.

    >>> seconds("90s"), seconds("10m")
    (90.0, 600.0)
    """
    match = re.fullmatch(r"([1-9]\d{0,5})([smh])", duration.strip())
    if not match:
        raise ParameterError(
            f"'{duration}' is not a duration. Expected seconds, minutes or hours: 90s, 10m or 2h."
        )
    return float(int(match[1]) * _SECONDS[match[2]])
