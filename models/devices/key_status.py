"""The status of each requested key in an hour, its rung, and the reason if its own detector gives no verdict."""

import numpy as np
import polars as pl

from models.devices import presence
from models.devices.contracts import KEY
from models.devices.grid import LOOKBACK
from models.devices.model import DISCRETE_RUNGS, RUNGS, Model
from models.devices.options import Options
from models.devices.rows import CAUSES, Block


def no_keys() -> pl.DataFrame:
    """A frame of device, tag, `status`, `rung` and `reason` without rows."""
    return pl.DataFrame(schema=[(c, pl.String) for c in (*KEY, "status", "rung", "reason")])


def of_joint(keys: pl.DataFrame, counts: pl.DataFrame) -> pl.DataFrame:
    """The `keys` of joint detectors with status, rung and reason; `counts` has the number of `rows` of existing ones."""
    rows = pl.col("rows")
    return keys.join(counts, on=list(KEY), how="left", maintain_order="left").select(
        *KEY,
        pl.when(rows > 0).then(pl.lit("scored")).otherwise(pl.lit("skipped")).alias("status"),
        pl.when(rows > 0).then(pl.lit("joint")).alias("rung"),
        pl.when(rows.is_null())
        .then(pl.lit("fewer than two sensors with a detector for varying values"))
        .when(rows == 0)
        .then(pl.lit("fewer than two sensors with readings at the same time"))
        .alias("reason"),
    )


def of_sensors(model: Model, block: Block, rungs: pl.DataFrame, options: Options) -> pl.DataFrame:
    """One row per sensor of the block: status, rung and reason; silent and flat sensors are findings."""
    values = block.raw.values
    count = (~np.isnan(values[:, LOOKBACK:])).sum(axis=1)
    is_silent = (block.cause == CAUSES.index("missing")).any(axis=1)
    length, chance = np.zeros(len(values), np.int16), np.full(len(values), np.nan)
    at = np.flatnonzero(rungs["rung"].is_not_null().to_numpy())
    if len(at):
        grid = block.raw.take(at)
        length[at], chance[at] = presence.last_runs(model.rows("sensors", grid.keys), grid)
    varies = ~rungs["rung"].is_in(DISCRETE_RUNGS[:1]).fill_null(False).to_numpy()
    is_flat = (chance <= options.alpha) & (length >= presence.FLAT_LENGTH) & varies & (count > 0)
    rung = pl.Series(RUNGS, dtype=pl.String).gather(block.rung)
    frame = rungs.with_columns(
        pl.Series("count", count),
        pl.Series("is_silent", is_silent),
        pl.Series("is_flat", is_flat),
        pl.Series("run", length),
        rung.alias("own"),
    )
    return frame.select(*KEY, _status(), pl.when(~_NOTHING).then("own").alias("rung"), _reason())


_OWN = ~pl.col("own").is_in(["pooled", "none"])
_NOTHING = (pl.col("count") == 0) & ~pl.col("is_silent")


def _status() -> pl.Expr:
    return (
        pl.when(_NOTHING)
        .then(pl.lit("skipped"))
        .when(_OWN)
        .then(pl.lit("scored"))
        .otherwise(pl.lit("fallback"))
        .alias("status")
    )


def _reason() -> pl.Expr:
    last = pl.col("last").dt.strftime("%Y-%m-%d %H:%M")
    few = pl.format("too few readings in the history for a detector of its own: {}", "readings")
    silent = pl.format("silent: no reading in the hour; the last one before the training is from {}", last)
    return (
        pl.when(pl.col("count") == 0, pl.col("is_silent"))
        .then(silent)
        .when(pl.col("count") == 0)
        .then(pl.lit("no reading in the hour, which is not unusual for it"))
        .when(pl.col("is_flat"))
        .then(pl.format("flat: the same value in the last {} readings or more", "run"))
        .when(~_OWN, pl.col("readings").is_null())
        .then(pl.lit("new: not known at training"))
        .when(~_OWN)
        .then(few)
        .alias("reason")
    )
