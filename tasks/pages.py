"""The page of a run, and what Prefect shows of it."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event

from models.scenario import RunView, Scenario
from tasks import bundles
from tasks.publishing import Publication
from tasks.reports import render
from tasks.runs import Run
from tasks.shards import Outcome, gaps_path, keys_path, read_frame
from tasks.training import BACKTESTS


@task(name="write-page")
def write_page(scenario: Scenario, run: Run, outcomes: list[Outcome]) -> str:
    """Write the run's page into the store; its address."""
    view = _view(scenario, run, outcomes)
    facts = {
        "Run": run.id,
        "Bundle": str(run.bundle),
        "Store": run.store.uri,
        **{f"Table {name}": f"version {number}" for name, number in run.versions.items()},
    }
    title = f"{scenario.name.capitalize()}: {scenario.published(run.options).name}"
    html = render(title, f"As of {run.as_of}", scenario.sections(view), facts)
    path = f"{scenario.name}/pages/{run.id}.html"
    run.store.put(path, html.encode())
    return run.store.uri_of(path)


def announce(scenario: Scenario, run: Run, summary: Mapping[str, Any], publication: Publication) -> None:
    """Prefect artifacts of a published run, and the event `almanac.<scenario>.published`."""
    key = f"{scenario.name}-{run.flow}"
    rows = [{"figure": name, "value": str(value)} for name, value in summary.items() if name != "gaps"]
    if summary["gaps"]:
        lacking = f"What the inputs lack for {scenario.name} as of {run.as_of}"
        create_table_artifact(list(summary["gaps"]), key=f"{key}-gaps", description=lacking)
    create_table_artifact(rows, key=f"{key}-summary", description=f"{scenario.name} as of {run.as_of}")
    page = str(summary["page"])
    link = page if "://" in page else f"file://{page}"
    create_link_artifact(link, key=f"{key}-page", link_text="Page of the run")
    notes = "\n".join(f"- {note}" for note in run.notes) or "Nothing out of the ordinary."
    create_markdown_artifact(f"# {run.id}\n\n[{page}]({link})\n\n{notes}", key=f"{key}-notes")
    emit_event(
        f"almanac.{scenario.name}.published",
        resource={"prefect.resource.id": f"almanac.{scenario.name}", "prefect.resource.name": scenario.name},
        payload={
            "run_id": run.id,
            "as_of": run.as_of.isoformat(),
            "table": publication.table,
            "version": publication.version,
            "rows": publication.rows,
        },
    )


def _view(scenario: Scenario, run: Run, outcomes: list[Outcome]) -> RunView:
    table = run.store.scan(run.table)
    parts = [o for o in outcomes if o.rows]
    published = _scan_parts([run.store.uri_of(f"{run.table}/{o.path}") for o in parts])
    earlier = table.filter(pl.col("as_of") < run.as_of)
    latest = earlier.select(pl.col("as_of").max()).collect().item()
    manifest = bundles.manifest(run.store, scenario.name, run.bundle or 0)
    backtest = run.store.scan(f"{scenario.name}/{BACKTESTS}").filter(bundle=run.bundle)
    metrics = bundles.files(run.store, scenario.name, run.bundle or 0)["metrics"]
    return RunView(
        as_of=run.as_of,
        bundle=run.bundle or 0,
        options=run.options,
        tables=run.tables(scenario),
        published=published,
        previous=None if latest is None else table.filter(pl.col("as_of") == latest),
        keys=_scan_parts([run.store.uri_of(keys_path(run, o.shard)) for o in outcomes]),
        backtest=backtest,
        metrics=metrics if isinstance(metrics, pl.DataFrame) else pl.DataFrame(),
        headline=manifest["headline"],
        gaps=read_frame(run, gaps_path(run)),
    )


def _scan_parts(uris: list[str]) -> pl.LazyFrame:
    return pl.scan_parquet(uris, hive_partitioning=False)
