"""Publishing: one commit that replaces the `as_of` partition with the parts of all shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable
from deltalake import Schema as DeltaSchema
from prefect import task

from models.scenario import Scenario
from tasks.runs import Run
from tasks.shards import Outcome
from tasks.store import add_action


@dataclass(frozen=True)
class Publication:
    """The version of the table that holds the run's rows; `already` where another start had published them."""

    table: str
    version: int
    rows: int
    already: bool


@task(name="publish")
def publish(scenario: Scenario, run: Run, outcomes: Sequence[Outcome]) -> Publication:
    """Swap the run's parts into the published table, in one commit that readers see whole or not at all.

    Where another run commits first, this one looks again: rows of the same run are left as they
    are, those of another run are replaced. After a bounded number of lost races it raises
    `StoreError` and nothing has changed.
    """
    parts = [o for o in outcomes if o.rows]
    rows = sum(o.rows for o in parts)

    def attempt() -> Publication:
        table = _open(scenario, run)
        if _published(run) == (run.id, rows):
            return Publication(run.table, table.version(), rows, already=True)
        table.create_write_transaction(
            [add_action(o.path, o.bytes, o.rows, {"as_of": run.as_of_text}) for o in parts],
            mode="overwrite",
            schema=table.schema(),
            partition_by=["as_of"],
            partition_filters=[("as_of", "=", run.as_of_text)],
            commit_properties=CommitProperties(custom_metadata=_metadata(run)),
        )
        table.update_incremental()
        return Publication(run.table, table.version(), rows, already=False)

    result: Publication = run.store.retrying(run.table, attempt)
    return result


def _open(scenario: Scenario, run: Run) -> DeltaTable:
    """The published table, made empty at first."""
    if run.store.version(run.table) is None:
        schema = {**scenario.published(run.options).schema, "bundle": pl.Int64, "run_id": pl.String}
        frame = pl.DataFrame(schema=schema).with_columns(pl.lit(run.as_of).alias("as_of"))
        DeltaTable.create(
            run.store.uri_of(run.table),
            schema=DeltaSchema.from_arrow(frame.to_arrow().schema),
            partition_by=["as_of"],
            mode="ignore",
        )
    return run.store.table(run.table)


def _published(run: Run) -> tuple[str, int] | None:
    """The run whose rows are in the partition, and how many rows there are."""
    same = run.store.scan(run.table).filter(pl.col("as_of") == run.as_of)
    found = same.select(pl.col("run_id").first(), pl.len().alias("rows")).collect()
    return None if found["run_id"][0] is None else (found["run_id"][0], found["rows"][0])


def _metadata(run: Run) -> dict[str, Any]:
    versions = ",".join(f"{name}={number}" for name, number in sorted(run.versions.items()))
    return {"run_id": run.id, "bundle": str(run.bundle), "inputs": versions}
