"""The modules of `flows` that have commands. A new scenario is a new module; nothing else names it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import flows


class WithStatus(dict[str, Any]):
    """The result of a direct command with its exit status, and text to print instead of the result."""

    def __init__(self, result: Mapping[str, Any], exit_status: int, text: str | None = None) -> None:
        super().__init__(result)
        self.exit_status, self.text = exit_status, text


@dataclass(frozen=True)
class Direct:
    """A command that is not a flow: a function that is called directly, without a Prefect server.

    It is for commands that only read a store. `name` and `fn` correspond to those of a flow.
    """

    name: str
    fn: Callable[..., Mapping[str, Any]]

    def __call__(self, **parameters: Any) -> Mapping[str, Any]:
        return self.fn(**parameters)


def with_commands() -> Iterator[ModuleType]:
    """Modules that name their flows and direct commands in `COMMANDS`, in alphabetical order."""
    for info in pkgutil.iter_modules(flows.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"flows.{info.name}")
        if getattr(module, "COMMANDS", None):
            yield module
