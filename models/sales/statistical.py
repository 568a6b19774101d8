"""Per-SKU statistical models: a local level in log units with regression on the covariates.

Contract::

    fit(panel, origin, horizon, quantiles) -> params            one row per SKU, to be saved as a frame
    forecast(params, panel, origin, horizon, quantiles)
        -> sku, store, origin, week, step (Int32), units, one column per quantile

`panel` is a `models.sales.panel.Panel` with all the stores of each of its SKUs: a key's forecast depends on
the other stores of its SKU, and on nothing else. `origin` is the index of the last week known; units after
it are not looked at, covariates after it are the plan (in a backtest: what was then charged). Forecasts
come for keys with units in the panel up to `origin` and whose SKU is in `params`; the caller takes the keys
it wants. `units` are the actuals where the panel has them, null where not.

The model of a SKU, with `y = log(1 + units)` of key k (a store) in week t::

    y[k, t] = effect[k, t] + level[t] + x[k, t] @ beta + noise

- `x`: covariates less the key's mean of the last year; prices (names that start with `price`) as
  logarithms. What is not known, or not in the plan, counts as usual (zero). Also a trend, which the forecast
  damps by `DAMPING` a week, for SKUs with a year of history, and up to `HARMONICS` harmonics of the year for SKUs
  with two.
- `beta`: of covariates, least squares over all store-weeks with a little ridge, so that constant or collinear
  covariates do no harm; of trend and harmonics, generalised least squares, weighted by how likely they are.
- `level`: local level model (a random walk plus noise; Durbin & Koopman 2012, Time Series Analysis by
  State Space Methods, ch. 2) of the SKU's index, which is the mean over the stores that report in a week,
  each less its own mean and its regression. Missing store-weeks are missing, not zero. The two variances
  are statsmodels' maximum likelihood (`UnobservedComponents`, exact diffuse start).
- `effect`: what a store sells relative to the level: the mean of its residuals, with weights that fall by
  `FORGETTING` a week.
- Spread: forecast errors of several steps at the origins of the last year, at the fitted parameters. Their
  variance is a line in the step that does not fall; their shape is empirical, the same for all steps; a
  key's own variance counts in proportion to its weeks.

Fallback, said in `reason` (null for the full model): with fewer than `ENOUGH_WEEKS` weeks the level is the
mean of all weeks; so it is where the index never changes; where the optimiser does not converge, it is
exponential smoothing with `FORGETTING`.

Invariant: quantiles are finite, not negative, and do not fall from one level to the next.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales.categories import BETWEEN
from models.sales.options import quantile_column
from models.sales.panel import KEY, Panel, mean, ratio, sum_of_weeks
from models.sales.seasons import YEAR

ENOUGH_WEEKS = 12
FORGETTING = 0.1
RIDGE_WEEKS = 10.0
KEY_WEEKS = 30.0
HARMONICS = 2
DEFAULT_VARIANCE = 0.25
"""Variance of a forecast error in logs where there are no errors yet: half to twice the median, roughly."""
ENOUGH_ERRORS = 50
STEPS = (1, 4, 8, 13, 26)
EXTRAPOLATION = 2.0
"""Log units above the SKU's highest ever that a forecast may reach: a promotion deeper than any seen."""

DAMPING = 0.9
"""Share of a trend that remains from one week of the forecast to the next."""

BETA, SHAPE, WAVE, TREND = "beta_", "shape_", "year_", "_trend"
RATIOS = np.array([0.0, *np.geomspace(1e-4, 10.0, 12)])
"""Ratios of the level's variance to the noise's that trend and season are estimated with."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Logs:
    """Log units `y` (weeks up to the origin, keys); regressors `x` by name (weeks up to the last target, keys),
    and as `waves` those that are the same for all keys (weeks up to the last target); the SKU `names`, the first
    key of each (`starts`), and the SKU's number of each key (`sku`)."""

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
        """Mean over the finite values of a SKU's keys, shape (weeks, SKUs); NaN where there is none."""
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


@dataclass(frozen=True)
class _State:
    """Filtered at every week up to the origin: `level` (weeks, SKUs), store `effect` (weeks, keys), and
    the residual of each store-week from the level, before the effect (weeks, keys)."""

    level: np.ndarray
    effect: np.ndarray
    residual: np.ndarray


def fit(panel: Panel, origin: int, horizon: int, quantiles: Sequence[float]) -> pl.DataFrame:
    """Parameters of each SKU with units up to week `origin`, one row each, sorted by SKU.

    Columns: sku, reason (String, null for the full model), weeks, variance_noise, variance_level,
    variance_start and variance_step (a forecast error in logs has variance start + step * its step),
    `beta_<covariate>` and `shape_<quantile>` (quantiles of the standardised errors). Deterministic.
    Raises ValueError where `origin` is not a week of the panel.
    """
    logs = _logs(panel, origin, 0)
    betas = _betas(logs)
    rest = logs.y - logs.regression(betas)
    series = _index(logs, rest)
    estimates = [_local_level(series[:, at]) for at in range(series.shape[1])]
    noise, drift = (np.array([one[at] for one in estimates], dtype=float) for at in (0, 1))
    spread = _spread(logs, rest, _state(logs, rest, noise, drift), horizon, quantiles)
    params = pl.DataFrame(
        {
            "sku": logs.names,
            "reason": pl.Series([one[2] for one in estimates], dtype=pl.String),
            "weeks": np.isfinite(series).sum(axis=0),
            "variance_noise": noise,
            "variance_level": drift,
            **spread,
            **{BETA + name: beta for name, beta in betas.items()},
        }
    )
    return params.filter(pl.col("weeks") > 0)


def forecast(
    params: pl.DataFrame, panel: Panel, origin: int, horizon: int, quantiles: Sequence[float]
) -> pl.DataFrame:
    """Quantiles in units at week `origin` for the next `horizon` weeks, with saved `params`.

    The parameters stay as they were fitted; levels, store effects and the keys' own variances are those
    of the panel's units up to `origin`. See the module's docstring for columns; sorted by sku, store, week.
    """
    logs, by_sku, betas, state, indices = _filtered_at(params, panel, origin, horizon)
    sku = logs.sku[indices]
    regression = logs.regression(betas)[origin + 1 :, indices]
    centre = state.level[-1][sku] + state.effect[-1][indices] + regression
    steps = np.arange(1, horizon + 1)[:, None]
    variance = (by_sku["variance_start"][sku] + steps * by_sku["variance_step"][sku]) * _own_variance(
        logs, state.residual
    )[indices]
    highest = np.maximum.reduceat(np.nan_to_num(logs.y, nan=0.0).max(axis=0), logs.starts)[sku]
    values = []
    for q in quantiles:
        shape = by_sku[SHAPE + quantile_column(q)][sku]
        reached = np.minimum(centre + shape * np.sqrt(variance), highest + EXTRAPOLATION)
        values.append(np.maximum(np.expm1(reached), 0.0))
    return _rows(panel, origin, indices, np.maximum.accumulate(np.stack(values), axis=0), quantiles)


def contributions(params: pl.DataFrame, panel: Panel, origin: int, horizon: int) -> pl.DataFrame:
    """The terms that add up to the centre of each forecast, in the logarithm of units plus one; see `forecast`.

    Columns: sku, store, week; `base`, the level and the store's effect; and one per regressor, by its name.
    """
    logs, _, betas, state, indices = _filtered_at(params, panel, origin, horizon)
    sku = logs.sku[indices]
    base = state.level[-1][sku] + state.effect[-1][indices]
    parts = {"base": np.broadcast_to(base, (horizon, len(indices)))}
    for name, beta in betas.items():
        if name in logs.x:
            parts[name] = logs.x[name][origin + 1 :, indices] * beta[sku]
    rows = _rows(panel, origin, indices, np.zeros((0, horizon, len(indices))), ())
    values = [pl.Series(name, part.T.ravel()) for name, part in parts.items()]
    return rows.select(*KEY, "week").with_columns(values)


def _filtered_at(
    params: pl.DataFrame, panel: Panel, origin: int, horizon: int
) -> tuple[_Logs, Arrays, Arrays, _State, np.ndarray]:
    """Logs, parameters per SKU, coefficients per SKU, states up to `origin`, and the keys that have a forecast."""
    logs = _logs(panel, origin, horizon)
    saved = pl.DataFrame({"sku": logs.names}).join(params, on="sku", how="left", maintain_order="left")
    by_sku = {
        name: saved[name].to_numpy().astype(float) for name in saved.columns if name not in ("sku", "reason")
    }
    betas = {name[len(BETA) :]: np.nan_to_num(by_sku[name]) for name in by_sku if name.startswith(BETA)}
    rest = logs.y - logs.regression(betas)[: origin + 1]
    state = _state(logs, rest, by_sku["variance_noise"], by_sku["variance_level"])
    indices = np.flatnonzero(np.isfinite(state.effect[-1]) & np.isfinite(by_sku["variance_start"])[logs.sku])
    return logs, by_sku, betas, state, indices


def _logs(panel: Panel, origin: int, horizon: int) -> _Logs:
    """Log units up to `origin` and centred regressors up to `horizon` weeks later."""
    if not 0 <= origin < panel.weeks:
        raise ValueError(
            f"origin is {origin}. Expected the index of a week of the panel, 0 to {panel.weeks - 1}."
        )
    end = origin + 1 + horizon
    x = {"": np.zeros((end, panel.keys.height))}
    for name, values in panel.covariates.items():
        value = np.array(values[:end], dtype=float, order="C")
        if name.startswith("price") and BETWEEN not in name:
            value = np.log(np.where(value > 0, value, np.nan))
        usual = mean(value[max(0, origin + 1 - YEAR) : origin + 1])
        deviations = np.zeros(x[""].shape)
        deviations[: len(value)] = np.nan_to_num(value - usual)
        x[name] = deviations
    phase = 2 * np.pi * np.array([panel.week(at).toordinal() for at in range(end)]) / 365.25
    ahead = np.cumsum(DAMPING ** np.arange(1, horizon + 1))
    waves = {TREND: np.concatenate([np.arange(-origin, 1.0), ahead])}
    for at in range(1, HARMONICS + 1):
        waves |= {f"{WAVE}sin{at}": np.sin(at * phase), f"{WAVE}cos{at}": np.cos(at * phase)}
    x |= {name: np.broadcast_to(values[:, None], x[""].shape) for name, values in waves.items()}
    skus = panel.keys["sku"].rle_id().to_numpy()
    starts = np.flatnonzero(np.diff(skus, prepend=-1.0))
    y = np.log1p(np.maximum(np.ascontiguousarray(panel.units[: origin + 1]), 0.0))
    return _Logs(y, x, waves, panel.keys["sku"].gather(starts), starts, skus.astype(np.int64))


def _betas(logs: _Logs) -> dict[str, np.ndarray]:
    """Coefficients by regressor, one value per SKU: covariates by least squares, then trend and season.

    Least squares are of log units, less each key's mean, on covariates and harmonics, so that a promotion
    of every December is not taken for December; the harmonics' coefficients are then estimated anew.
    The ridge is worth `RIDGE_WEEKS` store-weeks in which the regressor varies as it usually does.
    """
    names = [name for name in logs.x if name and name != TREND]
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
    return by_name | _trend_and_season(logs, _index(logs, logs.y - logs.regression(by_name)[: len(logs.y)]))


def _trend_and_season(logs: _Logs, series: np.ndarray) -> dict[str, np.ndarray]:
    """Coefficients of the trend and of the year's harmonics, by name, one value per SKU.

    Generalised least squares of the SKU's index `series` (weeks, SKUs): index and regressors go through the
    same local-level filter, and their innovations are regressed on each other. By least squares, a level
    that wanders would pass for a trend or a season (Granger & Newbold 1974, Journal of Econometrics 2). The
    ratio of the two variances is the likeliest of `RATIOS`. Coefficients are the mean over the models with and
    without trend and with 0 to `HARMONICS` harmonics, weighted by exp(-AIC / 2) (Burnham & Anderson 2002, Model
    Selection and Multimodel Inference, ch. 4). A trend needs a year of history, a season two.
    """
    names = [TREND, *(name for name in logs.x if name.startswith(WAVE))]
    regressors = np.stack([logs.waves[name][: len(series)] for name in names], axis=-1)
    squares, deviance, weeks = _innovations(series, regressors)
    n, span = np.maximum(weeks, 1), _span(series)
    criteria, betas = [], []
    for trend, harmonics in itertools.product((False, True), range(HARMONICS + 1)):
        at = np.array([0] * trend + list(range(1, 1 + 2 * harmonics)), dtype=int)
        inner, cross = squares[..., 1 + at[:, None], 1 + at], squares[..., 1 + at, 0]
        beta = np.linalg.solve(inner + 1e-9 * np.eye(len(at)), cross[..., None])[..., 0]
        rest = np.maximum(squares[..., 0, 0] - (beta * cross).sum(axis=-1), 1e-12)
        criterion = n * np.log(rest / n) + deviance + 2 * len(at)
        likeliest = criterion.argmin(axis=0)[None]
        enough = span >= YEAR * (2 if harmonics else int(trend))
        criteria.append(np.where(enough, np.take_along_axis(criterion, likeliest, axis=0)[0], np.inf))
        betas.append(np.zeros((series.shape[1], len(names))))
        betas[-1][:, at] = np.take_along_axis(beta, likeliest[..., None], axis=0)[0]
    weights = np.exp((np.min(criteria, axis=0) - criteria) / 2)
    coefficients = (np.array(betas) * (weights / weights.sum(axis=0))[..., None]).sum(axis=0)
    return {name: coefficients[:, at] for at, name in enumerate(names)}


def _span(series: np.ndarray) -> np.ndarray:
    """Weeks from the first to the last value of each SKU."""
    finite = np.isfinite(series)
    first, last = finite.argmax(axis=0), len(series) - 1 - finite[::-1].argmax(axis=0)
    return np.where(finite.any(axis=0), last - first, 0)


def _innovations(series: np.ndarray, regressors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Innovations of local-level filters of the series (weeks, SKUs) and of `regressors` (weeks, regressors).

    One filter per ratio of `RATIOS`. Returns the sums of products of the innovations over their variance, shape
    (ratios, SKUs, 1 + regressors, 1 + regressors), the sums of the variances' logarithms (ratios, SKUs), and the
    number of innovations (SKUs,). The first value of a SKU is its level, and no innovation.
    """
    skus, width = series.shape[1], 1 + regressors.shape[1]
    squares, deviance = np.zeros((len(RATIOS), skus, width, width)), np.zeros((len(RATIOS), skus))
    level, variance = np.zeros((len(RATIOS), skus, width)), np.zeros((len(RATIOS), skus))
    weeks, has_level = np.zeros(skus), np.zeros(skus, dtype=bool)
    now = np.empty((skus, width))
    for value, regressor in zip(series, regressors, strict=True):
        finite = np.isfinite(value)
        later = finite & has_level
        now[:, 0], now[:, 1:] = np.nan_to_num(value), regressor
        variance = variance + RATIOS[:, None]
        spread = variance + 1
        gain = np.where(has_level, variance / spread, 1.0) * finite
        error = now - level
        weighted = error * (later / spread)[..., None]
        squares += weighted[..., :, None] * error[..., None, :]
        deviance += later * np.log(spread)
        weeks += later
        level += gain[..., None] * error
        variance = np.where(finite, gain, variance * has_level)
        has_level |= finite
    return squares, deviance, weeks


def _index(logs: _Logs, rest: np.ndarray) -> np.ndarray:
    """Each SKU's level week by week, shape (weeks, SKUs): the mean over its stores, each less its mean.

    Two-way means by turns, so that a store that reports in some weeks only does not move the level.
    NaN in weeks in which no store reports.
    """
    effect = mean(rest)
    for _ in range(4):
        effect = mean(rest - logs.mean_by_sku(rest - effect)[:, logs.sku])
    return logs.mean_by_sku(rest - effect)


def _local_level(series: np.ndarray) -> tuple[float, float, str | None]:
    """Variances of noise and level by maximum likelihood, and the reason where they are not."""
    observed = np.flatnonzero(np.isfinite(series))
    if len(observed) < ENOUGH_WEEKS:
        weeks = f"{len(observed)} week{'' if len(observed) == 1 else 's'}"
        return 1.0, 0.0, f"mean: {weeks} of history, {ENOUGH_WEEKS} are needed"
    series = series[observed[0] :]
    deviation = float(np.nanstd(series))
    if deviation < 1e-6:
        return 1.0, 0.0, "mean: it never changes"

    from statsmodels.tsa.statespace.structural import UnobservedComponents

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        model = UnobservedComponents(series / deviation, "llevel", use_exact_diffuse=True)
        for method in ("bfgs", "nm"):
            try:
                estimate = model.fit(method=method, maxiter=200, disp=False, cov_type="none")
            except (np.linalg.LinAlgError, ValueError, FloatingPointError):
                continue
            noise, drift = (float(variance) * deviation**2 for variance in estimate.params)
            if estimate.mle_retvals["converged"] and np.isfinite([noise, drift]).all() and noise + drift > 0:
                return noise, drift, None
    return 1.0, FORGETTING**2 / (1 - FORGETTING), "exponential smoothing: the optimiser did not converge"


def _filtered(series: np.ndarray, noise: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """Filtered levels of local level models, shape (weeks, SKUs), NaN before the first value.

    The Kalman filter with an exact diffuse start: the first value is the level, with the noise's variance.
    """
    level = np.full(series.shape[1], np.nan)
    variance = np.full(series.shape[1], np.inf)
    levels = np.empty(series.shape)
    for at, value in enumerate(series):
        finite, first = np.isfinite(value), np.isnan(level)
        variance = variance + drift
        with np.errstate(invalid="ignore"):
            gain = np.where(first, 1.0, variance / np.maximum(variance + noise, 1e-300))
            after = np.where(first, noise, variance * (1 - gain))
        level = np.where(finite, np.where(first, value, level + gain * (value - level)), level)
        variance = np.where(finite, after, variance)
        levels[at] = level
    return levels


def _state(logs: _Logs, rest: np.ndarray, noise: np.ndarray, drift: np.ndarray) -> _State:
    """Levels and store effects, each week from that week and earlier ones at fixed variances."""
    level = _filtered(_index(logs, rest), noise, drift)
    residual = rest - level[:, logs.sku]
    total, weight = np.zeros(residual.shape[1]), np.zeros(residual.shape[1])
    effect = np.empty(residual.shape)
    for at, value in enumerate(residual):
        finite = np.isfinite(value)
        total = (1 - FORGETTING) * total + np.where(finite, value, 0.0)
        weight = (1 - FORGETTING) * weight + finite
        effect[at] = ratio(total, weight)
    return _State(level, effect, residual)


def _own_variance(logs: _Logs, residual: np.ndarray) -> np.ndarray:
    """A key's variance relative to its SKU's, of the residuals of the last year; near 1 for few weeks."""
    recent = residual[-YEAR:]
    squares = (recent - mean(recent)) ** 2
    finite = np.isfinite(squares)
    total, weeks = sum_of_weeks(np.where(finite, squares, 0.0)), finite.sum(axis=0)
    usual = ratio(np.add.reduceat(total, logs.starts), np.add.reduceat(weeks, logs.starts))[logs.sku]
    return np.where(usual > 1e-12, (ratio(total, usual) + KEY_WEEKS) / (weeks + KEY_WEEKS), 1.0)


def _spread(
    logs: _Logs, rest: np.ndarray, state: _State, horizon: int, quantiles: Sequence[float]
) -> dict[str, np.ndarray]:
    """Variance of forecast errors as a line in the step, and the quantiles of their shape, per SKU."""
    from scipy.stats import norm

    last = len(rest) - 1
    steps = [step for step in STEPS if step <= max(horizon, 1) and step <= last // 2] or [1]
    errors = {}
    for step in steps:
        origins = np.arange(max(min(ENOUGH_WEEKS, last // 2), last - YEAR), last + 1 - step)
        errors[step] = rest[origins + step] - state.level[origins][:, logs.sku] - state.effect[origins]
    relative = np.sqrt(_own_variance(logs, state.residual))
    start, slope = np.full(len(logs.names), DEFAULT_VARIANCE), np.zeros(len(logs.names))
    shape = np.tile(norm.ppf(quantiles), (len(logs.names), 1))
    for at, keys in enumerate(logs.runs()):
        mine = {step: (error[:, keys] / relative[keys]) for step, error in errors.items()}
        start[at], slope[at] = _line({step: e[np.isfinite(e)] for step, e in mine.items()})
        pooled = np.concatenate(
            [(e / np.sqrt(max(start[at] + slope[at] * step, 1e-12))).ravel() for step, e in mine.items()]
        )
        pooled = pooled[np.isfinite(pooled)]
        if len(pooled) >= ENOUGH_ERRORS:
            shape[at] = np.quantile(pooled, quantiles)
    shapes = {SHAPE + quantile_column(q): shape[:, at] for at, q in enumerate(quantiles)}
    return {"variance_start": start, "variance_step": slope, **shapes}


def _line(errors: Mapping[int, np.ndarray]) -> tuple[float, float]:
    """Start and slope of the mean squared error over the steps; neither is negative."""
    steps = [step for step, values in errors.items() if len(values) >= 3]
    if not steps:
        return DEFAULT_VARIANCE, 0.0
    squares = np.array([np.mean(errors[step] ** 2) for step in steps])
    slope = np.polyfit(steps, squares, 1)[0] if len(steps) > 1 else 0.0
    slope = float(np.clip(slope, 0.0, squares[-1] / steps[-1]))
    return max(float(np.mean(squares) - slope * np.mean(steps)), 0.0), slope


def _rows(
    panel: Panel, origin: int, indices: np.ndarray, values: np.ndarray, quantiles: Sequence[float]
) -> pl.DataFrame:
    """Long rows of `values` (quantiles, steps, keys at `indices`), sorted by key and week."""
    horizon = values.shape[1]
    units = np.full((horizon, len(indices)), np.nan)
    later = panel.units[origin + 1 : origin + 1 + horizon, indices]
    units[: len(later)] = later
    weeks = pl.Series([panel.week(origin + step) for step in range(1, horizon + 1)], dtype=pl.Date)
    at_key, at_step = np.repeat(indices, horizon), np.tile(np.arange(horizon), len(indices))
    return pl.DataFrame(
        [
            panel.keys["sku"].gather(at_key),
            panel.keys["store"].gather(at_key),
            pl.repeat(panel.week(origin), len(at_key), eager=True, dtype=pl.Date).alias("origin"),
            weeks.gather(at_step).alias("week"),
            pl.Series("step", at_step + 1, dtype=pl.Int32),
            pl.Series("units", units.T.ravel(), nan_to_null=True),
            *[pl.Series(quantile_column(q), values[at].T.ravel()) for at, q in enumerate(quantiles)],
        ]
    )
