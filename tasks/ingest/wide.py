"""Wide files: a column per week, sensor, SKU or store, read as a row for each."""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from models.contracts import ROW, is_row_number, without_unknown
from models.date_order import DateOrder
from models.errors import ContractError
from models.layouts import has_tags
from models.scenario import Table
from models.time_notations import LONG_PERIOD
from models.times import days
from tasks.ingest.alike import SUM
from tasks.ingest.columns import called, rename, renaming
from tasks.ingest.sources import Source, SourceError
from tasks.ingest.text import WEEK

EACH = "*"
"""`--column sku=*`: each column of a wide file is of the SKU that it is named after."""
_PREFIXED = r"(\D*[^\W\d_])[ _:.-]+((?:19|20)\d\d[ /._-]?(?:\d\d[ /._-]?\d\d|[wW]\d\d))"
_WEEK_END = r"(?i).*\bw/?e|.*week[ _-]?end(ing|ed)?"
_FEWEST = 2
_FIRST = 10_000
"""The number of rows that show what the columns of a wide file of sensors are."""
_MOST_REPEATS = 0.05


@dataclass(frozen=True)
class _Shape:
    """The shape of a wide file: the names of its `columns` belong to the table's column `names`, their cells to `values`.

    `gaps` are the other required columns that the file lacks, of which its own name gives those in `of_file`. `qualities`
    are the columns that say whether the readings of a column are good, and `option` reads such a file. `first` are the
    first rows of a file of sensors.
    """

    names: str
    values: str
    what: str
    columns: Sequence[str]
    gaps: Sequence[str]
    of_file: Collection[str] = ()
    qualities: Mapping[str, str] = field(default_factory=dict)
    option: str = "--wide"
    first: pl.DataFrame = field(default_factory=pl.DataFrame)


def as_long(
    source: Source, table: Table, mapping: Mapping[str, str], order: DateOrder | None, *, wide: bool
) -> Source:
    """`source`, or for a wide file its rows with one column for the names of its columns and one for their values.

    A file is wide if it lacks the two columns of `Table.wide` and has others in their place: those named after dates if
    the names are dates, otherwise all that are not mapped. A column mapped from `EACH` takes the names in place of the
    first of the two. Empty cells give no row, nor do words such as NA among numbers.
    A wide file of sensors without a device belongs to the device that it is named after. A column of totals is left out.
    Each row at the end that lacks a key, such as one of totals, stays one row. Raises `SourceError` for a wide file without
    `wide`, for one whose weeks have no year, and for one of a table that may have columns of several meanings.
    """
    renames = renaming(source.columns, mapping, table.required_columns, table.aliases)
    if table.wide is None:
        _refuse_dates(source, table, {*renames, *source.columns}, order)
        return source
    if table.schema.columns()[table.wide[0]].dtype == pl.Date:
        source = _without_prefix(source)
    shape = _shape(source, table, mapping, renames, order, wide=wide)
    if shape is None or len(shape.columns) < (1 if wide else _FEWEST):
        return source
    _refuse_unclear(source, table, shape, wide=wide)
    for column in shape.of_file:
        _refuse_unnamed(source.name, column, shape)
    if shape.of_file:
        _refuse_repeats(source.name, shape.first, renames.get("time", "time"))
    keys = [renames.get(c, c) for c in table.required_columns if c not in (shape.names, shape.values)]
    frame = without_unknown(source.frame, shape.columns)
    index = [
        c
        for c in source.columns
        if c not in (*shape.columns, *shape.qualities.values()) and not re.match(SUM, c)
    ]
    if table.rows_at_a_time is None:
        lacks = pl.any_horizontal(pl.col(keys).is_null())
        is_footer = lacks.reverse().cum_min().reverse()
        cells = _cells(frame.filter(~is_footer), shape, index)
        cells = pl.concat([cells, frame.filter(is_footer).select(index)], how="diagonal")
    else:
        cells = _cells(frame, shape, index)
    stem = pl.lit(source.stem)
    return Source(source.name, cells.with_columns(stem.alias(column) for column in shape.of_file))


def _shape(
    source: Source,
    table: Table,
    mapping: Mapping[str, str],
    renames: Mapping[str, str],
    order: DateOrder | None,
    *,
    wide: bool,
) -> _Shape | None:
    """The shape of a file; None if it is not wide, or lacks more than its own name can give.

    Raises `SourceError` for a file of sensors that lacks more, if it is to be read as `wide`.
    """
    usual, values = table.wide or ("", "")
    names = next((column for column, name in mapping.items() if name == EACH), usual)
    present = {*renames, *source.columns}
    if {names, values} & present:
        return None
    of_table = {*renames.values(), *table.required_columns}
    schema = source.frame.collect_schema()
    columns = [c for c, dtype in schema.items() if c not in of_table and not dtype.is_nested()]
    gaps = [c for c in table.required_columns if c not in (names, values) and c not in present]
    if table.schema.columns()[names].dtype == pl.Date:
        return _Shape(names, values, names, _dates(source.name, columns, order), gaps)
    first = source.frame.head(_FIRST).with_row_index(ROW, offset=1).collect()
    columns = [c for c in columns if not is_row_number(first, c)]
    if names != usual:
        columns = [c for c in columns if _is_of_numbers(first[c])]
        return _Shape(names, values, names, columns, gaps, option=f"--wide --column '{names}={EACH}'")
    if others := [c for c in gaps if c not in table.shard_by]:
        if wide:
            rename(source, mapping, others, table.aliases)
        return None
    qualities = {
        c: q for q in columns for c in columns if re.fullmatch(rf"(?i){re.escape(c)}[ _.]?quality", q)
    }
    sensors = [c for c in columns if c not in qualities.values()]
    return _Shape(names, values, "sensor", sensors, gaps, gaps, qualities, first=first.drop(ROW))


def _without_prefix(source: Source) -> Source:
    """`source` with columns such as `units_2024-01-01` named after the date alone, or as `we_2024-01-07` after a week's end.

    Raises `SourceError` if they have several prefixes, such as units and price.
    """
    matches = {c: match for c in source.columns if (match := re.fullmatch(_PREFIXED, c))}
    prefixes = list(dict.fromkeys(match[1] for match in matches.values()))
    if len(matches) < _FEWEST:
        return source
    if len(prefixes) > 1:
        raise SourceError(
            f"{source.name}: this has columns for several things by date: {', '.join(prefixes)}. Expected those of one, the "
            f"units. Remove the others, or make them columns of a row for each date."
        )
    before = "Week Ending " if re.fullmatch(_WEEK_END, prefixes[0]) else ""
    return replace(source, frame=source.frame.rename({c: before + match[2] for c, match in matches.items()}))


def _is_of_numbers(column: pl.Series) -> bool:
    """Whether a column, which is no sum of others, has mostly numbers."""
    numbers = column.cast(pl.Float64, strict=False)
    return 2 * numbers.count() > column.count() and not re.match(SUM, column.name)


def _cells(frame: pl.LazyFrame, shape: _Shape, index: Sequence[str]) -> pl.LazyFrame:
    """A row for each known cell of the columns, with those in `index` and, if there is one, its `quality`."""
    plain = [c for c in shape.columns if c not in shape.qualities]
    parts = [frame.unpivot(plain, index=index, variable_name=shape.names, value_name=shape.values)]
    parts += [
        frame.select(*index, pl.lit(c).alias(shape.names), pl.col(c).alias(shape.values), quality=q)
        for c, q in shape.qualities.items()
    ]
    cells = pl.concat(parts, how="diagonal_relaxed") if shape.qualities else parts[0]
    return cells.filter(pl.col(shape.values).is_not_null())


def _refuse_unclear(source: Source, table: Table, shape: _Shape, *, wide: bool) -> None:
    """Raise `SourceError` if a wide file lacks columns, is to be read as it is, or has columns that are no sensors."""
    examples = f"this has a column per {shape.what} ({', '.join(shape.columns[:3])}, ...)"
    if gaps := [c for c in shape.gaps if c not in shape.of_file]:
        others = [column for column in source.columns if column not in shape.columns]
        raise SourceError(
            f"{source.name}: {examples}, and no column {' and '.join(gaps)}. Found: {', '.join(others)}.\n"
            f"Read it with {shape.option} "
            + " ".join(f"--column {gap}=NAME_IN_THE_FILE" for gap in gaps)
            + f", or give all rows one value with --column {gaps[0]}==VALUE."
        )
    if not wide:
        raise SourceError(
            f"{source.name}: {examples}. Expected a row for each, with columns {', '.join(table.required_columns)}. Read it "
            f"as it is with {shape.option}."
        )
    labels = [c for c in shape.columns if table.labels and re.fullmatch(table.labels, c)]
    if labels:
        raise SourceError(
            f"{source.name}: column '{labels[0]}' says what is to be found, so it is no sensor. Remove it, or read such "
            "files with --layout labelled, which leaves it out of --source and finds the faults of --labels in it."
        )


def _refuse_unnamed(name: str, column: str, shape: _Shape) -> None:
    """Raise `SourceError` if columns are named after several things, or one with a word in each row is called like `column`.

    `column` is the one that the file lacks, such as device.
    """
    if has_tags(["time", *shape.columns]):
        raise SourceError(
            f"{name}: columns such as {shape.columns[0]} and {shape.columns[-1]} are named after a {column} each. Read them "
            f"with --layout {column}-tag, or as one {column} with --column {column}=@file."
        )
    full = [one for one in shape.first if one.dtype == pl.String and not one.null_count()]
    words = [one.name for one in full if not _is_of_numbers(one)]
    if similar := called(column, words):
        raise SourceError(
            f"{name}: column '{column}' is missing, and '{similar}' may be it. Map it with --column {column}="
            f"{shlex.quote(similar)}, or give the name of the file with --column {column}=@file."
        )


def _refuse_repeats(name: str, rows: pl.DataFrame, time: str) -> None:
    """Raise `SourceError` if `rows` of sensors without a device often have the time of another row: they are of several
    devices."""
    times = rows.unique()[time].drop_nulls()
    repeats = times.filter(times.is_duplicated())
    if times.len() - times.n_unique() > _MOST_REPEATS * times.len():
        raise SourceError(
            f"{name}: several rows have the time {repeats.sort()[0]}. Expected one row for each time of a device. "
            "Name the column of the device with --column device=NAME_IN_THE_FILE, or the one device of all rows with "
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
    months = pl.Series(columns).filter(pl.Series(columns).str.contains(LONG_PERIOD))
    if len(months) >= _FEWEST:
        raise SourceError(
            f"{name}: columns {', '.join(months.head(3))}, ... are months or quarters. Expected weeks, or days with --daily."
        )
    try:
        parsed_days = days(pl.Series("the columns' names", columns), order)
    except ContractError as error:
        raise SourceError(str(error)) from None
    return [column for column, day in zip(columns, parsed_days, strict=True) if day is not None]
