"""The names in the data: sensors, components, errors, models of machine, and the telemetry's interval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from models.machines import contracts
from models.machines.cleaning import words
from models.machines.conditions import IN_CONDITION, Conditions
from models.machines.next_in_time import with_next
from models.moments import local_timezone
from models.scenario import Frames
from models.sentinels import CODES, sentinels_of

OTHER = "other errors"
"""The name in `Vocabulary.errors` for all errors that are not distinguished; present only if there are any."""

OTHER_COMPONENTS = "other components"
"""The same in `Vocabulary.components`."""

_MOST = 40
_SELDOM, _CODES = 3, 0.9
_EVENTS = ("maintenance", "failures")
_LISTS = ("sensors", "components", "errors", "models", "dated", "left_out", "codes")
_HERALD_RECORDS, _HERALD_SHARE, _HERALD_TIME = 10, 0.9, timedelta(days=2)


@dataclass(frozen=True)
class Vocabulary:
    """The names on which features and models are based, as known at one `as_of`; each list is sorted.

    `dated` are the tables in which only the day of each record is known, see `by_end_of_day`; `left_out` are errors that
    reveal the outcome, and count as no other error either. `codes` are numbers that stand for no reading, such as
    `vibration=-999`, see `models.sentinels`. `conditions` are the operating conditions that a training has found.
    """

    sensors: tuple[str, ...]
    components: tuple[str, ...]
    errors: tuple[str, ...]
    models: tuple[str, ...]
    interval_hours: float
    dated: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    conditions: Conditions | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """The sensors, and those whose readings are also compared within their operating condition."""
        within = self.conditions.sensors if self.conditions else ()
        return (*self.sensors, *(name + IN_CONDITION for name in within if name in self.sensors))

    def readings_of(self, sensor: str) -> pl.Expr:
        """The column of the sensor as numbers, null for those that stand for no reading."""
        column = pl.col(sensor).cast(pl.Float64)
        pairs = (code.rpartition("=") for code in self.codes)
        codes = [float(number) for name, _, number in pairs if name == sensor]
        return pl.when(~column.is_in(codes)).then(column) if codes else column

    def to_frame(self) -> pl.DataFrame:
        """One row per name: `kind` (sensors, components, errors, models, dated, left_out, codes, interval_hours), `name`."""
        rows = [(kind, name) for kind in _LISTS for name in getattr(self, kind)]
        rows.append(("interval_hours", repr(self.interval_hours)))
        return pl.DataFrame(rows, schema={"kind": pl.String, "name": pl.String}, orient="row")

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Vocabulary":
        """The inverse of `to_frame`."""
        names: dict[str, Any] = {kind: tuple(frame.filter(pl.col("kind") == kind)["name"]) for kind in _LISTS}
        interval = frame.filter(pl.col("kind") == "interval_hours")["name"].item()
        return cls(**names, interval_hours=float(interval))

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `asdict`, also after a round trip through JSON."""
        names: dict[str, Any] = {kind: tuple(values.get(kind, ())) for kind in _LISTS}
        entry = values.get("conditions")
        conditions = Conditions.of_dict(entry) if entry else None
        return cls(**names, interval_hours=float(values["interval_hours"]), conditions=conditions)


def vocabulary(tables: Frames, as_of: datetime) -> Vocabulary:
    """The names in the rows up to `as_of`.

    A component is whatever was replaced or failed, see `components_of`. Of more than 40 kinds of error, the 40 most
    common ones are distinguished, see `_errors`; the others become `OTHER`. If no machine has two telemetry rows, the
    interval is assumed to be an hour.
    """
    visible = contracts.tables_at(tables, as_of)
    sensors = contracts.sensors(visible["telemetry"])
    return Vocabulary(
        sensors=tuple(sensors),
        components=components_of(tables, as_of),
        errors=_errors(visible["errors"], visible.get("failures")) if "errors" in visible else (),
        models=_distinct(visible["machines"], "model") if "machines" in visible else (),
        interval_hours=contracts.interval_hours(visible["telemetry"]) or 1.0,
        dated=_dated(visible),
        codes=tuple(_codes(visible["telemetry"], sensors)),
    )


def _codes(telemetry: pl.LazyFrame, sensors: Sequence[str]) -> Iterator[str]:
    """The `codes` of a vocabulary, by sensor: well-known numbers, such as -999, far from all other readings of the fleet."""
    if not sensors:
        return
    numbers = telemetry.select(pl.col(sensors).cast(pl.Float64))
    has_code = numbers.select(pl.all().abs().is_in([*CODES]).any()).collect(engine="streaming").row(0)
    for sensor in (name for name, flag in zip(sensors, has_code, strict=True) if flag):
        readings = numbers.select(pl.col(sensor).drop_nulls()).collect()[sensor].to_numpy()
        (found,) = sentinels_of(readings[np.newaxis])
        yield from (f"{sensor}={number!r}" for number in found if abs(number) in CODES)


def by_end_of_day(tables: Frames, dated: Sequence[str]) -> dict[str, pl.LazyFrame]:
    """`tables` with the records of the `dated` tables at the end of their day.

    At its start, a repair after a failure of that day would be on record before the failure.
    """
    end = pl.col("time") + pl.duration(days=1)
    return {t: f.with_columns(end) if t in dated else f for t, f in tables.items()}


def _dated(tables: Frames) -> tuple[str, ...]:
    """Of maintenance and errors those all of whose times are midnight, where those of failures are not.

    Midnight is that of UTC or of `ALMANAC_TIMEZONE`.
    """
    zone = local_timezone().key
    if "failures" not in tables or contracts.is_dated(tables["failures"], zone) is not False:
        return ()
    names = [name for name in ("errors", "maintenance") if name in tables]
    return tuple(name for name in names if contracts.is_dated(tables[name], zone))


def components_of(tables: Frames, as_of: datetime) -> tuple[str, ...]:
    """The components replaced or failed up to `as_of`: texts with the same words are one component, named as at first.

    Of more than 40, those with three records or more, and `OTHER_COMPONENTS`.
    """
    parts = [tables[name].select("component", "time") for name in _EVENTS if name in tables]
    if not parts:
        return ()
    first = pl.col("component").sort_by("time", "component").first()
    of_words = pl.concat(parts).filter(pl.col("time") <= as_of).group_by(words(pl.col("component")))
    kinds = (
        of_words.agg(first.alias("name"), pl.len()).sort(["len", "name"], descending=[True, False]).collect()
    )
    if kinds.height <= _MOST:
        return tuple(kinds["name"].sort())
    often = kinds.filter(pl.col("len") >= _SELDOM)["name"]
    return (*sorted({*often} - {OTHER_COMPONENTS}), OTHER_COMPONENTS)


def by_component(tables: Frames, components: Sequence[str]) -> dict[str, pl.LazyFrame]:
    """`tables` with the `components` of failures and maintenance instead of their texts, see `components_of`.

    A text with other words becomes `OTHER_COMPONENTS` if that exists; otherwise it is kept.
    """
    if not components:
        return {**tables}
    name = pl.col("component")
    keys = pl.DataFrame({"component": [*components]}, schema={"component": pl.String}).select(words(name))
    same = dict(zip(keys.to_series(), components, strict=True))
    rest = pl.lit(OTHER_COMPONENTS) if OTHER_COMPONENTS in components else name
    kind = words(name).replace_strict(same, default=rest, return_dtype=pl.String)
    kind = pl.when(name.is_in([*components])).then(name).otherwise(kind)
    return {t: f.with_columns(component=kind) if t in _EVENTS else f for t, f in tables.items()}


def kind_of_error(errors: tuple[str, ...], left_out: tuple[str, ...] = ()) -> pl.Expr:
    """The name in the vocabulary's `errors` or `left_out` for the column `error`; null if there is none."""
    if OTHER not in errors:
        return pl.col("error")
    names, text = [*errors, *left_out], _without_numbers()
    own = pl.when(pl.col("error").is_in(names)).then("error")
    return own.when(text.is_in(names)).then(text).otherwise(pl.lit(OTHER))


def _errors(errors: pl.LazyFrame, failures: pl.LazyFrame | None) -> tuple[str, ...]:
    """The kinds of error: all up to 40; of more, those that herald failures, the most common ones, and `OTHER`.

    A kind with ten records or more heralds failures if its machine fails within two days after nine of ten: it is the most
    useful kind, or a leak, and neither may disappear among others.

    If nine of ten records have texts that occur three times or more, these are codes, and the kinds are
    the texts. Otherwise they are messages: the kinds are texts without numbers that occur as often.
    """
    words = _distinct(errors, "error")
    if len(words) <= _MOST:
        return words
    times = errors.clear() if failures is None else failures
    times = times.select("machine_id", "time", pl.lit(value=True).alias("|fails")).sort("time")
    errors = with_next(errors.sort("time"), times, within=_HERALD_TIME)
    counts = _often(errors, pl.col("error"))
    if counts["len"].sum() < _CODES * errors.select(pl.len()).collect().item():
        counts = _often(errors, _without_numbers())
    return (*sorted(set(counts["error"].head(_MOST)) - {OTHER}), OTHER)


def _often(errors: pl.LazyFrame, text: pl.Expr) -> pl.DataFrame:
    """The texts with three records or more: error, `len`; those that herald failures first, then the most common ones."""
    counts = errors.group_by(text).agg(
        pl.len(), pl.col("|fails").fill_null(value=False).mean().alias("share")
    )
    heralds = (pl.col("share") >= _HERALD_SHARE) & (pl.col("len") >= _HERALD_RECORDS)
    often = counts.filter(pl.col("len") >= _SELDOM).with_columns(heralds.alias("heralds"))
    return often.sort(["heralds", "len", "error"], descending=[True, True, False]).collect()


def _without_numbers() -> pl.Expr:
    """The text of an error with # for each number: messages differ by a value or a time, kinds do not."""
    return pl.col("error").str.replace_all(r"\d+([.,:]\d+)*", "#")


def _distinct(frame: pl.LazyFrame, column: str) -> tuple[str, ...]:
    return tuple(frame.select(pl.col(column).drop_nulls().unique().sort()).collect()[column])
