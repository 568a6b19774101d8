"""A separate Prefect server for a file with tests of the deployments; each test has its own work pool and names."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.conftest import MIGRATED

TEN_RUNS = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "10",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "10",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_SCHEDULED_TIME": "P400D",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
"""The server plans ten runs of each schedule, also of those that are months away. Queued runs ask often."""


def access(local: Any) -> dict[str, str]:
    """The variables that say where the server is and what its password is."""
    return {"PREFECT_API_URL": local.url, "PREFECT_API_AUTH_STRING": local.password()}


def two_ports() -> int:
    """The first of two free ports in a row: that of a local server, and that of its pages."""
    from flows.server import free_port

    while True:
        port = free_port()
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
        except OSError:
            continue
        return port


@pytest.fixture(scope="module")
def local(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The server, as `make deploy` starts it; `stop` ends everything that a test has started with it."""
    from deployments.local import Local

    local_server = Local(two_ports(), tmp_path_factory.mktemp("deploy"))
    shutil.copytree(prefect_database, local_server.folder / "prefect")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (TEN_RUNS | MIGRATED).items():
                patch.setenv(name, value)
            assert local_server.start_server()
        yield local_server
    finally:
        local_server.stop()


@pytest.fixture(scope="module")
def deployments(local: Any) -> Callable[..., SimpleNamespace]:
    """`deployments("deploy", ..., ALMANAC_POOL=...)`: the command, called in this process; its output."""
    import contextlib
    import io

    from deployments.__main__ import main

    def run(*words: Any, **environment: str) -> SimpleNamespace:
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr("sys.argv", ["python -m deployments", *map(str, words)])
            for name in [name for name in os.environ if name.startswith("ALMANAC_")]:
                patch.delenv(name)
            for name, value in {**access(local), "COLUMNS": "200", **environment}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as exit:
                main()
        return SimpleNamespace(status=exit.value.code, out=out.getvalue(), err=err.getvalue())

    return run


@pytest.fixture(scope="module")
def client(local: Any) -> Iterator[Any]:
    """A client of the server."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(local.url, auth_string=local.password()) as prefect_client:
        yield prefect_client


@pytest.fixture
def few(tmp_path: Path) -> Callable[..., Path]:
    """`few("forecast", ...)`: a file with the deployments of these flows only, under names of the test's own."""
    from deployments.declarations import PREFECT_FILE

    def write(*flows: str, change: Callable[[list[dict[str, Any]]], object] | None = None) -> Path:
        content = yaml.safe_load(PREFECT_FILE.read_text())
        selection = [one for one in content["deployments"] if one["entrypoint"].partition(":")[2] in flows]
        for one in selection:
            one["name"] = f"{one['name']}-{tmp_path.name}"
        if change:
            change(selection)
        path = tmp_path / "prefect.yaml"
        path.write_text(yaml.safe_dump({"pull": content["pull"], "deployments": selection}))
        return path

    return write
