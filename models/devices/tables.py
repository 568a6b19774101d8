"""The input tables: raw readings, which are folded exactly into intervals; labelled faults; kinds; sites."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import polars as pl

from models.contracts import FILE, ROW, RULE, AcceptResult, FoldResult, replace
from models.devices import aggregation
from models.devices.contracts import (
    ANY_DEVICE,
    JOINT_TAG,
    KEY,
    KINDS,
    RAW_COLUMNS,
    Kinds,
    Labels,
    Readings,
    Sites,
    Verdicts,
    check_raw,
)
from models.devices.layouts import LABELS
from models.errors import ContractError
from models.scenario import Table
from models.times import TIME, days

ENQUEUED = "EnqueuedTimeUtc"
TOLERANCE = timedelta(minutes=5)
_MOST_RANGES = 50
_FEWEST_REPEATS = 5
_MIXED_SHARE = 0.5
_UNITS = ("unit", "units", "uom", "unit_of_measurement", "engineering_unit")
"""Names of columns with the unit of a reading, in lower case."""
_NEW_AND_CHANGED: tuple[Literal["anti"], Literal["semi"]] = ("anti", "semi")
_FUTURE, _LATE = "time_in_future", "interval_closed"


@dataclass(frozen=True)
class ReadingsTable(Table):
    """Raw readings become the points of intervals, and these become the stored rows.

    Options of the ingest: `interval`, `timezone`, `limits` (a frame, see `check_raw`),
    `tolerance_seconds` that a reading may be ahead of the clock, and `now`.
    """

    @property
    def required_columns(self) -> tuple[str, ...]:
        return RAW_COLUMNS

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """`good` are points, see `aggregation`.

        A reading is in the future if it is later than `now` or, if the message has it, than the time at
        which the message was enqueued. So a message is treated equally whenever it is read. Raises `ContractError` if
        a column of units has several for one sensor.
        """
        interval = aggregation.interval_of(options["interval"])
        seconds = options.get("tolerance_seconds")
        tolerance = TOLERANCE if seconds is None else timedelta(seconds=seconds)
        split = check_raw(
            raw,
            options.get("now") or datetime.now(UTC),
            tolerance=tolerance,
            limits=options.get("limits"),
            timezone=options.get("timezone"),
            dates=options.get("dates"),
        )
        bad = split.bad.select(ROW, pl.col("rule").alias(RULE))
        good = split.good
        if ENQUEUED in raw.columns:
            ahead = good.filter(pl.col("time") > _enqueue_times(good[ENQUEUED]) + tolerance)
            good = good.join(ahead, on=ROW, how="anti", maintain_order="left")
            bad = pl.concat([bad, ahead.select(ROW, pl.lit(_FUTURE).alias(RULE))])
        ignored_columns = tuple(c for c in raw.columns if c not in (ROW, *RAW_COLUMNS))
        for column in ignored_columns:
            if column.rpartition(".")[2].casefold() in _UNITS:
                _refuse_several(good, column)
        if not options.get("duplicates") and ENQUEUED not in raw.columns:
            _refuse_mixed(good, ignored_columns)
        begin = pl.col("time").dt.truncate(interval)
        points = good.select(*KEY, begin, pl.col("time").alias("at"), "value")
        return AcceptResult(points, bad, ignored_columns)

    def unique_in(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """With the option `duplicates`, one reading counts for each time of a sensor, otherwise all that differ."""
        return (*KEY, "at") if options.get("duplicates") else ()

    def check_files(self, rows: pl.LazyFrame, files: pl.DataFrame) -> None:
        """Refuse a sensor that most of the time has other readings in another file: it is two sensors of one name."""
        rows = rows.join_asof(files.lazy().sort(ROW).set_sorted(ROW), on=ROW)
        first, last = pl.col("at").min().alias("first"), pl.col("at").max().alias("last")
        spans = rows.group_by(*KEY, FILE).agg(first, last).collect(engine="streaming").sort(*KEY, "first")
        overlaps = (
            spans.filter(pl.col("first") <= pl.col("last").cum_max().shift().over(KEY)).select(KEY).unique()
        )
        if overlaps.is_empty():
            return
        times = rows.join(overlaps.lazy(), on=KEY, how="semi").group_by(*KEY, "at")
        names, is_other = pl.col(FILE).unique().sort(), pl.col("value").n_unique() > 1
        shared = times.agg(names, is_other.alias("is_other")).filter(pl.col(FILE).list.len() > 1)
        sensors = (
            shared.group_by(KEY).agg(pl.len(), pl.col("is_other").mean(), pl.col(FILE).first()).collect()
        )
        for device, tag, count, share, (one, other, *_) in sensors.sort(KEY).iter_rows():
            if count >= _FEWEST_REPEATS and share > _MIXED_SHARE:
                raise ContractError(
                    f"'{tag}' of '{device}' has other readings at the same times in {one} than in {other}. Expected one "
                    "sensor. If they are two, add the name of the file with --column device=DEVICE_COLUMN+@file. If it is "
                    "one sensor, choose --duplicates average or last."
                )

    def fold(self, stored_rows: pl.LazyFrame | None, rows: pl.DataFrame) -> FoldResult:
        """Merges points into the stored intervals that they touch. Points of a closed interval are refused."""
        points = rows.drop("shard")
        current = (
            aggregation.aggregate(points.clear()) if stored_rows is None else _current(stored_rows, points)
        )
        merge = aggregation.merge(current, points)
        shards = rows.select("device", "shard").unique()
        readings = merge.readings.join(shards, on="device", how="left", maintain_order="left")
        new, updates, count = readings, readings.clear(), int(readings["count"].sum())
        if current.height:
            new, updates = (
                readings.join(current, on=[*KEY, "time"], how=how, maintain_order="left")
                for how in _NEW_AND_CHANGED
            )
            count -= int(current.join(updates, on=[*KEY, "time"], how="semi")["count"].sum())
        late = merge.too_late.with_columns(pl.lit(_LATE).alias(RULE))
        return FoldResult(new, updates, rows.height - count - late.height, late)

    def replace(self, stored_rows: pl.LazyFrame | None, rows: pl.DataFrame) -> FoldResult:
        """Replaces the stored points of the same intervals."""
        fold = self.fold(None, rows)
        if stored_rows is None:
            return fold
        current = _current(stored_rows, rows.drop("shard"))
        result = replace(current.lazy(), fold.new, self.unique)
        count = int(fold.new["count"].sum())
        same = count - int(result.new["count"].sum()) - int(result.changed["count"].sum())
        return FoldResult(result.new, result.changed, fold.repeated + same, fold.refused)


def _refuse_several(rows: pl.DataFrame, column: str) -> None:
    """Raise `ContractError` if a sensor has several units in `column`."""
    unit = pl.col(column).cast(pl.String).str.strip_chars().replace("", None).drop_nulls()
    units = rows.group_by(KEY).agg(unit.unique().sort().alias("units")).filter(pl.col("units").list.len() > 1)
    if units.height:
        device, tag, (one, other, *_) = units.sort(KEY).row(0)
        raise ContractError(
            f"'{tag}' of '{device}' has readings in {one} and in {other}, by the column '{column}'. Expected one unit for "
            f"each sensor. Convert the readings, or add the unit to the name with --column 'tag=SENSOR_COLUMN+{column}'."
        )


def _refuse_mixed(rows: pl.DataFrame, columns: Sequence[str]) -> None:
    """Raise `ContractError` if one of the `columns` shows that a sensor is several, such as those of one name at two sites.

    Most rows then have the time of another one of their sensor, and the column tells these apart. It has the same values
    time and again, unlike one that numbers the rows.
    """
    at = [*KEY, "time"]
    several = rows.filter(pl.struct(at).is_duplicated()) if columns else rows.clear()
    if several.height <= _MIXED_SHARE * rows.height:
        return
    for column in columns:
        name = several[column].cast(pl.String)
        is_name = 1 < name.n_unique() <= name.len() / _FEWEST_REPEATS and not name.null_count()
        if is_name and several.select(pl.struct(*at, column).is_unique().all()).item():
            one, other = several.filter(pl.struct(at) == pl.struct(at).first())[column].head(2)
            device, tag = several.select(KEY).row(0)
            raise ContractError(
                f"'{tag}' of '{device}' has several readings at the same time, told apart by the column '{column}': {one} "
                f"and {other}. Expected one sensor. Add the column to a name with --column 'device=DEVICE_COLUMN+{column}', "
                f"or, if it is a part of the time, with 'time=TIME_COLUMN+{column}'. If it is one sensor, choose "
                "--duplicates average."
            )


def _enqueue_times(text: pl.Series) -> pl.Series:
    """The times at which messages were enqueued, as Event Hubs Capture writes them, in UTC; null if unreadable."""
    times = text.str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False, time_unit="us")
    other = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", strict=False, time_unit="us")
    return times.fill_null(other).dt.replace_time_zone("UTC").cast(TIME)


def _current(readings: pl.LazyFrame, points: pl.DataFrame) -> pl.DataFrame:
    """The stored readings of the intervals of `points`."""
    time = pl.col("time")
    near = pl.any_horizontal(*(time.is_between(*hours, closed="left") for hours in _hours(points)))
    rows = readings.filter(near).select(Readings.column_names())
    return rows.join(points.lazy(), on=[*KEY, "time"], how="semi").collect(engine="streaming")


def _hours(points: pl.DataFrame) -> list[tuple[datetime, datetime]]:
    """The hours of points, as ranges from start to end; a single range if there are many."""
    hour = timedelta(hours=1)
    ranges: list[tuple[datetime, datetime]] = []
    for begin in points.select(pl.col("time").dt.truncate("1h").unique().sort())["time"]:
        if ranges and ranges[-1][1] == begin:
            ranges[-1] = (ranges[-1][0], begin + hour)
        else:
            ranges.append((begin, begin + hour))
    return ranges if len(ranges) <= _MOST_RANGES else [(ranges[0][0], ranges[-1][1])]


@dataclass(frozen=True)
class LabelsTable(Table):
    """Labelled faults. `tag` is optional; without one, the fault concerns all tags: `*`.

    If all ends are dates without a time, they are the last days of the faults.
    """

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        rows = _or_all(raw, "tag", JOINT_TAG)
        if raw["end"].dtype == pl.Date or (raw["end"].dtype == pl.String and _are_days(raw["end"])):
            last = days(raw["end"], options.get("dates"))
            rows = rows.with_columns((last + timedelta(days=1)).alias("end"))
        return super().accept(rows, options)


def _are_days(ends: pl.Series) -> bool:
    """Whether text holds only dates: no time of day, and no long number, which includes a time of day."""
    return not ends.str.contains(r":|\d{9}|T\d").any()


@dataclass(frozen=True)
class KindsTable(Table):
    """The kind of sensor of each tag. `device` is optional; without one, it holds for all devices: `*`."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        word = pl.col("kind").cast(pl.String).str.strip_chars().str.to_lowercase()
        rows = _or_all(raw, "device", ANY_DEVICE).with_columns(word.alias("kind"))
        return super().accept(rows, options)


@dataclass(frozen=True)
class SitesTable(Table):
    """The time zone of each device, and its site, which is optional."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        rows = raw if "site" in raw.columns else raw.with_columns(site=pl.lit(None, pl.String))
        return super().accept(rows, options)


def _or_all(raw: pl.DataFrame, column: str, every: str) -> pl.DataFrame:
    """`raw` with `every` in `column` if it is empty or missing."""
    text = (pl.col(column) if column in raw.columns else pl.lit(None)).cast(pl.String).str.strip_chars()
    return raw.with_columns(
        pl.when(text.fill_null("") == "").then(pl.lit(every)).otherwise(text).alias(column)
    )


TABLES: dict[str, Table] = {
    "readings": ReadingsTable(
        "readings",
        Readings,
        unique=(*KEY, "time"),
        shard_by=("device",),
        rows_at_a_time=2_000_000,
        harmless=("duplicate", "tag_of_words", "value_missing", "value_unknown", "quality_bad"),
        wide=("tag", "value"),
        labels=LABELS,
        advice={
            "value_not_a_number": "A unit, such as in 20 bar, is ignored if all values of the column have it. Remove "
            "units that differ, and put each into the name of its tag.",
            "body|lacks tag": "If a message has text as well as numbers, the text may name the sensor: map it with "
            "--column tag=MEMBER --column value=MEMBER, and, if it has no time, --column time=EnqueuedTimeUtc. If each "
            "number is a sensor, use --column tag=* --column value=*.",
        },
    ),
    "labels": LabelsTable(
        "labels", Labels, unique=(*KEY, "start"), optional=("tag",), shard_by=("device",), required=False
    ),
    "kinds": KindsTable(
        "kinds",
        Kinds,
        unique=KEY,
        optional=("device",),
        required=False,
        advice={"kind_is_known": f"Expected one of the kinds {', '.join(KINDS)}."},
    ),
    "sites": SitesTable(
        "sites",
        Sites,
        unique=("device",),
        optional=("site",),
        required=False,
        advice={"timezone_is_known": "Expected names of the IANA database, such as UTC or Europe/Zurich."},
    ),
    "verdicts": Table(
        "verdicts",
        Verdicts,
        unique=(*KEY, "start", "verdict"),
        shard_by=("device",),
        required=False,
        ahead=timedelta(days=3650),
    ),
}
