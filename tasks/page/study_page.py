"""The page of a study, and its artifacts in Prefect."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from models.page.blocks import Section
from tasks.page.render import render_run
from tasks.scoring.events import showing
from tasks.scoring.runs import Run
from tasks.storage.uris import link_of


@task(name="write-study-page")
def write_study_page(run: Run, sections: Sequence[Section]) -> str:
    """Write the study's page into the store; return its address."""
    path = run.layout.page(run.id)
    run.store.put(path, render_run(run, "tuning", sections, {"Study": run.id}))
    return run.store.uri_of(path)


def announce_study(run: Run, page: str, choices: Sequence[Mapping[str, Any]], reason: str) -> None:
    """Create the Prefect artifacts of a study: its page, and the choices before and after."""
    key = f"{run.scenario.name}-tune"
    rows = [{name: str(value) for name, value in choice.items()} for choice in choices]
    with showing("The study's choices and page"):
        create_table_artifact(rows, key=f"{key}-choices", description=reason)
        create_link_artifact(link_of(page), key=f"{key}-page", link_text="Page of the study")
