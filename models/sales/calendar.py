"""Weeks: the last complete one, and the week of a given day."""

from datetime import date, datetime, timedelta

import polars as pl

from models.errors import ContractError
from models.moments import local_day

WEEK = timedelta(weeks=1)


def resolve_as_of(history: pl.LazyFrame, as_of: date | None, now: datetime) -> date:
    """First day of the last week that may be used: the week of `as_of`, or the last complete week at `now`.

    Days end in `ALMANAC_TIMEZONE`: on Monday morning, the week before is complete, whatever the day is in UTC.
    Weeks without any rows also count; weeks start on the history's week anchor. Raises `ContractError`
    if `as_of` is before the first week of the history or after its last.
    """
    first, last = (
        history.select(pl.col("week").min().alias("first"), pl.col("week").max().alias("last"))
        .collect()
        .row(0)
    )
    if first is None:
        raise ContractError("history: the table has no rows. Ingest sales first.")
    today = local_day(now)
    while last + WEEK > today and last > first:
        last -= WEEK
    if as_of is None:
        return last
    day = _day(as_of)
    if day >= last + WEEK:
        raise ContractError(
            f"--as-of {day}: after the last complete week of the history, which starts on {last}. "
            "Ingest newer sales, or choose a day up to the end of that week."
        )
    if day < first:
        raise ContractError(
            f"--as-of {day}: before the data; the first week of the history starts on {first}. "
            f"Choose a day from {first} to {last}."
        )
    return first + WEEK * ((day - first) // WEEK)


def incomplete_weeks(history: pl.LazyFrame, newest: date) -> list[str]:
    """A note on the weeks of the history after `newest`, the last complete week, if there are any."""
    later = history.filter(pl.col("week") > newest).group_by("week").len("rows").sort("week").collect()
    if later.is_empty():
        return []
    weeks = ", ".join(f"{week} ({rows:,} rows)" for week, rows in later.iter_rows())
    last = later["week"][-1]
    return [
        f"Left out because they are incomplete: the weeks of {weeks}. A week counts once its seven days are over: the "
        f"week of {last} counts from {last + WEEK}. If these dates are the last days of weeks, ingest with --week-ending."
    ]


def _day(as_of: date) -> date:
    """The day of a time in `ALMANAC_TIMEZONE`; as written if the time has no offset."""
    if not isinstance(as_of, datetime):
        return as_of
    return local_day(as_of) if as_of.tzinfo else as_of.date()
