"""Numbers as people write them: 1.234,5 and 1'234.5, with a currency, a percent sign or a minus behind, as 1234.5."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

_BLANK = r" '’\x{a0}\x{202f}"
_SIGN = r"[€$£¥%‰]|°[CF]?|\b(?:EUR|USD|GBP|CHF)\b"
_THOUSANDS = rf"[.{_BLANK}]"
_DECIMAL_COMMA = rf"^[+-]?(\d+|\d{{1,3}}({_THOUSANDS}\d{{3}})+),\d+$"
_WHOLE = rf"^[+-]?\d{{1,3}}({_THOUSANDS}\d{{3}})+$"
_EITHER = r"^[+-]?[1-9]\d{0,2}\.\d{3}$|^[+-]?\d{0,3}$"
_POINTS = r"^[+-]?\d*\.\d+$"
_PLAIN = r"^[+-]?\d*\.?\d+$"
_GROUPED = rf"^[+-]?[1-9]\d{{0,2}}([,{_BLANK}]\d{{3}})+(\.\d+)?$"
_SURE = rf"[{_BLANK}]|,\d{{3}},|\.|^[^,]+$"
"""In a number that is grouped by commas, or beside it: what a decimal comma would not allow."""


def signs_of(columns: Sequence[pl.Series]) -> dict[int, str]:
    """By position, the one currency, percent sign or degree that all numbers of a column of text have."""
    found = {}
    for i, values in enumerate(columns):
        filled = values.str.strip_chars().replace("", None).drop_nulls()
        signs = filled.str.extract(f"({_SIGN})").unique()
        if signs.len() == 1 and (sign := signs[0]):
            bare = filled.to_frame("v").select(_signed(without(sign, pl.col("v")))).to_series()
            if bare.str.contains(f"{_PLAIN}|{_DECIMAL_COMMA}|{_WHOLE}|{_GROUPED}").all():
                found[i] = sign
    return found


def without(sign: str, column: pl.Expr) -> pl.Expr:
    """Text without the first such sign."""
    return column.str.replace(sign, "", literal=True).str.strip_chars()


@dataclass(frozen=True)
class Written:
    """How numbers are written, by the positions of columns of text.

    Columns with decimal commas and with decimal points, of these `either` with numbers such as 1.234 alone, which are
    thousands where decimals have commas; `groups` with numbers that `grouped` reads, and `unsure` with such as 1,234 alone.
    """

    commas: tuple[int, ...]
    points: tuple[int, ...]
    either: tuple[int, ...]
    groups: tuple[int, ...]
    unsure: tuple[int, ...]


def written(columns: Sequence[pl.Series]) -> Written:
    """How the numbers in columns of text are written."""
    signed = [values.to_frame("v").select(_signed(pl.col("v"))).to_series() for values in columns]

    def where(kind: Callable[[pl.Series], bool]) -> tuple[int, ...]:
        return tuple(i for i, values in enumerate(signed) if kind(values))

    commas = where(lambda values: values.str.contains(_DECIMAL_COMMA).any())
    points = where(lambda values: values.str.contains(_POINTS).any())
    either = tuple(i for i in points if signed[i].str.contains(_EITHER).all())
    plain = where(lambda values: values.str.contains(rf"{_PLAIN}|{_GROUPED}|^$").all())
    grouped = [i for i in plain if signed[i].str.contains(_GROUPED).any()]
    turned = [i for i in plain if (signed[i] != columns[i].str.strip_chars()).any()]
    sure = [i for i in grouped if signed[i].str.contains(_SURE).any()]
    return Written(commas, points, either, tuple({*sure, *turned}), tuple({*grouped} - {*sure}))


def pointed(name: str) -> pl.Expr:
    """A column of numbers as text with decimal points in the place of commas; 1.234 is a thousand and more.

    Not to be called again on what it returns: 1,234 is 1.234 by then.
    """
    signed = _signed(pl.col(name))
    plain = signed.str.replace_all(_THOUSANDS, "").str.replace(",", ".", literal=True)
    is_written_so = signed.str.contains(f"{_DECIMAL_COMMA}|{_WHOLE}")
    return pl.when(is_written_so).then(plain).otherwise(name).alias(name)


def grouped(name: str) -> pl.Expr:
    """A column of numbers as text without what divides their thousands, with the minus before them."""
    signed = _signed(pl.col(name))
    plain = signed.str.replace_all(rf"[,{_BLANK}]", "")
    return pl.when(signed.str.contains(f"{_GROUPED}|{_PLAIN}")).then(plain).otherwise(name).alias(name)


def _signed(column: pl.Expr) -> pl.Expr:
    """Text with the minus of a number before it: of accountants (5), of SAP 5-, and the one of typographers."""
    plain = column.str.strip_chars().str.replace("−", "-", literal=True)
    return plain.str.replace(r"^\((\d.*)\)$|^(\d.*)-$", "-${1}${2}")
