"""The notebook on devices runs from top to bottom, on a few simulated devices."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.devices.simulation import FAULTS, inject, readings_of, simulate
from tests.notebooks import execute, names

pytestmark = pytest.mark.slow

START, HOURS = datetime(2026, 3, 2, tzinfo=UTC), 8


@pytest.fixture(scope="module")
def scored(command, tmp_path_factory):
    """A store with seven devices, each with a different fault in the last two hours, which are scored."""
    folder = tmp_path_factory.mktemp("notebooks")
    past = 60 * (HOURS - 2)
    faulty = inject(simulate(len(FAULTS), START, 60 * HOURS), list(FAULTS), past).grid
    readings = readings_of(faulty).select("device", "tag", "time", value="mean")
    before = START + timedelta(minutes=past)
    for name, part in (("past", pl.col("time") < before), ("now", pl.col("time") >= before)):
        readings.filter(part).write_parquet(folder / f"{name}.parquet")
    where = ["--store", folder / "store"]
    for words in (
        ["ingest", "--source", folder / "past.parquet", "--shards", "2"],
        ["train"],
        ["run", "--source", folder / "now.parquet", "--catch-up", "2"],
    ):
        output = command("devices", *words, *where)
        assert output.status == 0, output.err
    return folder / "store"


@pytest.mark.parametrize("name", names("devices"))
def test_a_devices_notebook_runs_from_top_to_bottom(name, scored, kernel):
    execute(name, kernel, str(scored))
