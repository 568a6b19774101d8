"""The regression of a SKU's log units on covariates, trend and season; see `statistical`."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales.categories import BETWEEN
from models.sales.local_level import innovations
from models.sales.panel import Panel, mean, ratio, sum_of_weeks
from models.sales.seasons import YEAR

RIDGE_WEEKS = 10.0
HARMONICS, SLOW_HARMONICS = 12, 2
"""Maximum number of harmonics of the year, and the number of slow ones that are fitted together with covariates."""
SKUS_AT_A_TIME = 256
DAMPING = 0.9
"""Share of a trend that remains from one week of the forecast to the next."""
WAVE, TREND = "year_", "_trend"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Logs:
    """Log units `y` (weeks up to the origin, keys); regressors by name: `x` (weeks up to the last target, keys),
    and `waves`, which are the same for all keys (weeks up to the last target); the SKU `names`, the first
    key of each (`starts`), and the number of each key's SKU (`sku`)."""

    y: np.ndarray
    x: Arrays
    waves: Arrays
    names: pl.Series
    starts: np.ndarray
    sku: np.ndarray

    def runs(self) -> list[slice]:
        """The keys of each SKU."""
        bounds = [*self.starts, self.y.shape[1]]
        return [slice(bounds[at], bounds[at + 1]) for at in range(len(self.starts))]

    def mean_by_sku(self, values: np.ndarray) -> np.ndarray:
        """Mean over the finite values of a SKU's keys, shape (weeks, SKUs); NaN if there are none."""
        finite = np.isfinite(values)
        total = np.add.reduceat(np.where(finite, values, 0.0), self.starts, axis=1)
        return ratio(total, np.add.reduceat(finite.astype(float), self.starts, axis=1))

    def regression(self, betas: Arrays) -> np.ndarray:
        """`x @ beta`, shape of the regressors; `betas` by covariate, one value per SKU."""
        total = np.zeros(next(iter(self.x.values())).shape)
        for name, values in self.x.items():
            if name in betas:
                total += values * betas[name][self.sku]
        return total


def logs_of(panel: Panel, origin: int, horizon: int) -> Logs:
    """Log units up to `origin` and centred regressors up to `horizon` weeks later.

    Ahead, covariates other than prices are no farther from the key's usual value than in its own weeks, or in those of an
    average key of the SKU: a few cold weeks do not say what is sold in a hot one.
    """
    if not 0 <= origin < panel.weeks:
        raise ValueError(
            f"origin is {origin}. Expected the index of a week of the panel, 0 to {panel.weeks - 1}."
        )
    end = origin + 1 + horizon
    skus = panel.keys["sku"].rle_id().to_numpy()
    starts = np.flatnonzero(np.diff(skus, prepend=-1.0))
    x = {"": np.zeros((end, panel.keys.height))}
    for name, values in panel.covariates.items():
        value = np.array(values[:end], dtype=float, order="C")
        is_price = name.startswith("price") and BETWEEN not in name
        if is_price:
            value = np.log(np.where(value > 0, value, np.nan))
        usual = mean(value[max(0, origin + 1 - YEAR) : origin + 1])
        deviation = value - usual
        if not is_price:
            deviation = np.clip(deviation, *_range(deviation[: origin + 1], starts, skus))
        x[name] = np.zeros(x[""].shape)
        x[name][: len(value)] = np.nan_to_num(deviation)
    phase = 2 * np.pi * np.array([panel.week(at).toordinal() for at in range(end)]) / 365.25
    ahead = np.cumsum(DAMPING ** np.arange(1, horizon + 1))
    waves = {TREND: np.concatenate([np.arange(-origin, 1.0), ahead])}
    for at in range(1, HARMONICS + 1):
        waves |= {f"{WAVE}sin{at}": np.sin(at * phase), f"{WAVE}cos{at}": np.cos(at * phase)}
    x |= {name: np.broadcast_to(values[:, None], x[""].shape) for name, values in waves.items()}
    y = np.log1p(np.maximum(np.ascontiguousarray(panel.units[: origin + 1]), 0.0))
    return Logs(y, x, waves, panel.keys["sku"].gather(starts), starts, skus.astype(np.int64))


def _range(past: np.ndarray, starts: np.ndarray, skus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest of the `past` (weeks, keys) of each key, or of an average key of its SKU if that is farther."""

    def of_sku(values: np.ndarray) -> np.ndarray:
        finite = np.isfinite(values)
        total = np.add.reduceat(np.where(finite, values, 0.0), starts)
        return ratio(total, np.add.reduceat(finite.astype(float), starts))[skus]

    low, high = np.fmin.reduce(past), np.fmax.reduce(past)
    return np.fmin(low, of_sku(low)), np.fmax(high, of_sku(high))


def coefficients(logs: Logs) -> dict[str, np.ndarray]:
    """Coefficients by regressor, one value per SKU: covariates by least squares, then trend and season.

    Log units, minus each key's mean, are regressed on covariates and slow harmonics, so that a promotion
    in every December is not mistaken for December; the harmonics' coefficients are then estimated again.
    The ridge counts as `RIDGE_WEEKS` store-weeks in which the regressor varies as it usually does.
    """
    slow = list(logs.waves)[1 : 1 + 2 * SLOW_HARMONICS]
    names = [name for name in logs.x if name and (name not in logs.waves or name in slow)]
    seasonal = np.array([name.startswith(WAVE) for name in names])
    effects = mean(logs.y)
    betas = np.zeros((len(logs.names), len(names)))
    for at, keys in enumerate(logs.runs()):
        y = logs.y[:, keys] - effects[keys]
        finite = np.isfinite(y)
        x = np.stack([logs.x[name][: len(y), keys][finite] for name in names] or [[]], axis=-1)
        if names and len(x) > len(names):
            x = x - x.mean(axis=0)
            usual = (x**2).mean(axis=0)
            weeks = np.flatnonzero(finite.any(axis=1))
            useful = (usual > 1e-9) & (~seasonal | (weeks[-1] - weeks[0] >= 2 * YEAR))
            x[:, ~useful] = 0.0
            ridge = np.diag(RIDGE_WEEKS * usual + 1e-9)
            squares = np.einsum("ij,ik->jk", x, x)
            betas[at] = np.linalg.solve(squares + ridge, np.einsum("ij,i->j", x, y[finite]))
    by_name = {name: betas[:, at] for at, name in enumerate(names) if not seasonal[at]}
    index = sku_index(logs, logs.y - logs.regression(by_name)[: len(logs.y)])
    parts = [
        _trend_and_season(logs, index[:, at : at + SKUS_AT_A_TIME])
        for at in range(0, max(index.shape[1], 1), SKUS_AT_A_TIME)
    ]
    return by_name | {name: np.concatenate([part[name] for part in parts]) for name in logs.waves}


def _trend_and_season(logs: Logs, series: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients of the trend and of the year's harmonics, by name, one value per SKU.

    Generalised least squares of the SKU's index `series` (weeks, SKUs): index and regressors pass through the
    same local-level filter, and the index's innovations are regressed on those of the regressors. With ordinary least
    squares, a wandering level would look like a trend or a season (Granger & Newbold 1974, Journal of Econometrics 2).
    The ratio of the two variances is the likeliest of `RATIOS`. Coefficients are the mean over the models with and
    without trend and with 0 to `HARMONICS` harmonics, weighted by exp(-AICc / 2) (Burnham & Anderson 2002, Model
    Selection and Multimodel Inference, ch. 2 and 4). A trend needs a year of history, a season two, and each coefficient
    two weeks.
    """
    regressors = np.stack([values[: len(series)] for values in logs.waves.values()], axis=-1)
    squares, deviance, weeks = innovations(series, regressors)
    n, span = np.maximum(weeks, 1), _span(series)
    criteria, betas = [], []
    for trend, harmonics in itertools.product((False, True), range(HARMONICS + 1)):
        at = np.array([0] * trend + list(range(1, 1 + 2 * harmonics)), dtype=int)
        inner, cross = squares[..., 1 + at[:, None], 1 + at], squares[..., 1 + at, 0]
        beta = np.linalg.solve(inner + 1e-9 * np.eye(len(at)), cross[..., None])[..., 0]
        rest = np.maximum(squares[..., 0, 0] - (beta * cross).sum(axis=-1), 1e-12)
        criterion = n * np.log(rest / n) + deviance + 2 * len(at) * n / np.maximum(n - len(at) - 1, 1)
        likeliest = criterion.argmin(axis=0)[None]
        enough = (span >= YEAR * (2 if harmonics else int(trend))) & (n > 2 * len(at))
        criteria.append(np.where(enough, np.take_along_axis(criterion, likeliest, axis=0)[0], np.inf))
        betas.append(np.zeros((series.shape[1], len(logs.waves))))
        betas[-1][:, at] = np.take_along_axis(beta, likeliest[..., None], axis=0)[0]
    weights = np.exp((np.min(criteria, axis=0) - criteria) / 2)
    coefficients = (np.array(betas) * (weights / sum_of_weeks(weights))[..., None]).sum(axis=0)
    return {name: coefficients[:, at] for at, name in enumerate(logs.waves)}


def _span(series: np.ndarray) -> np.ndarray:
    """Weeks from the first to the last value of each SKU."""
    finite = np.isfinite(series)
    first, last = finite.argmax(axis=0), len(series) - 1 - finite[::-1].argmax(axis=0)
    return np.where(finite.any(axis=0), last - first, 0)


def sku_index(logs: Logs, rest: np.ndarray) -> np.ndarray:
    """Each SKU's level week by week, shape (weeks, SKUs): the mean over its stores, each minus its own mean.

    Means over weeks and stores alternate, so that a store that reports only in some weeks does not move the level.
    NaN in weeks in which no store reports.
    """
    effect = mean(rest)
    for _ in range(4):
        effect = mean(rest - logs.mean_by_sku(rest - effect)[:, logs.sku])
    return logs.mean_by_sku(rest - effect)
