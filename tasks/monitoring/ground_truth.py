"""Published rows, judged by their ground truth as soon as that is known.

`evaluations` holds the judged rows, by the `as_of` for which they were published. `judged` has one row per judged
`as_of`: the run that published it, the tables it was judged from, the number of pending rows, and its contribution to
the control charts. It is written last: an `as_of` that is not in it is judged again, with the same result.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
from prefect import task

from models.scenario import TALLIES, AsOf, HasControlCharts, HasGroundTruth
from tasks.monitoring.due import JUDGED, Judging, Target, as_of_from, judged_so_far
from tasks.registry import bundles, tracking
from tasks.scoring.publishing import (
    DataFile,
    Publication,
    is_in_place,
    replace_partitions,
    scan_data_files,
    write_data_file,
)
from tasks.scoring.runs import Run, RunError

MEASURES = "measures"
_MANY = 100


@dataclass(frozen=True)
class Judgement:
    """The verdict on one target: its file, the number of pending rows, and the data for the control charts."""

    target: Target
    data_file: DataFile
    pending: int
    since: AsOf | None
    until: AsOf | None
    tallies: tuple[Mapping[str, Any], ...]


@task(name="judge", retries=1, retry_delay_seconds=1)
def judge(run: Run, targets: Sequence[Target]) -> list[Judgement]:
    """Write the judged rows of each target beside the files of the table; finished targets are not judged again."""
    return [_judge(run, target) for target in targets]


def _judge(run: Run, target: Target) -> Judgement:
    own = dataclasses.replace(run, as_of=target.as_of)
    name = own.as_of_text.replace(" ", "T").replace(":", "")
    marker = run.path(f"judged/{name}.json")
    record = run.store.get_json(marker)
    if record and (data_file := DataFile(**record["part"])) and is_in_place(run, data_file):
        since, until = (as_of_from(record[end], target.as_of) for end in ("since", "until"))
        points = tuple({**row, "period": date.fromisoformat(row["period"])} for row in record["tallies"])
        return Judgement(target, data_file, record["pending"], since, until, points)
    assert isinstance(run.scenario, HasGroundTruth), "checked when the run was resolved"
    ((table, version),) = run.options["published"].items()
    options = bundles.manifest(run.store, run.scenario.name, target.bundle)["options"]
    published_rows = run.store.scan(run.layout.table(table), version).filter(pl.col("as_of") == target.as_of)
    rows = run.scenario.judge(published_rows, run.tables(), run.as_of, options)
    tallies: list[dict[str, Any]] = []
    if isinstance(run.scenario, HasControlCharts):
        tallies = (
            run.scenario.tallies(rows.filter(~pl.col("pending")), options).select(list(TALLIES)).to_dicts()
        )
    data_file = write_data_file(own, run.table, name, rows)
    verdict = Judgement(
        target, data_file, int(rows["pending"].sum()), *_span(run.scenario, rows, target), tuple(tallies)
    )
    run.store.put_json(marker, _json(verdict))
    return verdict


@task(name="publish-judgements")
def publish_judgements(run: Run, verdicts: Sequence[Judgement]) -> Publication:
    """Swap the judged rows into the table, all partitions in one commit."""
    data_files = {one.target.as_of: [one.data_file] if one.data_file.rows else [] for one in verdicts}
    by_bundle = {one.target.bundle: one.data_file for one in verdicts if one.data_file.rows}
    schema: dict[str, Any] = {}
    for data_file in by_bundle.values():
        schema |= scan_data_files(run, [data_file]).collect_schema()
    if not schema:
        raise RunError(f"{run.scenario.name}: the published runs have no rows. There is nothing to evaluate.")
    return replace_partitions(run, run.table, schema, data_files)


@task(name="measure-judgements")
def measure_judgements(run: Run, targets: Sequence[Target], version: int) -> pl.DataFrame:
    """The metrics of the judged rows of `targets`, with the options of the newest bundle; kept in `measures`."""
    assert isinstance(run.scenario, HasGroundTruth), "checked when the run was resolved"
    as_ofs = [target.as_of for target in targets]
    number = max(targets, key=lambda target: target.as_of).bundle
    options = {
        **bundles.manifest(run.store, run.scenario.name, number)["options"],
        **run.options.get("given", {}),
    }
    column = pl.col("as_of")
    rows = run.store.scan(run.table, version).filter(
        column.is_between(min(as_ofs), max(as_ofs)), column.is_in(as_ofs), ~pl.col("pending")
    )
    metrics = run.scenario.measures(rows, options)
    about = {"run_id": run.id, "first": min(as_ofs), "last": max(as_ofs), "observed": run.as_of}
    rows_with_run = metrics.with_columns(pl.lit(value).alias(name) for name, value in about.items())
    if rows_with_run.height:
        run.store.append(run.layout.table(MEASURES), rows_with_run, once=run.id)
    return metrics


def track_judgements(run: Run, metrics: pl.DataFrame) -> str | None:
    """Log the evaluation to MLflow; return the id of its run. Slices with more than `_MANY` values stay in the store."""
    params = {
        "observed_until": run.as_of_text,
        "first": run.options["judged"][0][0],
        "last": run.options["judged"][-1][0],
        "judged": len(run.options["judged"]),
        **{
            f"{name}_version": number for name, number in {**run.versions, **run.options["published"]}.items()
        },
    }
    short = metrics.filter(pl.col("value_of_slice").n_unique().over("slice") <= _MANY)
    whole = short.filter(pl.col("slice") == "all").drop_nulls("value")
    headline = dict(whole.select("metric", "value").iter_rows())
    return tracking.track_run(
        run.store,
        scenario=run.scenario.name,
        kind="evaluate",
        run_id=run.id,
        params=params,
        metrics=headline,
        slices=short,
    )


@task(name="remember-judgements")
def remember_judgements(judging: Judging, verdicts: Sequence[Judgement]) -> None:
    """Record the judgements and the tables they come from; the next run continues from there."""
    run = judging.run
    facts = {"versions": json.dumps(dict(run.versions), sort_keys=True), "observed": run.as_of}
    rows = [
        {
            "as_of": one.target.as_of,
            "published_by": one.target.run_id,
            "bundle": one.target.bundle,
            "rows": one.data_file.rows,
            "pending": one.pending,
            "since": one.since,
            "until": one.until,
            "tallies": list(one.tallies),
            "run_id": run.id,
            "at": datetime.now(UTC),
            **facts,
        }
        for one in verdicts
    ]
    run.store.retrying(JUDGED, lambda: _remember(run, rows, judging.others, facts))


def _remember(
    run: Run, rows: Sequence[Mapping[str, Any]], others: Sequence[AsOf], facts: Mapping[str, Any]
) -> None:
    path = run.layout.table(JUDGED)
    before = judged_so_far(run.store, run.scenario.name)
    like = pl.select(pl.lit(run.as_of).alias("as_of")).schema["as_of"]
    schema: dict[str, Any] = {
        "as_of": like,
        "published_by": pl.String,
        "bundle": pl.Int64,
        "rows": pl.Int64,
        "pending": pl.Int64,
        "since": like,
        "until": like,
        "tallies": pl.List(pl.Struct(TALLIES)),
        "run_id": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "versions": pl.String,
        "observed": like,
    }
    fresh = pl.DataFrame(list(rows), schema=schema)
    if before is not None:
        late = pl.col("as_of").is_in(pl.Series(list(others), dtype=like).implode())
        current = before.with_columns(
            pl.when(late).then(pl.lit(facts[name], schema[name])).otherwise(name).alias(name)
            for name in facts
        )
        if fresh.is_empty() and current.equals(before):
            return
        fresh = pl.concat([current.join(fresh, on="as_of", how="anti"), fresh]).sort("as_of")
    if fresh.height:
        run.store.overwrite(path, fresh)


def _span(scenario: HasGroundTruth, rows: pl.DataFrame, target: Target) -> tuple[AsOf | None, AsOf | None]:
    if rows.is_empty():
        return None, None
    rows_with_as_of = rows.with_columns(pl.lit(target.as_of).alias("as_of"))
    ends = (scenario.ground_truth.since, scenario.ground_truth.until)
    since, until = (None if end is None else rows_with_as_of.select(end).item() for end in ends)
    return since, until


def _json(verdict: Judgement) -> dict[str, Any]:
    ends = {"since": verdict.since, "until": verdict.until}
    return {
        "part": asdict(verdict.data_file),
        "pending": verdict.pending,
        **{name: None if end is None else end.isoformat() for name, end in ends.items()},
        "tallies": [{**row, "period": row["period"].isoformat()} for row in verdict.tallies],
    }
