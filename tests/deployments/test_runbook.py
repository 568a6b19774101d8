"""Every command in the runbook and in the pages about operations is accepted by its program."""

import re
import shlex
from uuid import uuid4

import pytest
import yaml

from tests.conftest import ROOT

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
PAGES = ("runbook", "operations", "deployments", "upgrading", "azure")
_PROGRAMS = ("prefect ", "python -m flows ", "python -m deployments ")
_NAMES = ("RUN_ID", "DEPLOYMENT_ID")


def commands(page: str) -> set[str]:
    """Commands in indented lines and between backticks, without comments; those with an ellipsis are left out."""
    text = (ROOT / f"docs/{page}.md").read_text().replace("\\\n", " ")
    lines = [line.strip().removeprefix(".venv/bin/") for line in re.findall(r"^    (\S.*)$", text, re.M)]
    candidates = [*lines, *re.findall(r"`([^`\n]+)`", text)]
    commands_of_page = {re.sub(r"\s+#.*", "", one) for one in candidates if one.startswith(_PROGRAMS)}
    return {one for one in commands_of_page if not re.search(r"[…<\[\]|]|N --|\.\.\.", one)}


def parsed(command: str) -> None:
    """Parse a command as its program does, without running it. Raises the program's error for a wrong one."""
    for name in _NAMES:
        command = command.replace(name, str(uuid4()))
    words = shlex.split(command)
    if words[0] == "prefect":
        from prefect.cli._app import _app as app

        app.parse_args(words[1:], exit_on_error=False, print_error=False)
        return
    if words[2] == "flows":
        from flows.command_line import application

        application().parse_args(words[3:], exit_on_error=False, print_error=False)
    else:
        from deployments.__main__ import app as deployments

        deployments.parse_args(words[3:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_its_program_takes(page):
    lines = commands(page)
    assert lines
    for one in sorted(lines):
        try:
            parsed(one)
        except Exception as error:
            pytest.fail(f"{one}: {type(error).__name__}: {error}")


def test_a_command_that_is_not_there_is_found_out():
    for one in ("prefect flow-run explode RUN_ID", "python -m flows sales forecast --planet Mars"):
        with pytest.raises(Exception, match=r"explode|planet"):
            parsed(one)


def test_every_automation_has_its_place_in_the_runbook():
    declared = yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
    headings = re.findall(r"^## (.*)$", RUNBOOK, re.M)
    assert [one["name"] for one in declared if one["name"] not in headings] == []
