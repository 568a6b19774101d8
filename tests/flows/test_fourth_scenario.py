"""A new scenario is `models/<name>/` and `flows/<name>.py`; no existing code depends on it."""

import importlib
import inspect
import pkgutil
import re

import pytest

import models
import models.scenario
from models.scenario import Scenario
from tests.conftest import ROOT
from tests.toy import HOURLY, TOY, Plain

FOLDERS = sorted(package.name for package in pkgutil.iter_modules(models.__path__) if package.ispkg)
SCENARIOS = [TOY, HOURLY] + [
    value
    for folder in FOLDERS
    if (ROOT / "models" / folder / "scenario.py").exists()
    for value in vars(importlib.import_module(f"models.{folder}.scenario")).values()
    if isinstance(value, Scenario)
]
CAPABILITIES = {
    name: kind
    for name, kind in vars(models.scenario).items()
    if inspect.isabstract(kind)
    and kind.__module__.startswith(f"{models.scenario.__name__}.")
    and kind not in (Scenario, models.scenario.Search)
}


def test_every_scenario_of_the_package_is_checked_here():
    assert {scenario.name for scenario in SCENARIOS} == {"toy", "sales", "devices", "machines"}


def test_a_scenario_must_have_nine_members_and_each_capability_at_least_one():
    assert sorted(Scenario.__abstractmethods__) == [
        "fit",
        "key",
        "load",
        "name",
        "published_table",
        "requested_keys",
        "resolve_as_of",
        "score",
        "tables",
    ]
    assert len(CAPABILITIES) > 10
    assert all(kind.__abstractmethods__ for kind in CAPABILITIES.values())


@pytest.mark.parametrize("member", sorted(Scenario.__abstractmethods__))
def test_a_scenario_that_lacks_a_member_cannot_be_instantiated(member):
    members = {name: vars(Plain).get(name, None) for name in Scenario.__abstractmethods__ - {member}}
    with pytest.raises(TypeError, match=rf"abstract method '?{member}\b"):
        type("Incomplete", (Scenario,), members)()


def test_a_capability_whose_members_are_missing_cannot_be_instantiated():
    for name, kind in CAPABILITIES.items():
        own = set(kind.__abstractmethods__) - set(Scenario.__abstractmethods__)
        missing = own - set(dir(Plain))
        if missing:
            with pytest.raises(TypeError, match=min(missing)):
                type(f"With{name}", (Plain, kind), {})()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.name}")
def test_a_scenario_takes_the_parameters_that_tasks_give(scenario):
    for kind in type(scenario).__mro__:
        if kind is Scenario or kind in CAPABILITIES.values():
            for member, declared in vars(kind).items():
                if inspect.isfunction(declared) and not member.startswith("_"):
                    own = inspect.signature(getattr(scenario, member)).parameters
                    assert ["self", *own] == list(inspect.signature(declared).parameters), member


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.name}")
def test_a_scenario_has_no_member_of_a_capability_that_it_does_not_declare(scenario):
    for name, kind in CAPABILITIES.items():
        if not isinstance(scenario, kind):
            declared = kind.__abstractmethods__ & set(vars(kind))
            assert not [member for member in declared if hasattr(scenario, member)], name


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
    text = (ROOT / "docs" / "own_scenario.md").read_text()
    snippets = SNIPPET.findall(text)
    assert len(snippets) == text.count("```python") > 8
    for path, snippet in snippets:
        assert snippet in (ROOT / path).read_text(), f"not in {path}:\n{snippet}"


def test_every_capability_that_an_own_scenario_may_add_is_named_there():
    text = (ROOT / "docs" / "own_scenario.md").read_text()
    assert [name for name in CAPABILITIES if f"`{name}`" not in text] == []
