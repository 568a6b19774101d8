"""From an estimator's output to a probability that can be taken at its word, learnt on held-out time.

A calibration is a plain dict, ready for JSON::

    {"kind": "identity"}
    {"kind": "platt", "slope": a, "intercept": b}      sigmoid(a * logit(p) + b)
    {"kind": "isotonic", "from": [...], "to": [...]}   linear between the points, flat beyond
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Calibration = Mapping[str, Any]

IDENTITY: Calibration = {"kind": "identity"}
EDGE = 1e-7
_MANY_FAILURES = 1_000
_PRIOR = 5.0
FEW_FAILURES = 20
"""Fewer held-out failures than these do not settle the mean probability, see `towards`."""
_FAR_OFF = 3.0


def calibration(probability: Floats, failed: NDArray[np.bool_]) -> Calibration:
    """The calibration that fits held-out outcomes best; never falling.

    Isotonic regression where at least 1,000 rows failed, as it bends to any shape but needs many;
    else Platt's sigmoid; identity where none or all failed.
    """
    positives = int(failed.sum())
    if positives in (0, len(failed)):
        return IDENTITY
    return (isotonic if positives >= _MANY_FAILURES else platt)(probability, failed)


def towards(how: Calibration, probability: Floats, base_rate: float, failures: int) -> Calibration:
    """`how`, moved so that the mean over held-out rows is not settled by a handful of `failures`.

    The mean that is aimed at lies between that of `how` and `base_rate`, the share of all rows that fail: with
    no held-out failure it is the base rate, from 20 on the mean stays. Only the intercept moves, so that the order
    of rows stays. With some failures a mean within a factor of three of the base rate stays, too: so few allow no better.
    """
    if failures >= FEW_FAILURES or not len(probability) or not 0 < base_rate < 1 or how["kind"] == "isotonic":
        return how
    slope, intercept = how.get("slope", 1.0), how.get("intercept", 0.0)
    mean = float(calibrated(probability, how).mean())
    if failures and 1 / _FAR_OFF < mean / base_rate < _FAR_OFF:
        return how
    weight = failures / FEW_FAILURES
    aim = weight * mean + (1 - weight) * base_rate
    z = slope * _logit(probability) + intercept
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(z + middle).mean() < aim else (low, middle)
    return {"kind": "platt", "slope": slope, "intercept": intercept + (low + high) / 2}


def platt(probability: Floats, failed: NDArray[np.bool_]) -> Calibration:
    """Logistic regression on the logit of `probability`, with targets drawn in from 0 and 1.

    Platt (1999), "Probabilistic outputs for support vector machines"; the targets keep the slope
    finite where the classes are separated. Slope and intercept are held to 1 and 0 as if by a prior
    of variance 1/`_PRIOR`, which a handful of failures cannot overrule. A slope below 0 is taken as 0.
    """
    z = _logit(probability)
    positives = float(failed.sum())
    target = np.where(failed, (positives + 1) / (positives + 2), 1 / (len(failed) - positives + 2))
    design = np.column_stack([z, np.ones_like(z)])
    prior = np.array([1.0, 0.0])
    weights = prior.copy()
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - target) + _PRIOR * (weights - prior)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] < 0:
        weights = np.array([0.0, float(_logit(np.array([target.mean()]))[0])])
    return {"kind": "platt", "slope": float(weights[0]), "intercept": float(weights[1])}


def isotonic(probability: Floats, failed: NDArray[np.bool_]) -> Calibration:
    """The never falling function nearest to the outcomes in least squares.

    Zadrozny & Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates".
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(probability, failed)
    return {"kind": "isotonic", "from": fitted.X_thresholds_.tolist(), "to": fitted.y_thresholds_.tolist()}


def calibrated(probability: Floats, how: Calibration) -> Floats:
    """Probabilities after calibration, in the order of `probability`.

    >>> calibrated(np.array([0.2, 0.6]), {"kind": "isotonic", "from": [0.0, 1.0], "to": [0.0, 0.5]}).tolist()
    [0.1, 0.3]
    """
    if how["kind"] == "platt":
        return _sigmoid(how["slope"] * _logit(probability) + how["intercept"])
    if how["kind"] == "isotonic":
        return np.interp(probability, how["from"], how["to"])
    return probability


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, EDGE, 1 - EDGE)
    return np.log(inside) - np.log1p(-inside)


def _sigmoid(z: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -z))
