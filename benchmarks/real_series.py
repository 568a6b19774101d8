"""Anomaly detection on real series with labelled anomalies, compared with a windowed Gaussian and an isolation forest.

Every method learns from the first part of a series and judges the rest. Numenta's series and spacecraft telemetry have
one sensor each; the chemical plant's runs have 52, and its faults begin at a known row.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

from benchmarks.pump import t2_and_q
from models.devices import new_normal
from models.devices.alarms import REMEMBERED, alarming, past_alarms
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.evaluation import trained_model
from models.devices.incidents import INCIDENTS, incidents
from models.devices.options import Options
from models.devices.rows import SCORES
from models.devices.scoring import score_span
from models.scenario import Scores

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
LEARNT_SHARE = 0.15
"""The share of Numenta's series to learn from, as in its benchmark."""
ALPHA = 0.001
PLANT = "chemical plant"
_WINDOW = timedelta(days=1)
_NOTHING = pl.DataFrame()


@dataclass(frozen=True)
class Series:
    """Readings (device, tag, time, mean) of one device; those before `until` are for training; `windows` are anomalous."""

    device: str
    readings: pl.DataFrame
    interval: str
    until: datetime
    windows: list[tuple[datetime, datetime]]
    timezone: str = "UTC"


def folder() -> Path:
    """The folder of the real data: `$ALMANAC_TEST_DATA`, or `../shared/data`."""
    return Path(os.environ.get("ALMANAC_TEST_DATA", "../shared/data")) / "anomalies"


def real_sets() -> dict[str, Callable[[], Iterator[Series]]]:
    """The sets by name; only those whose data exists."""
    sets = {"traffic and tweets": _numenta, "spacecraft": _spacecraft, PLANT: _plant}
    return sets if folder().is_dir() else {}


def _numenta() -> Iterator[Series]:
    every = pl.read_parquet(folder() / "nab_traffic_tweets.parquet")
    for (device,), rows in every.group_by("device", maintain_order=True):
        time = pl.col("time").dt.truncate("5m").dt.replace_time_zone("UTC").alias("time")
        points = rows.group_by(time).agg(pl.col("value").mean(), pl.col("in_window").max()).sort("time")
        yield _series(str(device), points, "5m", int(LEARNT_SHARE * points.height))


def _spacecraft() -> Iterator[Series]:
    every = pl.read_parquet(folder() / "smap.parquet")
    for (device,), rows in every.group_by("channel", maintain_order=True):
        steps = rows.sort("part", "row", descending=[True, False]).with_columns(_minutes(1))
        points = steps.select("time", pl.col("value").cast(pl.Float64), pl.col("anomaly").alias("in_window"))
        yield _series(str(device), points, "1m", rows.filter(part="train").height)


def _plant() -> Iterator[Series]:
    every = pl.read_parquet(folder() / "tennessee_eastman.parquet")
    past = every.filter(run="d00")
    for (run,), rows in every.filter(pl.col("run") != "d00").group_by("run", maintain_order=True):
        both = pl.concat([past, rows.sort("row")]).with_columns(_minutes(3))
        points = both.select("time", pl.col("^x.*$").cast(pl.Float64), pl.col("fault").alias("in_window"))
        yield _series(str(run), points, "3m", past.height)


def _minutes(step: int) -> pl.Expr:
    return (
        (START + pl.int_range(pl.len()) * timedelta(minutes=step))
        .cast(pl.Datetime("us", "UTC"))
        .alias("time")
    )


def _series(device: str, rows: pl.DataFrame, interval: str, size: int) -> Series:
    """The complete hours of `rows`, which have time, a column for each tag, and `in_window`."""
    step = Options.of({"interval": interval}).step
    last = rows["time"][-1] + step
    rows = rows.filter(pl.col("time") < last.replace(minute=0))
    inside = rows["in_window"].cast(pl.Int8).to_numpy() > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    times = rows["time"].to_list()
    windows = [(times[a], times[b - 1] + step) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    readings = rows.drop("in_window").unpivot(index="time", variable_name="tag", value_name="mean")
    readings = readings.select(
        pl.lit(device).alias("device"), "tag", "time", "mean", pl.lit(0).alias("shard")
    )
    until = times[size].replace(minute=0, second=0)
    return Series(device, readings, interval, until, [w for w in windows if w[0] >= until])


def judged(series: Series) -> pl.DataFrame:
    """The rows that the scenario publishes for all hours after the learnt ones."""
    options = Options.of({"interval": series.interval, "timezone": series.timezone, "alpha": ALPHA})
    readings, first = series.readings.lazy(), series.readings["time"].min()
    assert isinstance(first, datetime)
    model = trained_model(
        readings.filter(pl.col("time") < series.until), first.replace(minute=0), series.until, options
    )
    keys = series.readings.select(*KEY).unique()
    several = keys.group_by("device").len().filter(pl.col("len") > 1)
    keys = pl.concat([keys, several.select("device", pl.lit(JOINT_TAG).alias("tag"))])
    last = series.readings["time"].max()
    assert isinstance(last, datetime)
    before = series.until - new_normal.memory_of(options.hold_hours, options.step)
    raw = score_span(model, readings, keys, before, last.replace(minute=0) + HOUR, options)
    after = raw.rows.filter(pl.col("time") >= series.until)

    def scorer(by: Any, some: pl.DataFrame, start: datetime, end: datetime) -> Scores:
        if by is not model:
            return score_span(by, readings, some, start, end, options)
        return Scores(raw.rows.filter(pl.col("time") >= start, pl.col("time") < end), raw.keys)

    hours = []
    for (hour,), rows in after.group_by(pl.col("time").dt.truncate("1h"), maintain_order=True):
        assert isinstance(hour, datetime)
        scores = Scores(rows, raw.keys)
        hours.append(
            new_normal.with_new_normal(
                scores, readings, _NOTHING, hour, hour + HOUR, options, scorer, model
            ).rows
        )
    return pl.concat(hours).sort(*KEY, "time")


def with_alarms(
    rows: pl.DataFrame, interval: str, alarms_per_day: float | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`rows` of all hours with `is_alarm`: whether their sensor is in an alarm; and the new alarms (`INCIDENTS`)."""
    step = Options.of({"interval": interval}).step
    past, previous, new, hours = pl.DataFrame(schema=INCIDENTS), None, [], []
    for (hour,), part in rows.sort("time").group_by(pl.col("time").dt.truncate("1h"), maintain_order=True):
        assert isinstance(hour, datetime)
        calls = part.filter("is_anomaly").select(list(SCORES))
        alarms = past_alarms(past.filter(pl.col("end") > hour - REMEMBERED), _NOTHING, step)
        keys = alarming(part.lazy(), alarms_per_day, past=alarms) if calls.height else calls.select(KEY)
        previous = incidents(calls, previous, hour + HOUR, step, keys)
        new.append(previous.filter("is_new_alarm"))
        past = pl.concat([past, previous.filter("is_alarm")]).unique(
            "incident", keep="last", maintain_order=True
        )
        current = previous.filter("is_alarm", pl.col("end") > hour).explode("tags", empty_as_null=False)
        marks = current.select("device", pl.col("tags").alias("tag"), is_alarm=True).unique()
        hours.append(
            part.join(marks, on=list(KEY), how="left").with_columns(pl.col("is_alarm").fill_null(False))
        )
    return pl.concat(hours).sort(*KEY, "time"), pl.concat(new)


def windowed_gaussian(series: Series) -> pl.DataFrame:
    """A reading's p-value under a normal distribution of the day before it."""
    window = _WINDOW // Options.of({"interval": series.interval}).step
    readings = series.readings.sort("tag", "time")
    before = pl.col("mean").shift(1)
    mean, std = (
        getattr(before, f"rolling_{name}")(window, min_samples=20).over("tag") for name in ("mean", "std")
    )
    scores = readings.with_columns(((pl.col("mean") - mean).abs() / (std + 1e-9)).fill_null(0.0).alias("z"))
    return _baseline(series, scores, NormalDist().inv_cdf(1 - 0.01 / 2), NormalDist().inv_cdf(1 - ALPHA / 2))


def isolation_forest(series: Series) -> pl.DataFrame:
    """scikit-learn's forest on each sensor's values; calls are above the 1 - alpha quantile of its past scores."""
    from sklearn.ensemble import IsolationForest

    parts = []
    for _, rows in series.readings.drop_nulls().group_by("tag", maintain_order=True):
        past = rows.filter(pl.col("time") < series.until)["mean"].to_numpy()[:, None]
        forest = IsolationForest(random_state=7, n_jobs=1).fit(past)
        score, usual = -forest.score_samples(rows["mean"].to_numpy()[:, None]), -forest.score_samples(past)
        low, high = np.quantile(usual, [1 - 0.01, 1 - ALPHA])
        parts.append(rows.with_columns(z=np.where(score > high, 2.0, np.where(score > low, 1.0, 0.0))))
    return _baseline(series, pl.concat(parts), 0.5, 1.5)


def _baseline(series: Series, rows: pl.DataFrame, low: float, high: float) -> pl.DataFrame:
    p = pl.when(pl.col("z") > high).then(ALPHA).when(pl.col("z") > low).then(0.01).otherwise(1.0)
    calls = rows.filter(pl.col("time") >= series.until).with_columns(
        p.alias("p_value"), pl.lit(0.0).alias("value")
    )
    return calls.with_columns(
        (pl.col("p_value") <= ALPHA).alias("is_anomaly"), pl.lit(value=True).alias("is_alarm")
    )


def figures(every: list[tuple[Series, pl.DataFrame]]) -> list[dict[str, Any]]:
    """Figures of the called readings, and of those in an alarm: false alarms in normal time, and detections."""
    shares = [_normal(series, rows) for series, rows in every]
    readings = sum(n for n, _, _ in shares)
    days = sum(_days(series, rows) for series, rows in every)
    lines = []
    for name, alarm in (("called", False), ("alarms", True)):
        results = [
            _found(series, rows.filter("is_anomaly", pl.col("is_alarm") | (not alarm)))
            for series, rows in every
        ]
        windows = sum(len(series.windows) for series, _ in every)
        delays = [delay for one in results for delay in one["delays"]]
        lines.append(
            {
                "what": name,
                "normal at 0.01": f"{sum(a for _, a, _ in shares) / readings:.2%}",
                "at 0.001": f"{sum(b for _, _, b in shares) / readings:.3%}",
                "false alarms a device and day": sum(one["false"] for one in results) / days,
                "found": f"{len(delays)} of {windows}",
                "delay, h": float(np.median(delays)) if delays else None,
                "hours in alarm": f"{sum(one['hours'] for one in results):,} of {24 * days:,.0f}",
            }
        )
    return lines


def _days(series: Series, rows: pl.DataFrame) -> float:
    last = rows["time"].max()
    assert isinstance(last, datetime)
    return (last - series.until) / timedelta(days=1)


def _normal(series: Series, rows: pl.DataFrame) -> tuple[int, int, int]:
    inside = pl.any_horizontal(
        pl.lit(value=False), *(pl.col("time").is_between(a, b, closed="left") for a, b in series.windows)
    )
    p = rows.filter(~inside, pl.col("value").is_not_null(), pl.col("p_value").is_not_null())["p_value"]
    return len(p), int((p <= 0.01).sum()), int((p <= ALPHA).sum())


def _found(series: Series, calls: pl.DataFrame) -> dict[str, Any]:
    """An alarm begins at a call without another one in the hour before; one that begins outside all windows is false."""
    times = calls["time"].unique().sort().to_list()
    begins = [
        t for t, before in zip(times, [None, *times], strict=False) if before is None or t - before > HOUR
    ]
    inside = [t for t in begins if any(a <= t < b for a, b in series.windows)]
    first = [next((t for t in times if a <= t < b), None) for a, b in series.windows]
    delays = [(t - a) / HOUR for t, (a, _) in zip(first, series.windows, strict=True) if t is not None]
    return {
        "false": len(begins) - len(inside),
        "delays": delays,
        "hours": len({t.replace(minute=0) for t in times}),
    }


METHODS: dict[str, Callable[[Series], pl.DataFrame]] = {
    "here": lambda series: with_alarms(judged(series), series.interval)[0],
    "windowed Gaussian": windowed_gaussian,
    "isolation forest": isolation_forest,
}


def judgements(name: str) -> dict[str, list[tuple[Series, pl.DataFrame]]]:
    """The judgements of each method on each series of the set `name` of `real_sets`."""
    every = [*real_sets()[name]()]
    return {method: [(series, judge(series)) for series in every] for method, judge in METHODS.items()}


def compared(name: str, by_method: dict[str, list[tuple[Series, pl.DataFrame]]]) -> list[dict[str, Any]]:
    """A line for each method; two for the scenario: its calls, and its alarms.

    The windowed Gaussian has two more lines: at twice the false alarms of our calls, and at as many as our alarms have.
    """
    lines = []
    for method, every in by_method.items():
        results = figures(every)
        lines += [
            {"set": name, "method": method, **line} for line in (results if method == "here" else results[:1])
        ]
    calls, alarms = (line["false alarms a device and day"] for line in lines[:2])
    for what, at_most in (("at twice the false alarms", 2 * calls), ("at those of alarms", alarms)):
        line = _as_rarely(by_method["windowed Gaussian"], at_most)
        lines.append({"set": name, "method": "windowed Gaussian", **line, "what": what})
    return lines


def _as_rarely(every: list[tuple[Series, pl.DataFrame]], at_most: float) -> dict[str, Any]:
    """A baseline's figures at the lowest limit of its `z` with at most `at_most` false alarms a device and day."""

    def line(limit: float) -> dict[str, Any]:
        return figures([(s, rows.with_columns(is_anomaly=pl.col("z") > limit)) for s, rows in every])[0]

    limits = np.geomspace(1, 1000, 100)
    first = bisect_left(
        limits, True, key=lambda limit: line(limit)["false alarms a device and day"] <= at_most
    )
    return line(limits[min(first, len(limits) - 1)]) | {"normal at 0.01": "", "at 0.001": ""}


IN_A_ROW, COMPONENTS = 6, 11


def delays(by_method: dict[str, list[tuple[Series, pl.DataFrame]]]) -> list[dict[str, Any]]:
    """Minutes from the beginning of each fault of the plant to its detection, and the share of normal rows called.

    As in Chiang, Russell & Braatz (2001), Fault Detection and Diagnosis in Industrial Systems: at the first of six
    consecutive called rows; T² and Q of 11 principal components call above the value that 1 % of the normal run
    exceeds. Our joint detector calls a row at 0.01, the baselines where any sensor is below 0.001. The
    alarms of the default budget, which is far smaller, count from their first row.
    """
    here = by_method["here"]
    calls_by_method = {
        "joint, 0.01": [(s, rows.filter(_JOINT, pl.col("p_value") <= 0.01)) for s, rows in here]
    }
    calls_by_method |= {"alarms": [(s, rows.filter("is_alarm", "is_anomaly")) for s, rows in here]}
    calls_by_method |= {"T²": _principal(here, 0), "Q": _principal(here, 1)}
    for name, every in by_method.items():
        if name != "here":
            calls_by_method[name] = [(series, rows.filter("is_anomaly")) for series, rows in every]
    lines = []
    for method, every in calls_by_method.items():
        line: dict[str, Any] = {"method": method}
        for series, calls in every:
            rows = series.readings.filter(pl.col("time") >= series.until)["time"].unique().sort()
            marks = rows.is_in(calls["time"].implode())
            if not series.windows:
                line["normal rows"] = f"{marks.sum() / len(marks):.1%}"
                continue
            lasting = marks if method == "alarms" else _lasting(marks)
            begin = series.windows[0][0]
            first = next(iter(rows.filter(lasting & (rows >= begin))), None)
            line[series.device[1:3]] = None if first is None else (first - begin) // timedelta(minutes=1)
        lines.append(line)
    return lines


_JOINT = pl.col("tag") == JOINT_TAG


def _lasting(marks: pl.Series) -> pl.Series:
    """Marks that begin `IN_A_ROW` consecutive ones."""
    ahead = marks.cast(pl.Int64).reverse().rolling_sum(IN_A_ROW).reverse()
    return (ahead == IN_A_ROW).fill_null(value=False)


def _principal(every: list[tuple[Series, pl.DataFrame]], which: int) -> list[tuple[Series, pl.DataFrame]]:
    """The rows above the limit of T² (0) or Q (1), which the normal run sets."""
    distances = []
    for series, _ in every:
        wide = series.readings.pivot("tag", index="time", values="mean").sort("time")
        size = int((wide["time"] < series.until).sum())
        far = t2_and_q(wide.drop("time").to_numpy(), size, COMPONENTS)[which]
        distances.append(wide.select("time").with_columns(far=far)[size:])
    normal = next(far for (series, _), far in zip(every, distances, strict=True) if not series.windows)
    limit = normal["far"].quantile(0.99)
    return [
        (series, far.filter(pl.col("far") > limit)) for (series, _), far in zip(every, distances, strict=True)
    ]
