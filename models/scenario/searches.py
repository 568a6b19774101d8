"""The search for the hyperparameters of a scenario."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from models.scenario.inputs import AsOf, Context, Frames
from models.search import Space


class Search(ABC):
    """The search for the hyperparameters of a scenario.

    A trial is a value for each choice of `space`. It is judged on one fold after the other, by the loss by
    which bundles are compared; a fold's estimators are trained on data before it. The last fold takes no
    part in the search: it judges the winner.
    """

    @property
    @abstractmethod
    def space(self) -> Space:
        """The search space: the options of `fit` and `prepare_shard` that a trial sets, and their choices."""

    @abstractmethod
    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with defaults filled in, including those of `space`."""

    @abstractmethod
    def prepare(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """The frames that one shard contributes to all trials, by name; they do not depend on the trials' values."""

    @abstractmethod
    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        """The names of the folds that the history covers, earliest first; the last one judges the winner."""

    @abstractmethod
    def losses(
        self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        """The loss of `options` at each fold, computed lazily from that fold and earlier ones."""
