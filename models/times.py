"""Times: text and local clocks -> UTC, and when a day ends.

A date as `as_of` means the same in every scenario: that day is used, all of it, until it ends in `ALMANAC_TIMEZONE`.
Sales use the week that it belongs to, devices its hours up to the last one, machines its telemetry up to the last.
"""

import os
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from models.errors import ContractError

TIME = pl.Datetime("us", "UTC")


def utc(times: pl.Series, timezone: str | None) -> pl.Series:
    """`times` as UTC in microseconds, null where they cannot be read; under the same name.

    Text may carry an offset (`2018-08-28T23:00:05+02:00`, `…Z`). Raises `ContractError` where times
    have no offset and `timezone` is None, and for an unknown `timezone`.
    """
    if timezone is not None:
        _known_timezone(timezone)
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None:
        return times.dt.convert_time_zone("UTC").cast(TIME)
    if isinstance(times.dtype, pl.Datetime):
        return _located(times.cast(pl.Datetime("us")), timezone)
    text = times.cast(pl.String).str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ")
    offset = text.str.contains(r"\d(Z|[+-]\d\d:?\d\d)$").fill_null(False)
    with_offset = (
        text.filter(offset).str.replace(r"Z$", "+0000").str.replace(r"([+-]\d\d):(\d\d)$", "${1}${2}")
    )
    parsed = _parse(with_offset, ["%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M%z"], TIME)
    local = _located(
        _parse(text.filter(~offset), ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"], pl.Datetime("us")), timezone
    )
    place = pl.int_range(times.len(), eager=True)
    order = pl.concat([place.filter(offset), place.filter(~offset)]).arg_sort()
    return pl.concat([parsed, local])[order].alias(times.name)


def local_timezone() -> ZoneInfo:
    """The time zone by which days and weeks end: `ALMANAC_TIMEZONE`, or UTC. Raises `ContractError` for an unknown one."""
    name = os.environ.get("ALMANAC_TIMEZONE") or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ContractError(
            f"ALMANAC_TIMEZONE={name} is not known. Expected a name such as UTC or Europe/Zurich."
        ) from None


def local_day(now: datetime) -> date:
    """The day that it is at `now` in `local_timezone`."""
    return now.astimezone(local_timezone()).date()


def start_of(day: date) -> datetime:
    """The moment in UTC at which a day begins in `local_timezone`, also where its clock changes on that day."""
    return datetime.combine(day, time(), local_timezone()).astimezone(UTC)


def end_of(day: date) -> datetime:
    """The moment in UTC at which a day ends in `local_timezone`: the next one begins."""
    return start_of(day + timedelta(days=1))


def _parse(text: pl.Series, formats: list[str], dtype: pl.Datetime) -> pl.Series:
    found = pl.Series(text.name, [None] * text.len(), dtype=dtype)
    for form in formats:
        found = found.fill_null(text.str.to_datetime(form, strict=False, time_unit="us").cast(dtype))
    return found


def _located(naive: pl.Series, timezone: str | None) -> pl.Series:
    """Local times as UTC; null where the clock shows them twice or never."""
    if timezone is None:
        found = naive.drop_nulls()
        if found.len():
            raise ContractError(
                f"{naive.name}: times carry no time zone, e.g. {found[0]}. Expected an offset such as "
                f"{found[0].isoformat()}Z, or say what they are in with --timezone, e.g. --timezone UTC."
            )
        return pl.Series(naive.name, [None] * naive.len(), dtype=TIME)
    there = naive.dt.replace_time_zone(timezone, ambiguous="null", non_existent="null")
    return there.dt.convert_time_zone("UTC")


def _known_timezone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ContractError(
            f"--timezone is '{timezone}', which is not known. Expected a name such as UTC or Europe/Zurich."
        ) from error
