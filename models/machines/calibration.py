"""Calibration of an estimator's output to the observed share of failures, learnt on held-out time.

A calibration is a plain dict, ready for JSON::

    {"kind": "identity"}
    {"kind": "platt", "slope": a, "intercept": b}      sigmoid(a * logit(p) + b)
    {"kind": "isotonic", "from": [...], "to": [...]}   linear between the points, flat beyond; of bundles of earlier versions
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Calibration = Mapping[str, Any]

IDENTITY: Calibration = {"kind": "identity"}
EDGE = 1e-7
_PRIOR, _FEW_PRIOR = 5.0, 0.1


def calibrations_of_few(
    probability: Mapping[str, Floats], is_failure: Mapping[str, Flags], weight: Mapping[str, Floats]
) -> dict[str, Calibration]:
    """Platt's sigmoid of each component, with the mean of its rows; all components share one slope.

    The slope of a component with few failures would be due to chance, and so would the rank of its rows among those of
    others. The probabilities are those of estimators that have not seen the machine of a row, so that all rows can be
    used, not only later ones with few failures. `weight`, one per row, compensates for the sampling of rows. Components
    may have different rows.
    """
    probabilities, outcomes, weights = (
        np.concatenate([values[c] for c in probability]) for values in (probability, is_failure, weight)
    )
    common = platt(probabilities, outcomes, weights, _FEW_PRIOR)
    return {
        c: towards(common, own, weight[c], float(np.average(is_failure[c], weights=weight[c])))
        for c, own in probability.items()
    }


def towards(how: Calibration, probability: Floats, weight: Floats, base_rate: float) -> Calibration:
    """`how`, shifted so that the weighted mean is the base rate. Only the intercept changes, not the order of rows."""
    if not 0 < base_rate < 1:
        return how
    slope, intercept = how.get("slope", 1.0), how.get("intercept", 0.0)
    z = slope * _logit(probability) + intercept
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = np.average(_sigmoid(z + middle), weights=weight)
        low, high = (middle, high) if mean < base_rate else (low, middle)
    return {"kind": "platt", "slope": slope, "intercept": intercept + (low + high) / 2}


def platt(
    probability: Floats, is_failure: Flags, weight: Floats | float = 1.0, prior_weight: float = _PRIOR
) -> Calibration:
    """Logistic regression on the logit of `probability`, with targets slightly inside 0 and 1.

    Platt (1999), "Probabilistic outputs for support vector machines"; the targets keep the slope
    finite if the classes are separated. Slope and intercept have a prior with means 1 and 0 and
    variance 1/`prior_weight`, which a handful of failures cannot overrule. A slope below 0 becomes 0. Identity if
    none or all failed. Curves with more parameters, such as isotonic regression, fit chance: many rows are followed by the
    same failure, so that thousands of rows are a hundred failures.
    """
    z = _logit(probability)
    positives = float(is_failure.sum())
    if positives in (0, len(is_failure)):
        return IDENTITY
    target = np.where(is_failure, (positives + 1) / (positives + 2), 1 / (len(is_failure) - positives + 2))
    design = np.column_stack([z, np.ones_like(z)])
    prior = np.array([1.0, 0.0])
    weights = prior.copy()
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (weight * (p - target)) + prior_weight * (weights - prior)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + prior_weight * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] < 0:
        weights = np.array([0.0, float(_logit(np.array([target.mean()]))[0])])
    return {"kind": "platt", "slope": float(weights[0]), "intercept": float(weights[1])}


def calibrated_probabilities(probability: Floats, how: Calibration) -> Floats:
    """Probabilities after calibration, in the order of `probability`.

    >>> calibrated_probabilities(np.array([0.2, 0.6]), {"kind": "isotonic", "from": [0.0, 1.0], "to": [0.0, 0.5]}).tolist()
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
