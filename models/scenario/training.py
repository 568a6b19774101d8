"""Training on tables in memory, in the steps of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from models.scenario.contract import Scenario
from models.scenario.inputs import AsOf, Frames
from models.scenario.results import FitResult


def train(
    scenario: Scenario,
    tables: Frames,
    as_of: AsOf,
    options: Mapping[str, Any],
    shards: Sequence[Frames] | None = None,
) -> FitResult:
    """Fit a scenario to `tables`, which are prepared as one shard, or as the `shards` that make them up."""
    context = scenario.context(tables, as_of, options)
    context |= scenario.training_context(tables, context, as_of, options)
    parts: dict[str, list[pl.DataFrame]] = {}
    for shard in shards or [tables]:
        for name, frame in scenario.prepare_shard(shard, context, as_of, options).items():
            parts.setdefault(name, []).append(frame)
    together = {name: pl.concat(frames, how="diagonal_relaxed").lazy() for name, frames in parts.items()}
    return scenario.fit(together, context, as_of, options)
