"""Columns that say whether a reading is good, as OPC servers and historians write them: in words or in codes."""

import re

import polars as pl

_QUALITY = r"(?i)_?\w*quality|status[ _]?(code)?|dataintegrity"
_BAD = r"^(?i:bad)(?:$|[^a-z])"
_HEX = r"^0[xX]([0-9a-fA-F]{8})$"
_CLASSIC = (0, 4, 8, 12, 16, 20, 24, 28, 32, 64, 68, 80, 84, 88, 192, 216)
"""The codes of classic OPC without their limit bits: good from 192 on, bad below 64."""
_GOOD, _UNCERTAIN, _LIMITS = 192, 64, 4
_UA_UNCERTAIN, _UA_BAD, _UA_END = 1 << 30, 1 << 31, 1 << 32
"""Status codes of OPC UA; some programs write them as signed numbers."""


def bad_quality(rows: pl.DataFrame) -> pl.Series:
    """Whether a column such as quality or StatusCode calls each reading bad; not if it is uncertain.

    Codes count if all of the column are codes of classic OPC and one of them is good, or if they are those of OPC UA.

    >>> codes = pl.DataFrame({"quality": ["192", "24", "64"], "StatusCode": ["0x00000000", "0x00000000", "0x80340000"]})
    >>> bad_quality(codes).to_list()
    [False, True, True]
    """
    is_bad = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
    for column in (c for c in rows.columns if re.fullmatch(_QUALITY, c)):
        is_bad |= _is_bad(rows[column].cast(pl.String).str.strip_chars())
    return is_bad


def _is_bad(text: pl.Series) -> pl.Series:
    hexadecimal = text.str.extract(_HEX).str.to_integer(base=16, strict=False)
    codes = hexadecimal.fill_null(text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False))
    if not codes.count() or codes.null_count() > text.null_count():
        return text.str.contains(_BAD).fill_null(False)
    known = codes.drop_nulls()
    if known.is_between(0, 255).all():
        is_classic = (known - known % _LIMITS).is_in(_CLASSIC).all() and (known >= _GOOD).any()
        is_bad = (codes < _UNCERTAIN) & is_classic
    else:
        is_bad = (codes % _UA_END >= _UA_BAD) & (codes.abs() >= _UA_UNCERTAIN)
    return is_bad.fill_null(False)
