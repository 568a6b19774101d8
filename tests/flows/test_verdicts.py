"""Verdicts of people on ranges of time."""

from datetime import UTC, date, datetime

from flows.verdicts import of_range


def test_a_day_that_ends_a_range_is_a_part_of_it_where_the_clocks_of_the_store_are(monkeypatch):
    monkeypatch.setenv("ALMANAC_TIMEZONE", "Europe/Berlin")
    row = of_range("d1", "*", date(2026, 10, 25), date(2026, 10, 25), "muted")
    assert row.select("start", "end").row(0) == (
        datetime(2026, 10, 24, 22, tzinfo=UTC),
        datetime(2026, 10, 25, 23, tzinfo=UTC),
    )
    times = datetime(2026, 10, 25, 10), datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert of_range("d1", "*", *times, "fault")["start"].item() == datetime(2026, 10, 25, 10, tzinfo=UTC)
