"""The devices scenario on the command line, on a small simulated fleet."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.devices.simulation import readings_of, simulate
from tasks.registry import ledger
from tasks.scoring.shards import reconcile
from tasks.storage.store import Store
from tests import steps

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
TRAINED, HOURS = 6, 9
"""Hours that the bundle knows, and hours that there are."""


def fleet() -> pl.DataFrame:
    """Raw readings of four devices. The flow of d00001 is far too high from 7:50 on, for half an hour."""
    readings = readings_of(simulate(4, START, 60 * HOURS).grid)
    fault = (pl.col("device") == "d00001") & (pl.col("tag") == "flow")
    fault &= pl.col("time").is_between(START + 7.8 * HOUR, START + 8.3 * HOUR)
    value = pl.col("mean") + pl.when(fault).then(50.0).otherwise(0.0)
    return readings.select("device", "tag", pl.col("time") + timedelta(seconds=20), value.alias("value"))


def between(readings: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    time = pl.col("time")
    return readings.filter(time >= START + first * HOUR, time < START + last * HOUR)


@pytest.fixture(scope="module")
def devices(command):
    """`devices("score", ...)`: the result of a command that must succeed."""

    def run(*words):
        output = command("devices", *words, "--json")
        assert output.status == 0, output.err
        return output.json

    return run


@pytest.fixture(scope="module")
def trained(devices, tmp_path_factory) -> SimpleNamespace:
    """A store whose bundle was trained on six hours, of which the last two are published; the other hours as a file."""
    folder = tmp_path_factory.mktemp("devices")
    early, late = folder / "early.parquet", folder / "late.parquet"
    between(fleet(), 0, TRAINED).write_parquet(early)
    between(fleet(), TRAINED, HOURS).write_parquet(late)
    where = ["--store", folder / "store"]
    devices("ingest", "--source", early, "--shards", "2", *where)
    devices("train", *where)
    devices("score", "--catch-up", "2", *where)
    return SimpleNamespace(early=early, late=late, store=folder / "store")


@pytest.fixture
def own(trained, tmp_path) -> Store:
    """A copy of the trained store that a test may change."""
    return Store(str(shutil.copytree(trained.store, tmp_path / "store")))


@pytest.fixture(scope="module")
def behind(trained, devices, tmp_path_factory) -> Path:
    """The store with three more hours of readings that no run has covered."""
    store = shutil.copytree(trained.store, tmp_path_factory.mktemp("behind") / "store")
    devices("ingest", "--source", trained.late, "--store", store)
    return store


@pytest.fixture
def missed(behind, tmp_path) -> Store:
    """A copy of the store that is behind, which a test may change."""
    return Store(str(shutil.copytree(behind, tmp_path / "store")))


@contextmanager
def emitted() -> Iterator[list[dict]]:
    """The emitted events, in order."""
    records: list[dict] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tasks.scoring.events.emit_event",
            lambda event, **facts: records.append({"event": event, **facts}),
        )
        yield records


def alarms(events: list[dict]) -> list[dict]:
    return [event for event in events if event["event"] == "almanac.devices.incident"]


@pytest.fixture(scope="module")
def caught_up(behind, devices, tmp_path_factory) -> SimpleNamespace:
    """The store that was behind, after the run that caught up, with that run's result and events."""
    store = Store(str(shutil.copytree(behind, tmp_path_factory.mktemp("caught-up") / "store")))
    with emitted() as events:
        result = devices("score", "--store", store.uri)
    return SimpleNamespace(store=store, result=result, events=events)


def scores(store: Store) -> pl.DataFrame:
    return steps.published(store, "devices/scores")


def incidents(store: Store) -> pl.DataFrame:
    return store.scan("devices/incidents").collect().sort("as_of", "incident")


def last_state():
    """The state of the flow run that ended last."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    async def ask():
        async with get_client() as client:
            (run,) = await client.read_flow_runs(sort=FlowRunSort.END_TIME_DESC, limit=1)
            return run.state

    return asyncio.run(ask())


def published_hours(store: Store) -> list[str]:
    return sorted(ledger.rows(store).collect()["as_of"])


def hour(number: int) -> str:
    return f"{START + number * HOUR:%Y-%m-%d %H:%M}"


# catching up


def test_a_run_covers_every_hour_since_the_last_published_one_oldest_first_in_a_commit_each(
    caught_up, behind
):
    store, summary = caught_up.store, caught_up.result
    assert [line["hour"] for line in summary["hours"]] == [hour(7), hour(8), hour(9)]
    assert (summary["published"], summary["as_of"]) == (True, (START + 9 * HOUR).isoformat())
    assert store.version("devices/scores") == Store(str(behind)).version("devices/scores") + 3
    assert published_hours(store) == [(START + n * HOUR).isoformat() for n in (5, 6, 7, 8, 9)]
    rows = scores(store)
    assert rows.filter(pl.col("time") >= pl.col("as_of")).is_empty()
    assert rows.filter(pl.col("time") < pl.col("as_of") - HOUR).is_empty()


def test_a_run_whose_hours_are_all_covered_ends_as_skipped(caught_up, devices):
    rows, version = scores(caught_up.store), caught_up.store.version("devices/scores")
    summary = devices("score", "--store", caught_up.store.uri)
    assert (summary["published"], summary["hours"]) == (False, [])
    assert "every hour up to 2026-03-02T09:00Z is published" in summary["covered_by"]
    state = last_state()
    assert (state.name, state.type.value) == ("Skipped", "COMPLETED")
    assert "2026-03-02T09:00Z" in state.message
    assert caught_up.store.version("devices/scores") == version
    assert_frame_equal(scores(caught_up.store), rows)


def test_one_hour_and_a_number_of_hours_together_are_refused(command, tmp_path):
    output = command(
        "devices", "score", "--as-of", "2026-03-02T05:00", "--catch-up", "2", "--store", tmp_path
    )
    assert output.status == 1
    assert "--as-of is a single hour, --catch-up a number of hours" in output.err


def test_hours_beyond_catch_up_are_named_and_scored_by_the_next_run(missed, devices):
    with emitted() as events:
        summary = devices("score", "--catch-up", "1", "--store", missed.uri)
    assert [line["hour"] for line in summary["hours"]] == [hour(9)]
    assert any(
        "2 complete periods are not scored yet, from 2026-03-02T07:00Z" in note for note in summary["notes"]
    )
    (payload,) = [event["payload"] for event in events if event["event"] == "almanac.devices.left_out"]
    assert payload["count"] == 2
    again = devices("score", "--store", missed.uri)
    assert [line["hour"] for line in again["hours"]] == [hour(7), hour(8)]
    assert devices("score", "--store", missed.uri)["published"] is False


def test_an_hour_that_got_readings_after_it_was_scored_is_scored_again_and_tells_an_alarm_once(
    own, trained, tmp_path, devices
):
    late, early = tmp_path / "late.parquet", tmp_path / "early.parquet"
    rows = between(fleet(), TRAINED, HOURS)
    missing = (pl.col("device") == "d00003") & (pl.col("time") < START + 8 * HOUR)
    rows.filter(~missing).write_parquet(early)
    rows.filter(missing).write_parquet(late)
    devices("ingest", "--source", early, "--store", own.uri)
    with emitted() as events:
        devices("score", "--store", own.uri)
    resources = [event["resource"] for event in alarms(events)]
    devices("ingest", "--source", late, "--store", own.uri)
    with emitted() as events:
        summary = devices("score", "--store", own.uri)
    assert [line["hour"] for line in summary["hours"]] == [hour(7), hour(8)]
    assert any("2 of the periods had been scored before" in note for note in summary["notes"])
    of_late = scores(own).filter(pl.col("device") == "d00003", pl.col("value").is_not_null())
    of_late = of_late.filter(pl.col("tag") != "*", pl.col("time") >= START + 6 * HOUR)
    assert of_late.height == rows.filter(pl.col("device") == "d00003").height
    assert not [event for event in alarms(events) if event["resource"] in resources]
    assert devices("score", "--store", own.uri)["published"] is False


def test_an_incident_that_is_labelled_and_a_site_that_is_muted_are_rows_with_who_and_when(
    caught_up, tmp_path, devices, command
):
    store = Store(str(shutil.copytree(caught_up.store.uri, tmp_path / "store")))
    name = incidents(store).filter(pl.col("device") == "d00001", "is_alarm")["incident"][0]
    devices("label", "--verdict", "fault", "--incident", name, "--by", "ann", "--store", store.uri)
    span = ["--start", "2026-03-02T08:00", "--end", "2026-03-02T10:00"]
    sites = tmp_path / "sites.csv"
    sites.write_text("device,site,timezone\nd00001,north,Asia/Tokyo\nd00002,south,UTC\n")
    devices("ingest", "--sites", sites, "--store", store.uri)
    devices("mute", "--site", "north", *span, "--by", "bob", "--store", store.uri)
    refusal = command("devices", "mute", "--site", "nroth", *span, "--store", store.uri)
    assert "--site is 'nroth'. Expected a site from ingest --sites: north, south." in refusal.err
    rows = store.scan("devices/verdicts").collect()
    assert set(rows.filter(verdict="fault").select("device", "by").rows()) == {("d00001", "ann")}
    assert rows.filter(verdict="muted").select("device", "tag", "by").rows() == [("d00001", "*", "bob")]
    assert rows["at"].null_count() == 0
    summary = devices("score", "--as-of", "2026-03-02T09:00", "--bundle", "1", "--store", store.uri)
    assert summary["published"]


def test_readings_that_end_long_ago_are_called_stale_by_a_run_and_by_the_status(missed, devices, command):
    with emitted() as events:
        summary = devices("score", "--catch-up", "1", "--store", missed.uri)
    stale = r"The data is stale: it is complete up to 2026-03-\d\dT\d\d:\d\dZ, "
    assert any(re.match(stale, note) for note in summary["notes"])
    assert "almanac.devices.stale" in {event["event"] for event in events}
    status = command("ingest-status", "--check", "--store", missed.uri)
    assert status.status == 3
    assert "devices: stale" in status.out


def test_the_first_run_judges_only_hours_after_those_that_it_learns_from_and_says_so(
    trained, tmp_path, devices
):
    words = ["--source", trained.early, "--shards", "2", "--catch-up", "2", "--store", tmp_path / "store"]
    summary = devices("run", *words)
    assert [line["hour"] for line in summary["hours"]] == [hour(5), hour(6)]
    assert "learnt from the readings up to 2026-03-02 04:00 UTC" in summary["notes"][0]
    assert not any("use some of their own future" in note for note in summary["notes"])


def test_an_hour_that_is_named_is_scored_alone_with_the_sensitivity_that_is_asked_for(
    caught_up, own, devices
):
    strict = scores(caught_up.store).filter(pl.col("as_of") == START + 6 * HOUR)
    summary = devices("score", "--as-of", "2026-03-02T06:00", "--alpha", "0.05", "--store", own.uri)
    assert [line["hour"] for line in summary["hours"]] == [hour(6)]
    loose = scores(own).filter(pl.col("as_of") == START + 6 * HOUR)
    for rows, alpha in ((strict, 0.001), (loose, 0.05)):
        assert rows["is_anomaly"].to_list() == (rows["p_value"] <= alpha).fill_null(False).to_list()
    key = ["device", "tag", "time"]
    assert loose.join(strict.filter("is_anomaly"), on=key, how="semi")["is_anomaly"].all()
    assert_frame_equal(loose.select(*key, "score"), strict.select(*key, "score"))
    assert loose["is_anomaly"].sum() > strict["is_anomaly"].sum()


def test_a_dry_run_publishes_none_of_the_hours(missed, devices):
    before = scores(missed)
    summary = devices("score", "--dry-run", "--catch-up", "2", "--store", missed.uri)
    assert len(summary["hours"]) == 2
    assert summary["published"] is False
    assert_frame_equal(scores(missed), before)
    assert len(published_hours(missed)) == 2


# killed, late and raced


@pytest.mark.parametrize("step", ["derive", "enter"])
def test_a_run_that_ends_after_its_commit_is_made_up_for_and_loses_no_alarm(
    missed, caught_up, devices, command, step
):
    expected = [event["payload"]["incident"] for event in alarms(caught_up.events)]
    assert expected
    with emitted() as events:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"flows.runs.{step}", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                command("devices", "score", "--catch-up", "2", "--store", missed.uri)
        assert len(published_hours(missed)) == 2
        devices("score", "--store", missed.uri)
    other = caught_up.store
    assert_frame_equal(scores(missed).drop("run_id"), scores(other).drop("run_id"))
    assert_frame_equal(incidents(missed).drop("run_id"), incidents(other).drop("run_id"))
    incident_of = {event["id"]: event["payload"]["incident"] for event in alarms(events)}
    assert sorted(incident_of.values()) == sorted(expected)


def test_a_run_that_is_overtaken_by_one_on_newer_readings_ends_as_skipped(missed, devices, tmp_path):
    late = fleet().filter(pl.col("time") > START + 8.9 * HOUR)
    late.with_columns(pl.col("time") + timedelta(seconds=1)).write_parquet(tmp_path / "more.parquet")
    words = ["--as-of", "2026-03-02T09:00", "--store", missed.uri]
    newer = []

    def overtaken(*arguments):
        patch.undo()
        with ThreadPoolExecutor(1) as apart:
            apart.submit(devices, "ingest", "--source", tmp_path / "more.parquet", *words[2:]).result()
            newer.append(apart.submit(devices, "score", *words).result())
        return reconcile(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.runs.reconcile", overtaken)
        summary = devices("score", *words)
    assert newer[0]["published"] is True
    assert (summary["published"], summary["covered_by"]) == (False, f"{newer[0]['run_id']}")
    rows = scores(missed).filter(pl.col("as_of") == START + 9 * HOUR)
    assert set(rows["run_id"]) == {newer[0]["run_id"]}
    assert last_state().name == "Skipped"


# incidents


def test_a_fault_that_lasts_from_one_hour_to_the_next_is_one_incident_and_one_alarm(caught_up):
    incident_rows = incidents(caught_up.store)
    ours = incident_rows.filter(pl.col("device") == "d00001", pl.col("tags").list.contains("flow"))
    assert ours["incident"].n_unique() == 1
    assert ours["as_of"].to_list()[:2] == [START + 8 * HOUR, START + 9 * HOUR]
    assert ours["start"].unique().to_list() == [START + 7.8 * HOUR]
    assert ours["is_new_alarm"].to_list()[:2] == [True, False]
    mine = [event for event in alarms(caught_up.events) if event["payload"]["device"] == "d00001"]
    assert len(mine) == 1
    payload = mine[0]["payload"]
    assert {"device", "tags", "start", "peak", "score", "p_value", "page"} <= set(payload)
    assert payload["start"] == (START + 7.8 * HOUR).isoformat()
    assert payload["page"].startswith("file://")


# sensors that come and go


def test_a_new_device_is_answered_and_a_vanished_one_is_told(own, trained, devices, tmp_path):
    readings = between(fleet(), TRAINED, TRAINED + 1)
    new = readings.filter(device="d00002").with_columns(device=pl.lit("newcomer"))
    others = readings.filter(pl.col("device") != "d00003")
    pl.concat([others, new]).write_parquet(tmp_path / "hour.parquet")
    devices("ingest", "--source", tmp_path / "hour.parquet", "--store", own.uri)
    summary = devices("score", "--store", own.uri)
    assert summary["failed"] == 0
    assert summary["requested"] == sum(summary[name] for name in ("scored", "fallback", "skipped"))
    reasons = ledger.last(own, "devices", "score", START + 7 * HOUR)["reasons"]
    assert "new: not known at training" in reasons
    rows = scores(own).filter(pl.col("as_of") == START + 7 * HOUR)
    assert rows.filter(device="newcomer", tag="flow")["rung"].unique().to_list() == ["pooled"]
    silent = rows.filter(device="d00003")
    assert set(silent["cause"]) == {"missing"}
    assert "silent: no reading in the hour" in Path(summary["page"]).read_text()


# the same rows


def test_the_rows_of_an_hour_do_not_depend_on_shards_or_on_readings_after_it(
    caught_up, trained, devices, tmp_path
):
    until = tmp_path / "until.parquet"
    between(fleet(), TRAINED, TRAINED + 1).sample(fraction=1, shuffle=True, seed=3).write_parquet(until)
    other = Store(str(tmp_path / "store-of-one-shard"))
    words = ["--store", other.uri]
    devices("ingest", "--source", trained.early, "--shards", "1", *words)
    devices("train", *words)
    devices("ingest", "--source", until, *words)
    devices("score", "--as-of", "2026-03-02T07:00", *words)
    this, that = (
        scores(store).filter(pl.col("as_of") == START + 7 * HOUR).drop("run_id").sort("device", "tag", "time")
        for store in (caught_up.store, other)
    )
    assert this.height > 1000
    assert_frame_equal(this, that)


def test_the_demo_parameters_are_those_of_run(tmp_path):
    import inspect

    from flows.devices import run, simulated

    parameters = simulated(Store(str(tmp_path)), seed=7)
    inspect.signature(run.fn).bind(**parameters, store=str(tmp_path))
    assert pl.read_parquet(parameters["source"]).columns == ["device", "tag", "time", "value"]


# what became of verdicts


def test_published_hours_are_judged_by_labels_and_later_labels_restate_them(caught_up, devices, tmp_path):
    store = Store(str(shutil.copytree(caught_up.store.uri, tmp_path / "store")))
    first = devices("evaluate", "--store", store.uri)
    assert (first["judged"], first["pending"]) == (5, 0)
    assert "recall" not in first["metrics"]["all"]
    assert devices("evaluate", "--store", store.uri)["judged"] == 0
    times = {"start": [START + 7.8 * HOUR], "end": [START + 8.3 * HOUR]}
    label = pl.DataFrame({"device": ["d00001"], "tag": ["flow"], **times, "fault": ["shift"]})
    label.write_parquet(tmp_path / "labels.parquet")
    summary = devices("ingest", "--labels", tmp_path / "labels.parquet", "--store", store.uri)
    assert [(one["table"], one["changed"]) for one in summary["tables"]] == [("labels", 1)]
    again = devices("evaluate", "--store", store.uri)
    # the label tells of all hours up to its end; of the last one nobody has said all
    assert again["judged"] == 5
    assert again["metrics"]["all"]["faults"] == again["metrics"]["all"]["recall"] == 1
    rows = store.scan("devices/evaluations").collect()
    assert rows.group_by("as_of").agg(pl.col("labelled").all()).sort("as_of")["labelled"].to_list() == [
        True, True, True, True, False,
    ]  # fmt: skip
    scores = store.scan("devices/scores").collect()
    assert rows["readings"].sum() == scores.height
    assert rows["anomalies"].sum() == scores["is_anomaly"].sum()


def test_an_ingest_of_nothing_is_refused(command, tmp_path):
    output = command("devices", "ingest", "--store", tmp_path / "store")
    assert output.status == 1
    assert "Expected at least one of --source, --labels, --kinds and --sites" in output.err


def test_labels_that_break_the_contract_go_to_quarantine(own, devices, tmp_path):
    times = {"start": [START] * 30, "end": [START + HOUR] * 29 + [START - HOUR]}
    label = pl.DataFrame({"device": [f"d{n:05}" for n in range(30)], **times, "fault": ["shift"] * 30})
    label.write_parquet(tmp_path / "labels.parquet")
    devices("ingest", "--labels", tmp_path / "labels.parquet", "--store", own.uri)
    bad = own.scan("devices/quarantine").filter(table="labels").collect()
    assert bad["rule"].to_list() == ["ends_after_its_start"]
    assert own.scan("devices/labels").collect().height == 29


def test_a_device_whose_clock_is_ahead_is_named_before_the_first_hour_is_published(own):
    from flows.devices import _behind

    late = own.scan("devices/readings").collect().with_columns(pl.col("time") - timedelta(days=7))
    other = late.with_columns(device="of " + pl.col("device"))
    fresh = Store(f"{own.uri}/fresh")
    ahead = own.scan("devices/readings").filter(device="d00001").collect()
    pl.concat([late.filter(pl.col("device") != "d00001"), other, ahead]).write_delta(
        f"{fresh.uri}/devices/readings"
    )
    assert "Is the clock of d00001 ahead?" in _behind(fresh, START + TRAINED * HOUR)[0]
    assert not _behind(own, START + TRAINED * HOUR)
