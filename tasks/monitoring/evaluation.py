"""Judging a bundle: the rows that it would have published over a range, compared with ground truth.

Published rows are judged by `tasks.monitoring.ground_truth`; the rows here are in a table of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import polars as pl
from prefect import task

from models.moments import time_text
from models.scenario import AsOf, EvaluatesBundles
from tasks.registry import bundles
from tasks.scoring.publishing import (
    DataFile,
    Publication,
    is_in_place,
    replace_partition,
    scan_data_files,
    write_data_file,
)
from tasks.scoring.runs import Run, RunError, input_versions, read_context, scans
from tasks.scoring.watchdog import shard_task
from tasks.storage.store import Store


@task(name="resolve-evaluation")
def resolve_evaluation(
    scenario: EvaluatesBundles,
    store: Store,
    since: datetime | None,
    until: datetime | None,
    number: int,
    overrides: Mapping[str, Any],
) -> Run:
    """The run that judges bundle `number` from `since` to `until`, on the newest tables.

    Without `since`, the range begins where the bundle's data ends. `overrides` take precedence over the bundle's
    options. Raises `RunError` for a range without data.
    """
    versions = input_versions(scenario, store)
    newest = scenario.resolve_as_of(scans(scenario, store, versions), None, datetime.now(UTC))
    manifest = bundles.manifest(store, scenario.name, number)
    trained_as_of: AsOf = type(newest).fromisoformat(manifest["as_of"])
    begin, end = since or trained_as_of, until or newest
    if not begin <= min(end, newest):
        raise RunError(
            f"{scenario.name}: there is nothing to evaluate from {time_text(begin)} to {time_text(end)}: the data ends at "
            f"{time_text(newest)}. Expected --from before --to and before the end of the data; ingest newer data, "
            f"or name an older bundle than {number} with --bundle."
        )
    notes: tuple[str, ...] = ()
    if begin < trained_as_of:
        notes = (
            f"Bundle {number} was trained on data up to {time_text(trained_as_of)}: it has seen the ground truth of "
            "earlier rows.",
        )
    span = {"score_from": begin.isoformat(), "score_to": min(end, newest).isoformat()}
    options = {**manifest["options"], **overrides, **span}
    output = scenario.bundle_evaluations
    return Run(scenario, "evaluate-bundle", store, newest, versions, options, output, number, notes)


def _evaluate_shard(run: Run, shard: int) -> DataFile:
    """Write the judged rows of a shard beside the files of the table; a finished file is kept."""
    marker = run.path(f"evaluated/{shard:04d}.json")
    record = run.store.get_json(marker)
    if record and is_in_place(run, data_file := DataFile(**record)):
        return data_file
    assert isinstance(run.scenario, EvaluatesBundles), "checked when the run was resolved"
    model = bundles.model(run.scenario, run.store, run.bundle or 0)
    context = read_context(run.store, run.folder)
    rows = run.scenario.evaluate(model, run.tables(shard), context, run.as_of, run.options)
    data_file = write_data_file(run, run.table, f"{run.id}-{shard:04d}", run.signed(rows))
    run.store.put_json(marker, asdict(data_file))
    return data_file


evaluate_shards = shard_task(_evaluate_shard, "evaluate-shards", "evaluate")


@task(name="publish-evaluation")
def publish_evaluation(run: Run, data_files: Sequence[DataFile]) -> Publication:
    """Swap the judged rows into the table in one commit. Raises `RunError` if there are none."""
    some = [one for one in data_files if one.rows]
    if not some:
        raise RunError(
            f"{run.scenario.name}: there are no rows from {run.options['score_from']} to {run.options['score_to']}. "
            "Nothing was published. Expected telemetry in that range; give another --from or --to."
        )
    return replace_partition(run, run.table, scan_data_files(run, some).collect_schema(), some)


@task(name="measure")
def measure(run: Run, data_files: Sequence[DataFile]) -> pl.DataFrame:
    """The metrics of all judged rows."""
    assert isinstance(run.scenario, EvaluatesBundles), "checked when the run was resolved"
    return run.scenario.measures(scan_data_files(run, [one for one in data_files if one.rows]), run.options)
