"""The inputs of a bundle are compared with its training; steps are called one by one, without Prefect."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.drift import Rule
from models.scenario import Scenario
from tasks.monitoring import drift, due, ground_truth
from tasks.page.run_page import write_page
from tasks.registry import bundles
from tasks.scoring.publishing import complete
from tasks.storage.store import Store
from tests import steps
from tests.toy import TOY, Toy

pytestmark = pytest.mark.usefixtures("without_run_logger")

FIRST = date(2024, 1, 1)
TRAINED = FIRST + timedelta(days=39)


def noise(days: int, shifted_days: int = 0, by: float = 4) -> pl.DataFrame:
    """Values of 40 names; those of the last `shifted_days` days are higher by `by`."""
    rng = np.random.default_rng(4)
    return pl.DataFrame(
        [
            {
                "name": f"n{name:02d}",
                "at": FIRST + timedelta(days=day),
                "value": 5 + value + by * (day >= days - shifted_days),
            }
            for day in range(days)
            for name, value in enumerate(rng.normal(0, 1, 40).clip(-4, 4))
        ]
    )


@pytest.fixture
def events(monkeypatch) -> list:
    log: list = []
    monkeypatch.setattr(drift, "emit", lambda store, scenario, event, occasion: log.append((event, occasion)))
    return log


def watch(
    store: Store,
    as_of: date | None = None,
    cooldown_days: float = 28,
    keys: int = 1000,
    scenario: Scenario = TOY,
) -> pl.DataFrame:
    """The lines published for an `as_of`; announces them where that is due."""
    run = drift.resolve_watching.fn(scenario, store, as_of, Rule())
    shards = drift.watched_shards(steps.plan.fn(run), keys)
    for shard in shards:
        drift.watch_shards.fn(run, [shard])
    lines = drift.measure_drift.fn(run, shards, Rule())
    if drift.publish_drift.fn(run, lines, cooldown_days):
        drift.announce_drift.fn(run, lines)
    return store.scan("toy/drift").filter(pl.col("as_of") == run.as_of).collect().sort("rank")


def day(number: int) -> date:
    return TRAINED + timedelta(days=number)


@pytest.fixture
def trained(store):
    """Values of 45 days, of which the last five are higher, and a bundle trained on the first 40."""
    steps.put(store, noise(45, shifted_days=5))
    steps.train(store, as_of=TRAINED)
    return store


def test_a_shift_is_found_in_its_first_cycle_and_told_with_what_moved(trained, events):
    line = watch(trained, day(1)).row(0, named=True)
    assert (line["feature"], line["kind"], line["drifted"], line["announced"]) == (
        "value",
        "input",
        True,
        True,
    )
    assert line["mean_now"] - line["mean_before"] == pytest.approx(4, abs=0.5)
    ((event, _),) = events
    assert event.name == "drifted"
    assert event.payload["features"][0]["feature"] == "value"
    assert event.payload["reason"].startswith(f"Drifted as of {day(1)}, against bundle 1: value (PSI ")
    assert event.payload["store"] == trained.uri


def test_a_smaller_shift_is_told_in_its_second_cycle_whether_the_first_was_compared_or_not(store, events):
    steps.put(store, noise(42, shifted_days=2, by=0.7))
    steps.train(store, as_of=TRAINED)
    assert watch(store, day(2))["drifted"].to_list() == [True]
    (once,) = watch(store, day(1)).to_dicts()
    assert once["limit"] < once["psi"] < 2 * once["limit"]
    assert not once["drifted"]
    assert [event.payload["as_of"] for event, _ in events] == [day(2).isoformat()]


class ByName(Toy):
    """Watches the values of each name as a feature of its own."""

    def watched_inputs(self, tables, trained_as_of, as_of, options):
        rows = super().watched_inputs(tables, trained_as_of, as_of, options).collect()
        return rows.pivot("name", index="cycle", values="value").lazy()


def test_a_feature_that_a_shard_does_not_have_is_no_missing_value_there(trained, events):
    lines = watch(trained, day(1), scenario=ByName()).sort("feature")
    assert lines["feature"].to_list() == [f"n{name:02d}" for name in range(40)]
    assert lines["rows"].unique().to_list() == [1]
    assert lines["missing_before"].unique().to_list() == [0.0]


def test_of_very_many_features_the_most_common_are_watched(trained, events, monkeypatch):
    monkeypatch.setattr(drift, "FEATURES", 7)
    assert watch(trained, day(1), scenario=ByName()).height == 7


def test_an_as_of_is_told_once_and_the_next_ones_not_before_the_cooldown_is_over(trained, events):
    for number in (1, 1, 2, 3):
        watch(trained, day(number))
    assert len(events) == 1
    assert watch(trained, day(3))["drifted"].any()
    assert not watch(trained, day(3))["announced"].any()
    watch(trained, day(4), cooldown_days=3)
    assert [event.payload["as_of"] for event, _ in events] == [day(1).isoformat(), day(4).isoformat()]


def test_what_was_published_but_not_told_is_told_by_the_next_one_that_drifts(trained, events, monkeypatch):
    monkeypatch.setattr(drift.announce_drift, "fn", lambda *arguments: None)
    watch(trained, day(1))
    monkeypatch.undo()
    monkeypatch.setattr(
        drift, "emit", lambda store, scenario, event, occasion: events.append((event, occasion))
    )
    watch(trained, day(2))
    assert [event.payload["as_of"] for event, _ in events] == [day(2).isoformat()]


@pytest.mark.usefixtures("events")
def test_the_page_of_a_run_shows_what_has_drifted(trained):
    watch(trained, day(1))
    steps.score(trained)
    run = steps.resolve(trained)
    results = steps.outcomes(run)
    page = Path(write_page.fn(run, results, complete.fn(run, results))).read_text()
    assert "Different from the training: <strong>value</strong>" in page


def test_measured_twice_the_table_has_the_same_rows_in_the_same_version(trained, events):
    once, version = watch(trained, day(1)), trained.version("toy/drift")
    assert watch(trained, day(1)).equals(once)
    assert trained.version("toy/drift") == version


def test_a_cycle_that_the_bundle_was_trained_on_is_not_compared(trained):
    run = drift.resolve_watching.fn(TOY, trained, TRAINED, Rule())
    assert drift.seen_by_bundle(run)
    assert not drift.seen_by_bundle(drift.resolve_watching.fn(TOY, trained, day(1), Rule()))


def test_without_a_shift_nothing_is_told(store, events):
    steps.put(store, noise(60))
    steps.train(store, as_of=TRAINED)
    cycles = [watch(store, day(number)) for number in range(1, 21)]
    assert not any(lines["drifted"].any() for lines in cycles)
    assert events == []


def test_scores_are_compared_with_what_the_same_bundle_published_before(trained, events):
    for number in range(-14, 0):
        steps.score(trained, as_of=day(number), bundle=1)
    for number in (1, 2):
        steps.score(trained, as_of=day(number), bundle=1)
        lines = watch(trained, day(number)).filter(kind="score")
        assert lines["feature"].to_list() == ["published rung"]
        assert lines["cycles"].to_list() == [14]
        assert not lines["drifted"].any()


def test_beside_what_drifted_it_is_told_how_good_the_bundle_was_before_and_since(trained, events):
    assert drift.accuracy_since.fn(drift.resolve_watching.fn(TOY, trained, day(5), Rule())) == []
    for number in (-3, -2, 2, 3):
        steps.score(trained, as_of=day(number), bundle=1)
    judging = due.resolve_judging.fn(TOY, trained, None, None, 100)
    verdicts = [one for group in judging.groups for one in ground_truth.judge.fn(judging.run, group)]
    ground_truth.remember_judgements.fn(judging, verdicts)
    (accuracy,) = drift.accuracy_since.fn(drift.resolve_watching.fn(TOY, trained, day(5), Rule()))
    values = trained.scan("toy/values").collect()

    def error(*numbers: int) -> float:
        last, then = (
            pl.concat([values.filter(at=day(n + ahead)).sort("name") for n in numbers])["value"]
            for ahead in (0, 1)
        )
        return (2 * last - then).abs().sum() / then.sum()

    assert (accuracy["before"], accuracy["since"]) == (
        pytest.approx(error(-3, -2)),
        pytest.approx(error(2, 3)),
    )


def test_of_many_keys_those_of_the_first_shards_are_watched(trained, events):
    everything, some = watch(trained, day(1)), watch(trained, day(2), keys=10)
    assert everything["rows"][0] == 40
    assert 10 <= some["rows"][0] < 40


def test_without_a_bundle_it_is_said_how_to_get_one(store):
    steps.put(store, noise(3))
    with pytest.raises(bundles.BundleError, match="python -m flows toy train"):
        watch(store)
