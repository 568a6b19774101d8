from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from polars.testing import assert_frame_equal

from models.scenario import CompletesRows
from tasks.registry import ledger
from tasks.scoring.publishing import complete, publish, replacement_notes
from tasks.scoring.runs import Run
from tasks.scoring.shards import plan
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tests import steps
from tests.toy import HOURLY, TOY, Toy, hourly_values, values

pytestmark = pytest.mark.usefixtures("without_run_logger")

TABLE = "toy/doubled"
FIRST, LAST = date(2024, 1, 1), date(2024, 1, 3)


@pytest.fixture
def trained(store) -> Store:
    """A store with values of three days, and a bundle trained on the first of them."""
    steps.put(store)
    steps.train(store, FIRST)
    return store


def commit(run, outcomes, scenario=TOY):
    return publish.fn(run, complete.fn(run, outcomes))


def without_run(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("run_id", "bundle")


# seen whole or not at all


def test_readers_see_nothing_before_the_commit_and_everything_after_it(trained):
    run = steps.resolve(trained)
    shards = list(plan.fn(run))
    for shard in shards:
        steps.outcome(run, shard)
        assert trained.version(TABLE) is None
    outcomes = steps.outcomes(run)
    assert len(list(trained.names(TABLE))) == len(shards)
    commit(run, outcomes)
    assert steps.published(trained).height == 12


def test_a_reader_of_the_version_before_sees_the_rows_before(trained):
    before = steps.score(trained)
    steps.train(trained, FIRST, loss=0.5)
    run = steps.resolve(trained, bundle=2)
    outcomes = steps.outcomes(run)
    assert steps.published(trained)["bundle"].unique().to_list() == [1]
    after = commit(run, outcomes)
    assert steps.published(trained)["bundle"].unique().to_list() == [2]
    assert steps.published(trained).height == 12
    assert steps.published(trained, version=before.version)["bundle"].unique().to_list() == [1]
    assert after.version > before.version


def test_the_rows_are_those_of_the_scenario_with_the_run_and_its_bundle(trained):
    run = steps.resolve(trained)
    steps.commit(run, steps.outcomes(run))
    rows = steps.published(trained).sort("name")
    assert rows["value"].to_list() == pytest.approx([2 * (n + 0.2) for n in range(12)])
    assert rows.select(pl.col("as_of", "bundle", "run_id").unique()).row(0) == (LAST, 1, run.id)
    assert rows.schema["as_of"] == pl.Date


def test_the_commit_says_which_run_bundle_and_inputs_it_is_of(trained):
    run = steps.resolve(trained)
    steps.commit(run, steps.outcomes(run))
    (last, *_) = DeltaTable(trained.uri_of(TABLE)).history(1)
    assert (last["run_id"], last["bundle"], last["inputs"]) == (run.id, "1", "values=0")


def test_only_the_partition_of_the_run_is_replaced(trained):
    steps.score(trained, FIRST)
    steps.score(trained, LAST)
    first = steps.published(trained).filter(as_of=FIRST)
    steps.train(trained, FIRST, loss=0.5)
    steps.score(trained, LAST, bundle=2)
    assert_frame_equal(steps.published(trained).filter(as_of=FIRST), first)
    assert steps.published(trained).group_by("as_of").len().sort("as_of").rows() == [(FIRST, 12), (LAST, 12)]


# again


def test_the_same_run_again_changes_nothing(trained):
    first = steps.score(trained)
    rows, files = steps.published(trained), trained.names(TABLE)
    again = steps.score(trained)
    assert (again.version, again.rows, again.already) == (first.version, first.rows, True)
    assert trained.version(TABLE) == first.version
    assert trained.names(TABLE) == files
    assert_frame_equal(steps.published(trained), rows)


def test_the_same_run_again_from_nothing_but_its_inputs_gives_the_same_files(trained):
    first = steps.score(trained)
    files = trained.names(TABLE)
    for name in trained.names("toy/runs"):
        trained.files.delete(name)
    again = steps.score(trained)
    assert (again.version, again.already) == (first.version, True)
    assert trained.names(TABLE) == files


def test_a_run_that_another_has_replaced_can_be_published_again(trained):
    steps.score(trained)
    rows = steps.published(trained)
    steps.train(trained, FIRST, loss=0.5)
    steps.score(trained, bundle=2)
    assert not steps.score(trained, bundle=1).already
    assert_frame_equal(steps.published(trained), rows)


def test_a_run_that_replaces_rows_says_of_which_run_how_many_differ_and_why(trained):
    def notes(run: Run) -> list[str]:
        other = ledger.other_run(trained, "toy", "score", run.as_of, run.id)
        return replacement_notes.fn(run, steps.commit(run, steps.outcomes(run)), other)

    first = steps.resolve(trained)
    assert notes(first) == []
    assert notes(steps.resolve(trained)) == []
    one_value = pl.when(pl.col("name") == "n03").then(7.0).otherwise("value")
    steps.put(trained, values().with_columns(value=one_value))
    second = steps.resolve(trained)
    assert notes(second) == [
        f"Replaces the 12 rows of run {first.id}: 1 of 12 rows have other values. "
        "This run used version 1 of values instead of 0."
    ]
    steps.train(trained, FIRST, loss=0.5)
    (of_bundle,) = notes(steps.resolve(trained, bundle=2))
    assert f"run {second.id}: 0 of 12" in of_bundle
    assert of_bundle.endswith("This run used bundle 2 instead of 1.")
    (of_options,) = notes(steps.resolve(trained, bundle=2, columns=["wide"]))
    assert of_options.endswith(
        "12 of 12 rows have other values. This run used the same tables and bundle, but other options or code."
    )


def test_a_run_without_rows_leaves_an_empty_partition_and_repeats_quietly(store):
    steps.put(store, values().with_columns(value=pl.lit(None, pl.Float64)))
    steps.train(store)
    first = steps.score(store)
    again = steps.score(store)
    assert first.rows == again.rows == 0
    assert again.version == first.version
    assert steps.published(store).is_empty()
    assert ledger.rows(store).collect().select("requested", "skipped").row(0) == (12, 12)


def test_a_run_without_rows_takes_back_those_of_an_earlier_run(store):
    steps.put(store)
    steps.train(store)
    steps.score(store)
    steps.put(store, values().with_columns(value=pl.lit(None, pl.Float64)))
    steps.score(store)
    assert steps.published(store).is_empty()


# files that readers see


def test_a_file_that_readers_see_is_never_written_again_with_other_content(trained):
    run = steps.resolve(trained)
    steps.commit(run, steps.outcomes(run))
    before = {name: trained.get(name) for name in trained.names(TABLE) if name.endswith(".parquet")}
    result = steps.outcome(run, 0)
    assert f"{TABLE}/{result.path}" in before
    rows = trained.get_frame(f"{TABLE}/{result.path}")
    path, _ = trained.put_data_file(
        f"{TABLE}/{run.partition}/{run.id}-0000", rows.with_columns(value=pl.lit(0.0))
    )
    assert path not in before
    assert {name: trained.get(name) for name in before} == before


# columns


def test_columns_that_a_later_bundle_adds_are_null_in_earlier_rows(trained):
    steps.score(trained, FIRST)
    steps.score(trained, LAST, columns=["q10", "q90"])
    rows = steps.published(trained)
    assert rows.filter(as_of=LAST)["q90"].to_list() == [1.0] * 12
    assert rows.filter(as_of=FIRST)["q90"].null_count() == 12
    steps.score(trained, FIRST, columns=["q50"])
    rows = steps.published(trained)
    assert rows.filter(as_of=FIRST).select("q10", "q50").unique().rows() == [(None, 1.0)]
    assert rows.height == 24


# moments


@pytest.mark.parametrize("blob", [False, True])
def test_a_moment_partitions_as_well_as_a_day(request, store, tmp_path, blob):
    if blob:
        store = Store(request.getfixturevalue("azurite").container() + "/store")
    hours = [datetime(2018, 8, 29, hour, tzinfo=UTC) for hour in (1, 3)]
    hourly_values().write_parquet(tmp_path / "values.parquet")
    steps.read(store, "values", str(tmp_path / "values.parquet"), HOURLY)
    steps.train(store, hours[0], scenario=HOURLY)
    for hour in hours:
        assert not steps.score(store, hour, scenario=HOURLY).already
    version = store.version(TABLE)
    assert steps.score(store, hours[1], scenario=HOURLY).already
    assert store.version(TABLE) == version
    rows = steps.published(store)
    assert rows.schema["as_of"] == pl.Datetime("us", "UTC")
    assert rows.group_by("as_of").len().sort("as_of").rows() == [(hour, 6) for hour in hours]
    assert store.scan(TABLE).filter(pl.col("as_of") == hours[1]).collect().height == 6
    assert store.scan(TABLE).filter(pl.col("as_of") > hours[1] - timedelta(minutes=1)).collect().height == 6
    assert ledger.last(store, "toy", "score", hours[0])["requested"] == 6


def test_a_moment_can_be_read_by_other_readers_of_delta_tables(store):
    steps.put(store, hourly_values(), HOURLY)
    steps.train(store, scenario=HOURLY)
    steps.score(store, scenario=HOURLY)
    arrow = DeltaTable(store.uri_of(TABLE)).to_pyarrow_table(
        partitions=[("as_of", "=", "2018-08-29 03:00:00.000000")]
    )
    assert arrow.num_rows == 6


# all shards together, further tables, events


class Ranked(Toy, CompletesRows):
    """Rows get their rank among those of all shards."""

    def published_table(self, options):
        base = super().published_table(options)
        return replace(base, schema={**base.schema, "rank": pl.Int64})

    def score(self, *arguments):
        scores = super().score(*arguments)
        return replace(scores, rows=scores.rows.with_columns(rank=pl.lit(None, pl.Int64)))

    def complete(self, rows):
        return rows.with_columns(rank=pl.col("value").rank("ordinal").cast(pl.Int64)).sort("rank")


def test_rows_that_need_all_shards_are_completed_before_they_are_published(trained):
    ranked = Ranked()
    first = steps.score(trained, scenario=ranked)
    assert steps.published(trained).sort("value")["rank"].to_list() == list(range(1, 13))
    again = steps.score(trained, scenario=ranked)
    assert (again.version, again.already) == (first.version, True)


# races


def test_publishers_of_the_same_run_at_the_same_time_leave_one_complete_set(trained, together):
    publications = together(_score, [(trained, None)] * 4)
    assert steps.published(trained).height == 12
    assert steps.published(trained)["run_id"].n_unique() == 1
    assert sum(not one.already for one in publications) == 1
    assert ledger.rows(trained).collect().height == 1


def test_publishers_of_different_runs_at_the_same_time_leave_one_complete_set(trained, together):
    steps.train(trained, FIRST, loss=0.5)
    steps.train(trained, FIRST, loss=0.25)
    together(_score, [(trained, bundle) for bundle in (1, 2, 3, 1)])
    rows = steps.published(trained)
    assert rows["name"].to_list() == [f"n{n:02d}" for n in range(12)]
    assert rows["run_id"].n_unique() == 1
    assert ledger.rows(trained).collect()["bundle"].sort().to_list() == [1, 2, 3]


def test_publishers_of_different_days_at_the_same_time_both_stay(trained, together):
    days = [FIRST + timedelta(days=n) for n in range(3)]
    together(_score_day, [(trained, day) for day in days])
    assert steps.published(trained).group_by("as_of").len().sort("as_of").rows() == [
        (day, 12) for day in days
    ]


def test_publishers_that_add_the_same_columns_at_the_same_time_leave_one_complete_set(trained, together):
    steps.score(trained)
    together(_score_wide, [(trained, ["a"]), (trained, ["a", "b"]), (trained, ["c"])])
    rows = steps.published(trained)
    assert rows.height == 12
    assert {"a", "b", "c"} <= set(rows.columns)


def _score(store, bundle):
    return _quietly(store, bundle=bundle)


def _score_day(store, day):
    return _quietly(store, day)


def _score_wide(store, columns):
    return _quietly(store, columns=columns)


def _quietly(store, *arguments, **options):
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        return steps.score(store, *arguments, **options)


def test_a_publisher_that_always_loses_gives_up_and_changes_nothing(trained, monkeypatch):
    steps.score(trained)
    rows, version = steps.published(trained), trained.version(TABLE)
    tries = []

    def lose(*arguments, **keywords):
        tries.append(1)
        raise CommitFailedError("another run was first")

    steps.train(trained, FIRST, loss=0.5)
    run = steps.resolve(trained, bundle=2)
    outcomes = steps.outcomes(run)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose)
    with pytest.raises(StoreError, match=r"(?s)other writers came first.*another run was first"):
        commit(run, outcomes)
    assert 1 < len(tries) < 50
    assert trained.version(TABLE) == version
    assert_frame_equal(steps.published(trained), rows)
