"""Compile the packages' modules that commands, servers, workers and tests import: a quarter of what is installed.

    python -m deployments.bytecode

imports whatever an `import` in the project's code names, also one in a function, and keeps the bytecode even if
`PYTHONDONTWRITEBYTECODE` is set. The rest (the packages' own tests, most of Azure's clients, tools for documentation) is
compiled when it is first used.
"""

import ast
import os
import py_compile
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("flows", "tasks", "models", "deployments", "benchmarks", "tests")
PROGRAMS = (
    "aiosqlite",
    "alembic.command",
    "anyio._backends._asyncio",
    "burner_redis",
    "ipykernel.kernelapp",
    "mlflow.pyfunc",
    "mlflow.server.fastapi_app",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.instrumentation.auto_instrumentation",
    "prefect.cli._server_utils",
    "prefect.cli._worker_utils",
    "prefect.cli.deploy._core",
    "prefect.cli.flow_run",
    "prefect.cli.server",
    "prefect.cli.worker",
    "prefect.runner._workspace_supervisor",
    "prefect.server.api.server",
    "prefect.server.events.ordering.memory",
    "prefect.server.events.services.actions",
    "prefect.server.services.runner",
    "ruamel.yaml",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "xdist.remote",
)
"""Modules that servers and other programs import by a name that is no import in this code."""


def names(code: str) -> set[str]:
    """The modules that code imports, and what it imports from them.

    >>> sorted(names("import ast\\ndef f():\\n    from os import path"))
    ['ast', 'os', 'os.path']
    """
    result = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            result |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return result


def load(modules: Iterable[str]) -> None:
    """Import the modules and keep their bytecode; a name that is no module is an attribute, which may import one."""
    sys.dont_write_bytecode = False
    for name in modules:
        package, _, attribute = name.rpartition(".")
        with suppress(ImportError):
            if not (package and hasattr(import_module(package), attribute)):
                import_module(name)


def main() -> None:
    """Compile in as many processes as there are cores, a package in one of them."""
    for module in [*sys.modules.values()]:
        if "site-packages" in (
            getattr(module, "__cached__", None) or ""
        ):  # imported when the interpreter started
            py_compile.compile(str(module.__file__))
    files = [file for folder in FOLDERS for file in (PROJECT / folder).rglob("*.py")]
    packages = defaultdict(list)
    for name in sorted({*PROGRAMS}.union(*(names(file.read_text()) for file in files))):
        package = name.partition(".")[0]
        if package not in (*FOLDERS, *sys.stdlib_module_names):
            packages[package].append(name)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(load, packages.values()))


if __name__ == "__main__":
    main()
