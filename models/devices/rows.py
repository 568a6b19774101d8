"""The rows of an hour as they are published, and the block of sensors that they come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.contracts import KEY
from models.devices.grid import LOOKBACK, Floats, Grid
from models.devices.model import RUNGS
from models.devices.options import HIGHEST_ALPHA, Options

CAUSES = (*channels.CHANNELS, "missing", "joint")
SCORES: dict[str, Any] = {
    "device": pl.String,
    "tag": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "value": pl.Float64,
    "score": pl.Float64,
    "p_value": pl.Float64,
    "is_anomaly": pl.Boolean,
    "rung": pl.String,
    "cause": pl.String,
    "expected": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "normal_since": pl.Datetime("us", "UTC"),
}
"""The rows that scoring publishes.

`score`: higher is more anomalous, comparable between rows of one sensor and rung. `cause`: the most unusual
property. `expected`, and the band from `low` to `high`, which a single normal reading leaves
with a probability of about alpha. A missing reading has a row if it is unusual; its `value` is null. The
joint detector of a device has the tag `*`; its `value` is the Mahalanobis distance of the tags. `normal_since`: the time
since which readings also count as normal (`models.devices.new_normal`), else null.
"""


def as_scores(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Published rows with the columns `SCORES`; columns that an earlier version did not publish are null."""
    names = rows.collect_schema().names()
    nulls = [pl.lit(None, dtype).alias(name) for name, dtype in SCORES.items() if name not in names]
    return rows.with_columns(nulls).select(list(SCORES))


@dataclass(frozen=True)
class Results:
    """What is published of sensors (rows) in the columns of a grid from LOOKBACK on."""

    score: Floats
    p_value: Floats
    cause: NDArray[np.int8]
    expected: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class Part(Results):
    """The results of the sensors at the rows `at` of a grid; each broadcasts to (len(at), columns)."""

    at: NDArray[np.int64]
    rung: pl.Series


@dataclass(frozen=True, kw_only=True)
class Block(Results):
    """The results of all sensors of a grid; arrays of shape (S, columns)."""

    grid: Grid
    raw: Grid
    """The readings as they came, without sentinels: a counter's reading may have no value."""
    rung: NDArray[np.int8]

    @classmethod
    def of(cls, grid: Grid, raw: Grid, parts: Iterable[Part], p_of_missing: Floats) -> "Block":
        """The results of `parts`, and of missing readings with a p-value of at most HIGHEST_ALPHA; no two share a sensor."""
        shape = (grid.keys.height, grid.intervals - LOOKBACK)
        rung, cause = np.full(shape[0], RUNGS.index("none"), np.int8), np.full(shape, -1, np.int8)
        columns = {name: np.full(shape, np.nan) for name in ("score", "p_value", "expected", "low", "high")}
        for part in parts:
            rung[part.at], cause[part.at] = _numbers(part.rung), part.cause
            for name, column in columns.items():
                column[part.at] = getattr(part, name)
        is_missing = p_of_missing <= HIGHEST_ALPHA
        columns["score"] = np.where(is_missing, np.sqrt(-2 * np.log(p_of_missing)), columns["score"])
        columns["p_value"] = np.where(is_missing, p_of_missing, columns["p_value"])
        cause = np.where(is_missing, np.int8(CAUSES.index("missing")), cause)
        return cls(grid=grid, raw=raw, rung=rung, cause=cause, **columns)


def _numbers(rungs: pl.Series) -> NDArray[np.int8]:
    return rungs.replace_strict(list(RUNGS), list(range(len(RUNGS))), return_dtype=pl.Int8).to_numpy()


def rows_of(block: Block, options: Options) -> pl.DataFrame:
    """The rows of a block: one for each reading, and for each missing reading that is unusual; `row` is the sensor's."""
    value = block.grid.values[:, LOOKBACK:]
    absent = np.isnan(value)
    is_missing = block.cause == CAUSES.index("missing")
    row, column = np.nonzero(~absent | is_missing)
    rung = np.where(is_missing[row, column], RUNGS.index("missing"), block.rung[row])
    columns = {"value": value, "score": block.score, "p_value": block.p_value}
    bands = {"expected": block.expected, "low": block.low, "high": block.high}
    cause = block.cause[row, column]
    return pl.DataFrame(
        [
            *(block.grid.keys[c].gather(row).alias(c) for c in KEY),
            block.grid.times.gather(column + LOOKBACK),
            *(pl.Series(name, a[row, column], nan_to_null=True) for name, a in columns.items()),
            pl.Series("rung", RUNGS, dtype=pl.String).gather(rung),
            pl.Series("cause", [*CAUSES, None], dtype=pl.String).gather(
                np.where(cause < 0, len(CAUSES), cause)
            ),
            *(pl.Series(name, a[row, column], nan_to_null=True) for name, a in bands.items()),
            pl.Series("row", row),
        ]
    ).select(*with_verdict(options), "row")


def with_verdict(options: Options) -> list[pl.Expr]:
    """The columns `SCORES`, with the verdict that follows from the p-value."""
    verdict = (pl.col("p_value") <= options.alpha).fill_null(False).alias("is_anomaly")
    own = {"is_anomaly": verdict, "normal_since": pl.lit(None, SCORES["normal_since"]).alias("normal_since")}
    return [own[name] if name in own else pl.col(name).cast(dtype) for name, dtype in SCORES.items()]
