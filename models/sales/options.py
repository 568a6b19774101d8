"""The options of the sales scenario, with their defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import Any

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
QUARTER = 13
"""Weeks."""
AUTO = "auto"
ESTIMATORS = (AUTO, "pooled", "statistical", "blend")


@dataclass(frozen=True)
class Options:
    """Options of a training or scoring run of `sales`; see `Options.of`."""

    horizon: int = QUARTER
    """Weeks to forecast."""
    quantiles: tuple[float, ...] = QUANTILES
    seed: int = 7
    training_rows: int = 300_000
    """Approximate maximum number of training rows; keys and horizons are sampled to stay below it."""
    backtest_rows: int = 200_000
    """Approximate maximum number of rows in the backtest, over all origins."""
    origins: int = 4
    """Backtest origins whose whole horizon is known, see `backtest_origins`."""
    holidays: tuple[str, ...] = ()
    """Calendars of public holidays whose effects are learnt and forecast; see `models.sales.events`."""
    requested_weeks: int = 52
    """A key without history in this many weeks, and without a plan, is not requested."""
    statistical_skus: int = 30
    """Maximum number of SKUs whose own models are tried in the backtest; without covariates, all are."""
    estimator: str = AUTO
    """`auto`: chosen by the backtest, see `models.sales.training`; or one for all keys that it can forecast."""
    trees: int = 80
    """Trees of the pooled model's location; scoring costs in proportion to trees times the logarithm of leaves."""
    learning_rate: float = 0.1
    leaves: int = 31
    leaf_share: float = 1 / 150
    """Minimum number of rows in a leaf, as a share of all rows."""
    feature_share: float = 0.1
    """Share of the features that each tree sees: many trees are averaged, each of which sees few features."""
    spread_trees: int = 20
    """Trees of each quantile's ensemble, on the residuals of the location."""
    spread_learning_rate: float = 0.15
    spread_leaves: int = 8
    spread_leaf_share: float = 1 / 50
    spread_feature_share: float = 0.3
    use_neighbours: bool = True
    """Whether the pooled model sees this group of features; see `groups.group_of`."""
    use_promotions: bool = True
    use_last_year: bool = True
    use_calendar: bool = True
    use_stores: bool = True
    totals: tuple[str, ...] = ("total", "store", "sku")
    """Levels of the published totals, see `models.sales.totals`."""
    total_weeks: tuple[int, ...] = ()
    """Totals of the first n weeks are published for each n here, besides those of each week and the whole horizon."""
    threads: int = 0
    """Threads of LightGBM in training; 0 for all. The result does not depend on it."""
    scoring_threads: int = 1
    """Threads of LightGBM in each worker that scores."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Options":
        """The options with defaults filled in; names that belong to other stages are ignored.

        >>> Options.of({"horizon": 4, "quantiles": [0.1, 0.5]}).columns
        ('q10', 'q50')
        """
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in options.items() if name in names and value is not None}
        if "quantiles" in values:
            values["quantiles"] = tuple(float(q) for q in values["quantiles"])
        values |= {
            name: tuple(values[name]) for name in ("totals", "total_weeks", "holidays") if name in values
        }
        result = cls(**values)
        if not result.quantiles or list(result.quantiles) != sorted(set(result.quantiles)):
            raise ValueError(f"quantiles are {result.quantiles}. Expected different ones in rising order.")
        if not 0 < result.quantiles[0] <= result.quantiles[-1] < 1:
            raise ValueError(f"quantiles are {result.quantiles}. Expected each between 0 and 1, e.g. 0.05.")
        if result.horizon < 1:
            raise ValueError(f"horizon is {result.horizon}. Expected at least 1 week.")
        if result.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {result.estimator!r}. Expected one of {', '.join(ESTIMATORS)}.")
        return result

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the quantile columns: 0.05 is `q5`, 0.975 is `q97.5`."""
        return tuple(quantile_column(q) for q in self.quantiles)

    @property
    def origin_gap(self) -> int:
        """Weeks between two backtest origins, and between the last one and `as_of`: the horizon, at most a quarter."""
        return min(self.horizon, QUARTER)

    def backtest_origins(self, as_of: date) -> list[date]:
        """Dates of the backtest origins, latest first, even if the history does not reach back to them.

        If the horizon is longer than a quarter, only part of the horizon is known at the latest of them.
        """
        in_part = -(-self.horizon // self.origin_gap) - 1
        return [as_of - timedelta(weeks=self.origin_gap * (i + 1)) for i in range(self.origins + in_part)]


def middle_of(quantiles: Sequence[float]) -> int:
    """The index of the quantile nearest to the median."""
    return min(range(len(quantiles)), key=lambda i: abs(quantiles[i] - 0.5))


def quantile_column(q: float) -> str:
    """Name of the column that holds quantile `q`.

    >>> quantile_column(0.05), quantile_column(0.975)
    ('q5', 'q97.5')
    """
    return f"q{round(q * 100, 6):g}"
