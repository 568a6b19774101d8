"""The start-up cost of a command: which modules it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import annotations, catalogue
from flows.modules import Direct, with_commands
from tests.conftest import ROOT

HEAVY = ("prefect", "prefect_dask", "dask", "distributed", "mlflow", "sklearn", "scipy", "lightgbm", "pandas")
OF_DATA = ("polars", "numpy", "pyarrow", "deltalake", "dataframely", "tasks", "models.scenario")


@pytest.fixture(scope="module", autouse=True)
def catalogue_of_this_source() -> None:
    """Update the catalogue before a separate process shows what it imports."""
    subprocess.run([sys.executable, "-m", "flows", "--help"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def called(*commands: list[str]) -> tuple[list[tuple[int, str]], set[str]]:
    """Status and output of `python -m flows` with each list of arguments in turn, and the modules imported by then."""
    program = (
        "import runpy, sys\n"
        f"for words in {list(commands)!r}:\n"
        "    sys.argv = ['python -m flows', *words]\n"
        "    try:\n        runpy.run_module('flows', run_name='__main__')\n"
        "    except SystemExit as ended:\n        print('\\0', ended.code, '\\0', end='', flush=True)\n"
        "print(*sys.modules)\n"
    )
    *ends, modules = _printed(program, stderr=subprocess.STDOUT).split("\0")
    outputs, statuses = ends[::2], map(int, ends[1::2])
    return list(zip(statuses, outputs, strict=True)), set(modules.split())


def _printed(program: str, **options: int) -> str:
    """The output of a separate Python program."""
    words = [sys.executable, "-c", program]
    process = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, timeout=300, **options
    )
    return process.stdout


HELP = {
    "--help": "Batch scoring on a schedule",
    "sales --help": "forecast",
    "devices run --help": "--tolerance-seconds",
    "sales bundles --help": "--last",
}
MISTAKES = {
    "sales forecast --no-such-option 1": "--no-such-option",
    "devices train --as-of yesterday": "--as-of",
    "machines scores": "scores",
    "nothing": "nothing",
}


def test_help_and_mistakes_import_neither_orchestration_nor_data_libraries():
    ends, modules = called(*(words.split() for words in HELP | MISTAKES))
    for (words, text), (status, output) in zip((HELP | MISTAKES).items(), ends, strict=True):
        assert (status == 0) == (words in HELP), output
        assert text in output, words
    assert modules.isdisjoint({*HEAVY, *OF_DATA, "flows.sales", "flows.devices", "flows.machines"})


def test_looking_at_a_store_imports_no_orchestration(tmp_path):
    looks = (["sales", "bundles"], ["devices", "history"], ["ingest-status", "--check"], ["health"])
    ends, modules = called(*([*words, "--store", str(tmp_path / "store"), "--json"] for words in looks))
    assert [status for status, _ in ends] == [0, 0, 3, 3], ends
    assert "polars" in modules
    assert modules.isdisjoint({*HEAVY, "sqlalchemy", "flows.sales"})


@pytest.mark.slow
def test_a_command_is_loaded_from_bytecode_and_without_the_modules_of_other_scenarios():
    program = (
        "import sys\nfrom importlib.machinery import SourceFileLoader\nfrom flows import catalogue\n"
        "found = next(c for g in catalogue.groups() for c in g.commands if c.name == 'machines-score')\n"
        "assert found.load().name == 'machines-score'\n"
        "import prefect.server.api.server\n"
        "print(*sys.modules)\n"
        "print(*(m.__cached__ for m in sys.modules.values() if type(getattr(m, '__loader__', 0)) is SourceFileLoader))\n"
    )
    modules, bytecode = (line.split() for line in _printed(program).splitlines())
    assert "flows.machines" in modules
    assert {*modules}.isdisjoint({"flows.sales", "flows.devices", "models.sales", "models.devices"})
    of_packages = {Path(path) for path in bytecode if "site-packages" in path}
    assert len(of_packages) > 1000
    assert not [path for path in of_packages if not path.exists()]


def test_a_shard_is_scored_with_lightgbm_but_without_what_that_could_be_combined_with():
    program = (
        "import sys\nfrom models.boosting import lgb\nimport numpy as np\n"
        "data = lgb.Dataset(np.arange(40.0).reshape(-1, 1), np.arange(40.0), params={'verbosity': -1})\n"
        "assert lgb.train({'verbosity': -1}, data, 1).predict([[3.0]]).shape == (1,)\n"
        "found = [m for m in ('pandas', 'sklearn', 'dask.dataframe') if m in sys.modules]\n"
        "import pandas, sklearn\n"
        "print(*found)\n"
    )
    assert _printed(program).split() == []


def test_every_command_that_needs_no_server_is_called_without_its_module():
    commands = [command for group in catalogue.groups() for command in group.commands]
    assert {command.name for command in commands} >= {"sales-bundles", "ingest-status", "housekeeping"}
    for command in commands:
        assert command.needs_server == (command.direct is None), command.name


def test_a_change_of_the_source_makes_the_catalogue_anew(tmp_path, monkeypatch):
    package = tmp_path / "flows"
    package.mkdir()
    monkeypatch.setattr("flows.__path__", [str(package)])
    before = catalogue._fingerprint()
    catalogue._keep(before, ())
    assert catalogue._stored_catalogue(before) == ()
    (package / "weather.py").write_text("COMMANDS = ()\n")
    assert catalogue._fingerprint() != before
    assert catalogue._stored_catalogue(catalogue._fingerprint()) is None


@pytest.mark.parametrize(
    "content", [b"", b"\x80no text", b'"something else"', b'{"source": "source", "groups": [{"name": "x"}]}']
)
def test_a_catalogue_that_cannot_be_read_counts_as_none(content, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_place", lambda: tmp_path / "catalogue.json")
    (tmp_path / "catalogue.json").write_bytes(content)
    assert catalogue._stored_catalogue("source") is None


def test_where_the_catalogue_cannot_be_kept_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_place", lambda: Path(tmp_path / "file" / "catalogue.json"))
    (tmp_path / "file").write_text("not a folder")
    catalogue._keep("source", ())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_direct_command_that_only_its_module_can_make_is_loaded_with_it():
    def here() -> dict[str, int]:
        return {"one": 1}

    command = catalogue._command("flows.nowhere", Direct("here", here))
    assert (command.direct, command.needs_server) == (None, False)


def test_a_catalogue_comes_back_from_its_file_as_it_was_made():
    groups = [catalogue._record_of(catalogue._group(module)) for module in with_commands()]
    assert [
        catalogue._record_of(group) for group in catalogue._stored_catalogue(catalogue._fingerprint())
    ] == groups
    assert any(command["signature"] for group in groups for command in group["commands"])


def test_a_catalogue_refers_to_nothing_outside_the_project():
    with pytest.raises(LookupError, match="not in a module of the project"):
        annotations.object_at("os:system")
