"""Columns that reveal the outcome are found, and windows follow the interval of the telemetry."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.machines import horizons
from models.machines.features import feature_list, used_features, windows
from models.machines.leaks import leaks, only_before_failures, without_leaks
from models.machines.options import Options
from models.machines.vocabulary import Vocabulary

START = datetime(2024, 3, 1, tzinfo=UTC)
WORDS = Vocabulary(("life", "vib", "warning"), ("pump", "gear"), (), (), 1.0)


@pytest.fixture(scope="module")
def rows() -> pl.LazyFrame:
    """A machine that fails every thousand hours: its remaining life, a flag just before, and a sensor that wears.

    Within 12 hours after the failure before, a remaining life is still 0, and the flag 1.
    """
    rng = np.random.default_rng(5)
    remaining = np.tile(np.arange(1000.0, 0.0, -10.0), 30)
    life = np.where(remaining > 980, 0, remaining)
    values = {
        "life_mean_12h": life + rng.normal(0, 5, len(remaining)),
        "warning_mean_12h": (life <= 100).astype(float),
        "pump_replaced_days": (1000 - remaining) / 24,
        "gear_replaced_days": np.full(len(remaining), 1e3),
        "vib_mean_12h": np.exp(-remaining / 200) + rng.normal(0, 0.2, len(remaining)),
        "drawn": rng.uniform(size=len(remaining)),
    }
    nothing = pl.Series([None] * len(remaining), dtype=pl.Float64)
    names = {"pump|next_failure_hours": remaining, "gear|next_failure_hours": nothing}
    names["observed_hours"] = np.full(len(remaining), 1e3)
    times = [START + timedelta(hours=10 * i) for i in range(len(remaining))]
    return pl.DataFrame({"machine_id": ["m"] * len(remaining), "time": times, **values, **names}).lazy()


def test_a_remaining_life_and_a_warning_of_hindsight_are_found_and_a_worn_sensor_is_not(rows):
    reasons = leaks(rows, WORDS, 12, [100])
    assert set(reasons) == {"life", "warning"}
    assert reasons["life"] == "its rank correlation with the time to the next failure is 1.00"
    assert reasons["warning"] == "it alone separates rows before a failure from others in 100.0% of pairs"


def test_a_flag_of_the_shorter_of_two_horizons_is_found(rows):
    assert set(leaks(rows, WORDS, 12, [100, 300])) == {"life", "warning"}
    assert set(leaks(rows, WORDS, 12, [50, 300])) == {"life"}


def test_what_leaks_is_left_out_unless_it_is_to_be_kept_and_told_either_way(rows):
    options = Options.of({"horizons_hours": [24, 100]})
    words, notes = without_leaks(rows, WORDS, options)
    assert words.sensors == ("vib",)
    assert len(notes) == 2
    assert "left out. If it is known at that time, use --keep-column life" in notes[0]
    kept_words, messages = without_leaks(
        rows, WORDS, Options.of({"horizons_hours": [100], "keep_columns": ["life"]})
    )
    assert kept_words.sensors == ("life", "vib")
    assert "it is kept" in messages[0]


@pytest.mark.parametrize(
    ("interval", "days", "expected"),
    [
        (1.0, 400, (12, 24, 36)),
        (24.0, 400, (24, 120, 480)),
        (24.0, 120, (24, 120)),
        (24.0, 10, (24,)),
        (12.0, 400, (12, 60, 240)),
        (168.0, 3000, (168, 840, 3360)),
        (744.0, 3000, (744, 3720)),
        (730.0, 3000, (732, 3660)),
        (768.0, 3000, (768, 3840)),
        (24.1, 400, (24, 120, 480)),
        (2_500.0, 3000, (12, 24, 36)),
    ],
)
def test_windows_follow_the_interval_of_the_telemetry(interval, days, expected):
    options = Options().at_interval(interval, days * 24.0)
    assert options.windows_hours == expected
    assert options.normal_days >= 28
    assert bool(windows(interval, options).hours) == (interval < 2_400)


def test_windows_that_were_asked_for_are_kept():
    assert Options.of({"windows_hours": [48]}).at_interval(24.0, 9_600.0).windows_hours == (48,)


def test_daily_data_has_slopes_and_deviations():
    options = Options().at_interval(24.0, 24.0 * 120)
    words = Vocabulary(("vib",), ("pump",), (), (), 24.0)
    assert windows(24.0, options).spread == (120,)
    assert {"vib_slope_120h", "vib_std_120h", "vib_mean_24h"} <= {
        f.name for f in feature_list(words, options)
    }


@pytest.mark.parametrize("telling", [True, False])
def test_longer_windows_than_a_reading_are_learnt_from_where_they_help_on_other_machines(telling):
    """One sensor creeps up for ten days before a failure, or not: its single readings are mostly noise."""
    rng = np.random.default_rng(3)
    options, words = Options().at_interval(24.0, 24.0 * 400), Vocabulary(("vib",), ("pump",), (), (), 24.0)
    features = used_features(words, options)
    failed = rng.random(4_000) < 0.2
    columns = {f.name: rng.normal(size=4_000) for f in features}
    for name in ("vib_slope_120h", "vib_slope_480h"):
        columns[name] += 2.0 * failed * telling
    X = np.column_stack(list(columns.values())).astype(np.float32)
    machine = np.arange(4_000) // 100
    sample = horizons.Sample(
        X, np.ones(4_000), {"pump": failed}, machine, {"pump": np.ones(4_000, dtype=bool)}
    )
    work = horizons.Work(pl.LazyFrame(), words, features, options, [])
    hidden = horizons.hidden_features(work, sample, 24)
    assert bool(hidden) is not telling
    assert all(name.endswith(("120h", "480h")) for name in hidden)
    assert bool(work.notes) is not telling


@pytest.fixture(scope="module")
def daily_records() -> pl.LazyFrame:
    """Ten pumps fail every 20 days at 08:00; rows come every 12 hours.

    A label and an error are dated by the start of the day of the failure, a trip now and then without one.
    """
    rows = pl.DataFrame({"hour": np.arange(0, 24 * 200, 12)}).join(
        pl.DataFrame({"machine_id": [f"m{i}" for i in range(10)]}), how="cross"
    )
    hour, period = pl.col("hour"), 24 * 20
    into = (hour - 8) % period
    day = ((hour // 24 * 24) % period == 0).cast(pl.Float64)
    trip = ((hour % period == 0) | (hour % 1200 == 0)).cast(pl.Float64)
    return rows.select(
        "machine_id",
        time=pl.lit(START) + pl.duration(hours=hour),
        label_mean_12h=day,
        ok_mean_12h=1 - day,
        trip_mean_12h=trip,
        e9_count_24h=day,
        pump_replaced_days=into / 24,
        observed_hours=24.0 * 200 - hour,
        **{"pump|next_failure_hours": (period - into).cast(pl.Float64)},
    ).lazy()


def test_a_label_and_an_error_that_are_dated_by_the_day_of_the_failure_are_found(daily_records):
    names = {"label": "label_mean_12h", "ok": "ok_mean_12h", "trip": "trip_mean_12h", "e9": "e9_count_24h"}
    reasons = only_before_failures(daily_records, ["pump"], names, 12, 24)
    assert reasons == {
        "label": "it is above 0 only before failures, 100 of 100 of pump within 24 h",
        "ok": "it is below 1 only before failures, 100 of 100 of pump within 24 h",
        "e9": "it is above 0 only before failures, 100 of 100 of pump within 24 h",
    }


def test_an_error_that_is_dated_by_the_day_of_the_failure_is_left_out_unless_it_is_to_be_kept(daily_records):
    words = Vocabulary((), ("pump",), ("e8", "e9"), (), 1.0)
    rows = daily_records.with_columns(e8_count_24h=pl.col("trip_mean_12h"))
    left, notes = without_leaks(rows, words, Options())
    assert left.errors == ("e8",)
    assert notes[0].startswith("error e9: it is above 0 only before failures")
    assert without_leaks(rows, words, Options.of({"keep_columns": ["e9"]}))[0] == words
    *_, note = without_leaks(rows, words, Options.of({"keep_columns": ["e99"]}))[1]
    assert note == "--keep-column e99: no sensor or error has this name"
