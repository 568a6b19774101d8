"""Clocks that are wrong by seconds or years, and fleets that only stood still."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW, RULE
from models.machines.clocks import span
from models.machines.contracts import TABLES, interval_hours
from models.machines.features import windows
from models.machines.findings import stray_clocks
from models.machines.options import Options
from models.machines.scenario import MACHINES

START = datetime(2024, 3, 1, tzinfo=UTC)
LAST = START + timedelta(hours=99)


def readings(times: list[datetime], machines: tuple[str, ...] = ("a", "b", "c")) -> pl.DataFrame:
    frame = pl.DataFrame({"time": pl.Series(times, dtype=pl.Datetime("us", "UTC"))})
    return frame.join(pl.DataFrame({"machine_id": machines}), how="cross").with_columns(vib=1.0)


HOURLY = readings([START + timedelta(hours=h) for h in range(100)])


@pytest.mark.parametrize("year", [1970, 2000, 2038])
def test_one_clock_that_is_years_off_moves_neither_end_of_the_data(year):
    stray = readings([datetime(year, 1, 1, tzinfo=UTC)], machines=("b",))
    tables = {"telemetry": pl.concat([HOURLY, stray]).lazy()}
    assert MACHINES.resolve_as_of(tables, None, LAST) == LAST
    context = MACHINES.context(tables, datetime(2040, 1, 1, tzinfo=UTC), {})
    assert context["observed"].select("first", "last").row(0) == (START, LAST)
    assert stray_clocks(tables["telemetry"])["machine_id"].to_list() == ["b"]


def test_a_fleet_that_comes_back_after_half_a_year_is_believed():
    back = LAST + timedelta(days=200)
    telemetry = pl.concat([HOURLY, readings([back])]).lazy()
    assert span(telemetry).last == back
    assert stray_clocks(telemetry).is_empty()


def test_rows_that_are_more_than_a_few_are_believed():
    later = [LAST + timedelta(days=200, hours=h) for h in range(10)]
    assert span(pl.concat([HOURLY, readings(later, machines=("a",))]).lazy()).last == later[-1]


def test_telemetry_of_the_future_goes_to_quarantine():
    ahead = datetime.now(UTC) + timedelta(days=400)
    raw = readings([START, ahead], machines=("a",)).with_row_index(ROW, offset=1)
    result = TABLES["telemetry"].accept(raw, {"timezone": "UTC"})
    assert result.good["time"].to_list() == [START]
    assert result.bad.select(ROW, RULE).rows() == [(2, "time|in_future")]


@pytest.mark.parametrize("hours", [1 / 6, 1.0, 6.0, 24.0])
def test_clocks_that_jitter_by_seconds_do_not_change_the_interval(hours):
    rng = np.random.default_rng(3)
    times = [START + timedelta(hours=hours * i, seconds=float(rng.uniform(-5, 5))) for i in range(200)]
    without_gaps, with_gaps = readings(times, ("a",)), readings(times[:80] + times[120:], ("a",))
    for telemetry in (without_gaps, with_gaps):
        assert interval_hours(telemetry.lazy()) == pytest.approx(hours, rel=1e-12)
    usable = windows(hours, Options())
    assert usable == windows(interval_hours(without_gaps.lazy()) or 0.0, Options())
    assert usable.hours
