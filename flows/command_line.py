"""The command line: one command per flow, made from the flow's own signature and docstring.

Every module of `flows` that names its flows in `COMMANDS` is a group of commands; a new scenario is
a new module. Help and errors about options come from `flows.catalogue`; a module is imported when its command is
called. A command that is not a flow (`flows.modules.Direct`) neither needs nor starts a server.
"""

import inspect
import json
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_TASKS_DEFAULT_NO_CACHE", "true")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PREFECT_LOGGING_ROOT_LEVEL", "WARNING")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from cyclopts import App, CycloptsError, CycloptsPanel, Group, Parameter, ValidationError
from cyclopts.validators import Number
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.catalogue import Command, groups
from flows.modules import WithStatus
from flows.workers import ONE_THREAD, fork_from_here
from models.addresses import refuse_credential
from models.errors import AlmanacError
from models.moments import shortened

_EVERYWHERE = Group("Everywhere", sort_key=9)
_SHORT = 20
"""Columns whose values are no longer than this are not wrapped."""
_LARGE = 1000.0


class EncodingError(AlmanacError):
    """An argument has bytes that are not text."""


@Parameter(name="*", group=_EVERYWHERE)
@dataclass(frozen=True)
class Shown:
    """How the result of any command is shown."""

    json: Annotated[bool, Parameter(help="Print the result as one JSON object.", negative="")] = False


@Parameter(name="*", group=_EVERYWHERE)
@dataclass(frozen=True)
class Session(Shown):
    """How any flow runs."""

    workers: Annotated[
        int | None,
        Parameter(help="Number of worker processes; default: one per core.", validator=Number(gte=1)),
    ] = None
    scheduler: Annotated[str | None, Parameter(help="Use the Dask cluster at tcp://HOST:PORT.")] = None
    ui: Annotated[
        bool, Parameter(help="Keep the Prefect server running and print its address.", negative="")
    ] = False


def application() -> App:
    """All commands: `python -m flows <scenario> <command>`, and those without a scenario by their own name."""
    app = App(
        name="python -m flows",
        help="Batch scoring on a schedule: sales quantiles, device anomalies, machine failures.",
        version_flags=[],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        error_formatter=_panel,
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    )
    lines = []
    for module in groups():
        name = module.name
        group = app
        if module.is_grouped:
            group = App(name=name, help=module.summary, help_epilogue="", result_action="return_value")
            app.command(group)
        for command in module.commands:
            group.command(_command(command), name=command.name.removeprefix(f"{name}-"))
            about = command.about.partition("\n")[0]
            usage = command.name.replace("-", " ", 1) if module.is_grouped else command.name
            lines.append(f"- `{usage}` {about}")
    app.help_epilogue = "\n".join(lines)
    return app


def _panel(error: CycloptsError) -> Any:
    """The error in a panel, with a sentence for each value that pydantic refuses instead of pydantic's own text."""
    import pydantic

    cause = error.__cause__
    if isinstance(error, ValidationError) and isinstance(cause, pydantic.ValidationError):
        messages = dict.fromkeys(
            one["msg"].replace("Input should be", "Expected a value") for one in cause.errors()
        )
        error.exception_message = " ".join(f"{message.rstrip('.')}." for message in messages)
    return CycloptsPanel(error)


def main() -> None:
    """Run the command of the command line. The exit status is 0 only when it achieved its purpose."""

    def call(words: Sequence[str]) -> Any:
        _check_words(words)
        return application()(words)

    exit_after(call)


def exit_after(call: Callable[[Sequence[str]], Any]) -> NoReturn:
    """Call with the words of the command line, and exit with the status that it returns.

    An error that says what to do, an interrupt, and a reader of the output that has gone are no tracebacks.
    """
    try:
        status = call(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, for example `head`, has closed the pipe. Write nothing more, even when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except AlmanacError as error:
        Console(stderr=True).print(
            f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        status = 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        Console(stderr=True).print(
            "Stopped. Start it again with the same parameters: it continues where it stopped."
        )
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _command(command: Command) -> Callable[..., int]:
    """A function that runs the command, with its signature and the options that all commands have."""
    options = Session if command.needs_server else Shown
    signature = command.signature

    def run(*args: Any, session: Shown | None = None, **kwargs: Any) -> int:
        bound = signature.bind(*args, **kwargs)
        return _run(command, bound.arguments, session or options())

    store = [
        p.replace(annotation=Annotated[p.annotation, Parameter(group=_EVERYWHERE)])
        if p.name == "store_uri" or (p.name == "store" and p.default is None)
        else p
        for p in signature.parameters.values()
    ]
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in store]
    extra = inspect.Parameter(
        "session", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=options | None
    )
    run.__signature__ = signature.replace(parameters=[*keyword_only, extra], return_annotation=int)  # type: ignore[attr-defined]
    run.__annotations__ = {"session": options | None, "return": int}
    run.__doc__ = command.about
    run.__name__ = command.function
    return run


def _run(command: Command, parameters: dict[str, Any], session: Shown) -> int:
    if isinstance(session, Session):
        result = _on_a_server(command, parameters, session)
    else:
        with _only_json_on_stdout():
            result = command.load()(**parameters)
    if session.json:
        print(json.dumps(_finite(result), default=str, allow_nan=False))
    elif isinstance(result, WithStatus) and result.text is not None:
        print(result.text, end="")
    else:
        _show(result)
    return result.exit_status if isinstance(result, WithStatus) else 0


def _check_words(words: Sequence[str]) -> None:
    """Raise `CredentialError` or `EncodingError` for a password or unreadable bytes, before any other error repeats them."""
    option = "An argument"
    for word in words:
        texts = [word]
        if match := re.fullmatch(r"(--[\w-]+)(=(.*))?", word, re.DOTALL):
            option = match[1]
            texts = [match[3] or "", word]
        for text in texts:
            _refuse_other_encodings(option, text)
            refuse_credential(option, text)


def _refuse_other_encodings(option: str, text: str) -> None:
    """Raise `EncodingError` for text with bytes that this process cannot decode."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        spelling = os.fsencode(text).decode(errors="backslashreplace")
        raise EncodingError(
            f"{option} {spelling}: these bytes cannot be decoded. Expected a UTF-8 locale and a name in UTF-8. Set "
            "PYTHONUTF8=1, or rename the file."
        )


def _on_a_server(command: Command, parameters: dict[str, Any], session: Session) -> Any:
    has_workers = command.maps and not (session.scheduler or os.environ.get("ALMANAC_SCHEDULER"))
    if has_workers:
        os.environ.update(ONE_THREAD)
    # The imports from here on take seconds.
    from flows.cluster import check_scheduler
    from flows.server import prefect_server
    from flows.settings import settings

    _hide_tracebacks_of_user_errors()
    if session.workers:
        os.environ["ALMANAC_WORKERS"] = str(session.workers)
    if session.scheduler:
        os.environ["ALMANAC_SCHEDULER"] = session.scheduler
    if scheduler := settings().scheduler:
        check_scheduler(scheduler)

    def load() -> None:
        command.load()
        if has_workers:
            fork_from_here(command.module)

    with _only_json_on_stdout(), prefect_server(leave_up=session.ui, meanwhile=load) as api:
        result = command.load()(**parameters)
        if session.ui:
            Console(stderr=True).print(api.ui(), highlight=False, soft_wrap=True)
    return result


def _finite(value: Any) -> Any:
    """`value` with null for numbers that JSON cannot express."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hide_tracebacks_of_user_errors() -> None:
    """Keep errors that are printed in a sentence at the end out of the log: user errors, and a server that is away."""
    from prefect.logging.configuration import ensure_logging_setup
    from prefect.logging.handlers import PrefectConsoleHandler

    ensure_logging_setup()
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_not_told_at_the_end)


def _is_not_told_at_the_end(record: logging.LogRecord) -> bool:
    from httpx import TransportError

    if record.exc_info and isinstance(record.exc_info[1], AlmanacError | TransportError):
        return False
    return "Finished in state Failed" not in record.getMessage()


@contextmanager
def _only_json_on_stdout() -> Iterator[None]:
    """Redirect everything that a flow prints to standard error."""
    with redirect_stdout(sys.stderr):
        yield


def _show(result: Mapping[str, Any], indent: str = "") -> None:
    """Print a result for a person: figures in a column, lists of records as tables."""
    console = _console()
    entries = {
        name: value for name, value in result.items() if value is not None and value not in ([], {}, ())
    }
    width = max(len(name) for name in entries)
    for name, value in entries.items():
        if isinstance(value, Mapping):
            console.print(f"{indent}{name}", highlight=False)
            _show(value, indent + "  ")
        elif isinstance(value, list | tuple) and isinstance(value[0], Mapping):
            _show_records(name, value)
        else:
            lines = [_cell(item) for item in value] if isinstance(value, list | tuple) else [_cell(value)]
            for number, line in enumerate(lines):
                label = name if number == 0 else ""
                console.print(
                    f"{indent}{label:<{width}}  {line}", highlight=False, markup=False, soft_wrap=True
                )


def _show_records(name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Print records as a table, or one below the other if the columns would be too narrow."""
    console = _console()
    cells = [{column: _cell(value) for column, value in record.items()} for record in records]
    widest = {column: max(len(cell.get(column, "")) for cell in cells) for column in cells[0]}
    width_of_table = sum(max(len(column), min(width, _SHORT)) + 3 for column, width in widest.items())
    if width_of_table > console.width:
        console.print(name, highlight=False)
        for record in records:
            _show(record, "  ")
            console.print()
        return
    table = Table(title=name, title_justify="left", box=SIMPLE)
    for column, width in widest.items():
        table.add_column(column, overflow="fold", no_wrap=width <= _SHORT)
    for cell in cells:
        table.add_row(*(Text(text) for text in cell.values()))
    console.print(table)


def _console() -> Console:
    """Standard output, as wide as the terminal; without a terminal, 120 columns."""
    return Console(width=None if sys.stdout.isatty() else 120)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < _LARGE else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else shortened(str(value))
