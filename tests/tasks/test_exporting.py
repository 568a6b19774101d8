"""A bundle written for others, and scored by them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest

from models.sales import SALES
from tasks import bundles
from tasks.exporting import ExportError, export
from tasks.store import Store
from tests import steps
from tests.conftest import ROOT
from tests.toy import TOY


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
        told = {entry.key: entry.value for entry in model.metadata_props}
        assert (told["scenario"], told["bundle"]) == (about["scenario"], about["bundle"]) == ("sales", "1")
        ensemble = bundles.model(SALES, Store(sales_store.uri), 1).with_plan
        assert json.loads(told["columns"])["features"] == list(ensemble.features)
        readme = (exported / "README.md").read_text()
        assert "What is not in the graphs" in readme
        assert "`statistical`" in readme

    def test_the_bundle_s_own_files_are_beside_them_as_they_are(self, exported, sales_store):
        for path in (Path(sales_store.uri) / "sales" / "bundles" / "1").iterdir():
            if path.name not in ("claim.json", "manifest.json"):
                assert (exported / "plain" / path.name).read_bytes() == path.read_bytes()

    def test_the_documented_program_scores_it_in_a_process_of_its_own(self, exported, sales_store, tmp_path):
        (program,) = re.findall(
            r"^```python\n(.*?)^```$", (ROOT / "docs/interchange.md").read_text(), re.DOTALL | re.MULTILINE
        )
        assert set(re.findall(r"(?m)^(?:import|from) (\w+)", program)) == {
            "json", "sys", "numpy", "onnxruntime",
        }  # fmt: skip
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
        (tmp_path / "program.py").write_text(program)
        words = [sys.executable, tmp_path / "program.py", exported, tmp_path / "rows.npy"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        expected = SALES.estimate(model, table).select(told["columns"]).to_numpy()
        np.testing.assert_allclose(told["units"], expected, rtol=1e-5, atol=1e-5)

    def test_a_folder_that_cannot_be_written_is_named(self, sales_store):
        with pytest.raises(ExportError, match="--to /proc/nowhere: cannot be written"):
            export(SALES, Store(sales_store.uri), 1, "/proc/nowhere")
