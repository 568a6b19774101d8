"""Capabilities: base classes besides `Scenario`, for members that not every scenario has."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from models.interchange import Interchange
from models.page.blocks import Section
from models.scenario.inputs import AsOf, Context, Frames
from models.scenario.results import Event, File
from models.scenario.run_view import RunView
from models.scenario.searches import Search


class MeetsChampions(ABC):
    """A challenger can be compared with a champion on rows that the champion has not seen.

    Without it, only bundles trained up to the same `as_of` are compared, by the losses of their backtests.
    """

    @abstractmethod
    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `model`) on the rows that `model` has not seen, and the number of rows.

        None if `model`, which was trained on data up to `trained_as_of`, has seen all of them.
        """


class CatchesUp(ABC):
    """A run without an `as_of` covers those that were missed. Without this capability, it covers only the newest."""

    @abstractmethod
    def due_as_ofs(
        self, tables: Frames, newest: AsOf, published_as_ofs: Collection[AsOf], at_most: int
    ) -> Sequence[AsOf]:
        """Every complete `as_of` that is not among `published_as_ofs`, oldest first; `newest` is the last complete one.

        Those before the first published one are not due. If nothing has been published, the newest `at_most`.
        """

    def changed_as_ofs(self, before: Frames, now: Frames, as_ofs: Collection[AsOf]) -> Sequence[AsOf]:
        """Those of `as_ofs` whose own input rows differ between two versions of the tables: they are scored again."""
        return []


class ExplainsRows(ABC):
    """The scenario explains how a published row differs from what is usual for its key."""

    @abstractmethod
    def worth_explaining(self, published_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.LazyFrame:
        """The published rows that a page explains, few enough for one process."""

    @abstractmethod
    def explain(
        self,
        model: Any,
        tables: Frames,
        context: Context,
        rows: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> pl.DataFrame:
        """A line per row of `rows`, the published rows of some keys: additive numbers, and `reasons` in words."""


class ReportsGaps(ABC):
    """The scenario reports gaps in its inputs."""

    @abstractmethod
    def gaps(
        self, tables: Frames, context: Context, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """The gaps in the inputs for `keys`, and what the run does about them: a few lines in words, often none."""


class CompletesRows(ABC):
    """Published rows have values that depend on the rows of other shards, such as a rank."""

    @abstractmethod
    def complete(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows of all shards, with the values that depend on other shards."""


class DerivesTables(ABC):
    """Other tables are published, by `as_of`, together with the scored rows."""

    @property
    @abstractmethod
    def derived_tables(self) -> tuple[str, ...]:
        """Names of the tables."""

    def derive(
        self, rows: pl.LazyFrame, earlier: Frames, tables: Frames, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """The tables derived from the published `rows`.

        `earlier` holds the rows before `as_of` of those derived tables that exist; `tables` are the inputs.
        """
        return {}


class DerivesFromBundle(DerivesTables):
    """The derived tables depend on the bundle."""

    @abstractmethod
    def derive_from_bundle(
        self,
        files: Mapping[str, File],
        rows: pl.LazyFrame,
        tables: Frames,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> dict[str, pl.DataFrame]:
        """The tables derived from the published `rows` and the bundle's `files`; `tables` are the inputs."""

    def derivation_notes(self, files: Mapping[str, File]) -> list[str]:
        """Notes for a run on derived tables that the bundle's `files` do not support."""
        return []


class EmitsEvents(ABC):
    """The scenario emits events for published rows."""

    alarms: tuple[str, pl.Expr] | None = None
    """A derived table, and the condition for its rows that are new alarms of their run; None: there are no alarms."""

    @abstractmethod
    def events(
        self, rows: pl.LazyFrame, frames: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> list[Event]:
        """The few events that others may act on; `frames` are the derived tables."""


class HasPage(ABC):
    """The page of a run shows more than control charts and drift."""

    @abstractmethod
    def sections(self, run: RunView) -> list[Section]:
        """The sections of the page of a scoring run, most useful first."""


class WatchesInputs(ABC):
    """Inputs are watched for drift. Without this capability, only the rungs of published rows are watched."""

    @abstractmethod
    def watched_inputs(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        """The watched inputs of some shards.

        At most one row per key and `cycle` (the `as_of` that it belongs to) up to `as_of`; a column per feature, in
        a form with little seasonality. See `models.drift` for null and NaN. A key's usual values come from rows up to
        `trained_as_of`, or only from rows before each cycle.
        """

    def watched_scores(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The existing published columns whose drift is watched."""
        return ("rung",)


class HasEstimators(ABC):
    """The estimators of a bundle can be used without a store."""

    @abstractmethod
    def estimate(self, model: Any, rows: pl.DataFrame) -> pl.DataFrame:
        """The estimates of the model's estimators for rows of features.

        Each scenario defines the columns of `rows` and those that the result adds.
        """

    @abstractmethod
    def interchange(self, model: Any) -> Interchange:
        """The model's estimators as ONNX graphs."""


class HasSearch(ABC):
    """The hyperparameters of `fit` can be tuned."""

    @property
    @abstractmethod
    def search(self) -> Search:
        """The search for better hyperparameters of `fit`."""
