import pickle
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.errors import ContractError
from tasks.registry.bundles import BundleError
from tasks.scoring import runs
from tasks.scoring.runs import (
    Run,
    RunError,
    begin,
    first_start,
    input_versions,
    read_context,
    resolve_training,
    with_context_notes,
)
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tasks.training.fit import prepare_shards
from tests import steps
from tests.toy import TOY, Toy, values

pytestmark = pytest.mark.usefixtures("without_run_logger")

DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(6)]


def a_run(**changes) -> Run:
    facts = {
        "scenario": TOY, "flow": "score", "store": Store("s"), "as_of": DAYS[2], "versions": {"values": 3, "extras": 0},
        "options": {"a": 1, "b": [0.05, 0.5]}, "output": "doubled", "bundle": 1,
    }  # fmt: skip
    return Run(**facts | changes)


# the identity of a run


@pytest.mark.parametrize(
    "change",
    [
        {"scenario": replace(TOY, name="sales")},
        {"flow": "rescore"},
        {"as_of": DAYS[3]},
        {"as_of": datetime(2024, 1, 3, tzinfo=UTC)},
        {"versions": {"values": 4, "extras": 0}},
        {"versions": {"values": 3}},
        {"options": {"a": 2, "b": [0.05, 0.5]}},
        {"options": {"a": 1, "b": [0.5, 0.05]}},
        {"options": {"a": 1}},
        {"bundle": 2},
        {"bundle": None},
    ],
)
def test_a_run_of_other_inputs_is_another_run(change):
    assert a_run(**change).id != a_run().id


@pytest.mark.parametrize(
    "change",
    [
        {"store": Store("elsewhere")},
        {"started": datetime(2030, 1, 1, tzinfo=UTC)},
        {"notes": ("noted",)},
        {"versions": {"extras": 0, "values": 3}},
        {"options": {"b": (0.05, 0.5), "a": 1}},
    ],
)
def test_a_run_of_the_same_inputs_is_the_same_run(change):
    assert a_run(**change).id == a_run().id


def test_a_run_of_other_code_is_another_run(monkeypatch):
    before = a_run().id
    monkeypatch.setattr(runs, "code_version", lambda: "other")
    assert a_run().id != before


def test_a_run_has_its_identity_in_every_process():
    run = a_run()
    before = pickle.loads(pickle.dumps(run))
    assert before.id == run.id == pickle.loads(pickle.dumps(run)).id


def test_an_identity_begins_with_what_a_person_looks_for_and_is_a_file_name():
    assert a_run().id.startswith("2024-01-03-score-")
    hourly = a_run(as_of=datetime(2018, 8, 29, 3, tzinfo=UTC))
    assert hourly.id.startswith("2018-08-29T0300Z-score-")
    assert set(hourly.id) <= set("0123456789abcdefghijklmnopqrstuvwxyz-TZ")


def test_the_same_moment_is_the_same_run_whatever_its_time_zone():
    moment = datetime(2018, 8, 29, 3, tzinfo=UTC)
    abroad = moment.astimezone(timezone(timedelta(hours=2)))
    assert a_run(as_of=abroad).id == a_run(as_of=moment).id
    assert a_run(as_of=abroad).as_of_text == "2018-08-29 03:00:00.000000"


def test_runs_a_second_apart_have_partitions_of_their_own():
    moment = datetime(2018, 8, 29, 3, 0, 1, 500, tzinfo=UTC)
    assert a_run(as_of=moment).as_of_text == "2018-08-29 03:00:01.000500"
    assert a_run(as_of=moment).id != a_run(as_of=moment.replace(microsecond=0)).id


# beginning


def test_a_store_without_data_says_what_to_do(store):
    with pytest.raises(StoreError, match=r"no table 'toy/values'.*python -m flows toy ingest"):
        input_versions(TOY, store)


def test_a_table_that_is_not_required_may_be_missing(store):
    steps.put(store)
    assert input_versions(TOY, store) == {"values": 0}


def test_what_a_run_begins_with_is_kept_when_it_is_started_again(store):
    steps.put(store)
    steps.train(store)
    run = steps.resolve(store)
    files = {name: store.get(name) for name in store.names(run.folder)}
    begin.fn(replace(run, started=run.started + timedelta(hours=1)))
    assert {name: store.get(name) for name in store.names(run.folder)} == files
    assert first_start(replace(run, started=datetime(2030, 1, 1, tzinfo=UTC))) == run.started


def test_the_context_is_that_of_the_runs_versions_and_day(store):
    steps.put(store)
    steps.train(store)
    run = steps.resolve(store)
    assert read_context(store, run.folder)["count"]["names"].item() == 12
    store.files.delete(run.path("context/count.parquet"))
    read_context.cache_clear()  # as in another process
    with pytest.raises(RunError, match=r"lacks its context 'count'.*Delete"):
        read_context(store, run.folder)


def test_a_worker_with_other_code_than_its_drivers_says_so(store, monkeypatch):
    steps.put(store)
    run = resolve_training.fn(TOY, store, None, {})
    begin.fn(run)
    monkeypatch.setattr(runs, "code_version", lambda: "another")
    with pytest.raises(RunError, match=r"no run has begun there\. Expected the same version of Almanac"):
        prepare_shards.fn(replace(run, notes=("as unpickled",)), [0])


# resolving


@pytest.fixture
def trained(store) -> Store:
    """A store with values of three days, and a bundle trained on the first two."""
    steps.put(store)
    steps.train(store, DAYS[1])
    return store


def test_a_run_is_as_of_the_last_day_unless_it_is_given(trained):
    assert steps.resolve(trained).as_of == DAYS[2]
    assert steps.resolve(trained, DAYS[1]).as_of == DAYS[1]


@pytest.mark.parametrize("day", [DAYS[0] - timedelta(days=1), DAYS[3]])
def test_a_day_outside_of_the_data_is_refused(trained, day):
    with pytest.raises(ContractError, match=f"--as-of {day}"):
        steps.resolve(trained, day)


def test_a_run_uses_the_options_of_its_bundle_and_then_its_own(trained):
    steps.train(trained, DAYS[0], loss=0.5, extra=1)
    assert dict(steps.resolve(trained, bundle=2).options) == {"loss": 0.5, "extra": 1}
    assert dict(steps.resolve(trained, bundle=2, extra=2).options) == {"loss": 0.5, "extra": 2}


def test_an_unknown_bundle_is_refused(trained):
    with pytest.raises(BundleError, match=r"no bundle 9 of toy\. Found: 1"):
        steps.resolve(trained, bundle=9)


def test_a_day_before_the_bundle_was_trained_needs_another_bundle_or_its_name(trained):
    with pytest.raises(BundleError, match="2024-01-01 or earlier"):
        steps.resolve(trained, DAYS[0])
    explicit = steps.resolve(trained, DAYS[0], bundle=1)
    assert any("use some of their own future" in note for note in explicit.notes)
    assert not steps.resolve(trained, DAYS[1]).notes


def test_a_run_has_the_notes_on_its_context(trained):
    class Noting(Toy):
        def context_notes(self, tables, context, as_of):
            return [f"{context['count']['names'][0]} names up to {as_of}"]

    run = with_context_notes(replace(steps.resolve(trained, DAYS[1]), scenario=Noting()))
    (note,) = run.notes
    assert note == f"{values()['name'].n_unique()} names up to {DAYS[1]}"


def newer_data(store) -> None:
    """A further day, a further name, and corrections of days that were scored before."""
    more = values(names=14, days=4).with_columns(pl.col("value") + 100)
    steps.put(store, more)


def test_a_day_that_was_scored_before_newer_data_came_has_the_same_rows_as_then(trained):
    first = steps.resolve(trained)
    steps.commit(first, steps.outcomes(first))
    rows = steps.published(trained)
    newer_data(trained)
    steps.train(trained, DAYS[2], loss=0.1)
    assert steps.score(trained).rows == 14
    again = steps.resolve(trained, DAYS[2])
    assert (again.id, again.bundle, dict(again.versions)) == (first.id, first.bundle, {"values": 0})
    assert any(first.id in note for note in again.notes)
    trained.files.delete(trained.names("toy/runs"))
    assert steps.score(trained, DAYS[2]).already
    assert_frame_equal(steps.published(trained).filter(as_of=DAYS[2]), rows)


def test_a_repetition_has_the_same_rows_even_where_they_are_gone(trained):
    steps.score(trained)
    rows = steps.published(trained)
    newer_data(trained)
    steps.score(trained)
    trained.files.delete(trained.names("toy/runs") + trained.names("toy/doubled"))
    steps.score(trained, DAYS[2])
    assert_frame_equal(steps.published(trained), rows)


def test_an_older_day_that_was_never_scored_uses_what_is_known_now_of_that_time(trained):
    newer_data(trained)
    run = steps.resolve(trained, DAYS[2])
    assert dict(run.versions) == {"values": trained.version("toy/values")}
    steps.commit(run, steps.outcomes(run))
    rows = steps.published(trained).sort("name")
    assert rows.height == 14
    assert rows["value"][3] == pytest.approx(2 * (103 + 0.2))


def test_the_newest_day_is_scored_anew_when_its_data_was_corrected(trained):
    first = steps.resolve(trained)
    steps.commit(first, steps.outcomes(first))
    steps.put(trained, values().with_columns(pl.col("value") + 1))
    again = steps.resolve(trained)
    assert again.id != first.id
    assert dict(again.versions) == {"values": trained.version("toy/values")} != dict(first.versions)


def test_a_repetition_with_another_bundle_is_another_run_of_the_same_tables(trained):
    first = steps.resolve(trained)
    steps.commit(first, steps.outcomes(first))
    newer_data(trained)
    steps.train(trained, DAYS[2], loss=0.1)
    other = steps.resolve(trained, DAYS[2], bundle=2)
    assert (other.bundle, dict(other.versions)) == (2, {"values": 0})
    assert other.id != first.id


def test_a_version_that_was_cleaned_away_is_named(trained):
    steps.score(trained)
    newer_data(trained)
    trained.files.delete([name for name in trained.names("toy/values") if name.endswith("00000.json")])
    with pytest.raises(StoreError, match=r"no version 0 any more|cannot be read"):
        steps.outcomes(steps.resolve(trained, DAYS[2]))


def test_a_shard_sees_only_its_own_rows_and_small_tables_whole(trained):
    steps.read(trained, "extras", str(trained.uri) + "/../values.parquet", TOY)
    run = steps.resolve(trained)
    for shard in range(4):
        tables = run.tables(shard)
        assert tables["values"].select(pl.col("shard").unique()).collect()["shard"].to_list() == [shard]
        assert tables["extras"].collect().height == 36
    assert run.tables()["values"].collect().height == 36


class Later(Toy):
    """A faulty scenario that looks past the day."""

    def resolve_as_of(self, tables, as_of, now):
        return DAYS[0] if as_of is None else super().resolve_as_of(tables, as_of, now)


def test_the_newest_day_is_the_scenarios_not_the_tables(trained):
    assert steps.resolve(trained, scenario=Later(), bundle=1).as_of == DAYS[0]
