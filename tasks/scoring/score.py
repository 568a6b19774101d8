"""Scoring one shard."""

import time
from typing import Any

import polars as pl
from prefect.logging import get_run_logger
from prefect.states import State

from models.errors import AlmanacError
from models.scenario import Frames, Scenario, Scores
from tasks.registry import bundles
from tasks.scoring.publishing import write_data_file
from tasks.scoring.runs import Run, read_context
from tasks.scoring.shards import (
    STATUSES,
    ShardResult,
    keys_path,
    read_frame,
    requested_path,
    result_path,
)
from tasks.scoring.watchdog import shard_task


def _worth_another_try(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Whether to retry: not after an error that tells the user what to do."""
    return not isinstance(state.result(raise_on_failure=False), AlmanacError)


def _score_shard(run: Run, shard: int) -> ShardResult:
    if earlier := finished_result(run, shard):
        return earlier
    start = time.perf_counter()
    keys = read_frame(run, requested_path(run)).filter(shard=shard).drop("shard")
    scores = score_keys(run, shard, keys)
    result = write(run, shard, scores, time.perf_counter() - start)
    get_run_logger().info(
        "Shard %d: %d keys, %d rows, %.1f s", shard, result.requested, result.rows, result.seconds
    )
    return result


score_shards = shard_task(
    _score_shard,
    "score-shards",
    "score",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=_worth_another_try,
)
"""Score the requested keys of shards, each shard into a file of the published table.

Readers do not see the files before `publish`. A finished shard is not scored again. An error raised here belongs to a
shard, for example because storage does not answer, and is retried: the first shard without a result is at fault.
"""


def finished_result(run: Run, shard: int) -> ShardResult | None:
    """The result of a shard whose files are all in place; None if the shard is still to be scored.

    A shard with failed keys is scored again, because the cause may have been corrected.
    """
    result = written_result(run, shard)
    return None if result is None or result.failed else result


def written_result(run: Run, shard: int) -> ShardResult | None:
    """The result of a shard whose files are all in place, with or without failed keys; None if there is none."""
    record = run.store.get_json(result_path(run, shard))
    if record is None:
        return None
    result = ShardResult(**record, reused=True)
    in_place = not result.path or run.store.size(f"{run.table}/{result.path}") == result.bytes
    return result if in_place and run.store.size(keys_path(run, shard)) else None


def score_keys(run: Run, shard: int, keys: pl.DataFrame) -> Scores:
    """Score keys in one pass; if that raises, in halves, until the keys that raise are isolated.

    A key that raises alone, with its inputs in memory, is `failed` with the error as its reason; the others are not
    affected. Errors of reading, writing and memory are not the key's fault and are raised. A panic of polars is not an
    `Exception` in Python.
    """
    tables = run.tables(shard)
    model = bundles.model(run.scenario, run.store, run.bundle or 0)
    context = read_context(run.store, run.folder)

    def attempt(some: pl.DataFrame, inputs: Frames) -> Scores:
        return run.scenario.score(model, inputs, context, some, run.as_of, run.options)

    def in_halves(some: pl.DataFrame, inputs: Frames) -> list[Scores]:
        try:
            return [attempt(some, inputs)]
        except (OSError, MemoryError, AlmanacError):
            raise
        except (Exception, pl.exceptions.PanicException) as error:
            if some.height == 1:
                return [_failure(run, some, f"{type(error).__name__}: {error}")]
            half = some.height // 2
            return in_halves(some[:half], inputs) + in_halves(some[half:], inputs)

    try:
        return attempt(keys, tables)
    except (OSError, MemoryError, AlmanacError):
        raise
    except (Exception, pl.exceptions.PanicException):
        inputs = {name: table.collect().lazy() for name, table in tables.items()}
    halves = in_halves(keys, inputs)
    return Scores(pl.concat([one.rows for one in halves]), pl.concat([one.keys for one in halves]))


def write(run: Run, shard: int, scores: Scores, seconds: float) -> ShardResult:
    """Write a shard's rows, the status of each key and, last, the result of the shard."""
    table = run.scenario.published_table(run.options)
    rows = scores.rows.select(pl.col(c).cast(dtype) for c, dtype in table.schema.items())
    rows = run.signed(rows.sort(table.sort))
    data_file = write_data_file(run, run.table, f"{run.id}-{shard:04d}", rows)
    run.store.put_frame(keys_path(run, shard), _with_types(run.scenario, scores.keys).sort(run.scenario.key))
    counts = dict(scores.keys.group_by("status").len().iter_rows())
    by_status: dict[str, Any] = {status: counts.get(status, 0) for status in STATUSES}
    result = ShardResult(
        shard=shard,
        path=data_file.path,
        bytes=data_file.bytes,
        rows=data_file.rows,
        requested=scores.keys.height,
        reasons=_reasons(scores.keys),
        seconds=round(seconds, 3),
        **by_status,
    )
    run.store.put_json(result_path(run, shard), result.as_json())
    return result


def _failure(run: Run, keys: pl.DataFrame, reason: str) -> Scores:
    rows = pl.DataFrame(schema=dict(run.scenario.published_table(run.options).schema))
    result = keys.with_columns(
        pl.lit("failed").alias("status"),
        pl.lit(None, pl.String).alias("rung"),
        pl.lit(reason[:500]).alias("reason"),
    )
    return Scores(rows, _with_types(run.scenario, result))


def _with_types(scenario: Scenario, keys: pl.DataFrame) -> pl.DataFrame:
    return keys.select(*scenario.key, pl.col("status", "rung", "reason").cast(pl.String))


def _reasons(keys: pl.DataFrame) -> dict[str, int]:
    others = keys.filter(pl.col("status") != "scored")
    label = pl.concat_str("status", "rung", "reason", separator=": ", ignore_nulls=True)
    return dict(others.group_by(label.alias("label")).len().sort("label").iter_rows())
