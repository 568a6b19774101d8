"""`python -m deployments`: check the environment, deploy, and compare the server with the file."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

import yaml
from cyclopts import App, Parameter
from rich.console import Console

from deployments.automations import apply_automations, automations
from deployments.connections import findings
from deployments.declarations import PREFECT_FILE, declaration
from deployments.differences import (
    GONE,
    SCHEDULE,
    TRIGGER,
    Difference,
    deployments_by_name,
    differences,
    remove,
)
from deployments.environment import PROJECT, VARIABLES, VariableError, environment
from deployments.local import Local
from deployments.pages import serve
from deployments.queues import apply_queues
from deployments.server import apply_pool, check_version, connected
from flows.command_line import exit_after
from flows.server import ServerError
from tasks.storage.store import Store

app = App(
    name="python -m deployments",
    help=__doc__,
    version_flags=[],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

File = Annotated[Path, Parameter(name="--prefect-file")]
LEAST_SECRET = 16


@app.command
def check(*, variables_only: bool = False) -> int:
    """List the variables with their purposes and values, and check what they refer to.

    Fails if a variable is missing or wrong, or if the server, its password, a worker, the store, the leases of the
    server's limits, its retention or the alert block does not meet the needs of runs. The store is tried from here; a
    run has its own identity.

    Args:
        variables_only: Check only the variables, without any connection.
    """
    values = environment()
    width = max(len(one.name) for one in VARIABLES)
    for one in VARIABLES:
        _say(f"{one.name:<{width}}  {values[one.name] or '-'}\n{'':<{width}}  {one.purpose}")
    if variables_only:
        return 0
    _say("")
    wrong = 0
    for finding in findings(values):
        _say(str(finding))
        wrong += not finding.right
    return int(wrong > 0)


@app.command
def deploy(prefect_file: File = PREFECT_FILE) -> int:
    """Deploy what the file declares; repeating it is harmless.

    Checks the environment, creates or updates the work pool and its queues, lets Prefect deploy, removes schedules that
    are no longer in the file, and applies the automations. Fails if file and server still differ afterwards.

    Args:
        prefect_file: File with the declarations.
    """
    values = environment()
    content = declaration(values, prefect_file)
    with connected(values) as client:
        check_version(client)
        pool = values["ALMANAC_POOL"]
        _say(f"work pool {pool}: {apply_pool(client, values)}")
        for name, action in apply_queues(client, pool, values["ALMANAC_POOL_TYPE"]).items():
            _say(f"work queue {name}: {action}")
        _prefect_deploy(content, values)
        all_differences = differences(client, content, pool)
        surplus = remove(client, all_differences, pool, SCHEDULE)
        for one in surplus:
            _say(f"removed, because it is not in the file: {one.deployment}, {one.fact}")
        for name, action in apply_automations(client, automations(client, values)).items():
            _say(f"automation {name}: {action}")
        rest = [one for one in all_differences if one not in surplus]
        for name in deployments_by_name(content):
            _say(f"deployed {name}")
    _tell(rest, "python -m deployments drift --repair removes what is no longer in the file.")
    return int(any(one.fact != GONE or one.server is None for one in rest))


@app.command
def drift(*, repair: bool = False, prefect_file: File = PREFECT_FILE) -> int:
    """List the differences between file and server; the exit status is 1 if there are any.

    Args:
        repair: Remove schedules, triggers and deployments of this project that are no longer in the file, and redeploy
            those that differ.
        prefect_file: File with the declarations.
    """
    values = environment()
    content = declaration(values, prefect_file)
    with connected(values) as client:
        pool = values["ALMANAC_POOL"]
        all_differences = differences(client, content, pool)
        if repair and all_differences:
            _tell(all_differences, "Repairing.")
            _repair(client, values, content, all_differences)
            all_differences = differences(client, content, pool)
    _tell(all_differences, "python -m deployments drift --repair corrects them.")
    return int(bool(all_differences))


@app.command
def up(*, port: int = 4200) -> int:
    """Start a Prefect server and a worker on this machine, unless they are running, and deploy everything.

    The server listens only on the loopback interface and has a password. Without ALMANAC_STORE, the store is ./store.
    The pages of runs are served at the next port, for those who know their address.

    Args:
        port: Port of the server and its UI.
    """
    local = Local(port)
    _say(f"Prefect server: {'started' if local.start_server() else 'is already running'}")
    os.environ.update(local.environment())
    status = deploy()
    values = environment()
    _say(f"worker: {'started' if local.start_worker(values) else 'is already running'}")
    local.start_pages(values)
    file = os.path.relpath(local.password_file)
    _say(f"\nPrefect UI: {local.ui}, which asks for the password in {file}")
    _say(f'On the command line: export PREFECT_API_URL={local.url} PREFECT_API_AUTH_STRING="$(cat {file})"')
    _say("Stop it all with: make undeploy")
    return status


@app.command
def pages(*, port: int) -> int:
    """Serve the pages of runs in ALMANAC_STORE on the loopback interface, below the path of ALMANAC_PAGES_URL.

    If ALMANAC_PAGES_URL is set for deployments too, artifacts and events of runs link to this server. Who knows the URL can
    read the pages: its path should be long and random.

    Args:
        port: Port to listen on.
    """
    values = environment()
    if len(urlsplit(values["ALMANAC_PAGES_URL"]).path.strip("/")) < LEAST_SECRET:
        raise VariableError(
            "ALMANAC_PAGES_URL: expected an address whose path is a secret of 16 characters or more, such as "
            "https://pages.example/AeBai5phoh9yae7ohK. Whoever knows it can read the pages."
        )
    serve(Store(values["ALMANAC_STORE"]), values["ALMANAC_PAGES_URL"], port)
    return 0


@app.command
def down() -> int:
    """Stop everything that `up` started, and the runs that the worker started."""
    names = Local(0).stop()
    _say(f"stopped: {', '.join(names)}" if names else "Nothing was running.")
    return 0


def main() -> None:
    """Run the command of the command line. The exit status is 0 only when it achieved its purpose."""
    exit_after(app)


def _repair(
    client: Any, values: Mapping[str, str], content: Mapping[str, Any], all_differences: list[Difference]
) -> None:
    pool = values["ALMANAC_POOL"]
    surplus = remove(client, all_differences, pool, SCHEDULE, TRIGGER, GONE)
    names = {one.deployment for one in all_differences if one not in surplus}
    again = [one for name, one in deployments_by_name(content).items() if name in names]
    if again:
        apply_pool(client, values)
        apply_queues(client, pool, values["ALMANAC_POOL_TYPE"])
        _prefect_deploy({**content, "deployments": again}, values)


def _prefect_deploy(content: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Deploy the file, with the environment filled in, with Prefect's own command."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        words = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        process = subprocess.run(
            [sys.executable, *words],
            cwd=PROJECT,
            env={**os.environ, **values},
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode != 0:
        raise ServerError(
            f"Prefect could not deploy (status {process.returncode}):\n{(process.stdout + process.stderr)[-3000:]}"
        )


def _tell(all_differences: list[Difference], what_to_do: str) -> None:
    for one in all_differences:
        _say(str(one))
    _say(
        f"{len(all_differences)} differences between file and server. {what_to_do}"
        if all_differences
        else "File and server agree."
    )


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
