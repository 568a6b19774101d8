"""The kind of each sensor, in words, and the reason for its detector, from the frames of a bundle."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from models.devices.aggregation import interval_of, is_direction
from models.devices.contracts import KEY
from models.devices.conversion import ANGLE, COUNTER

_KINDS = {
    "robust_level": ("varies around a level", "readings stay at one level"),
    "robust_seasonal": ("varies with the day", "readings follow the time of day in {}"),
    "robust_regimes": ("several levels", "readings stay at one of several levels for a while"),
    "robust_local": ("wanders", "readings stay at no level: each is compared with those just before it"),
    "one_class_svm": ("varies", "--detector one_class_svm"),
    "isolation_forest": ("varies", "--detector isolation_forest"),
    "constant": ("constant", "the history holds only one value"),
    "few_values": ("few values", "the history holds a few values that recur"),
    "none": ("unknown", "too little history for a detector of its own"),
}
_RISES = "it rises and starts again: judged by its rise in an interval"
_GOES_ROUND = "an angle: measured the shorter way round"


def kinds(frames: Mapping[str, pl.DataFrame], settings: Mapping[str, Any]) -> pl.DataFrame:
    """One row per sensor of the training, sorted by device and tag: device, tag, `kind`, `reason`, rung and readings."""
    sensors = frames["sensors"]
    step = interval_of(settings["interval"])
    table = pl.DataFrame(
        [(rung, *words) for rung, words in _KINDS.items()], schema=["rung", "kind", "why"], orient="row"
    )
    zone = pl.col("timezone") if "timezone" in sensors.columns else pl.lit(settings.get("timezone", "UTC"))
    if "taken" in sensors.columns:
        sensors = sensors.rename({"kind": "kind_set"})
    facts = sensors.join(table, on="rung", how="left").with_columns(
        pl.col("kind").fill_null(pl.col("rung")),
        pl.col("why").str.replace("{}", zone, literal=True).fill_null(""),
    )
    if "taken" in facts.columns:
        facts = facts.with_columns(
            pl.when(pl.col("taken").is_in([COUNTER, ANGLE])).then("taken").otherwise("kind").alias("kind")
        )
    if "discrete" in frames:
        facts = facts.join(frames["discrete"].select(*KEY, "distinct"), on=list(KEY), how="left")
        several = pl.format("the history holds {} values that recur", "distinct")
        facts = facts.with_columns(
            pl.when(pl.col("rung") == "few_values").then(several).otherwise("why").alias("why")
        )
    parts = [pl.when(pl.col("why") != "").then("why")]
    direction = is_direction()
    if "taken" in facts.columns:
        parts.append(pl.when(pl.col("kind_set").is_not_null()).then(pl.format("set to {}", "kind_set")))
        parts.append(pl.when(pl.col("taken") == COUNTER).then(pl.lit(_RISES)))
        round_ = (pl.col("taken") == ANGLE) & pl.col("kind_set").is_null() & ~is_direction()
        parts.append(pl.when(round_).then(pl.lit(_GOES_ROUND)))
        direction &= pl.col("kind_set").is_null()
    parts.append(pl.when(direction).then(pl.lit("a direction, by its name")))
    if "pace" in facts.columns:
        parts.append(pl.when(pl.col("pace") > 1).then(_own_pace(step)))
    if "sentinels" in facts.columns:
        codes = pl.col("sentinels").list.eval(pl.element().cast(pl.String)).list.join(", ")
        parts.append(
            pl.when(pl.col("sentinels").list.len() > 0).then(pl.format("{} stand for no reading", codes))
        )
    reason = pl.concat_str(parts, separator="; ", ignore_nulls=True)
    return facts.select(*KEY, "kind", reason.alias("reason"), "rung", "readings").sort(*KEY)


def _own_pace(step: timedelta) -> pl.Expr:
    minutes = (pl.col("pace") * step.total_seconds() / 60).round_sig_figs(3)
    return pl.format("own pace: it sends every {} minutes", minutes)
