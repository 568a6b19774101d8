"""Drift: whether a bundle's inputs still resemble those that it was trained on.

Rows are wide: `cycle`, the time of the cycle that they belong to, and a column of numbers or text per feature.
Null means that a value is missing, NaN that the feature does not apply, such as the relative price of a product without a
past: those rows do not count for that feature.

The distance between two samples is the population stability index (PSI). Textbooks call a PSI of 0.1
moderate and of 0.25 large. But inputs have seasons, and the rows of a cycle depend on each other: perfectly
ordinary weeks can differ by more. So the limit is learnt from the past: each cycle of the
reference is compared with all others, and the limit is above all of these values and above their upper
prediction limit, see `Usual`.

That limit is an extrapolation: a rate of 1 in 1,000 split among 16 features is 1 cycle in 16,000
for each, and the past has a hundred cycles or so. With few rows, the PSI exceeds it several times as often. So one
excess is not an alarm, but a second one in the next cycle is, and so is one that is far beyond the limit.

Siddiqi (2006), Credit Risk Scorecards, for the PSI; Whitmore (1986), The American Statistician 40(2), for
prediction limits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

CYCLE = "cycle"
SCHEMA: dict[str, Any] = {
    "rank": pl.Int32,
    "feature": pl.String,
    "drifted": pl.Boolean,
    "psi": pl.Float64,
    "limit": pl.Float64,
    "usual": pl.Float64,
    "p_value": pl.Float64,
    "distance": pl.Float64,
    "mean_before": pl.Float64,
    "mean_now": pl.Float64,
    "missing_before": pl.Float64,
    "missing_now": pl.Float64,
    "unseen": pl.Float64,
    "rows": pl.Int64,
    "cycles": pl.Int64,
}
"""`psi` compares the current cycle with the reference, `usual` is its median among the cycles of the reference,
`limit` the value above which it counts, see `Rule`, `p_value` the probability of a value as high, for one feature in
one cycle. `distance` is the greatest difference of shares: Kolmogorov-Smirnov for numbers, total variation for text.
`unseen` is the share of numbers outside the reference's range, or of text not among its values. `rows` counts the rows
of the current cycle, `cycles` the comparable cycles of the reference. Null means unknown.
"""

_ROOT = 1 / 6
_LEAST_SPREAD = 0.5
_ROWS_PER_BIN = 20
_CATEGORIES = 50
_TAIL = 0.01
_FEWEST_IN_TAIL = 5

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """When a feature has drifted: beyond its limit in two successive cycles, or far beyond it in one."""

    rate: float = 0.001
    """Share of cycles with a false alarm, over all features together."""
    far: float = 2.0
    """One cycle is enough if the PSI is more than this multiple of its limit."""
    material: float = 0.1
    """A PSI below this is not an alarm, however unusual it is."""
    fewest_rows: int = 2
    """This many rows in a bin that was empty before are not an alarm by themselves."""
    fewest_cycles: int = 12
    """With fewer cycles in the reference, nothing is an alarm."""
    bins: int = 5
    """Maximum number of bins of numbers, by quantiles of the reference; fewer if a cycle has few rows."""


def every_cycle(
    rows: pl.LazyFrame, key: Sequence[str], count: str, step: timedelta, silent: int, as_of: datetime
) -> pl.LazyFrame:
    """`rows` with a row for each cycle that a key lacks, up to `silent` cycles after its last one; its `count` is 0.

    Cycles are `step` long.
    """
    until = pl.min_horizontal(pl.col(CYCLE).max() + silent * step, pl.lit(as_of))
    spans = rows.group_by(key).agg(pl.col(CYCLE).min().alias("first"), until.alias("until"))
    cycles = pl.datetime_ranges("first", "until", interval=step).alias(CYCLE)
    grid = spans.select(*key, cycles).explode(CYCLE)
    return grid.join(rows, on=[*key, CYCLE], how="left").with_columns(pl.col(count).fill_null(0))


def drift(reference: pl.DataFrame, current: pl.DataFrame, rule: Rule | None = None) -> pl.DataFrame:
    """Each feature of each cycle of `current`, compared with the many cycles of `reference`, worst first; see `SCHEMA`.

    The cycles of `current` are successive; the cycle before the first one is assumed to be as usual.
    Within a cycle, features are ranked by whether they drifted, then by the ratio of the PSI to its limit, then
    by name. Features that are missing in either frame are left out.
    """
    rule = rule or Rule()
    features = [name for name in reference.columns if name != CYCLE and name in current.columns]
    records = [line for name in features for line in _feature(reference, current, name, rule, len(features))]
    schema: dict[str, Any] = {CYCLE: current.schema[CYCLE], **SCHEMA}
    lines = pl.DataFrame(records, schema={name: dtype for name, dtype in schema.items() if name != "rank"})
    parts = [in_order_of_rank(part) for _, part in lines.group_by(CYCLE, maintain_order=True)]
    return pl.concat(parts).sort(CYCLE, "rank").select(list(schema)) if parts else pl.DataFrame(schema=schema)


def in_order_of_rank(lines: pl.DataFrame) -> pl.DataFrame:
    """Lines of one cycle in the order of their `rank`; see `drift`."""
    excess = (pl.col("psi") / pl.col("limit")).fill_null(-1.0)
    rows = lines.sort("drifted", excess, "feature", descending=[True, True, False])
    return rows.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("rank"))


def psi(counts: Counts, reference: Counts) -> Counts:
    """Population stability index of each row of `counts` against its row of `reference`; columns are bins.

    It is the sum over the bins of the difference of shares times the logarithm of their ratio, 0 for equal shares.
    Half a row is added to each bin of the reference, and one row, spread like the reference, to each
    sample, so that an empty bin of a small sample counts little.

    >>> psi(np.array([[50.0, 50.0], [0.0, 100.0]]), np.array([[500.0, 500.0], [500.0, 500.0]])).round(2).tolist()
    [0.0, 2.63]
    """
    weights = (reference + 0.5) / (reference + 0.5).sum(axis=1, keepdims=True)
    share = (counts + weights) / (counts.sum(axis=1, keepdims=True) + 1)
    divergence: Counts = ((share - weights) * np.log(share / weights)).sum(axis=1)
    return np.maximum(divergence, 0.0)


@dataclass(frozen=True)
class Usual:
    """The distribution of the PSI of the reference's cycles, each compared with the others.

    For the PSI of a further cycle, `(root - mean) / error` has Student's t distribution with `freedom` degrees of
    freedom. The root is the sixth root: the cube root makes the PSI of independent rows nearly normal, the
    logarithm a PSI that varies by factors, and rows of a cycle are in between.
    """

    median: float
    highest: float
    mean: float
    error: float
    freedom: float

    @classmethod
    def of(cls, values: Counts) -> "Usual":
        """From the PSI of at least three cycles, in order of time.

        Autocorrelated cycles are less informative than independent ones: `n` count as
        `n (1 - r) / (1 + r)`, where r is the autocorrelation. If the past hardly varies, as for an event
        that has not happened yet, the standard deviation of the PSI is assumed to be half its mean.
        """
        roots = values**_ROOT
        mean = float(roots.mean())
        about = roots - mean
        r = float(np.clip((about[1:] @ about[:-1]) / max(float(about @ about), 1e-12), 0, 0.9))
        effective = max(len(roots) * (1 - r) / (1 + r), 3.0)
        deviation = max(
            math.sqrt(float(about @ about) / (len(roots) - 1)), _LEAST_SPREAD * _ROOT * mean, 1e-9
        )
        error = deviation * math.sqrt(1 + 1 / effective)
        return cls(float(np.median(values)), float(values.max()), mean, error, effective - 1)

    def limit(self, rate: float) -> float:
        """The value that the next PSI exceeds with probability `rate`; not below the highest PSI so far."""
        from scipy.stats import t

        return max((self.mean + float(t.isf(rate, self.freedom)) * self.error) ** (1 / _ROOT), self.highest)

    def p_value(self, value: float) -> float:
        """The probability that the next PSI is at least `value`."""
        from scipy.stats import t

        return float(t.sf((value**_ROOT - self.mean) / self.error, self.freedom))


def _feature(
    reference: pl.DataFrame, current: pl.DataFrame, name: str, rule: Rule, features: int
) -> list[dict[str, object]]:
    """The lines of one feature, one per cycle of `current`, without ranks."""
    before = _pairs(reference, name)
    nothing = {"feature": name, "drifted": False, "rows": 0, "cycles": 0}
    if before.is_empty():
        return [{CYCLE: cycle, **nothing} for cycle in current[CYCLE].unique().sort()]
    old = before[name].sort()
    bins = _Bins.of(old, before.height / before[CYCLE].n_unique(), rule.bins)
    place = bins.of_each(before[name])
    everything = np.bincount(place, minlength=bins.number)[None, :].astype(float)
    values, cycles = _among_themselves(before, place, bins.number)
    usual = Usual.of(values) if cycles >= rule.fewest_cycles else None
    usual_limit = None if usual is None else max(usual.limit(rule.rate / features), rule.material)
    values_now = _pairs(current, name)
    by_cycle = values_now.partition_by(CYCLE, as_dict=True)
    lines: list[dict[str, object]] = []
    again = False
    for cycle in current[CYCLE].unique().sort():
        new = by_cycle.get((cycle,), values_now.clear())[name]
        limit = (
            None
            if usual_limit is None
            else max(usual_limit, _of_few_rows(everything, len(new), rule.fewest_rows))
        )
        line = {CYCLE: cycle, **nothing, "cycles": cycles, "rows": len(new), "limit": limit}
        excess = 0.0
        if len(new):
            this = np.bincount(bins.of_each(new), minlength=bins.number)[None, :].astype(float)
            value = float(psi(this, everything)[0])
            excess = value / limit if limit else 0.0
            is_drift = excess > (1.0 if again else rule.far)
            line |= {"psi": value, "drifted": is_drift, **_description(old, new)}
            line |= {} if usual is None else {"usual": usual.median, "p_value": usual.p_value(value)}
        again = excess > 1
        lines.append(line)
    return lines


def _pairs(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """The cycle and value of the rows to which a feature applies; booleans as numbers."""
    column = pl.col(name)
    pairs = rows.select(CYCLE, column)
    if pairs.schema[name].is_float():
        return pairs.filter(column.is_not_nan() | column.is_null()).with_columns(column.cast(pl.Float64))
    if pairs.schema[name] == pl.String:
        return pairs
    return pairs.with_columns(column.cast(pl.Float64))


def _among_themselves(rows: pl.DataFrame, place: NDArray[np.int64], bins: int) -> tuple[Counts, int]:
    """The PSI of each cycle against all others, in order of time, and the number of cycles.

    Cycles with less than half the rows of the median cycle are left out: with few rows, the PSI is high by chance.
    """
    cycle = rows[CYCLE].rank("dense").to_numpy().astype(np.int64) - 1
    number = int(cycle.max()) + 1
    counts = np.bincount(cycle * bins + place, minlength=number * bins).reshape(number, bins).astype(float)
    sizes = counts.sum(axis=1)
    full = sizes >= np.median(sizes) / 2
    return psi(counts, counts.sum(axis=0) - counts)[full], int(full.sum())


def _of_few_rows(reference: Counts, rows: int, few: int) -> float:
    """The PSI of `rows` rows that are spread like the reference, except for `few` of them, which are in its rarest bin."""
    few = min(few, rows)
    counts = reference / reference.sum() * (rows - few)
    counts[0, reference[0].argmin()] += few
    return float(psi(counts, reference)[0])


def _description(old: pl.Series, new: pl.Series) -> dict[str, float | None]:
    """The other figures of a line: distance, means, and shares of missing and unseen values. `old` is sorted."""
    facts: dict[str, float | None] = {
        "missing_before": old.null_count() / len(old),
        "missing_now": new.null_count() / len(new),
    }
    a, b = old.drop_nulls(), new.drop_nulls()
    if a.is_empty() or b.is_empty():
        return facts
    if a.dtype == pl.String:
        shares = [one.value_counts(normalize=True, name="share").sort(a.name) for one in (a, b)]
        both = (
            shares[0]
            .join(shares[1], on=a.name, how="full", suffix="_now", maintain_order="left_right")
            .fill_null(0.0)
        )
        distance = np.abs(both["share"].to_numpy() - both["share_now"].to_numpy()).sum() / 2
        unseen = ~b.is_in(a.unique().implode()).to_numpy()
        return facts | {"distance": float(distance), "unseen": float(np.mean(unseen))}
    x, y = a.to_numpy(), b.sort().to_numpy()
    return facts | {
        "distance": _distance(x, y),
        "unseen": float(np.mean((y < x[0]) | (y > x[-1]))),
        "mean_before": float(np.mean(x)),
        "mean_now": float(np.mean(y)),
    }


def _distance(x: Counts, y: Counts) -> float:
    """The greatest difference between the distribution functions of sorted `x` and `y`, at the values of `y`."""
    sides: tuple[Literal["left"], Literal["right"]] = ("left", "right")
    shares = [[np.searchsorted(one, y, side=side) / len(one) for one in (x, y)] for side in sides]
    return float(max(np.abs(a - b).max() for a, b in shares))


@dataclass(frozen=True)
class _Bins:
    """The bins of a feature: the first is for missing values, the others for numbers by `edges` or text by `names`.

    A bin of numbers includes its lower edge. Text that is not in `names` is in the last bin.
    """

    edges: Counts
    names: pl.DataFrame | None = None

    @classmethod
    def of(cls, values: pl.Series, rows: float, most: int) -> "_Bins":
        """The bins for a reference of `values`, in cycles of about `rows` rows.

        Bins of numbers end at quantiles, so that they hold about the same number of rows. The outermost hundredth
        on either side is a separate bin if there are enough rows, and so is a value that many rows share.
        """
        present = values.drop_nulls()
        if values.dtype == pl.String:
            common = present.value_counts().sort("count", values.name, descending=[True, False])
            names = common.head(_CATEGORIES).select(values.name).with_row_index("bin", offset=1)
            return cls(np.empty(0), names)
        inner = int(np.clip(rows / _ROWS_PER_BIN, 2, most))
        levels = [i / inner for i in range(1, inner)]
        levels += [_TAIL, 1 - _TAIL] if len(present) * _TAIL >= _FEWEST_IN_TAIL else []
        quantiles = (
            np.quantile(present.to_numpy(), sorted(levels), method="lower") if len(present) else np.empty(0)
        )
        edges, times = np.unique(quantiles, return_counts=True)
        own = edges[times > 1]
        return cls(np.unique(np.concatenate([edges, own, np.nextafter(own, np.inf)])))

    @property
    def number(self) -> int:
        return (len(self.edges) if self.names is None else self.names.height) + 2

    def of_each(self, values: pl.Series) -> NDArray[np.int64]:
        """The bin of each value."""
        if self.names is None:
            place = np.searchsorted(self.edges, values.fill_null(0.0).to_numpy(), side="right") + 1
        else:
            matches = values.to_frame().join(self.names, on=values.name, how="left", maintain_order="left")
            place = matches["bin"].fill_null(self.number - 1).to_numpy().astype(np.int64)
        return np.where(values.is_null().to_numpy(), 0, place).astype(np.int64)
