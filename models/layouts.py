"""Layouts: how the files of other products hold a scenario's tables, by name (`--layout`).

A layout is a short mapping on record. `Layout.columns` says what the table's columns are called there, and
`Layout.arrange` makes rows of the table where files are of another shape. What the user maps with `--column` counts more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from models.errors import ContractError
from models.times import DateOrder, days

TIMES = ("timestamp", "Timestamp", "TIMESTAMP", "time", "date")
"""Names that a column of times often has."""


@dataclass(frozen=True)
class Part:
    """One file of a source, or one member of a zip: its path for people, and its rows."""

    name: str
    frame: pl.LazyFrame

    @property
    def columns(self) -> list[str]:
        return self.frame.collect_schema().names()

    @property
    def stem(self) -> str:
        """
        >>> Part("plant/pump 7.csv.gz", pl.LazyFrame()).stem
        'pump 7'
        """
        return self.name.rpartition("/")[2].partition(".")[0]

    @property
    def folder(self) -> str | None:
        """The name of the folder or zip that the file lies in, None where its path names none."""
        above = self.name.rpartition("/")[0].rpartition("/")[2]
        return above.removesuffix(".zip") or None


@dataclass(frozen=True)
class Asked:
    """What an ingest asks of a layout: the table; by table the name of its source, without folders and endings; and
    what the user said of columns and dates."""

    table: str
    sources: Mapping[str, str]
    mapping: Mapping[str, str] = field(default_factory=dict)
    dates: DateOrder | None = None

    @property
    def source(self) -> str:
        return self.sources[self.table]


Arrange = Callable[[Sequence[Part], Asked], Sequence[Part]]


@dataclass(frozen=True)
class Layout:
    """What files of a kind are, in a sentence, and how a table is made of them.

    `columns` has for a column of a table the names that it may have, of which the first one that a file has is taken.
    `constants` are values of columns that a file lacks.
    """

    about: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    arrange: Arrange | None = None

    def mapping(self, columns: Sequence[str]) -> dict[str, str]:
        """Column of the table -> column of a file that has `columns`."""
        found = {new: next((n for n in names if n in columns), None) for new, names in self.columns.items()}
        return {new: old for new, old in found.items() if old is not None}


def with_header(part: Part, names: Sequence[str]) -> Part:
    """A part under `names` where its first line is no header but a row, as it is where that begins with a time."""
    found = part.columns
    if len(found) < len(names) or {*names} & {*found}:
        return part
    if not days(pl.Series(found)).is_not_null().any():
        return part
    full = [*names, *(f"column {n}" for n in range(len(names) + 1, len(found) + 1))]
    first = pl.LazyFrame([found], schema=dict.fromkeys(full, pl.String), orient="row")
    rest = part.frame.select(pl.all().cast(pl.String)).rename(dict(zip(found, full, strict=True)))
    return Part(part.name, pl.concat([first, rest]))


def time_and_others(part: Part, asked: Asked) -> tuple[str, list[str]]:
    """The column with the time, which the user names or is called so or comes first, and the others."""
    columns = part.columns
    wanted = (asked.mapping.get("time"), *TIMES)
    time = next((c for c in wanted if c in columns), columns[0])
    return time, [c for c in columns if c != time]


def day(column: str, order: DateOrder | None) -> pl.Expr:
    """A column of dates as such; the order of day and month is seen from all of it."""
    return pl.col(column).map_batches(lambda values: days(values, order), return_dtype=pl.Date)


def beside(
    base: Part, side: Part, on: Sequence[str], dated: Mapping[str, str], order: DateOrder | None
) -> Part:
    """`base` with the columns of `side` that it lacks, for equal `on` and equal days; raises where none is equal.

    `dated` is the column with the day: of the base -> of the side.
    """
    ((left, right),) = dated.items()
    here, there = base.columns, side.columns
    added = [c for c in there if c not in here and c not in (*on, right)]
    keys = [pl.col(c).cast(pl.String).str.strip_chars().alias(f"| {c}") for c in on]
    names = [f"| {c}" for c in (*on, "day")]
    other = side.frame.select(*keys, day(right, order).alias("| day"), *added).unique(names, keep="last")
    own = base.frame.with_columns(*keys, day(left, order).alias("| day"))
    if own.join(other, on=names, how="semi").head(1).collect().is_empty():
        raise ContractError(
            f"{side.name} has no row of a day of {base.name} with the same {' and '.join((*on, right))}. "
            f"Expected rows beside those of {base.name}. Correct {side.name}, or leave it out of the folder."
        )
    return Part(base.name, own.join(other, on=names, how="left", maintain_order="left").drop(names))
