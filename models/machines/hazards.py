"""Learning the hazard of a component, and the levels of the chance of failure that give quantiles of the remaining life.

A row counts once for each period in which it is known whether the component failed: up to its failure, or until the end
of its observation, so that machines that have not failed yet also contribute. Singer & Willett (1993), "It's about
time: using discrete-time survival analysis", Journal of Educational Statistics 18(2).

Levels are calibrated on machines that the estimator has not seen: a tenth, a half and nine tenths of their lives lie
below the three levels. Every machine has the same weight; short, medium and long medians have their own levels.
Chernozhukov, Wuethrich & Zhu (2021), "Distributional conformal prediction", PNAS 118(48).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from models.machines.estimators import Flags, Floats, Learner, Matrix
from models.machines.features import Feature
from models.machines.labels import OBSERVED, failure_time, has_component, next_failure
from models.machines.lives import QUANTILES, Life, inverse, times
from models.machines.options import Options
from models.machines.risks import matrix
from models.machines.sampling import DRAWN, masked_copies, shares

FEWEST_FAILURES, FEWEST_MACHINES = 20, 10
_PERIODS = 20
_LAST_SHARE, _LAST_FAILURES = 0.1, 10
_FOLDS = 4
_FEW_ROWS = 100
_TREES = 100
_PERIOD_ROWS_SHARE, _ROWS_SHARE = 0.5, 0.2


@dataclass(frozen=True)
class _Sample:
    """Rows to learn from: features, weight, hours until the failure or until the row is censored, and the machine."""

    X: Matrix
    weight: Floats
    hours: Floats
    is_failure: Flags
    machine: np.ndarray
    draw: Floats

    def where(self, rows: Flags) -> "_Sample":
        return _Sample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def learn(
    rows: pl.LazyFrame,
    component: str,
    features: Sequence[Feature],
    interval_hours: float,
    options: Options,
    hidden: Sequence[str] = (),
) -> Life:
    """The life of `component`, or the reason why there is none: it failed too seldom, or on too few machines.

    Features `hidden` are not used.
    """
    leads = _leads(rows, component)
    machines = leads["machine_id"].n_unique()
    if leads.height < FEWEST_FAILURES or machines < FEWEST_MACHINES:
        return Life(
            component,
            f"{component} failed {times(leads.height)} on {machines:,} machine{'s' * (machines != 1)}: "
            f"a remaining life needs {FEWEST_FAILURES} failures on {FEWEST_MACHINES} machines",
        )
    edges = _edges(leads["hours"], max(interval_hours, 1.0))
    sample = _sample(rows, component, features, edges[-1], options)
    names = [f.name for f in features]
    sample.X[:, [names.index(name) for name in hidden]] = np.nan
    hazard = _Hazard.of(sample, component, edges, features, options)
    fold = np.unique(sample.machine, return_inverse=True)[1] % _FOLDS
    chance, remainder, median = np.empty(len(fold)), np.empty(len(fold)), np.empty(len(fold))
    for i in range(_FOLDS):
        other = hazard.life(fold != i)
        chance[fold == i], remainder[fold == i], median[fold == i] = _reached(other, sample.where(fold == i))
    life = hazard.life()
    return _calibrated(life, chance, remainder, median, _by_machine(sample))


def _calibrated(life: Life, chance: Floats, remainder: Floats, median: Floats, weight: Floats) -> Life:
    """`life` with levels for three groups of rows by their median; a group with few rows has the levels of all."""
    finite = median[np.isfinite(median)]
    if len(finite) < _FEW_ROWS:
        return replace(life, levels=(_levels(chance, remainder, weight),))
    bounds = np.quantile(finite, [1 / 3, 2 / 3])
    group = np.searchsorted(bounds, median)
    groups = [group == i if (group == i).sum() >= _FEW_ROWS else group >= 0 for i in range(3)]
    levels = tuple(_levels(chance[some], remainder[some], weight[some]) for some in groups)
    return replace(life, bounds=tuple(bounds.tolist()), levels=levels)


def _leads(rows: pl.LazyFrame, component: str) -> pl.DataFrame:
    """Per failure that follows some row: machine_id, and `hours` from the first such row to it."""
    hours = next_failure(component)
    some = rows.filter(hours.is_not_null()).select("machine_id", at=failure_time(hours), hours=hours)
    return some.group_by("machine_id", "at").agg(pl.col("hours").max()).collect()


def _edges(leads: pl.Series, interval_hours: float) -> tuple[float, ...]:
    """Ends of the periods in whole intervals, closer together in the near future.

    The last one lies so far ahead that at least a tenth of the failures, and at least ten, were observed that early.
    """
    at_end = max(_LAST_FAILURES, round(_LAST_SHARE * len(leads)))
    last = float(leads.sort(descending=True)[at_end - 1])
    squares = (np.arange(1, _PERIODS + 1) / _PERIODS) ** 2
    whole = np.maximum(np.round(last * squares / interval_hours), 1)
    return tuple((np.unique(whole) * interval_hours).tolist())


def _sample(
    rows: pl.LazyFrame, component: str, features: Sequence[Feature], last: float, options: Options
) -> _Sample:
    """A sample of the rows, including all with a failure within `last` hours if possible, and compensating weights."""
    hours, names = next_failure(component), [f.name for f in features]
    within = (hours <= last).fill_null(value=False)
    usable = rows.filter(has_component(component), hours.is_not_null() | (pl.col(OBSERVED) > 0))
    counts = usable.select(within.sum().alias("failing"), pl.len().alias("rows")).collect()
    positives = int(counts["failing"].item())
    share = shares(
        positives, counts["rows"].item() - positives, max(1, round(options.training_rows * _ROWS_SHARE))
    )
    of_row = pl.when(within).then(share[0]).otherwise(share[1])
    frame = (
        usable.filter(pl.col(DRAWN) < of_row)
        .select(
            "machine_id",
            "time",
            *names,
            (pl.col(DRAWN) / of_row).alias("|drawn"),
            (1 / of_row).alias("|weight"),
            pl.coalesce(hours, OBSERVED).alias("|hours"),
            hours.is_not_null().alias("|failed"),
        )
        .collect()
        .sort("machine_id", "time")
    )
    return _Sample(
        X=matrix(frame, names),
        weight=frame["|weight"].to_numpy(),
        hours=frame["|hours"].to_numpy(),
        is_failure=frame["|failed"].to_numpy(),
        machine=frame["machine_id"].to_numpy(),
        draw=frame["|drawn"].to_numpy(),
    )


@dataclass(frozen=True)
class _Hazard:
    """Periods to learn a hazard from: for each, the row of the sample, and whether the component failed in it."""

    component: str
    edges: tuple[float, ...]
    learner: Learner
    row: np.ndarray
    is_failure: Flags

    @classmethod
    def of(
        cls,
        sample: _Sample,
        component: str,
        edges: tuple[float, ...],
        features: Sequence[Feature],
        options: Options,
    ) -> "_Hazard":
        """All periods that end in a failure, and a share of the others, weighted so that proportions are preserved."""
        copies, which = masked_copies(sample.X, sample.draw * 1009 % 1, features)
        X = np.concatenate([sample.X, copies])
        origin = np.concatenate([np.arange(len(sample.X)), which])
        row, period, is_failure = _periods(sample.hours[origin], sample.is_failure[origin], edges)
        draws = (sample.draw[origin][row] * 8191 + period * 0.6180339887) % 1
        most = max(options.training_rows * _PERIOD_ROWS_SHARE - is_failure.sum(), is_failure.sum())
        share = min(1.0, most / max(int((~is_failure).sum()), 1))
        mask = is_failure | (draws < share)
        row, period, is_failure = row[mask], period[mask], is_failure[mask]
        ends = np.asarray(edges, dtype=np.float32)[period][:, None]
        weight = sample.weight[origin][row] / np.where(is_failure, 1.0, share)
        learner = Learner(np.hstack([X[row], ends]), weight, replace(options, estimator="lightgbm"))
        return cls(component, edges, learner, origin[row], is_failure)

    def life(self, rows: Flags | None = None) -> Life:
        """The uncalibrated life that is learnt from the rows of the sample, or from some of them."""
        learner, is_failure = self.learner, self.is_failure
        if rows is not None:
            learner, is_failure = learner.where(rows[self.row]), is_failure[rows[self.row]]
        return Life(
            self.component, edges=self.edges, estimator=learner.fit(is_failure, trees=_TREES).estimator
        )


def _periods(
    hours: Floats, is_failure: Flags, edges: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, Flags]:
    """Each pair of row and period with a known outcome, and whether the component failed in it.

    A period includes its end; the outcome of a period in which the row is censored is unknown.
    """
    last = np.searchsorted(edges, hours, side="left")
    many = np.where(is_failure, np.minimum(last + 1, len(edges)), np.searchsorted(edges, hours, side="right"))
    row = np.repeat(np.arange(len(hours)), many)
    period = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return row, period, is_failure[row] & (period == last[row])


def _reached(life: Life, sample: _Sample) -> tuple[Floats, Floats, Floats]:
    """The chance of a failure reached at each row's end, the remaining chance (0 after a failure), and the median."""
    edge_chances = life.chances(sample.X)
    chances = np.hstack([np.zeros((len(sample.X), 1)), edge_chances])
    ends = np.concatenate([[0.0], life.edges])
    at = np.clip(np.searchsorted(ends, sample.hours, side="left"), 1, len(ends) - 1)
    part = np.clip((sample.hours - ends[at - 1]) / (ends[at] - ends[at - 1]), 0, 1)
    rows = np.arange(len(at))
    chance = chances[rows, at - 1] * (1 - part) + chances[rows, at] * part
    inside = sample.is_failure & (sample.hours <= life.edges[-1])
    return chance, np.where(inside, 0.0, 1 - chance), inverse(edge_chances, life.edges, QUANTILES)[:, 1]


def _by_machine(sample: _Sample) -> Floats:
    """Weights with which the rows of each machine have the same total."""
    which = np.unique(sample.machine, return_inverse=True)[1]
    return sample.weight / np.bincount(which, sample.weight)[which]


def _levels(chance: Floats, remainder: Floats, weight: Floats) -> tuple[float, ...]:
    """The levels below which the `QUANTILES` of the lives lie.

    A censored life counts as uniform over its remaining chance.
    """

    def below(level: float) -> float:
        share = np.where(remainder > 0, (level - chance) / np.maximum(remainder, 1e-12), chance <= level)
        return float(np.average(np.clip(share, 0, 1), weights=weight))

    levels = []
    for quantile in QUANTILES:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < quantile else (low, middle)
        levels.append(high)
    return tuple(levels)
