"""Options that every ingest has: how files are read. Flows that ingest add them to their own."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from prefect import Flow

from models.contracts import Decimals, Duplicates
from models.date_order import DateOrder

R = TypeVar("R")
_PARAMETER, _STORE = "reading", "        store: URI"


@dataclass(frozen=True)
class Reading:
    """How sources are read, whatever the scenario. The help of the options is in `_ABOUT`."""

    dates: DateOrder | None = None
    decimals: Decimals | None = None
    encoding: str | None = None
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
    "dates": "Order in dates such as 05/01/2024: day-first or month-first; year-first if 24/01/05 is in 2024; year-week"
    " if 202405 is the fifth week of a year. Default: as the column shows.",
    "decimals": "Decimal mark, for files in which 1.234 could mean 1234: comma or point. Default: as the file shows.",
    "encoding": "Encoding of text files that are not in UTF-8 or UTF-16, such as cp1250, cp1254 or cp932. Default: cp1252.",
    "duplicates": "What to do with differing rows, of one file or several, with the same key and time: add (amounts such as"
    " units; other numbers are averaged), average, last or refuse. Default: refuse. Identical rows count once.",
    "wide": "Read files with a column per week (sales; or per SKU with --column sku=*) or per sensor (devices; a file"
    " without a device column belongs to the device that it is named after).",
    "layout": "Product whose layout the files have, such as nixtla, amazon-forecast, m5, metrics-advisor or influxdb;"
    " an unknown name lists the layouts of the scenario. It can be combined with --column.",
    "query": "SQL query for a source that is a database without #TABLE: postgresql://, mssql+pyodbc://, sqlite://.",
    "replace": "The files hold all rows from their first time to their last: other stored rows of that range are"
    " removed and counted.",
    "dry_run": "Read and check the files, show five rows as they would be stored, and write nothing.",
}


def reads(function: Callable[..., R]) -> Callable[..., R]:
    """`function` with the fields of `Reading` as parameters in place of `reading`, its last one; their help precedes
    `store`."""
    signature = inspect.signature(function, eval_str=True)
    types = get_type_hints(Reading)
    own = [p for p in signature.parameters.values() if p.name != _PARAMETER]
    options = [
        inspect.Parameter(
            f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default, annotation=types[f.name]
        )
        for f in fields(Reading)
    ]
    full = signature.replace(parameters=[*own[:-1], *options, own[-1]])

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        arguments = full.bind(*args, **kwargs).arguments
        reading = Reading(**{f.name: arguments.pop(f.name) for f in fields(Reading) if f.name in arguments})
        return function(**arguments, **{_PARAMETER: reading})

    about = "".join(f"        {name}: {text}\n" for name, text in _ABOUT.items())
    return _called(wrapped, full, (function.__doc__ or "").replace(_STORE, about + _STORE))


def ingests(ingest: Flow[..., dict[str, Any]]) -> Callable[[Callable[..., R]], Callable[..., Any]]:
    """Decorate a function that begins with an ingest: it gets the parameters of that flow, with their help.

    Its first argument is the result of the ingest, whose notes precede its own. A dry run ends after the ingest.
    """
    *options, store = inspect.signature(ingest.fn).parameters.values()
    about = inspect.cleandoc(ingest.fn.__doc__ or "").partition("Args:\n")[2].partition(_STORE.strip())[0]

    def make(function: Callable[..., R]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        _, *own, _ = signature.parameters.values()
        full = signature.replace(parameters=[*options, *own, store])

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            arguments = full.bind(*args, **kwargs).arguments
            mine = {p.name: arguments.pop(p.name) for p in own if p.name in arguments}
            result = ingest.fn(**arguments)
            if arguments.get("dry_run"):
                return result
            final = function(result, **mine, store=arguments.get("store"))
            return (
                final | {"notes": [*_notes(result), *final.get("notes", [])]}
                if isinstance(final, dict)
                else final
            )

        doc = inspect.cleandoc(function.__doc__ or "").replace("Args:\n", f"Args:\n{about.rstrip(' ')}")
        return _called(wrapped, full, doc)

    return make


def _notes(ingest_result: dict[str, Any]) -> list[str]:
    """The notes of an ingest, and a line for each rule that rows in quarantine break."""
    tables = ingest_result["tables"]
    bad = [
        f"{table['table']}: {count:,} of {table['read']:,} rows are in quarantine: {rule}."
        for table in tables
        for rule, count in table["rules"].items()
    ]
    return [*(note for table in tables for note in table["alike"]), *bad]


def _called(function: Callable[..., R], signature: inspect.Signature, doc: str) -> Callable[..., R]:
    """`function` with this signature and docstring."""
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__doc__ = doc
    function.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return function
