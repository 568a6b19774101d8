"""The page of a run."""

from typing import cast

import polars as pl
from prefect import task

from models.page import control_charts, drift_charts
from models.scenario import (
    DerivesTables,
    ExplainsRows,
    Frames,
    HasControlCharts,
    HasPage,
    RunView,
)
from tasks.monitoring.control_charts import points_so_far
from tasks.monitoring.drift import newest_drift
from tasks.page.render import render_run
from tasks.registry import bundles
from tasks.scoring.publishing import DataFile, scan_data_files
from tasks.scoring.runs import Run, read_context
from tasks.scoring.shards import ShardResult, gaps_path, keys_path, read_frame
from tasks.training.fit import BACKTESTS


@task(name="write-page")
def write_page(run: Run, results: list[ShardResult], data_files: list[DataFile]) -> str:
    """Write the run's page into the store; return its address."""
    view = _view(run, results, data_files)
    charts = run.scenario.charts if isinstance(run.scenario, HasControlCharts) else {}
    sections = [
        *(run.scenario.sections(view) if isinstance(run.scenario, HasPage) else ()),
        *control_charts.sections(charts, view.control),
        *drift_charts.sections(view.drift),
    ]
    facts = {"Run": run.id, "Bundle": str(run.bundle)}
    path = run.layout.page(run.id)
    run.store.put(path, render_run(run, run.scenario.published_table(run.options).name, sections, facts))
    return run.store.uri_of(path)


def _view(run: Run, results: list[ShardResult], data_files: list[DataFile]) -> RunView:
    table = run.store.scan(run.table)
    latest = max((one for one in run.store.as_ofs(run.table) if one < run.as_of), default=None)
    files = bundles.files(run.store, run.scenario.name, run.bundle or 0)
    manifest = bundles.manifest(run.store, run.scenario.name, run.bundle or 0)
    backtest = run.store.scan(run.layout.table(BACKTESTS)).filter(bundle=run.bundle)
    tables = run.tables()
    scores = scan_data_files(run, data_files) if data_files else table.filter(pl.col("as_of") == run.as_of)
    return RunView(
        as_of=run.as_of,
        bundle=run.bundle or 0,
        options=run.options,
        tables=tables,
        published_rows=scores,
        explanations=_explanations(run, tables, scores),
        derived_tables={
            name: rows
            for name in (run.scenario.derived_tables if isinstance(run.scenario, DerivesTables) else ())
            if (rows := run.store.find(run.layout.table(name))) is not None
        },
        previous=None if latest is None else table.filter(pl.col("as_of") == latest),
        keys=pl.scan_parquet([run.store.uri_of(keys_path(run, o.shard)) for o in results], glob=False),
        backtest=backtest,
        metrics=cast(pl.DataFrame, files["metrics"]),
        files=files,
        headline=manifest["headline"],
        gaps=read_frame(run, gaps_path(run)),
        control=points_so_far(run.store, run.scenario.name),
        drift=newest_drift(run.store, run.scenario.name, drift_charts.CYCLES),
    )


def _explanations(run: Run, tables: Frames, scores: pl.LazyFrame) -> pl.DataFrame:
    """Explanations of the rows that are worth one; empty if the scenario gives none."""
    if not isinstance(run.scenario, ExplainsRows):
        return pl.DataFrame()
    rows = run.scenario.worth_explaining(scores, run.options).collect()
    if rows.is_empty():
        return rows
    model = bundles.model(run.scenario, run.store, run.bundle or 0)
    context = read_context(run.store, run.folder)
    return run.scenario.explain(model, tables, context, rows, run.as_of, run.options)
