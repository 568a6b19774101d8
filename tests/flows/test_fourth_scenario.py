"""A further scenario is `models/<name>/` and `flows/<name>.py`; nothing that exists has to know of it."""

import importlib
import inspect
import pkgutil
import re

import pytest

import models
from models.scenario import Scenario
from tests.conftest import ROOT
from tests.toy import HOURLY, TOY, Toy

SCENARIOS = [TOY, HOURLY] + [
    value
    for found in pkgutil.iter_modules(models.__path__)
    if found.ispkg
    for value in vars(importlib.import_module(f"models.{found.name}")).values()
    if Scenario in type(value).__mro__
]
MEMBERS = [name for name in vars(Scenario) if not name.startswith("_")]


def test_every_folder_of_models_is_found_to_be_a_scenario():
    assert "sales" in [scenario.name for scenario in SCENARIOS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.name}")
@pytest.mark.parametrize("member", MEMBERS)
def test_a_scenario_has_every_member_of_the_protocol_with_its_parameters(scenario, member):
    wanted = getattr(Scenario, member)
    found = getattr(type(scenario), member, None)
    if found is None:
        assert hasattr(scenario, member)
    elif inspect.isfunction(wanted):
        assert list(inspect.signature(found).parameters) == list(inspect.signature(wanted).parameters)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.name}")
def test_a_scenario_can_be_hashed_and_its_tables_go_by_their_names(scenario):
    assert hash(scenario) == hash(type(scenario)()) or scenario is HOURLY
    assert {name: table.name for name, table in scenario.tables.items()} == {
        name: name for name in scenario.tables
    }
    sharded = [table for table in scenario.tables.values() if table.shard_by]
    assert sharded
    assert all(set(table.shard_by) <= set(table.unique) for table in sharded)


def test_nothing_below_the_flows_of_a_scenario_names_it():
    for floor in ("flows", "tasks", "models"):
        for path in (ROOT / floor).rglob("*.py"):
            assert "toy" not in path.read_text().split(), path


@pytest.mark.parametrize("name", ["sales", "devices", "machines"])
def test_tasks_never_ask_which_scenario_it_is(name):
    for path in (ROOT / "tasks").rglob("*.py"):
        text = path.read_text()
        assert f'"{name}"' not in text, path
        assert f"models.{name}" not in text, path


SNIPPET = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_what_is_written_about_an_own_scenario_shows_the_example_s_own_text():
    written = (ROOT / "docs" / "own_scenario.md").read_text()
    snippets = SNIPPET.findall(written)
    assert len(snippets) == written.count("```python") > 8
    for path, snippet in snippets:
        assert snippet in (ROOT / path).read_text(), f"not in {path}:\n{snippet}"


def test_every_member_that_an_own_scenario_may_leave_out_is_named_there():
    written = (ROOT / "docs" / "own_scenario.md").read_text()
    inherited = [name for name in MEMBERS if name not in vars(Toy) and name not in Toy.__dataclass_fields__]
    assert [name for name in inherited if f"`{name}`" not in written and name != "derived_tables"] == []
