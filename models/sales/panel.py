"""Sales and covariates of many keys on one calendar: dense arrays of week x key.

Windows over weeks are slices of such an array, so a gap in the table stays a gap (NaN) and never
shifts a lag, and whatever is given `units[: origin + 1]` cannot see past the origin. Week is the
first axis: sums over weeks add whole rows in calendar order, which makes the arithmetic of a key
the same to the bit whichever keys stand next to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.scenario import Frames

KEY = ("sku", "store")
NOT_COVARIATES = frozenset({"sku", "store", "week", "units", "shard"})


@dataclass(frozen=True)
class Panel:
    """`units` and each covariate are float64 of shape (weeks, keys); NaN is not observed or not known.

    Row `i` is the week `first_week + 7 * i` days. Rows after `last` hold the plan's covariates
    and no units.
    """

    keys: pl.DataFrame
    first_week: date
    last: int
    units: np.ndarray
    covariates: Mapping[str, np.ndarray]

    @property
    def weeks(self) -> int:
        return self.units.shape[0]

    def week(self, index: int) -> date:
        return self.first_week + timedelta(weeks=int(index))

    def index(self, week: date) -> int:
        return (week - self.first_week).days // 7


def covariate_columns(schema: Mapping[str, pl.DataType]) -> list[str]:
    """Names of the numeric columns of a history or plan that are neither key, week nor units, sorted."""
    return sorted(name for name, kind in schema.items() if name not in NOT_COVARIATES and kind.is_numeric())


def known_covariates(tables: Frames) -> list[str]:
    """The covariates that a forecast may count on: those of the history that the plan has too.

    Without a plan, all of the history: a plan may follow when the model is there.
    """
    history = covariate_columns(tables["history"].collect_schema())
    if "plan" not in tables:
        return history
    planned = set(covariate_columns(tables["plan"].collect_schema()))
    return [name for name in history if name in planned]


def past_and_plan(tables: Frames, covariates: Sequence[str], as_of: date, horizon: int) -> pl.LazyFrame:
    """History up to `as_of`, and after it the plan of `horizon` weeks, as one long frame.

    Columns: sku, store, week, units (null in the plan), and `covariates` as float64.
    """
    values = [pl.col(name).cast(pl.Float64) for name in covariates]
    past = (
        tables["history"]
        .filter(pl.col("week") <= as_of)
        .select("sku", "store", "week", pl.col("units").cast(pl.Float64), *values)
    )
    if "plan" not in tables:
        return past
    planned = set(tables["plan"].collect_schema())
    future = (
        tables["plan"]
        .filter(pl.col("week") > as_of, pl.col("week") <= as_of + timedelta(weeks=horizon))
        .select(
            "sku",
            "store",
            "week",
            pl.lit(None, dtype=pl.Float64).alias("units"),
            *[
                value if name in planned else pl.lit(None, dtype=pl.Float64).alias(name)
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

    `keys` are sorted by all their columns. Rows before `first_week` are left out.
    """
    names = keys.columns
    ordered = keys.sort(names)
    last = (as_of - first_week).days // 7
    values = ["units", *covariates]
    found = (
        rows.filter(pl.col("week") >= first_week)
        .join(ordered.with_row_index("_key").lazy(), on=names, how="inner")
        .select(
            pl.col("_key"),
            ((pl.col("week") - first_week).dt.total_days() // 7).alias("_week"),
            *values,
        )
        .collect()
    )
    at = (found["_week"].to_numpy(), found["_key"].to_numpy())
    arrays = {name: np.full((last + 1 + horizon, ordered.height), np.nan) for name in values}
    for name, array in arrays.items():
        array[at] = found[name].to_numpy()
    return Panel(ordered, first_week, last, arrays.pop("units"), arrays)
