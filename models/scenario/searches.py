"""How the hyperparameters of a scenario are searched."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from models.scenario.inputs import AsOf, Frames
from models.search import Space


class Search(ABC):
    """How the hyperparameters of a scenario are searched.

    A trial is a value for each choice of `space`. It is judged on folds, one after the other, by the loss
    that bundles are compared by; a fold's estimators know nothing after it begins. The last fold takes no
    part in the search: it judges the winner.
    """

    @property
    @abstractmethod
    def space(self) -> Space:
        """What is searched, by the options of `fit` and `prepare_shard` that it sets."""

    @abstractmethod
    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with defaults filled in, those of `space` among them."""

    @abstractmethod
    def prepare(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """What one shard contributes to all trials, by name, whatever they try."""

    @abstractmethod
    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        """What the folds are called, earliest first, as far as the history reaches; the last one judges."""

    @abstractmethod
    def losses(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        """The loss of `options` at each fold, worked out when it is asked for, from that fold and earlier ones."""
