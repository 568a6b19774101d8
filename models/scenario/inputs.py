"""The input tables of a scenario, each with its contract."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from models.contracts import AcceptResult, FoldResult, accept, as_new_rows, one_of_each, replace

if TYPE_CHECKING:
    from models.schemas import dy

Frames = Mapping[str, pl.LazyFrame]
"""Input tables by name; each lazy, already at its resolved version and cut to the shard."""

Context = Mapping[str, pl.DataFrame]
"""Small frames that every shard needs, by name; see `Scenario.context`."""

AsOf = date | datetime


def with_shard(frame: pl.DataFrame, columns: Sequence[str], shards: int) -> pl.DataFrame:
    """`frame` with `shard`: the CRC-32 of `columns`, joined by the unit separator, modulo `shards`."""
    keys = frame.select(columns).unique()
    numbers = [zlib.crc32("\x1f".join(map(str, row)).encode()) % shards for row in keys.iter_rows()]
    lookup = keys.with_columns(pl.Series("shard", numbers, dtype=pl.Int32))
    return frame.drop("shard", strict=False).join(lookup, on=list(columns), how="left", maintain_order="left")


@dataclass(frozen=True)
class Table:
    """An input table of a scenario and its contract.

    `schema` holds columns, types and the rules of a row. `unique` names the columns that identify
    a row: a later ingest with the same values replaces the stored row. `shard_by` is the part of
    the key whose hash is the row's shard; empty for a small table that every shard reads completely.
    With `covariates`, further numeric columns are kept as float64. `aliases` maps columns to frequent names
    in sources, for a source that lacks the column.
    """

    name: str
    schema: "type[dy.Schema]"
    unique: tuple[str, ...]
    shard_by: tuple[str, ...] = ()
    covariates: bool = False
    words: int | None = 0
    """Maximum number of different words in a further text column that is kept; None: unlimited."""
    required: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)
    may_be_empty: bool = False
    """Whether a source may have no rows, such as a night without a failure."""
    rows_at_a_time: int | None = None
    """The number of rows that are read and folded at a time; None: all, because `check` needs them."""
    harmless: tuple[str, ...] = ()
    """Rules whose breach costs only the row: it does not count towards refusing the source."""
    advice: Mapping[str, str] = field(default_factory=dict)
    """Rule -> what to do about rows that break it."""
    ahead: timedelta = timedelta(days=2)
    """How far in the future the times that identify a row may be; later ones are mistakes."""
    amounts: tuple[str, ...] = ()
    """Columns that are summed when rows with the same unique columns are added up."""
    wide: tuple[str, str] | None = None
    """The columns that receive the names and the cells of the many columns of a wide file."""
    labels: str = ""
    """Matches the names of columns of a wide file that hold what is to be found, such as the anomalies."""
    optional: tuple[str, ...] = ()
    """Columns of the schema that a source may lack."""

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that a source must have."""
        return tuple(column for column in self.schema.column_names() if column not in self.optional)

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """The result of checking raw rows of a file, numbered by `models.contracts.ROW`, against the contract.

        `options` are those of the ingest; every table has `timezone`, `dates` (see
        `models.times`), `now` and `types`, those of columns in earlier rows.
        """
        return accept(
            raw,
            self.schema,
            self.unique,
            covariates=self.covariates,
            timezone=options.get("timezone"),
            dates=options.get("dates"),
            latest=(options.get("now") or datetime.now(UTC)) + self.ahead,
            words=self.words,
            types=options.get("types", {}),
        )

    def unique_in(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns that identify a row among the accepted ones of an ingest; empty if `fold` combines all rows."""
        return self.unique

    def one_of_each(
        self, rows: pl.DataFrame, files: pl.DataFrame, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Accepted rows of all files, with one for each combination of `unique_in`: see `models.contracts`."""
        return one_of_each(rows, files, self.unique_in(options), options.get("duplicates"), self.amounts)

    def check_files(self, rows: pl.LazyFrame, files: pl.DataFrame) -> None:
        """Raise `ContractError` if accepted `rows`, numbered by `ROW`, show that `files` do not belong together.

        `files` are their first row, as `ROW`, and their `FILE`. Called for several files whose rows `fold` combines.
        """

    def check_names(self, mapping: Mapping[str, str], options: Mapping[str, Any]) -> None:
        """Raise `ContractError` if a source's names of columns, by that of the table, contradict the options."""

    def check(self, frame: pl.DataFrame, stored_tables: Frames) -> None:
        """Raise `ContractError` if `frame`, the good rows, is wrong as a whole.

        `stored_tables` are the scenario's existing tables. Not called for tables with `rows_at_a_time`.
        """

    def notes(
        self, frame: pl.DataFrame, stored_tables: Frames, options: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Notes on good rows that are not taken literally; called when `check` is."""
        return ()

    def fold(self, stored_rows: pl.LazyFrame | None, rows: pl.DataFrame) -> FoldResult:
        """The result of folding accepted rows into the stored ones of the same shards; None: there is no table yet.

        A row replaces a stored one with the same unique columns.
        """
        rows = rows if self.rows_at_a_time is None else rows.sort(self.unique)
        return as_new_rows(rows) if stored_rows is None else replace(stored_rows, rows, self.unique)

    def replace(self, stored_rows: pl.LazyFrame | None, rows: pl.DataFrame) -> FoldResult:
        """As `fold`, for accepted rows that are complete for the range of time that they cover."""
        return self.fold(stored_rows, rows)

    def corrections(self, stored_rows: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        """The unique columns and shard of stored rows that accepted `rows` correct with other unique columns.

        They are removed once `rows` are in the table. By default there are none.
        """
        return stored_rows.head(0).select(self.identity).collect()

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that locate a row in the table: the unique ones, and the shard if the table has shards."""
        return (*self.unique, "shard") if self.shard_by else self.unique
