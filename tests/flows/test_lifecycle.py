"""Bundles and runs on the command line, for a scenario like any other."""

import json
import subprocess
import sys

import pytest

from flows import sales
from flows.modules import Direct
from tests import steps
from tests.conftest import ROOT
from tests.toy import TOY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of the toy with two bundles and a published run."""
    from prefect.logging import disable_run_logger

    from tasks.storage.store import Store

    store = Store(str(tmp_path_factory.mktemp("lifecycle") / "store"))
    with disable_run_logger():
        steps.put(store)
        steps.train(store, loss=2.0)
        steps.train(store, loss=1.0)
        steps.score(store)
    return store.uri


def test_every_scenario_has_the_commands(command):
    names = {one.name for one in sales.COMMANDS}
    assert {"sales-bundles", "sales-promote", "sales-rollback", "sales-history"} <= names


def test_promoting_and_rolling_back_are_seen_in_the_listing(command, trained):
    def champion():
        return command("toy", "bundles", "--store", trained, "--json").json["champion"]

    assert champion() == 2
    output = command("toy", "promote", "--bundle", "1", "--reason", "try", "--store", trained, "--json")
    assert output.status == 0, output.err
    assert (output.json["champion"], output.json["before"]) == (1, 2)
    assert any("MLflow has no version" in note for note in output.json["notes"])
    assert champion() == 1
    back = command("toy", "rollback", "--reason", "it was worse", "--store", trained, "--json")
    assert (back.json["champion"], back.json["before"]) == (2, 1)
    listing = command("toy", "bundles", "--store", trained)
    assert "rolled back: it was worse" in " ".join(listing.out.split())


def test_a_promotion_needs_a_reason_and_a_bundle_that_is_there(command, trained):
    without = command("toy", "promote", "--bundle", "1", "--store", trained)
    assert without.status != 0
    assert "reason" in without.err + without.out
    refusal = command("toy", "promote", "--bundle", "7", "--reason", "why not", "--store", trained)
    assert refusal.status == 1
    assert "there is no bundle 7 of toy. Found: 1, 2." in refusal.err


def test_the_ledger_and_what_was_ingested_are_listed(command, trained):
    runs = command("toy", "history", "--last", "1", "--store", trained, "--json").json["runs"]
    assert [(run["bundle"], run["requested"]) for run in runs] == [(2, 12)]
    status = command("ingest-status", "--store", trained, "--json").json
    assert status["tables"][0] | {"written": ""} == {
        "table": "toy/values", "rows": 36, "keys": 12, "from": "2024-01-01", "to": "2024-01-03", "version": 0,
        "written": "",
    }  # fmt: skip
    assert status["scenarios"] == [
        {
            "scenario": "toy",
            "every_hours": None,
            "age_hours": status["scenarios"][0]["age_hours"],
            "fresh": None,
        }
    ]


def test_a_listing_takes_no_number_that_makes_no_sense(command, trained):
    output = command("toy", "bundles", "--last", "0", "--store", trained)
    assert output.status != 0
    assert "Traceback" not in output.err


@pytest.mark.parametrize("words", [["toy", "bundles"], ["toy", "history"], ["ingest-status"]])
def test_on_an_empty_store_a_listing_says_so_and_makes_nothing(command, tmp_path, words):
    output = command(*words, "--store", tmp_path / "nothing")
    assert output.status == 0
    assert str(tmp_path / "nothing") in output.out.replace("\n", "")
    assert " yet." in " ".join(output.out.split())
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("words", [["promote", "--bundle", "1"], ["rollback"]])
def test_on_an_empty_store_a_promotion_is_an_error_in_words(command, tmp_path, words):
    output = command("toy", *words, "--reason", "why not", "--store", tmp_path / "nothing")
    assert output.status == 1
    assert "Train one: python -m flows toy train" in output.err
    assert "Traceback" not in output.err


def test_a_listing_starts_no_server(trained):
    script = "import flows.server, tests.toy.__main__ as toy; del flows.server.prefect_server; toy.main()"
    words = [sys.executable, "-c", script, "toy", "bundles", "--store", trained, "--json"]
    process = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["champion"] == 2


def test_direct_commands_are_named_like_flows():
    assert {one.name for one in sales.COMMANDS if isinstance(one, Direct)} >= {"sales-bundles"}
    assert TOY.cadence is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"horizon": 26, "quantiles": [0.1, 0.9], "holidays": ["DE"], "seed": 7}),
        (
            {"horizon": 4, "quantiles": [0.5, 0.2], "holidays": ["none"]},
            {"horizon": 4, "quantiles": [0.2, 0.5], "holidays": [], "seed": 7},
        ),
    ],
)
def test_a_training_of_sales_keeps_horizon_quantiles_and_holidays_of_the_champion(
    monkeypatch, tmp_path, options, expected
):
    settings = {"horizon": 26, "quantiles": [0.1, 0.9], "holidays": ["DE"]}
    manifest = {"options": {**settings, "seed": 3, "trees": 9}}
    from tasks.storage.store import Store

    store = Store(str(tmp_path))
    assert sales._options(store) == {"horizon": 13, "seed": 7}
    monkeypatch.setattr(sales.bundles, "champion", lambda *_: 3)
    monkeypatch.setattr(sales.bundles, "manifest", lambda *_: manifest)
    assert sales._options(store, **options) == expected


def test_a_run_says_so_where_its_holidays_are_not_those_of_the_champion(monkeypatch, tmp_path):
    monkeypatch.setattr(sales.bundles, "champion", lambda *_: 3)
    monkeypatch.setattr(sales.bundles, "manifest", lambda *_: {"options": {"holidays": ["DE"]}})
    assert sales._first_training(str(tmp_path), ["DE"]) == sales._first_training(str(tmp_path), None) == []
    (note,) = sales._first_training(str(tmp_path), ["AT"])
    assert "sales train --holidays" in note
