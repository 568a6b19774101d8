from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest

from models.scenario import FitResult
from tasks.registry import bundles
from tasks.scoring.runs import RunError, begin, resolve_training
from tasks.scoring.shards import plan
from tasks.training.fit import Challenger, compare, fit, prepare_shards, track, training_shards
from tests import steps
from tests.toy import TOY, Plain, Toy, values

pytestmark = pytest.mark.usefixtures("without_run_logger")

DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(6)]


@pytest.fixture
def run(store):
    """A training run on three days of values, with its parts prepared."""
    steps.put(store)
    training = resolve_training.fn(TOY, store, None, {"loss": 1.0})
    begin.fn(training)
    for shard in plan.fn(training):
        assert prepare_shards.fn(training, [shard]) == [["last"]]
    return training


# parts


def test_the_parts_of_all_shards_together_hold_every_key(run):
    parts = run.store.names(run.path("parts/last"))
    assert len(parts) == 4
    rows = pl.concat([run.store.get_frame(name) for name in parts])
    assert rows["name"].sort().to_list() == [f"n{n:02d}" for n in range(12)]


def test_a_part_is_prepared_once(run, monkeypatch):
    def unexpected(*arguments):
        raise AssertionError("it was prepared again")

    monkeypatch.setattr(Toy, "prepare_shard", unexpected)
    assert prepare_shards.fn(run, [0]) == [["last"]]


def test_a_part_knows_nothing_after_its_day(store):
    steps.put(store)
    training = resolve_training.fn(TOY, store, DAYS[1], {})
    begin.fn(training)
    prepare_shards.fn(training, [0])
    assert store.get_frame(training.path("parts/last/0000.parquet"))["at"].max() == DAYS[1]


def test_keys_that_ended_are_learnt_from_where_no_key_of_their_shard_is_scored_any_more(run):
    class Ended(Plain):
        def requested_keys(self, tables, as_of, options):
            return super().requested_keys(tables, as_of, options).filter(pl.col("name") == "n00")

    assert len(plan.fn(replace(run, scenario=Ended()))) == 1
    assert sum(training_shards.fn(replace(run, scenario=Ended())).values()) == 12


def test_a_training_without_anything_to_train_on_is_refused(run):
    with pytest.raises(RunError, match="no shard has any rows to train on as of 2024-01-03"):
        fit.fn(run, [])


# the fit


def test_a_fit_registers_a_bundle_with_what_it_was_trained_on(run):
    challenger = fit.fn(run, ["last"])
    manifest = bundles.manifest(run.store, "toy", challenger.bundle)
    assert manifest["versions"] == {"values": 0}
    assert manifest["options"] == {"loss": 1.0}
    assert manifest["as_of"] == "2024-01-03"
    assert manifest["run_id"] == run.id
    assert manifest["code"]
    assert bundles.files(run.store, "toy", challenger.bundle)["metrics"].height == 1
    assert challenger == Challenger(1, 1.0, {"loss": 1.0}, ("It doubles.",))


def test_a_fit_that_is_started_again_leaves_one_bundle_and_one_backtest(run):
    assert fit.fn(run, ["last"]) == fit.fn(run, ["last"])
    assert bundles.events(run.store, "toy").height == 1
    assert run.store.scan("toy/backtests").collect().height == 12


def test_a_fit_that_was_stopped_before_its_backtest_was_written_writes_it_when_started_again(run):
    fit.fn(run, ["last"])
    run.store.files.delete(run.store.names("toy/backtests"))
    fit.fn(run, ["last"])
    assert run.store.scan("toy/backtests").collect()["bundle"].unique().to_list() == [1]


def test_the_backtests_of_all_bundles_are_kept_side_by_side(store):
    steps.put(store)
    for loss in (1.0, 0.5):
        steps.train(store, loss=loss)
    backtests = store.scan("toy/backtests").collect()
    assert backtests.group_by("bundle").len().sort("bundle").rows() == [(1, 12), (2, 12)]


def test_backtests_with_other_columns_are_kept_side_by_side(store):
    class Wide(Toy):
        def fit(self, *arguments):
            base = super().fit(*arguments)
            wide = base.backtest.with_columns(q99=pl.lit(1.0))
            return FitResult(**{**vars(base), "backtest": wide})

    steps.put(store)
    steps.train(store)
    steps.train(store, scenario=Wide(), other=1)
    assert store.scan("toy/backtests").collect()["q99"].null_count() == 12


# champion and challenger


def test_the_first_bundle_is_champion(store):
    steps.put(store)
    _, verdict = steps.train(store)
    assert (verdict.promoted, verdict.champion) == (True, 1)
    assert verdict.reason == "The first bundle; loss 1.0000."
    assert bundles.champion(store, "toy") == 1


@pytest.mark.parametrize(("loss", "better"), [(0.9, True), (1.0, False), (1.1, False), (float("nan"), False)])
def test_a_challenger_becomes_champion_only_when_it_is_better_on_the_same_backtest(store, loss, better):
    steps.put(store)
    steps.train(store, loss=1.0)
    challenger, verdict = steps.train(store, loss=loss, other=1)
    assert challenger.bundle == verdict.bundle == 2
    assert verdict.promoted == better
    assert verdict.champion == bundles.champion(store, "toy") == (2 if better else 1)
    assert f"of champion 1, on the backtest of the same as_of {DAYS[2]}" in verdict.reason


def test_on_newer_data_both_are_compared_on_what_the_champion_has_not_seen(store):
    steps.put(store)
    steps.train(store, loss=1.0)
    steps.put(store, values(days=5))
    _, verdict = steps.train(store, loss=99.0)
    assert verdict.promoted
    assert (
        verdict.reason
        == "Loss 1.0000 < 2.0000 of champion 1, on the 12 backtest rows that champion 1 has not seen."
    )


def test_a_champion_that_knows_the_whole_backtest_stays(store):
    steps.put(store)
    steps.train(store, DAYS[2], loss=1.0)
    _, verdict = steps.train(store, DAYS[1], loss=0.1)
    assert not verdict.promoted
    assert "was trained on all data of this backtest" in verdict.reason
    assert bundles.champion(store, "toy") == 1


class Newer(Toy):
    """A version of the scenario that no longer reads the bundles of the first version."""

    formats = (2,)

    def load(self, files):
        return files["new"]


class Broken(Toy):
    """A version of the scenario with a fault in `load`."""

    def load(self, files):
        return super().load(files, "an argument too many")


def test_a_fault_while_the_champion_is_loaded_promotes_nobody_and_says_so(store):
    steps.put(store)
    steps.train(store, DAYS[1])
    with pytest.raises(
        bundles.BundleError, match=r"bundles/1: the files are intact.*TypeError.*promote another"
    ):
        steps.train(store, scenario=Broken())
    assert bundles.champion(store, "toy") == 1
    assert bundles.manifest(store, "toy", 2)["format"] == 1


def test_a_champion_of_another_version_is_replaced_and_scoring_with_it_says_what_to_do(store):
    steps.put(store)
    steps.train(store, DAYS[1])
    with pytest.raises(bundles.BundleFormatError, match=r"another version of Almanac.*flows toy train"):
        bundles.model(Newer(), store, 1)
    _, verdict = steps.train(store, scenario=Newer())
    assert bundles.manifest(store, "toy", 2)["format"] == 2
    assert verdict.promoted
    assert verdict.reason == "Champion 1 has a bundle format that this version can no longer load."


def test_a_verdict_that_is_asked_for_again_is_the_same_and_leaves_no_second_event(store):
    steps.put(store)
    challenger, first = steps.train(store)
    again = resolve_training.fn(TOY, store, None, {})
    second = compare.fn(again, challenger, ["last"])
    assert (second.promoted, second.champion) == (first.promoted, first.champion)
    assert bundles.events(store, "toy").filter(event="promoted").height == 1


# what is logged


def test_a_tracking_server_that_cannot_be_reached_does_not_fail_the_training(store, monkeypatch, run):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    challenger, verdict = steps.train(store)
    assert track.fn(run, challenger, verdict) is None
    assert bundles.champion(store, "toy") == 1
