"""Per-SKU statistical models: a local level in log units with regression on the covariates.

Contract::

    fit(panel, origin, horizon, quantiles) -> params            one row per SKU, to be saved as a frame
    forecast(params, panel, origin, horizon, quantiles)
        -> sku, store, origin, week, step (Int32), units, one column per quantile

`panel` is a `models.sales.panel.Panel` with all the stores of each of its SKUs: a key's forecast depends on
the other stores of its SKU, and on nothing else. `origin` is the index of the last week known; units after
it are not used, covariates after it are the plan (in a backtest: the actual covariates). There are forecasts
for all keys with units in the panel up to `origin` whose SKU is in `params`; the caller selects the keys
that it needs. `units` are the actuals, or null if the panel lacks them.

The model of a SKU, with `y = log(1 + units)` of key k (a store) in week t::

    y[k, t] = effect[k, t] + level[t] + x[k, t] @ beta + noise

- `x`: covariates minus the key's mean of the last year; prices (names that start with `price`) as
  logarithms, and others not beyond the values known, see `regression.logs_of`. Values that are not known, or not in the
  plan, count as usual (zero). Also a trend, which the forecast damps by `DAMPING` per week, for SKUs with a year of
  history, and up to `HARMONICS` harmonics of the year for SKUs with two years.
- `beta`: of covariates, least squares over all store-weeks with a little ridge, so that constant or collinear
  covariates do no harm; of trend and harmonics, generalised least squares, weighted by how likely they are.
- `level`: local level model (a random walk plus noise; Durbin & Koopman 2012, Time Series Analysis by
  State Space Methods, ch. 2) of the SKU's index, which is the mean over the stores that report in a week,
  each minus its own mean and its regression. Missing store-weeks are missing, not zero. The two variances
  are statsmodels' maximum likelihood estimates (`UnobservedComponents`, exact diffuse start).
- `effect`: a store's sales relative to the level: the mean of its residuals, with weights that fall by
  `FORGETTING` per week.
- Spread: forecast errors of several steps at the origins of the last year, at the fitted parameters. Their
  variance is a line in the step that does not fall; their shape is empirical, the same for all steps, with a
  median that is shrunk by `STEADY_WEEKS`; a key's own variance counts in proportion to its weeks.

Fallback, named in `reason` (null for the full model): with fewer than `ENOUGH_WEEKS` weeks, or if the index never
changes, the level is the mean of all weeks; if the optimiser does not converge, it is exponential smoothing with
`FORGETTING`.

Invariant: quantiles are finite, not negative, and do not fall from one level to the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.sales import local_level
from models.sales.local_level import ENOUGH_WEEKS, FORGETTING
from models.sales.options import quantile_column
from models.sales.panel import KEY, Panel, mean, ratio, sum_of_weeks
from models.sales.regression import Arrays, Logs, coefficients, logs_of, sku_index
from models.sales.seasons import YEAR

KEY_WEEKS = 30.0
DEFAULT_VARIANCE = 0.25
"""Variance of a forecast error in logs if there are no errors yet: roughly half to twice the median."""
ENOUGH_ERRORS = 50
STEADY_WEEKS = 26.0
"""Weeks without error that are mixed into the median of a SKU's errors: most of a few weeks' are on one side by chance."""
STEPS = (1, 4, 8, 13, 26)
EXTRAPOLATION = 2.0
"""Log units by which a forecast may exceed the SKU's highest week, for a promotion deeper than any so far."""

BETA, SHAPE = "beta_", "shape_"


@dataclass(frozen=True)
class _State:
    """The filtered state of every week up to the origin: `level` (weeks, SKUs), store `effect` (weeks, keys), and
    the residual of each store-week from the level, before the effect (weeks, keys)."""

    level: np.ndarray
    effect: np.ndarray
    residual: np.ndarray


def fit(panel: Panel, origin: int, horizon: int, quantiles: Sequence[float]) -> pl.DataFrame:
    """Parameters of each SKU with units up to week `origin`, one row each, sorted by SKU.

    Columns: sku, reason (String, null for the full model), weeks, variance_noise, variance_level,
    variance_start and variance_step (a forecast error in logs has variance start + step * its step),
    `beta_<covariate>` and `shape_<quantile>` (quantiles of the standardised errors). Deterministic.
    Raises ValueError if `origin` is not a week of the panel.
    """
    logs = logs_of(panel, origin, 0)
    betas = coefficients(logs)
    rest = logs.y - logs.regression(betas)
    series = sku_index(logs, rest)
    estimates = local_level.variances(series)
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

    The parameters are not fitted again; levels, store effects and the keys' own variances come from
    the panel's units up to `origin`. See the module's docstring for columns; sorted by sku, store, week.
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
        log_units = np.minimum(centre + shape * np.sqrt(variance), highest + EXTRAPOLATION)
        values.append(np.maximum(np.expm1(log_units), 0.0))
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
) -> tuple[Logs, Arrays, Arrays, _State, np.ndarray]:
    """Logs, parameters per SKU, coefficients per SKU, states up to `origin`, and the keys that have a forecast."""
    logs = logs_of(panel, origin, horizon)
    table = pl.DataFrame({"sku": logs.names}).join(params, on="sku", how="left", maintain_order="left")
    by_sku = {
        name: table[name].to_numpy().astype(float) for name in table.columns if name not in ("sku", "reason")
    }
    betas = {name[len(BETA) :]: np.nan_to_num(by_sku[name]) for name in by_sku if name.startswith(BETA)}
    rest = logs.y - logs.regression(betas)[: origin + 1]
    state = _state(logs, rest, by_sku["variance_noise"], by_sku["variance_level"])
    indices = np.flatnonzero(np.isfinite(state.effect[-1]) & np.isfinite(by_sku["variance_start"])[logs.sku])
    return logs, by_sku, betas, state, indices


def _state(logs: Logs, rest: np.ndarray, noise: np.ndarray, drift: np.ndarray) -> _State:
    """Levels and store effects of each week, from that week and earlier ones, with fixed variances."""
    level = local_level.filtered_levels(sku_index(logs, rest), noise, drift)
    residual = rest - level[:, logs.sku]
    total, weight = np.zeros(residual.shape[1]), np.zeros(residual.shape[1])
    effect = np.empty(residual.shape)
    for at, value in enumerate(residual):
        finite = np.isfinite(value)
        total = (1 - FORGETTING) * total + np.where(finite, value, 0.0)
        weight = (1 - FORGETTING) * weight + finite
        effect[at] = ratio(total, weight)
    return _State(level, effect, residual)


def _own_variance(logs: Logs, residual: np.ndarray) -> np.ndarray:
    """The variance of a key's residuals in the last year, relative to its SKU's; near 1 for few weeks."""
    recent = residual[-YEAR:]
    squares = (recent - mean(recent)) ** 2
    finite = np.isfinite(squares)
    total, weeks = sum_of_weeks(np.where(finite, squares, 0.0)), finite.sum(axis=0)
    usual = ratio(np.add.reduceat(total, logs.starts), np.add.reduceat(weeks, logs.starts))[logs.sku]
    return np.where(usual > 1e-12, (ratio(total, usual) + KEY_WEEKS) / (weeks + KEY_WEEKS), 1.0)


def _spread(
    logs: Logs, rest: np.ndarray, state: _State, horizon: int, quantiles: Sequence[float]
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
        pool = np.concatenate(
            [(e / np.sqrt(max(start[at] + slope[at] * step, 1e-12))).ravel() for step, e in mine.items()]
        )
        pool = pool[np.isfinite(pool)]
        if len(pool) >= ENOUGH_ERRORS:
            weeks = np.isfinite(mine[steps[0]]).any(axis=1).sum()
            luck = STEADY_WEEKS / (weeks + STEADY_WEEKS) * np.median(pool)
            shape[at] = np.quantile(pool, quantiles) - luck
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
