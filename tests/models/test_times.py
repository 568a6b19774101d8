"""When days and weeks end: in the chain's own time zone, and a date means the same in all scenarios."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from models.devices.scenario import DEVICES
from models.errors import ContractError
from models.machines.scenario import MACHINES
from models.moments import end_of, local_day, start_of
from models.sales import SALES

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York", "Europe/Zurich"])
def zone(request, monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", request.param)
    return request.param


def history(*weeks):
    return {"history": pl.LazyFrame({"week": list(weeks)})}


def hourly(name: str, first: datetime, hours: int):
    times = [first + timedelta(hours=n) for n in range(hours)]
    return {name: pl.LazyFrame({"time": times}, schema={"time": pl.Datetime("us", "UTC")})}


def test_a_week_is_complete_as_soon_as_its_sunday_is_over_where_the_chain_is(zone):
    weeks = history(date(2026, 3, 16), date(2026, 3, 23))
    over = end_of(date(2026, 3, 29))
    assert SALES.resolve_as_of(weeks, None, over) == date(2026, 3, 23)
    assert SALES.resolve_as_of(weeks, None, over - timedelta(seconds=1)) == date(2026, 3, 16)


def test_a_day_has_23_hours_when_clocks_go_forward_and_25_when_they_go_back(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", "Europe/Zurich")
    lengths = [end_of(day) - start_of(day) for day in (date(2026, 3, 29), date(2026, 10, 25))]
    assert lengths == [timedelta(hours=23), timedelta(hours=25)]
    assert local_day(end_of(date(2026, 3, 29))) == date(2026, 3, 30)


def test_a_date_means_that_day_as_a_whole_in_every_scenario(zone):
    day = date(2026, 3, 25)
    first, end = start_of(date(2026, 3, 20)), end_of(day)
    assert SALES.resolve_as_of(history(date(2026, 3, 16), date(2026, 3, 23)), day, NOW) == date(2026, 3, 23)
    assert DEVICES.resolve_as_of(hourly("readings", first, 24 * 10), day, NOW) == end
    assert MACHINES.resolve_as_of(hourly("telemetry", first, 24 * 10), day, NOW) == end


def test_of_a_day_whose_data_end_before_it_does_what_there_is_is_used(zone):
    day = date(2026, 3, 25)
    begin, hour = start_of(day), timedelta(hours=1)
    assert DEVICES.resolve_as_of(hourly("readings", begin, 5), day, NOW) == begin + 5 * hour
    assert MACHINES.resolve_as_of(hourly("telemetry", begin, 5), day, NOW) == begin + 4 * hour
    for scenario, table in ((DEVICES, "readings"), (MACHINES, "telemetry")):
        with pytest.raises(ContractError, match="--as-of"):
            scenario.resolve_as_of(hourly(table, begin, 5), day + timedelta(days=2), NOW)


def test_an_unknown_time_zone_is_named(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", "Europe/Nowhere")
    with pytest.raises(ContractError, match="ALMANAC_TIMEZONE=Europe/Nowhere is not a known"):
        local_day(NOW)
