"""The modules of `flows` that offer commands. A new scenario is a new module; nothing else names it."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import flows


def with_commands() -> Iterator[ModuleType]:
    """Modules that name their flows in `COMMANDS`, in alphabetical order."""
    for found in pkgutil.iter_modules(flows.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"flows.{found.name}")
        if getattr(module, "COMMANDS", None):
            yield module
