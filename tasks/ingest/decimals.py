"""Numbers such as 1.234, which means 1234 if decimals have commas."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import polars as pl

from models.contracts import Decimals
from models.scenario import Table
from tasks.ingest.columns import renaming
from tasks.ingest.numbers import grouped, pointed, without
from tasks.ingest.sources import Source, SourceError

_WITH_UNIT = re.compile(
    r"(.+?)[ _]*[\[(](°? ?[CF]|K|m?bar|psi|[hkM]?Pa|km/h|mph|mm/s|m/s|in/s|k?Wh?|EUR|USD|GBP|CHF|[€$£])[\])]"
)
"""Matches the name of a column with a unit."""

_COORDINATE = re.compile(r"latitud|longitud|(?<![a-z])(lat|lon|lng)(?![a-z])", re.IGNORECASE)
_SOUTH_OR_WEST = re.compile(r"[ °]*[SWO]")
"""Matches the unit of a negative coordinate; O is west in Romance languages, and east in German."""


def with_points(
    source: Source, table: Table, mapping: Mapping[str, str], decimals: Decimals | None
) -> Source:
    """`source` with decimal points in its numeric columns; the notation is `decimals`, or else what the file shows.

    Raises `SourceError` if neither is known and a number of the table could be read in two ways. Columns of names are not
    changed, because 1.234 may be a name.
    """
    notation = source.notation
    if notation is None:
        return source
    own, numbers = _numbers(source, table, mapping)
    units = units_of(source, table, mapping)
    for column, unit in units.items():
        if _COORDINATE.search(column) and _SOUTH_OR_WEST.fullmatch(unit):
            raise SourceError(
                f"{source.name}: '{column}' has numbers with '{unit.strip()}', which would be lost. Expected coordinates "
                "with a sign, such as -8.54 for 8.54 W."
            )
    plain = (without(unit, pl.col(c)) for c, unit in units.items() if c not in notation.signs_by_name)
    source = replace(source, frame=source.frame.with_columns(plain))
    coded = [c for c in numbers if c in notation.named(notation.coded)]
    if decimals is None and coded:
        raise SourceError(
            f"{source.name}: {coded[0]} has numbers such as +0100,1, which is 100.1 if decimals have commas, or 100 and "
            "a code, such as one of quality, as in the files of NOAA. For decimals, add --decimals comma. Otherwise, write "
            "number and code into two columns."
        )
    style = decimals or notation.shown
    for column in numbers if table.covariates else ():
        if column in notation.named(notation.percentages):
            source = _with_fractions(source, column)
    if style == "comma":
        frame = source.frame.with_columns(
            pointed(column) for column in numbers if column not in notation.pointed
        )
        return replace(source, frame=frame)
    unsure = notation.named(notation.unsure if style else notation.either)
    ambiguous = [c for c in numbers if c in unsure and (c in own or table.covariates or table.wide)]
    if decimals is None and ambiguous:
        mark, other = (",", "points") if style else (".", "commas")
        raise SourceError(
            f"{source.name}: {ambiguous[0]} has only numbers such as 1{mark}234, which is 1234 if decimals have {other}. "
            "Choose with --decimals comma or --decimals point."
        )
    groups = [c for c in numbers if decimals or c in notation.named(notation.groups)]
    return replace(source, frame=source.frame.with_columns(grouped(c) for c in groups))


def _with_fractions(source: Source, column: str) -> Source:
    """`source` with 0.1 for 10% in a column that also has numbers without a percent sign.

    Raises `SourceError` if not all of these are at most 1, or none is a fraction, because 1 may then mean 1 %.
    """
    text = pl.col(column).str.strip_chars()
    number = without("%", text).str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)
    has_sign = text.str.ends_with("%")
    others = pl.col("number").filter(~pl.col("has_sign"), pl.col("number") != 0).abs()
    pairs = source.frame.select(number=number, has_sign=has_sign)
    most, is_whole = (
        pairs.select(most=others.max(), is_whole=(others == others.round()).all()).collect().row(0)
    )
    if most is None or most > 1 or is_whole:
        raise SourceError(
            f"{source.name}: '{column}' has some numbers with a percent sign and some without. Expected all as 10% or all "
            "as 0.1. Write them in one way."
        )
    fraction = pl.when(has_sign).then((number / 100).cast(pl.String))
    return replace(source, frame=source.frame.with_columns(pl.coalesce(fraction, text).alias(column)))


def units_of(source: Source, table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """The currency, unit or the like that is dropped from the numbers of a column, by the source's columns.

    A column that may hold words loses a unit only if a blank precedes it, because 12A may be a name.
    """
    if source.notation is None:
        return {}
    own, numbers = _numbers(source, table, mapping)
    signs, units = source.notation.signs_by_name, source.notation.units_by_name
    is_sure = {c: c in own or table.words == 0 or units.get(c, "")[:1].isspace() for c in numbers}
    return {c: signs.get(c) or units[c] for c in numbers if c in signs or (c in units and is_sure[c])}


def units_in_names(columns: Collection[str]) -> dict[str, str]:
    """The unit behind a column's name, such as `temperature [°C]`, by the name without it.

    >>> units_in_names(["temperature [°C]", "pressure (bar)", "level (max)", "flow (m/s)", "flow (mph)"])
    {'temperature': '°C', 'pressure': 'bar'}
    """
    pairs = [match.groups() for column in columns if (match := _WITH_UNIT.fullmatch(column))]
    names = [name for name, _ in pairs]
    return {name: unit for name, unit in pairs if names.count(name) == 1}


def _numbers(source: Source, table: Table, mapping: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The table's column for each of the source's that it has, and the columns of text that may hold numbers."""
    types, names = table.schema.columns(), source.notation.names if source.notation else ()
    own = {old: new for new, old in _own(source, table, mapping).items()}
    texts = [c for c in source.columns if c in names]
    return own, [c for c in texts if own.get(c) not in types or types[own[c]].dtype.is_numeric()]


def with_names(source: Source, table: Table, mapping: Mapping[str, str]) -> Source:
    """`source` with the table's columns of text as they were written: 5% and 1,5 may be names, and 5 another one."""
    if source.notation is None:
        return source
    types = table.schema.columns()
    names = {
        old for c, old in _own(source, table, mapping).items() if c in types and types[c].dtype == pl.String
    }
    notation = source.notation.of_others(names)
    return replace(source, frame=notation.plain(), notation=notation)


def _own(source: Source, table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """The source column of each table column."""
    same = {column: column for column in source.columns if column in table.required_columns}
    return same | renaming(source.columns, mapping, table.required_columns, table.aliases)
