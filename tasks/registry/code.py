"""The version of the code that produced a result."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

_FLOORS = Path(__file__).resolve().parents[2]


@cache
def code_version() -> str:
    """The package's version and a digest of the source of `models` and `tasks`.

    It is part of a run's id, so that no other code completes an interrupted run.
    """
    content = hashlib.sha256()
    for floor in ("models", "tasks"):
        for path in sorted((_FLOORS / floor).rglob("*.py")):
            content.update(f"{path.relative_to(_FLOORS)}\n".encode() + path.read_bytes())
    return f"{version('almanac')}+{content.hexdigest()[:12]}"
