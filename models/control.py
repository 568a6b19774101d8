"""Control charts: is a measure worse now than chance would explain?

A point is the measure of published rows over a week or a day; the points before the first published one
are those of the backtest. Its limits are those of a prediction interval for one more point like the
`BASELINE` ones before it, on the square-root scale, which steadies the variance of counts and of skewed
ratios (Bartlett 1936, JRSS Supplement 3)::

    mean +- t(1 - alpha, n - 1) * s * sqrt(1 + 1/n)

Unlike the three sigma of a Shewhart chart for individuals, they are also valid for few points: if points
are identically distributed and independent, one in 1 / `FALSE_ALARMS` is beyond a watched limit, however small n
is (Hahn & Meeker 1991, Statistical Intervals, chapter 4). Seasonal or autocorrelated points are beyond them more often.

A point beyond a watched limit is `degraded`. It is left out of the baseline of later points, unless fewer than
`FEWEST` remain: a lasting degradation eventually becomes the new normal. A published point with less than half
as many rows as the published ones before it, such as the point of the current day, is `incomplete`: it is not
judged, and not part of any baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import polars as pl

from models.scenario import ControlChart

BASELINE, FEWEST = 26, 4
FALSE_ALARMS = 0.001
_SAME = 1e-9
BACKTEST, PUBLISHED = "backtest", "published"
CONTROL: dict[str, Any] = {
    "chart": pl.String,
    "series": pl.String,
    "period": pl.Date,
    "source": pl.String,
    "value": pl.Float64,
    "rows": pl.Int64,
    "centre": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "baseline": pl.Int64,
    "verdict": pl.String,
}
"""The points of control charts. `source`: `backtest` or `published`. `baseline`: the number of points that centre and
limits come from; null without limits. `verdict`: `as expected`, `degraded`, `improved` (beyond the limit that is not
watched), `incomplete`, or `unknown` (no limits yet, or a point of the backtest)."""


@dataclass(frozen=True)
class Limits:
    """Centre and limits for one more point, in the units of the measure, and the number of points behind them."""

    low: float
    centre: float
    high: float
    baseline: int


def limits(values: Sequence[float], tail: float = FALSE_ALARMS) -> Limits | None:
    """The two limits beyond each of which the next value lies with probability `tail`; None if they are undefined.

    They are undefined for fewer than `FEWEST` values and for equal values. Values must not be negative.

    >>> found = limits([0.25, 0.16, 0.25, 0.36])
    >>> round(found.centre, 2), found.baseline
    (0.25, 4)
    """
    if len(values) < FEWEST:
        return None
    from scipy.stats import t

    roots = [sqrt(value) for value in values]
    n, mean = len(roots), sum(roots) / len(roots)
    deviation = sqrt(sum((root - mean) ** 2 for root in roots) / (n - 1))
    if deviation <= _SAME * mean:
        return None
    half = float(t.ppf(1 - tail, n - 1)) * deviation * sqrt(1 + 1 / n)
    return Limits(max(mean - half, 0.0) ** 2, mean**2, (mean + half) ** 2, n)


def points(tallies: pl.DataFrame, backtest: pl.DataFrame, charts: Mapping[str, ControlChart]) -> pl.DataFrame:
    """The points of `charts` with their limits and verdicts, sorted by chart, series and period; see `CONTROL`.

    `tallies` of published rows and of the `backtest` (`models.scenario.TALLIES`) are of any number of `as_of`s; the
    backtest counts up to the first published point. Limits depend only on earlier points.
    """
    place = ["chart", "series", "period"]
    sums_by_source = []
    for source, frame in ((BACKTEST, backtest), (PUBLISHED, tallies)):
        sums = frame.group_by(place).agg(pl.col("numerator", "denominator", "rows").sum())
        valid = sums.filter(pl.col("denominator") > 0, pl.col("chart").is_in(list(charts)))
        sums_by_source.append(valid.with_columns(pl.lit(source).alias("source")))
    first = sums_by_source[1].group_by("chart", "series").agg(pl.col("period").min().alias("first"))
    before = (
        sums_by_source[0]
        .join(first, on=["chart", "series"])
        .filter(pl.col("period") < pl.col("first"))
        .drop("first")
    )
    every = pl.concat([before, sums_by_source[1]]).sort(place)
    rows: list[dict[str, Any]] = []
    for (chart, _), series in every.group_by("chart", "series", maintain_order=True):
        rows += _points_of(series, charts[str(chart)])
    return pl.DataFrame(rows, schema=CONTROL).sort(place)


def _points_of(series: pl.DataFrame, chart: ControlChart) -> list[dict[str, Any]]:
    """The points of one series, oldest first, each judged by the points before it."""
    points: list[dict[str, Any]] = []
    for row in series.iter_rows(named=True):
        value = row["numerator"] / row["denominator"]
        point = {name: row[name] for name in ("chart", "series", "period", "source", "rows")} | {
            "value": value
        }
        complete = [one for one in points if one["verdict"] != "incomplete"]
        tail = FALSE_ALARMS if chart.worse == "above" else FALSE_ALARMS / 2
        bounds = limits(_baseline(complete), tail) if row["source"] == PUBLISHED else None
        if bounds:
            point |= {
                "low": bounds.low,
                "centre": bounds.centre,
                "high": bounds.high,
                "baseline": bounds.baseline,
            }
        points.append(point | {"verdict": _verdict(point, bounds, complete, chart)})
    return points


def _baseline(points: Sequence[Mapping[str, Any]]) -> list[float]:
    recent = points[-BASELINE:]
    fine = [point["value"] for point in recent if point["verdict"] != "degraded"]
    return fine if len(fine) >= FEWEST else [point["value"] for point in recent]


def _verdict(
    point: Mapping[str, Any], bounds: Limits | None, before: Sequence[Mapping[str, Any]], chart: ControlChart
) -> str:
    usual = sorted(one["rows"] for one in before[-BASELINE:] if one["source"] == PUBLISHED)
    if point["source"] == PUBLISHED and usual and point["rows"] < usual[len(usual) // 2] / 2:
        return "incomplete"
    if bounds is None:
        return "unknown"
    if point["value"] > bounds.high:
        return "degraded"
    if point["value"] < bounds.low:
        return "degraded" if chart.worse == "either side" else "improved"
    return "as expected"


def newest(control: pl.DataFrame) -> pl.DataFrame:
    """The newest judged published point of each series."""
    rows = control.filter(pl.col("source") == PUBLISHED, pl.col("verdict") != "incomplete")
    return rows.sort("period").group_by("chart", "series", maintain_order=True).last().sort("chart", "series")
