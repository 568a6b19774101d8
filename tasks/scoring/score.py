"""Scoring one shard."""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import polars as pl
from prefect import task
from prefect.logging import get_run_logger
from prefect.states import State

from models.errors import AlmanacError
from models.scenario import Frames, Scenario, Scores
from tasks.registry import bundles
from tasks.scoring.publishing import Part, write_part
from tasks.scoring.runs import Run, context
from tasks.scoring.shards import (
    Outcome,
    keys_path,
    name_of_shards,
    outcome_path,
    read_frame,
    requested_path,
)
from tasks.scoring.watchdog import LIMIT_SECONDS, ended_when_stuck
from tasks.storage.store import Store


def _worth_another_try(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Not where an error says what to do, since trying again does not do it."""
    return not isinstance(state.result(raise_on_failure=False), AlmanacError)


@task(
    name="score-shards",
    task_run_name=name_of_shards("score"),
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=_worth_another_try,
)
def score_shards(
    scenario: Scenario, run: Run, shards: Sequence[int], limit: float = LIMIT_SECONDS
) -> list[Outcome]:
    """Score the requested keys of shards, one shard after the other, each into a file of the published table.

    Readers do not see them before `publish`. A shard that is done already is not scored again.
    What raises here is the error of a shard, such as storage that does not answer, and is tried again: the first one
    without an outcome is at fault. Where a shard does not end within `limit` seconds, its process is ended.
    """
    return [_watched(scenario, run, shard, limit) for shard in shards]


def _watched(scenario: Scenario, run: Run, shard: int, limit: float) -> Outcome:
    with ended_when_stuck(run, f"Shard {shard}", limit):
        return finished_outcome(run, shard) or _score_shard(scenario, run, shard)


def _score_shard(scenario: Scenario, run: Run, shard: int) -> Outcome:
    begun = time.perf_counter()
    keys = read_frame(run, requested_path(run)).filter(shard=shard).drop("shard")
    scores = score_keys(scenario, run, shard, keys)
    outcome = write(scenario, run, shard, scores, time.perf_counter() - begun)
    get_run_logger().info(
        "Shard %d: %d keys, %d rows, %.1f s", shard, outcome.requested, outcome.rows, outcome.seconds
    )
    return outcome


def finished_outcome(run: Run, shard: int) -> Outcome | None:
    """The outcome of a shard whose files are all in place, None where it is still to be scored.

    A shard with failed keys is scored again: what made them fail may have been corrected.
    """
    outcome = written_outcome(run, shard)
    return None if outcome is None or outcome.failed else outcome


def written_outcome(run: Run, shard: int) -> Outcome | None:
    """The outcome of a shard whose files are all in place, with or without failed keys; None where there is none."""
    known = run.store.get_json(outcome_path(run, shard))
    if known is None:
        return None
    outcome = Outcome(**known, reused=True)
    in_place = not outcome.path or run.store.size(f"{run.table}/{outcome.path}") == outcome.bytes
    return outcome if in_place and run.store.size(keys_path(run, shard)) else None


def score_keys(scenario: Scenario, run: Run, shard: int, keys: pl.DataFrame) -> Scores:
    """Score keys in one pass; where that raises, in halves, until the keys that raise stand alone.

    A key that raises alone, with its inputs in memory, is `failed` with the error as its reason; the
    others are not touched. Errors of reading, writing and memory are not the key's and are raised.
    """
    tables = run.tables(scenario, shard)
    model = bundles.model(scenario, run.store, run.bundle or 0)
    shared = _context(run.store, run.folder)

    def attempt(some: pl.DataFrame, inputs: Frames) -> Scores:
        return scenario.score(model, inputs, shared, some, run.as_of, run.options)

    def in_halves(some: pl.DataFrame, inputs: Frames) -> list[Scores]:
        try:
            return [attempt(some, inputs)]
        except (OSError, MemoryError, AlmanacError):
            raise
        except Exception as error:
            if some.height == 1:
                return [_failed(scenario, run, some, f"{type(error).__name__}: {error}")]
            half = some.height // 2
            return in_halves(some[:half], inputs) + in_halves(some[half:], inputs)

    try:
        return attempt(keys, tables)
    except (OSError, MemoryError, AlmanacError):
        raise
    except Exception:
        inputs = {name: table.collect().lazy() for name, table in tables.items()}
    parts = in_halves(keys, inputs)
    return Scores(pl.concat([p.rows for p in parts]), pl.concat([p.keys for p in parts]))


def write(scenario: Scenario, run: Run, shard: int, scores: Scores, seconds: float) -> Outcome:
    """Write a shard's rows, the outcome of each key and, last, the outcome of the shard."""
    published = scenario.published(run.options)
    rows = scores.rows.select(pl.col(c).cast(dtype) for c, dtype in published.schema.items())
    rows = rows.sort(published.sort)
    rows = rows.with_columns(
        pl.lit(run.bundle, dtype=pl.Int64).alias("bundle"), pl.lit(run.id, dtype=pl.String).alias("run_id")
    )
    part = write_part(run, run.table, f"{run.id}-{shard:04d}", rows) if rows.height else Part("", 0, 0)
    run.store.put_frame(keys_path(run, shard), _typed(scenario, scores.keys).sort(scenario.key))
    outcome = Outcome(
        shard=shard,
        path=part.path,
        bytes=part.bytes,
        rows=part.rows,
        requested=scores.keys.height,
        reasons=_reasons(scores.keys),
        seconds=round(seconds, 3),
        **_counts(scores.keys),
    )
    run.store.put_json(outcome_path(run, shard), outcome.as_json())
    return outcome


@lru_cache(maxsize=4)
def _context(store: Store, folder: str) -> dict[str, pl.DataFrame]:
    """A run's context, read once per process."""
    return context(store, folder)


def _failed(scenario: Scenario, run: Run, keys: pl.DataFrame, reason: str) -> Scores:
    rows = pl.DataFrame(schema=dict(scenario.published(run.options).schema))
    outcome = keys.with_columns(
        pl.lit("failed").alias("status"),
        pl.lit(None, pl.String).alias("rung"),
        pl.lit(reason[:500]).alias("reason"),
    )
    return Scores(rows, _typed(scenario, outcome))


def _typed(scenario: Scenario, keys: pl.DataFrame) -> pl.DataFrame:
    return keys.select(*scenario.key, pl.col("status", "rung", "reason").cast(pl.String))


def _counts(keys: pl.DataFrame) -> dict[str, Any]:
    counts = dict(keys.group_by("status").len().iter_rows())
    return {status: int(counts.get(status, 0)) for status in ("scored", "fallback", "skipped", "failed")}


def _reasons(keys: pl.DataFrame) -> dict[str, int]:
    told = keys.filter(pl.col("status") != "scored")
    label = pl.concat_str("status", "rung", "reason", separator=": ", ignore_nulls=True)
    return dict(told.group_by(label.alias("label")).len().sort("label").iter_rows())
