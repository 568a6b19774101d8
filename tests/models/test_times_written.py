"""Times and dates as people write them."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contracts import ROW, RULE, accept
from models.errors import ContractError
from models.far_times import far_from_others
from models.machines.contracts import Events
from models.times import days, utc

WRITTEN = {
    "ISO": "%Y-%m-%d %H:%M:%S",
    "ISO with T and Z": "%Y-%m-%dT%H:%M:%SZ",
    "ISO with seven digits": "%Y-%m-%dT%H:%M:%S.0000000Z",
    "ISO with an offset": "%Y-%m-%dT%H:%M:%S+00:00",
    "UTC in words": "%Y-%m-%d %H:%M:%S UTC",
    "compact": "%Y%m%dT%H%M%SZ",
    "fourteen digits": "%Y%m%d%H%M%S",
    "slashes": "%Y/%m/%d %H:%M:%S",
    "dots": "%d.%m.%Y %H:%M:%S",
    "day first": "%d/%m/%Y %H:%M:%S",
    "month first": "%m/%d/%Y %I:%M:%S %p",
    "seconds": "%s",
}
MOMENTS = st.lists(
    st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)).map(lambda at: at.replace(microsecond=0)),
    min_size=1,
    max_size=10,
)


def text(moment: datetime, form: str) -> str:
    return str(int(moment.replace(tzinfo=UTC).timestamp())) if form == "%s" else moment.strftime(form)


@pytest.mark.slow
@pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN)
@settings(max_examples=4)
@given(moments=MOMENTS)
def test_a_time_means_the_same_however_it_is_written(form, moments):
    order = {"%d/": "day-first", "%m/": "month-first"}.get(form[:3])
    texts = pl.Series("time", [text(moment, form) for moment in moments])
    assert utc(texts, "UTC", order).dt.replace_time_zone(None).to_list() == moments
    assert days(texts, order).to_list() == [moment.date() for moment in moments]


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.String])
def test_numbers_since_1970_are_told_apart_by_their_size(factor, dtype):
    numbers = pl.Series("time", [1_704_441_600 * factor]).cast(dtype)
    assert utc(numbers, None).to_list() == [datetime(2024, 1, 5, 8, tzinfo=UTC)]


def test_milliseconds_that_begin_like_a_date_of_another_century_are_milliseconds():
    numbers = pl.Series("week", ["1707091200000", "1672617600000"])
    assert days(numbers).to_list() == [date(2024, 2, 5), date(2023, 1, 2)]


@pytest.mark.parametrize(
    "value",
    [
        "2024-01-29",
        "2024/1/29",
        "20240129",
        20240129,
        "2024-W05",
        "2024W051",
        "2024-S05",
        "S05/2024",
        "29.1.24",
        "29 01 2024",
        "Week Ending 01-29-24",
        "1 w/e 01/29/24",
        "Jan 29, 2024",
    ],
)
def test_a_date_is_read_in_each_of_its_forms_and_is_the_start_of_its_day_where_a_time_is_meant(value):
    values = pl.Series("week", [value])
    assert days(values).to_list() == [date(2024, 1, 29)]
    assert utc(values, "Europe/Zurich").to_list() == [datetime(2024, 1, 28, 23, tzinfo=UTC)]


def test_a_time_with_an_offset_is_on_the_day_that_it_names():
    assert days(pl.Series(["2024-01-05T23:00:00-05:00"])).to_list() == [date(2024, 1, 5)]
    assert utc(pl.Series(["2024-01-05T23:00:00-05:30"]), None).to_list() == [
        datetime(2024, 1, 6, 4, 30, tzinfo=UTC)
    ]


def test_one_date_that_allows_one_order_only_settles_it_for_the_column():
    assert days(pl.Series(["05/01/2024", "25/01/2024"])).to_list() == [date(2024, 1, 5), date(2024, 1, 25)]
    assert days(pl.Series(["05/01/2024", "01/25/2024"])).to_list() == [date(2024, 5, 1), date(2024, 1, 25)]


@pytest.mark.parametrize("values", [["05/01/2024", "06/01/2024"], ["25/01/2024", "01/25/2024"]])
def test_dates_that_allow_both_orders_or_none_are_refused_with_the_option(values):
    with pytest.raises(ContractError, match=r"week: .*01/.*2024.*--dates day-first"):
        days(pl.Series("week", values))
    assert days(pl.Series("week", values), "day-first")[0] is not None


@pytest.mark.parametrize(
    "value", ["2024-13-01", "yesterday", "12", "01-2124", "nan", "9" * 400, "2024-W60", ""]
)
def test_what_is_no_time_is_unknown(value):
    assert utc(pl.Series([value]), "UTC").to_list() == [None]
    assert days(pl.Series([value])).to_list() == [None]


@pytest.mark.parametrize(
    "values",
    [
        ["202405", "202414"],
        [202405, 202414],
        ["05.2024", "14.2024"],
        ["2024 5", "2024 14"],
        ["5/2024", "14/2024"],
    ],
)
def test_a_year_and_a_number_are_a_week_where_a_number_is_above_twelve(values):
    assert days(pl.Series("week", values)).to_list() == [date(2024, 1, 29), date(2024, 4, 1)]
    with pytest.raises(ContractError, match=r"week: .*weeks or months.*--dates year-week"):
        days(pl.Series("week", values[:1]))
    assert days(pl.Series("week", values[:1]), "year-week").to_list() == [date(2024, 1, 29)]
    with pytest.raises(
        ContractError, match=r"week: values such as 2024-12 are months\. Expected days or weeks\.$"
    ):
        days(pl.Series("week", ["2024-12", "2025-01"]))
    mistake = pl.Series("week", [*["2024-01-29"] * 30, "2024-13"])
    assert days(mistake).null_count() == 1


@pytest.mark.parametrize(
    "value",
    [
        "29-JAN-24 02.30.00.000000 PM", "29/Jan/2024:14:30:00 +0000", "Mon, 29 Jan 2024 14:30:00 GMT",
        "29.01.2024, 14:30 Uhr",
        "2024-01-29 14:30:00:000", "2024-01-29-14.30.00.000000", "14:30 29.01.2024", "2024-01-29 15:30 CET",
        "1/29/2024 2:30:00 p.m.", "1/29/2024 9:30 AM EST", "2024-01-29T15:30:00+01:00[Europe/Berlin]", "2024 1 29 14:30",
        "2024-01-29 00:00:00 14:30:00", "2024-01-29 1899-12-31 14:30:00.000",
        "/Date(1706538600000)/", "1706538600,0", "29 de enero de 2024 14:30",
        "Mon Jan 29 14:30:00 2024", "Mon Jan 29 2024 15:30:00 GMT+0100 (Central European Time)", "2024-01-29 15:30 UTC+1",
        "29.01.2024 14h30", "'2024-01-29 14:30", "2024-01-29T14:30:00+00:00Z", "29JAN2024:14:30:00", "2024年1月29日 14:30",
        "29 stycznia 2024 14:30", "29. ledna 2024 14:30", "29 Ocak 2024 14:30", "29. tammikuuta 2024 14:30",
        "29 января 2024 14:30", "2024. január 29. 14:30", "2024.01.29. 14:30", "29 Ιανουαρίου 2024 14:30",
        "Montag, 29. Januar 2024 14:30", "20240129 143000.000",
    ],
)  # fmt: skip
def test_times_of_databases_logs_and_people_are_read(value):
    assert utc(pl.Series([value]), "UTC").to_list() == [datetime(2024, 1, 29, 14, 30, tzinfo=UTC)]
    assert days(pl.Series([value])).to_list() == [date(2024, 1, 29)]


@pytest.mark.parametrize(
    ("names", "month"),
    [
        ("marraskuuta November kasım listopadu", 11),
        ("července juillet temmuz", 7),
        ("června czerwca iunie", 6),
    ],
)
def test_months_that_begin_alike_are_told_apart(names, month):
    dates = [f"5. {name} 2024" for name in names.split()]
    assert days(pl.Series(dates)).to_list() == [date(2024, month, 5)] * len(dates)


def test_a_day_and_an_hour_may_be_one_number():
    times = utc(pl.Series(["2024012914", "2024123123"]), "UTC")
    assert times.to_list() == [datetime(2024, 1, 29, 14, tzinfo=UTC), datetime(2024, 12, 31, 23, tzinfo=UTC)]
    assert utc(pl.Series([2024012914, 1706538600]), "UTC").dt.day().to_list() == [29, 29]


def test_the_days_of_a_week_may_have_one_year_which_is_that_of_the_last_day():
    weeks = pl.Series(["30.12.-05.01.2025", "6.1. bis 12.1.2025", None, "13.01 - 19.01.2025"])
    assert days(weeks).to_list() == [date(2024, 12, 30), date(2025, 1, 6), None, date(2025, 1, 13)]


@pytest.mark.parametrize(
    "value", ["W/C 29/01/2024", "Week of 1/29/2024", "2024-01-29 - 2024-02-04", "29.01.2024 bis 04.02.2024"]
)
def test_a_week_may_be_written_by_its_first_day_or_both_ends(value):
    assert days(pl.Series("week", [value])).to_list() == [date(2024, 1, 29)]
    assert days(pl.Series("week", ["29.01.2024 - 10:00"])).to_list() == [None]


def test_numbers_that_a_spreadsheet_has_shortened_are_no_times_and_such_as_are_round_among_others_are():
    assert utc(pl.Series(["1.70649E+12", "1.7065E+12"]), "UTC").to_list() == [None, None]
    assert utc(pl.Series(["1706486400", "1.7e+09"]), "UTC").null_count() == 0


@pytest.mark.parametrize("value", ["202401282400", "20240128T240000", "2024-01-28 12 PM"])
def test_midnight_and_noon_may_be_short(value):
    hour = datetime(2024, 1, 28, 12, tzinfo=UTC) if "PM" in value else datetime(2024, 1, 29, tzinfo=UTC)
    assert utc(pl.Series([value]), "UTC").to_list() == [hour]
    assert utc(pl.Series([202401282500]), "UTC").to_list() == [None]


def test_a_time_may_name_its_zone():
    times = pl.Series(
        [
            "2024-01-29 15:30 Europe/Zurich",
            "29.07.2024 10:30:00 America/New_York",
            "2024-01-29 15:30 Some/Where",
        ]
    )
    expected = [datetime(2024, 1, 29, 14, 30, tzinfo=UTC), datetime(2024, 7, 29, 14, 30, tzinfo=UTC), None]
    assert utc(times, "Asia/Tokyo").to_list() == expected
    assert utc(times[:2], None).to_list() == expected[:2]
    assert days(times[:2]).to_list() == [date(2024, 1, 29), date(2024, 7, 29)]


def test_an_hour_may_stand_beside_its_date():
    times = utc(pl.Series(["2024-01-29 5", "29.1.2024 24"]), "UTC")
    assert times.to_list() == [datetime(2024, 1, 29, 5, tzinfo=UTC), datetime(2024, 1, 30, tzinfo=UTC)]


def test_months_are_read_in_the_languages_of_europe():
    names = """january enero gennaio januari styczeń février fevereiro febbraio luty märz mars março marzo maart marzec avril
    abril kwiecień mai mayo maggio maio mei maj juin giugno czerwiec juillet luglio lipiec août ago agosto sierpień settembre
    setembro wrzesień octobre ottobre outubro październik novembre listopad décembre dicembre dezembro grudzień desember"""
    numbers = (
        [1] * 5
        + [2] * 4
        + [3] * 6
        + [4] * 3
        + [5] * 6
        + [6] * 3
        + [7] * 3
        + [8] * 4
        + [9] * 3
        + [10] * 4
        + [11] * 2
        + [12] * 5
    )
    dates = days(pl.Series([f"9 {name} 2024" for name in names.split()]))
    assert dates.dt.month().to_list() == numbers


def test_a_year_that_comes_first_is_known_by_its_few_values():
    assert days(pl.Series(["24/01/15", "24/01/22"])).to_list() == [date(2024, 1, 15), date(2024, 1, 22)]
    assert days(pl.Series(["15/01/24", "22/01/24"])).to_list() == [date(2024, 1, 15), date(2024, 1, 22)]


def test_a_few_times_far_from_all_others_are_told_apart_and_a_long_range_is_not():
    usual = [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in range(200)]
    odd = [datetime(1970, 1, 1), datetime(2199, 1, 1)]
    assert far_from_others(pl.Series([*odd, *usual])).to_list() == [True, True, *[False] * 200]
    assert not far_from_others(pl.Series([datetime(2000 + year, 1, 1) for year in range(40)])).any()
    assert not far_from_others(
        pl.Series([datetime(2010, 1, 1), *[datetime(2024, 1, d) for d in range(1, 5)]])
    ).any()


def test_rows_after_the_clock_and_far_from_all_others_go_to_quarantine_with_the_rule():
    times = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(30)]
    times += [datetime(2099, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
    raw = pl.DataFrame({"machine_id": "1", "time": times, "component": "pump"}).with_row_index(ROW)
    accepted = accept(
        raw, Events, ("machine_id", "time"), covariates=False, timezone=None,
        latest=datetime(2024, 3, 1, tzinfo=UTC),
    )  # fmt: skip
    assert accepted.good["time"].to_list() == times[:30]
    assert accepted.bad.sort(ROW)[RULE].to_list() == ["time|in_future", "time|far_from_others"]


@pytest.mark.parametrize("pattern", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M"])
def test_the_order_of_rows_tells_which_of_two_hours_is_meant(pattern):
    first = datetime(2026, 10, 24, 22, tzinfo=UTC)
    moments = [first + timedelta(minutes=10 * n) for n in range(150)]
    local = pl.Series("time", [m.astimezone(ZoneInfo("Europe/Berlin")).strftime(pattern) for m in moments])
    assert utc(local, "Europe/Berlin").to_list() == moments
    several = [m for m in moments for _ in range(3)]
    interleaved = local.gather([n for n in range(150) for _ in range(3)])
    assert utc(interleaved, "Europe/Berlin").to_list() == several
    assert utc(local.reverse(), "Europe/Berlin").to_list() == moments[::-1]


@pytest.mark.parametrize(
    "clocks", [["01:50", "02:10", "02:40", "03:10"], ["02:40", "02:10"] * 2, ["02:50", "02:40", "02:05"]]
)
def test_where_the_order_does_not_tell_which_of_two_hours_is_meant_none_is_guessed(clocks):
    times = utc(pl.Series("time", [f"2026-10-25 {clock}" for clock in clocks]), "Europe/Berlin")
    assert [t for clock, t in zip(clocks, times, strict=True) if clock.startswith("02")] == [None] * (
        sum(clock.startswith("02") for clock in clocks)
    )


def test_days_as_excel_counts_them_are_read_where_all_numbers_are_such():
    assert utc(pl.Series(["45320.5416666667", "45321"]), "UTC").dt.hour().to_list() == [13, 0]
    assert utc(pl.Series([45320.0, 17.0]), "UTC").to_list() == [None, None]


@pytest.mark.parametrize("text", ["29-01-24", "29-01-24 00:00", "29-01-24 00:00:00", "29/01/24"])
def test_a_year_of_two_digits_is_not_one_of_the_first_century(text):
    assert utc(pl.Series([text]), "UTC").to_list() == [datetime(2024, 1, 29, tzinfo=UTC)]
    assert days(pl.Series([text])).to_list() == [date(2024, 1, 29)]
    for unclear in ("01-02-24", "01-02-24 10:00"):
        with pytest.raises(ContractError, match="--dates"):
            utc(pl.Series([unclear]), "UTC")


def test_a_year_of_two_digits_that_may_be_first_or_last_is_not_guessed():
    latest = datetime(2026, 3, 2, tzinfo=UTC)
    one_day = ["26-03-01 10:00", "26-03-01 11:00"]
    for values in (one_day, ["14-03-26", "15-03-25"]):
        with pytest.raises(
            ContractError, match=r"week: dates such as .*--dates day-first or --dates year-first\.$"
        ):
            days(pl.Series("week", values), latest=latest)
    hours = [datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in (10, 11)]
    assert utc(pl.Series(one_day), "UTC", "year-first", latest).to_list() == hours
    assert days(pl.Series(["26.3.1", "2026-03-01"]), "year-first").to_list() == [date(2026, 3, 1)] * 2
    assert days(pl.Series(["26-03-01"]), "day-first", latest).to_list() == [date(2001, 3, 26)]
    assert days(pl.Series(["26-03-01", "26-03-02"]), latest=latest).dt.year().to_list() == [2026, 2026]


@pytest.mark.parametrize(("value", "day"), [("29-01-24", 29), ("24/01/29", 29), ("24-01-24", 24)])
def test_the_year_of_two_digits_is_the_one_that_has_come(value, day):
    latest = datetime(2026, 3, 2, tzinfo=UTC)
    assert days(pl.Series([value]), latest=latest).to_list() == [date(2024, 1, day)]
