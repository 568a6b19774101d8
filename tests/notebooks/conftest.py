"""One kernel for all notebooks, which imports each module once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client import KernelManager

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def kernel(prefect_home: Path) -> Iterator[KernelManager]:
    """A kernel in the project's root."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=ROOT, env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    yield manager
    manager.shutdown_kernel(now=True)
