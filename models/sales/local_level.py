"""The local level model, a random walk plus noise: its variances, its filtered levels, and its innovations.

Durbin & Koopman 2012, Time Series Analysis by State Space Methods, ch. 2.
"""

import warnings

import numpy as np

ENOUGH_WEEKS = 12
FORGETTING = 0.1
RATIOS = np.array([0.0, *np.geomspace(1e-4, 10.0, 12)])
"""Ratios of the level's variance to the noise's with which trend and season are estimated."""


def variances(series: np.ndarray) -> list[tuple[float, float, str | None]]:
    """Variances of each SKU's noise and level by maximum likelihood, and the reason if they were found in another way.

    `series`: weeks, SKUs. The optimiser starts at the likeliest of `RATIOS`, from where it is half as far.
    """
    logs, noise, _ = likelihoods(series)
    best = logs.argmax(axis=0)
    noise = noise[best, np.arange(len(best))]
    start = np.stack([noise, noise * np.maximum(RATIOS[best], RATIOS[1])], axis=1)
    return [_estimated(one, at) for one, at in zip(series.T, start, strict=True)]


def _estimated(series: np.ndarray, start: np.ndarray) -> tuple[float, float, str | None]:
    """See `variances`; `start` are those of noise and level to start with."""
    observations = np.flatnonzero(np.isfinite(series))
    if len(observations) < ENOUGH_WEEKS:
        weeks = f"{len(observations)} week{'' if len(observations) == 1 else 's'}"
        return 1.0, 0.0, f"mean: {weeks} of history, {ENOUGH_WEEKS} are needed"
    series = series[observations[0] :]
    deviation = float(np.nanstd(series))
    if deviation < 1e-6:
        return 1.0, 0.0, "mean: it never changes"

    from statsmodels.tsa.statespace.structural import UnobservedComponents

    start = start / deviation**2
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        model = UnobservedComponents(series / deviation, "llevel", use_exact_diffuse=True)
        for method in ("bfgs", "nm"):
            try:
                estimate = model.fit(
                    start_params=start, method=method, maxiter=200, disp=False, cov_type="none"
                )
            except (np.linalg.LinAlgError, ValueError, FloatingPointError):
                continue
            noise, drift = (float(variance) * deviation**2 for variance in estimate.params)
            if estimate.mle_retvals["converged"] and np.isfinite([noise, drift]).all() and noise + drift > 0:
                return noise, drift, None
    return 1.0, FORGETTING**2 / (1 - FORGETTING), "exponential smoothing: the optimiser did not converge"


def likelihoods(series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `RATIOS` and SKU, the log likelihood of the series (weeks, SKUs) and the variance of its noise; and the
    number of innovations of each SKU."""
    squares, deviance, weeks = innovations(series, np.zeros((len(series), 0)))
    n = np.maximum(weeks, 1)
    noise = np.maximum(squares[..., 0, 0], 1e-9) / n
    return -(n * np.log(noise) + deviance) / 2, noise, weeks


def filtered_levels(series: np.ndarray, noise: np.ndarray, drift: np.ndarray) -> np.ndarray:
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


def innovations(series: np.ndarray, regressors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Innovations of local-level filters of the series (weeks, SKUs) and of `regressors` (weeks, regressors).

    One filter per ratio of `RATIOS`. Returns the sums of products of the innovations over their variance, shape
    (ratios, SKUs, 1 + regressors, 1 + regressors), the sums of the variances' logarithms (ratios, SKUs), and the
    number of innovations (SKUs,). The first value of a SKU is its level, not an innovation.
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
        weighted_error = error * (later / spread)[..., None]
        squares += weighted_error[..., :, None] * error[..., None, :]
        deviance += later * np.log(spread)
        weeks += later
        level += gain[..., None] * error
        variance = np.where(finite, gain, variance * has_level)
        has_level |= finite
    return squares, deviance, weeks
