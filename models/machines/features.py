"""The features of a machine at a time: one definition for training, testing and scoring.

Contract::

    windows(interval_hours, options) -> Windows           the windows that the telemetry can resolve
    feature_list(vocabulary, options) -> list[Feature]    names and meanings, in the order of the columns
    used_features(vocabulary, options) -> list[Feature]   those that the estimators use
    build(tables, vocabulary, machines, last, count, options) -> pl.DataFrame

`build` returns machine_id, time, `readings` and the features (Float32; null without a
value) for the row times `last`, `last - every`, ... of each machine. A row at T uses records dated T
or earlier. A window of w hours is (T - w, T]: a reading belongs to it if its interval ended in it,
an error if it is dated in it. Features depend neither on the requested range of rows nor on the
calendar, so the same history an hour or a year later gives the same features.

Per sensor and window: mean, standard deviation, minimum, maximum, slope per hour, and the distance of the
mean from the machine's own normal, in standard deviations of its readings over `normal_days`
that end `normal_gap_hours` before the row. If there are several operating conditions, the same of readings compared
within their condition, see `conditions`. Per error: the number in each window. Days since each component, and
any, was last replaced, and since any failed, from the whole history; a failure counts as a replacement,
recorded or not. Days until the next maintenance, if the machine is maintained regularly: the median of
the last nine distances between its maintenances, of which there must be at least four, added to the last one. Age, and
one column per machine model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import gcd

import numpy as np
import polars as pl

from models.errors import ContractError
from models.machines.conditions import IN_CONDITION
from models.machines.contracts import tables_at
from models.machines.moments import Floats, Moments, in_blocks, merge
from models.machines.next_in_time import with_last
from models.machines.options import Options
from models.machines.vocabulary import Vocabulary, by_component, by_end_of_day, kind_of_error
from models.scenario import Frames

ROW = ("machine_id", "time")
_HOUR = 3_600_000_000
_NORMAL_HOURS = 72
_MANY = 12
_NEARLY = 0.05
_ANY = "any"
_SPREAD = ("std", "min", "max", "slope")
_MOMENT_DAYS = 1e-4
_RHYTHM, _LEAST_RHYTHM = 9, 3


@dataclass(frozen=True)
class Feature:
    """A column of the features: its subject, its measure, and the hours of its window."""

    name: str
    kind: str
    subject: str
    statistic: str
    hours: int | None = None


def used_features(vocabulary: Vocabulary, options: Options) -> list[Feature]:
    """The features of `feature_list` that the estimators use according to the options, in the same order."""
    every = feature_list(vocabulary, options)
    longest = max((f.hours for f in every if f.kind == "sensor" and f.hours), default=0)

    def seen(feature: Feature) -> bool:
        if feature.kind == "sensor":
            is_spread = feature.statistic in _SPREAD and not options.use_spread
            is_normal = feature.statistic == "deviation" and not options.use_normal
            return not (is_spread or is_normal) and (options.use_short_windows or feature.hours == longest)
        if feature.kind == "error":
            return options.use_errors
        return options.use_attributes or feature.statistic not in ("age", "model")

    return [feature for feature in every if seen(feature)]


@dataclass(frozen=True)
class Windows:
    """The telemetry windows in hours that can be resolved; those in `spread` hold two readings or more."""

    hours: tuple[int, ...]
    spread: tuple[int, ...]
    left_out: tuple[str, ...]


def windows(interval_hours: float, options: Options) -> Windows:
    """The windows of `options` that telemetry at this interval resolves, and why others are left out.

    A window must hold a whole number of intervals, within a twentieth, so that rows have the same number of readings,
    or at least a dozen of them, so that one more or less matters little.

    >>> windows(24.0, Options()).left_out[0]
    'window of 12 h: the telemetry comes every 24 h'
    """
    hours, spread, left_out = [], [], []
    for window in options.windows_hours:
        readings = window / interval_hours
        if readings < 1 - _NEARLY:
            left_out.append(f"window of {window} h: the telemetry comes every {interval_hours:g} h")
        elif readings < _MANY and abs(readings - round(readings)) > _NEARLY:
            left_out.append(f"window of {window} h: not a whole number of intervals of {interval_hours:g} h")
        else:
            hours.append(window)
            if readings >= 2 - _NEARLY:
                spread.append(window)
            else:
                left_out.append(
                    f"window of {window} h: deviation, extremes and slope, because it holds one reading"
                )
    return Windows(tuple(hours), tuple(spread), tuple(left_out))


def feature_list(vocabulary: Vocabulary, options: Options) -> list[Feature]:
    """The features in the order of their columns."""
    usable = windows(vocabulary.interval_hours, options)
    features: list[Feature] = []
    for sensor in vocabulary.signals:
        for hours in usable.hours:
            several = _SPREAD if hours in usable.spread else ()
            for statistic in ("mean", *several, "deviation"):
                features.append(Feature(f"{sensor}_{statistic}_{hours}h", "sensor", sensor, statistic, hours))
    for error in vocabulary.errors:
        for hours in options.error_windows_hours:
            features.append(Feature(f"{error}_count_{hours}h", "error", error, "count", hours))
    for component in vocabulary.components:
        features.append(Feature(replaced_column(component), "component", component, "replaced"))
    features.append(Feature("any_replaced_days", "machine", "any component", "replaced"))
    features.append(Feature("any_failed_days", "machine", "any component", "failed"))
    features.append(Feature("maintenance_due_days", "machine", "maintenance", "due"))
    features.append(Feature("age_years", "machine", "machine", "age"))
    for model in vocabulary.models:
        features.append(Feature(f"model_is_{model}", "machine", model, "model"))
    names = [f.name for f in features]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ContractError(
            f"Two features would have the same name: {', '.join(twice)}. Expected different names of "
            "sensors, errors, components and models. Rename a sensor's column, or an error or component."
        )
    return features


def replaced_column(component: str) -> str:
    """Name of the column with the days since the component was replaced; a component may be called `any`."""
    return f"{component}_replaced_days" if component != "any" else "component_any_replaced_days"


def _own(word: str) -> str:
    """Name of a column for a word of the data, which may equal the name of one of our columns, such as `time`."""
    return f"{word}|"


def under_work(component: str, options: Options) -> pl.Expr:
    """Whether `component` was replaced, or failed, less than `under_work_hours` before the row's time."""
    days = options.under_work_hours / 24
    return (pl.col(replaced_column(component)) < days - _MOMENT_DAYS).fill_null(value=False)


def build(
    tables: Frames,
    vocabulary: Vocabulary,
    machines: Sequence[str],
    last: datetime,
    count: int,
    options: Options,
) -> pl.DataFrame:
    """Features of `machines` at `count` row times up to `last`; see the module's docstring.

    `readings` is the number of readings in the longest window of the sensor with the most.
    Rows are sorted by machine and time; every machine has a row for each time, even without data.
    """
    records = by_end_of_day(by_component(tables, vocabulary.components), vocabulary.dated)
    visible = tables_at(records, last)
    ids = sorted(set(machines))
    step = timedelta(hours=options.every_hours)
    times = pl.Series("time", [last - step * back for back in range(count - 1, -1, -1)])
    times = times.cast(pl.Datetime("us", "UTC"))
    rows = pl.DataFrame({"machine_id": pl.Series(ids, dtype=pl.String)}).join(times.to_frame(), how="cross")
    columns = {
        **_telemetry(visible["telemetry"], vocabulary, ids, last, count, options),
        **_errors(visible.get("errors"), vocabulary, rows, options),
        **_events(visible, vocabulary, rows),
        **_attributes(visible.get("machines"), vocabulary, rows),
    }
    names = [f.name for f in feature_list(vocabulary, options)]
    return rows.with_columns(columns["readings"], *(columns[name] for name in names))


def _telemetry(
    telemetry: pl.LazyFrame,
    vocabulary: Vocabulary,
    ids: list[str],
    last: datetime,
    count: int,
    options: Options,
) -> dict[str, pl.Series]:
    """The sensors' features by name, and `readings`, in the order of the rows."""
    usable = windows(vocabulary.interval_hours, options)
    block = gcd(options.every_hours, *options.windows_hours)
    grid = _Grid(len(ids), count, block, options)
    readings = _readings(
        telemetry.filter(
            pl.col("time") > last - timedelta(hours=grid.blocks * block), pl.col("machine_id").is_in(ids)
        ),
        vocabulary,
    )
    machine = readings["machine_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    before = (pl.Series([last]).cast(pl.Datetime("us", "UTC")) - readings["time"]).dt.total_microseconds()
    back = before.to_numpy() // (block * _HOUR)
    cells = machine * grid.blocks + (grid.blocks - 1 - back)
    hours = (back * (block * _HOUR) - before.to_numpy()) / _HOUR
    most = np.zeros((len(ids), count))
    columns = {}
    for sensor in vocabulary.signals:
        values = readings[sensor].to_numpy()
        moments = grid.shaped(in_blocks(cells, hours, values, len(ids) * grid.blocks))
        most = np.maximum(most, grid.window(moments, max(options.windows_hours)).count)
        for name, array in _of_sensor(grid, moments, usable, vocabulary.interval_hours).items():
            columns[f"{sensor}_{name}"] = _series(f"{sensor}_{name}", array)
    columns["readings"] = pl.Series("readings", most.ravel().astype(np.int32))
    return columns


def _readings(telemetry: pl.LazyFrame, vocabulary: Vocabulary) -> pl.DataFrame:
    """machine_id, time and the readings of each signal, NaN where there is none, sorted by machine and time."""
    conditions = vocabulary.conditions
    needed = {*vocabulary.sensors, *(conditions.sensors if conditions else ())}
    schema = telemetry.collect_schema()
    columns = []
    for sensor in sorted(needed):
        values = vocabulary.readings_of(sensor) if sensor in schema else pl.lit(None, pl.Float64)
        columns.append(values.fill_null(float("nan")).alias(sensor))
    readings = telemetry.select("machine_id", "time", *columns).collect().sort("machine_id", "time")
    if conditions is None:
        return readings
    levels = conditions.at_average(readings.select(conditions.sensors).to_numpy())
    return readings.with_columns(
        pl.Series(name + IN_CONDITION, levels[:, i]) for i, name in enumerate(conditions.sensors)
    )


def _of_sensor(grid: "_Grid", moments: Moments, usable: Windows, interval_hours: float) -> dict[str, Floats]:
    normal = grid.normal(moments)
    deviation = normal.std()
    enough = (normal.count * interval_hours >= _NORMAL_HOURS) & (deviation > 1e-9 * np.abs(normal.mean))
    scale = np.where(enough, deviation, np.nan)
    columns = {}
    for hours in usable.hours:
        window = grid.window(moments, hours)
        columns[f"mean_{hours}h"] = window.level()
        columns[f"deviation_{hours}h"] = (window.level() - normal.mean) / scale
        if hours in usable.spread:
            columns[f"std_{hours}h"] = window.std()
            columns[f"min_{hours}h"], columns[f"max_{hours}h"] = window.extremes()
            columns[f"slope_{hours}h"] = window.slope()
    return columns


class _Grid:
    """Blocks of `block` hours that end at the last row time, for each machine and far enough back."""

    def __init__(self, machines: int, count: int, block: int, options: Options) -> None:
        self.machines, self.count, self.block = machines, count, block
        self.step = options.every_hours // block
        self.longest = max(options.windows_hours) // block
        gap_hours = options.normal_gap_hours or max(options.windows_hours)
        self.gap = -(-gap_hours // options.every_hours)
        self.normal_steps = -(-options.normal_days * 24 // options.every_hours)
        self.rows = count + self.gap + self.normal_steps - 1
        self.blocks = max(self.rows * self.step, (count - 1) * self.step + self.longest)

    def shaped(self, flat: Moments) -> Moments:
        shape = (self.machines, self.blocks)
        return Moments(*(getattr(flat, name).reshape(shape) for name in flat.__dataclass_fields__))

    def window(self, moments: Moments, hours: int) -> Moments:
        """Moments of (T - hours, T] at each row time, shape (machines, count)."""
        length = hours // self.block
        first = self.blocks - (self.count - 1) * self.step - length
        return merge([self._each(moments, first + i, self.count) for i in range(length)], self.block)

    def normal(self, moments: Moments) -> Moments:
        """Moments of the steps that end `normal_gap_hours`, rounded up to steps, before each row time."""
        first = self.blocks - self.rows * self.step
        steps = merge([self._each(moments, first + i, self.rows) for i in range(self.step)], self.block)
        each = (slice(None),)
        parts = [steps[(*each, slice(i, i + self.count))] for i in range(self.normal_steps)]
        return merge(parts, self.block * self.step)

    def _each(self, moments: Moments, first: int, count: int) -> Moments:
        return moments[(slice(None), slice(first, first + (count - 1) * self.step + 1, self.step))]


def _errors(
    errors: pl.LazyFrame | None, vocabulary: Vocabulary, rows: pl.DataFrame, options: Options
) -> dict[str, pl.Series]:
    """The number of errors of each type in each window; 0 if none is on record."""
    if not vocabulary.errors:
        return {}
    if errors is None:
        return {
            f"{error}_count_{hours}h": pl.Series(f"{error}_count_{hours}h", [None] * rows.height, pl.Float32)
            for error in vocabulary.errors
            for hours in options.error_windows_hours
        }
    own = {error: _own(error) for error in vocabulary.errors}
    so_far = (
        errors.with_columns(kind_of_error(vocabulary.errors, vocabulary.left_out).alias("error"))
        .select(*ROW, *((pl.col("error") == e).cast(pl.Int32).alias(name) for e, name in own.items()))
        .group_by(ROW)
        .sum()
        .sort("time", "machine_id")
        .select(*ROW, *(pl.col(name).cum_sum().over("machine_id") for name in own.values()))
        .collect()
    )
    until = _at(rows, so_far, timedelta(0)).fill_null(0)
    columns = {}
    for hours in options.error_windows_hours:
        counts = until - _at(rows, so_far, timedelta(hours=hours)).fill_null(0)
        for error in vocabulary.errors:
            name = f"{error}_count_{hours}h"
            columns[name] = counts[own[error]].cast(pl.Float32).alias(name)
    return columns


def _events(tables: Frames, vocabulary: Vocabulary, rows: pl.DataFrame) -> dict[str, pl.Series]:
    """Days since each component, and any, was last replaced, and since any failed; null if there is no record."""
    failures = [tables["failures"].select(*ROW, "component")] if "failures" in tables else []
    replacements = [tables["maintenance"].select(*ROW, "component")] if "maintenance" in tables else []
    since = _since(replacements + failures, vocabulary.components, rows)
    columns = {replaced_column(c): since[_own(c)].alias(replaced_column(c)) for c in vocabulary.components}
    columns["any_replaced_days"] = since[_ANY].alias("any_replaced_days")
    columns["any_failed_days"] = _since(failures, (), rows)[_ANY].alias("any_failed_days")
    columns["maintenance_due_days"] = _due(tables.get("maintenance"), rows)
    return columns


def _due(maintenance: pl.LazyFrame | None, rows: pl.DataFrame) -> pl.Series:
    """Days until the next maintenance of a regularly maintained machine, above 0; null if it is not regular yet."""
    name = "maintenance_due_days"
    if maintenance is None:
        return pl.Series(name, [None] * rows.height, pl.Float32)
    distance = pl.col("time").diff().over("machine_id").dt.total_microseconds().cast(pl.Float64)
    rhythm = pl.col("rhythm").rolling_quantile(
        0.5, interpolation="lower", window_size=_RHYTHM, min_samples=_LEAST_RHYTHM
    )
    visits = (
        maintenance.select(ROW)
        .unique()
        .sort(ROW)
        .with_columns(distance.alias("rhythm"))
        .with_columns(rhythm.over("machine_id").round().cast(pl.Int64), pl.col("time").alias("visit"))
        .collect()
    )
    last = _at(rows, visits, timedelta(0))
    since = (rows["time"] - last["visit"]).dt.total_microseconds()
    return ((last["rhythm"] - since % last["rhythm"]) / (24 * _HOUR)).cast(pl.Float32).alias(name)


def _since(frames: list[pl.LazyFrame], components: Sequence[str], rows: pl.DataFrame) -> pl.DataFrame:
    """Days since the last event of each component, and of any (`_ANY`), at each row."""
    own = {component: _own(component) for component in components}
    names = (*own.values(), _ANY)
    if not frames:
        return pl.DataFrame({name: pl.Series([None] * rows.height, dtype=pl.Float32) for name in names})
    last = (
        pl.concat(frames)
        .select(
            *ROW, *(pl.when(pl.col("component") == c).then("time").alias(name) for c, name in own.items())
        )
        .group_by(ROW)
        .max()
        .sort("time", "machine_id")
        .select(*ROW, *(pl.col(name).forward_fill().over("machine_id") for name in own.values()))
        .with_columns(pl.col("time").alias(_ANY))
        .collect()
    )
    days = [
        ((rows["time"] - column).dt.total_microseconds() / (24 * _HOUR)).cast(pl.Float32).alias(column.name)
        for column in _at(rows, last, timedelta(0)).select(names).iter_columns()
    ]
    return pl.DataFrame(days)


def _at(rows: pl.DataFrame, history: pl.DataFrame, back: timedelta) -> pl.DataFrame:
    """The last line of each machine's `history` dated `time - back` or earlier, in the order of `rows`."""
    times = rows.select("machine_id", pl.col("time") - back).with_row_index("|row").sort("time")
    lines = with_last(times, history)
    return lines.sort("|row").drop("|row", *ROW)


def _attributes(
    machines: pl.LazyFrame | None, vocabulary: Vocabulary, rows: pl.DataFrame
) -> dict[str, pl.Series]:
    """Age in years, and 1 for the machine's own model, 0 for others; null if not on record."""
    schema = {"machine_id": pl.String, "model": pl.String, "age_years": pl.Float64}
    of = pl.DataFrame(schema=schema) if machines is None else machines.select(list(schema)).collect()
    attributes = rows.select("machine_id").join(of, on="machine_id", how="left", maintain_order="left")
    columns = {"age_years": attributes["age_years"].cast(pl.Float32)}
    for model in vocabulary.models:
        name = f"model_is_{model}"
        columns[name] = (attributes["model"] == model).cast(pl.Float32).alias(name)
    return columns


def _series(name: str, values: Floats) -> pl.Series:
    return pl.Series(name, values.ravel().astype(np.float32)).fill_nan(None)
