"""Features of one forecast row: a key, an origin (the last week known) and a target week after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales.panel import Panel

PRICE = "price"
PROMOTED_DEPTH = 0.05
"""A price this share below the key's usual price is a promotion."""


@dataclass(frozen=True)
class Rows:
    """Forecast rows: `frame` says which (sku, store, origin, week, step, units, level, kind, planned),
    `values` holds their features, float32 of shape (rows, features)."""

    frame: pl.DataFrame
    values: np.ndarray
    names: tuple[str, ...]


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over weeks of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def level_of(units: np.ndarray) -> np.ndarray:
    """The key's own level in units a week: the mean of its last 26 weeks, at least 0.1."""
    return np.maximum(np.nan_to_num(mean(units[-26:]), nan=0.0), 0.1)


def origin_features(panel: Panel, origin: int) -> dict[str, np.ndarray]:
    """What is known of each key at week `origin`."""
    units = panel.units[: origin + 1]
    level = level_of(units)
    features = {"level": np.log(level)}
    for window in (1, 2, 4, 8, 13):
        features[f"recent_{window}"] = np.log(mean(units[-window:]) / level + 0.1)
    return features


def target_features(panel: Panel, origin: int, step: int, level: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of the target week, `step` weeks after `origin`."""
    target = origin + step
    empty = np.full(panel.keys.height, np.nan)
    last_year = panel.units[target - 52] if target >= 52 else empty
    features = {
        "step": np.full(panel.keys.height, float(step)),
        "month": np.full(panel.keys.height, float(panel.week(target).month)),
        "last_year": np.log(last_year / level + 0.1),
    }
    for name, values in panel.covariates.items():
        known = values[target] if target < panel.weeks else empty
        if name == PRICE:
            with np.errstate(all="ignore"):
                import warnings

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    usual = np.nanquantile(values[max(0, origin - 51) : origin + 1], 0.75, axis=0)
            features["depth"] = 1 - known / usual
        else:
            features[name] = known
    return features


def build(panel: Panel, origins: Sequence[int], steps: Sequence[int]) -> Rows:
    """Rows of every key of the panel, for each origin and step, in that order."""
    frames, blocks, names = [], [], ()
    for origin in origins:
        fixed = origin_features(panel, origin)
        level = np.exp(fixed["level"])
        for step in steps:
            found = fixed | target_features(panel, origin, step, level)
            names = tuple(found)
            blocks.append(np.stack(list(found.values()), axis=1).astype(np.float32))
            frames.append(
                panel.keys.with_columns(
                    pl.lit(panel.week(origin)).alias("origin"),
                    pl.lit(panel.week(origin + step)).alias("week"),
                    pl.lit(step, dtype=pl.Int32).alias("step"),
                    pl.Series("units", panel.units[origin + step], nan_to_null=True),
                    pl.Series("level", level),
                    pl.lit("regular").alias("kind"),
                    pl.Series("planned", np.isfinite(found.get("depth", np.zeros(len(level))))),
                )
            )
    return Rows(pl.concat(frames), np.concatenate(blocks), names)
