"""Numbers such as 1.234, which means 1234 if decimals have commas."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from models.contracts import Decimals
from models.scenario import Table
from tasks.ingest.numbers import grouped, pointed, without
from tasks.ingest.sources import Source, SourceError, renaming


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
    plain = (without(unit, pl.col(c)) for c, unit in units.items() if c not in notation.signs_by_name)
    source = replace(source, frame=source.frame.with_columns(plain))
    style = decimals or notation.shown
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


def _numbers(source: Source, table: Table, mapping: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The table's column for each of the source's that it has, and the columns of text that may hold numbers."""
    types, names = table.schema.columns(), source.notation.names if source.notation else ()
    own = {old: new for new, old in _own(source, table, mapping).items()}
    texts = [c for c in source.columns if c in names]
    return own, [c for c in texts if own.get(c) not in types or types[own[c]].dtype.is_numeric()]


def _own(source: Source, table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """The source column of each table column."""
    same = {column: column for column in source.columns if column in table.required_columns}
    return same | renaming(source.columns, mapping, table.required_columns, table.aliases)
