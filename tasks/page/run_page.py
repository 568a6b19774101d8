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
    Scenario,
)
from tasks.monitoring.control_charts import points_so_far
from tasks.monitoring.drift import newest_drift
from tasks.page.render import render_run
from tasks.registry import bundles
from tasks.scoring.publishing import DataFile, scan_data_files
from tasks.scoring.runs import Run, read_context
from tasks.scoring.shards import ShardResult, gaps_path, keys_path, read_frame
from tasks.storage.layout import Layout
from tasks.training.fit import BACKTESTS


@task(name="write-page")
def write_page(scenario: Scenario, run: Run, results: list[ShardResult], data_files: list[DataFile]) -> str:
    """Write the run's page into the store; return its address."""
    view = _view(scenario, run, results, data_files)
    charts = scenario.charts if isinstance(scenario, HasControlCharts) else {}
    sections = [
        *(scenario.sections(view) if isinstance(scenario, HasPage) else ()),
        *control_charts.sections(charts, view.control),
        *drift_charts.sections(view.drift),
    ]
    facts = {"Run": run.id, "Bundle": str(run.bundle)}
    path = Layout(scenario.name).page(run.id)
    run.store.put(path, render_run(run, scenario.published_table(run.options).name, sections, facts))
    return run.store.uri_of(path)


def _view(scenario: Scenario, run: Run, results: list[ShardResult], data_files: list[DataFile]) -> RunView:
    table = run.store.scan(run.table)
    latest = max((one for one in run.store.as_ofs(run.table) if one < run.as_of), default=None)
    files = bundles.files(run.store, scenario.name, run.bundle or 0)
    manifest = bundles.manifest(run.store, scenario.name, run.bundle or 0)
    backtest = run.store.scan(Layout(scenario.name).table(BACKTESTS)).filter(bundle=run.bundle)
    tables = run.tables(scenario)
    scores = scan_data_files(run, data_files) if data_files else table.filter(pl.col("as_of") == run.as_of)
    return RunView(
        as_of=run.as_of,
        bundle=run.bundle or 0,
        options=run.options,
        tables=tables,
        published_rows=scores,
        explanations=_explanations(scenario, run, tables, scores),
        derived_tables={
            name: rows
            for name in (scenario.derived_tables if isinstance(scenario, DerivesTables) else ())
            if (rows := run.store.find(Layout(scenario.name).table(name))) is not None
        },
        previous=None if latest is None else table.filter(pl.col("as_of") == latest),
        keys=pl.scan_parquet([run.store.uri_of(keys_path(run, o.shard)) for o in results], glob=False),
        backtest=backtest,
        metrics=cast(pl.DataFrame, files["metrics"]),
        files=files,
        headline=manifest["headline"],
        gaps=read_frame(run, gaps_path(run)),
        control=points_so_far(run.store, scenario.name),
        drift=newest_drift(run.store, scenario.name, drift_charts.CYCLES),
    )


def _explanations(scenario: Scenario, run: Run, tables: Frames, scores: pl.LazyFrame) -> pl.DataFrame:
    """Explanations of the rows that are worth one; empty if the scenario gives none."""
    if not isinstance(scenario, ExplainsRows):
        return pl.DataFrame()
    rows = scenario.worth_explaining(scores, run.options).collect()
    if rows.is_empty():
        return rows
    model = bundles.model(scenario, run.store, run.bundle or 0)
    context = read_context(run.store, run.folder)
    return scenario.explain(model, tables, context, rows, run.as_of, run.options)
