"""The world moves: a sensor that is called too often is judged by its last day as well.

**Memory.** Where at least a twentieth of a sensor's readings of the hour have a p-value of at most `OFTEN_AT`,
each of them is compared with the readings of the last `Options.hold_hours`, at least `MEMORY_INTERVALS` intervals:
its p-value is at least the share of these that were as unusual (a rolling conformal p-value; so the share of calls
follows alpha whatever the sensor does, as in Gibbs & Candes 2021, NeurIPS 34). The readings of the hour before, and
those before it in the same hour, count only where more than `BROKEN` times that share of the others have such a
p-value: a fault after a calm day is called for at least an hour, and then again where it gets worse.

**The new normal.** The rule: in each quarter of the hold (`Options.hold_hours`, at least `FEWEST_INTERVALS`
intervals) before the hour, at least a fifth of the sensor's readings are anomalies, at least two. Then a detector
is fitted on the readings of the hold, as in training, and a reading of the hour is as unusual as the lesser of the two
detectors says. So the new level, scale or cycle is normal, a return to the old one is, too, and what departs
from both is not; it has no other memory. Joint detectors follow the same rules. All follows from the readings:
nothing is kept between runs.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from models.devices import conversion
from models.devices.channels import LEVEL_WEIGHTS
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.model import Model
from models.devices.options import Options
from models.devices.pace import paces_in, panels
from models.devices.training import files_of, fit_grid, one_joint, stacked
from models.scenario import Scores

HOUR = timedelta(hours=1)
FEWEST_INTERVALS, MEMORY_INTERVALS = 240, 500
OFTEN_AT, BROKEN = 0.001, 2
QUARTERS = 4
STAYED_SHARE, FEWEST_ANOMALIES = 0.2, 2
_SUSPECT_SHARE = 0.05
_JUDGED = ("score", "p_value", "is_anomaly", "rung", "cause", "expected", "low", "high")
REASON = "new normal: in the {:g} hours before, it differed from what was learnt; judged by these, too"

Scorer = Callable[[Model, pl.DataFrame, datetime, datetime], Scores]
"""Scores of keys from one moment up to another, by a model."""


def hold_of(hours: float, step: timedelta) -> timedelta:
    """How long a sensor with a reading every `step` must have been different; 0 for never."""
    return max(timedelta(hours=hours), FEWEST_INTERVALS * step) if hours else timedelta(0)


def memory_of(hours: float, step: timedelta) -> timedelta:
    """How far back readings are compared with; 0 for not at all."""
    return max(hold_of(hours, step), MEMORY_INTERVALS * step) if hours else timedelta(0)


def relearnt(
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
    """`scores` of the intervals from `first` up to `until`, with those sensors judged anew that have stayed different.

    All sensors have the same `pace`. Readings in labelled `faults` (device, tag, start, end) never become normal.
    """
    step = pace * options.step
    hold = hold_of(options.hold_hours, step)
    devices = _suspects(scores.rows)
    if not hold or devices.is_empty():
        return scores
    keys = scores.keys.select(*KEY).join(devices, on="device", how="semi")
    past = scorer(model, keys, first - memory_of(options.hold_hours, step), first).rows
    stayed = _stayed(past.filter(pl.col("time") >= first - hold), first - hold, hold)
    known = _outside(past, faults, step)
    remembered = remembering(scores.rows, known, first, options.alpha, without=stayed)
    if stayed.is_empty():
        return Scores(remembered, scores.keys)
    devices = stayed.select("device").unique()
    keys = keys.join(devices, on="device", how="semi")
    again = _fitted(readings, devices, faults, first - hold, first, options, model)
    rows = scorer(again, keys, first, until).rows.join(stayed, on=list(KEY), how="semi")
    judged = rows.filter(pl.col("p_value").is_not_null()).select(*KEY).unique()
    return Scores(
        _since(_lesser(remembered, rows), judged, first - hold), _with_reason(scores.keys, judged, hold)
    )


def remembering(
    rows: pl.DataFrame, past: pl.DataFrame, first: datetime, alpha: float, without: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`rows` of an hour whose p-values are at least the share of readings before that were as unusual; see the module.

    `past` are the rows of the same keys before the hour, which begins at `first`. Only keys that are called often are
    looked at, and none of `without`.
    """
    chosen = _called_often(rows)
    if without is not None:
        chosen = chosen.join(without, on=list(KEY), how="anti")
    now = _values(rows).filter(pl.col("score").is_not_null()).join(chosen, on=list(KEY), how="semi")
    before = _values(past).filter(pl.col("score").is_not_null()).join(chosen, on=list(KEY), how="semi")
    if now.is_empty() or before.is_empty():
        return rows
    calm = pl.col("time") < first - HOUR
    share = (pl.col("p_value") <= OFTEN_AT).filter(calm).mean().fill_null(0.0)
    before = before.with_columns((share > BROKEN * OFTEN_AT).over(KEY).alias("broken")).filter(
        calm | pl.col("broken")
    )
    facts = before.group_by(KEY).agg(pl.len().alias("n"), pl.col("broken").first())
    shares = _as_unusual(now, before).join(facts, on=list(KEY), how="inner")
    shares = shares.join(_earlier_as_unusual(now), on=[*KEY, "time"], how="left")
    earlier, place = (pl.when("broken").then(c).otherwise(0) for c in ("earlier", "place"))
    shares = shares.select(*KEY, "time", share=(pl.col("as_unusual") + earlier) / (pl.col("n") + place + 1))
    both = rows.join(shares, on=[*KEY, "time"], how="left", maintain_order="left")
    p = pl.max_horizontal("p_value", "share")
    raised = pl.col("share").is_not_null() & pl.col("value").is_not_null()
    return both.with_columns(
        pl.when(raised).then(p).otherwise("p_value").alias("p_value"),
        pl.when(raised).then(p <= alpha).otherwise("is_anomaly").alias("is_anomaly"),
    ).select(rows.columns)


def _as_unusual(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Of each row of `now` how many rows of `before` of its key have a score at least as high: `as_unusual`."""
    columns = [*KEY, "time", "score"]
    every = pl.concat(
        [before.select(columns).with_columns(old=1), now.select(columns).with_columns(old=0)]
    ).sort(*KEY, "score", "old", descending=[False, False, True, True])
    counted = every.with_columns(pl.col("old").cum_sum().over(KEY).alias("as_unusual"))
    return counted.filter(old=0).select(*KEY, "time", "as_unusual")


def _earlier_as_unusual(now: pl.DataFrame) -> pl.DataFrame:
    """Of each row of `now` its `place` in the hour, from 0, and how many `earlier` ones have a score at least as high."""
    pairs = now.select(*KEY, "time", "score").join(
        now.select(*KEY, "time", "score"), on=list(KEY), suffix="|2"
    )
    before = pl.col("time|2") < pl.col("time")
    return pairs.group_by(*KEY, "time").agg(
        before.sum().cast(pl.Int64).alias("place"),
        (before & (pl.col("score|2") >= pl.col("score"))).sum().cast(pl.Int64).alias("earlier"),
    )


def _outside(rows: pl.DataFrame, faults: pl.DataFrame, step: timedelta) -> pl.DataFrame:
    """The rows that lie in none of the labelled `faults` (device, tag, start, end), nor where means still show one."""
    if faults.is_empty():
        return rows
    near = rows.select(*KEY, "time").join(faults, on="device", suffix="|fault")
    concerned = (pl.col("tag|fault") == pl.col("tag")) | pl.any_horizontal(
        pl.col("tag", "tag|fault") == JOINT_TAG
    )
    inside = (
        concerned
        & (pl.col("time") >= pl.col("start"))
        & (pl.col("time") < pl.col("end") + len(LEVEL_WEIGHTS) * step)
    )
    return rows.join(near.filter(inside), on=[*KEY, "time"], how="anti")


def _values(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("value").is_not_null())


def _suspects(rows: pl.DataFrame) -> pl.DataFrame:
    """Devices with a key that is called often: others need not be looked at."""
    return _called_often(rows).select("device").unique().sort("device")


def _called_often(rows: pl.DataFrame) -> pl.DataFrame:
    often = (pl.col("p_value") <= OFTEN_AT).mean() >= _SUSPECT_SHARE
    return _values(rows).group_by(KEY).agg(often.alias("often")).filter("often").select(KEY)


def _stayed(rows: pl.DataFrame, start: datetime, hold: timedelta) -> pl.DataFrame:
    """Keys that are different in each quarter of the hold."""
    quarter = (
        (pl.col("time") - start).dt.total_microseconds() * QUARTERS // (hold // timedelta(microseconds=1))
    )
    called = pl.col("is_anomaly")
    by_quarter = (
        _values(rows).group_by(*KEY, quarter.alias("quarter")).agg(called.sum().alias("n"), called.mean())
    )
    different = by_quarter.filter(pl.col("n") >= FEWEST_ANOMALIES, called >= STAYED_SHARE)
    return different.group_by(KEY).len().filter(pl.col("len") == QUARTERS).select(*KEY).sort(*KEY)


def _fitted(
    readings: pl.LazyFrame,
    devices: pl.DataFrame,
    faults: pl.DataFrame,
    start: datetime,
    end: datetime,
    options: Options,
    model: Model,
) -> Model:
    """Detectors of `devices` from the readings of the hold alone, each sensor at the pace that `model` has for it."""
    known = readings.filter(pl.col("time") >= start, pl.col("time") < end)
    known = known.join(devices.lazy(), on="device", how="semi").select(*KEY, "time", "mean")
    keys = known.select(*KEY).unique().sort(*KEY).collect()
    paces, parts = paces_in(model.frames, keys), []
    kinds = conversion.kinds_in(model.frames["sensors"])
    for panel in panels(known, paces, start, end, options):
        grids = panel.grids(options.cells)
        fitted = stacked([fit_grid(grid, options, keys.clear(), faults, kinds) for grid in grids])
        parts.append(one_joint(fitted, paces, panel.interval // options.step))
    return Model.of(files_of(stacked(parts), options))


def _lesser(rows: pl.DataFrame, again: pl.DataFrame) -> pl.DataFrame:
    """Of each row the verdict whose p-value is greater."""
    row = [*KEY, "time"]
    theirs = again.select(*row, pl.col(_JUDGED).name.suffix("|again"))
    both = rows.join(theirs, on=row, how="left", maintain_order="left")
    normal = (pl.col("p_value|again") > pl.col("p_value")).fill_null(False)
    chosen = [pl.when(normal).then(f"{name}|again").otherwise(name).alias(name) for name in _JUDGED]
    return both.with_columns(chosen).select(rows.columns)


def _since(rows: pl.DataFrame, judged: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """`rows` with `normal_since` of the keys that were `judged` by readings from `start` on."""
    known = judged.with_columns(pl.lit(start, rows.schema["normal_since"]).alias("normal_since"))
    found = rows.drop("normal_since").join(known, on=list(KEY), how="left", maintain_order="left")
    return found.select(rows.columns)


def _with_reason(keys: pl.DataFrame, judged: pl.DataFrame, hold: timedelta) -> pl.DataFrame:
    told = pl.lit(REASON.format(hold / timedelta(hours=1)))
    named = keys.join(judged.with_columns(new=pl.lit(True)), on=list(KEY), how="left", maintain_order="left")
    return named.with_columns(
        pl.when("new", pl.col("status") == "scored").then(told).otherwise("reason").alias("reason")
    ).drop("new")
