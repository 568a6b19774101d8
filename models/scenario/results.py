"""The results of a scenario: a bundle, scores, events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

File = pl.DataFrame | str | dict[str, Any]
"""A file of a bundle: a frame (`.parquet`), text (`.txt`, a LightGBM model) or `.json`."""


@dataclass(frozen=True)
class FitResult:
    """The result of `fit`: a bundle that has not been saved yet.

    `backtest` holds out-of-sample predictions with actuals, so that anyone can recompute the metrics.
    `metrics` is long: `slice, value_of_slice, metric, value`. `headline` are the
    few numbers to show first. Bundles are compared by `loss`; lower is better.
    """

    files: Mapping[str, File]
    features: Sequence[str]
    backtest: pl.DataFrame
    metrics: pl.DataFrame
    headline: Mapping[str, float]
    loss: float
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Scores:
    """The scores of some keys.

    `rows` are the rows to publish, without `as_of`, `bundle` and `run_id`, which publishing adds.
    `keys` has one row per requested key: the key's columns, `status` (one of `scored`, `fallback`,
    `skipped`, `failed`), `rung` and `reason` (both may be null for `scored`).
    """

    rows: pl.DataFrame
    keys: pl.DataFrame


@dataclass(frozen=True)
class PublishedTable:
    """The table that a scoring run publishes: its columns and polars types, without the columns that publishing adds."""

    name: str
    schema: Mapping[str, Any]
    sort: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """An event that others may act on, emitted as `almanac.<scenario>.<name>` about `resource`."""

    name: str
    resource: str
    payload: Mapping[str, Any]
