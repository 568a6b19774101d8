"""Verdicts of people on ranges of time."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from flows.parameters import ParameterError
from flows.verdicts import of_range, refuse_unknown


def test_a_day_that_ends_a_range_is_a_part_of_it_where_the_clocks_of_the_store_are(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", "Europe/Berlin")
    row = of_range("d1", "*", date(2026, 10, 25), date(2026, 10, 25), "muted")
    assert row.select("start", "end").row(0) == (
        datetime(2026, 10, 24, 22, tzinfo=UTC),
        datetime(2026, 10, 25, 23, tzinfo=UTC),
    )
    times = datetime(2026, 10, 25, 10), datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert of_range("d1", "*", *times, "fault")["start"].item() == datetime(2026, 10, 25, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("device", "tag", "message"),
    [
        ("PUMP-71", "*", "--device is 'PUMP-71', which has no readings. Expected one such as PUMP-7."),
        ("PUMP-7", "temp", "--tag is 'temp', which has no readings. Expected one such as temperature."),
    ],
)
def test_a_verdict_on_a_device_or_tag_without_readings_is_refused_with_names_like_it(
    store, device, tag, message
):
    rows = pl.DataFrame({"device": ["PUMP-7", "FAN"], "tag": ["temperature", "speed"]})
    store.overwrite("devices/readings", rows)
    refuse_unknown(store, pl.DataFrame({"device": ["PUMP-7"], "tag": ["temperature"]}))
    with pytest.raises(ParameterError, match=message):
        refuse_unknown(store, pl.DataFrame({"device": [device], "tag": [tag]}))
