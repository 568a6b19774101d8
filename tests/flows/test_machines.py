"""The machines scenario on the command line, on a small simulated fleet."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.machines import evaluation
from models.machines.options import Options
from tasks.registry import bundles
from tasks.storage.store import Store
from tests.fleet import CUT, END, after_cut, fleet, sources, until_cut

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return fleet()


@pytest.fixture(scope="module")
def machines(command):
    """`machines("score", ...)`: the result of a command that must succeed."""

    def run(*words):
        output = command("machines", *words, "--json")
        assert output.status == 0, output.err
        return output.json

    return run


@pytest.fixture(scope="module")
def trained(machines_store, tables, machines, tmp_path_factory) -> Path:
    """A store with a bundle trained at `CUT`, and the tables up to the end."""
    folder = tmp_path_factory.mktemp("machines")
    store = Path(shutil.copytree(machines_store, folder / "store"))
    machines("ingest", *sources(folder / "late", after_cut(tables)), "--store", store)
    return store


@pytest.fixture
def own(trained, tmp_path) -> Path:
    """A copy of the trained store that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "store"))


def test_ingest_tells_the_tables_and_the_time_range_that_are_new_and_nothing_the_second_time(
    tables, machines, tmp_path
):
    where = ["--shards", "2", "--store", tmp_path / "store"]
    first = machines("ingest", *sources(tmp_path / "early", until_cut(tables)), *where)["announced"]
    begin = tables["telemetry"]["time"].min()
    assert (first["from"], first["to"]) == (begin.isoformat(), CUT.isoformat())
    assert first["tables"]["telemetry"]["changed"] == until_cut(tables)["telemetry"].height
    assert first["versions"] == dict.fromkeys(tables, 0)

    again = machines("ingest", *sources(tmp_path / "early", until_cut(tables)), *where)
    assert again["announced"] is None
    assert [t["changed"] for t in again["tables"]] == [0] * 5

    late = sources(tmp_path / "late", after_cut(tables))
    second = machines("ingest", *late, *where)["announced"]
    assert second["from"] == (CUT + timedelta(hours=4)).isoformat()
    assert second["to"] == END.isoformat()
    assert "machines" not in second["tables"]
    assert second["versions"] == {"telemetry": 1, "errors": 1, "maintenance": 1, "failures": 1, "machines": 0}


def test_what_was_committed_but_not_told_is_told_by_the_next_ingest(own, tables, machines, tmp_path):
    announced = own / "machines" / "announced.json"
    versions = json.loads(announced.read_text())
    announced.write_text(json.dumps({**versions, "telemetry": 0, "failures": 0}))
    news = machines("ingest", *sources(tmp_path / "late", after_cut(tables)), "--store", own)["announced"]
    assert set(news["tables"]) == {"telemetry", "failures"}
    assert (news["from"], news["to"]) == ((CUT + timedelta(hours=4)).isoformat(), END.isoformat())


def test_the_commit_of_a_correction_tells_its_time(own, tables, machines, tmp_path):
    late = tables["telemetry"].filter(pl.col("time") == CUT + timedelta(hours=8))
    corrected = {**after_cut(tables), "telemetry": late.with_columns(pl.col("volt") + 1)}
    news = machines("ingest", *sources(tmp_path / "late", corrected), "--store", own)["announced"]
    assert set(news["tables"]) == {"telemetry"}
    assert news["tables"]["telemetry"]["changed"] == 10
    assert news["from"] == news["to"] == (CUT + timedelta(hours=8)).isoformat()


def test_a_run_publishes_every_component_of_every_machine_ranked_over_all_shards(trained, machines):
    summary = machines("score", "--store", trained)
    assert summary["requested"] == 20 == sum(summary[s] for s in ("scored", "fallback", "skipped", "failed"))
    assert datetime.fromisoformat(summary["as_of"]) == END
    rows = Store(str(trained)).scan("machines/risks").filter(pl.col("as_of") == END).collect()
    assert set(rows["horizon_hours"]) == {24, 72}
    assert set(rows["time"]) == {END}
    for (_,), of in rows.group_by("horizon_hours"):
        ranking = of.filter(pl.col("rank").is_not_null()).sort("rank")
        assert ranking["rank"].to_list() == list(range(1, ranking.height + 1))
        assert ranking["probability"].is_sorted(descending=True)
    assert rows["shard" if "shard" in rows.columns else "run_id"].n_unique() == 1
    assert Path(summary["page"]).exists()


def test_a_range_has_a_row_every_twelve_hours_each_by_what_was_known_then(own, machines):
    one = machines("score", "--as-of", (END - timedelta(hours=24)).isoformat(), "--store", own)
    summary = machines("score", "--from", CUT.isoformat(), "--to", END.isoformat(), "--store", own)
    store = Store(str(own))
    rows = store.scan("machines/risks").filter(pl.col("as_of") == END).collect()
    assert summary["rows"] == rows.height
    assert rows["time"].unique().sort().to_list() == [CUT + timedelta(hours=12 * n) for n in range(13)]
    earlier = store.scan("machines/risks").filter(run_id=one["run_id"]).collect()
    both = ["machine_id", "component", "time", "horizon_hours", "probability", "rung", "rank"]
    place = both[:4]
    same = rows.filter(pl.col("time") == END - timedelta(hours=24)).select(both).sort(place)
    assert_frame_equal(earlier.select(both).sort(place), same)


def test_a_range_and_a_time_together_are_refused(trained, command):
    output = command("machines", "score", "--as-of", "2024-03-20", "--from", "2024-03-18", "--store", trained)
    assert output.status == 1
    assert "Expected one or the other" in output.err


def test_a_range_that_begins_after_the_data_is_refused(trained, command):
    output = command("machines", "score", "--from", "2024-05-01", "--store", trained)
    assert output.status == 1
    assert "Expected --from before" in output.err


def test_a_day_given_as_the_end_is_that_whole_day(trained, machines):
    summary = machines("score", "--to", "2024-03-25", "--dry-run", "--store", trained)
    assert summary["as_of"] == "2024-03-26T00:00:00+00:00"
    summary = machines("score", "--to", "2024-03-25T00:00", "--dry-run", "--store", trained)
    assert summary["as_of"] == "2024-03-25T00:00:00+00:00"


def test_training_takes_the_range_the_horizons_and_the_estimator(own, machines):
    words = ["--from", "2024-01-20", "--to", "2024-03-20", "--horizon", "2d", "--estimator", "decision_tree"]
    summary = machines("train", *words, "--every", "1d", "--windows", "24h", "--store", own)
    manifest = bundles.manifest(Store(str(own)), "machines", summary["bundle"])
    assert manifest["as_of"] == "2024-03-21T00:00:00+00:00"
    assert manifest["options"]["horizons_hours"] == [48]
    assert manifest["options"]["train_from"] == "2024-01-20T00:00:00+00:00"
    assert not any(name.endswith("_12h") for name in manifest["features"])
    backtest = Store(str(own)).scan("machines/backtests").filter(bundle=summary["bundle"]).collect()
    assert backtest["time"].min() >= datetime(2024, 1, 20, tzinfo=UTC)
    assert set(backtest["horizon_hours"]) == {48}


@pytest.mark.parametrize("horizon", ["7", "0d", "1 month", "d"])
def test_a_horizon_that_is_no_duration_is_refused(trained, command, horizon):
    output = command("machines", "train", "--horizon", horizon, "--store", trained)
    assert output.status == 1
    assert "24h, 7d or 1w" in output.err


def test_a_bundle_is_judged_by_what_came_after_it_with_all_that_is_known_now(own, machines):
    store = Store(str(own))
    summary = machines("evaluate", "--bundle", "1", "--store", own)
    assert (summary["from"], summary["to"], summary["bundle"]) == (CUT.isoformat(), END.isoformat(), 1)
    rows = store.scan("machines/bundle_evaluations").collect()
    assert rows.height == summary["rows"] == 10 * 2 * 2 * 13
    pending = pl.col("time") + pl.duration(hours="horizon_hours") > END
    assert rows.filter(pending)["failed"].is_null().all()
    assert rows.filter(~pending)["failed"].is_not_null().all()
    failures = store.scan("machines/failures").filter(pl.col("time").is_between(CUT, END, "right")).collect()
    failures_of_rows = evaluation.failures_of(rows).select("machine_id", "component", "time")
    assert failures_of_rows.join(failures, on=failures_of_rows.columns, how="anti").is_empty()

    again = machines("evaluate", "--bundle", "1", "--store", own)
    assert again["version"] == summary["version"]
    assert_frame_equal(store.scan("machines/bundle_evaluations").collect(), rows, check_row_order=False)
    briers = {line["metric"]: line["24h"] for line in again["metrics"]["horizon"]}
    recomputed = evaluation.metrics(rows, Options.of({}))
    brier = recomputed.filter(slice="horizon", value_of_slice="24h", metric="brier")["value"].item()
    assert briers["brier"] == pytest.approx(brier, abs=1e-4)
    assert store.version("machines/evaluations") is None


def test_a_bundle_judged_over_a_shorter_range_knows_what_came_after_it(own, machines):
    whole = machines("evaluate", "--bundle", "1", "--store", own)
    part = machines("evaluate", "--bundle", "1", "--to", "2024-03-25", "--store", own)
    assert part["observed_until"] == whole["observed_until"]
    rows = Store(str(own)).scan("machines/bundle_evaluations").collect()
    assert rows["time"].max() <= datetime(2024, 3, 26, tzinfo=UTC)
    assert rows.filter(horizon_hours=24)["failed"].is_not_null().all()


def test_a_bundle_judged_by_rows_that_it_has_learnt_from_says_so(own, machines):
    summary = machines("evaluate", "--from", "2024-03-01", "--bundle", "1", "--store", own)
    assert any("has seen the ground truth" in note for note in summary["notes"])


def test_what_was_published_is_judged_like_the_bundle_that_published_it(own, machines):
    """A range that was scored, and the bundle's evaluation of it: the same rows and verdicts."""
    store = Store(str(own))
    machines("score", "--from", CUT.isoformat(), "--to", END.isoformat(), "--store", own)
    machines("evaluate", "--bundle", "1", "--store", own)
    summary = machines("evaluate", "--store", own)
    place = ["machine_id", "component", "horizon_hours", "time"]
    columns = [*place, "probability", "above_threshold", "failed", "next_failure_hours", "under_work"]
    rows = store.scan("machines/evaluations").select(*columns, "pending").collect().sort(place)
    of_bundle = store.scan("machines/bundle_evaluations").select(columns).collect().sort(place)
    assert_frame_equal(rows.select(columns), of_bundle)
    assert summary["pending"] == rows["pending"].sum() == of_bundle["failed"].null_count()
    measures = evaluation.metrics(rows, Options.of(bundles.manifest(store, "machines", 1)["options"]))
    precision = measures.filter(slice="horizon", value_of_slice="24h", metric="recall")["value"].item()
    recalls = {line["horizon"]: line["recall"] for line in summary["metrics"]["horizon"]}
    assert recalls["24h"] == pytest.approx(precision, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "2024-06-01", "--bundle", "1"], "nothing to evaluate"),
        (["--from", "2024-03-28", "--to", "2024-03-26", "--bundle", "1"], "Expected --from before --to"),
        (["--bundle", "9"], "there is no bundle 9"),
        ([], "machines has published nothing yet"),
        (["--from", "2024-03-01"], "`--bundle N` judges what a bundle would have predicted"),
    ],
)
def test_a_range_that_cannot_be_evaluated_is_refused(own, command, words, message):
    shutil.rmtree(own / "ledger", ignore_errors=True)
    output = command("machines", "evaluate", *words, "--store", own)
    assert output.status == 1
    assert message in output.err


def test_run_ingests_trains_once_and_scores(tables, machines, tmp_path):
    words = sources(tmp_path / "all", tables)
    first = machines("run", *words, "--shards", "2", "--store", tmp_path / "store")
    again = machines("run", *words, "--shards", "2", "--store", tmp_path / "store")
    assert first["published"]
    assert (first["bundle"], first["run_id"]) == (again["bundle"], again["run_id"])
    assert again["reused_shards"] == 2
