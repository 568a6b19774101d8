"""Options that every ingest has: how people's files are read. Flows that ingest take them beside their own."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from models.contracts import Decimals, Duplicates
from models.times import DateOrder

R = TypeVar("R")
_PARAMETER = "reading"


@dataclass(frozen=True)
class Reading:
    """How sources are read, whatever the scenario. The help of the options is in `_ABOUT`."""

    dates: DateOrder | None = None
    decimals: Decimals | None = None
    duplicates: Duplicates | None = None
    wide: bool = False
    layout: str | None = None
    query: str | None = None
    replace: bool = False
    dry_run: bool = False

    def options(self) -> dict[str, Any]:
        """The fields as options of `tasks.ingest.pipeline.ingest`."""
        return asdict(self)


AS_THEY_ARE = Reading()
_ABOUT = {
    "dates": "What comes first in dates such as 05/01/2024: day-first or month-first. Default: what the column shows.",
    "decimals": "What decimals are written with, where 1.234 could be 1234: comma or point. Default: what the file shows.",
    "duplicates": "What becomes of several rows of one key and time that differ: add (amounts such as units; other"
    " numbers are averaged), average, last or refuse. Default: refuse. Rows that are the same count once.",
    "wide": "Read files with a column per week (sales) or per sensor (devices; one without a device is of the device"
    " that the file is named after).",
    "layout": "Whose files these are, such as nixtla, amazon-forecast, m5, metrics-advisor or influxdb; an unknown name"
    " lists those of the scenario. Columns can be mapped with it, too.",
    "query": "What to select from a source that is a SQL database without #TABLE: postgresql://, mssql+pyodbc://, sqlite://.",
    "replace": "The files hold all rows from their first time to their last: what is stored of that time and not in"
    " them is removed, and counted.",
    "dry_run": "Read and check the files, show five rows as they would be stored, and write nothing.",
}


def reads(function: Callable[..., R]) -> Callable[..., R]:
    """`function` with the fields of `Reading` as parameters in the place of its last one, `reading`.

    Their help goes before that of `store`.
    """
    signature = inspect.signature(function, eval_str=True)
    types = get_type_hints(Reading)
    own = [p for p in signature.parameters.values() if p.name != _PARAMETER]
    shared = [
        inspect.Parameter(
            f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default, annotation=types[f.name]
        )
        for f in fields(Reading)
    ]
    called = signature.replace(parameters=[*own[:-1], *shared, own[-1]])

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        given = called.bind(*args, **kwargs).arguments
        reading = Reading(**{f.name: given.pop(f.name) for f in fields(Reading) if f.name in given})
        return function(**given, **{_PARAMETER: reading})

    about = "".join(f"        {name}: {text}\n" for name, text in _ABOUT.items())
    wrapped.__signature__ = called  # type: ignore[attr-defined]
    wrapped.__doc__ = (function.__doc__ or "").replace("        store: URI", f"{about}        store: URI")
    wrapped.__annotations__ = {p.name: p.annotation for p in called.parameters.values()}
    return wrapped
