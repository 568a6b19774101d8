"""The part of `requirements.lock` that an image installs: unchanged pins and hashes, and nothing else.

    python deployments/locked.py requirements.lock [PACKAGE ...]

prints the named packages and everything that they need; without a name, what the project needs without its development
tools. Standard library only: it runs before anything is installed.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = "almanac (pyproject.toml)"
"""The name in the lock for the project itself, which needs its own dependencies."""

_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==")
_NEEDED_BY = re.compile(r"^    #(?: via)? +(\S.*)$")


class LockError(Exception):
    """The lock lacks a requested package."""


def blocks(lock: str) -> dict[str, list[str]]:
    """The lines of each pinned package by its name, hashes and "via" comments included.

    >>> blocks("a==1 \\\\\\n    --hash=sha256:0\\n    # via b\\n")
    {'a': ['a==1 \\\\', '    --hash=sha256:0', '    # via b']}
    """
    result: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lock.splitlines():
        if match := _PINNED.match(line):
            current = result.setdefault(match[1], [])
        if line.startswith((" ", "\t")) or match:
            current.append(line)
    return result


def part(lock: str, names: Iterable[str] = ()) -> str:
    """The lock of `names` and of everything that they need, directly or indirectly; see the module.

    The "via" comments of a package name its dependents. Raises `LockError` for a name without a pin.
    """
    pins = blocks(lock)
    roots = set(names) or {PROJECT}
    if unknown_names := roots - {PROJECT} - set(pins):
        raise LockError(
            f"{', '.join(sorted(unknown_names))}: not in the lock. Expected the name of a pinned package; "
            "add it to pyproject.toml and run `make lock`."
        )
    needed_by = {
        name: {m[1] for line in lines if (m := _NEEDED_BY.match(line))} for name, lines in pins.items()
    }
    packages = roots
    while more := {name for name, users in needed_by.items() if users & packages} - packages:
        packages = packages | more
    result = [line for name in sorted(pins) if name in packages for line in pins[name]]
    return "\n".join(line for line in result if not line.lstrip().startswith("#")) + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(part(Path(sys.argv[1]).read_text(), sys.argv[2:]))
    except LockError as error:
        sys.exit(str(error))
