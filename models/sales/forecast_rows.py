"""Forecast rows: a key, an origin (the last week known) and a target week after it, with their features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales.demand import LEVEL_WEEKS, from_log, kinds_of_keys, last_known
from models.sales.features import origin_features, target_features
from models.sales.seasons import YEAR, year_before
from models.sales.views import View

ENOUGH_WEEKS = 8
"""Number of weeks with units in the last year that the pooled model needs, one of them in the last `LEVEL_WEEKS`."""


@dataclass(frozen=True)
class Rows:
    """Forecast rows: `frame` identifies them (sku, store, origin, week, step, units, level, kind, whole, planned, enough,
    naive (zero if nothing is known), seasonal_naive, last_year (NaN if unknown)); `values` holds their
    features, float32 of shape (rows, features). `whole`: the key is slow or new and sells whole numbers."""

    frame: pl.DataFrame
    values: np.ndarray
    names: tuple[str, ...]


def build(
    view: View,
    origins: Sequence[int],
    steps: Mapping[int, Sequence[int]],
    marks: frozenset[tuple[int, int]] = frozenset(),
) -> Rows:
    """Rows of every key of the panel for each of the `origins` and each of its `steps`, in that order.

    For each (origin, step) in `marks`, every flag of the target week is 1.
    """
    frames, blocks = [], []
    names: tuple[str, ...] = ()
    for origin in origins:
        base = origin_features(view, origin)
        about = _about_origin(view, origin, base)
        for step in steps[origin]:
            more = target_features(view, origin, step, base, (origin, step) in marks)
            features = {name: values for name, values in (base | more).items() if name[0] != "_"}
            names = tuple(features)
            blocks.append(np.stack(list(features.values()), axis=1).astype(np.float32))
            last_year_units = from_log(features["last_year"], about["level"].to_numpy())
            frames.append(
                _about_target(view, about, origin, step).with_columns(pl.Series("last_year", last_year_units))
            )
    return Rows(pl.concat(frames), np.concatenate(blocks), names)


def _about_origin(view: View, origin: int, base: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Keys with origin, level, `enough` (history for the pooled model), naive, and kind apart from promotions."""
    units = view.panel.units[: origin + 1]
    weeks_of_year = np.isfinite(units[-YEAR:]).sum(axis=0)
    kinds = kinds_of_keys(base["weeks_known"], base["zeros"])
    year = units[-YEAR:]
    is_whole = (~np.isfinite(year) | (year == np.round(year))).all(axis=0)
    is_recent = np.isfinite(units[-LEVEL_WEEKS:]).any(axis=0)
    enough = (weeks_of_year >= ENOUGH_WEEKS) & is_recent & np.isfinite(base["_level"])
    return view.panel.keys.with_columns(
        pl.lit(view.panel.week(origin)).alias("origin"),
        pl.Series("level", base["_level"]),
        pl.Series("enough", enough),
        pl.Series("naive", last_known(units)),
        pl.Series("kind", kinds),
        pl.Series("whole", is_whole & (kinds != "regular")),
    )


def _about_target(view: View, about: pl.DataFrame, origin: int, step: int) -> pl.DataFrame:
    """`about` with week, step, units, planned, seasonal_naive, and the kind of demand of that week."""
    panel, target = view.panel, origin + step
    empty = np.full(about.height, np.nan)
    actual = panel.units[target] if target < panel.weeks else empty
    ago = year_before(origin, target)
    year_ago = panel.units[ago] if ago >= 0 else empty
    is_promoted, has_plan = np.zeros(about.height, bool), np.zeros(about.height, bool)
    if target < panel.weeks:
        is_promoted = view.promotions.is_promoted[target] == 1
        for values in panel.covariates.values():
            has_plan |= np.isfinite(values[target])
    kind = pl.col("kind")
    return about.with_columns(
        pl.lit(panel.week(target)).alias("week"),
        pl.lit(step, dtype=pl.Int32).alias("step"),
        pl.Series("units", actual, nan_to_null=True),
        pl.Series("planned", has_plan),
        pl.when((kind == "regular") & pl.Series(is_promoted))
        .then(pl.lit("promoted"))
        .otherwise(kind)
        .alias("kind"),
        pl.Series("seasonal_naive", np.where(np.isfinite(year_ago), year_ago, about["naive"].to_numpy())),
    )
