"""The default detector: distances from what a sensor usually does, in robust standard deviations.

The expected value is the sensor's level (`robust_level`), its course over the day (`robust_seasonal`),
the nearest level if it jumps between separate levels (`robust_regimes`), or the mean of the last 30
intervals if it wanders (`robust_local`); after a longer gap, nothing is expected of a reading. The score is the
greatest of the channels of `models.devices.channels`; higher is more anomalous. Scoring takes a few hundred
operations per reading, for any number of sensors at once.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import channels
from models.devices.channels import PROFILE, Scales
from models.devices.contracts import KEY
from models.devices.grid import Floats, Grid
from models.quantiles import row_quantiles

BASELINES = ("level", "seasonal", "local", "regimes")
LEVEL, SEASONAL, LOCAL, REGIMES = range(4)
LEAST_OF_A_DAY = 0.8
"""Days of history needed for a daily cycle."""
_BINS = 64
_LEAP = 5.0
"""Least size of a leap from one level to another, in standard deviations of the sensor's other steps."""
_SUSPECT = 7.0
_EPISODES_PER_DAY = 3
_SUSPECT_SHARE = 0.1


@dataclass(frozen=True)
class Fitted:
    """`baseline` is the position in `BASELINES` for each sensor.

    `profile` (S, PROFILE) holds the sensor's harmonics or, with `regimes`, its levels, then NaN.
    `clean` is the history without the episodes that count as faults, `expected` its expected values, and `scores` its
    scores.
    """

    baseline: NDArray[np.int8]
    profile: Floats
    scales: Scales
    clean: Floats
    expected: Floats
    scores: Floats

    def take(self, rows: NDArray[np.int64]) -> "Fitted":
        """The sensors at `rows`, in that order."""
        history = (self.clean[rows], self.expected[rows], self.scores[rows])
        return Fitted(self.baseline[rows], self.profile[rows], self.scales.take(rows), *history)

    def put(self, rows: NDArray[np.int64], other: "Fitted") -> None:
        """Replace the sensors at `rows` by those of `other`."""
        for name in Scales.__dataclass_fields__:
            getattr(self.scales, name)[rows] = getattr(other.scales, name)
        for name in ("baseline", "profile", "clean", "expected", "scores"):
            getattr(self, name)[rows] = getattr(other, name)

    def frame(self, keys: pl.DataFrame) -> pl.DataFrame:
        """One row per sensor: device, tag, `baseline`, `profile` and the scales."""
        scales = [pl.Series(name, getattr(self.scales, name)) for name in Scales.__dataclass_fields__]
        profile = pl.Series("profile", self.profile, dtype=pl.Array(pl.Float64, PROFILE))
        return keys.select(*KEY).with_columns(pl.Series("baseline", self.baseline), profile, *scales)

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Fitted":
        """The inverse of `frame`, without the history."""
        scales = Scales(*(frame[name].to_numpy() for name in Scales.__dataclass_fields__))
        profile = frame["profile"].to_numpy().reshape(-1, PROFILE)
        return cls(frame["baseline"].to_numpy(), profile, scales, *(np.empty((frame.height, 0)),) * 3)


def fit(grid: Grid, part: NDArray[np.bool_], choice: NDArray[np.int8] | None = None) -> Fitted:
    """Detectors of all sensors of `grid` from the columns selected by `part`; the others determine the best baseline.

    `choice` is the baseline (position in `BASELINES`) of each sensor; -1 for the best one.
    Up to three short episodes per day of readings more than seven scales out, at most a tenth of
    the history, count as faults and are left out; anything more is the sensor's normal behaviour.
    """
    choice = np.full(len(grid.values), -1, np.int8) if choice is None else choice
    result = _fit(grid, grid.values, part, choice)
    suspects = _suspects(grid, result.scores)
    rows = np.flatnonzero(suspects.any(axis=1))
    if len(rows):
        clean = np.where(suspects[rows], np.nan, grid.values[rows])
        result.put(rows, _fit(grid.take(rows), clean, part, choice[rows]))
    return result


def _fit(grid: Grid, x: Floats, part: NDArray[np.bool_], choice: NDArray[np.int8]) -> Fitted:
    inside = np.where(part[None, :], x, np.nan)
    center = row_quantiles(inside, (0.5,))[:, 0]
    center = np.where(np.isnan(center), row_quantiles(x, (0.5,))[:, 0], center)
    level = np.zeros((len(x), PROFILE))
    level[:, 0] = center
    design = channels.seasonal_design(grid)
    daily = _profile(grid, inside, center, design)
    expected = center[:, None]
    course = channels.seasonal(design, daily)
    recent = channels.recent_level(x)
    outside = ~part[None, :]
    distances = [np.abs(np.where(outside, x - e, np.nan)) for e in (expected, course, recent)]
    widths = [
        row_quantiles(one, (0.5, 0.9)) for one in distances
    ]  # that half and a tenth of the cells exceed
    baseline = np.where(widths[1][:, 1] < 0.85 * widths[0][:, 1], SEASONAL, LEVEL).astype(np.int8)
    baseline[(widths[2] < 0.5 * np.minimum(widths[0], widths[1])).any(axis=1)] = LOCAL
    baseline = np.where(choice >= 0, choice, baseline).astype(np.int8)
    profile = np.where((baseline == SEASONAL)[:, None], daily, level)
    for s in np.flatnonzero(((baseline == LOCAL) & (choice < 0)) | (baseline == REGIMES)):
        regimes = _regimes(x[s], sure=choice[s] == REGIMES)
        if len(regimes) > 1 or choice[s] == REGIMES:
            baseline[s], profile[s] = REGIMES, np.nan
            profile[s, : len(regimes)] = regimes
    expected = expected_of(grid, x, baseline, profile)
    dof = np.where(baseline == SEASONAL, (daily != 0).sum(axis=1), np.where(baseline == LOCAL, 0, 1))
    scales, scores = channels.fit_scales(x, expected, np.broadcast_to(part[None, :], x.shape), dof)
    return Fitted(baseline, profile, scales, x.copy(), expected, scores)


def _regimes(x: Floats, sure: bool) -> Floats:
    """The levels between which one sensor jumps: groups of values with nothing in between, lowest first.

    A sensor that wanders passes through nearly all values between its extremes; if it skips some, the step
    is not a leap (`_leaps`). So it has one group, unless it is `sure` that there are levels.
    Groups with less than a fiftieth of the values do not count; of more than PROFILE groups, the largest are kept.
    """
    values = np.sort(x[~np.isnan(x)])
    low, high = np.quantile(values, [0.005, 0.995])
    if high <= low:
        return values[:1]
    breaks = np.flatnonzero(np.diff(values) > 3 * (high - low) / _BINS)
    if not (sure or _leaps(x, values[breaks])):
        breaks = breaks[:0]
    groups = [g for g in np.split(values, breaks + 1) if len(g) >= 0.02 * len(values)]
    largest = sorted(groups, key=len, reverse=True)[:PROFILE]
    return np.sort(np.array([np.median(g) for g in largest]))


def _leaps(x: Floats, breaks: Floats) -> bool:
    """Whether the steps of `x` over the gaps above `breaks` are far greater than its other steps.

    A quantity in coarse steps, such as the voltage of a battery, does not leap from one value to the next.
    """
    steps = np.abs(np.diff(x))
    present, over = ~np.isnan(steps), np.diff(np.searchsorted(breaks, x)) != 0
    leaps, within = steps[present & over], steps[present & ~over]
    if not len(leaps) or not len(within):
        return True
    coarse = np.diff(np.unique(x[~np.isnan(x)])).min()
    return bool(np.median(leaps) >= max(_LEAP * np.median(within) / 0.6745, 1.5 * coarse))


def _profile(grid: Grid, x: Floats, center: Floats, design: Floats) -> Floats:
    """Harmonics of the day by Huber's iteration: residuals clipped at 2 scales, then least squares again.

    Only the level if the history covers less than 4/5 of a day; two harmonics for less than two
    days, four for more.
    """
    present = ~np.isnan(x)
    days = _days(grid)
    size = np.where(days >= 2, PROFILE, np.where(days >= LEAST_OF_A_DAY, 5, 1))
    size = np.where(present.sum(axis=1) >= 10 * size, size, 1)
    in_use = np.arange(PROFILE)[None, :] < size[:, None]
    normal = np.empty((len(x), PROFILE, PROFILE))
    for i in range(PROFILE):
        for j in range(i + 1):
            normal[:, i, j] = np.where(present, design[None, :, i] * design[None, :, j], 0.0).sum(axis=1)
            normal[:, j, i] = normal[:, i, j]
    normal = np.where(in_use[:, :, None] & in_use[:, None, :], normal, 0.0)
    normal += np.where(in_use, 1e-6, 1.0)[:, :, None] * np.eye(PROFILE)
    profile = np.zeros((len(x), PROFILE))
    profile[:, 0] = center
    for _ in range(4):
        course = channels.seasonal(design, profile)
        rest = x - course
        scale = channels.robust_scale(rest)[:, None]
        near = np.where(present, np.clip(rest, -2 * scale, 2 * scale), 0.0)
        right = np.stack([(near * design[None, :, i]).sum(axis=1) for i in range(PROFILE)], axis=1)
        profile += np.linalg.solve(normal, np.where(in_use, right, 0.0)[:, :, None])[:, :, 0]
    return profile


def _days(grid: Grid) -> Floats:
    """Days between the first and the last reading of each sensor."""
    present = ~np.isnan(grid.values)
    span = grid.intervals - present[:, ::-1].argmax(axis=1) - present.argmax(axis=1)
    days: Floats = np.where(present.any(axis=1), span, 0) * grid.interval.total_seconds() / 86400
    return days


def _suspects(grid: Grid, scores: Floats) -> NDArray[np.bool_]:
    """Cells that count as faults: far out, in few episodes."""
    out = np.nan_to_num(scores) > _SUSPECT
    near = out.copy()
    for lag in range(1, 6):
        near[:, lag:] |= out[:, :-lag]
    starts = near & ~np.concatenate([np.zeros((len(near), 1), bool), near[:, :-1]], axis=1)
    readings = np.maximum((~np.isnan(grid.values)).sum(axis=1), 1)
    few = starts.sum(axis=1) <= _EPISODES_PER_DAY * np.maximum(_days(grid), 1.0)
    few &= near.sum(axis=1) <= _SUSPECT_SHARE * readings
    return near & few[:, None]


def expected_of(grid: Grid, x: Floats, baseline: NDArray[np.int8], profile: Floats) -> Floats:
    """The expected values of sensors with the values `x` on the columns of `grid`; see the module."""
    expected = np.empty_like(x)
    with_profile = np.flatnonzero(baseline <= SEASONAL)
    expected[with_profile] = channels.seasonal(channels.seasonal_design(grid), profile[with_profile])
    with_level = np.flatnonzero(baseline == LOCAL)
    expected[with_level] = channels.recent_level(x[with_level])
    with_regimes = np.flatnonzero(baseline == REGIMES)
    expected[with_regimes] = _nearest(x[with_regimes], profile[with_regimes])
    return expected


def _nearest(x: Floats, levels: Floats) -> Floats:
    """The nearest of the row's `levels` for each value."""
    nearest = np.repeat(levels[:, :1], x.shape[1], axis=1)
    for i in range(1, levels.shape[1]):
        level = levels[:, i : i + 1]
        nearest = np.where(np.abs(x - level) < np.abs(x - nearest), level, nearest)
    return nearest
