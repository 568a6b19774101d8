"""The commands and their signatures, available without importing the commands' code.

The catalogue is made from the modules that name their flows in `COMMANDS`, and stored as JSON beside their bytecode. It
is valid for the source that it was made from: any change of `flows`, `tasks` or `models` rebuilds it. If it cannot be
stored, everything is imported each time.
"""

import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flows
from flows import annotations
from flows.annotations import object_at, reference
from flows.modules import Direct, with_commands

if TYPE_CHECKING:
    from models.scenario import Scenario

_FLOORS = ("tasks", "models")


@dataclass(frozen=True)
class Command:
    """A command as the command line shows it: its name, its signature and its help.

    `maps`: its tasks run in worker processes. `direct` refers to the function of a command that is not a flow, and
    `arguments` are the first arguments of that function.
    """

    module: str
    name: str
    function: str
    signature: inspect.Signature
    about: str
    needs_server: bool
    maps: bool
    direct: str | None = None
    arguments: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """The command itself. A flow is imported with its module; a direct command is not."""
        if self.direct is not None:
            return partial(object_at(self.direct), *self.arguments)
        commands = importlib.import_module(self.module).COMMANDS
        command: Callable[..., Any] = next(one for one in commands if one.name == self.name)
        return command


@dataclass(frozen=True)
class Group:
    """The commands of one module, and a reference to its scenario if it has one."""

    name: str
    summary: str
    commands: tuple[Command, ...]
    scenario_name: str | None = None
    scenario: str | None = None

    @property
    def is_grouped(self) -> bool:
        """Whether its commands are called by the module's name followed by their own."""
        return any(command.name.startswith(f"{self.name}-") for command in self.commands)


def groups() -> tuple[Group, ...]:
    """All commands, by module, in alphabetical order."""
    source = _fingerprint()
    catalogue = _stored_catalogue(source)
    if catalogue is None:
        catalogue = tuple(_group(module) for module in with_commands())
        _keep(source, catalogue)
    return catalogue


def scenarios() -> Iterator["Scenario"]:
    """The scenario of each module that has one, in alphabetical order."""
    for group in groups():
        if group.scenario is not None:
            yield object_at(group.scenario)


def scenario(name: str) -> "Scenario":
    """The scenario of that name."""
    instance: Scenario = object_at({group.scenario_name: group.scenario for group in groups()}[name] or "")
    return instance


def _group(module: Any) -> Group:
    scenario = getattr(module, "SCENARIO", None)
    return Group(
        name=module.__name__.rpartition(".")[2],
        summary=(module.__doc__ or "").partition("\n")[0],
        commands=tuple(_command(module.__name__, command) for command in module.COMMANDS),
        scenario_name=None if scenario is None else scenario.name,
        scenario=None
        if scenario is None
        else reference(scenario, type(scenario).__module__, module.__name__),
    )


def _command(module: str, command: Any) -> Command:
    from prefect_dask import DaskTaskRunner

    parameters = inspect.signature(command.fn, eval_str=True).parameters.values()
    entry = Command(
        module=module,
        name=command.name,
        function=command.fn.__name__,
        signature=inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]),
        about=inspect.getdoc(command.fn) or "",
        needs_server=not isinstance(command, Direct),
        maps=isinstance(getattr(command, "task_runner", None), DaskTaskRunner),
    )
    if entry.needs_server:
        return entry
    function: Any = command.fn
    arguments: tuple[str, ...] = ()
    if isinstance(function, partial):
        function, arguments = function.func, function.args
    return replace(entry, direct=reference(function, function.__module__), arguments=arguments)


def _fingerprint() -> str:
    """A digest of the source of the commands and of the interpreter's version."""
    digest = hashlib.blake2b(sys.version.encode(), digest_size=16)
    roots: list[Path] = [
        *map(Path, flows.__path__),
        *(Path(flows.__path__[0]).parent / floor for floor in _FLOORS),
    ]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _place() -> Path:
    where = hashlib.blake2b("\0".join(flows.__path__).encode(), digest_size=4).hexdigest()
    return Path(flows.__path__[0]) / "__pycache__" / f"catalogue-{where}.json"


def _stored_catalogue(source: str) -> tuple[Group, ...] | None:
    """The stored catalogue of this source; None if there is none, or it cannot be read."""
    try:
        content = json.loads(_place().read_bytes())
        return tuple(_group_of(group) for group in content["groups"]) if content["source"] == source else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _keep(source: str, catalogue: tuple[Group, ...]) -> None:
    """Write the catalogue next to Python's bytecode, atomically."""
    place = _place()
    part = place.with_suffix(f".{os.getpid()}")
    with suppress(OSError, TypeError):
        content = json.dumps({"source": source, "groups": [_record_of(group) for group in catalogue]})
        place.parent.mkdir(exist_ok=True)
        try:
            part.write_text(content)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)


def _record_of(group: Group) -> dict[str, Any]:
    """The group as JSON. Raises TypeError for an unsupported annotation."""
    commands = [
        {field: getattr(command, field) for field in Command.__dataclass_fields__}
        | {"signature": annotations.as_json(command.signature)}
        for command in group.commands
    ]
    return {field: getattr(group, field) for field in Group.__dataclass_fields__} | {"commands": commands}


def _group_of(group: dict[str, Any]) -> Group:
    commands = [
        Command(
            **command
            | {
                "signature": annotations.from_json(command["signature"]),
                "arguments": tuple(command["arguments"]),
            }
        )
        for command in group["commands"]
    ]
    return Group(**group | {"commands": tuple(commands)})
