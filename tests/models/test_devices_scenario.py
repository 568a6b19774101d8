"""The devices scenario from readings to scores: what must hold for any shard, batch and hour."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from models.devices.aggregation import aggregate, points
from models.devices.contracts import JOINT_TAG, KEY, check_raw
from models.devices.rows import SCORES
from models.devices.scenario import DEVICES
from models.devices.simulation import readings_of, simulate
from models.devices.training import fit_columns
from models.errors import ContractError
from tests.grids import grid_of

START = datetime(2026, 1, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=1)
HOUR = timedelta(hours=1)
OPTIONS = {"alpha": 0.001, "seed": 3}
DEVICES_COUNT = 12


@pytest.fixture(scope="module")
def readings():
    grid = simulate(DEVICES_COUNT, START, 1440 + 180, missing_share=0.002).grid
    return readings_of(grid).with_columns(shard=pl.col("device").str.slice(1).cast(pl.Int32) % 3)


@pytest.fixture(scope="module")
def trained(readings):
    return train(readings)


def train(readings, **options):
    tables, settings = {"readings": readings.lazy()}, OPTIONS | options
    context = DEVICES.context(tables, AS_OF, settings)
    parts = DEVICES.prepare_shard(tables, context, AS_OF, settings)
    return DEVICES.fit({name: frame.lazy() for name, frame in parts.items()}, context, AS_OF, settings)


def score(model, readings, keys=None, hour=1, **options):
    tables, as_of = {"readings": readings.lazy()}, AS_OF + hour * HOUR
    if keys is None:
        keys = DEVICES.requested_keys(tables, as_of, OPTIONS).collect()
    return DEVICES.score(model, tables, {}, keys, as_of, OPTIONS | options)


@pytest.fixture(scope="module")
def model(trained):
    return DEVICES.load(trained.files)


@pytest.fixture(scope="module")
def whole(model, readings):
    return score(model, readings)


def test_every_reading_of_the_hour_is_scored_once_and_every_requested_key_is_accounted_for(whole, readings):
    keys = DEVICES.requested_keys({"readings": readings.lazy()}, AS_OF + HOUR, OPTIONS).collect()
    assert_frame_equal(whole.keys.select(KEY).sort(KEY), keys.select(KEY).sort(KEY))
    assert set(whole.keys["status"]) == {"scored"}
    assert dict(whole.rows.schema) == SCORES
    own = whole.rows.filter(pl.col("tag") != JOINT_TAG, pl.col("rung") != "missing")
    hour = readings.filter(pl.col("time") >= AS_OF, pl.col("time") < AS_OF + HOUR)
    assert_frame_equal(
        own.select(*KEY, "time", "value"),
        hour.select(*KEY, "time", pl.col("mean").alias("value")).sort(*KEY, "time"),
    )
    assert whole.rows["score"].is_finite().all()
    assert whole.rows["p_value"].is_between(0, 1).all()
    assert (whole.rows["is_anomaly"] == (whole.rows["p_value"] <= 0.001)).all()


@pytest.mark.parametrize("cells", [1, 3000, 10**9])
def test_scores_do_not_depend_on_batches_of_keys_or_the_size_of_a_piece(model, readings, whole, cells):
    keys = whole.keys.select(KEY).sample(fraction=1.0, shuffle=True, seed=cells)
    parts = [score(model, readings, keys[i::4], cells=cells) for i in range(4)]
    assert_frame_equal(pl.concat([p.rows for p in parts]).sort(*KEY, "time"), whole.rows, check_exact=True)
    assert_frame_equal(pl.concat([p.keys for p in parts]).sort(KEY), whole.keys.sort(KEY))


def test_training_and_scoring_by_shards_give_what_one_shard_gives(readings, trained, whole):
    context = DEVICES.context({"readings": readings.lazy()}, AS_OF, OPTIONS)
    shards = [readings.filter(shard=n).sample(fraction=1.0, shuffle=True, seed=n) for n in (2, 0, 1)]
    prepared = [DEVICES.prepare_shard({"readings": s.lazy()}, context, AS_OF, OPTIONS) for s in shards]
    names = sorted({name for part in prepared for name in part})
    parts = {name: pl.concat([part[name] for part in prepared if name in part]).lazy() for name in names}
    apart = DEVICES.fit(parts, context, AS_OF, OPTIONS)
    assert sorted(apart.files) == sorted(trained.files)
    for name, file in trained.files.items():
        if isinstance(file, pl.DataFrame):
            assert_frame_equal(apart.files[name], file, check_exact=True)
    assert apart.loss == pytest.approx(trained.loss, rel=1e-12)
    model = DEVICES.load(apart.files)
    rows = pl.concat([score(model, s).rows for s in shards])
    assert_frame_equal(rows.sort(*KEY, "time"), whole.rows, check_exact=True)


def test_readings_after_as_of_change_nothing(model, readings, whole, trained):
    future = pl.col("time") >= AS_OF + HOUR
    altered = readings.with_columns(
        pl.when(future).then(pl.col("mean") * 1e6 + 7).otherwise("mean").alias("mean")
    )
    assert_frame_equal(score(model, altered).rows, whole.rows, check_exact=True)
    assert_frame_equal(score(model, readings.filter(~future)).rows, whole.rows, check_exact=True)
    after = pl.col("time") >= AS_OF
    spoilt = readings.with_columns(pl.when(after).then(pl.lit(-1e9)).otherwise("mean").alias("mean"))
    for name, file in train(spoilt).files.items():
        if isinstance(file, pl.DataFrame):
            assert_frame_equal(file, trained.files[name], check_exact=True)


def test_how_far_the_table_reaches_back_changes_nothing(model, readings, whole):
    recent = readings.filter(pl.col("time") >= AS_OF - HOUR)
    assert_frame_equal(score(model, recent, whole.keys.select(KEY)).rows, whole.rows, check_exact=True)


def test_alpha_is_chosen_at_scoring_and_changes_only_the_verdict_and_the_band(model, readings, whole):
    loose = score(model, readings, alpha=0.05).rows
    verdict = ["is_anomaly", "low", "high"]
    assert_frame_equal(loose.drop(verdict), whole.rows.drop(verdict), check_exact=True)
    assert loose["is_anomaly"].sum() > whole.rows["is_anomaly"].sum()
    strict, wide = (frame.filter(pl.col("rung").str.starts_with("robust")) for frame in (loose, whole.rows))
    assert (strict["high"] <= wide["high"]).all()


@pytest.mark.parametrize("alpha", [0, 0.2, -1])
def test_an_alpha_that_no_p_value_can_keep_is_refused(model, readings, alpha):
    with pytest.raises(ContractError, match="alpha is"):
        score(model, readings, alpha=alpha)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["one_class_svm", "isolation_forest"])
def test_another_detector_scores_all_sensors_that_vary(readings, detector):
    few = readings.filter(pl.col("device").is_in(["d00000", "d00001", "d00002"]))
    result = train(few, detector=detector)
    scores = score(DEVICES.load(result.files), few)
    rungs = dict(scores.keys.select(pl.concat_str("device", "tag", separator=" "), "rung").iter_rows())
    assert rungs["d00001 flow"] == detector
    assert rungs["d00000 mode"] == "constant"
    assert scores.rows["p_value"].is_not_null().all()


def test_a_bundle_survives_the_files_it_is_saved_in(trained, readings, whole, tmp_path):
    files = {}
    for name, file in trained.files.items():
        if isinstance(file, pl.DataFrame):
            file.write_parquet(tmp_path / f"{name}.parquet")
            files[name] = pl.read_parquet(tmp_path / f"{name}.parquet")
        else:
            files[name] = file
    assert_frame_equal(score(DEVICES.load(files), readings).rows, whole.rows, check_exact=True)


def test_a_bundle_of_something_else_is_refused():
    with pytest.raises(ContractError, match="not a bundle of devices"):
        DEVICES.load({"pooled_q50": "tree"})


def only(readings, device, tag):
    return (pl.col("device") == device) & (pl.col("tag") == tag)


def test_a_silent_sensor_is_a_finding_with_rows_that_say_missing(model, readings):
    others = readings.filter(
        ~(only(readings, "d00003", "flow") & (pl.col("time") >= AS_OF + timedelta(minutes=10)))
    )
    scores = score(model, others)
    rows = scores.rows.filter(device="d00003", tag="flow")
    assert rows.height == 60
    missing = rows.filter(pl.col("time") >= AS_OF + timedelta(minutes=20))
    assert set(missing["rung"]) == {"missing"}
    assert missing["value"].null_count() == 40
    assert missing["is_anomaly"].sum() > 30
    later = score(model, others, hour=2).keys.filter(device="d00003", tag="flow").row(0, named=True)
    assert later["status"] == "scored"
    assert later["reason"].startswith("silent")


def test_a_device_that_vanished_is_asked_for_as_long_as_requested_hours_say(model, readings):
    others = readings.filter((pl.col("device") != "d00004") | (pl.col("time") < AS_OF))
    silent = score(model, others, hour=2).keys.filter(device="d00004")
    assert silent.height == 6
    assert silent.filter(tag="*")["status"].to_list() == ["skipped"]
    assert silent.filter(pl.col("tag") != "*")["reason"].str.starts_with("silent").all()
    keys = DEVICES.requested_keys({"readings": others.lazy()}, AS_OF + 2 * HOUR, {"requested_hours": 1})
    assert "d00004" not in keys.collect()["device"].to_list()


def test_a_flat_line_is_a_finding_and_an_anomaly(model, readings):
    flat = only(readings, "d00005", "flow") & (pl.col("time") >= AS_OF + timedelta(minutes=30))
    value = readings.filter(only(readings, "d00005", "flow"))["mean"].median()
    flat_readings = readings.with_columns(pl.when(flat).then(pl.lit(value)).otherwise("mean").alias("mean"))
    scores = score(model, flat_readings)
    key = scores.keys.filter(device="d00005", tag="flow").row(0, named=True)
    assert key["reason"].startswith("flat")
    late = scores.rows.filter(device="d00005", tag="flow").tail(25)
    assert late["is_anomaly"].all()
    assert set(late["cause"][:10]) == {"flat"}


def renamed(readings, sensor, **new):
    return readings.filter(only(readings, *sensor)).with_columns(**{k: pl.lit(v) for k, v in new.items()})


def test_a_device_that_appears_at_scoring_is_scored_by_its_tags_and_says_so(model, readings):
    new = renamed(readings, ("d00001", "flow"), device="new").filter(pl.col("time") >= AS_OF)
    odd = renamed(readings, ("d00001", "flow"), device="new", tag="unknown").filter(pl.col("time") >= AS_OF)
    scores = score(model, pl.concat([readings, new, odd]))
    keys = {row["tag"]: row for row in scores.keys.filter(device="new").iter_rows(named=True)}
    assert (keys["flow"]["status"], keys["flow"]["rung"]) == ("fallback", "pooled")
    assert (keys["unknown"]["status"], keys["unknown"]["rung"]) == ("fallback", "none")
    assert keys["*"]["status"] == "skipped"
    assert "not known at training" in keys["flow"]["reason"]
    rows = scores.rows.filter(device="new")
    assert rows.filter(tag="flow")["p_value"].is_not_null().all()
    assert rows.filter(tag="unknown")["score"].null_count() == rows.filter(tag="unknown").height > 50
    assert not rows.filter(tag="unknown")["is_anomaly"].any()


def test_a_sensor_with_too_little_history_and_one_with_a_single_reading_get_a_fallback_that_says_so(readings):
    short = renamed(readings, ("d00002", "flow"), tag="short").filter(
        pl.col("time") >= AS_OF - timedelta(minutes=40)
    )
    single = renamed(readings, ("d00002", "flow"), tag="single").filter(
        pl.col("time") == AS_OF - timedelta(minutes=5)
    )
    table = pl.concat([readings, short, single])
    scores = score(DEVICES.load(train(table).files), table)
    keys = {row["tag"]: row for row in scores.keys.filter(device="d00002").iter_rows(named=True)}
    assert keys["short"]["status"] == "fallback"
    assert keys["short"]["reason"] == "too few readings in the history for a detector of its own: 40"
    assert keys["single"]["status"] in ("fallback", "skipped")
    assert scores.rows.filter(tag="single", device="d00002")["value"].null_count() in (0, 60)


def test_a_store_with_one_single_reading_trains_and_scores(readings):
    one = readings.filter(only(readings, "d00000", "flow"), pl.col("time") == AS_OF - timedelta(minutes=5))
    result = train(one)
    assert result.headline["without_detector"] == 1
    scores = score(DEVICES.load(result.files), one, hour=0)
    assert scores.rows.select("value", "rung").rows() == [(one["mean"].item(), "none")]
    assert scores.keys["status"].to_list() == ["fallback"]


def test_an_anomalous_device_does_not_change_the_rows_of_others(model, readings, whole):
    wild = (pl.col("device") == "d00006") & (pl.col("time") >= AS_OF)
    altered = readings.with_columns(pl.when(wild).then(pl.col("mean") * -50).otherwise("mean").alias("mean"))
    rows = score(model, altered).rows
    others = pl.col("device") != "d00006"
    assert_frame_equal(rows.filter(others), whole.rows.filter(others), check_exact=True)
    assert rows.filter(~others)["is_anomaly"].mean() > 0.4


def test_the_backtest_says_how_often_detectors_alarm_and_how_often_they_miss(trained):
    assert 0 < trained.headline["alarm_rate_at_0.01"] < 0.03
    assert trained.headline["missed_at_0.01"] < 0.3
    assert 0 < trained.loss < 0.5
    assert trained.backtest["time"].min() >= AS_OF - 2 * HOUR
    assert {"slice", "value_of_slice", "metric", "value"} == set(trained.metrics.columns)


def test_a_newer_bundle_is_compared_with_the_champion_on_readings_that_neither_has_seen(readings):
    earlier = AS_OF - 3 * HOUR
    past = readings.filter(pl.col("time") < earlier)
    tables = {"readings": past.lazy()}
    context = DEVICES.context(tables, earlier, OPTIONS)
    parts = DEVICES.prepare_shard(tables, context, earlier, OPTIONS)
    old = DEVICES.fit({n: f.lazy() for n, f in parts.items()}, context, earlier, OPTIONS)
    champion = DEVICES.load(old.files)
    tables = {"readings": readings.lazy()}
    context = DEVICES.context(tables, AS_OF, OPTIONS)
    parts = {n: f.lazy() for n, f in DEVICES.prepare_shard(tables, context, AS_OF, OPTIONS).items()}
    new = DEVICES.fit(parts, context, AS_OF, OPTIONS)
    ours, theirs, rows = DEVICES.rebacktest(champion, parts, new.backtest, earlier)
    assert rows > 1000
    assert ours == pytest.approx(new.loss, abs=0.05)
    assert 0 < theirs < 1
    assert DEVICES.rebacktest(champion, parts, new.backtest, AS_OF) is None


def table_of(*times):
    rows = pl.DataFrame({"time": list(times)}, schema={"time": pl.Datetime("us", "UTC")})
    return {"readings": rows.lazy()}


def test_as_of_is_the_end_of_the_last_hour_that_is_over():
    tables = table_of(START, START + timedelta(minutes=1), START + timedelta(hours=4, minutes=12))
    during, after = START + timedelta(hours=4, minutes=13), START + timedelta(hours=9)
    assert DEVICES.resolve_as_of(tables, None, during) == START + 4 * HOUR
    for later in (after, after + timedelta(days=30)):
        assert DEVICES.resolve_as_of(tables, None, later) == START + 5 * HOUR
    begun = table_of(START, START + timedelta(minutes=1))
    assert DEVICES.resolve_as_of(begun, None, START + timedelta(minutes=2)) == START + HOUR
    full = table_of(START + timedelta(hours=3, minutes=58), START + timedelta(hours=3, minutes=59))
    assert DEVICES.resolve_as_of(full, None, START + timedelta(hours=4)) == START + 4 * HOUR
    assert DEVICES.resolve_as_of(tables, START + timedelta(hours=2, minutes=30), after) == START + 2 * HOUR
    assert DEVICES.resolve_as_of(tables, datetime(2026, 1, 1, 3), after) == START + 3 * HOUR
    for wrong in (date(2025, 12, 31), date(2026, 1, 2), START + timedelta(days=2), START - HOUR):
        with pytest.raises(ContractError, match="--as-of"):
            DEVICES.resolve_as_of(tables, wrong, after)
    with pytest.raises(ContractError, match="the table has no rows"):
        DEVICES.resolve_as_of(table_of(), None, after)


def test_simulated_devices_do_not_depend_on_the_chunk_they_are_made_in():
    whole, part = simulate(7, START, 200), simulate(2, START, 200, first=4)
    assert np.array_equal(whole.grid.values[20:30], part.grid.values, equal_nan=True)
    assert whole.traits[20:30].equals(part.traits)


@pytest.fixture(scope="module")
def sensor_file():
    data = Path(os.environ.get("ALMANAC_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "sensors" / "sensor_data.csv"
    if not path.exists():
        pytest.skip(
            f"{path} is not there; set ALMANAC_TEST_DATA to the folder that holds sensors/sensor_data.csv"
        )
    columns = pl.read_csv(path).rename({"TS": "time", "Device": "device", "Tag": "tag", "Value": "value"})
    good, bad = check_raw(columns, datetime(2026, 1, 1, tzinfo=UTC), timezone="UTC")
    readings = aggregate(points(good, timedelta(minutes=1)))
    assert readings["count"].sum() + bad.height == columns.height
    return readings.with_columns(shard=pl.lit(0))


@pytest.mark.parametrize("detector", ["auto", "one_class_svm"])
def test_the_sensor_file_is_scored_on_every_interval_and_the_svms_labels_are_scikit_learns(
    sensor_file, detector
):
    tables, options = {"readings": sensor_file.lazy()}, {"detector": detector, "alpha": 0.01}
    as_of = DEVICES.resolve_as_of(tables, None, datetime(2026, 1, 1, tzinfo=UTC))
    assert as_of == datetime(2018, 8, 29, 4, tzinfo=UTC)
    context = DEVICES.context(tables, as_of, options)
    parts = {n: f.lazy() for n, f in DEVICES.prepare_shard(tables, context, as_of, options).items()}
    bundle = DEVICES.fit(parts, context, as_of, options)
    model, rows = DEVICES.load(bundle.files), []
    for hour in range(4, -1, -1):
        end = as_of - hour * HOUR
        keys = DEVICES.requested_keys(tables, end, options).collect()
        assert keys.height == 18
        rows.append(DEVICES.score(model, tables, {}, keys, end, options).rows)
    table = pl.concat(rows)
    own = table.filter(pl.col("value").is_not_null(), pl.col("tag") != JOINT_TAG)
    assert_frame_equal(
        own.select(*KEY, "time", "value").sort(*KEY, "time"),
        sensor_file.select(*KEY, "time", pl.col("mean").alias("value")).sort(*KEY, "time"),
    )
    assert own["p_value"].is_not_null().all()
    assert 0 < own["is_anomaly"].mean() < 0.03
    if detector == "auto":
        return
    grid = grid_of(
        sensor_file, own.select(KEY).unique(), sensor_file["time"].min(), as_of, timedelta(minutes=1)
    )
    part = fit_columns(grid)
    for key, values in zip(grid.keys.rows(), grid.values, strict=True):
        window = values[part & ~np.isnan(values), None]
        svm = make_pipeline(StandardScaler(), OneClassSVM(nu=0.01)).fit(window)
        sensor_rows = own.filter(device=key[0], tag=key[1])
        assert (
            (svm.predict(sensor_rows["value"].to_numpy()[:, None]) == -1)
            == (sensor_rows["score"].to_numpy() >= 0)
        ).all()
