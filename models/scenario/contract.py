"""The base class of every scenario."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self

import polars as pl

from models.layouts import Layout
from models.scenario.inputs import AsOf, Context, Frames, Table
from models.scenario.results import File, FitResult, PublishedTable, Scores


class Scenario(ABC):
    """A batch scoring scenario: the members that every scenario must have, and those with a default.

    See `models.scenario` for the order of calls and for the capabilities that a scenario may add.
    """

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    @abstractmethod
    def name(self) -> str:
        """The scenario's name: its folder in the store, its commands, its events."""

    @property
    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """The columns that identify what is scored separately."""

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, Table]:
        """The input tables by name."""

    @property
    def cadence(self) -> timedelta | None:
        """How often new data is expected in the first of `tables`; None if there is no set interval."""
        return None

    def at_pace_of(self, tables: Frames) -> Self:
        """The scenario with the `cadence` that the rows of `tables` show, which may be longer, not shorter; or itself."""
        return self

    @property
    def fixed_options(self) -> Mapping[str, Any]:
        """Options that the first ingest fixes because every stored row depends on them."""
        return {}

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """How files of other products hold the tables, by the name for `--layout`. By default none."""
        return {}

    @property
    def formats(self) -> tuple[int, ...]:
        """Formats of bundles that `load` reads; `fit` writes the last one.

        Add a number when the files change so that an earlier version cannot load them; remove one when `load` no
        longer reads it. Only a champion in a format that is not listed is replaced without a comparison.
        """
        return (1,)

    @abstractmethod
    def published_table(self, options: Mapping[str, Any]) -> PublishedTable:
        """The table that scoring publishes, given the bundle's options."""

    @abstractmethod
    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> AsOf:
        """The time up to which data is used: `as_of` on the scenario's grid, or the last complete time.

        Raises `ContractError` if `as_of` is before or after the data.
        """

    def omissions(self, tables: Frames, newest: AsOf) -> list[str]:
        """Notes on data that runs at `newest`, the last complete time, leave out or cannot have. By default none."""
        return []

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        """Small frames from all shards together that every shard needs, as known at `as_of`. By default none."""
        return {}

    def training_context(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """Frames that only training needs and that are added to its `context`. By default none."""
        return {}

    def context_notes(self, tables: Frames, context: Context, as_of: AsOf) -> list[str]:
        """Notes on what the `context` shows about the newest data. By default none."""
        return []

    def prepare_shard(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """The frames that one shard contributes to training, by name; frames of the same name are concatenated.

        By default, all rows of the shard in each sharded table; `fit` then cuts them at `as_of`.
        """
        return {
            name: tables[name].collect()
            for name, table in self.tables.items()
            if table.shard_by and name in tables
        }

    @abstractmethod
    def fit(self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]) -> FitResult:
        """Backtest, estimators and calibration from the parts of all shards."""

    @abstractmethod
    def load(self, files: Mapping[str, File]) -> Any:
        """The model from a bundle's files; loading executes nothing in them."""

    @abstractmethod
    def requested_keys(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The keys to account for: the key's columns and `shard`, one row each."""

    @abstractmethod
    def score(
        self,
        model: Any,
        tables: Frames,
        context: Context,
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        """The scores of `keys`, in one vectorised pass. The rows of a key do not depend on other keys."""
