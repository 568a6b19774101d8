"""How people and programs write dates and times, and the same in ISO 8601."""

import re

import polars as pl

OFFSET = r"(?:[T ]\d{2,6}|:\d\d)(?:[.,]\d+)?(?:\s*[AaPp]M)?\s*(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"
_ENDS_WITH_CLOCK = r"(?i):\d\d(?:[.,]\d+)?(?:\s*[ap]\.?m\.?)?\s*$"
_ZONE_IN_NAME = r"(?i)[\s,_(\[-]+(?:utc|gmt)(?:\s?([+-])(\d{1,2})(?::?(\d\d))?)?[)\]]?$"
"""The zone in the name of a column, such as `Date Time, GMT+01:00` or `timestamp [UTC]`."""
_ZONES = {
    "CET": "+01:00", "MEZ": "+01:00", "CEST": "+02:00", "MESZ": "+02:00",
    "EST": "-05:00", "EDT": "-04:00", "CST": "-06:00", "CDT": "-05:00",
    "MST": "-07:00", "MDT": "-06:00", "PST": "-08:00", "PDT": "-07:00",
}  # fmt: skip
"""Zones of RFC 5322 and of central Europe, by their abbreviations."""
_MONTHS = (
    "jan|ene|gen|sty|ledna|leden|oca|tammi|ян|ian|ιαν", "f[eé][bv]|lut|únor|şub|helmi|фев|φεβ",
    "m[aäá]r|maa|mrz|mrt|břez|мар|μαρ", "apr|ápr|avr|abr|kwi|dub|nis|huhti|апр|απρ",
    "ma[iyjg]|máj|mei|květ|touko|ма[йя]|μα[ιΐ]", "jun|jún|juin|giu|cze|června|červen|haz|kesä|июн|iun|ιουν",
    "jul|júl|juil|lug|lip|července|červenec|tem|heinä|июл|iul|ιουλ",
    "aug|ao[uû]|ago|sie|srpna|srpen|ağu|elo|авг|αυγ",  # codespell:ignore sie
    "sep|set|wrz|září|eyl|syys|сен|sze|σεπ", "o[ckt]t|out|paź|říj|eki|loka|окт|οκτ", "nov|noi|lis|kas|marras|ноя|νοε",
    "d[eéi][czs]|gru|pros|ara|joulu|дек|δεκ",
)  # fmt: skip
"""How months begin in most languages of Europe. A name that begins like two of them is of the later month."""
_MONTH = r"(\pL{3,12})\.?"
LONG_PERIOD = (
    r"^(\pL{3,12}\.?|(?i:q)[1-4])[ /'-]+(\d\d|\d{4})$|^\d{4}[ /-]?(\pL{3,12}|(?i:q)[1-4])$|^\d{4}-?M\d\d?$"
)
"""Matches a month or a quarter with its year."""
_WEEKDAY = (
    r"(?i)^(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|mo(?:ntag)?|di(?:enstag)?|mi(?:ttwoch)?|"
    r"do(?:nnerstag)?|fr(?:eitag)?|sa(?:mstag)?|so(?:nntag)?)\b\.?,? +"
)
_WEEK = r"(?i)(?:w|kw|cw|wk|week|semaine)"
_WEEK_END = r"(?i)^(?:1 )?(?:w/e|week[ -]?end(?:ing|ed)?):? +"
"""How the last day of a week begins; Nielsen writes a number of weeks before it."""
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}"
_DAYS_OF_WEEK = r"^(\d{1,2})\.(\d{1,2})\.? ?(?:-|–|bis) ?\d{1,2}\.(\d{1,2})\.(\d{4})$"
_BOTH_DAYS = rf"^({_DATE})(?: (?:-|–|to|bis) |/){_DATE}$"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp][Mm])?(?:Z|[+-]\d\d:?\d\d)?"
_BOTH_TIMES = (
    rf"^(\S+[T ]{_CLOCK})(?:(?: - | ?– ?| to | bis ){_CLOCK}|(?: ?[-–] ?|/| to | bis ){_DATE}[T ]{_CLOCK})$"
)
"""The first and the last moment of an interval, such as 01.03.2024 00:00 - 01:00; 00:00-01:00 has an offset."""
_TIDY = (
    (r"^/Date\((\d+)(?:[+-]\d{4})?\)/$", "${1}"),
    (r"^(\d{9,19}),(\d+)$", "${1}.${2}"),
    (r"(Z|[+-]\d\d:?\d\d)\[[\w/+-]+\]$", "${1}"),
    (_WEEKDAY, ""),
    (r"(?i)^(?:w/?c|w/b|week (?:of|commencing|beginning|starting)):? +", ""),
    (_WEEK_END, ""),
    (_BOTH_DAYS, "${1}"),
    (r"^'(\d)", "${1}"),
    (r" ?\([^)]*\)$", ""),
    (_BOTH_TIMES, "${1}"),
    (r"^((?:19|20)\d\d)(\d\d)(\d\d)[T ]?2400(?:00)?$", "${1}-${2}-${3} 24:00"),
    (
        rf"^{_MONTH} +(\d{{1,2}}) (\d\d:\d\d:\d\d)( [A-Z]{{3,4}}| [+-]\d{{4}})? (\d{{4}})$",
        "${2} ${1} ${5} ${3}${4}",
    ),
    (r" ?(?:GMT|UTC) ?([+-])(\d)$", " ${1}0${2}"),
    (r" ?(?:GMT|UTC) ?([+-]\d\d)", " ${1}"),
    (r"([+-]\d\d:\d\d)Z$", "${1}"),
    (r"^(\d\d)(\pL{3})(\d{4})(?::(\d\d:))?", "${1} ${2} ${3} ${4}"),
    (r" Uhr$", ""),
    (r" (\d{1,2})h(\d\d)$", " ${1}:${2}"),
    (r"(?i) (\d{1,2}) ?([ap]\.?m\.?)$", " ${1}:00 ${2}"),
    (r"^(.*\d) (?:1899-12-3[01]|1900-01-0[01]) (\d\d:\d\d)", "${1} ${2}"),
    (r"^(\d{1,2}:\d\d(?::\d\d)?) (\d\S+)$", "${2} ${1}"),
    (r"^(.*\d),? 00:00(?::00(?:\.0+)?)? (\d{1,2}:\d\d)", "${1} ${2}"),
    (r"^(.*\d), ?(\d{1,2}:\d\d)", "${1} ${2}"),
    (r"^(\d{1,2}/\pL+/\d{4}):(\d\d:)", "${1} ${2}"),
    (r" (\d{1,2})\.(\d\d)\.(\d\d)", " ${1}:${2}:${3}"),
    (r"^(\d{4}-\d\d-\d\d)-(\d\d)\.(\d\d)\.(\d\d)", "${1} ${2}:${3}:${4}"),
    (r"^(\S*\d[./-]\S*\d) (\d{1,2})\.(\d\d)$", "${1} ${2}:${3}"),
    (r"(:\d\d),(\d+)$|(:\d\d:\d\d):(\d+)$", "${1}${3}.${2}${4}"),
    *((rf"(\d|[AaPp]\.?[Mm]\.?) ?{name}$", f"${{1}} {offset}") for name, offset in _ZONES.items()),
    (r"(?i)(\d)\s*([ap])\.?\s?m\.?( ?[+-]\d\d:\d\d| ?Z)?$", "${1} ${2}M${3}"),
)
_ISO = (
    (r"^(\d{4})[/. 年](\d{1,2})[/. 月](\d{1,2})(?:日|\.)?", "${1}-${2}-${3}"),
    (rf"^(\d{{4}})\. {_MONTH} (\d{{1,2}})\.?", "${1}-${2}-${3}"),
    (r"^(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})", "${3}-${2}-${1}"),
    (r"^(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{2})\b", "20${3}-${2}-${1}"),
    (r"(?i)^((?:19|20)\d\d)[ /.-]?S(\d\d)$", "${1}-W${2}"),
    (r"(?i)^S(\d\d)[ /.-]((?:19|20)\d\d)$", "${2}-W${1}"),
    (rf"^{_WEEK}[ -]?(\d{{1,2}})[ ,/.-]+(?:20)?(\d\d)$", "20${2}-W${1}"),
    (rf"^(\d{{1,2}})\.? ?{_WEEK}[ /.-]+(?:20)?(\d\d)$", "20${2}-W${1}"),
    (rf"^(\d{{4}})[ /.-]?{_WEEK}[ -]?(\d{{1,2}})(?:-?([1-7]))?$", "${1}-W${2}-${3}"),
    (r"-W(\d)\b", "-W0${1}"),
    (r"(W\d\d)-?$", "${1}-1"),
    (rf"^(\d{{1,2}})(?:er|st|[nr]d|th|\.)?[ /-](?:de )?{_MONTH},?[ /-](?:de )?(\d{{4}})\b", "${3}-${2}-${1}"),
    (rf"^(\d{{1,2}})[ -]{_MONTH}[ -](\d\d)\b", "20${3}-${2}-${1}"),
    (rf"^{_MONTH}[ -](\d{{1,2}})(?:st|[nr]d|th|\.)?,?[ -](\d{{4}})\b", "${3}-${1}-${2}"),
    *(
        (rf"(?i)^(\d{{4}})-(?:{name})\pL*-", f"${{1}}-{number:02}-")
        for number, name in reversed([*enumerate(_MONTHS, start=1)])
    ),
    (r"(\d)[T_](\d\d)", "${1} ${2}"),
    (r"^(\d{4}-\d{1,2}-\d{1,2}) (\d{1,2})$", "${1} ${2}:00"),
    (r"^(\d{4}-\d{1,2}-\d{1,2}) (\d{1,2}) (\d{1,2})$", "${1} ${2}:${3}"),
    (r"^(\d{4}-\d{1,2}-\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2})$", "${1} ${2}:${3}:${4}"),
)


def tidied(text: pl.Series) -> pl.Series:
    """Times without weekdays and the like, with the time of day after the date and with colons, and zones as offsets.

    Of an interval, the first moment is kept.

    >>> tidied(pl.Series(["Mon, 29 Jan 2024, 10:30 CET", "29.01.2024 10.30.00", "29.01.2024 10:30 - 11:30"])).to_list()
    ['29 Jan 2024 10:30 +01:00', '29.01.2024 10:30:00', '29.01.2024 10:30']
    """
    return _rewritten(_first_days(text), _TIDY)


def offset_in_name(name: str) -> tuple[str, str]:
    """The name of a column without the zone that it gives its times, and the offset of that zone, "" if there is none.

    >>> offset_in_name("Date Time, GMT-5"), offset_in_name("time_utc"), offset_in_name("utc")
    (('Date Time', '-05:00'), ('time', '+00:00'), ('utc', ''))
    """
    match = re.search(_ZONE_IN_NAME, name)
    if match is None:
        return name, ""
    return name[: match.start()], f"{match[1] or '+'}{int(match[2] or 0):02}:{match[3] or '00'}"


def at_offset(times: pl.Expr, dtype: pl.DataType, offset: str) -> pl.Expr:
    """Text and local times with `offset`, unless they have one of their own; others unchanged.

    >>> times = pl.Series("t", ["2024-01-29 10:30", "29/01/2024 10:30 PM", "2024-01-29T10:30Z", "2024-01-29", "1707091200"])
    >>> pl.select(at_offset(pl.lit(times), times.dtype, "+05:30"))["t"].to_list()[:2]
    ['2024-01-29 10:30 +05:30', '29/01/2024 10:30 PM +05:30']
    >>> pl.select(at_offset(pl.lit(times), times.dtype, "+05:30"))["t"].to_list()[2:]
    ['2024-01-29T10:30Z', '2024-01-29', '1707091200']
    """
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
        return at_offset(times.dt.to_string("%Y-%m-%d %H:%M:%S%.6f"), pl.String(), offset)
    if dtype != pl.String:
        return times
    is_local = times.str.contains(_ENDS_WITH_CLOCK) & ~times.str.contains(OFFSET)
    return pl.when(is_local).then(times + f" {offset}").otherwise(times)


def is_range(text: pl.Series) -> pl.Series:
    """Whether text has the first and the last day of a range; it is read as the first.

    >>> is_range(pl.Series(["01.02.-05.02.2024", "2024-02-01 to 2024-02-05", "2024-02-01"])).to_list()
    [True, True, False]
    """
    text = text.str.strip_chars()
    return text.str.contains(_DAYS_OF_WEEK) | text.str.contains(_BOTH_DAYS)


def is_week(text: pl.Series) -> pl.Series:
    """Whether text names a whole week, by its number or its ends, rather than a day.

    >>> is_week(pl.Series(["2024-W05", "KW 5/2024", "01.02.-05.02.2024", "W/E 04/02/2024", "2024-02-01"])).to_list()
    [True, True, True, False, False]
    """
    return text.str.contains(r"(?i)(^|[^\p{L}])(W|KW|CW|WK|S|week|semaine)[ .-]?\d{1,2}([^\d]|$)") | is_range(
        text
    )


def is_week_end(text: pl.Series) -> pl.Series:
    """Whether text says that it names the last day of a week.

    >>> is_week_end(pl.Series(["1 w/e 01/20/24", "Week Ending 01-20-24", "W/C 29/01/2024"])).to_list()
    [True, True, False]
    """
    return text.str.contains(_WEEK_END)


def as_iso(text: pl.Series) -> pl.Series:
    """Dates whose order is known in ISO 8601, with a space before the time of day, if any; others unchanged.

    >>> as_iso(pl.Series(["29-JAN-24 10:30", "29 janvier 2024", "KW 5/2024"])).to_list()
    ['2024-01-29 10:30', '2024-01-29', '2024-W05-1']
    """
    return _rewritten(text, _ISO)


def _rewritten(text: pl.Series, rules: tuple[tuple[str, str], ...]) -> pl.Series:
    for pattern, replacement in rules:
        text = text.str.replace(pattern, replacement)
    return text


def _first_days(text: pl.Series) -> pl.Series:
    """The first day of weeks such as 30.12.-05.01.2025, whose year is that of the last day; other text unchanged."""
    day, month, last_month, year = text.str.extract_groups(_DAYS_OF_WEEK).struct.unnest().get_columns()
    is_earlier = (month.cast(pl.Int64) > last_month.cast(pl.Int64)).cast(pl.Int64)
    first = day + "." + month + "." + (year.cast(pl.Int64) - is_earlier).cast(pl.String)
    return text.zip_with(first.is_null(), first)
