"""The notebooks on machines run from top to bottom, on a small simulated fleet."""

import shutil

import pytest

from tests.fleet import CUT, after_cut, fleet, sources
from tests.notebooks import execute, names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scored(machines_store, command, tmp_path_factory):
    """A store in which machines were trained on, scored over a range and evaluated."""
    folder = tmp_path_factory.mktemp("notebooks")
    where = ["--store", shutil.copytree(machines_store, folder / "store")]
    for words in (
        ["ingest", *sources(folder / "late", after_cut(fleet()))],
        ["score", "--from", CUT.isoformat()],
        ["evaluate"],
    ):
        output = command("machines", *words, *where)
        assert output.status == 0, output.err
    return folder / "store"


@pytest.mark.parametrize("name", names("machines"))
def test_a_machines_notebook_runs_from_top_to_bottom(name, scored, kernel):
    execute(name, kernel, str(scored))
