from dataclasses import replace

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.scenario import Scores
from tasks.registry import bundles
from tasks.scoring.runs import RunError
from tasks.scoring.score import score_keys
from tasks.scoring.shards import (
    find_gaps,
    keys_path,
    plan,
    read_frame,
    reasons,
    reconcile,
    requested_path,
    result_path,
)
from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tests import steps
from tests.toy import Toy, values

pytestmark = pytest.mark.usefixtures("without_run_logger")


@pytest.fixture
def trained(store) -> Store:
    """A store with twelve names in four shards: `n10` has no last value, `n11` has a single row."""
    frame = values().filter((pl.col("name") != "n11") | (pl.col("at").dt.day() == 3))
    lacking = (pl.col("name") == "n10") & (pl.col("at").dt.day() == 3)
    steps.put(store, frame.with_columns(value=pl.when(~lacking).then("value")))
    steps.train(store)
    return store


def told(run) -> pl.DataFrame:
    """The status of each key of the run."""
    frames = [
        read_frame(run, name) for name in run.store.names(run.path("shards")) if name.endswith(".parquet")
    ]
    return pl.concat(frames).sort("name")


def rows_of(run, outcomes) -> pl.DataFrame:
    frames = [run.store.get_frame(f"{run.table}/{one.path}") for one in outcomes if one.rows]
    return pl.concat(frames).sort("name")


# planning


def test_the_plan_has_every_key_once_in_the_shard_that_its_rows_are_in(trained):
    run = steps.resolve(trained)
    counts = plan.fn(run)
    requested = read_frame(run, requested_path(run))
    keys = trained.scan("toy/values").select("name", "shard").unique().collect()
    assert_frame_equal(requested.sort("name"), keys.sort("name"))
    assert sum(counts.values()) == requested.height == 12
    assert list(counts) == sorted(counts)


def test_a_run_without_a_key_cannot_begin(store):
    steps.put(store)

    class Nobody(Toy):
        def requested_keys(self, tables, as_of, options):
            return super().requested_keys(tables, as_of, options).filter(False)

    steps.train(store)
    run = steps.resolve(store)
    with pytest.raises(RunError, match=r"no keys to score as of 2024-01-03.*--as-of"):
        plan.fn(replace(run, scenario=Nobody()))


def test_what_the_inputs_lack_is_kept_with_the_run(store):
    steps.put(store, values().filter((pl.col("name") != "n05") | (pl.col("at").dt.day() < 3)))
    steps.train(store)
    run = steps.resolve(store)
    plan.fn(run)
    find_gaps.fn(run)
    assert run.store.get_frame(run.path("gaps.parquet"))["name"].to_list() == ["n05"]


# scoring a shard


def test_every_key_of_every_shard_has_one_outcome_and_the_counts_add_up(trained):
    run = steps.resolve(trained)
    outcomes = steps.outcomes(run)
    counts = reconcile.fn(run, outcomes)
    assert counts == {"requested": 12, "scored": 10, "fallback": 1, "skipped": 1, "failed": 0}
    assert sum(one.rows for one in outcomes) == 11
    assert all(one.requested == one.scored + one.fallback + one.skipped + one.failed for one in outcomes)
    assert reasons(outcomes) == {"fallback: single": 1, "skipped: the last value is missing": 1}
    assert dict(told(run).select("name", "status").iter_rows())["n11"] == "fallback"


def test_a_shard_is_scored_once(trained, monkeypatch):
    run = steps.resolve(trained)
    first = steps.outcomes(run)
    monkeypatch.setattr(Toy, "score", _unexpected)
    again = steps.outcomes(run)
    assert again == [replace(one, reused=True) for one in first]


def _unexpected(*arguments):
    raise AssertionError("it was scored again")


@pytest.mark.parametrize("lost", ["rows", "keys", "outcome", "half of the rows"])
def test_a_shard_of_which_a_file_is_missing_or_cut_is_scored_again(trained, lost):
    run = steps.resolve(trained)
    first = steps.outcomes(run)
    rows = f"{run.table}/{first[0].path}"
    content = trained.get(rows)
    if lost == "half of the rows":
        trained.put(rows, content[: len(content) // 2])
    else:
        trained.files.delete({"rows": rows, "keys": keys_path(run, 0), "outcome": result_path(run, 0)}[lost])
    again = steps.outcomes(run)
    assert [one.reused for one in again] == [False, True, True, True]
    assert trained.get(rows) == content


def test_keys_that_raise_fail_alone_and_the_others_are_as_without_them(trained):
    clean = steps.resolve(trained)
    expected = rows_of(clean, steps.outcomes(clean))
    run = steps.resolve(trained, raises=["n03", "n07"])
    outcomes = steps.outcomes(run)
    counts = reconcile.fn(run, outcomes)
    assert counts == {"requested": 12, "scored": 8, "fallback": 1, "skipped": 1, "failed": 2}
    failed = told(run).filter(status="failed")
    assert failed["name"].to_list() == ["n03", "n07"]
    assert failed["reason"].to_list() == [f"ValueError: {name} cannot be doubled" for name in ("n03", "n07")]
    others = expected.filter(~pl.col("name").is_in(["n03", "n07"]))
    assert rows_of(run, outcomes).drop("run_id").equals(others.drop("run_id"))


def test_a_key_on_which_polars_panics_fails_alone(trained, monkeypatch):
    double = Toy.score

    def score(self, model, tables, context, keys, as_of, options):
        if "n03" in keys["name"]:
            raise pl.exceptions.PanicException("index out of bounds")
        return double(self, model, tables, context, keys, as_of, options)

    monkeypatch.setattr(Toy, "score", score)
    run = steps.resolve(trained)
    assert reconcile.fn(run, steps.outcomes(run))["failed"] == 1
    assert told(run).filter(status="failed")["reason"].to_list() == ["PanicException: index out of bounds"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from([f"n{n:02d}" for n in range(12)])))
def test_whichever_keys_raise_exactly_those_fail(trained, raising):
    run = steps.resolve(trained)
    plan.fn(run)
    keys = read_frame(run, requested_path(run)).filter(shard=0).drop("shard")
    scores = score_keys(the_same_run(run, raises=sorted(raising)), 0, keys)
    assert set(scores.keys.filter(status="failed")["name"]) == raising & set(keys["name"])
    assert sorted(scores.keys["name"]) == sorted(keys["name"])
    assert not set(scores.rows["name"]) & raising


def the_same_run(run, **options):
    """`run`, made to behave as if it had these options."""
    other = replace(run, options={**run.options, **options})
    other.__dict__["id"] = run.id
    return other


def test_all_keys_of_a_shard_can_fail(trained):
    run = steps.resolve(trained, raises=[f"n{n:02d}" for n in range(12)])
    outcomes = steps.outcomes(run)
    assert reconcile.fn(run, outcomes)["failed"] == 12
    assert {one.path for one in outcomes} == {""}


def test_a_shard_with_failed_keys_is_scored_again_by_the_next_start(trained):
    run = steps.resolve(trained)
    first = steps.outcomes(the_same_run(run, raises=["n03"]))
    assert [one.failed for one in first].count(1) == 1
    files = {name: trained.get(name) for name in trained.names(run.table)}
    again = steps.outcomes(run)
    assert [one.reused for one in again] == [one.failed == 0 for one in first]
    assert reconcile.fn(run, again) == {
        "requested": 12, "scored": 10, "fallback": 1, "skipped": 1, "failed": 0
    }  # fmt: skip
    assert {name: trained.get(name) for name in files} == files


@pytest.mark.parametrize("error", [OSError("503 Server Busy"), MemoryError(), StoreError("timed out")])
def test_an_error_of_storage_or_memory_is_the_shards_and_no_key_fails(trained, monkeypatch, error):
    run = steps.resolve(trained)
    plan.fn(run)
    keys = read_frame(run, requested_path(run)).filter(shard=0).drop("shard")

    def score(*arguments):
        raise error

    monkeypatch.setattr(Toy, "score", score)
    with pytest.raises(type(error)):
        score_keys(run, 0, keys)


def test_inputs_that_cannot_be_read_are_the_shards_error_whatever_scoring_makes_of_it(trained, monkeypatch):
    run = steps.resolve(trained)
    plan.fn(run)
    keys = read_frame(run, requested_path(run)).filter(shard=0).drop("shard")

    def unreadable(self, scenario, shard=None):
        return {"values": pl.scan_parquet("/nowhere/*.parquet")}

    def score(*arguments):
        raise ValueError("no rows")

    monkeypatch.setattr(type(run), "tables", unreadable)
    monkeypatch.setattr(Toy, "score", score)
    with pytest.raises((OSError, pl.exceptions.ComputeError)):
        score_keys(run, 0, keys)


def test_a_bundle_is_read_once_per_process(trained, monkeypatch):
    bundles.model.cache_clear()
    loads = []
    monkeypatch.setattr(Toy, "load", lambda self, files: loads.append(1) or 2.0)
    steps.outcomes(steps.resolve(trained))
    assert len(loads) == 1


# reconciling


@pytest.fixture
def scored(trained):
    run = steps.resolve(trained)
    return run, steps.outcomes(run)


def test_a_key_that_is_in_no_outcome_is_named(scored):
    run, outcomes = scored
    keys = read_frame(run, keys_path(run, 0))
    run.store.put_frame(keys_path(run, 0), keys[1:])
    with pytest.raises(RunError, match=rf"1 missing, e\.g\. {keys['name'][0]}.*Nothing was published"):
        reconcile.fn(run, outcomes)


def test_a_whole_shard_that_is_missing_is_named(scored):
    run, outcomes = scored
    with pytest.raises(RunError, match=rf"{outcomes[2].requested} missing, e\.g\. n"):
        reconcile.fn(run, [one for one in outcomes if one.shard != 2])


def test_a_key_that_is_in_two_outcomes_is_named(scored):
    run, outcomes = scored
    twice = read_frame(run, keys_path(run, 1)).head(1)
    run.store.put_frame(keys_path(run, 0), read_frame(run, keys_path(run, 0)).vstack(twice))
    with pytest.raises(RunError, match=rf"1 counted twice, e\.g\. {twice['name'][0]}"):
        reconcile.fn(run, outcomes)


def test_a_key_that_nobody_asked_for_is_named(scored):
    run, outcomes = scored
    keys = read_frame(run, keys_path(run, 0))
    stranger = keys.head(1).with_columns(name=pl.lit("stranger"))
    run.store.put_frame(keys_path(run, 0), keys.vstack(stranger))
    with pytest.raises(RunError, match=r"1 not requested, e\.g\. stranger"):
        reconcile.fn(run, outcomes)


def test_counts_that_do_not_match_the_keys_are_named(scored):
    run, outcomes = scored
    outcomes[0] = replace(outcomes[0], scored=outcomes[0].scored - 1, failed=outcomes[0].failed + 1)
    with pytest.raises(RunError, match="shard results count"):
        reconcile.fn(run, outcomes)


def test_at_most_five_keys_are_named_and_all_are_counted(scored):
    run, outcomes = scored
    with pytest.raises(RunError) as caught:
        reconcile.fn(run, outcomes[:1])
    assert f"{12 - outcomes[0].requested} missing" in str(caught.value)
    assert str(caught.value).count(", n") == 4


def test_a_scenario_that_forgets_a_key_is_found_out(trained):
    class Forgetful(Toy):
        def score(self, *arguments):
            scores = super().score(*arguments)
            return Scores(scores.rows, scores.keys.filter(pl.col("name") != "n04"))

    run = steps.resolve(trained, scenario=Forgetful())
    with pytest.raises(RunError, match=r"1 missing, e\.g\. n04"):
        reconcile.fn(run, steps.outcomes(run))


@pytest.mark.parametrize("lost", ["requested.parquet", "shards/0000.parquet"])
def test_a_file_of_the_run_that_is_missing_is_named(scored, lost):
    run, outcomes = scored
    run.store.files.delete(run.path(lost))
    with pytest.raises(RunError, match=rf"{lost} is missing.*Delete"):
        reconcile.fn(run, outcomes)
