"""Where the notebooks are, and how the tests run them."""

from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def execute(name: str, kernel: KernelManager, store: str) -> None:
    """Run a notebook on a store, without the names of an earlier one; raises `CellExecutionError` where a cell fails."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    begin = nbformat.v4.new_code_cell(f"%reset -f\n%env ALMANAC_STORE={store}")
    notebook.cells.insert(0, begin)
    client = NotebookClient(notebook, timeout=300, km=kernel)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()


def names(scenario: str) -> list[str]:
    """The notebooks of a scenario."""
    return sorted(path.name for path in NOTEBOOKS.glob(f"{scenario}_*.ipynb"))
