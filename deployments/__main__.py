"""`python -m deployments`: check the environment, deploy, and find drift."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")

import yaml
from cyclopts import App, Parameter
from rich.console import Console

from deployments.automations import apply_automations, automations
from deployments.connections import findings
from deployments.declarations import PREFECT_FILE, declared
from deployments.differences import (
    GONE,
    Difference,
    differences,
    named,
    remove_deployments,
    remove_schedules,
    remove_triggers,
)
from deployments.environment import PROJECT, VARIABLES, environment
from deployments.local import Local
from deployments.queues import apply_queues
from deployments.server import apply_pool, connected
from flows.server import ServerError
from models.errors import AlmanacError

app = App(name="python -m deployments", help=__doc__, version_flags=[], result_action="return_value")

File = Annotated[Path, Parameter(name="--prefect-file")]


@app.command
def check(*, variables_only: bool = False) -> int:
    """Say which variables there are, what they are for and what they are, and whether what they name answers.

    Fails where one is missing or wrong, or where the server, its password, a worker, the store, the leases of the server's
    limits, its retention or the block of the alerts is not as runs need it. The store is tried from here: a run has an
    identity of its own.

    Args:
        variables_only: Connect to nothing.
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
    """Have the server run what the file declares; again and again without harm.

    Checks the environment first, creates or updates the work pool and its queues, has Prefect deploy, removes schedules
    that the file does not have any more, and applies the automations. Fails where something differs after that.

    Args:
        prefect_file: The declaration.
    """
    values = environment()
    content = declared(values, prefect_file)
    with connected(values) as client:
        pool = values["ALMANAC_POOL"]
        _say(f"work pool {pool}: {apply_pool(client, values)}")
        for name, done in apply_queues(client, pool, values["ALMANAC_POOL_TYPE"]).items():
            _say(f"work queue {name}: {done}")
        _prefect_deploy(content, values)
        for one in remove_schedules(client, differences(client, content, pool), pool):
            _say(f"removed, since the file does not have it: {one.deployment}, {one.fact}")
        for name, done in apply_automations(client, automations(client, values)).items():
            _say(f"automation {name}: {done}")
        left = differences(client, content, pool)
        for name in named(content):
            _say(f"deployed {name}")
    _tell(left, "python -m deployments drift --repair removes what the file does not have any more.")
    return int(any(one.fact != GONE or one.server is None for one in left))


@app.command
def drift(*, repair: bool = False, prefect_file: File = PREFECT_FILE) -> int:
    """Say what differs between file and server; exit status 1 where something does.

    Args:
        repair: Remove schedules, triggers and deployments of this project that the file does not have any more, and deploy
            again what differs.
        prefect_file: The declaration.
    """
    values = environment()
    content = declared(values, prefect_file)
    with connected(values) as client:
        pool = values["ALMANAC_POOL"]
        found = differences(client, content, pool)
        if repair and found:
            _tell(found, "Repairing.")
            _repair(client, values, content, found)
            found = differences(client, content, pool)
    _tell(found, "python -m deployments drift --repair puts it right.")
    return int(bool(found))


@app.command
def up(*, port: int = 4200) -> int:
    """Have a Prefect server, a worker and all deployments on this machine; what is up already stays.

    The server listens on the loopback interface only, and has a password. Without ALMANAC_STORE the store is ./store.

    Args:
        port: Port of the server and its UI.
    """
    local = Local(port)
    _say(f"Prefect server: {'started' if local.start_server() else 'is up already'}")
    os.environ.update(local.environment())
    status = deploy()
    _say(f"worker: {'started' if local.start_worker(environment()) else 'is up already'}")
    file = os.path.relpath(local.password_file)
    _say(f"\nPrefect UI: {local.ui}, which asks for the password in {file}")
    _say(f'On the command line: export PREFECT_API_URL={local.url} PREFECT_API_AUTH_STRING="$(cat {file})"')
    _say("Stop it all with: make undeploy")
    return status


@app.command
def down() -> int:
    """Stop the server and the worker of `up`, and the runs that the worker has started."""
    stopped = Local(0).stop()
    _say(f"stopped: {', '.join(stopped)}" if stopped else "Nothing was running.")
    return 0


def main() -> None:
    """Run the command that was asked for. Exit status 0 only when it did what it is for."""
    try:
        status = app(sys.argv[1:])
    except AlmanacError as error:
        Console(stderr=True).print(
            f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _repair(
    client: Any, values: Mapping[str, str], content: Mapping[str, Any], found: list[Difference]
) -> None:
    pool = values["ALMANAC_POOL"]
    surplus = [
        *remove_schedules(client, found, pool),
        *remove_triggers(client, found, pool),
        *remove_deployments(client, found, pool),
    ]
    differing = {one.deployment for one in found if one not in surplus}
    again = [one for name, one in named(content).items() if name in differing]
    if again:
        apply_pool(client, values)
        apply_queues(client, values["ALMANAC_POOL"], values["ALMANAC_POOL_TYPE"])
        _prefect_deploy({**content, "deployments": again}, values)


def _prefect_deploy(content: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Have Prefect's own command deploy the file with the environment filled in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        words = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=PROJECT,
            env={**os.environ, **values},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise ServerError(
            f"Prefect could not deploy (status {done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}"
        )


def _tell(found: list[Difference], what_to_do: str) -> None:
    for one in found:
        _say(str(one))
    _say(
        f"{len(found)} differences between file and server. {what_to_do}"
        if found
        else "File and server agree."
    )


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
