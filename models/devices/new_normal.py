"""The new normal: a sensor that is called too often is also judged by its last day.

**Memory.** If at least 3 % of a sensor's readings of the hour (two of 60) have a p-value of at most 0.001, or 15 % one of
at most 0.01, each of them is compared with the readings of the last `Options.hold_hours`, at least
`MEMORY_INTERVALS` intervals; runs of one value with runs only. Its p-value is at least its rank among them divided by
their number, both with itself (a rolling conformal p-value, so the share of calls follows alpha whatever the sensor does, as
in Gibbs & Candes 2021, NeurIPS 34). A record, more unusual than all of them, keeps its p-value: one in their number
is a record, so that there must be 1 / `OFTEN_AT` of them. Readings less than 15 minutes or two intervals older count
only if more than `BROKEN` times that share of the others have a p-value of at most 0.001: so a fault after a calm day is
called for that long, and again if it gets worse. If the sensor was unusual in the last `Options.hold_hours`, at least
`USUAL_INTERVALS` intervals, the logarithm by which a p-value lies below `OFTEN_AT` is multiplied by
log(`USUAL_SHARE`) / log(q), where q is the `USUAL_SHARE` quantile of its earlier p-values. On a sensor that drifts, a
reading farther out than any before is not unusual.

**The new normal.** The rule: in each quarter of the hold (`Options.hold_hours`, at least `FEWEST_INTERVALS`
intervals) before the hour, at least a fifth of the sensor's readings are anomalies, at least two. Then a detector
is fitted on the readings of the hold, as in training, and a reading of the hour is only as unusual as the more lenient of
the two detectors says; the later one has the same memory. So the new level, scale or cycle is normal, and so is a return
to the old one, but a departure from both is not. Joint detectors follow the same rules. Everything follows from the
readings: nothing is kept between runs.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from models.devices import conversion
from models.devices.calibration import P_FLOOR
from models.devices.channels import LEVEL_WEIGHTS
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.model import Model
from models.devices.options import Options
from models.devices.pace import of_devices, paces_in, panels
from models.devices.training import files_of, fit_grid, frames_of, one_joint
from models.scenario import Scores

HOUR = timedelta(hours=1)
FEWEST_INTERVALS, USUAL_INTERVALS, MEMORY_INTERVALS = 240, 500, 1000
OFTEN_AT, BROKEN = 0.001, 2
SUSPECT = ((OFTEN_AT, 0.03), (0.01, 0.15))
"""Pairs of a p-value and the share of an hour's readings at or below it from which a sensor counts as called often."""
HARDLY_WORSE = 0.01
"""A score that is higher by at most this share counts as equally unusual: expected values move over the day."""
CALLED_FOR, FEWEST_CALLED = timedelta(minutes=15), 2
USUAL_SHARE = 0.1
"""The quantile of the earlier p-values that measures how unusual they were."""
QUARTERS = 4
STAYED_SHARE, FEWEST_ANOMALIES = 0.2, 2
_FLAT = (pl.col("cause").eq_missing("flat")).alias("flat")
"""A run of one value is compared only with other runs, however extreme the sensor's values."""
_JUDGED = ("score", "p_value", "is_anomaly", "rung", "cause", "expected", "low", "high")
REASON = "new normal: in the {:g} hours before, it differed from the training; also judged by these hours"

Scorer = Callable[[Model, pl.DataFrame, datetime, datetime], Scores]
"""Scores of keys from one moment up to another, by a model."""


def hold_of(hours: float, step: timedelta) -> timedelta:
    """For how long a sensor with a reading every `step` must have been different; 0: it never becomes normal."""
    return max(timedelta(hours=hours), FEWEST_INTERVALS * step) if hours else timedelta(0)


def memory_of(hours: float, step: timedelta) -> timedelta:
    """How far back readings are compared; 0: they are not compared."""
    return max(hold_of(hours, step), MEMORY_INTERVALS * step) if hours else timedelta(0)


def with_new_normal(
    scores: Scores,
    readings: pl.LazyFrame,
    faults: pl.DataFrame,
    first: datetime,
    until: datetime,
    options: Options,
    scorer: Scorer,
    model: Model,
    pace: int = 1,
) -> Scores:
    """`scores` of the intervals from `first` to `until`, with sensors that have stayed different judged again.

    All sensors have the same `pace`. Readings in labelled `faults` (device, tag, start, end) never become normal.
    """
    step = pace * options.step
    hold, keys = hold_of(options.hold_hours, step), _called_often(scores.rows).sort(*KEY)
    if not hold or keys.is_empty():
        return scores
    past = scorer(model, keys, first - memory_of(options.hold_hours, step), first).rows
    shifts = _lasting(past.filter(pl.col("time") >= first - hold), first - hold, hold)
    usual = outside(past, faults, step)
    called_for = max(CALLED_FOR, FEWEST_CALLED * step)
    usual_for = max(hold, USUAL_INTERVALS * step)
    others = keys.join(shifts, on=list(KEY), how="anti")
    rows = with_memory(scores.rows, usual, first, options.alpha, called_for, usual_for, others)
    if shifts.is_empty():
        return Scores(rows, scores.keys)
    devices = shifts.select("device").unique()
    keys = keys.join(devices, on="device", how="semi")
    again = _model_of(readings, devices, faults, first - hold, first, options, model)
    both = scorer(again, keys, first - hold, until).rows.join(shifts, on=list(KEY), how="semi")
    now, before = both.filter(pl.col("time") >= first), both.filter(pl.col("time") < first)
    now = with_memory(now, outside(before, faults, step), first, options.alpha, called_for, usual_for)
    judged_keys = now.filter(pl.col("p_value").is_not_null()).select(*KEY).unique()
    return Scores(
        _since(_lesser(rows, now), judged_keys, first - hold),
        _with_reason(scores.keys, judged_keys, hold),
    )


def with_memory(
    rows: pl.DataFrame,
    past: pl.DataFrame,
    first: datetime,
    alpha: float,
    called_for: timedelta,
    usual_for: timedelta,
    keys: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """`rows` of an hour, with p-values of at least the share of readings so far that were as unusual; see the module.

    `past` are the rows of the same keys before the hour, which begins at `first`. Only `keys` are compared; by default,
    those that are called often. How unusual they were is measured over `usual_for`.
    """
    frequent = _called_often(rows) if keys is None else keys
    now, before = (
        _values(some).filter(pl.col("score").is_not_null()).join(frequent, on=list(KEY), how="semi")
        for some in (rows, past)
    )
    if now.is_empty() or before.is_empty():
        return rows
    shares = _shares(now, before, first, called_for, usual_for)
    both = rows.join(shares, on=[*KEY, "time"], how="left", maintain_order="left")
    beyond = OFTEN_AT * (pl.col("p_value").clip(upper_bound=OFTEN_AT) / OFTEN_AT).pow(pl.col("power"))
    p = pl.max_horizontal("p_value", beyond, "share")
    is_higher = pl.col("share").is_not_null() & pl.col("value").is_not_null()
    return both.with_columns(
        pl.when(is_higher).then(p).otherwise("p_value").alias("p_value"),
        pl.when(is_higher).then(p <= alpha).otherwise("is_anomaly").alias("is_anomaly"),
    ).select(rows.columns)


def _shares(
    now: pl.DataFrame, before: pl.DataFrame, first: datetime, called_for: timedelta, usual_for: timedelta
) -> pl.DataFrame:
    """For each row of `now`: device, tag, time, the `share` of rows up to it that are as unusual, and `power`.

    The share counts the row itself, but is 0 if no earlier row was as unusual. `power` is that of a p-value below
    `OFTEN_AT`, by how unusual the sensor's readings were in the time `usual_for` before `first`.
    """
    is_old = pl.col("time") < first - called_for
    p_values = pl.col("p_value").filter(is_old, pl.col("time") >= first - usual_for)
    often = (p_values <= OFTEN_AT).mean().fill_null(0.0)
    usual = p_values.quantile(USUAL_SHARE).fill_null(USUAL_SHARE)
    power = (math.log(USUAL_SHARE) / usual.clip(P_FLOOR, USUAL_SHARE).log()).alias("power")
    facts = before.group_by(KEY).agg(
        is_old.sum().alias("n"), (often > BROKEN * OFTEN_AT).alias("broken"), power
    )
    shares = _as_unusual(now, before.filter(is_old)).join(facts, on=list(KEY), how="inner")
    near = pl.concat([before.filter(~is_old), now]).select(*KEY, _FLAT, "time", "score")
    shares = shares.join(_near(now.join(facts, on=list(KEY)), near, called_for), on=[*KEY, "time"])
    n, as_unusual = (pl.col(name) + pl.col(f"near_{name}") for name in ("n", "as_unusual"))
    share = pl.when(as_unusual > 0).then((as_unusual + 1) / (n + 1)).otherwise(0.0)
    return shares.select(*KEY, "time", "power", share=share)


def _as_high_as(score: str) -> pl.Expr:
    """The highest score that counts as at most as unusual as an earlier reading's."""
    return pl.col(score) + HARDLY_WORSE * pl.col(score).abs()


def _as_unusual(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """For each row of `now`, the number of rows of its key in `before` that are as unusual: `as_unusual`."""
    old = before.select(*KEY, _FLAT, "time", _as_high_as("score"), old=1)
    every = pl.concat([old, now.select(*KEY, _FLAT, "time", "score", old=0)])
    every = every.sort(*KEY, "score", "old", descending=[False, False, True, True])
    counts = every.with_columns(pl.col("old").cum_sum().over(*KEY, "flat").alias("as_unusual"))
    return counts.filter(old=0).select(*KEY, "time", "as_unusual")


def _near(now: pl.DataFrame, near: pl.DataFrame, called_for: timedelta) -> pl.DataFrame:
    """For each row of `now`, the number of rows of `near` with which it is compared, and how many are as unusual.

    It is compared with those that are at least `called_for` older, or, if its key is `broken`, with all older ones.
    """
    ago = pl.col("time") - pl.col("time|2")
    counts = (ago >= called_for) | (pl.col("broken") & (ago > timedelta(0)))
    as_unusual = counts & (_as_high_as("score|2") >= pl.col("score")) & (pl.col("flat") == pl.col("flat|2"))
    pairs = now.select(*KEY, _FLAT, "time", "score", "broken").join(near, on=list(KEY), suffix="|2")
    return pairs.group_by(*KEY, "time").agg(
        counts.sum().cast(pl.Int64).alias("near_n"),
        as_unusual.sum().cast(pl.Int64).alias("near_as_unusual"),
    )


def outside(rows: pl.DataFrame, faults: pl.DataFrame, step: timedelta) -> pl.DataFrame:
    """The rows outside the labelled `faults` (device, tag, start, end) and the intervals in which means still show one."""
    if faults.is_empty():
        return rows
    near = rows.select(*KEY, "time").join(faults, on="device", suffix="|fault")
    concerns = (pl.col("tag|fault") == pl.col("tag")) | pl.any_horizontal(
        pl.col("tag", "tag|fault") == JOINT_TAG
    )
    inside = (
        concerns
        & (pl.col("time") >= pl.col("start"))
        & (pl.col("time") < pl.col("end") + len(LEVEL_WEIGHTS) * step)
    )
    return rows.join(near.filter(inside), on=[*KEY, "time"], how="anti")


def _values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("value").is_not_null())


def _called_often(rows: pl.DataFrame) -> pl.DataFrame:
    """The keys that are called often; others need no comparison."""
    often = pl.any_horizontal((pl.col("p_value") <= p).mean() >= share for p, share in SUSPECT)
    return _values(rows).group_by(KEY).agg(often.alias("often")).filter("often").select(KEY)


def _lasting(rows: pl.DataFrame, start: datetime, hold: timedelta) -> pl.DataFrame:
    """Keys that are different in each quarter of the hold."""
    quarter = (
        (pl.col("time") - start).dt.total_microseconds() * QUARTERS // (hold // timedelta(microseconds=1))
    )
    is_anomaly = pl.col("is_anomaly")
    by_quarter = (
        _values(rows)
        .group_by(*KEY, quarter.alias("quarter"))
        .agg(is_anomaly.sum().alias("n"), is_anomaly.mean())
    )
    different = by_quarter.filter(pl.col("n") >= FEWEST_ANOMALIES, is_anomaly >= STAYED_SHARE)
    return different.group_by(KEY).len().filter(pl.col("len") == QUARTERS).select(*KEY).sort(*KEY)


def _model_of(
    readings: pl.LazyFrame,
    devices: pl.DataFrame,
    faults: pl.DataFrame,
    start: datetime,
    end: datetime,
    options: Options,
    model: Model,
) -> Model:
    """Detectors of `devices` from only the readings of the hold, with the paces and time zones of `model`."""
    recent = of_devices(readings, devices.sort("device")).select(*KEY, "time", "mean")
    recent = recent.filter(pl.col("time") >= start, pl.col("time") < end)
    keys = recent.select(*KEY).unique().sort(*KEY).collect()
    paces, parts = paces_in(model.frames, keys), []
    sensors = model.frames["sensors"]
    kinds = conversion.kinds_in(sensors)
    for panel in panels(recent, paces, start, end, options, sensors):
        grids = panel.grids(options.cells)
        part = frames_of([fit_grid(grid, options, keys.clear(), faults, kinds) for grid in grids])
        parts.append(one_joint(part, paces, panel.interval // options.step))
    return Model.of(files_of(frames_of(parts), options))


def _lesser(rows: pl.DataFrame, again: pl.DataFrame) -> pl.DataFrame:
    """For each row, the verdict with the greater p-value."""
    row = [*KEY, "time"]
    theirs = again.select(*row, pl.col(_JUDGED).name.suffix("|again"))
    both = rows.join(theirs, on=row, how="left", maintain_order="left")
    normal = (pl.col("p_value|again") > pl.col("p_value")).fill_null(False)
    columns = [pl.when(normal).then(f"{name}|again").otherwise(name).alias(name) for name in _JUDGED]
    return both.with_columns(columns).select(rows.columns)


def _since(rows: pl.DataFrame, keys: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """`rows` with `normal_since` of the `keys`, which are judged by readings from `start` on."""
    starts = keys.with_columns(pl.lit(start, rows.schema["normal_since"]).alias("normal_since"))
    result = rows.drop("normal_since").join(starts, on=list(KEY), how="left", maintain_order="left")
    return result.select(rows.columns)


def _with_reason(keys: pl.DataFrame, changed_keys: pl.DataFrame, hold: timedelta) -> pl.DataFrame:
    message = pl.lit(REASON.format(hold / timedelta(hours=1)))
    marks = keys.join(
        changed_keys.with_columns(new=pl.lit(True)), on=list(KEY), how="left", maintain_order="left"
    )
    return marks.with_columns(
        pl.when("new", pl.col("status") == "scored").then(message).otherwise("reason").alias("reason")
    ).drop("new")
