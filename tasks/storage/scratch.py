"""Folders for what a command needs while it runs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A temporary folder for a command of a `kind`; those that killed commands of the kind left are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"almanac-{kind}-*-*"):
        if not _is_running(left.name.removeprefix(f"almanac-{kind}-").partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"almanac-{kind}-{os.getpid()}-") as folder:
        yield Path(folder)


def _is_running(process: str) -> bool:
    """Whether a process of that number runs, on this machine; True for what is no number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True
