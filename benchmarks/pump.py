"""A simulated pump with eight correlated sensors and a temporary fault: how well the joint detector marks the fault.

It is modelled on the Skoltech Anomaly Benchmark (Katser & Kozitsin 2020): a reading per second, of which the first 400
are normal and for training; then a valve closes, the rotor loses balance, the pump cavitates or leaks, for a third of the
time, and the pump is normal again. Loads and temperatures wander, so that normal values after the 400 readings differ
slightly from the training; pressure and flow are read in coarse steps. The sizes are such that T² and Q mark the readings
about as well as in that benchmark.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.signal import lfilter

from models.devices.contracts import JOINT_TAG, KEY
from models.devices.evaluation import trained_model
from models.devices.grid import Floats
from models.devices.options import Options
from models.devices.scoring import score_span

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEARNT, LENGTH, BEGIN, END = 400, 1150, 600, 980
SENSORS = ("vibration 1", "vibration 2", "current", "pressure", "temperature", "surface", "voltage", "flow")
LOADINGS = np.array(
    [  # load, heat, supply
        [0.7, 0.0, 0.2],
        [0.6, 0.1, 0.2],
        [0.9, 0.0, 0.4],
        [-0.5, 0.0, 0.1],
        [0.2, 0.9, 0.0],
        [0.1, 0.9, 0.0],
        [-0.2, 0.0, 0.9],
        [0.8, 0.0, 0.1],
    ]
)
FAULTS = ("valve closes", "imbalance", "cavitation", "leak")
STEPS = (1.2, 0.8)
"""The steps in which pressure and flow are read."""
COMPONENTS = 4
"""Components of the principal component analysis with which the detector is compared."""


def readings_of(fault: str, seed: int) -> Floats:
    """Readings (LENGTH, 8) of a run with `fault` from `BEGIN` to `END`; levels and scales are those of the noise."""
    random = np.random.default_rng([seed, FAULTS.index(fault)])
    coefficients = (0.9, 0.998, 0.5)
    factors = np.stack([wandering(random, phi, LENGTH) for phi in coefficients], axis=1) * (1.0, 2.0, 1.0)
    noise = np.stack(
        [wandering(random, phi, LENGTH) for phi in (0.3, 0.3, 0.2, 0.0, 0.8, 0.8, 0.0, 0.5)], axis=1
    )
    values = factors @ LOADINGS.T + 0.5 * noise
    there = np.zeros(LENGTH)
    there[BEGIN:END] = np.minimum(np.arange(END - BEGIN) / 40, 1.0)
    size = random.uniform(0.7, 1.7)
    if fault == "valve closes":
        values += size * there[:, None] * np.array([0, 0, -0.6, 1.6, 0, 0, 0, -1.6])
    elif fault == "imbalance":
        values += size * there[:, None] * np.array([1.6, 1.2, 0.4, 0, 0, 0, 0, 0])
    elif fault == "cavitation":
        values[:, [0, 1, 3]] += 1.5 * size * there[:, None] * random.normal(size=(LENGTH, 3))
    else:
        values += size * there[:, None] * np.array([0, 0, 0.5, -1.0, 0, 0, 0, -1.2])
    coarse = [SENSORS.index("pressure"), SENSORS.index("flow")]
    values[:, coarse] = np.round(values[:, coarse] / STEPS) * STEPS
    return values


def wandering(random: np.random.Generator, phi: float, length: int) -> Floats:
    """AR(1) noise of unit variance."""
    white = random.normal(size=length) * np.sqrt(1 - phi**2)
    white[0] = random.normal()
    found: Floats = lfilter([1.0], [1.0, -phi], white)
    return found


def joint_p_values(values: Floats) -> Floats:
    """The joint detector's p-values of the readings after the training."""
    options = Options.of({"interval": "1s"})
    times = pl.Series("time", [START + n * SECOND for n in range(LENGTH)], dtype=pl.Datetime("us", "UTC"))
    wide = pl.DataFrame(values, schema=list(SENSORS)).with_columns(times)
    long = wide.unpivot(index="time", variable_name="tag", value_name="mean")
    readings = long.select(pl.lit("pump").alias("device"), "tag", "time", "mean").lazy()
    until = START + LEARNT * SECOND
    model = trained_model(readings.filter(pl.col("time") < until), START, until, options)
    keys = pl.DataFrame({"device": ["pump"] * 9, "tag": [*SENSORS, JOINT_TAG]}).select(KEY)
    rows = score_span(model, readings, keys, until, START + LENGTH * SECOND, options).rows
    return rows.filter(tag=JOINT_TAG).sort("time")["p_value"].to_numpy()


def principal_components(values: Floats) -> Floats:
    """The greater of T² and Q, each divided by its 99 % limit in the past, of the readings after the training."""
    distances = t2_and_q(values, LEARNT, COMPONENTS)
    found: Floats = np.maximum(*(x / np.quantile(x[:LEARNT], 0.99) for x in distances))[LEARNT:]
    return found


def t2_and_q(values: Floats, past: int, components: int) -> tuple[Floats, Floats]:
    """T² and Q of each row by principal components of the first `past` rows: the distances within and outside them."""
    unit = (values - values[:past].mean(axis=0)) / values[:past].std(axis=0)
    variances, directions = np.linalg.eigh(np.corrcoef(unit[:past].T))
    axes = directions[:, -components:]
    parts = unit @ axes
    return (parts**2 / variances[-components:]).sum(axis=1), ((unit - parts @ axes.T) ** 2).sum(axis=1)


def isolation_forest(values: Floats) -> Floats:
    """The negative score of scikit-learn's forest on all sensors together, divided by the 99 % quantile of its past."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=7, n_jobs=1).fit(values[:LEARNT])
    scores = -forest.score_samples(values)
    found: Floats = scores[LEARNT:] / np.quantile(scores[:LEARNT], 0.99)
    return found


def marks(called: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    """F1 of the readings of all runs, the share of normal ones that are called, and of faulty ones that are missed."""
    faulty = np.zeros(LENGTH - LEARNT, bool)
    faulty[BEGIN - LEARNT : END - LEARNT] = True
    every = np.stack(called)
    hit, false, missed = every[:, faulty].sum(), every[:, ~faulty].sum(), (~every[:, faulty]).sum()
    return {
        "F1": float(2 * hit / (2 * hit + false + missed)),
        "false alarms": f"{every[:, ~faulty].mean():.1%}",
        "missed": f"{(~every[:, faulty]).mean():.1%}",
    }


def compared(runs: int = 24) -> list[dict[str, Any]]:
    """A line for the joint detector at each alpha, and for each method with which it is compared."""
    every = [readings_of(FAULTS[n % len(FAULTS)], n) for n in range(runs)]
    p = [joint_p_values(values) for values in every]
    lines = [
        {"method": f"joint, alpha {a:g}", **marks([x <= a for x in p])} for a in (0.05, 0.01, 0.005, 0.001)
    ]
    others: dict[str, Callable[[Floats], Floats]] = {
        "T² and Q": principal_components,
        "isolation forest": isolation_forest,
    }
    for name, method in others.items():
        lines.append({"method": name, **marks([method(values) > 1 for values in every])})
    return lines


if __name__ == "__main__":
    from benchmarks.measure import table

    print(table(compared()))
