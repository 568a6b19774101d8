"""Reads times as people write them, for all tables, as dates or moments in UTC.

It reads ISO 8601 (with `-`, `/` or nothing between the parts, with weeks such as 2024-W05, with or without an offset),
dd.mm.yyyy, dd/mm/yyyy or mm/dd/yyyy, names of months in several languages, AM and PM, seconds, milliseconds, microseconds or
nanoseconds since 1970, and days as Excel counts them. A date without a time is the start of that day; an ISO week is
its Monday.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from zoneinfo import available_timezones

import polars as pl

from models.date_order import DateOrder, are_few, with_weeks, year_first
from models.errors import ContractError
from models.moments import is_timezone
from models.time_notations import OFFSET, as_iso, tidied

TIME = pl.Datetime("us", "UTC")
_CLOCK = pl.Datetime("us")
_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %I:%M:%S%.f %p", "%Y-%m-%d %I:%M %p",
    "%Y%m%d %H%M%S%.f", "%Y%m%d %H%M", "%Y%m%d%H%M%S",
)  # fmt: skip
_DAYS = ("%Y-%m-%d", "%Y%m%d", "%G-W%V-%u")
_ZONE = r"\s([A-Z][A-Za-z]+(?:/[A-Za-z_+-]+)+)$"
"""The name of a time zone after a time."""
_MIDNIGHT = r" 24:00(:00)?(\.0+)?$"
"""The end of a day, as ISO 8601 allows it to be written."""
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
_HALF_AN_HOUR = timedelta(minutes=30)


def utc(
    times: pl.Series, timezone: str | None, order: DateOrder | None = None, latest: datetime | None = None
) -> pl.Series:
    """`times` as UTC in microseconds, under the same name; null if they cannot be read.

    Text may carry an offset (`2018-08-28T23:00:05+02:00`, `…Z`). `latest` as for `days`. Raises `ContractError` if times
    have no offset and `timezone` is None, for an unknown `timezone`, and for dates of an unknown `order`.

    >>> utc(pl.Series(["2.3.2026 08:00", "1772438400", "2026-03-02T09:00:00+01:00"]), "UTC").dt.hour().to_list()
    [8, 8, 8]
    """
    if timezone is not None and not is_timezone(timezone):
        raise ContractError(
            f"--timezone {timezone}: not a known time zone. Expected a name such as UTC or Europe/Zurich, or "
            "Etc/GMT-1, which is an hour ahead of UTC all year."
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
    ordered = partial(year_first, order=order, may_lack=are_few(text), latest=latest)
    moments = _filled(moments, text, rest, lambda one: _moments(one, timezone, ordered))
    unread = text.is_not_null() & moments.is_null()
    if timezone is None or not unread.any():
        return moments
    none = pl.Series([None] * text.len(), dtype=_CLOCK)
    clocks = _filled(none, text, unread, lambda one: _clocks(one, ordered)[0])
    moments = moments.fill_null(_by_order(moments, clocks, timezone))
    if not _is_newest_first(moments):
        return moments
    return moments.fill_null(_by_order(moments.reverse(), clocks.reverse(), timezone).reverse())


def days(values: pl.Series, order: DateOrder | None = None, latest: datetime | None = None) -> pl.Series:
    """`values` as dates, null if they cannot be read; a time becomes the day that it names, whatever its offset.

    No year of two digits is after `latest`, where both its first and its last number could be the year.
    Raises `ContractError` for dates whose order of day and month is unknown.

    >>> days(pl.Series(["2024-W05", "20240129", "29.1.24"])).dt.to_string().to_list()
    ['2024-01-29', '2024-01-29', '2024-01-29']
    >>> days(pl.Series(["2024-01-29 00:00"]).str.to_datetime(time_zone="Europe/Zurich"))[0]
    datetime.date(2024, 1, 29)
    """
    if values.dtype.is_numeric():
        dates = _dates(*_of_numbers(values.cast(pl.Float64))).alias(values.name)
        return with_weeks(dates, values.cast(pl.Int64, strict=False).cast(pl.String), order)
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.replace_time_zone(None).cast(pl.Date)
    if values.dtype != pl.String:
        return values.cast(pl.Date, strict=False)
    text = values.str.strip_chars()
    plain = _with_whole_years(text.str.to_date("%Y-%m-%d", strict=False))
    rest = text.is_not_null() & plain.is_null()
    if not rest.any():
        return plain
    ordered = partial(year_first, order=order, may_lack=are_few(text), latest=latest)
    plain = _filled(plain, text, rest, lambda one: _dates(*_clocks(one.str.replace(_ZONE, ""), ordered)))
    return with_weeks(plain, text, order)


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


def _moments(text: pl.Series, timezone: str | None, ordered: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Text in any supported notation as UTC; null if it names an unknown time zone."""
    zones = text.str.extract(_ZONE)
    text = tidied(text.str.replace(_ZONE, ""))
    clocks, moments = _clocks(text, ordered)
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


def _clocks(text: pl.Series, ordered: Callable[[pl.Series], pl.Series]) -> tuple[pl.Series, pl.Series]:
    """The local times of text, and the moments of numbers; 1707091200000 is not a time of 1707."""
    text = tidied(text)
    is_number, is_shortened = text.str.contains(_NUMBER), text.str.contains(_SHORTENED)
    if is_shortened.sum() == is_number.sum():
        is_number &= ~is_shortened
    numbers = text.zip_with(is_number, pl.Series([None], dtype=pl.String)).cast(pl.Float64, strict=False)
    clocks, moments = _of_numbers(numbers)
    offset = text.str.extract(OFFSET).fill_null("")
    lengths = (text.str.len_chars() - offset.str.len_chars()).cast(pl.Int64)
    plain = text.to_frame("t").select(pl.col("t").str.slice(0, lengths)).to_series().str.strip_chars()
    plain = as_iso(ordered(plain.alias(text.name)))
    ends_day = plain.str.contains(_MIDNIGHT).fill_null(False)
    plain = plain.str.replace(_MIDNIGHT, " 00:00")
    clocks = clocks.fill_null(_parsed(plain, _FORMATS))
    clocks = clocks.zip_with(~ends_day, clocks.dt.offset_by("1d"))
    for form in _DAYS:
        clocks = clocks.fill_null(_with_whole_years(plain.str.to_date(form, strict=False).cast(_CLOCK)))
    return clocks.set(moments.is_not_null(), None), moments


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


def _is_newest_first(moments: pl.Series) -> bool:
    rest = moments.drop_nulls()
    return rest.len() > 1 and rest[-1] < rest[0]


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
