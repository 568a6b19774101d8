"""Capabilities of a scenario that receives ground truth for its published rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from models.scenario.contract import Scenario
from models.scenario.inputs import AsOf, Context, Frames


@dataclass(frozen=True)
class GroundTruth:
    """The source of the ground truth of published rows.

    `tables` are the inputs that contain it: a change in them can change the judgement of rows. `since` and
    `until` aggregate judged rows to the range of times in those tables on which the judgement depends, both ends
    included; null or None: unbounded.
    """

    tables: tuple[str, ...]
    since: pl.Expr | None
    until: pl.Expr


@dataclass(frozen=True)
class ControlChart:
    """A measure that is watched over time: its label on the page, and the side of the limits on which it is worse.

    `every` is the time that a point covers, starting at its period.
    """

    label: str
    every: Literal["day", "week"]
    worse: Literal["above", "either side"] = "above"
    format: str = ".3f"


TALLIES: dict[str, Any] = {
    "chart": pl.String,
    "series": pl.String,
    "period": pl.Date,
    "numerator": pl.Float64,
    "denominator": pl.Float64,
    "rows": pl.Int64,
}
"""What judged rows add to points of control charts: sums over all rows of a point. The point's value is their ratio."""


class HasGroundTruth(ABC):
    """Tables of the scenario later show whether published rows were right."""

    @property
    @abstractmethod
    def ground_truth(self) -> GroundTruth:
        """The source of the ground truth of published rows."""

    @abstractmethod
    def judge(
        self, published_rows: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Published rows of one `as_of` with their ground truth up to `until`, once per target.

        `options` are those of the bundle that published them. The result has `bundle` and `run_id` as
        published, no `as_of`, and `pending`: true where the ground truth is not known yet. Its order is arbitrary.
        """

    @abstractmethod
    def measures(self, judged_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """Metrics of judged rows, long: slice, value_of_slice, metric, value. Pending rows do not count."""

    def ground_truth_losses(
        self, backtest: pl.LazyFrame, judged_rows: pl.LazyFrame, options: Mapping[str, Any]
    ) -> tuple[float, float, int] | None:
        """Losses of (`backtest`, `judged_rows`) on the targets and origins that both have, and the number of rows.

        `backtest` is a challenger's, out of sample; `judged_rows` are rows that the champion published, not
        pending. None if they have nothing in common.
        """
        return None


class HasControlCharts(HasGroundTruth):
    """One or two measures of judged rows are watched over time."""

    @property
    @abstractmethod
    def charts(self) -> Mapping[str, ControlChart]:
        """The control charts by name."""

    @abstractmethod
    def tallies(self, judged_rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """What judged rows of one `as_of` add to the points of `charts`; see `TALLIES`."""

    def backtest_tallies(self, backtest: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        """The tallies of a bundle's backtest, for the points before the first published point."""
        return pl.DataFrame(schema=TALLIES)


class EvaluatesBundles(Scenario, HasGroundTruth):
    """A scenario that can evaluate any bundle over a range of time."""

    @property
    @abstractmethod
    def bundle_evaluations(self) -> str:
        """The name of the table of bundles' judged rows, partitioned by the last `as_of` at the time of the evaluation."""

    @abstractmethod
    def evaluate(
        self, model: Any, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Judged rows of one shard from `score_from` to `score_to`, with the ground truth known at `as_of`."""
