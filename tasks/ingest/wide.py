"""Wide files: a column per week or per sensor, read as a row per week or reading."""

from collections.abc import Mapping, Sequence

import polars as pl

from models.errors import ContractError
from models.scenario import Table
from models.times import DateOrder, days
from tasks.ingest.sources import Source, SourceError, renaming

_FEWEST = 2


def as_long(
    source: Source, table: Table, mapping: Mapping[str, str], order: DateOrder | None, *, wide: bool
) -> Source:
    """`source`, or its rows with a column for the names of its columns and one for what is in them.

    A file is wide where it lacks the two columns of `Table.wide` and has others in their place: such as are
    dates where the names are dates, else all that are not mapped. Cells without a value give no row. A wide
    file of sensors that has no device is of the one that it is named after. Raises `SourceError` for a wide
    file where `wide` does not say that it is to be read.
    """
    if table.wide is None:
        return source
    names, values = table.wide
    is_dated = table.schema.columns()[names].dtype == pl.Date
    applied = renaming(source.columns, mapping, table.required_columns, table.aliases)
    table_columns = {*applied.values(), *table.required_columns}
    if {names, values} & {*applied, *source.columns}:
        return source
    value_columns = [column for column in source.columns if column not in table_columns]
    if is_dated:
        value_columns = _dates(value_columns, order)
    lacking = [
        c for c in table.required_columns if c not in (names, values) and c not in {*applied, *source.columns}
    ]
    by_file = [] if is_dated else [*table.shard_by]
    if len(value_columns) < _FEWEST or not {*lacking} <= {*by_file}:
        return source
    what = names if is_dated else "sensor"
    if not wide:
        raise SourceError(
            f"{source.name}: this has a column per {what} ({', '.join(value_columns[:3])}, ...). Expected a row for each, "
            f"with columns {', '.join(table.required_columns)}. Read it as it is with --wide."
        )
    index_columns = [column for column in source.columns if column not in value_columns]
    frame = source.frame.unpivot(value_columns, index=index_columns, variable_name=names, value_name=values)
    frame = frame.filter(pl.col(values).is_not_null())
    if lacking:
        frame = frame.with_columns(pl.lit(_stem(source.name)).alias(column) for column in lacking)
    return Source(source.name, frame)


def _dates(columns: Sequence[str], order: DateOrder | None) -> list[str]:
    if not columns:
        return []
    try:
        parsed_days = days(pl.Series("the columns' names", columns), order)
    except ContractError as error:
        raise SourceError(str(error)) from None
    return [column for column, day in zip(columns, parsed_days, strict=True) if day is not None]


def _stem(name: str) -> str:
    """
    >>> _stem("plant/pump 7.csv.gz")
    'pump 7'
    """
    return name.rpartition("/")[2].partition(".")[0]
