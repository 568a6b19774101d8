"""Layouts: how the files of other products hold a scenario's tables (`--layout`).

`Layout.columns` has the names of the table's columns in those files, and `Layout.arrange` converts files of another
shape into rows of the table. The user's `--column` takes precedence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from models.date_order import DateOrder
from models.errors import ContractError
from models.times import days

TIMES = ("timestamp", "time", "date")
"""Frequent names of the time column."""
_SURE = ("/", "\\", "|", ":", ".")
_SEPARATORS = (*_SURE, "_", " ", "-")
"""Marks between the names of a thing and its sensor, the surest first; the others also occur within a name."""
_EXTENSIONS = r"(?i)(\.[a-z]\w*)?(\.(gz|zst))?$"
"""The extensions of a file, but not the rest of a name with points, such as St. Gallen.csv or pump 7.1.csv."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one member of a zip archive: its path for messages, and its rows."""

    name: str
    frame: pl.LazyFrame

    @property
    def columns(self) -> list[str]:
        return self.frame.collect_schema().names()

    @property
    def stem(self) -> str:
        """
        >>> SourceFile("plant/pump 7.1.csv.gz", pl.LazyFrame()).stem
        'pump 7.1'
        """
        return re.sub(_EXTENSIONS, "", self.name.rpartition("/")[2])

    @property
    def folder(self) -> str | None:
        """The name of the folder or zip archive that contains the file; None if its path has neither."""
        above = self.name.rpartition("/")[0].rpartition("/")[2]
        return above.removesuffix(".zip") or None


@dataclass(frozen=True)
class LayoutRequest:
    """An ingest's request to a layout: the table; the name of each table's source, without folders and extensions;
    and the user's options for columns and dates."""

    table: str
    sources: Mapping[str, str]
    mapping: Mapping[str, str] = field(default_factory=dict)
    dates: DateOrder | None = None

    @property
    def source(self) -> str:
        return self.sources[self.table]


Arrange = Callable[[Sequence[SourceFile], LayoutRequest], Sequence[SourceFile]]


@dataclass(frozen=True)
class Layout:
    """A kind of file: `about` describes it in a sentence, the other fields say how such files become a table.

    `columns` has the possible names of each column of a table; the first one that a file has is used.
    `constants` are the values of columns that a file lacks. `names` are further names that `arrange` looks for. It finds
    all of these names in its files as they are written here, if a file has them in another spelling.
    """

    about: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    arrange: Arrange | None = None
    names: Sequence[str] = ()
    recognises: Callable[[Sequence[str]], bool] | None = None
    """Whether a file with columns of these names fits; None: if it has `columns`."""

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether a file with `columns` has all names of the layout, which are not only frequent ones such as time."""
        if self.recognises:
            return self.recognises(columns)
        names = self.mapping(columns)
        frequent = (*TIMES, "value", *names)
        return {*self.columns} - {*self.constants} <= {*names} and any(
            n not in frequent for n in names.values()
        )

    def mapping(self, columns: Sequence[str]) -> dict[str, str]:
        """Column of the table -> column of a file that has `columns`."""
        matches = {new: next((n for n in names if n in columns), None) for new, names in self.columns.items()}
        return {new: old for new, old in matches.items() if old is not None}


def with_header(file: SourceFile, names: Sequence[str]) -> SourceFile:
    """The file with column `names` if its first line is not a header but a row, that is, contains a time."""
    header = file.columns
    numbered = {f"column {n}": name for n, name in enumerate(names, start=1)}
    if {*numbered} <= {*header}:
        return SourceFile(file.name, file.frame.rename(numbered))
    if len(header) < len(names) or {*names} & {*header}:
        return file
    if not days(pl.Series(header)).is_not_null().any():
        return file
    full = [*names, *(f"column {n}" for n in range(len(names) + 1, len(header) + 1))]
    first = pl.LazyFrame([header], schema=dict.fromkeys(full, pl.String), orient="row")
    rest = file.frame.select(pl.all().cast(pl.String)).rename(dict(zip(header, full, strict=True)))
    return SourceFile(file.name, pl.concat([first, rest]))


def time_and_others(file: SourceFile, request: LayoutRequest) -> tuple[str, list[str]]:
    """The time column (the one that the user names, else one in `TIMES`, else the first) and the other columns."""
    columns = file.columns
    candidates = (request.mapping.get("time"), *TIMES)
    time = next((c for c in candidates if c in columns), columns[0])
    return time, [c for c in columns if c != time]


def tags_of(columns: Sequence[str], separators: Sequence[str] = _SEPARATORS) -> dict[str, tuple[str, str]]:
    """The thing and the sensor of each column, if all but the first are named after both, and several have a sensor.

    >>> tags_of(["time", "P1.vib", "P2.vib"]), tags_of(["time", "motor.vib", "motor.temp"])
    ({'P1.vib': ('P1', 'vib'), 'P2.vib': ('P2', 'vib')}, {})
    """
    for separator in separators:
        parts = {name: name.rpartition(separator) for name in columns[1:]}
        sensors = [sensor for thing, _, sensor in parts.values() if thing and sensor]
        if len(sensors) == len(parts) > len({*sensors}):
            return {name: (thing, sensor) for name, (thing, _, sensor) in parts.items()}
    return {}


def has_tags(columns: Sequence[str]) -> bool:
    """Whether columns are surely named after a thing, such as P-101, and a sensor; zone 1 temp and zone 2 temp are not."""
    things = [thing for thing, _ in tags_of(columns, _SURE).values()]
    return bool(things) and all(re.search(r"\d", thing) for thing in things)


def time_and_tags(file: SourceFile, request: LayoutRequest) -> tuple[str, dict[str, tuple[str, str]]]:
    """The time column and the `tags_of` the others. Raises `ContractError` if there are none."""
    time, others = time_and_others(file, request)
    tags = tags_of([time, *others])
    if not tags:
        raise ContractError(
            f"{file.name}: not all columns are named after a thing and its sensor. Found: {', '.join(file.columns)}. "
            "Expected a column of times and others such as P1.vib and P2.vib."
        )
    return time, tags


def day(column: str, order: DateOrder | None) -> pl.Expr:
    """A column as dates; the order of day and month is inferred from the whole column."""
    return pl.col(column).map_batches(lambda values: days(values, order), return_dtype=pl.Date)


def beside(
    base: SourceFile, side: SourceFile, on: Sequence[str], on_day: Mapping[str, str], order: DateOrder | None
) -> SourceFile:
    """`base` with the columns of `side` that it lacks, joined by `on` and the day.

    `on_day` maps the day column of the base to that of the side. Raises `ContractError` if no row matches, or several that
    differ.
    """
    ((own_day, other_day),) = on_day.items()
    here, there = base.columns, side.columns
    extra = [c for c in there if c not in here and c not in (*on, other_day)]
    keys = [pl.col(c).cast(pl.String).str.strip_chars().alias(f"| {c}") for c in on]
    names = [f"| {c}" for c in (*on, "day")]
    other = side.frame.select(*keys, day(other_day, order).alias("| day"), *extra).unique()
    several = other.filter(pl.struct(names).is_duplicated()).select(names).sort(names).head(1).collect()
    if several.height:
        raise ContractError(
            f"{side.name}: several rows of {' '.join(map(str, several.row(0)))} differ. Expected one row for each "
            f"{' and '.join((*on, other_day))}. Remove the others."
        )
    own = base.frame.with_columns(*keys, day(own_day, order).alias("| day"))
    if own.join(other, on=names, how="semi").head(1).collect().is_empty():
        raise ContractError(
            f"{side.name} has no row that matches {base.name} in {' and '.join((*on, other_day))}. "
            f"Expected rows for the days of {base.name}. Correct {side.name}, or remove it from the folder."
        )
    return SourceFile(base.name, own.join(other, on=names, how="left", maintain_order="left").drop(names))
