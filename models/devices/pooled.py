"""The fallback for a sensor with too little history: the sensors of the same tag on other devices.

The score is the distance from the centre of their levels, in standard deviations of a reading of an
unknown sensor (between and within sensors); higher is more anomalous. The p-value is that of Student's
t with one degree of freedom fewer than there are sensors. It is not calibrated on the sensor itself.
"""

import numpy as np
import polars as pl

from models.devices.grid import Floats, Grid

FEWEST_SENSORS = 3


def fit(sensors: pl.DataFrame) -> pl.DataFrame:
    """One row per tag with enough sensors: tag, `sensors`, `center`, `scale`.

    `sensors` has tag, `center` and `scale` of sensors with a detector of their own.
    """
    center = pl.col("center")
    between = 1.4826 * (center - center.median()).abs().median()
    return (
        sensors.group_by("tag")
        .agg(
            pl.len().cast(pl.Int64).alias("sensors"),
            center.median().alias("center"),
            (between**2 + pl.col("scale").median() ** 2).sqrt().alias("scale"),
        )
        .filter(pl.col("sensors") >= FEWEST_SENSORS)
        .sort("tag")
    )


def score(params: pl.DataFrame, grid: Grid, first: int = 0) -> tuple[Floats, Floats]:
    """Scores and p-values of the columns from `first` on; `params` has a row for each sensor of `grid`."""
    from scipy.special import stdtr

    columns = (params[name].to_numpy()[:, None] for name in ("center", "scale", "sensors"))
    center, scale, sensors = columns
    distance = np.abs(grid.values[:, first:] - center) / scale
    return distance, 2 * stdtr(sensors - 1.0, -distance)
