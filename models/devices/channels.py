"""Five ways in which a reading can be unusual, each in robust standard deviations.

`value`: the distance from the value expected at this time. `jump`: the change that the last reading does
not explain. `level`: the weighted mean of the last 30 distances, for drifts and small shifts. `spread`:
the logarithm of the recent variance of the jumps, relative to its usual value. `flat`: the same value again
and again; a run of probability p counts sqrt(-2 ln p), the distance at which the density of a Gaussian
has fallen by the factor p. A cell without a reading has none of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.devices.grid import LOOKBACK, Floats, Grid, ages, lagged
from models.quantiles import row_quantiles

CHANNELS = ("value", "jump", "level", "spread", "flat")
HARMONICS = 4
PROFILE = 2 * HARMONICS + 1
LEVEL_WEIGHTS: Floats = np.power(0.93, np.arange(30))
SPREAD_WEIGHTS: Floats = np.power(0.95, np.arange(25))
LOCAL_WEIGHTS: Floats = np.power(0.9, np.arange(30))
CLIP = 5.0


@dataclass(frozen=True)
class Scales:
    """Per sensor: arrays of length S. `usual_spread` and `spread` are of the logarithm of the variance."""

    scale: Floats
    autocorrelation: Floats
    jump: Floats
    level: Floats
    usual_spread: Floats
    spread: Floats
    flat: Floats
    """Chance that a reading equals the previous one."""

    def take(self, rows: NDArray[np.int64]) -> "Scales":
        """The scales of the sensors at `rows`, in that order."""
        return Scales(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def seasonal_design(grid: Grid) -> Floats:
    """Shape (T, PROFILE): 1, and sine and cosine of the first harmonics of the day."""
    angle = 2 * np.pi * grid.phase
    waves = [f(k * angle) for k in range(1, HARMONICS + 1) for f in (np.sin, np.cos)]
    return np.stack([np.ones_like(angle), *waves], axis=1)


def seasonal(design: Floats, profile: Floats) -> Floats:
    """Profiles (S, PROFILE) as values (S, T)."""
    values = np.repeat(profile[:, :1], len(design), axis=1)
    for k in range(1, PROFILE):
        if profile[:, k].any():
            values += profile[:, k : k + 1] * design[None, :, k]
    return values


def recent_level(x: Floats) -> Floats:
    """Weighted mean of the last 30 values before each cell; if there are none, the cell's own: nothing else is expected."""
    before = weighted_mean(lagged(x, 1), LOCAL_WEIGHTS, least=0.0)
    return np.where(np.isnan(before), x, before)


def weighted_mean(x: Floats, weights: Floats, least: float = 0.5, first: int = 0) -> Floats:
    """Weighted mean of each cell and those before it, for the columns from `first` on.

    NaN if the cells with a value have at most the share `least` of the weights.
    """
    present = ~np.isnan(x)
    gappy = np.flatnonzero(~present.all(axis=1))
    total = _window_sums(np.where(present, x, 0.0), weights, first)
    weight = np.repeat(_window_sums(np.ones((1, x.shape[1])), weights, first), len(x), axis=0)
    weight[gappy] = _window_sums(present[gappy].astype(float), weights, first)
    enough = weight > least * weights.sum()
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=enough)


def _window_sums(x: Floats, weights: Floats, first: int) -> Floats:
    """Weighted sum of each cell and those before it, always added in the same order."""
    columns = x.shape[1] - first
    pad = max(0, len(weights) - 1 - first)
    history = np.pad(x, ((0, 0), (pad, 0)))
    total, term = np.zeros((len(x), columns)), np.empty((len(x), columns))
    for lag, w in enumerate(weights):
        begin = first + pad - lag
        np.multiply(history[:, begin : begin + columns], w, out=term)
        total += term
    return total


def jumps_of(rest: Floats, autocorrelation: Floats) -> Floats:
    """The distances minus their prediction from the previous one; NaN without a previous one."""
    return rest - autocorrelation[:, None] * lagged(rest, 1)


def log_spread(jumps: Floats, scale: Floats, first: int = 0) -> Floats:
    """Logarithm of the weighted mean square of the recent jumps, each counted up to five scales."""
    unit = np.clip(jumps / scale[:, None], -CLIP, CLIP)
    return np.log(weighted_mean(unit * unit, SPREAD_WEIGHTS, first=first) + 1e-6)


def runs(x: Floats) -> NDArray[np.int16]:
    """The number of consecutive readings with this value, including this one, at most `LOOKBACK`."""
    return ages(x == lagged(x, 1), LOOKBACK - 1) + np.int16(1)


def distances(x: Floats, expected: Floats, scales: Scales, first: int = 0) -> tuple[Floats, NDArray[np.int8]]:
    """The greatest channel and its position in `CHANNELS`, for columns from `first` on.

    NaN and -1 for a cell without a reading.
    """
    rest = x - expected
    jumps = jumps_of(rest, scales.autocorrelation)
    spread = log_spread(jumps, scales.jump, first)
    level = weighted_mean(rest, LEVEL_WEIGHTS, first=first)
    return _greatest(
        x[:, first:], rest[:, first:], jumps[:, first:], level, spread, runs(x)[:, first:], scales
    )


def _greatest(
    x: Floats,
    rest: Floats,
    jumps: Floats,
    level: Floats,
    spread: Floats,
    lengths: NDArray[np.int16],
    scales: Scales,
) -> tuple[Floats, NDArray[np.int8]]:
    """As `distances`, from what the channels measure; `lengths` are those of runs."""
    again = -np.log(scales.flat)[:, None] * (lengths - 1)
    greatest = np.full(x.shape, -np.inf)
    cause = np.full(x.shape, -1, np.int8)
    for number, z in enumerate(
        (
            np.abs(rest) / scales.scale[:, None],
            np.abs(jumps) / scales.jump[:, None],
            np.abs(level) / scales.level[:, None],
            np.abs(spread - scales.usual_spread[:, None]) / scales.spread[:, None],
            np.sqrt(2 * again),
        )
    ):
        more = z > greatest
        np.copyto(greatest, z, where=more)
        np.copyto(cause, np.int8(number), where=more)
    absent = np.isnan(x) | (cause < 0)
    return np.where(absent, np.nan, greatest), np.where(absent, np.int8(-1), cause)


def fit_scales(x: Floats, expected: Floats, fit: NDArray[np.bool_], dof: Floats) -> tuple[Scales, Floats]:
    """Robust scales of each sensor from the cells where `fit`, by medians and clipped products; the scores of all cells.

    The scales of level and spread are at least those of AR(1) noise, because the past has few independent
    windows. `dof` are the degrees of freedom of `expected`: its own error, which lasts, is part of the scale of the level.
    """
    rest = x - expected
    inside = np.where(fit, rest, np.nan)
    scale = robust_scale(inside)
    phi = autocorrelation_of(inside / scale[:, None])
    jumps = jumps_of(rest, phi)
    jump = robust_scale(np.where(fit, jumps, np.nan), 0.05 * scale)
    spread, level = log_spread(jumps, jump), weighted_mean(rest, LEVEL_WEIGHTS)
    spread_inside = np.where(fit, spread, np.nan)
    usual = row_quantiles(spread_inside, (0.5,))[:, 0]
    same = fit & ~np.isnan(rest) & ~np.isnan(lagged(rest, 1))
    error = dof * (1 + phi) / (1 - phi) / np.maximum((~np.isnan(inside)).sum(axis=1), 1)
    repeats = (same & (x == lagged(x, 1))).sum(axis=1)
    scales = Scales(
        scale=scale,
        autocorrelation=phi,
        jump=jump,
        level=robust_scale(np.where(fit, level, np.nan), scale * np.sqrt(level_ratio(phi) ** 2 + error)),
        usual_spread=np.where(np.isnan(usual), 0.0, usual),
        spread=robust_scale(spread_inside, np.full(len(x), _SPREAD_OF_GAUSSIAN)),
        flat=(repeats + 1.0) / (same.sum(axis=1) + 2.0),
    )
    return scales, _greatest(x, rest, jumps, level, spread, runs(x), scales)[0]


def robust_scale(x: Floats, least: Floats | None = None) -> Floats:
    """Standard deviation from the median absolute deviation, at least `least`; per row.

    If more than half of the values are equal, it comes from the outer quantiles instead.
    """
    middle = row_quantiles(x, (0.5,))
    wide = row_quantiles(np.abs(x - middle), (0.5, 0.9, 0.99, 1.0)) / np.array(
        [0.6745, 1.6449, 2.5758, 3.2905]
    )
    scale = np.zeros(len(x))
    for column in range(wide.shape[1]):
        scale = np.where(scale > 0, scale, np.nan_to_num(wide[:, column]))
    tiny = np.nan_to_num(1e-9 * np.abs(middle[:, 0])) + 1e-12
    return np.maximum(scale, tiny if least is None else np.maximum(tiny, least))


_SPREAD_OF_GAUSSIAN = float(np.sqrt(2 * (SPREAD_WEIGHTS**2).sum()) / SPREAD_WEIGHTS.sum())


def level_ratio(phi: Floats) -> Floats:
    """Standard deviation of the weighted mean of AR(1) noise of standard deviation 1."""
    weights = LEVEL_WEIGHTS / LEVEL_WEIGHTS.sum()
    variance = np.full(len(phi), (weights**2).sum())
    for lag in range(1, len(weights)):
        variance += 2 * phi**lag * (weights[lag:] * weights[:-lag]).sum()
    return np.sqrt(np.maximum(variance, (weights**2).sum() / 4))


def autocorrelation_of(unit: Floats) -> Floats:
    """Correlation of neighbours, from values clipped at three scales; from -0.5 to 0.99."""
    near = np.clip(unit, -3, 3)
    before = lagged(near, 1)
    both = ~np.isnan(near) & ~np.isnan(before)
    now, then = np.where(both, near, 0.0), np.where(both, before, 0.0)
    power = np.sqrt((now * now).sum(axis=1) * (then * then).sum(axis=1))
    return np.clip((now * then).sum(axis=1) / np.maximum(power, 1e-12), -0.5, 0.99)
