"""Dates that can be read in several ways: what comes first in them, as their column shows or `--dates` says."""

from datetime import datetime
from typing import Literal

import polars as pl

from models.errors import ContractError

DateOrder = Literal["day-first", "month-first", "year-first", "year-week"]
"""What comes first in dates with slashes or hyphens and the year at the end; `year-first`: 24/01/29 is in 2024;
`year-week`: 202405 is a week of 2024."""
_YEAR_LAST = r"^(\d{1,2})[/ -](\d{1,2})[/ -](\d{4}|\d{2})\b"
_SHORT_YEAR_FIRST = r"^(\d\d)[/ .-](\d{1,2})[/ .-](\d{1,2})\b"
_YEAR_AND_NUMBER = r"^(?:((?:19|20)\d\d)[ /.-]?(\d{1,2})|(\d{1,2})[ /.-]((?:19|20)\d\d))$"
"""A year and the number of a week or a month in either order."""
_FEW = 0.05


def shown_order(values: pl.Series) -> DateOrder | None:
    """The order of day and month that text shows, in dates with the year last; None for others.

    >>> shown_order(pl.Series(["29/01/2024", "1/2/2024"])), shown_order(pl.Series(["1/2/2024"]))
    ('day-first', None)
    """
    if values.dtype != pl.String or not values.drop_nulls().head(1).str.contains(_YEAR_LAST).any():
        return None
    parts = values.str.strip_chars().str.extract_groups(_YEAR_LAST).struct.unnest()
    match _shown(parts["1"].cast(pl.Int64), parts["2"].cast(pl.Int64)):
        case (True, False):
            return "day-first"
        case (False, True):
            return "month-first"
    return None


def _shown(first: pl.Series, second: pl.Series) -> tuple[bool, bool]:
    """Whether a number shows that the day comes first, and whether one shows that the month does."""
    return bool((first > 12).any()), bool((second > 12).any())


def year_first(
    text: pl.Series, order: DateOrder | None, *, may_lack: bool, latest: datetime | None = None
) -> pl.Series:
    """Dates with slashes or hyphens and the year last as YYYY-MM-DD; unchanged if their order is unknown.

    The order is the one that fits all of them. 24/01/29 is in 2024 if all first numbers are above 12 and differ less
    than the last ones, or as much and only so no year is after `latest`; without `latest`, the day is first then. Raises
    `ContractError` if both orders fit or neither does, unless `may_lack`.
    """
    parts = text.str.extract_groups(_YEAR_LAST).struct.unnest()
    first, second, third = (parts[name].cast(pl.Int64) for name in ("1", "2", "3"))
    order = None if order == "year-week" else order
    if order is None and first.count() and (first > 12).all() and (third < 32).all():
        ends, begins = _fitting(first, third, latest)
        if ends and begins:
            if may_lack:
                return text
            raise ContractError(
                f"{text.name}: dates such as {text.filter(first.is_not_null())[0]} do not show whether the day or the year "
                "comes first. Choose --dates day-first or --dates year-first."
            )
        order = "year-first" if begins else None
    if order == "year-first":
        return text.str.replace(_SHORT_YEAR_FIRST, "20${1}-${2}-${3}")
    if order is None and first.count():
        day_first, month_first = _shown(first, second)
        if day_first != month_first:
            order = "day-first" if day_first else "month-first"
        elif not day_first and bool((first == second).filter(first.is_not_null()).all()):
            order = "day-first"
        elif not may_lack:
            unclear = [first > 12, second > 12] if day_first else [first != second]
            examples = " and ".join(str(text.filter(one.fill_null(False))[0]) for one in unclear)
            raise ContractError(
                f"{text.name}: dates such as {examples} do not show whether the day or the month comes first. "
                "Choose --dates day-first or --dates month-first; rows that do not fit go to quarantine."
            )
    if order is None:
        return text
    day, month = ("${1}", "${2}") if order == "day-first" else ("${2}", "${1}")
    long = text.str.replace(r"^(\d{1,2}[/-]\d{1,2}[/-])(\d{2})(\s|$)", "${1}20${2}${3}")
    return long.str.replace(_YEAR_LAST, f"${{3}}-{month}-{day}")


def _fitting(first: pl.Series, third: pl.Series, latest: datetime | None) -> tuple[bool, bool]:
    """Whether the year may end dates whose first and last numbers could all be days, and whether it may begin them."""
    if first.n_unique() != third.n_unique() or latest is None or (first == third).all():
        begins = first.n_unique() < third.n_unique()
        return not begins, begins
    return bool((third + 2000 <= latest.year).all()), bool((first + 2000 <= latest.year).all())


def with_weeks(dates: pl.Series, text: pl.Series, order: DateOrder | None) -> pl.Series:
    """`dates` with the Mondays of ISO weeks that are written as a year and a number, such as 202405.

    Raises `ContractError` if no number is above 12, so that all could be months, unless `order` is `year-week`. They are
    months if a year before the last one has a twelfth.
    """
    if are_few(text, _YEAR_AND_NUMBER):
        return dates
    parts = text.str.extract_groups(_YEAR_AND_NUMBER).struct.unnest()
    year, number = parts["1"].fill_null(parts["4"]), parts["2"].fill_null(parts["3"]).str.zfill(2)
    if order != "year-week" and not (number.cast(pl.Int64) > 12).any():
        pairs = pl.DataFrame({"year": year, "number": number}).drop_nulls()
        are_months = pairs.filter(pl.col("number") == "12", pl.col("year") < pairs["year"].max()).height > 0
        example = text.filter(number.is_not_null())[0]
        if are_months:
            raise ContractError(f"{text.name}: values such as {example} are months. Expected days or weeks.")
        raise ContractError(
            f"{text.name}: values such as {example} could be weeks or months. Expected days or weeks. If they are weeks of "
            "a year, add --dates year-week; months are not read."
        )
    weeks = (year + "-W" + number + "-1").str.to_date("%G-W%V-%u", strict=False)
    return dates.fill_null(weeks)


def are_few(text: pl.Series, pattern: str = _YEAR_LAST) -> bool:
    """Whether so few values match `pattern`, by default a date with the year last, that they are probably mistakes."""
    return int(text.str.contains(pattern).sum()) <= _FEW * text.len()
