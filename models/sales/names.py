"""Names of SKUs and stores that resemble one that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 3
_CLOSE = 0.5


def near(name: str, candidates: Iterable[str]) -> list[str]:
    """Up to `NEAR` of the `candidates` that resemble `name`, the nearest first.

    Case, spaces and leading zeros do not matter.

    >>> near("42", ["00042", "00043", "7"]), near("Espresso", ["espresso 250g", "tea"])
    (['00042', '00043'], ['espresso 250g'])
    """
    plain: dict[str, list[str]] = {}
    for one in sorted(candidates):
        plain.setdefault(_plain(one), []).append(one)
    matches = get_close_matches(_plain(name), plain, n=NEAR, cutoff=_CLOSE)
    return [one for match in matches for one in plain[match]][:NEAR]


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The end of a message that lists similar names or, if there are none, the first existing ones.

    >>> suggestion("42", ["00042", "7"]), suggestion("x", ["1", "2", "3", "4"])
    ("Near: '00042'.", "There are, for instance: '1', '2', '3'.")
    """
    names = sorted(candidates)
    matches = near(name, names)
    examples = ", ".join(f"'{one}'" for one in matches or names[:NEAR])
    return f"{'Near' if matches else 'There are, for instance'}: {examples}." if names else "There are none."


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").lstrip("0") or "0"
