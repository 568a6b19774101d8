"""Scoring with inputs other than the stored ones. Nothing is written."""

import polars as pl
from prefect import task

from models.scenario import Frames
from tasks.registry import bundles
from tasks.scoring.runs import Run


@task(name="score-in-memory")
def score_in_memory(run: Run, keys: pl.DataFrame, others: Frames | None = None) -> pl.DataFrame:
    """The rows of `keys` that `run` would publish if the tables in `others` took the place of the stored ones.

    Both `keys` and the rows of `others` have the column `shard`.
    """
    others = others or {}
    context = run.scenario.context({**run.tables(), **others}, run.as_of, run.options)
    model = bundles.model(run.scenario, run.store, run.bundle or 0)
    rows = []
    for (shard,), some in keys.sort("shard", *run.scenario.key).group_by("shard", maintain_order=True):
        own = {table: frame.filter(shard=shard) for table, frame in others.items()}
        tables = {**run.tables(int(str(shard))), **own}
        scores = run.scenario.score(model, tables, context, some.drop("shard"), run.as_of, run.options)
        rows.append(scores.rows)
    return (
        pl.concat(rows)
        if rows
        else pl.DataFrame(schema=dict(run.scenario.published_table(run.options).schema))
    )
