"""Where the notebooks are, and how the tests run them."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(name: str) -> None:
    """Run a notebook in the project's root; raises `CellExecutionError` at the first cell that fails."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    where = {"metadata": {"path": str(NOTEBOOKS.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()


def names(scenario: str) -> list[str]:
    """The notebooks of a scenario."""
    return sorted(path.name for path in NOTEBOOKS.glob(f"{scenario}_*.ipynb"))
