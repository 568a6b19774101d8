"""Days that are added up to weeks."""

from datetime import date, timedelta

import polars as pl
import pytest

from models.errors import ContractError
from models.sales.days import as_weeks

MONDAY = date(2024, 1, 1)


def days(first: date, count: int, step: int = 1, **columns) -> pl.DataFrame:
    dates = [first + timedelta(days=n * step) for n in range(count)]
    return pl.DataFrame({"sku": "A", "store": "S", "week": dates, **(columns or {"units": 1.0})})


def weeks_of(rows: pl.DataFrame, start: str = "monday") -> list[tuple[date, float]]:
    return as_weeks(rows, start, ("units",), "history").select("week", "units").rows()


def test_only_weeks_between_the_first_and_the_last_day_are_added_up():
    rows = days(MONDAY - timedelta(days=2), 20)
    assert weeks_of(rows) == [(MONDAY, 7), (MONDAY + timedelta(days=7), 7)]
    assert weeks_of(rows, "sunday") == [(MONDAY + timedelta(days=n), 7) for n in (-1, 6)]


def test_a_weekday_on_which_nothing_is_ever_sold_is_not_missed():
    rows = days(MONDAY, 13).filter(pl.col("week").dt.weekday() < 7)
    assert weeks_of(rows) == [(MONDAY, 6), (MONDAY + timedelta(days=7), 6)]


def test_a_key_without_sales_on_some_days_has_the_sum_of_the_others():
    rows = pl.concat([days(MONDAY, 14), days(MONDAY + timedelta(days=3), 1).with_columns(sku=pl.lit("B"))])
    assert weeks_of(rows)[2:] == [(MONDAY, 1)]


def test_prices_are_averaged_and_text_is_that_of_the_last_day():
    rows = days(MONDAY, 7, units=2.0, price=[1.0] * 6 + [8.0], kind=["a"] * 6 + ["b"])
    assert as_weeks(rows, "monday", ("units",), "history").row(0)[2:] == (MONDAY, 14, 2, "b")


def test_weeks_that_start_on_the_weekday_stay_and_others_and_months_are_refused():
    weeks = days(MONDAY, 5, step=7)
    assert as_weeks(weeks, "monday", ("units",), "plan").equals(weeks)
    for rows, start in ((weeks, "sunday"), (days(MONDAY, 5, step=31), "monday")):
        with pytest.raises(ContractError, match=r"plan: no week has two dates.*leave --daily out"):
            as_weeks(rows, start, ("units",), "plan")


def test_days_without_a_whole_week_are_refused():
    with pytest.raises(
        ContractError, match=r"days from 2024-01-02 to 2024-01-09 are no whole week from Monday"
    ):
        weeks_of(days(MONDAY + timedelta(days=1), 8))
