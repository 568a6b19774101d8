"""Importing libraries without dependencies that serve only unused features."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Make imports of these modules fail in the block, as if they were not installed; loaded modules stay."""
    names = [name for name in modules if name not in sys.modules]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
