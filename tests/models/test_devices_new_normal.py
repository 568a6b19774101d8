"""A sensor that stays different is normal again after the hold, and only then."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from deltalake import write_deltalake

from models.devices.new_normal import MEMORY_INTERVALS, with_memory
from models.devices.scenario import DEVICES

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
DAY = 1440
KEYS = pl.DataFrame({"device": ["d"], "tag": ["t"]})
OPTIONS = {"hold_hours": 4, "alpha": 0.001}


def tables_of(values, **labels):
    times = [START + n * MINUTE for n in range(len(values))]
    readings = pl.DataFrame({"device": "d", "tag": "t", "time": times, "mean": values, "shard": 0})
    readings = readings.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    return {"readings": readings.lazy()} | {name: frame.lazy() for name, frame in labels.items()}


@pytest.fixture(scope="module")
def past():
    return np.random.default_rng(0).normal(20, 1, DAY)


@pytest.fixture(scope="module")
def model(past):
    as_of = START + DAY * MINUTE
    tables = tables_of(past)
    context = DEVICES.context(tables, as_of, {})
    parts = DEVICES.prepare_shard(tables, context, as_of, {})
    return DEVICES.load(DEVICES.fit({n: f.lazy() for n, f in parts.items()}, context, as_of, {}).files)


def hour_after(model, past, hours, last, hold_hours=4, **labels):
    """Scores of the hour `last` that comes after `past` and `hours` of other readings."""
    tables = tables_of(np.r_[past, hours, last], **labels)
    as_of = START + (len(past) + len(hours) + len(last)) * MINUTE
    return DEVICES.score(model, tables, {}, KEYS, as_of, OPTIONS | {"hold_hours": hold_hours})


def noise(hours, level=20.0, scale=1.0):
    return np.random.default_rng(int(hours * 10 + level)).normal(level, scale, int(hours * 60))


@pytest.mark.parametrize(("level", "scale"), [(30.0, 1.0), (20.0, 6.0), (12.0, 0.5)])
def test_a_level_or_scale_that_stays_becomes_normal_after_the_hold(model, past, level, scale):
    first = hour_after(model, past, [], noise(1, level, scale))
    early = hour_after(model, past, noise(3, level, scale), noise(1, level, scale))
    late = hour_after(model, past, noise(4.5, level, scale), noise(1, level, scale))
    assert first.rows["is_anomaly"][:15].all()
    second = hour_after(model, past, noise(1, level, scale), noise(1, level, scale))
    assert second.rows["is_anomaly"].mean() < 0.1
    assert early.rows["is_anomaly"].mean() < 0.05
    assert early.keys["reason"].item() is None
    assert late.rows["is_anomaly"].mean() < 0.05
    assert late.keys["reason"].item().startswith("new normal: in the 4 hours before")


def test_on_a_new_level_a_fault_is_called_and_a_return_to_the_old_level_is_not(model, past):
    fault = noise(1, 30.0)
    fault[20:40] += 10
    is_anomaly = hour_after(model, past, noise(5, 30.0), fault).rows["is_anomaly"].to_numpy()
    assert is_anomaly[20:35].all()
    assert is_anomaly[:20].mean() < 0.1
    back = hour_after(model, past, noise(5, 30.0), noise(1, 20.0))
    assert back.rows["is_anomaly"][35:].mean() < 0.05


def test_what_comes_again_within_the_memory_is_called_where_it_is_worse_and_only_there(model, past):
    hours = np.r_[noise(2, 30.0), noise(2)]
    again, worse = noise(1, 30.0), noise(1, 30.0)
    worse[20:40] += 15
    assert hour_after(model, past, hours, again).rows["is_anomaly"].mean() < 0.05
    is_anomaly = hour_after(model, past, hours, worse).rows["is_anomaly"].to_numpy()
    assert is_anomaly[20:30].any()
    assert is_anomaly[:20].mean() < 0.1


def test_on_a_sensor_that_breaks_the_promise_every_hour_the_share_of_calls_returns_to_alpha(model, past):
    values = np.random.default_rng(3).normal(20, 1, 20 * 60)
    values[::12] += 12
    before, last = values[:-60], values[-60:]
    assert hour_after(model, past, before, last, hold_hours=0).rows["is_anomaly"].mean() > 0.05
    assert hour_after(model, past, before, last).rows["is_anomaly"].mean() <= 0.02


def test_a_rolling_p_value_is_the_share_of_scores_so_far_that_are_as_high_unless_it_is_the_highest():
    random = np.random.default_rng(1)
    scores = random.normal(size=400).round(1)
    times = [START + n * MINUTE for n in range(400)]
    rows = pl.DataFrame(
        {"device": "d", "tag": "t", "time": times, "value": 1.0, "score": scores, "cause": "value"}
    )
    rows = rows.with_columns(p_value=pl.lit(1e-4), is_anomaly=pl.lit(value=True))
    rows = rows.with_columns(p_value=pl.when(pl.col("score") > 1.0).then(1e-4).otherwise(0.5))
    p_values = with_memory(rows[340:], rows[:340], times[340], 0.001, 30 * MINUTE, 24 * HOUR)[
        "p_value"
    ].to_numpy()
    earlier = scores + np.abs(scores) / 100
    as_high = np.array([(earlier[:i] >= scores[i]).sum() for i in range(340, 400)])
    shares = np.where(as_high > 0, as_high + 1, 0) / np.arange(341, 401)
    expected = np.maximum(rows["p_value"][340:], shares)
    np.testing.assert_allclose(p_values, expected)


def test_of_a_sensor_with_a_heavier_tail_than_learnt_about_a_thousandth_is_called_at_a_thousandth():
    random, hours, called, n = np.random.default_rng(4), 150, 0, MEMORY_INTERVALS
    times = [START + i * MINUTE for i in range(n + 12)]
    for _ in range(hours):
        p = random.uniform(size=n + 12) ** 2
        rows = pl.DataFrame({"device": "d", "tag": "t", "time": times, "value": 1.0, "p_value": p})
        rows = rows.with_columns(
            score=-pl.col("p_value").log(), is_anomaly=pl.col("p_value") <= 0.001, cause=pl.lit("value")
        )
        called += with_memory(rows[n:], rows[:n], times[n], 0.001, 2 * MINUTE, 24 * HOUR)["is_anomaly"].sum()
    assert 0 < called / (12 * hours) < 0.0015


def test_runs_of_one_value_are_compared_with_runs_only():
    times = [START + n * MINUTE for n in range(600)]
    rows = pl.DataFrame({"device": "d", "tag": "t", "time": times, "value": 1.0, "score": 1.0})
    rows = rows.with_columns(
        p_value=pl.when(pl.col("time") >= times[-6]).then(1e-6).otherwise(0.5),
        score=pl.when(pl.col("time") == times[100])
        .then(9.0)
        .when(pl.col("time") >= times[-6])
        .then(8.0)
        .otherwise(1.0),
        is_anomaly=True,
    )
    for cause, is_called in (("value", False), ("flat", True)):
        now = rows[540:].with_columns(cause=pl.lit(cause))
        judged = with_memory(
            now, rows[:540].with_columns(cause=pl.lit("value")), times[540], 0.001, 15 * MINUTE, 24 * HOUR
        )
        assert judged["is_anomaly"][-6:].to_list() == [is_called] * 6


def test_readings_of_the_last_half_hour_do_not_count_where_the_day_was_calm():
    scores = np.r_[np.zeros(340), 4.0, np.full(59, 3.0)]
    times = [START + n * MINUTE for n in range(400)]
    rows = pl.DataFrame(
        {"device": "d", "tag": "t", "time": times, "value": 1.0, "score": scores, "cause": "value"}
    )
    rows = rows.with_columns(p_value=pl.when(pl.col("score") > 0).then(1e-6).otherwise(0.5), is_anomaly=True)
    p_values = with_memory(rows[340:], rows[:340], times[340], 0.001, 30 * MINUTE, 24 * HOUR)[
        "p_value"
    ].to_numpy()
    assert (p_values[:30] == 1e-6).all()
    np.testing.assert_allclose(p_values[30:], np.arange(2, 32) / (342 + np.arange(30)))


@pytest.mark.parametrize(("last", "share"), [(4.03, 30 / 401), (4.05, 1e-6)])
def test_what_is_hardly_more_unusual_than_before_is_no_more_unusual(last, share):
    scores = np.r_[np.zeros(340), np.full(30, 4.0), np.zeros(29), last]
    times = [START + n * MINUTE for n in range(400)]
    rows = pl.DataFrame(
        {"device": "d", "tag": "t", "time": times, "value": 1.0, "score": scores, "cause": "value"}
    )
    rows = rows.with_columns(p_value=pl.when(pl.col("score") > 0).then(1e-6).otherwise(0.5), is_anomaly=True)
    p_value = with_memory(rows[340:], rows[:340], times[340], 0.001, 20 * MINUTE, 24 * HOUR)["p_value"][-1]
    assert p_value == pytest.approx(share, rel=0.1)


def test_a_share_at_a_hundredth_that_is_far_too_high_returns_to_a_hundredth():
    scores = np.tile([0.0, 1.0, 2.0, 3.0], 100)
    times = [START + n * MINUTE for n in range(400)]
    rows = pl.DataFrame(
        {"device": "d", "tag": "t", "time": times, "value": 1.0, "score": scores, "cause": "value"}
    )
    rows = rows.with_columns(
        p_value=pl.when(pl.col("score") > 2.5).then(0.008).otherwise(0.5), is_anomaly=False
    )
    p_values = with_memory(rows[340:], rows[:340], times[340], 0.001, 30 * MINUTE, 24 * HOUR)[
        "p_value"
    ].to_numpy()
    np.testing.assert_allclose(p_values[3::4], 0.25, atol=0.01)


def test_what_departs_from_a_new_normal_again_and_again_is_called_for_15_minutes(model, past):
    spiky = noise(1, 30.0)
    spiky[::6], spiky[3::6] = 45, 15
    is_anomaly = hour_after(model, past, noise(9, 30.0), spiky).rows["is_anomaly"].to_numpy()[::3]
    assert is_anomaly[:5].all()
    assert is_anomaly[11:].mean() < 0.5


def test_without_a_hold_nothing_becomes_normal(model, past):
    assert hour_after(model, past, noise(6, 30.0), noise(1, 30.0), hold_hours=0).rows["is_anomaly"].all()


def test_a_labelled_fault_never_becomes_normal(model, past):
    since = START + DAY * MINUTE
    labels = pl.DataFrame({"device": ["d"], "tag": ["*"], "start": [since], "end": [since + 9 * HOUR]})
    scores = hour_after(model, past, noise(6, 30.0), noise(1, 30.0), labels=labels)
    assert scores.rows["is_anomaly"].all()
    assert scores.keys["reason"].item() is None


def test_the_verdict_depends_on_no_later_reading(model, past):
    hours, last = noise(4.5, 30.0), noise(1, 30.0)
    as_of = START + (len(past) + len(hours) + len(last)) * MINUTE
    plain = DEVICES.score(model, tables_of(np.r_[past, hours, last]), {}, KEYS, as_of, OPTIONS)
    more = tables_of(np.r_[past, hours, last, noise(3, 99.0)])
    assert plain.rows.equals(DEVICES.score(model, more, {}, KEYS, as_of, OPTIONS).rows)


def new_levels(model, past, values):
    """The events of the hours of `values`, each with the tables that the ones before it left behind, and the last levels."""
    tables, earlier, events = tables_of(np.r_[past, values]), {}, []
    for hour in range(1, len(values) // 60 + 1):
        as_of = START + (len(past) + 60 * hour) * MINUTE
        rows = DEVICES.score(model, tables, {}, KEYS, as_of, OPTIONS).rows.lazy()
        derived = DEVICES.derive(rows, earlier, tables, as_of, OPTIONS)
        events += [(hour, e) for e in DEVICES.events(rows, derived, as_of, OPTIONS) if e.name == "new_level"]
        stamped = {name: frame.with_columns(as_of=pl.lit(as_of)).lazy() for name, frame in derived.items()}
        earlier = {n: pl.concat([earlier[n], f]) if n in earlier else f for n, f in stamped.items()}
    return events, earlier["levels"].filter(pl.col("as_of") == pl.col("as_of").max()).collect()


def test_a_new_level_is_told_once_with_the_time_at_which_its_incident_began(model, past):
    ((hour, event),), last = new_levels(model, past, noise(9, 30.0))
    assert hour >= 5
    assert event.payload["since"] == (START + DAY * MINUTE).isoformat()
    assert event.payload["incident"].startswith("d 2026-01-02T00:00Z")
    assert last.select("device", "tag", "is_new").rows() == [("d", "t", False)]


@pytest.mark.slow
@pytest.mark.parametrize("hours_per_deviation", [1, 4])
def test_a_drift_is_told_once_however_far_it_goes(model, past, hours_per_deviation):
    values = noise(16) + np.arange(16 * 60) / 60 / hours_per_deviation
    (_,), last = new_levels(model, past, values)
    assert last.select("is_new", pl.col("last") == pl.col("as_of")).row(0) == (False, True)


def test_files_of_incidents_of_days_ago_are_not_opened(model, past, tmp_path):
    """The same for tables that runs publish, whose log has no statistics of these columns."""
    tables, as_of = tables_of(np.r_[past, noise(1, 30.0)]), START + (len(past) + 60) * MINUTE
    rows = DEVICES.score(model, tables, {}, KEYS, as_of, OPTIONS).rows.lazy()
    incidents = DEVICES.derive(rows, {}, tables, as_of, OPTIONS)["incidents"]
    assert incidents.height
    for ago in (40 * 24 * HOUR, HOUR):
        older = incidents.with_columns(pl.col("start", "end", "peak_time") - ago, as_of=pl.lit(as_of - ago))
        write_deltalake(
            tmp_path, older, mode="append", partition_by=["as_of"],
            configuration={"delta.dataSkippingNumIndexedCols": "0"},
        )  # fmt: skip
    long_ago, _ = sorted(tmp_path.glob("as_of=*/*.parquet"))
    long_ago.unlink()
    earlier = {"incidents": pl.scan_delta(str(tmp_path))}
    assert DEVICES.derive(rows, earlier, tables, as_of, OPTIONS)["incidents"].height


def test_a_sensor_that_has_alarmed_again_and_again_alarms_no_more_unless_these_were_labelled_faults(
    model, past
):
    tables, as_of = tables_of(np.r_[past, noise(1, 30.0)]), START + (len(past) + 60) * MINUTE
    rows = DEVICES.score(model, tables, {}, KEYS, as_of, OPTIONS).rows.lazy()

    def new_alarms(earlier, tables=tables):
        return DEVICES.derive(rows, earlier, tables, as_of, OPTIONS)["incidents"]["is_new_alarm"].sum()

    incidents = DEVICES.derive(rows, {}, tables, as_of, OPTIONS)["incidents"]
    day = pl.col("start", "end", "peak_time") - 24 * HOUR
    before = incidents.with_columns(day, is_open=pl.lit(False), as_of=pl.lit(as_of - 24 * HOUR)).lazy()
    again = pl.concat([before.with_columns(incident=pl.lit(f"d {n}")) for n in range(9)])
    assert new_alarms({}) == new_alarms({"incidents": before}) == 1
    assert new_alarms({"incidents": again}) == 0
    fault = {"device": ["d"], "tag": ["*"], "start": [as_of - 26 * HOUR], "end": [as_of - 23 * HOUR]}
    assert new_alarms({"incidents": again}, tables | {"labels": pl.LazyFrame(fault)}) == 1


def test_how_far_out_a_reading_is_counts_less_on_a_sensor_that_has_been_far_out_for_a_day():
    random = np.random.default_rng(2)
    chance = np.r_[random.uniform(size=399) ** 2, 1e-7]
    times = [START + n * MINUTE for n in range(400)]
    rows = pl.DataFrame(
        {"device": "d", "tag": "t", "time": times, "value": 1.0, "p_value": chance, "cause": "value"}
    )
    rows = rows.with_columns(score=-pl.col("p_value").log(), is_anomaly=pl.col("p_value") <= 0.001)
    p_values = with_memory(rows[340:], rows[:340], times[340], 0.001, 20 * MINUTE, 24 * HOUR)[
        "p_value"
    ].to_numpy()
    power = np.log(0.1) / np.log(np.quantile(chance[:340], 0.1))
    assert power == pytest.approx(0.5, abs=0.1)
    assert p_values[-1] == pytest.approx(1e-3 * 1e-4**power, rel=0.1)
    assert (p_values[-1] <= 0.001) == rows["is_anomaly"][-1]
