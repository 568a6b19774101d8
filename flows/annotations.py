"""A command's signature as JSON, and back, without importing the command's code."""

import importlib
import inspect
import sys
import types
from datetime import date, datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

_CLASSES: dict[str, Any] = {one.__name__: one for one in (str, int, float, bool, date, datetime, type(None))}
_OURS = ("flows", "tasks", "models", "tests")


def reference(target: Any, *modules: str) -> str | None:
    """`module:name` under which one of these modules holds the object; None if none does."""
    for module in modules:
        for name, value in vars(sys.modules[module]).items() if module in sys.modules else ():
            if value is target:
                return f"{module}:{name}"
    return None


def object_at(place: str) -> Any:
    """The object that `module:name` refers to, in a module of the project."""
    module, _, name = place.partition(":")
    if module.partition(".")[0] not in _OURS:
        raise LookupError(f"{place} is not in a module of the project")
    return getattr(importlib.import_module(module), name)


def as_json(signature: inspect.Signature) -> list[dict[str, Any]]:
    """The parameters, each with its annotation and default. Raises TypeError for an unsupported annotation."""
    return [
        {"name": p.name, "annotation": _as_json(p.annotation)}
        | ({} if p.default is inspect.Parameter.empty else {"default": p.default})
        for p in signature.parameters.values()
    ]


def from_json(parameters: list[dict[str, Any]]) -> inspect.Signature:
    """The inverse of `as_json`; the parameters are keyword-only."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(
                one["name"],
                kind,
                annotation=_from_json(one["annotation"]),
                default=one.get("default", inspect.Parameter.empty),
            )
            for one in parameters
        ]
    )


def _as_json(annotation: Any) -> dict[str, Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    name = getattr(annotation, "__name__", "")
    if _CLASSES.get(name) is annotation:
        return {"class": name}
    if origin is Literal:
        return {"literal": inner}
    if origin is list:
        return {"list": _as_json(inner[0])}
    if origin in (Union, types.UnionType):
        return {"union": [_as_json(one) for one in inner]}
    if origin is Annotated:
        return {"annotated": _as_json(inner[0]), "with": [_constraint(one) for one in inner[1:]]}
    raise TypeError(f"{annotation} cannot be written down")


def _from_json(words: dict[str, Any]) -> Any:
    match words:
        case {"class": name}:
            return _CLASSES[name]
        case {"literal": values}:
            return Literal[tuple(values)]
        case {"list": item}:
            return list[_from_json(item)]  # type: ignore[misc]
        case {"union": several}:
            return Union[tuple(map(_from_json, several))]  # noqa: UP007
        case {"annotated": one, "with": constraints}:
            return Annotated[_from_json(one), *map(_from_constraint, constraints)]
    raise LookupError(f"{words} is not an annotation")


def _constraint(item: Any) -> dict[str, Any]:
    """The bounds of a `Field`, or the place of the function of a `BeforeValidator`."""
    if isinstance(item, FieldInfo):
        return {
            name: getattr(one, name)
            for one in item.metadata
            for name in getattr(one, "__slots__", None) or vars(one)
        }
    if isinstance(item, BeforeValidator) and (place := reference(item.func, item.func.__module__)):
        return {"before": place}
    raise TypeError(f"{item} cannot be written down")


def _from_constraint(words: dict[str, Any]) -> Any:
    return BeforeValidator(object_at(words["before"])) if "before" in words else Field(**words)
