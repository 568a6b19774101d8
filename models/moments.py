"""Days, moments and durations: when a day ends, and how people read each of them.

A date as `as_of` means the same in every scenario: all of that day is used, until it ends in `ALMANAC_TIMEZONE`.
Sales use the week that contains the day, devices all of its hours, machines all of its telemetry.
"""

import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from models.errors import ContractError

_ISO_MOMENT = re.compile(r"(\d)[T ](\d\d:\d\d):\d\d(?:\.\d+)?\+00:00")


def is_timezone(name: str) -> bool:
    """Whether there is a time zone of that name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def local_timezone() -> ZoneInfo:
    """The time zone in which days and weeks end: `ALMANAC_TIMEZONE`, or UTC. Raises `ContractError` if it is unknown."""
    name = os.environ.get("ALMANAC_TIMEZONE") or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ContractError(
            f"ALMANAC_TIMEZONE={name} is not a known time zone. Expected a name such as UTC or Europe/Zurich."
        ) from None


def local_day(now: datetime) -> date:
    """The day at `now` in `local_timezone`."""
    return now.astimezone(local_timezone()).date()


def start_of(day: date) -> datetime:
    """The moment in UTC at which a day begins in `local_timezone`, even if its clock changes on that day."""
    return datetime.combine(day, time(), local_timezone()).astimezone(UTC)


def end_of(day: date) -> datetime:
    """The moment in UTC at which a day ends in `local_timezone` and the next one begins."""
    return start_of(day + timedelta(days=1))


def as_moment(when: date, of_day: Callable[[date], datetime] = start_of) -> datetime:
    """A time with its offset (by default UTC); a day becomes its start or, with `end_of`, its end."""
    if not isinstance(when, datetime):
        return of_day(when)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def time_text(when: date) -> str:
    """A day, or a moment in UTC to the minute, as text for people.

    >>> time_text(datetime(2026, 3, 3, 4, 30, tzinfo=UTC)), time_text(date(2026, 3, 3))
    ('2026-03-03T04:30Z', '2026-03-03')
    """
    return f"{as_moment(when).astimezone(UTC):%Y-%m-%dT%H:%MZ}" if isinstance(when, datetime) else f"{when}"


def shortened(text: str) -> str:
    """`text` with the ISO moments in UTC that it contains as `time_text` writes them.

    >>> shortened("from 2026-03-03T04:30:00+00:00 to 2026-03-04 00:00:00+00:00")
    'from 2026-03-03T04:30Z to 2026-03-04T00:00Z'
    """
    return _ISO_MOMENT.sub(r"\1T\2Z", text)


def in_words(duration: timedelta) -> str:
    """A duration in whole days, or in hours if it is less than two days.

    >>> in_words(timedelta(hours=1)), in_words(timedelta(days=1)), in_words(timedelta(days=1023, hours=3))
    ('1 hour', '24 hours', '1,023 days')
    """
    hours = round(duration / timedelta(hours=1))
    if hours >= 48:
        return f"{hours // 24:,} days"
    return "1 hour" if hours == 1 else f"{hours} hours"
