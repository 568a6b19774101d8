"""Shards: planned before scoring, reconciled after it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
from prefect import task

from models.moments import time_text
from models.scenario import ReportsGaps
from tasks.scoring.runs import Run, RunError, read_context

STATUSES = ("scored", "fallback", "skipped", "failed")


@dataclass(frozen=True)
class ShardResult:
    """The result of scoring one shard: the file of its rows, and the number of keys by status.

    `path` is relative to the published table; `reasons` counts keys by rung and reason.
    """

    shard: int
    path: str
    bytes: int
    rows: int
    requested: int
    scored: int
    fallback: int
    skipped: int
    failed: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    reused: bool = False

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "reused"}


def requested_path(run: Run) -> str:
    return run.path("requested.parquet")


def gaps_path(run: Run) -> str:
    """Path of the table of missing inputs of the requested keys."""
    return run.path("gaps.parquet")


def result_path(run: Run, shard: int) -> str:
    return run.path(f"shards/{shard:04d}.json")


def keys_path(run: Run, shard: int) -> str:
    """Path of the table with the status of each key of a shard."""
    return run.path(f"shards/{shard:04d}.parquet")


def shard_groups(counts: Mapping[int, int], keys: int, alone: Collection[int] = ()) -> list[list[int]]:
    """Shards in groups, one group per task. `counts` holds the number of keys of each shard.

    Neighbours share a group of at most `keys` keys; a larger shard and each shard in `alone` have their own.

    >>> shard_groups({0: 3, 1: 4, 2: 9, 5: 1, 6: 1}, 8, alone=[6])
    [[0, 1], [2], [5], [6]]
    """
    groups: list[list[int]] = []
    room = 0
    for shard in sorted(counts):
        if shard not in alone and counts[shard] <= room:
            groups[-1].append(shard)
            room -= counts[shard]
        else:
            groups.append([shard])
            room = 0 if shard in alone else keys - counts[shard]
    return groups


@task(name="plan-shards")
def plan(run: Run) -> dict[int, int]:
    """Number of requested keys per shard; the keys are written to a file of the run."""
    keys = run.scenario.requested_keys(run.tables(), run.as_of, run.options).collect(engine="streaming")
    if keys.is_empty():
        raise RunError(
            f"{run.scenario.name}: there are no keys to score as of {time_text(run.as_of)}. "
            "Expected recent rows; ingest newer data or give another --as-of."
        )
    keys = keys.select(*run.scenario.key, "shard").sort("shard", *run.scenario.key)
    run.store.put_frame(requested_path(run), keys)
    return dict(keys.group_by("shard").len().sort("shard").iter_rows())


@task(name="find-gaps")
def find_gaps(run: Run) -> None:
    """Write the missing inputs of the requested keys to a file of the run, which has begun and is planned."""
    gaps = pl.DataFrame()
    if isinstance(run.scenario, ReportsGaps):
        keys, context = read_frame(run, requested_path(run)), read_context(run.store, run.folder)
        gaps = run.scenario.gaps(run.tables(), context, keys, run.as_of, run.options)
    run.store.put_frame(gaps_path(run), gaps)


@task(name="reconcile")
def reconcile(run: Run, results: Sequence[ShardResult]) -> dict[str, int]:
    """Counts of the keys over all shards, after checking that every requested key is in exactly one result.

    Raises `RunError`, which names keys that are missing, counted twice or not requested.
    """
    names = list(run.scenario.key)
    requested_keys = read_frame(run, requested_path(run))
    keys = pl.concat([read_frame(run, keys_path(run, o.shard)) for o in results])
    lost_keys = requested_keys.join(keys, on=names, how="anti")
    extra = keys.join(requested_keys, on=names, how="anti")
    duplicates = keys.group_by(names).len().filter(pl.col("len") > 1)
    faults = [
        f"{frame.height:,} {what}, e.g. {_examples(frame.select(names))}"
        for what, frame in (("missing", lost_keys), ("not requested", extra), ("counted twice", duplicates))
        if frame.height
    ]
    counts = {status: sum(getattr(o, status) for o in results) for status in STATUSES}
    by_key = dict(keys.group_by("status").len().iter_rows())
    if not faults and counts != {status: by_key.get(status, 0) for status in STATUSES}:
        faults.append(f"the shard results count {counts}, the keys themselves {by_key}")
    if faults:
        raise RunError(
            f"{run.scenario.name}: run {run.id} does not account for every key: {'; '.join(faults)}. "
            f"Nothing was published. Delete {run.store.uri_of(run.folder)} and run again."
        )
    return {"requested": requested_keys.height, **counts}


def reasons(results: Sequence[ShardResult]) -> dict[str, int]:
    """Keys by rung and reason over all shards, most frequent first."""
    total: dict[str, int] = {}
    for result in results:
        for reason, count in result.reasons.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def read_frame(run: Run, path: str) -> pl.DataFrame:
    """A Parquet file of the run. Raises `RunError` if it is missing."""
    frame = run.store.get_frame(path)
    if frame is None:
        raise RunError(
            f"{run.store.uri_of(path)} is missing. Delete {run.store.uri_of(run.folder)} and run again. The workers of "
            "--scheduler need the driver's version of Almanac."
        )
    return frame


def _examples(keys: pl.DataFrame) -> str:
    rows = keys.sort(keys.columns).head(5).rows()
    return ", ".join("/".join(map(str, row)) for row in rows)
