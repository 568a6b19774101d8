"""Files are read as docs/files.md and docs/moving.md say."""

import inspect
import re
import shlex
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from flows import devices, machines, sales
from models.contracts import FLAGS
from models.devices.scenario import DEVICES
from models.machines.scenario import MACHINES
from models.sales import SALES
from models.times import days, utc
from tasks.ingest.dialect import SUFFIXES
from tasks.ingest.pipeline import ingest
from tasks.ingest.text import SEPARATORS

DOCS = Path(__file__).parents[2] / "docs"
FILES = (DOCS / "files.md").read_text()
COMMANDS = re.findall(r"^    python -m flows (.*)$", (DOCS / "moving.md").read_text(), re.MULTILINE)
WRITTEN = re.findall(r"^\| `([^`]+)` \| 29 January 2024", FILES, re.MULTILINE)


def test_every_layout_is_in_the_table_of_layouts():
    rows = re.findall(r"^\| (\w+) \| `([\w-]+)` \| (.*) \|$", FILES, re.MULTILINE)
    layouts = [
        (s.name, name, one.about) for s in (SALES, DEVICES, MACHINES) for name, one in s.layouts.items()
    ]
    assert rows == layouts


@pytest.mark.slow
@pytest.mark.parametrize("text", WRITTEN)
def test_dates_are_read_as_the_table_says(text):
    assert days(pl.Series("time", [text])).to_list() == [date(2024, 1, 29)]
    assert utc(pl.Series("time", [text]), "UTC").to_list() == [datetime(2024, 1, 29, tzinfo=UTC)]


def test_separators_compressions_and_flags_are_in_the_table_of_formats():
    assert len(WRITTEN) > 10
    for word in (*SEPARATORS.values(), *FLAGS):
        assert word in FILES
    assert {f"`{s}`" for s in (".gz", ".zst", ".zip")} <= {*re.findall(r"`\.\w+`", FILES)}
    assert all(suffix.endswith((".gz", ".zst", ".zip")) or suffix.count(".") == 1 for suffix in SUFFIXES)


WEEKLY = "item_id,timestamp,{},location\nA,2024-01-01,1,N\nA,2024-01-08,2,N\n"
POINTS = "timestamp,value\n2024-01-01T00:00:00Z,1\n"
SOURCES = {
    "requests/boiler.json": '{"series": [{"timestamp": "2024-01-01T00:00:00Z", "value": 1}], "granularity": "hourly"}',
    "line/speed.csv": POINTS,
    "line/load.csv": POINTS,
    "orders.csv": "timestamp,region,orders\n2024-01-01,EU,5\n",
    "forecast/target.csv": WEEKLY.format("target_value"),
    "forecast/related.csv": WEEKLY.format("price"),
    "press/motor.csv": "Timestamp,temp\n2024-01-01T00:00:00,1\n",
    "labels.csv": "2024-01-01T00:00:00,2024-01-01T01:00:00\n",
}
TABLES = {"devices": {"source": "readings"}, "sales": {"source": "history"}, "machines": {}}


PLACES = ("source", "plan", "labels", "telemetry", "failures")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_for_moving_reads_a_file_of_its_service(command, store, tmp_path):
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "line.zip", "w") as archive:
        for path in (tmp_path / "line").iterdir():
            archive.write(path, path.name)
    scenario, flow, *words = shlex.split(command)
    options = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    module = {"devices": devices, "sales": sales, "machines": machines}[scenario]
    assert {*options} <= {*inspect.signature(getattr(module, flow).fn).parameters}
    files = {n: str(tmp_path / options.pop(n)) for n in PLACES if n in options}
    sources = {TABLES[scenario].get(name, name): path for name, path in files.items()}
    results = ingest.fn(module.SCENARIO, store, sources, {}, 4, 0.0, options)
    assert [one.table for one in results] == [*sources]
    assert all(one.accepted for one in results)
