"""Why a risk is high: the features that contribute most to it, in words and numbers.

Contributions of an estimator add up, so those of all features of one subject (a sensor, an error, the
age of a component) are added. The three subjects that contribute most are
named, each by its strongest feature. Only contributions that raise the risk are listed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.machines.estimators import Estimator, Matrix
from models.machines.features import Feature

MOST = 3
_LEAST = {"odds": 0.05, "probability": 0.002}


def reasons(estimator: Estimator, X: Matrix, features: Sequence[Feature]) -> list[str]:
    """For each row of `X`, up to `MOST` reasons, strongest first, joined by semicolons; empty if there are none.

    Each ends with its effect: `odds x 12.0` for LightGBM, `+0.120` of probability for trees.
    """
    if not len(X):
        return []
    contributions = estimator.contributions(X)[:, :-1]
    subjects = [(f.kind, f.subject, f.statistic if f.kind == "machine" else "") for f in features]
    order = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    member = np.array([order[s] for s in subjects])
    together = np.zeros((len(X), len(order)))
    for j in range(len(features)):
        together[:, member[j]] += contributions[:, j]
    top = np.argsort(-together, axis=1, kind="stable")[:, :MOST]
    least = _LEAST[estimator.unit]
    columns = {i: np.flatnonzero(member == i) for i in range(len(order))}
    names = {f.name: j for j, f in enumerate(features)}
    texts = []
    for row in range(len(X)):
        parts = []
        for subject in top[row]:
            total = together[row, subject]
            if total < least:
                break
            strongest = columns[subject][np.argmax(contributions[row, columns[subject]])]
            words = in_words(features[strongest], X[row], names)
            parts.append(f"{words} ({effect(total, estimator.unit)})")
        texts.append("; ".join(parts))
    return texts


def effect(total: float, unit: str) -> str:
    """The effect of a contribution on the risk, as text.

    >>> effect(2.0, "odds"), effect(7.0, "odds"), effect(0.25, "probability")
    ('odds x 7.4', 'odds x 1,097', '+0.250')
    """
    if unit != "odds":
        return f"{total:+.3f}"
    times = float(np.exp(min(total, 50.0)))
    return f"odds x {times:,.0f}" if times >= 10 else f"odds x {times:.1f}"


def in_words(feature: Feature, row: NDArray[np.float32], columns: dict[str, int]) -> str:
    """A feature of one row in words; `columns` has the position of each feature.

    >>> f = Feature("pump_replaced_days", "component", "pump", "replaced")
    >>> in_words(f, np.array([12.25], dtype=np.float32), {"pump_replaced_days": 0})
    'pump was replaced 12.2 days ago'
    """
    value = float(row[columns[feature.name]])
    if feature.kind == "sensor":
        return _sensor(feature, value, row, columns)
    if feature.kind == "error":
        return f"{feature.subject}: {value:.0f} in the last {feature.hours} h"
    if feature.statistic == "replaced":
        return (
            f"{feature.subject} was replaced {value:.1f} days ago"
            if np.isfinite(value)
            else f"no replacement of {feature.subject} on record"
        )
    if feature.statistic == "failed":
        return f"last failure {value:.1f} days ago" if np.isfinite(value) else "no failure on record"
    if feature.statistic == "due":
        return (
            f"maintenance is due in {value:.1f} days" if np.isfinite(value) else "maintenance is not regular"
        )
    if feature.statistic == "age":
        return f"the machine is {value:.0f} years old" if np.isfinite(value) else "its age is not on record"
    return f"the model is {'' if value == 1 else 'not '}{feature.subject}"


def _sensor(feature: Feature, value: float, row: NDArray[np.float32], columns: dict[str, int]) -> str:
    window = f"the last {feature.hours} h"
    if not np.isfinite(value) and feature.statistic != "deviation":
        return f"no {feature.subject} reading in {window}"
    words = {
        "std": f"{feature.subject} varies by {value:.3g} within {window}",
        "min": f"{feature.subject} went down to {value:.4g} in {window}",
        "max": f"{feature.subject} went up to {value:.4g} in {window}",
        "slope": f"{feature.subject} changed by {value:+.3g} per hour over {window}",
    }
    if feature.statistic in words:
        return words[feature.statistic]
    mean = float(row[columns[f"{feature.subject}_mean_{feature.hours}h"]])
    deviation = float(row[columns[f"{feature.subject}_deviation_{feature.hours}h"]])
    if not np.isfinite(mean):
        return f"no {feature.subject} reading in {window}"
    text = f"{feature.subject} averages {mean:.4g} over {window}"
    if np.isfinite(deviation):
        side = "above" if deviation >= 0 else "below"
        text += f", {abs(deviation):.1f} deviations {side} its normal"
    return text
