"""Numbers as people write them: 1.234,5 and 1'234.5, with a currency, a percent sign or a minus behind, as 1234.5."""

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


def signs_of(columns: pl.DataFrame) -> dict[int, str]:
    """By position, the one currency, percent sign or degree that all numbers of a column of text have."""
    text = pl.all().str.strip_chars().replace("", None)
    sign = text.str.extract(f"({_SIGN})")
    alone = where(columns, (sign.drop_nulls().n_unique() == 1) & (sign.null_count() == text.null_count()))
    first = columns[:, [*alone]].select(sign.drop_nulls().first())
    signs = dict(zip(alone, first.row(0) if alone else (), strict=True))
    number = f"{_PLAIN}|{_DECIMAL_COMMA}|{_WHOLE}|{_GROUPED}|^$"
    return {
        i: s for i, s in signs.items() if where(columns[:, [i]], _all(_signed(without(s, pl.all())), number))
    }


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


def written(columns: pl.DataFrame) -> Written:
    """How the numbers in columns of text are written."""
    signed = columns.select(_signed(pl.all()))
    turned = {*where(columns, _signed(pl.all()).ne_missing(pl.all().str.strip_chars()).any())}
    commas = where(signed, _any(pl.all(), _DECIMAL_COMMA))
    points = where(signed, _any(pl.all(), _POINTS))
    either = where(signed, _any(pl.all(), _POINTS) & _all(pl.all(), _EITHER))
    is_plain, is_grouped = _all(pl.all(), rf"{_PLAIN}|{_GROUPED}|^$"), _any(pl.all(), _GROUPED)
    sure = where(signed, is_plain & is_grouped & _any(pl.all(), _SURE))
    grouped = where(signed, is_plain & is_grouped)
    groups = {*sure} | turned & {*where(signed, is_plain)}
    return Written(commas, points, either, tuple(sorted(groups)), tuple(sorted({*grouped} - {*sure})))


def where(columns: pl.DataFrame, test: pl.Expr) -> tuple[int, ...]:
    """Positions of the columns of which `test`, of all columns, is true."""
    return tuple(i for i, flag in enumerate(columns.select(test).row(0)) if flag) if columns.width else ()


def _any(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.contains(pattern).any()


def _all(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.contains(pattern).all()


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
