"""Alarms as a budget: the sensors of a fleet that are unusual enough in an hour to call somebody.

A sensor's `evidence` in an hour is one p-value: Simes' combination of the p-values of
its rows, the minimum over k of n / k times the k-th smallest. So one very unusual reading counts, and so do several
less unusual ones. A sensor alarms if its evidence is at most a level for the fleet and the hour: the budget of
false alarms per hour divided by the number of sensors, or more if many sensors are unusual, by Benjamini &
Hochberg's procedure at a false discovery rate of the budget, at most `HIGHEST_RATE`. Joint detectors judge the same
readings again, and their p-values are seldom so small: they are not counted as further sensors.

The level adapts to the sensor, as in adaptive conformal inference: each of its alarms makes its evidence `DISTRUST`
times weaker; the effect fades with age and ends after `REMEMBERED`. A sensor whose p-values are too
small therefore alarms only if its evidence becomes stronger and stronger. Alarms in labelled faults do not count.

Simes (1986), Biometrika 73(3). Benjamini & Hochberg (1995), JRSS B 57(1). Bates, Candes, Lei, Romano & Sesia
(2023), Annals of Statistics 51(1). Gibbs & Candes (2021), NeurIPS 34.
"""

from datetime import timedelta

import polars as pl

from models.devices import new_normal
from models.devices.contracts import FALSE_ALARM, JOINT_TAG, KEY, MUTED, NEW_NORMAL, TIME, Verdicts

PER_DEVICE_AND_DAY = 0.01
"""The default budget of false alarms: one a day for 100 devices."""
HIGHEST_RATE = 0.1
DISTRUST = 10.0
REMEMBERED = timedelta(days=14)


def evidence(rows: pl.LazyFrame) -> pl.DataFrame:
    """One row per key of the hour's `rows`: device, tag and `evidence`, the p-value of all its rows together."""
    p = pl.col("p_value").sort()
    simes = (p * pl.len() / pl.int_range(1, pl.len() + 1)).min()
    with_p = rows.filter(pl.col("p_value").is_not_null())
    chances = with_p.group_by(KEY).agg(simes.alias("evidence")).collect(engine="streaming")
    return chances.sort(*KEY)


def level(chances: pl.DataFrame, alarms_per_day: float | None) -> float:
    """The greatest `evidence` of the fleet's keys that is an alarm; see the module."""
    if chances.is_empty():
        return 0.0
    if alarms_per_day is None:
        alarms_per_day = PER_DEVICE_AND_DAY * chances["device"].n_unique()
    budget = alarms_per_day / 24
    chance = chances["evidence"].sort()
    rate = min(budget, HIGHEST_RATE)
    sensors = chances.filter(pl.col("tag") != JOINT_TAG).height or chances.height
    limits = rate * pl.int_range(1, chances.height + 1, eager=True) / sensors
    rejections = (chance <= limits).to_numpy().nonzero()[0]
    by_rate = float(limits[int(rejections[-1])]) if len(rejections) else 0.0
    return max(budget / sensors, by_rate)


def past_alarms(incidents: pl.DataFrame, faults: pl.DataFrame, step: timedelta) -> pl.DataFrame:
    """The alarms among earlier `incidents`: device, tag, and the time of the peak, a row for each of their tags.

    Those in labelled `faults` (device, tag, start, end) are left out.
    """
    newest = incidents.filter("is_alarm").sort("end").unique("incident", keep="last", maintain_order=True)
    alarms = newest.select("device", pl.col("tags").alias("tag"), pl.col("peak_time").alias("time"))
    return new_normal.outside(alarms.explode("tag", empty_as_null=False), faults, step)


def alarming(
    rows: pl.LazyFrame,
    alarms_per_day: float | None = None,
    verdicts: pl.DataFrame | None = None,
    past: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The keys (device, tag) of the hour's `rows` whose evidence is an alarm, in order.

    `verdicts` are those of people (`models.devices.contracts.Verdicts`): a sensor that is muted in the hour does not
    alarm; each false alarm or new normal makes the sensor's evidence `DISTRUST` times weaker. So do `past_alarms`.
    """
    chances = evidence(rows)
    most = level(chances, alarms_per_day)
    if chances.height and not (verdicts is None and past is None):
        chances = _after(chances, verdicts, past, rows)
    return chances.filter(pl.col("evidence") <= most).select(KEY)


def _after(
    chances: pl.DataFrame, verdicts: pl.DataFrame | None, past: pl.DataFrame | None, rows: pl.LazyFrame
) -> pl.DataFrame:
    """The evidence adjusted for people's verdicts on this hour and earlier ones, and for past alarms."""
    verdicts = Verdicts.create_empty() if verdicts is None else verdicts
    past = pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "time": TIME}) if past is None else past
    first, last = (
        rows.select(pl.col("time").min().alias("a"), pl.col("time").max().alias("b")).collect().row(0)
    )
    both = chances.join(verdicts.rename({"tag": "of"}), on="device", how="inner")
    both = both.filter((pl.col("of") == pl.col("tag")) | (pl.col("of") == JOINT_TAG), pl.col("start") <= last)
    silent = both.filter(pl.col("verdict") == MUTED, pl.col("end") > first).select(KEY).unique()
    wrong = both.filter(pl.col("verdict").is_in([FALSE_ALARM, NEW_NORMAL])).select(*KEY, times=pl.lit(1.0))
    again = past.select(*KEY, times=(1 - (first - pl.col("time")) / REMEMBERED).clip(0.0, 1.0))
    times = pl.concat([wrong, again]).group_by(KEY).agg(pl.sum("times"))
    weaker = chances.join(times, on=list(KEY), how="left", maintain_order="left").with_columns(
        (pl.col("evidence") * DISTRUST ** pl.col("times").fill_null(0)).alias("evidence")
    )
    return weaker.join(silent, on=list(KEY), how="anti", maintain_order="left").drop("times")
