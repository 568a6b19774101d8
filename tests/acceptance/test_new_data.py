"""New data starts a scoring run by itself: a real Prefect server, a served deployment, ingests as a user runs them."""

import shutil
from datetime import datetime, timedelta

import polars as pl
import pytest
from prefect.events import emit_event

from tasks.storage.store import Store
from tests.conftest import wait_until
from tests.fleet import CUT, END, after_cut, fleet, sources
from tests.on_new_data import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LATER = "almanac.tests.later"
"""An event that arrives after every event emitted before it."""


def test_new_data_starts_one_scoring_run_of_its_range_and_an_ingest_without_any_starts_none(
    machines_store, command, serve, tmp_path
):
    store = shutil.copytree(machines_store, tmp_path / "store")
    late = sources(tmp_path / "late", after_cut(fleet()))

    def machines(*words) -> None:
        output = command("machines", *words, "--store", store, "--json")
        assert output.status == 0, output.err

    served = serve("tests.on_new_data", NAME)

    machines("ingest", *late)
    run = served.completed()
    assert run["parameters"]["store"] == str(store)
    assert datetime.fromisoformat(run["parameters"]["from_"]) == CUT + timedelta(hours=4)
    assert datetime.fromisoformat(run["parameters"]["to"]) == END
    rows = Store(str(store)).scan("machines/risks").collect()
    assert rows["as_of"].unique().to_list() == [END]
    assert rows["time"].min() == CUT + timedelta(hours=12)
    assert rows["time"].max() == END
    resources = {e["resource"]["prefect.resource.id"] for e in served.events("almanac.machines.at_risk")}
    alarms = rows.filter(pl.col("time") == END, pl.col("above_threshold"))
    assert {name.split(".")[2] for name in resources} == set(alarms["machine_id"])

    machines("ingest", *late)
    emit_event(LATER, resource={"prefect.resource.id": str(store)})
    wait_until(lambda: served.events(LATER), 60, "what the ingest has emitted is there")
    assert len(served.events("almanac.machines.ingested")) == 1
    assert len(served.runs()) == 1
