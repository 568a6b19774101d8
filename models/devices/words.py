"""States that devices send as words, such as IDLE and RUNNING, stored as numbers from which the word can be read back.

A word's number is a whole number from `LEAST` on, above any measurement: `LEAST` plus its letters and digits as a
number in base 36, whatever its case. So it is the same in every file and store, and no table of words is kept.
For a word that does not fit (more than ten characters, or others), it holds the first five and a checksum.
Words for true and false, such as on and off, are 1 and 0.
"""

import re
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.contracts import FLAGS
from models.sentinels import LARGEST

LEAST = LARGEST
_BASE, _LENGTH, _HEAD, _CHECK = 36, 10, 5, 4
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MOST_STATES = 12
"""Maximum number of states of a tag in one ingest; if it has more words, they are texts, such as messages."""
NOTHING = frozenset(
    [
        "na",
        "n/a",
        "nil",
        "none",
        "null",
        "bad",
        "bad input",
        "error",
        "invalid",
        "missing",
        "no data",
        "nodata",
        "not connect",
        "undefined",
        "unknown",
        "unavailable",
        "offline",
        "timeout",
        "i/o timeout",
    ]
)
"""Words that a numeric sensor sends for a missing value: a tag with no other words has no states."""


def number_of(word: str) -> float:
    """The number of a word that begins with a letter.

    >>> number_of("Idle") == number_of("IDLE") == LEAST + int("idle", 36)
    True
    >>> number_of("On")
    1.0
    """
    lower = word.strip().lower()
    if lower in FLAGS:
        return float(FLAGS[lower])
    plain = re.sub("[^0-9a-z]", "", lower)
    if plain == lower and len(plain) <= _LENGTH:
        return LEAST + int(plain, _BASE)
    head = (plain.lstrip("0123456789") or "word")[:_HEAD]
    return LEAST + _BASE**_LENGTH + int(head, _BASE) * _BASE**_CHECK + crc32(lower.encode()) % _BASE**_CHECK


def word_of(number: float) -> str:
    """The inverse of `number_of`, in lower case; for a word that did not fit, its beginning and an ellipsis.

    >>> word_of(number_of("IDLE")), word_of(number_of("Not running"))
    ('idle', 'notru…')
    """
    rest, is_cut = int(number - LEAST), 0
    if rest >= _BASE**_LENGTH:
        rest, is_cut = (rest - _BASE**_LENGTH) // _BASE**_CHECK, 1
    word = ""
    while rest:
        rest, digit = divmod(rest, _BASE)
        word = _DIGITS[digit] + word
    return word + "…" * is_cut


def shown(column: str) -> pl.Expr:
    """A value as text: a measurement with four digits, or the word of a state."""
    value = pl.col(column)
    words = value.map_elements(lambda x: word_of(x) if x >= LEAST else None, return_dtype=pl.String)
    return pl.coalesce(words, value.round_sig_figs(4).cast(pl.String))


def has_words(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of values contain words."""
    return np.asarray((x >= LEAST).any(axis=1))
