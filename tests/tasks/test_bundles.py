import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.scenario import FitResult
from tasks.registry import bundles
from tasks.registry.bundles import BundleError
from tests import steps
from tests.toy import TOY

FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
DAY = date(2024, 1, 3)


def trained(loss=1.0) -> FitResult:
    return FitResult(
        files={},
        features=("a",),
        backtest=FRAME,
        metrics=FRAME,
        headline={"loss": loss},
        loss=loss,
        notes=("n",),
    )


def save(store, run_id="r1", as_of=DAY, loss=1.0, **files):
    contents = files or {"factor": {"factor": 2.0}, "seen": FRAME, "remark": "text"}
    return bundles.save(store, "toy", trained(loss), contents, {"options": {"x": 1}}, as_of, run_id)


def folder(store, number=1) -> Path:
    return Path(store.uri) / "toy" / "bundles" / str(number)


def test_a_bundle_comes_back_as_it_was_saved(store):
    number = save(store)
    contents = bundles.files(store, "toy", number)
    assert contents["factor"] == {"factor": 2.0}
    assert contents["remark"] == "text"
    assert contents["seen"].equals(FRAME)
    assert bundles.model(TOY, store, number) == 2.0


def test_a_bundle_says_what_it_is(store):
    manifest = bundles.manifest(store, "toy", save(store))
    assert manifest["bundle"] == 1
    assert manifest["as_of"] == "2024-01-03"
    assert manifest["options"] == {"x": 1}
    assert manifest["features"] == ["a"]
    assert manifest["notes"] == ["n"]
    assert set(manifest["files"]) == {"factor.json", "seen.parquet", "remark.txt"}


def test_a_bundle_holds_nothing_but_parquet_json_and_text(store):
    save(store)
    kinds = {path.suffix for path in folder(store).iterdir()}
    assert kinds == {".parquet", ".json", ".txt"}


def test_the_same_training_is_saved_once(store):
    assert save(store, "r1") == 1
    assert save(store, "r1") == 1
    assert save(store, "r2") == 2
    assert bundles.events(store, "toy").height == 2


def test_trainings_at_the_same_time_get_numbers_of_their_own(store, together):
    numbers = together(_save_many, [(store, f"p{n}") for n in range(4)])
    assert sorted(number for some in numbers for number in some) == list(range(1, 9))
    assert bundles.events(store, "toy")["bundle"].sort().to_list() == list(range(1, 9))
    for some, name in zip(numbers, range(4), strict=True):
        assert [bundles.manifest(store, "toy", n)["run_id"] for n in some] == [f"p{name}-0", f"p{name}-1"]


def _save_many(store, name):
    return [save(store, f"{name}-{n}") for n in range(2)]


# what does not belong


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {TRACE}",)


TRACE = "/tmp/almanac-bundle-was-executed"


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The file that executed code would leave behind."""
    path = tmp_path / "executed"
    monkeypatch.setitem(globals(), "TRACE", str(path))
    yield path
    assert not path.exists(), "something in the bundle was executed"


def smuggle(store, name: str, content: bytes, number: int = 1) -> None:
    """Put a file into a saved bundle and into its manifest, as anyone with write access to the store could."""
    folder(store, number).mkdir(parents=True, exist_ok=True)
    target = folder(store, number) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    manifest = bundles.manifest(store, "toy", number)
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    steps.forge(store, number, manifest)


@pytest.mark.parametrize(
    "name", ["model.pkl", "model.joblib", "model.bin", "model", "model.py", "model.onnx", "model.txt.pkl"]
)
def test_a_pickle_under_any_name_is_refused_and_nothing_of_the_bundle_is_loaded(store, trace, name):
    number = save(store)
    smuggle(store, name, pickle.dumps(Bomb()))
    with pytest.raises(
        BundleError, match=r"not a kind of file that a bundle may hold.*\.parquet, \.json, \.txt"
    ):
        bundles.files(store, "toy", number)
    with pytest.raises(BundleError):
        bundles.model(TOY, store, number)


@pytest.mark.parametrize("name", ["factor.json", "seen.parquet", "remark.txt"])
def test_a_pickle_in_the_place_of_another_file_is_never_executed(store, trace, name):
    number = save(store)
    smuggle(store, name, pickle.dumps(Bomb()))
    with pytest.raises(BundleError, match=f"{name}: its content does not match"):
        bundles.files(store, "toy", number)


@pytest.mark.parametrize("content", [b"[1, 2]", b"3", b"[" * 100_000])
def test_json_that_is_no_mapping_is_refused(store, content):
    number = save(store)
    smuggle(store, "factor.json", content)
    with pytest.raises(BundleError, match=r"factor\.json: its content does not match"):
        bundles.files(store, "toy", number)


@pytest.mark.parametrize(
    "name", ["../2/factor.json", "/etc/passwd.txt", "sub/x.json", "..\\x.json", "../../x.json"]
)
def test_a_name_that_leads_out_of_the_bundle_is_refused(store, name):
    number = save(store)
    manifest = bundles.manifest(store, "toy", number)
    manifest["files"][name] = {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}
    steps.forge(store, number, manifest)
    with pytest.raises(BundleError, match="not a kind of file"):
        bundles.files(store, "toy", number)


def test_a_file_that_was_changed_is_refused(store):
    number = save(store)
    (folder(store) / "factor.json").write_text('{"factor": 3.0}')
    with pytest.raises(BundleError, match=r"factor\.json: changed since it was saved.*--bundle"):
        bundles.files(store, "toy", number)


def test_a_manifest_that_was_changed_with_its_files_is_refused(store, monkeypatch):
    number = save(store)
    content = b'{"factor": 3.0}'
    (folder(store) / "factor.json").write_bytes(content)
    path = folder(store) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["factor.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(bundles, "_decode", lambda *_: pytest.fail("a file of the bundle was read"))
    with pytest.raises(BundleError, match=r"manifest\.json: not the manifest that was registered.*--bundle"):
        bundles.files(store, "toy", number)


def test_a_bundle_that_an_earlier_version_registered_without_a_hash_is_read(store):
    number = save(store)
    rows = store.scan("toy/registry").collect().drop(bundles.MANIFEST_SHA256)
    shutil.rmtree(Path(store.uri) / "toy" / "registry")
    store.append("toy/registry", rows, once="earlier")
    assert bundles.files(store, "toy", number)["factor"] == {"factor": 2.0}
    assert save(store, run_id="r2") == 2
    assert bundles.files(store, "toy", number)["factor"] == bundles.files(store, "toy", 2)["factor"]


def test_a_file_that_is_missing_is_named(store):
    number = save(store)
    (folder(store) / "seen.parquet").unlink()
    with pytest.raises(BundleError, match=r"seen\.parquet: missing since it was saved"):
        bundles.files(store, "toy", number)


def test_a_file_that_the_manifest_does_not_name_is_not_looked_at(store, trace):
    number = save(store)
    (folder(store) / "model.pkl").write_bytes(pickle.dumps(Bomb()))
    assert "model" not in bundles.files(store, "toy", number)


def test_python_objects_in_a_frame_cannot_be_saved(store):
    with pytest.raises(BundleError, match="no Python objects"):
        save(store, bad=pl.DataFrame({"o": [Bomb()]}, schema={"o": pl.Object}))


@pytest.mark.parametrize("content", [object(), b"bytes", 3, ["list"], Bomb()])
def test_content_that_is_no_frame_text_or_mapping_cannot_be_saved(store, content):
    with pytest.raises((BundleError, TypeError)):
        save(store, bad=content)
    assert bundles.champion(store, "toy") is None
    assert bundles.events(store, "toy") is None


def test_a_pickle_in_the_schema_of_a_parquet_file_is_not_executed(store, trace):
    number = save(store)
    field = pa.field(
        "a",
        pa.binary(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(Bomb(), protocol=0).decode("latin1"),
        },
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table([pa.array([b"x"])], schema=pa.schema([field], metadata={"pandas": "{}"})), buffer)
    smuggle(store, "seen.parquet", buffer.getvalue())
    bundles.files(store, "toy", number)


def test_reading_a_bundle_imports_neither_pickle_formats_nor_what_they_need(store):
    number = save(store)
    before = set(sys.modules)
    bundles.files(store, "toy", number)
    assert not {name for name in set(sys.modules) - before if "joblib" in name or "cloudpickle" in name}


# which one


def test_an_unknown_bundle_is_named_with_those_that_there_are(store):
    with pytest.raises(BundleError, match=r"no bundle 7 of toy\. Found: none"):
        bundles.manifest(store, "toy", 7)
    save(store, "r1")
    save(store, "r2")
    with pytest.raises(BundleError, match=r"no bundle 7 of toy\. Found: 1, 2"):
        bundles.manifest(store, "toy", 7)


def test_a_manifest_that_is_none_is_named(store):
    number = save(store)
    (folder(store) / "manifest.json").write_text("{not json")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundles.manifest(store, "toy", number)


def test_the_champion_is_the_bundle_of_the_last_promotion_and_every_change_stays_on_record(store):
    assert bundles.champion(store, "toy") is None
    for run in ("r1", "r2"):
        save(store, run)
    assert bundles.champion(store, "toy") is None
    for number in (1, 2, 1):
        bundles.promote(store, "toy", number, f"because of {number}")
    assert bundles.champion(store, "toy") == 1
    log = bundles.events(store, "toy")
    assert log["event"].to_list() == ["registered"] * 2 + ["promoted"] * 3
    assert log.filter(event="promoted")["reason"].to_list() == [
        "because of 1",
        "because of 2",
        "because of 1",
    ]
    assert bundles.champion(store, "sales") is None


def test_an_unknown_bundle_cannot_be_promoted(store):
    with pytest.raises(BundleError, match="no bundle 3"):
        bundles.promote(store, "toy", 3, "why not")


def days(number: int) -> date:
    return date(2024, 1, number)


def test_a_day_is_scored_with_the_champion(store):
    save(store, "r1", days(1))
    save(store, "r2", days(2))
    bundles.promote(store, "toy", 1, "first")
    assert bundles.for_as_of(store, "toy", days(9)) == 1
    bundles.promote(store, "toy", 2, "better")
    assert bundles.for_as_of(store, "toy", days(9)) == 2
    assert bundles.for_as_of(store, "toy", days(2)) == 2


def test_a_day_is_not_scored_with_a_bundle_that_knows_its_future(store):
    save(store, "r1", days(1))
    save(store, "r2", days(5))
    save(store, "r3", days(2))
    bundles.promote(store, "toy", 1, "first")
    bundles.promote(store, "toy", 2, "better")
    assert bundles.for_as_of(store, "toy", days(4)) == 1
    assert bundles.for_as_of(store, "toy", days(5)) == 2


def test_without_a_champion_of_that_time_the_last_bundle_that_knows_no_more_is_used(store):
    save(store, "r1", days(1))
    save(store, "r2", days(2))
    save(store, "r3", days(5))
    bundles.promote(store, "toy", 3, "first")
    assert bundles.for_as_of(store, "toy", days(4)) == 2


def test_moments_are_compared_as_moments(store):
    hours = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 23)]
    for number, hour in enumerate(hours):
        save(store, f"r{number}", hour)
        bundles.promote(store, "toy", number + 1, "newer")
    assert bundles.for_as_of(store, "toy", hours[1]) == 2
    assert bundles.for_as_of(store, "toy", datetime(2024, 1, 1, 22, 59, tzinfo=UTC)) == 2


def test_where_every_bundle_knows_too_much_the_way_out_is_said(store):
    with pytest.raises(BundleError, match=r"no bundle for toy yet.*python -m flows toy train"):
        bundles.for_as_of(store, "toy", days(1))
    save(store, "r1", days(5))
    bundles.promote(store, "toy", 1, "first")
    with pytest.raises(
        BundleError, match=r"up to 2024-01-01 or earlier.*2024-01-05.*toy train --help.*--bundle"
    ):
        bundles.for_as_of(store, "toy", days(1))
