"""Temporary folders of commands."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A temporary folder for a command of a `kind`; folders of killed commands of that kind are removed."""
    for orphan in Path(tempfile.gettempdir()).glob(f"almanac-{kind}-*-*"):
        if not _is_running(orphan.name.removeprefix(f"almanac-{kind}-").partition("-")[0]):
            shutil.rmtree(orphan, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"almanac-{kind}-{os.getpid()}-") as folder:
        yield Path(folder)


def _is_running(process: str) -> bool:
    """Whether a process with that number is running on this machine; True for text that is not a number."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True
