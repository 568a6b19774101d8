"""Reads times as people write them, for all tables, as dates or moments in UTC; and says when a day ends.

It reads ISO 8601 (with `-`, `/` or nothing between the parts, with weeks such as 2024-W05, with or without an offset),
dd.mm.yyyy, dd/mm/yyyy or mm/dd/yyyy, names of months in several languages, AM and PM, seconds, milliseconds, microseconds or
nanoseconds since 1970, and days as Excel counts them. A date without a time is the start of that day; an ISO week is
its Monday.

A date as `as_of` means the same in every scenario: all of that day is used, until it ends in `ALMANAC_TIMEZONE`.
Sales use the week that contains the day, devices all of its hours, machines all of its telemetry.
"""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import polars as pl

from models.errors import ContractError
from models.time_notations import OFFSET, as_iso, tidied

TIME = pl.Datetime("us", "UTC")
DateOrder = Literal["day-first", "month-first", "year-week"]
"""What comes first in dates with slashes or hyphens and the year at the end; `year-week`: 202405 is a week of 2024."""
_CLOCK = pl.Datetime("us")
_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %I:%M:%S%.f %p", "%Y-%m-%d %I:%M %p",
    "%Y%m%d %H%M%S%.f", "%Y%m%d %H%M", "%Y%m%d%H%M%S",
)  # fmt: skip
_DAYS = ("%Y-%m-%d", "%Y%m%d", "%G-W%V-%u")
_YEAR_AND_NUMBER = r"^(?:((?:19|20)\d\d)[ /.-]?(\d{1,2})|(\d{1,2})[ /.-]((?:19|20)\d\d))$"
"""A year and the number of a week or a month in either order."""
_ZONE = r"\s([A-Z][A-Za-z]+(?:/[A-Za-z_+-]+)+)$"
"""The name of a time zone after a time."""
_MIDNIGHT = r" 24:00(:00)?(\.0+)?$"
"""The end of a day, as ISO 8601 allows it to be written."""
_YEAR_LAST = r"^(\d{1,2})[/ -](\d{1,2})[/ -](\d{4}|\d{2})\b"
_CLOCK_OF_UTC = r"^\d{4}-\d\d-\d\d[T ](\d\d:\d\d)(?::00)?(?:\.0+)?(?:Z|[+]00:?00)$"
_EAST = "13:00"
"""From this hour of UTC on, a new day may have begun east of Greenwich."""
_NUMBER = r"^(\d{5}|\d{8,19})(\.\d*)?$|^\d(\.\d+)?[eE]\+?\d{1,2}$"
_SHORTENED = r"^\d(\.\d{1,5})?[eE]"
"""A number that Excel has shortened to at most six digits."""
_DAY_AND_HOUR = r"^(20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3]))$"
"""2024012914, which as seconds since 1970 would be after 2033."""
_EPOCHS = {"s": 1e0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_FIRST_SECOND, _LAST_SECOND = 1e8, 4.2e9
"""Numbers are seconds (or milliseconds, and so on) since 1970 if that makes them times from 1973 to 2103."""
_EXCEL = 25_569
"""1970-01-01 as Excel counts days."""
_FIRST_DAY, _LAST_DAY = 36_526, 55_153
"""Numbers are days as Excel counts them if that makes all of them days from 2000 to 2050."""
_FEW = 0.05
_LONG = timedelta(days=366)
_FAR = 10
_HALF_AN_HOUR = timedelta(minutes=30)


def utc(times: pl.Series, timezone: str | None, order: DateOrder | None = None) -> pl.Series:
    """`times` as UTC in microseconds, under the same name; null if they cannot be read.

    Text may carry an offset (`2018-08-28T23:00:05+02:00`, `…Z`). Raises `ContractError` if times
    have no offset and `timezone` is None, for an unknown `timezone`, and for dates of an unknown `order`.

    >>> utc(pl.Series(["2.3.2026 08:00", "1772438400", "2026-03-02T09:00:00+01:00"]), "UTC").dt.hour().to_list()
    [8, 8, 8]
    """
    if timezone is not None and not is_timezone(timezone):
        raise ContractError(
            f"--timezone {timezone}: not a known time zone. Expected a name such as UTC or Europe/Zurich."
        )
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None:
        return times.dt.convert_time_zone("UTC").cast(TIME)
    if times.dtype in (pl.Datetime, pl.Date):
        return _located(times.cast(_CLOCK), timezone)
    if times.dtype.is_numeric():
        clocks, moments = _of_numbers(times.cast(pl.Float64))
        return moments.fill_null(_located(clocks, timezone)).alias(times.name)
    text = times.cast(pl.String).str.strip_chars()
    iso = text.str.replace(r"^(\d{4}-\d\d-\d\d)T", "${1} ")
    has_offset = text.drop_nulls().head(1).str.contains(OFFSET).any()
    moments = _with_offset(iso) if has_offset else _located(_parsed(iso, _FORMATS[:2]), timezone)
    rest = text.is_not_null() & moments.is_null()
    if not rest.any():
        return moments
    few = _are_few(text)
    moments = _filled(moments, text, rest, lambda one: _moments(one, timezone, order, few))
    unread = text.is_not_null() & moments.is_null()
    if timezone is None or not unread.any():
        return moments
    none = pl.Series([None] * text.len(), dtype=_CLOCK)
    clocks = _filled(none, text, unread, lambda one: _clocks(one, order, few)[0])
    return moments.fill_null(_by_order(moments, clocks, timezone))


def days(values: pl.Series, order: DateOrder | None = None) -> pl.Series:
    """`values` as dates, null if they cannot be read; a time becomes the day that it names, whatever its offset.

    Raises `ContractError` for dates whose order of day and month is unknown.

    >>> days(pl.Series(["2024-W05", "20240129", "29.1.24"])).dt.to_string().to_list()
    ['2024-01-29', '2024-01-29', '2024-01-29']
    >>> days(pl.Series([datetime(2024, 1, 29)]).dt.replace_time_zone("Europe/Zurich"))[0]
    datetime.date(2024, 1, 29)
    """
    if values.dtype.is_numeric():
        dates = _dates(*_of_numbers(values.cast(pl.Float64))).alias(values.name)
        return _with_weeks(dates, values.cast(pl.Int64, strict=False).cast(pl.String), order)
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.replace_time_zone(None).cast(pl.Date)
    if values.dtype != pl.String:
        return values.cast(pl.Date, strict=False)
    text = values.str.strip_chars()
    plain = _with_whole_years(text.str.to_date("%Y-%m-%d", strict=False))
    rest = text.is_not_null() & plain.is_null()
    if not rest.any():
        return plain
    plain = _filled(
        plain, text, rest, lambda one: _dates(*_clocks(one.str.replace(_ZONE, ""), order, _are_few(text)))
    )
    return _with_weeks(plain, text, order)


def refuse_midnights_elsewhere(values: pl.Series) -> None:
    """Raise `ContractError` if `values` mean days, but are midnights of a zone east of Greenwich, written in UTC.

    All are at one or two hours of UTC, for winter and summer, from `_EAST` on: they would be of the day before.
    """
    times = values.drop_nulls()
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone == "UTC":
        times = times.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    if times.dtype != pl.String or times.is_empty():
        return
    clocks = times.str.strip_chars().str.extract(_CLOCK_OF_UTC)
    if clocks.null_count() or clocks.n_unique() > 2 or (clocks < _EAST).any():
        return
    next_day = days(times.head(1))[0] + timedelta(days=1)
    raise ContractError(
        f"{values.name}: all times are like {times[0]}, which is midnight of {next_day} in a time zone east of Greenwich. "
        f"Expected days. Write the local day, such as {next_day}."
    )


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


def far_from_others(times: pl.Series) -> pl.Series:
    """Whether each time is far from all others, such as a time of a clock that was never set.

    Such times are at most one in a hundred (or one among twenty or more) at either end, and more than a year and
    ten times the range of all others away from them.

    >>> far_from_others(pl.Series([0, *range(19_000, 19_030)]).cast(pl.Date)).sum()
    1
    """
    none = times.is_null() & times.is_not_null()
    present = times.drop_nulls()
    few = max(1, present.len() // 100) if present.len() >= 20 else 0
    if not few:
        return none
    low, high = present.bottom_k(few + 1).sort(), present.top_k(few + 1).sort()
    if low[-1] - low[0] <= _LONG and high[-1] - high[0] <= _LONG:
        return none
    first = _beyond_gap(low, high[0])
    last = _beyond_gap(high.reverse(), low[-1])
    far = none
    if first is not None:
        far |= times < first
    if last is not None:
        far |= times > last
    return far.fill_null(False)


def _beyond_gap(ends: pl.Series, other_end: object) -> object | None:
    """The outermost time inside the innermost gap; None if there is no gap. `ends` run from the outermost inwards."""
    span = abs(ends[-1] - other_end)
    gaps = [inner for outer, inner in pairwise(ends) if abs(inner - outer) > max(_LONG, _FAR * span)]
    return gaps[-1] if gaps else None


def _with_offset(iso: pl.Series) -> pl.Series:
    text = iso.str.replace(r"Z$", "+0000").str.replace(r"([+-]\d\d):(\d\d)$", "${1}${2}")
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="us").cast(TIME)


def _dates(clocks: pl.Series, moments: pl.Series) -> pl.Series:
    return clocks.fill_null(moments.dt.replace_time_zone(None)).dt.date()


def _filled(
    values: pl.Series, text: pl.Series, rest: pl.Series, parse: Callable[[pl.Series], pl.Series]
) -> pl.Series:
    """`values` with those of the `rest` parsed from their text, each distinct text once."""
    some = text.filter(rest)
    distinct = some.unique(maintain_order=True)
    pairs = pl.DataFrame({"text": distinct, "value": parse(distinct)})
    fill = some.to_frame("text").join(pairs, on="text", how="left", maintain_order="left")["value"]
    return values.scatter(rest.arg_true(), fill.cast(values.dtype))


def _with_weeks(dates: pl.Series, text: pl.Series, order: DateOrder | None) -> pl.Series:
    """`dates` with the Mondays of ISO weeks that are written as a year and a number, such as 202405.

    Raises `ContractError` if no number is above 12, so that all could be months, unless `order` is `year-week`. They are
    months if a year before the last one has a twelfth.
    """
    if _are_few(text, _YEAR_AND_NUMBER):
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


def _are_few(text: pl.Series, pattern: str = _YEAR_LAST) -> bool:
    """Whether so few values match `pattern`, by default a date with the year last, that they are probably mistakes."""
    return int(text.str.contains(pattern).sum()) <= _FEW * text.len()


def _moments(text: pl.Series, timezone: str | None, order: DateOrder | None, few: bool) -> pl.Series:
    """Text in any supported notation as UTC; null if it names an unknown time zone."""
    zones = text.str.extract(_ZONE)
    text = tidied(text.str.replace(_ZONE, ""))
    clocks, moments = _clocks(text, order, few)
    offset = text.str.extract(OFFSET)
    hours = offset.str.extract(r"^([+-]\d\d)").cast(pl.Int64).fill_null(0)
    minutes = offset.str.extract(r"^[+-]\d\d:?(\d\d)$").cast(pl.Int64).fill_null(0)
    minutes = minutes.zip_with(~offset.str.starts_with("-").fill_null(False), -minutes)
    ahead = pl.DataFrame({"h": hours, "m": minutes}).select(pl.duration(hours="h", minutes="m")).to_series()
    times = (clocks - ahead).dt.replace_time_zone("UTC").zip_with(offset.is_not_null(), moments)
    none = pl.Series([None], dtype=_CLOCK)
    for zone in {*zones.drop_nulls()} & available_timezones():
        times = times.fill_null(_located(clocks.zip_with((zones == zone).fill_null(False), none), zone))
    local = _located(clocks.zip_with(offset.is_null() & zones.is_null(), none), timezone)
    return times.fill_null(local)


def _clocks(text: pl.Series, order: DateOrder | None, few: bool) -> tuple[pl.Series, pl.Series]:
    """The local times of text, and the moments of numbers."""
    text = tidied(text)
    is_number, is_shortened = text.str.contains(_NUMBER), text.str.contains(_SHORTENED)
    if is_shortened.sum() == is_number.sum():
        is_number &= ~is_shortened
    numbers = text.zip_with(is_number, pl.Series([None], dtype=pl.String)).cast(pl.Float64, strict=False)
    clocks, moments = _of_numbers(numbers)
    offset = text.str.extract(OFFSET).fill_null("")
    lengths = (text.str.len_chars() - offset.str.len_chars()).cast(pl.Int64)
    plain = text.to_frame("t").select(pl.col("t").str.slice(0, lengths)).to_series().str.strip_chars()
    plain = as_iso(_year_first(plain.alias(text.name), order, may_lack=few))
    ends_day = plain.str.contains(_MIDNIGHT).fill_null(False)
    plain = plain.str.replace(_MIDNIGHT, " 00:00")
    clocks = clocks.fill_null(_parsed(plain, _FORMATS))
    clocks = clocks.zip_with(~ends_day, clocks.dt.offset_by("1d"))
    for form in _DAYS:
        clocks = clocks.fill_null(_with_whole_years(plain.str.to_date(form, strict=False).cast(_CLOCK)))
    return clocks, moments


def _year_first(text: pl.Series, order: DateOrder | None, *, may_lack: bool) -> pl.Series:
    """Dates with slashes or hyphens and the year last as YYYY-MM-DD; unchanged if their order is unknown.

    The order is the one that fits all of them. 24/01/29 is in 2024 if all first numbers are above 12 and differ less
    than the last ones. Raises `ContractError` if both orders fit or neither does, unless `may_lack`.
    """
    parts = text.str.extract_groups(_YEAR_LAST).struct.unnest()
    first, second, third = (parts[name].cast(pl.Int64) for name in ("1", "2", "3"))
    order = None if order == "year-week" else order
    if order is None and first.count():
        if (first > 12).all() and first.n_unique() < third.n_unique() and (third < 32).all():
            return text.str.replace(_YEAR_LAST, "20${1}-${2}-${3}")
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


def _shown(first: pl.Series, second: pl.Series) -> tuple[bool, bool]:
    """Whether a number shows that the day comes first, and whether one shows that the month does."""
    return bool((first > 12).any()), bool((second > 12).any())


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


def _of_numbers(values: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers as local times, if they are YYYYMMDD with or without a time, and as moments since 1970."""
    whole = values.cast(pl.Int64, strict=False).cast(pl.String)
    clocks = whole.str.to_date("%Y%m%d", strict=False).cast(_CLOCK)
    clocks = clocks.zip_with((whole.str.len_chars() == 8).fill_null(False), pl.Series([None], dtype=_CLOCK))
    whole = whole.str.replace(_DAY_AND_HOUR, "${1}00")
    long = whole.zip_with(
        whole.str.contains(r"^(19|20)\d{10}(\d\d)?$").fill_null(False), pl.Series([None], dtype=pl.String)
    )
    clocks = clocks.fill_null(_parsed(long, ("%Y%m%d%H%M%S", "%Y%m%d%H%M")))
    moments = pl.Series([None] * values.len(), dtype=pl.Int64)
    for factor in _EPOCHS.values():
        within = (
            values.is_between(_FIRST_SECOND * factor, _LAST_SECOND * factor)
            & clocks.is_null()
            & long.is_null()
        )
        micros = (values * (1e6 / factor)).round().cast(pl.Int64, strict=False)
        moments = micros.zip_with(within.fill_null(False), moments)
    if values.is_between(_FIRST_DAY, _LAST_DAY).all() and values.count():
        milliseconds = ((values - _EXCEL) * 86_400_000).round().cast(pl.Int64)
        clocks = milliseconds.cast(pl.Datetime("ms")).cast(_CLOCK)
    return clocks, moments.cast(TIME)


def _parsed(text: pl.Series, formats: tuple[str, ...]) -> pl.Series:
    clocks = pl.Series(text.name, [None] * text.len(), dtype=_CLOCK)
    for form in formats:
        if not clocks.null_count():
            break
        clocks = clocks.fill_null(_with_whole_years(text.str.to_datetime(form, strict=False, time_unit="us")))
    return clocks


def _with_whole_years(times: pl.Series) -> pl.Series:
    """`times` with null for two-digit years, which polars reads as years of the first century."""
    return times.zip_with(
        (times.dt.year() >= 1000).fill_null(False), times.clear().extend_constant(None, len(times))
    )


def _located(naive: pl.Series, timezone: str | None) -> pl.Series:
    """Local times as UTC; null if they occur twice or never."""
    if timezone is None:
        naive_times = naive.drop_nulls()
        if naive_times.len():
            raise ContractError(
                f"{naive.name}: times have no time zone, e.g. {naive_times[0]}. Expected an offset such as "
                f"{naive_times[0].isoformat()}Z. Or name their time zone, e.g. --timezone UTC."
            )
        return pl.Series(naive.name, [None] * naive.len(), dtype=TIME)
    there = naive.dt.replace_time_zone(timezone, ambiguous="null", non_existent="null")
    return there.dt.convert_time_zone("UTC")


def _by_order(moments: pl.Series, clocks: pl.Series, timezone: str) -> pl.Series:
    """Moments of `clocks` that occur twice in a zone, if the order of rows shows which occurrence is meant; else null.

    It does if such rows, between an earlier and a later one, go back by half an hour or more exactly once:
    rows before that are the first occurrence, rows after it the second.
    """
    first, second = (
        clocks.dt.replace_time_zone(timezone, ambiguous=which, non_existent="null").dt.convert_time_zone(
            "UTC"
        )
        for which in ("earliest", "latest")
    )
    twice = (first != second).fill_null(False)
    local = moments.dt.convert_time_zone(timezone).dt.replace_time_zone(None).fill_null(clocks)
    step = pl.col("local").diff().over("run")
    rows = pl.DataFrame(
        {"local": local, "run": twice.rle_id(), "first": first, "second": second}
    ).with_columns(
        pl.col("local").shift(1).alias("before"),
        pl.col("local").shift(-1).alias("after"),
        (step <= -_HALF_AN_HOUR).alias("back"),
        (step < timedelta()).alias("falls"),
    )
    in_order = (pl.col("before").first() < pl.col("local").first()).fill_null(True)
    in_order &= (pl.col("after").last() > pl.col("local").last()).fill_null(True)
    once = (pl.col("back").sum() == 1) & (pl.col("falls").sum() == 1) & in_order
    is_after = pl.col("back").fill_null(False).cum_sum().over("run") > 0
    occurrence = pl.when(is_after).then("second").otherwise("first")
    result = rows.select(pl.when(once.over("run")).then(occurrence).alias("time")).to_series()
    return result.zip_with(twice, pl.Series([None] * result.len(), dtype=result.dtype))


def is_timezone(name: str) -> bool:
    """Whether there is a time zone of that name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def in_words(duration: timedelta) -> str:
    """A duration in whole days, or in hours if it is less than two days.

    >>> in_words(timedelta(hours=1)), in_words(timedelta(days=1)), in_words(timedelta(days=1023, hours=3))
    ('1 hour', '24 hours', '1,023 days')
    """
    hours = round(duration / timedelta(hours=1))
    if hours >= 48:
        return f"{hours // 24:,} days"
    return "1 hour" if hours == 1 else f"{hours} hours"
