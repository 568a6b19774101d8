"""A store that an earlier version wrote (commit 49ca72c: six series, a bundle, a forecast, its evaluation) is continued."""

import tarfile
from pathlib import Path

import polars as pl
import pytest

from tasks.storage.store import Store
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def earlier(tmp_path: Path) -> Store:
    with tarfile.open(ROOT / "tests/stores/sales-2026-11-28.tar.xz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return Store(str(tmp_path / "store"))


def test_a_store_of_an_earlier_version_is_read_and_continued(command, earlier):
    where = ("--store", earlier.uri, "--json")
    assert command("health", *where).json is None, "its data are stale: the exit status is 3"
    assert [one["bundle"] for one in command("sales", "bundles", *where).json["bundles"]] == [1]
    version, before = earlier.version("sales/forecasts"), earlier.scan("sales/forecasts").collect()
    output = command("sales", "forecast", *where)
    assert output.status == 0, output.err
    assert (output.json["bundle"], output.json["scored"], output.json["failed"]) == (1, 6, 0)
    (replaced,) = (one for one in output.json["notes"] if one.startswith("Replaces the 78 rows of run"))
    assert "the same tables and bundle, but other options or code" in replaced
    rows = earlier.scan("sales/forecasts").collect()
    assert (
        rows.select("sku", "store", "week")
        .sort(pl.all())
        .equals(before.select("sku", "store", "week").sort(pl.all()))
    )
    assert earlier.scan("sales/forecasts", version).collect().height == before.height
    again = command("sales", "evaluate", *where)
    assert again.status == 0, again.err
