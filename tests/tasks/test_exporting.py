"""A bundle that is exported, and scored by other programs."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.devices.simulation import readings_of, simulate
from models.sales import SALES
from tasks.registry import bundles
from tasks.registry.export import ExportError, export
from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT
from tests.grids import grid_of
from tests.models import test_devices_scenario as devices
from tests.toy import TOY


def documented(number: int, exported: Path, rows: Path):
    """The output of the documentation's program of that number, in a separate process."""
    text = (ROOT / "docs/interchange.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[number]
    needed = set(re.findall(r"(?m)^(?:import|from) (\w+)", program))
    assert needed == {"json", "sys", "numpy", "onnxruntime"}
    place = rows.parent / "program.py"
    place.write_text(program)
    words = [sys.executable, place, exported, rows]
    process = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=rows.parent)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_scenario_without_graphs_says_that_it_exports_nothing(store, tmp_path, without_run_logger):
    steps.put(store)
    steps.train(store)
    with pytest.raises(ExportError, match="toy: this scenario exports nothing"):
        export(TOY, store, 1, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
class TestSales:
    @pytest.fixture(scope="class")
    def exported(self, sales_store, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("exported")
        export(SALES, Store(sales_store.uri), 1, str(folder))
        return folder

    def test_graphs_say_where_they_are_from_and_the_order_of_their_columns(self, exported, sales_store):
        about = json.loads((exported / "interchange.json").read_text())
        model = onnx.load(exported / "pooled.onnx")
        onnx.checker.check_model(model)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert (
            (metadata["scenario"], metadata["bundle"])
            == (about["scenario"], about["bundle"])
            == ("sales", "1")
        )
        ensemble = bundles.model(SALES, Store(sales_store.uri), 1).with_plan
        assert json.loads(metadata["columns"])["features"] == list(ensemble.features)
        readme = (exported / "README.md").read_text()
        assert "What is not in the graphs" in readme
        assert "`statistical`" in readme

    def test_the_bundle_s_own_files_are_beside_them_as_they_are(self, exported, sales_store):
        for path in (Path(sales_store.uri) / "sales" / "bundles" / "1").iterdir():
            if path.name not in ("claim.json", "manifest.json"):
                assert (exported / "plain" / path.name).read_bytes() == path.read_bytes()

    def test_the_documented_program_scores_it_in_a_process_of_its_own(self, exported, sales_store, tmp_path):
        model = bundles.model(SALES, Store(sales_store.uri), 1)
        rng = np.random.default_rng(0)
        values = rng.normal(size=(50, len(model.with_plan.features))).astype(np.float32)
        values[rng.random(values.shape) < 0.2] = np.nan
        table = pl.DataFrame(values, schema=[f"f:{name}" for name in model.with_plan.features]).with_columns(
            pl.Series("level", rng.uniform(1, 50, 50)),
            pl.Series("kind", rng.choice(["regular", "promoted", "intermittent"], 50)),
            pl.Series("step", rng.integers(1, 14, 50)),
            planned=True,
        )
        np.save(tmp_path / "rows.npy", table.to_numpy(structured=True))
        output = documented(0, exported, tmp_path / "rows.npy")
        expected = SALES.estimate(model, table).select(output["columns"]).to_numpy()
        np.testing.assert_allclose(output["units"], expected, rtol=1e-5, atol=1e-5)

    def test_a_folder_that_cannot_be_written_is_named(self, sales_store):
        with pytest.raises(ExportError, match="--to /proc/nowhere: cannot be written"):
            export(SALES, Store(sales_store.uri), 1, "/proc/nowhere")


class TestDevices:
    @pytest.fixture(scope="class")
    def readings(self) -> pl.DataFrame:
        grid = simulate(4, devices.START, 1440 + 60, missing_share=0.01).grid
        return readings_of(grid).with_columns(shard=pl.lit(0, pl.Int32))

    @pytest.fixture(scope="class")
    def store(self, readings, tmp_path_factory) -> Store:
        store = Store(str(tmp_path_factory.mktemp("devices") / "store"))
        training = devices.train(readings)
        facts = {"options": {}, "versions": {}, "code": "0"}
        bundles.save(store, "devices", training, training.files, facts, devices.AS_OF, "run")
        return store

    @pytest.fixture(scope="class")
    def exported(self, store, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("exported")
        export(DEVICES, store, 1, str(folder))
        return folder

    def test_a_bundle_of_the_default_detector_has_graphs_for_all_that_it_scores(self, exported):
        about = json.loads((exported / "interchange.json").read_text())
        names = {path.stem for path in exported.glob("*.onnx")}
        assert names == {"robust", "discrete", "pooled", "joint", "missing", "p_values"}
        assert names == set(about["sensors"])
        columns = json.loads(
            {e.key: e.value for e in onnx.load(exported / "robust.onnx").metadata_props}["columns"]
        )
        assert columns["readings"][:2] + columns["readings"][-2:] == ["-59", "-58", "-1", "0"]

    def test_the_documented_program_scores_the_newest_minute(self, exported, store, readings, tmp_path):
        model = bundles.model(DEVICES, store, 1)
        keys = model.frames["robust"].select("device", "tag")
        until = devices.AS_OF + devices.HOUR
        wide = grid_of(readings, keys, devices.AS_OF, until, timedelta(minutes=1))
        arrays = {name: np.array(wide.keys[name].to_list()) for name in wide.keys.columns}
        time = wide.times.dt.epoch("s")[-1]
        np.savez(tmp_path / "newest.npz", **arrays, readings=wide.values, time=time)
        output = documented(1, exported, tmp_path / "newest.npz")
        by_tag = {(device, tag): row for device, tag, *row in output}
        rows = devices.score(model, readings).rows.filter(pl.col("time") == wide.times[-1])
        rows = rows.filter(pl.col("rung").str.contains("robust|joint"))
        assert {*rows["rung"]} >= {"joint", "robust_level", "robust_seasonal"}
        for device, tag, *row in rows.select("device", "tag", "score", "p_value").iter_rows():
            np.testing.assert_allclose(by_tag[device, tag], row, rtol=0, atol=1e-9)
