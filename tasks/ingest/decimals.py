"""Numbers such as 1.234, which are a thousand and more where decimals have commas."""

from collections.abc import Mapping
from dataclasses import replace

from models.contracts import Decimals
from models.scenario import Table
from tasks.ingest.numbers import grouped, pointed
from tasks.ingest.sources import Source, SourceError, renaming


def with_points(
    source: Source, table: Table, mapping: Mapping[str, str], decimals: Decimals | None
) -> Source:
    """`source` with decimal points in its columns of numbers, as `decimals` or else the file shows how they are written.

    Raises `SourceError` where neither does and a number of the table could be read in two ways. Names of things stay
    as they are: 1.234 may be one.
    """
    notation = source.notation
    if notation is None:
        return source
    types = table.schema.columns()
    own = {old: new for new, old in _own(source, table, mapping).items()}
    texts = [c for c in source.columns if c in notation.names]
    numbers = [c for c in texts if own.get(c) not in types or types[own[c]].dtype.is_numeric()]
    sure = [c for c in numbers if c in own or table.words == 0]
    units = notation.without_units(sure, [c for c in numbers if c not in sure])
    source = replace(source, frame=source.frame.with_columns(units))
    shown = decimals or notation.shown
    if shown == "comma":
        frame = source.frame.with_columns(
            pointed(column) for column in numbers if column not in notation.pointed
        )
        return replace(source, frame=frame)
    unsure = notation.named(notation.unsure if shown else notation.either)
    ambiguous = [c for c in numbers if c in unsure and (c in own or table.covariates or table.wide)]
    if decimals is None and ambiguous:
        mark, other = (",", "points") if shown else (".", "commas")
        raise SourceError(
            f"{source.name}: {ambiguous[0]} has only numbers such as 1{mark}234, which is 1234 where decimals have {other}. "
            "Say it with --decimals comma or --decimals point."
        )
    groups = [c for c in numbers if decimals or c in notation.named(notation.groups)]
    return replace(source, frame=source.frame.with_columns(grouped(c) for c in groups))


def _own(source: Source, table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """Which of a source's columns each of the table's is."""
    same = {column: column for column in source.columns if column in table.required_columns}
    return same | renaming(source.columns, mapping, table.required_columns, table.aliases)
