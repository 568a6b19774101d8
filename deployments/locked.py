"""The part of `requirements.lock` that an image installs: pins and hashes as they stand, and nothing else.

    python deployments/locked.py requirements.lock [PACKAGE ...]

prints what the named packages need, themselves included; with no name, what the project needs without
its development tools. Standard library only: it runs before anything is installed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = "almanac (pyproject.toml)"
"""What the lock calls the one that needs the project's own dependencies."""

_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==")
_NEEDED_BY = re.compile(r"^    #(?: via)? +(\S.*)$")


class LockError(Exception):
    """The lock does not have what is asked of it."""


def blocks(lock: str) -> dict[str, list[str]]:
    """The lines of each pinned package by its name, hashes and "via" comments included.

    >>> blocks("a==1 \\\\\\n    --hash=sha256:0\\n    # via b\\n")
    {'a': ['a==1 \\\\', '    --hash=sha256:0', '    # via b']}
    """
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lock.splitlines():
        if pinned := _PINNED.match(line):
            current = found.setdefault(pinned[1], [])
        if line.startswith((" ", "\t")) or pinned:
            current.append(line)
    return found


def part(lock: str, names: Iterable[str] = ()) -> str:
    """The lock of `names` and of everything that they need, directly or not; see the module.

    Who needs a package is read from its "via" comments. Raises `LockError` for a name without a pin.
    """
    pinned = blocks(lock)
    wanted = set(names) or {PROJECT}
    if missing := wanted - {PROJECT} - set(pinned):
        raise LockError(
            f"{', '.join(sorted(missing))}: not in the lock. Expected the name of a pinned package; "
            "add it to pyproject.toml and run `make lock`."
        )
    needed_by = {
        name: {m[1] for line in lines if (m := _NEEDED_BY.match(line))} for name, lines in pinned.items()
    }
    reached = wanted
    while more := {name for name, users in needed_by.items() if users & reached} - reached:
        reached = reached | more
    kept = [line for name in sorted(pinned) if name in reached for line in pinned[name]]
    return "\n".join(line for line in kept if not line.lstrip().startswith("#")) + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(part(Path(sys.argv[1]).read_text(), sys.argv[2:]))
    except LockError as error:
        sys.exit(str(error))
