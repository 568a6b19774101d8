"""Sales and covariates of many keys on one calendar: dense arrays of week x key.

Windows over weeks are slices of such an array, so a gap in the table stays a gap (NaN) and never
shifts a lag, and code that receives `units[: origin + 1]` cannot see past the origin. Week is the
first axis: sums over weeks add whole rows in calendar order, so that the results for a key are
the same to the bit whatever keys are next to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.scenario import Frames

KEY = ("sku", "store")
IMPLAUSIBLE, PLAUSIBLE_WEEKS = 50.0, 8
IMPLAUSIBLE_EARLY, LEAST_WEEKS = 1000.0, 3
"""The same for the first `PLAUSIBLE_WEEKS` weeks of a key, of which at least `LEAST_WEEKS` must exist."""
OFFSET = 0.1
"""Added to units relative to a usual week before taking the logarithm, so that zero has a logarithm."""
IN_STOCK, ENOUGH_STOCK = "in_stock", 0.9
"""The history's column for the share of a week in which a SKU could be bought, and the least share at which units count."""
END = "end"
"""The attribute for the last day on which a SKU is sold."""
NOT_COVARIATES = frozenset({"sku", "store", "week", "units", "shard", IN_STOCK})


@dataclass(frozen=True)
class Panel:
    """`units` and each covariate are float64 of shape (weeks, keys); NaN means not observed or not known.

    Row `i` is the week `first_week + 7 * i` days. Rows after `last` hold the plan's covariates
    and no units. `implausible` counts the units that `plausible` replaced.
    """

    keys: pl.DataFrame
    first_week: date
    last: int
    units: np.ndarray
    covariates: Mapping[str, np.ndarray]
    implausible: int = 0

    @property
    def weeks(self) -> int:
        return self.units.shape[0]

    def week(self, index: int) -> date:
        return self.first_week + timedelta(weeks=int(index))

    def index(self, week: date) -> int:
        return (week - self.first_week).days // 7

    def cut(self, start: int, stop: int) -> "Panel":
        """The panel of the keys from `start` (included) to `stop` (excluded)."""
        covariates = {name: values[:, start:stop] for name, values in self.covariates.items()}
        return Panel(self.keys[start:stop], self.first_week, self.last, self.units[:, start:stop], covariates)

    def without_plan(self, origin: int) -> "Panel":
        """The panel with the covariates of weeks after `origin` unknown."""
        return replace(self, covariates={name: v[: origin + 1] for name, v in self.covariates.items()})

    def of(self, condition: pl.Expr) -> "Panel":
        """The panel of the `keys` for which `condition` is true; the panel itself if it is true for all."""
        mask = self.keys.select(condition.alias("chosen"))["chosen"].to_numpy()
        if mask.all():
            return self
        covariates = {name: values[:, mask] for name, values in self.covariates.items()}
        return Panel(self.keys.filter(condition), self.first_week, self.last, self.units[:, mask], covariates)


class Shared:
    """A frame with one row per week and value of one key column, as arrays of (weeks, keys of a panel).

    Every key has the rows of its own value; NaN if the frame has none.
    """

    def __init__(self, panel: Panel, frame: pl.DataFrame, column: str) -> None:
        values = panel.keys.select(pl.col(column).unique().sort()).with_row_index("_at")
        week = ((pl.col("week") - panel.first_week).dt.total_days() // 7).alias("_week")
        self._rows = frame.join(values, on=column, how="inner", maintain_order="left").with_columns(week)
        self._rows = self._rows.filter(pl.col("_week").is_between(0, panel.weeks - 1))
        self._shape = (panel.weeks, values.height)
        own = panel.keys.select(column).join(values, on=column, how="left", maintain_order="left")
        self._own = own["_at"].to_numpy()

    def array(self, name: str) -> np.ndarray:
        """Column `name` of the frame as float64 of shape (weeks, keys)."""
        values = np.full(self._shape, np.nan)
        at = (self._rows["_week"].to_numpy(), self._rows["_at"].to_numpy())
        values[at] = self._rows[name].cast(pl.Float64).to_numpy()
        return values[:, self._own]


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over weeks (the first axis) of the known values; NaN if there are none."""
    finite = np.isfinite(values)
    return ratio(sum_of_weeks(np.where(finite, values, 0.0)), finite.sum(axis=0))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`; NaN if the whole is not positive."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def sum_of_weeks(values: np.ndarray) -> np.ndarray:
    """Sum over weeks in calendar order; in a single column, numpy would add pairs, which changes the last digits."""
    if values.shape[1:] == (1,):
        return np.add.reduce(np.repeat(values, 2, axis=1), axis=0)[:1]
    return np.asarray(np.add.reduce(values, axis=0))


def covariate_columns(schema: Mapping[str, pl.DataType]) -> list[str]:
    """Names of the numeric columns of a history or plan that are neither key, week nor units, sorted."""
    return sorted(name for name, kind in schema.items() if name not in NOT_COVARIATES and kind.is_numeric())


def known_covariates(tables: Frames) -> list[str]:
    """The covariates that a forecast can use: those that both history and plan have.

    Without a plan, all covariates of the history: a plan may follow after the training.
    """
    history = covariate_columns(tables["history"].collect_schema())
    if "plan" not in tables:
        return history
    of_plan = set(covariate_columns(tables["plan"].collect_schema()))
    return [name for name in history if name in of_plan]


def out_of_stock() -> pl.Expr:
    """Whether a week's units may be below demand because stock ran out."""
    return (pl.col(IN_STOCK).cast(pl.Float64).fill_nan(None) < ENOUGH_STOCK).fill_null(value=False)


def demanded(history: pl.LazyFrame) -> pl.LazyFrame:
    """The history with unknown units in weeks out of stock: demand may have been higher than sales."""
    if IN_STOCK not in history.collect_schema():
        return history
    return history.with_columns(pl.when(~out_of_stock()).then("units").alias("units"))


def past_and_plan(tables: Frames, covariates: Sequence[str], as_of: date, horizon: int) -> pl.LazyFrame:
    """History up to `as_of`, and after it the plan of `horizon` weeks, as one long frame.

    Columns: sku, store, week, units (null in the plan), and `covariates` as float64.
    """
    values = [pl.col(name).cast(pl.Float64) for name in covariates]
    past = (
        demanded(tables["history"])
        .filter(pl.col("week") <= as_of)
        .select("sku", "store", "week", pl.col("units").cast(pl.Float64), *values)
    )
    if "plan" not in tables:
        return past
    plan_columns = set(tables["plan"].collect_schema())
    future = (
        tables["plan"]
        .filter(pl.col("week") > as_of, pl.col("week") <= as_of + timedelta(weeks=horizon))
        .select(
            "sku",
            "store",
            "week",
            pl.lit(None, dtype=pl.Float64).alias("units"),
            *[
                value if name in plan_columns else pl.lit(None, dtype=pl.Float64).alias(name)
                for name, value in zip(covariates, values, strict=True)
            ],
        )
    )
    return pl.concat([past, future])


def panel_of(
    rows: pl.LazyFrame,
    keys: pl.DataFrame,
    covariates: Sequence[str],
    first_week: date,
    as_of: date,
    horizon: int,
) -> Panel:
    """The panel of `keys` from long `rows`; keys without rows are columns of NaN.

    `keys` are sorted by all their columns. Rows before `first_week`, and after the horizon, are left out.
    """
    names = keys.columns
    sorted_keys = keys.sort(names)
    last = (as_of - first_week).days // 7
    values = ["units", *covariates]
    cells = (
        rows.filter(pl.col("week").is_between(first_week, as_of + timedelta(weeks=horizon)))
        .join(sorted_keys.with_row_index("_key").lazy(), on=names, how="inner")
        .select(
            pl.col("_key"),
            ((pl.col("week") - first_week).dt.total_days() // 7).alias("_week"),
            *values,
        )
        .collect()
    )
    at = (cells["_week"].to_numpy(), cells["_key"].to_numpy())
    arrays = {name: np.full((last + 1 + horizon, sorted_keys.height), np.nan) for name in values}
    for name, array in arrays.items():
        array[at] = cells[name].to_numpy()
    raw_units = arrays.pop("units")
    units = plausible(raw_units)
    implausible = int((np.isfinite(raw_units) & (raw_units != units)).sum())
    return Panel(sorted_keys, first_week, last, units, arrays, implausible)


def plausible(units: np.ndarray) -> np.ndarray:
    """`units` (weeks, keys) with single weeks that can only be typing errors replaced by the highest week before.

    Such a week is more than `IMPLAUSIBLE` times the highest of all earlier weeks of the key, of which there are
    at least `PLAUSIBLE_WEEKS`, at least one of them with sales. A second such week in a row is accepted. Negative
    weeks as far from zero count as zero. Whether a week is replaced depends only on earlier weeks, so that no
    backtest knows the future; except in a key's first `PLAUSIBLE_WEEKS` weeks, see `_early`.
    """
    result = _early(units)
    highest, weeks = np.zeros(units.shape[1]), np.zeros(units.shape[1])
    was_error = np.zeros(units.shape[1], dtype=bool)
    for at, now in enumerate(result):
        finite = np.isfinite(now)
        beyond = finite & (highest > 0) & (weeks >= PLAUSIBLE_WEEKS) & (np.abs(now) > IMPLAUSIBLE * highest)
        is_error = beyond & ~was_error
        result[at] = np.where(is_error, np.where(now > 0, highest, 0.0), now)
        highest = np.where(finite, np.maximum(highest, result[at]), highest)
        was_error = np.where(finite, is_error, was_error)
        weeks += finite
    return result


def _early(units: np.ndarray) -> np.ndarray:
    """A copy of `units` in which a single one of a key's first weeks that is `IMPLAUSIBLE_EARLY` times the others is
    replaced by the highest of them; by zero if it is negative.

    The first weeks are judged by each other. No forecast uses fewer of them than `PLAUSIBLE_WEEKS`: keys with fewer
    weeks are left to the ladder.
    """
    size = np.where(np.isfinite(units), np.abs(units), -1.0)
    early = (size >= 0) & (np.cumsum(size >= 0, axis=0) <= PLAUSIBLE_WEEKS)
    size = np.where(early, size, -1.0)
    if len(size) < LEAST_WEEKS:
        return units.copy()
    second = np.partition(size, -2, axis=0)[-2]
    enough = (second > 0) & (early.sum(axis=0) >= LEAST_WEEKS)
    beyond = enough & (size > IMPLAUSIBLE_EARLY * second)
    return np.where(beyond, np.where(units > 0, second, 0.0), units)
