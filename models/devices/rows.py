"""The rows of an hour as they are published, and the block of sensors that they come from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.contracts import KEY
from models.devices.grid import LOOKBACK, Floats, Grid
from models.devices.model import RUNGS
from models.devices.options import Options

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


@dataclass
class Block:
    """The results for the cells of some sensors in the hour; arrays of shape (S, columns), to be filled in."""

    grid: Grid
    has_reading: NDArray[np.bool_]
    """Whether there is a reading, in the whole grid; a counter's reading may have no value."""
    rung: NDArray[np.int8]
    score: Floats
    p_value: Floats
    cause: NDArray[np.int8]
    expected: Floats
    low: Floats
    high: Floats
    units: Floats
    """Distances from the expected values in the sensor's scale, in the whole grid; NaN if there is none."""

    @classmethod
    def of(cls, grid: Grid, first: int, has_reading: NDArray[np.bool_]) -> "Block":
        """An empty block for the columns of `grid` from `first` on."""
        keys, columns = grid.keys.height, grid.intervals - first
        score, p_value, expected, low, high = (np.full((keys, columns), np.nan) for _ in range(5))
        return cls(
            grid=grid,
            has_reading=has_reading,
            rung=np.full(keys, RUNGS.index("none"), np.int8),
            score=score,
            p_value=p_value,
            cause=np.full((keys, columns), -1, np.int8),
            expected=expected,
            low=low,
            high=high,
            units=np.full_like(grid.values, np.nan),
        )


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
