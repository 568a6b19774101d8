"""Wide files: a column per week or per sensor, read as a row per week or reading."""

import re
from collections.abc import Collection, Mapping, Sequence

import polars as pl

from models.contracts import ROW, is_row_number, without_unknown
from models.errors import ContractError
from models.scenario import Table
from models.times import DateOrder, days
from tasks.ingest.alike import SUM
from tasks.ingest.sources import Source, SourceError, renaming
from tasks.ingest.text import WEEK

_FEWEST = 2
_FIRST = 10_000
"""The number of rows that show what the columns of a wide file of sensors are."""
_MOST_REPEATS = 0.05


def as_long(
    source: Source, table: Table, mapping: Mapping[str, str], order: DateOrder | None, *, wide: bool
) -> Source:
    """`source`, or for a wide file its rows with one column for the names of its columns and one for their values.

    A file is wide if it lacks the two columns of `Table.wide` and has others in their place: those named after dates if
    the names are dates, otherwise all that are not mapped. Empty cells give no row, nor do words such as NA among numbers.
    A wide file of sensors without a device belongs to the device that it is named after. A column of totals is left out.
    Each row at the end that lacks a key, such as one of totals, stays one row. Raises `SourceError` for a wide file without
    `wide`, for one whose weeks have no year, and for one of a table that may have columns of several meanings.
    """
    renames = renaming(source.columns, mapping, table.required_columns, table.aliases)
    if table.wide is None:
        _refuse_dates(source, table, {*renames, *source.columns}, order)
        return source
    names, values = table.wide
    is_dated = table.schema.columns()[names].dtype == pl.Date
    table_columns = {*renames.values(), *table.required_columns}
    if {names, values} & {*renames, *source.columns}:
        return source
    value_columns = [
        column
        for column, dtype in source.frame.collect_schema().items()
        if column not in table_columns and not dtype.is_nested()
    ]
    first = source.frame.head(0 if is_dated else _FIRST).with_row_index(ROW, offset=1).collect()
    if is_dated:
        value_columns = _dates(source.name, value_columns, order)
    else:
        value_columns = [column for column in value_columns if not is_row_number(first, column)]
    gaps = [
        c for c in table.required_columns if c not in (names, values) and c not in {*renames, *source.columns}
    ]
    by_file = [] if is_dated else [*table.shard_by]
    is_complete = {*gaps} <= {*by_file}
    if len(value_columns) < (1 if wide else _FEWEST) or not (is_complete or is_dated):
        return source
    what = names if is_dated else "sensor"
    if not is_complete:
        others = [column for column in source.columns if column not in value_columns]
        raise SourceError(
            f"{source.name}: this has a column per {what} ({', '.join(value_columns[:3])}, ...), and no column "
            f"{' and '.join(gaps)}. Found: {', '.join(others)}.\nRead it with --wide "
            + " ".join(f"--column {gap}=NAME_IN_THE_FILE" for gap in gaps)
            + f", or give all rows one value with --column {gaps[0]}==VALUE."
        )
    if not wide:
        raise SourceError(
            f"{source.name}: this has a column per {what} ({', '.join(value_columns[:3])}, ...). Expected a row for each, "
            f"with columns {', '.join(table.required_columns)}. Read it as it is with --wide."
        )
    if gaps:
        _refuse_repeats(source.name, first.drop(ROW), renames.get("time", "time"))
    index_columns = [c for c in source.columns if c not in value_columns and not re.match(SUM, c)]
    keys = [renames.get(c, c) for c in table.required_columns if c not in (names, values, *gaps)]
    frame = without_unknown(source.frame, value_columns)
    lacks = pl.any_horizontal(pl.lit(False), *(pl.col(key).is_null() for key in keys if is_dated))
    is_footer = lacks.reverse().cum_min().reverse()
    cells = frame.filter(~is_footer).unpivot(
        value_columns, index=index_columns, variable_name=names, value_name=values
    )
    footers = source.frame.filter(is_footer).select(index_columns)
    frame = pl.concat([cells.filter(pl.col(values).is_not_null()), footers], how="diagonal")
    if gaps:
        frame = frame.with_columns(pl.lit(_stem(source.name)).alias(column) for column in gaps)
    return Source(source.name, frame)


def _refuse_repeats(name: str, rows: pl.DataFrame, time: str) -> None:
    """Raise `SourceError` if `rows` of sensors without a device often have the time of another row: they are of several
    devices."""
    times = rows.unique()[time].drop_nulls()
    repeats = times.filter(times.is_duplicated())
    if times.len() - times.n_unique() > _MOST_REPEATS * times.len():
        raise SourceError(
            f"{name}: several rows have the time {repeats.sort()[0]}. Expected one row for each time of a device. Name the "
            "column of the device with --column device=NAME_IN_THE_FILE, or the one device of all rows with "
            "--column device==VALUE."
        )


def _refuse_dates(source: Source, table: Table, present: Collection[str], order: DateOrder | None) -> None:
    """Raise `SourceError` if columns are named after the dates that should be in a column of their own.

    `present` are the names of the source's columns, also as mapped.
    """
    types = table.schema.columns()
    gaps = [c for c in table.required_columns if c not in present and types[c].dtype == pl.Date]
    columns = [c for c in source.columns if re.search(r"\d", c)]
    dates = _dates(source.name, columns, order) if gaps else []
    if len(dates) >= _FEWEST:
        raise SourceError(
            f"{source.name}: this has a column per {gaps[0]} ({', '.join(dates[:3])}, ...), and does not name what they "
            f"hold. Expected a row for each, with columns {', '.join(table.required_columns)} and one for each covariate, "
            "such as price."
        )


def _dates(name: str, columns: Sequence[str], order: DateOrder | None) -> list[str]:
    if not columns:
        return []
    weeks = [column for column in columns if re.fullmatch(WEEK, column)]
    if len(weeks) >= _FEWEST:
        raise SourceError(
            f"{name}: columns {', '.join(weeks[:3])}, ... are weeks without a year. Expected names such as 2024-W05. Add "
            "the year to each, or write it in the line above them."
        )
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
