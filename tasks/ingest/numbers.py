"""Numbers as people write them, such as 1.234,5, 1'234.5 or 5-, with a currency or a percent sign, read as plain ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from models.contracts import Decimals, is_unknown
from tasks.ingest.contents import LINES

_BLANK = r" '’\x{a0}\x{202f}"
_CODES = "EUR|USD|GBP|CHF|AUD|BRL|CAD|CNY|CZK|DKK|HUF|INR|JPY|MXN|NOK|NZD|PLN|RON|SEK|TRY|ZAR"  # codespell:ignore zar
_SIGN = rf"(?:\b(?:R|US|A|C))?\p{{Sc}}|[%‰]|°[CF]?|\bRs\b\.?|\b(?:{_CODES})\b"
_UNIT = r"\d(\s*[\p{L}°][\p{L}\d°%/²³·^]*)$"
_THOUSANDS = rf"[.{_BLANK}]"
_DECIMAL_COMMA = rf"^[+-]?(\d+|\d{{1,3}}({_THOUSANDS}\d{{3}})+),\d+$"
_SURE_COMMA = rf"^[+-]?(0,\d+|\d[\d.{_BLANK}]*,(\d\d?|\d{{4,}}))$"
"""A number with a comma that cannot separate thousands."""
_WHOLE = rf"^[+-]?\d{{1,3}}({_THOUSANDS}\d{{3}})+$"
_EITHER = r"^[+-]?[1-9]\d{0,2}\.\d{3}$|^[+-]?\d{0,3}$"
_POINTS = r"^[+-]?\d*\.\d+$"
_CODED = r"^[+-]0\d{3,},\d$"
"""Matches numbers with a sign, zeros in front and a digit after a comma, such as NOAA's +0100,1: 100 and a code."""
_PADDED = r"^0\d"
"""Matches numbers such as 05.2024, a week."""
_PLAIN = r"^[+-]?\d*\.?\d+$"
_NO_CENTS = r"^([+-]?\d[\d.,' ]*)[.,](?:-{1,2}|–|—)$"
_ZERO = r"^0+([.,]0+)?$"
_DIGITS, _USUAL = r"^[+-]?\d*$", r"^[+-]?\d*\.?\d*$"
_GROUPED = rf"^[+-]?[1-9]\d{{0,2}}(([,{_BLANK}]\d{{3}})+|(,\d\d)+,\d{{3}})(\.\d+)?$"
"""Thousands, also below lakhs as in India: 1,23,456."""
_SURE = rf"[{_BLANK}]|,\d{{2,3}},|\.|^[^,]+$"
"""Matches, in a column of grouped numbers, what rules out a decimal comma."""

_LATER_LINES = 1_000_000
"""The number of lines searched for numbers in another notation than in the first lines."""


@dataclass(frozen=True)
class Notation:
    """The notation of numbers in a table's text columns, called `names`; the other fields are positions of columns.

    In `percentages`, some numbers, not all, have a percent sign. `signs` are currencies and the like that all numbers of
    a column have, `units` such as bar behind the numbers,
    including a blank before the unit. `commas` and `points` are the columns with decimal commas and decimal points.
    Columns in `either` have no decimals other than 1.234, which is 1234 if decimals have commas. `groups` have numbers
    that `grouped` reads; `unsure` have only numbers such as 1,234, and `coded` some such as +0100,1.
    With `has_points`, decimals have points unless the table shows otherwise, as in files that programs write.
    `written` is the table as it was read.
    """

    names: tuple[str, ...]
    percentages: tuple[int, ...]
    signs: Mapping[int, str]
    units: Mapping[int, str]
    commas: tuple[int, ...]
    points: tuple[int, ...]
    either: tuple[int, ...]
    groups: tuple[int, ...]
    unsure: tuple[int, ...]
    coded: tuple[int, ...]
    has_points: bool
    written: pl.LazyFrame

    def named(self, positions: Sequence[int]) -> frozenset[str]:
        """Names of the columns at these positions."""
        return frozenset(self.names[i] for i in positions)

    @property
    def pointed(self) -> frozenset[str]:
        """Names of the columns with decimal commas and no unit; `plain` replaces these commas with points."""
        return self.named([i for i in self.commas if i not in self.units])

    @property
    def shown(self) -> Decimals | None:
        """The decimal mark that the table shows; None if it shows both or neither."""
        points = len(self.points) > len(self.either)
        if self.commas:
            return None if points else "comma"
        return "point" if points or self.has_points else None

    @property
    def signs_by_name(self) -> dict[str, str]:
        return {self.names[i]: sign for i, sign in self.signs.items()}

    @property
    def units_by_name(self) -> dict[str, str]:
        return {self.names[i]: unit for i, unit in self.units.items()}

    def of_others(self, names: Collection[str]) -> "Notation":
        """The notation of the columns that are not among `names`, which hold no numbers: it says nothing about these."""
        others = {i for i, name in enumerate(self.names) if name not in names}
        kinds = ("percentages", "commas", "points", "either", "groups", "unsure", "coded")
        positions = {kind: tuple(i for i in getattr(self, kind) if i in others) for kind in kinds}
        signs, units = ({i: one[i] for i in one if i in others} for one in (self.signs, self.units))
        fields: dict[str, Any] = {**positions, "signs": signs, "units": units}
        return replace(self, **fields)

    def plain(self) -> pl.LazyFrame:
        """The table without the signs, with decimal points instead of commas."""
        signs = self.signs_by_name.items()
        frame = self.written.with_columns(without(sign, pl.col(name)) for name, sign in signs)
        return frame.with_columns(pointed(name) for name in self.names if name in self.pointed)


def notation_of(
    written: pl.LazyFrame, columns: pl.DataFrame, *, commas: bool = True, has_points: bool = False
) -> Notation:
    """The notation of the numbers in the table `written`, of whose text columns `columns` has some rows.

    With `commas`, commas are decimal; otherwise they may also separate thousands.
    """
    names = tuple(columns.columns)
    signs, units = (_signs(columns, pattern) for pattern in (f"({_SIGN})", _UNIT))
    units = {i: unit for i, unit in units.items() if i not in signs}
    bare = without("%", pl.all())
    is_number = bare.str.contains(f"{_PLAIN}|{_DECIMAL_COMMA}") | is_unknown(pl.all())
    some = where(columns, is_number.all() & _any(pl.all(), r"%\s*$"))
    percentages = tuple(i for i in some if i not in signs)
    columns = columns.with_columns(without("%", pl.col(columns.columns[i])) for i in percentages)
    columns = columns.with_columns(
        without(s, pl.col(columns.columns[i])) for i, s in {**signs, **units}.items()
    )
    texts = columns.select(_signed(pl.all()))
    with_signs = {*where(columns, _signed(pl.all()).ne_missing(pl.all().str.strip_chars()).any())}
    points = where(texts, _any(pl.all(), _POINTS) & ~_any(pl.all(), _PADDED))
    either = where(texts, _any(pl.all(), _POINTS) & _all(pl.all(), _EITHER))
    comma = _any(pl.all(), _DECIMAL_COMMA if commas else _SURE_COMMA)
    decimal = where(texts, comma) if commas or len(points) == len(either) else ()
    is_plain, is_grouped = _all(pl.all(), rf"{_PLAIN}|{_GROUPED}|^$"), _any(pl.all(), _GROUPED)
    sure = where(texts, is_plain & is_grouped & _any(pl.all(), _SURE))
    unsure = {*where(texts, is_plain & is_grouped)} - {*sure}
    groups = {*sure} | with_signs & {*where(texts, is_plain)}
    order = tuple(sorted(groups)), tuple(sorted(unsure)), where(texts, _any(pl.all(), _CODED))
    return Notation(names, percentages, signs, units, decimal, points, either, *order, has_points, written)


def plain_numbers(
    frame: pl.LazyFrame, *, commas: bool = True, has_points: bool = False
) -> tuple[pl.LazyFrame, Notation]:
    """A table with plain numbers in its text columns, and the notation in which they were written.

    It is taken from the first 200 lines, and from up to as many of the next million that have numbers of another kind,
    such as the first 1.234 after numbers below a thousand.
    """
    names = [name for name, dtype in frame.collect_schema().items() if dtype == pl.String]
    first = frame.select(names).head(LINES).collect()
    words = {names[i] for i in where(first, _is_words(pl.all()))}
    names = [name for name in names if name not in words]
    texts, first = frame.select(names), first.select(names)
    has_values = pl.all().is_not_null().any()
    kinds = [(kind, where(first, has_values & _all(pl.all(), kind))) for kind in (_DIGITS, _USUAL)]
    usual = {names[i]: kind for kind, positions in reversed(kinds) for i in positions}
    if usual and first.height == LINES:
        others = pl.any_horizontal(~pl.col(name).str.contains(kind) for name, kind in usual.items())
        later = texts.slice(LINES, _LATER_LINES).filter(others).head(LINES)
        first = pl.concat([first, later.collect(engine="streaming")])
    notation = notation_of(frame, first, commas=commas, has_points=has_points)
    return notation.plain(), notation


def _is_words(text: pl.Expr) -> pl.Expr:
    """Whether a text column holds no numbers: all values begin with a letter, and none has a currency."""
    return _all(text, r"^\s*\p{L}") & ~_any(text, _SIGN) & (~is_unknown(text)).any()


def _signs(columns: pl.DataFrame, pattern: str) -> dict[int, str]:
    """By position, the sign, such as a currency or a unit, that all numbers of a text column share; 0 may lack it."""
    text = pl.all().str.strip_chars()
    text = pl.when(~is_unknown(text) & ~text.str.contains(_ZERO)).then(text)
    sign = text.str.extract(pattern)
    is_one = (sign.drop_nulls().n_unique() == 1) & (sign.null_count() == text.null_count())
    alone = where(columns, is_one & text.cast(pl.Float64, strict=False).is_null().all())
    first = columns[:, [*alone]].select(sign.drop_nulls().first())
    signs = dict(zip(alone, first.row(0) if alone else (), strict=True))
    number = f"{_PLAIN}|{_DECIMAL_COMMA}|{_WHOLE}|{_GROUPED}|^$"
    return {i: s for i, s in signs.items() if where(columns[:, [i]], _all(_signed(without(s, text)), number))}


def without(sign: str, column: pl.Expr) -> pl.Expr:
    """Text without the first occurrence of a sign."""
    return column.str.replace(sign, "", literal=True).str.strip_chars()


def where(columns: pl.DataFrame, test: pl.Expr) -> tuple[int, ...]:
    """Positions of the columns for which `test`, an expression over all columns, is true."""
    return tuple(i for i, flag in enumerate(columns.select(test).row(0)) if flag) if columns.width else ()


def _any(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.contains(pattern).any()


def _all(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.contains(pattern).all()


def pointed(name: str) -> pl.Expr:
    """A text column of numbers with decimal points instead of commas; 1.234 becomes 1234.

    Do not apply it twice: 1,234 becomes 1.234, and then 1234.
    """
    text = _signed(pl.col(name))
    plain = text.str.replace_all(_THOUSANDS, "").str.replace(",", ".", literal=True)
    is_written_so = text.str.contains(rf"{_DECIMAL_COMMA}|{_WHOLE}|^[+-]?\d+$")
    return pl.when(is_written_so).then(plain).otherwise(name).alias(name)


def grouped(name: str) -> pl.Expr:
    """A text column of numbers without thousands separators, with the minus in front."""
    text = _signed(pl.col(name))
    plain = text.str.replace_all(rf"[,{_BLANK}]", "")
    return pl.when(text.str.contains(f"{_GROUPED}|{_PLAIN}")).then(plain).otherwise(name).alias(name)


def _signed(column: pl.Expr) -> pl.Expr:
    """Text with the minus in front of a number, for an accountant's (5), SAP's 5- and a typographic minus; 12,- is 12."""
    plain = column.str.strip_chars().str.replace("−", "-", literal=True).str.replace(_NO_CENTS, "${1}")
    return plain.str.replace(r"^\((\d.*)\)$|^(\d.*)-$", "-${1}${2}")
