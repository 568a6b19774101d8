"""The contracts of the inputs: raw readings as devices send them, and readings per interval.

Raw readings are never stored as such: the good ones are aggregated to intervals (see
`models.devices.aggregation`), the others go to quarantine with the rule that they broke.
"""

from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import available_timezones

import polars as pl

from models.contracts import FLAGS, ODD_NAMES, is_unknown
from models.date_order import DateOrder
from models.devices import words
from models.devices.quality import bad_quality
from models.errors import ContractError
from models.far_times import far_from_others
from models.schemas import dy
from models.times import TIME as TIME
from models.times import utc

KEY = ("device", "tag")
JOINT_TAG = "*"
"""The tag of a device's joint detector over all its tags; no sensor may have this name."""

ANY_DEVICE = "*"
"""The device of a kind that is set for a tag of all devices."""

RAW_COLUMNS = ("device", "tag", "time", "value")
_TIME = r"^\d{4}[-/]\d\d[-/]\d\d([ t]|$)|^\d\d?[./]\d\d?[./]\d{4}( |$)|^\d\d?:\d\d(:\d\d)?(\.\d+)?$"


class Readings(dy.Schema):
    """Readings of one sensor in one interval, which starts at `time` and is as long as the store's interval.

    `std` is the sample standard deviation, null for a single reading. `point_times` and
    `point_values` are the readings of the interval, sorted by both: they identify late and repeated
    readings. They are null in readings that arrived aggregated.
    """

    device = dy.String(min_length=1)
    tag = dy.String(min_length=1)
    time = dy.Datetime(time_unit="us", time_zone="UTC")
    count = dy.Int64(min=1)
    mean = dy.Float64()
    min = dy.Float64()
    max = dy.Float64()
    std = dy.Float64(nullable=True, min=0)
    last = dy.Float64()
    point_times = dy.List(dy.Datetime(time_unit="us", time_zone="UTC"), nullable=True)
    point_values = dy.List(dy.Float64(), nullable=True)

    @dy.rule()
    def tag_is_not_reserved(cls) -> pl.Expr:  # noqa: N805
        return pl.col("tag") != JOINT_TAG

    @dy.rule()
    def mean_between_min_and_max(cls) -> pl.Expr:  # noqa: N805
        slack = 1e-9 * (pl.col("max") - pl.col("min") + pl.col("mean").abs())
        return pl.col("mean").is_between(pl.col("min") - slack, pl.col("max") + slack)


class Spans(dy.Schema):
    """Ranges of time of a tag from `start` (included) to `end` (excluded); the tag is `*` for the whole device."""

    device = dy.String(min_length=1)
    tag = dy.String(min_length=1)
    start = dy.Datetime(time_unit="us", time_zone="UTC")
    end = dy.Datetime(time_unit="us", time_zone="UTC")

    @dy.rule()
    def ends_after_its_start(cls) -> pl.Expr:  # noqa: N805
        return pl.col("end") > pl.col("start")


class Labels(Spans):
    """Known faults; the tag is also `*` if it is unknown."""

    fault = dy.String(min_length=1)


KINDS = ("counter", "angle", "state", "level", "daily", "levels", "wanders", "varies")
"""The kinds that can be set for a sensor: see docs/devices.md."""


class Kinds(dy.Schema):
    """The kind of sensor of each tag; `device` is `*` if it holds for all devices."""

    device = dy.String(min_length=1)
    tag = dy.String(min_length=1)
    kind = dy.String(min_length=1)

    @dy.rule()
    def kind_is_known(cls) -> pl.Expr:  # noqa: N805
        return pl.col("kind").is_in(KINDS)


class Sites(dy.Schema):
    """The site of a device, and the time zone whose days the cycles of its sensors follow."""

    device = dy.String(min_length=1)
    site = dy.String(nullable=True)
    timezone = dy.String(min_length=1)

    @dy.rule()
    def timezone_is_known(cls) -> pl.Expr:  # noqa: N805
        return pl.col("timezone").is_in(available_timezones())


FAULT, FALSE_ALARM, NEW_NORMAL, MUTED = "fault", "false_alarm", "new_normal", "muted"


class Verdicts(Spans):
    """Verdicts of people, `by` whom, and `at` what time. `muted`: no alarms, for example during maintenance."""

    verdict = dy.String(min_length=1)
    reason = dy.String(min_length=1)
    by = dy.String(min_length=1)
    at = dy.Datetime(time_unit="us", time_zone="UTC")


class Checked(NamedTuple):
    """`good` raw readings (device, tag, time, value), and the original `bad` rows with their `rule`."""

    good: pl.DataFrame
    bad: pl.DataFrame


def check_raw(
    raw: pl.DataFrame,
    now: datetime,
    *,
    tolerance: timedelta = timedelta(minutes=5),
    limits: pl.DataFrame | None = None,
    timezone: str | None = None,
    dates: DateOrder | None = None,
) -> Checked:
    """Raw readings split into good and bad ones; every row is in exactly one of the two, in the original order.

    Columns `device`, `tag`, `time`, `value` of any type; others are passed on. The resulting `time` is in
    UTC: a time without an offset is in `timezone`; `dates` says whether the day or the month comes first, if the
    values do not show it. A bad row names the first of these rules that it
    breaks: `quality_bad` (see `models.devices.quality`), `device_missing`,
    `tag_missing`, `control_characters`, `digits_lost` (a name such as
    4.01E+12), `no_name` (such as nan), `tag_reserved`, `time_missing`, `time_unparsable` (also: an hour that `timezone` has
    twice or not at all), `time_in_future` (more than `tolerance` after `now`), `time_far_from_others`, `value_missing`,
    `tag_of_words` (no value of the tag is a number, and its words are not states, or all are times),
    `value_unknown` (a word such as NA),
    `value_not_a_number`, `value_not_finite`,
    `value_outside_limits`, `duplicate` (the same device, tag, time and value as an earlier row).
    `limits` has `tag`, `low`, `high` and may have `device`; null means no limit.

    Raises `ContractError` for a missing column, and for times without an offset if `timezone` is None.
    """
    missing_columns = [c for c in RAW_COLUMNS if c not in raw.columns]
    if missing_columns:
        raise ContractError(
            f"readings: column '{missing_columns[0]}' is missing. Found: {', '.join(raw.columns)}. "
            f"Map it with --column {missing_columns[0]}=NAME."
        )
    rows = raw.select(
        pl.exclude(RAW_COLUMNS),
        *(pl.col(c).cast(pl.String).str.strip_chars().alias(c) for c in KEY),
        utc(raw["time"], timezone, dates, now + tolerance),
        _number(raw["value"]),
    )
    states, texts = _words(raw["value"], rows)
    rows = rows.with_columns(pl.coalesce("value", states)).with_columns(_limit_columns(raw, limits))
    latest = now + tolerance
    far = far_from_others(rows.select(pl.col("time").clip(upper_bound=latest)).to_series())
    rule = _broken_rule(raw, latest, far, texts)
    rows = rows.with_columns(rule.alias("rule"))
    is_repeat = ~pl.struct(RAW_COLUMNS).is_first_distinct().over(pl.col("rule").is_null())
    rows = rows.with_columns(pl.coalesce("rule", pl.when(is_repeat).then(pl.lit("duplicate"))).alias("rule"))
    fine = rows["rule"].is_null()
    good = rows.filter(fine).drop("rule", "low", "high")
    bad = raw.with_columns(rows["rule"]).filter(~fine)
    return Checked(good, bad)


def _number(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        numbers = values.cast(pl.Float64, strict=False)
        no_number = numbers.is_null() & values.is_not_null()
        if no_number.any():
            flags = values.filter(no_number).str.to_lowercase().replace_strict(FLAGS, default=None)
            numbers = numbers.scatter(no_number.arg_true(), flags.cast(pl.Float64))
        return numbers.alias("value")
    if values.dtype == pl.Boolean or values.dtype.is_numeric() or values.dtype == pl.Null:
        return values.cast(pl.Float64, strict=False).alias("value")
    return pl.Series("value", [None] * values.len(), dtype=pl.Float64)


def _words(values: pl.Series, rows: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """For tags without any number: their words as numbers of states, and which rows hold words that are not states.

    A word begins with a letter; words for true and false count as neither. States are at most
    `words.MOST_STATES` words, at least one of which is not a word for a missing reading. Dates and times are not
    states either.
    """
    nothing = pl.repeat(None, values.len(), dtype=pl.Float64, eager=True)
    if values.dtype != pl.String or rows["value"].null_count() == values.null_count():
        return nothing, nothing.is_not_null()
    lower = values.str.strip_chars().str.to_lowercase().alias("word")
    flag = lower.is_in([*FLAGS])
    word = lower.str.contains(r"^\p{L}") & ~flag & ~lower.is_in(["nan", "inf", "infinity"])
    signs = rows.select(*KEY, lower, is_word=word, is_other=~(word | flag | (lower == "")))
    of_words = pl.col("is_word").any() & ~pl.col("is_other").any()
    distinct = pl.col("word").filter("is_word")
    few = (distinct.n_unique() <= words.MOST_STATES) & ~distinct.is_in([*words.NOTHING]).all()
    of_times = pl.col("word").replace("", None).str.contains(_TIME).all() & (pl.col("word") != "").any()
    states, texts = signs.select(
        (of_words & few).over(KEY).alias("few"), (of_words & ~few | of_times).over(KEY)
    )
    vocabulary = lower.filter(word & states).unique().to_list()
    numbers = lower.replace_strict(
        vocabulary, [*map(words.number_of, vocabulary)], default=None, return_dtype=pl.Float64
    )
    return numbers.zip_with(states, nothing), texts


def _limit_columns(raw: pl.DataFrame, limits: pl.DataFrame | None) -> list[pl.Series]:
    """The physical limits of each row as `low` and `high`; null if there is none."""
    if limits is None:
        return [pl.Series(name, [None] * raw.height, dtype=pl.Float64) for name in ("low", "high")]
    on = [c for c in KEY if c in limits.columns]
    missing_columns = [c for c in ("tag", "low", "high") if c not in limits.columns]
    if missing_columns:
        raise ContractError(
            f"limits: column '{missing_columns[0]}' is missing. Found: {', '.join(limits.columns)}. "
            "Expected tag, low, high, and device if limits differ by device."
        )
    bounds = limits.select(
        *(pl.col(c).cast(pl.String).str.strip_chars() for c in on),
        pl.col("low", "high").cast(pl.Float64, strict=False),
    )
    for c in ("low", "high"):
        wrong = limits.filter(bounds[c].is_null() & limits[c].is_not_null())
        if wrong.height:
            raise ContractError(
                f"limits: {c} is '{wrong[c][0]}'. Expected a number, or an empty cell for no limit."
            )
    twice = bounds.filter(bounds.select(on).is_duplicated())
    if twice.height:
        raise ContractError(
            f"limits: {'/'.join(map(str, twice.select(on).row(0)))} has two rows. Expected one."
        )
    keys = raw.select(pl.col(c).cast(pl.String).str.strip_chars() for c in on)
    columns = keys.join(bounds, on=on, how="left", maintain_order="left")
    return [columns["low"], columns["high"]]


def _broken_rule(raw: pl.DataFrame, latest: datetime, far: pl.Series, texts: pl.Series) -> pl.Expr:
    """The first rule that each row breaks; null if there is none. `raw` shows whether a cell is empty or unreadable."""
    has_time, has_value = raw["time"].is_not_null(), raw["value"].is_not_null()
    unknown = raw["value"].is_null()
    if raw["value"].dtype == pl.String:
        has_value &= raw["value"].str.strip_chars() != ""
        unknown = is_unknown(raw["value"])
    time, value = pl.col("time"), pl.col("value")
    rules = {
        "quality_bad": pl.lit(bad_quality(raw)),
        "device_missing": pl.col("device").fill_null("") == "",
        "tag_missing": pl.col("tag").fill_null("") == "",
        **{name: pl.any_horizontal(pl.col(*KEY).str.contains(odd)) for name, odd in ODD_NAMES.items()},
        "tag_reserved": pl.col("tag") == JOINT_TAG,
        "time_missing": pl.lit(~has_time),
        "time_unparsable": time.is_null(),
        "time_in_future": time > latest,
        "time_far_from_others": pl.lit(far),
        "value_missing": pl.lit(~has_value),
        "tag_of_words": pl.lit(texts),
        "value_unknown": pl.lit(unknown) & value.is_null(),
        "value_not_a_number": value.is_null(),
        "value_not_finite": ~value.is_finite(),
        "value_outside_limits": (value < pl.col("low")) | (value > pl.col("high")),
    }
    return pl.coalesce(*(pl.when(rule).then(pl.lit(name)) for name, rule in rules.items()))
