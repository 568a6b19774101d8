"""How much wider bands have to be than a short backtest, or none, has shown: levels drift further in more weeks.

In a local level model, the squares of the changes over h weeks grow with h: as slowly as the level's variance is small
relative to the noise's. Few weeks of one key say little about that ratio, those of all keys together much.
"""

import numpy as np
import polars as pl

from models.sales import local_level
from models.sales.demand import to_log
from models.sales.local_level import RATIOS
from models.sales.panel import Panel, mean

USUAL_RATIO, FACTOR = 0.01, 8.0
"""The ratio of an exponential smoothing with a weight of 0.1, usual for weekly sales, and the factor by which ratios
usually differ from it."""


def likelihoods(panel: Panel) -> pl.DataFrame:
    """The log likelihood of each of `RATIOS`, `ratio<i>`, in the weeks of each SKU: the mean over its keys."""
    level = mean(panel.units)
    series = to_log(panel.units, np.where(level > 0, level, np.nan))
    logs, _, weeks = local_level.likelihoods(series)
    columns = [pl.Series(f"ratio{i}", row) for i, row in enumerate(logs)]
    keys = panel.keys.select("sku").with_columns(*columns).filter(pl.Series(weeks > 1))
    return keys.group_by("sku").agg(pl.all().sort().mean()).sort("sku")


def widths(by_sku: pl.DataFrame, weeks: int, known_steps: int, horizon: int) -> tuple[float, ...]:
    """The factor of the widths of bands at each step, from the `likelihoods` of all SKUs.

    Around the mean of n weeks, a week h weeks later has the variance 1 + ratio * (n / 3 + h), in units of the noise's
    variance; the n weeks themselves have 1 + ratio * n / 6. Steps up to `known_steps`, those of the backtest, are as wide
    as it has shown. The factor is the mean over the ratios, weighted by how likely they are.
    """
    logs = by_sku.sort("sku").drop("sku").sum().to_numpy().ravel() if by_sku.height else np.zeros(len(RATIOS))
    distance = np.log(np.maximum(RATIOS, RATIOS[1]) / USUAL_RATIO) / np.log(FACTOR)
    logs = logs - distance**2 / 2
    likely = np.exp(logs - logs.max())
    reference = weeks / 3 + known_steps if known_steps else weeks / 6
    steps = np.maximum(np.arange(1, horizon + 1), known_steps)[:, None]
    factors = np.sqrt((1 + RATIOS * (weeks / 3 + steps)) / (1 + RATIOS * reference))
    return tuple(np.average(factors, axis=1, weights=likely).tolist())
