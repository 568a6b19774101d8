"""The data of a run for its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from models.scenario.inputs import AsOf, Frames
from models.scenario.results import File


@dataclass(frozen=True)
class RunView:
    """The data of a run for its page; tables are lazy and read only when a section needs them."""

    as_of: AsOf
    bundle: int
    options: Mapping[str, Any]
    tables: Frames
    published_rows: pl.LazyFrame
    previous: pl.LazyFrame | None
    keys: pl.LazyFrame
    backtest: pl.LazyFrame
    metrics: pl.DataFrame
    headline: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    """The files of the bundle; see `models.scenario.File`."""
    gaps: pl.DataFrame = field(default_factory=pl.DataFrame)
    derived_tables: Frames = field(default_factory=dict)
    explanations: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Lines of `ExplainsRows.explain` for the rows worth explaining; empty if the scenario explains none."""
    control: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The points of the control charts, see `models.control`; empty if nothing has been evaluated yet."""
    drift: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The lines of all cycles that were compared with a training, see `models.drift`; empty if there are none."""
