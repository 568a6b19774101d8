"""The notebooks run from top to bottom, on small data."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("sales_*.ipynb")))
def test_a_sales_notebook_runs_from_top_to_bottom(name, sales_store, monkeypatch):
    monkeypatch.setenv("ALMANAC_STORE", sales_store.uri)
    _execute(NOTEBOOKS / name)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def _execute(path: Path) -> None:
    """Run a notebook in the project's root; raises `CellExecutionError` at the first cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    root = str(NOTEBOOKS.parent)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": root}}
    ).execute()
