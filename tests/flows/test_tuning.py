"""Tuning the toy on the command line: a search whose best answer is known."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.search import inside, of_options
from tasks.registry import bundles
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.training.study import open_study
from tests import steps, toy
from tests.conftest import ROOT, wait_until
from tests.flows.test_fourth_scenario import SCENARIOS

pytestmark = pytest.mark.slow
TRIALS = 8


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory) -> Path:
    """A store of the toy with a bundle of default hyperparameters."""
    folder = tmp_path_factory.mktemp("tuning")
    toy.values(days=5).write_parquet(folder / "values.parquet")
    for words in (["ingest", "--source", folder / "values.parquet", "--shards", "2"], ["train"]):
        output = command("toy", *words, "--store", folder / "store")
        assert output.status == 0, output.err
    return folder / "store"


@pytest.fixture(scope="module")
def tune(command):
    """`tune(store, trials, ...)`: the result of a study that must succeed."""

    def run(store, trials=TRIALS, *words):
        output = command("toy", "tune", "--trials", str(trials), *words, "--store", store, "--json")
        assert output.status == 0, output.err
        return output.json

    return run


@pytest.fixture(scope="module")
def tuned(trained, tune, tmp_path_factory):
    """A copy of the store after a study, and the summary of the study."""
    folder = tmp_path_factory.mktemp("tuned") / "store"
    shutil.copytree(trained, folder)
    return folder, tune(folder)


def trials(store, result) -> pl.DataFrame:
    path = f"toy/studies/{Path(result['study']).name}"
    with open_study(Store(str(store)), path, result["run_id"], toy.TOY.search.space, 7) as (study, _):
        return study.trials().drop("seconds", "number")


def test_the_winner_is_better_where_it_was_not_searched_and_becomes_champion_like_any_challenger(tuned):
    store, result = tuned
    assert result["trials"]["failed"] == result["trials"]["kept"] == 0
    assert sum(result["trials"].values()) == TRIALS
    assert result["unseen"]["fold"] == "2024-01-05"
    assert result["unseen"]["after"] < result["unseen"]["before"] == pytest.approx(4.03)
    assert result["loss"]["after"] < result["loss"]["before"] == pytest.approx(4.01)
    assert result["challenger"]["promoted"]
    number = result["challenger"]["bundle"]
    opened_store = Store(str(store))
    assert bundles.champion(opened_store, "toy") == number == 2
    options = bundles.manifest(opened_store, "toy", number)["options"]
    after = {choice["choice"]: choice["after"] for choice in result["choices"] if choice["after"]}
    assert options["study"] == result["run_id"]
    assert options["kind"] == after["kind"] == "exact"
    assert options["near"] == pytest.approx(float(after["near"]), rel=1e-3)
    page = Path(result["page"]).read_text()
    assert "Which choices mattered" in page
    assert "2024-01-05 (unseen)" in page


def test_each_step_of_a_study_has_a_limit_from_its_own_history(tuned):
    paces = Store(str(tuned[0])).get_json(Layout("toy").pace)
    names = ("plan", "folds", "propose", "record", "view", "report")
    assert {name for name in paces if name.startswith("tune ")} == {f"tune {name}" for name in names}


def test_the_same_study_again_does_nothing_and_a_longer_one_what_is_missing(tuned, tune, tmp_path):
    store = Path(shutil.copytree(tuned[0], tmp_path / "store"))
    before = trials(store, tuned[1])
    versions = Store(str(store)).version("toy/registry")
    again = tune(store)
    assert again["run_id"] == tuned[1]["run_id"]
    assert again["trials"]["kept"] == TRIALS
    assert again["reason"] == "The search found nothing better than the current hyperparameters."
    assert Store(str(store)).version("toy/registry") == versions
    assert trials(store, again).equals(before)
    longer = tune(store, TRIALS + 4)
    assert trials(store, longer).head(TRIALS).equals(before)
    assert trials(store, longer).height == TRIALS + 4


def test_a_training_after_it_uses_the_champion_s_hyperparameters_and_says_so(tuned, command, tmp_path):
    store = Path(shutil.copytree(tuned[0], tmp_path / "store"))
    output = command("toy", "train", "--as-of", "2024-01-04", "--store", store, "--json")
    assert output.status == 0, output.err
    study = tuned[1]["run_id"]
    assert output.json["notes"][0] == f"Hyperparameters are those of champion 2, from study {study}."
    mine, theirs = (
        bundles.manifest(Store(str(store)), "toy", n)["options"] for n in (output.json["bundle"], 2)
    )
    assert {name: mine[name] for name in ("kind", "near", "far", "study")} == {
        name: theirs[name] for name in ("kind", "near", "far", "study")
    }


def test_a_study_whose_process_is_killed_goes_on_and_comes_to_the_same(
    trained, tuned, tune, prefect_api, dask_cluster, tmp_path
):
    store = Path(shutil.copytree(trained, tmp_path / "store"))
    marks = store / "toy" / "runs"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.toy", "toy", "tune", "--trials", str(TRIALS), "--store", str(store)],
        env=os.environ
        | {"PREFECT_API_URL": prefect_api, "ALMANAC_SCHEDULER": dask_cluster.scheduler_address}
        | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len([*marks.glob("*tune*/trials/*.json")]) >= 5, 120, "five trials were tried")
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = {path: path.read_bytes() for path in marks.glob("*tune*/trials/*.json")}
    assert 5 <= len(files) <= TRIALS
    assert bundles.champion(Store(str(store)), "toy") == 1
    result = tune(store)
    assert trials(store, result).equals(trials(*tuned))
    assert {path: path.read_bytes() for path in files} == files
    assert result["challenger"]["promoted"]


def test_a_trial_that_kills_its_worker_is_tried_again_and_the_study_comes_to_the_same(
    trained, tuned, tune, tmp_path
):
    store = Path(shutil.copytree(trained, tmp_path / "store"))
    options = {"kills": ["exact"], "once": str(tmp_path / "killed")}
    number = bundles.champion(Store(str(store)), "toy")
    manifest = bundles.manifest(Store(str(store)), "toy", number)
    steps.forge(Store(str(store)), number, manifest | {"options": manifest["options"] | options})
    result = tune(store)
    assert (tmp_path / "killed").exists()
    assert trials(store, result).equals(trials(*tuned))


def test_a_study_ends_when_its_time_is_over_and_says_what_it_came_to(trained, tune, tmp_path):
    store = Path(shutil.copytree(trained, tmp_path / "store"))
    result = tune(store, 5000, "--timeout", "1s")
    assert sum(result["trials"].values()) < 5000
    assert result["reason"]


def test_a_store_without_data_or_with_too_little_is_told_in_a_sentence(command, tmp_path):
    empty = command("toy", "tune", "--store", tmp_path / "empty")
    assert empty.status == 1
    assert "there is no table 'toy/values'. Ingest data first" in empty.err
    toy.values(days=2).write_parquet(tmp_path / "values.parquet")
    command("toy", "ingest", "--source", tmp_path / "values.parquet", "--store", tmp_path / "store")
    short = command("toy", "tune", "--store", tmp_path / "store")
    assert short.status == 1
    assert "too little history of toy to tune on: 1 fold." in short.err
    wrong = command("toy", "tune", "--timeout", "soon", "--store", tmp_path / "store")
    assert wrong.status == 1
    assert "'soon' is not a duration" in wrong.err


@pytest.mark.parametrize("scenario", [*SCENARIOS, DEVICES], ids=lambda scenario: scenario.name)
def test_what_a_training_uses_by_default_lies_in_the_space(scenario):
    search = scenario.search
    values = of_options(search.space, search.defaults({}))
    assert values
    assert inside(search.space, values)
