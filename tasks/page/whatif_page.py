"""The page of a changed plan, and its artifacts in Prefect."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from models.page.blocks import Section
from tasks.page.render import render_run
from tasks.scoring.events import showing
from tasks.scoring.runs import Run
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tasks.storage.uris import link_of


@task(name="write-whatif-page")
def write_whatif_page(run: Run, to: str, plan: str, sections: Sequence[Section]) -> str:
    """Write the page to an address outside the tables, local or in Blob Storage; return the address."""
    folder, name = _place(to)
    folder.put(name, render_run(run, "another plan", sections, {"Plan": plan, "Bundle": str(run.bundle)}))
    return folder.uri_of(name)


def write_lines(lines: pl.DataFrame, to: str) -> str:
    """Write lines as CSV or Parquet, according to the suffix of the address; return the address."""
    folder, name = _place(to)
    if name.endswith(".parquet"):
        folder.put_frame(name, lines)
    elif name.endswith(".csv"):
        folder.put(name, lines.write_csv().encode())
    else:
        raise StoreError(f"{to}: expected an address that ends in .csv or .parquet.")
    return folder.uri_of(name)


def _place(address: str) -> tuple[Store, str]:
    """The folder of an address, and the file name."""
    folder, _, name = address.rpartition("/")
    return Store(folder or "."), name


def announce_whatif(run: Run, weeks: Sequence[Mapping[str, Any]], page: str | None, plan: str) -> None:
    """Create the Prefect artifacts of a changed plan: the weeks by both plans, and the page if there is one."""
    key = f"{run.scenario.name}-whatif"
    rows = [{name: str(value) for name, value in week.items()} for week in weeks]
    with showing("The weeks by both plans"):
        create_table_artifact(
            rows, key=f"{key}-weeks", description=f"Sums of medians, units: stored plan and {plan}"
        )
        if page:
            create_link_artifact(link_of(page), key=f"{key}-page", link_text="Page of both plans")
