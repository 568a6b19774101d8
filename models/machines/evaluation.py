"""Measures of how well probabilities of failure matched the outcomes.

A judged row is one machine, component, time and horizon: `probability`, `threshold`,
`above_threshold` (the alarm), `failed` (null while pending: the horizon ends after the observed time),
`next_failure_hours`, `under_work`. Measures over all components pool their rows
(micro average): a row is a true positive if that very component fails within the horizon.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.machines import costs
from models.machines.features import under_work
from models.machines.labels import (
    OBSERVED,
    fails_within,
    failure_time,
    has_component,
    next_failure_column,
)
from models.machines.options import Options
from models.machines.risks import Model, Risk
from models.metrics import SCHEMA

JUDGED: dict[str, Any] = {
    "machine_id": pl.String,
    "component": pl.String,
    "horizon_hours": pl.Int32,
    "time": pl.Datetime("us", "UTC"),
    "probability": pl.Float64,
    "threshold": pl.Float64,
    "above_threshold": pl.Boolean,
    "failed": pl.Boolean,
    "next_failure_hours": pl.Float64,
    "under_work": pl.Boolean,
    "rung": pl.String,
}
"""Columns of judged rows."""

_BINS = 10
_FLOOR = 1e-4
_DRAWS, _INTERVAL = 400, (0.1, 0.9)


def judge(model: Model, rows: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Judged rows of every risk of `model`, pending ones included; `rows` are features with outcomes.

    Without a model, the probability and the alarm are null.
    """
    probabilities = model.predict(model.matrix(rows))
    parts = [
        judged_rows(
            rows, risk, probabilities[risk.component, risk.horizon_hours], risk.threshold(options), options
        )
        for risk in model.risks
        if next_failure_column(risk.component) in rows.columns
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=JUDGED)


def judged_rows(
    rows: pl.DataFrame, risk: Risk, probability: NDArray[np.float64], threshold: float, options: Options
) -> pl.DataFrame:
    """Judged rows of one risk; NaN probabilities become null.

    There is no alarm while the component is under work. Machines without the component have no row.
    """
    value = pl.Series("probability", probability, dtype=pl.Float64).fill_nan(None)
    component, horizon_hours = risk.component, risk.horizon_hours
    is_under_work = under_work(component, options)
    return rows.select(
        "machine_id",
        pl.lit(component).alias("component"),
        pl.lit(horizon_hours, dtype=pl.Int32).alias("horizon_hours"),
        "time",
        value,
        pl.lit(threshold).alias("threshold"),
        ((value >= threshold) & ~is_under_work).alias("above_threshold"),
        fails_within(component, horizon_hours).alias("failed"),
        pl.col(next_failure_column(component)).alias("next_failure_hours"),
        is_under_work.alias("under_work"),
        pl.lit(risk.rung).alias("rung"),
    ).filter(rows.select(has_component(component)).to_series())


def coherent(rows: pl.DataFrame) -> pl.DataFrame:
    """Judged rows whose probability is at least that of each shorter horizon, as in `Model.predict`."""
    order = ["horizon_hours", "component", "machine_id", "time"]
    least = pl.col("probability").cum_max().over("component", "machine_id", "time")
    return (
        rows.sort(order)
        .with_columns(least)
        .with_columns(
            ((pl.col("probability") >= pl.col("threshold")) & ~pl.col("under_work")).alias("above_threshold")
        )
    )


def measures(rows: pl.DataFrame, options: Options) -> dict[str, float]:
    """Measures of judged `rows` of one horizon that are not pending.

    `rows`, `failing_rows`; at the threshold `precision`, `recall`, `f1`; `average_precision`;
    `calibration_error`; `brier`; `log_loss`; `failures` and how many of them were `warned` (an alarm within the
    horizon before), `warned_early` (before an alarm of the next shorter horizon was possible), `lead_hours` (median
    time from the first such alarm to the failure); and the savings `saved_to_never` and `saved_to_every_n_days`, each with
    the 80 % interval from `_low` to `_high`. A measure that is not defined is left out.
    A row without a model counts as no alarm, and as a probability close to 0.
    """
    final_rows = rows.filter(pl.col("failed").is_not_null())
    if final_rows.is_empty():
        return {}
    probability = final_rows["probability"].fill_null(0.0).to_numpy()
    is_failure = final_rows["failed"].to_numpy().astype(bool)
    alarm = final_rows["above_threshold"].fill_null(value=False).to_numpy().astype(bool)
    hits = int((alarm & is_failure).sum())
    result = {"rows": float(len(is_failure)), "failing_rows": float(is_failure.sum())}
    if alarm.any():
        result["precision"] = hits / int(alarm.sum())
    if is_failure.any():
        result["recall"] = hits / int(is_failure.sum())
        result["f1"] = 2 * hits / int(alarm.sum() + is_failure.sum())
        result["average_precision"] = average_precision(probability, is_failure)
    result["calibration_error"] = calibration_error(probability, is_failure)
    result["brier"] = float(((probability - is_failure) ** 2).mean())
    result["log_loss"] = _log_loss(probability, is_failure)
    return result | _warnings(final_rows, options) | _savings(final_rows, options)


def metrics(rows: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Long: slice, value_of_slice, metric, value. Slices `horizon`, `component_<h>h`, `any_component`, `first`, `life`.

    `any_component` joins a machine's components into one row: the chance that some component fails (assumed
    independent), and whether one did. `first` judges the machines to look at first, see `first_looked_at`, and
    `life` the remaining lives of each component and of all, see `life_measures`.
    """
    parts = []
    for hours in sorted(rows["horizon_hours"].unique()):
        of = rows.filter(pl.col("horizon_hours") == hours)
        parts.append(_long("horizon", f"{hours}h", measures(of, options)))
        for component in sorted(of["component"].unique()):
            one = of.filter(pl.col("component") == component)
            parts.append(_long(f"component_{hours}h", component, measures(one, options)))
        parts.append(_long("any_component", f"{hours}h", _any_component(of)))
        parts.append(_long("first", f"{hours}h", first_looked_at(of, options.machines_per_day)))
    parts += [_long("life", name, results) for name, results in _lives(rows).items()]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *parts])


def average_precision(probability: NDArray[np.float64], is_failure: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps: precision at each distinct probability times the recall it adds.

    >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.8333333333333333
    """
    precision, recall, _ = precision_recall(probability, is_failure)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def precision_recall(
    probability: NDArray[np.float64], is_failure: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and threshold at each distinct probability, in falling order."""
    order = np.argsort(-probability, kind="stable")
    sorted_p = probability[order]
    hits = np.cumsum(is_failure[order])
    last = np.flatnonzero(np.diff(sorted_p, append=-np.inf))
    return hits[last] / (last + 1), hits[last] / max(int(is_failure.sum()), 1), sorted_p[last]


def calibration_error(probability: NDArray[np.float64], is_failure: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten bins of equal width: |mean probability - share failed|, by rows.

    Naeini, Cooper & Hauskrecht (2015), AAAI: "Obtaining well calibrated probabilities".
    """
    table = reliability(probability, is_failure)
    off = (table["probability"] - table["share"]).abs().to_numpy()
    return float(np.average(off, weights=table["rows"].to_numpy())) if table.height else 0.0


def reliability(probability: NDArray[np.float64], is_failure: NDArray[np.bool_]) -> pl.DataFrame:
    """Per bin of equal width that has rows: mean `probability`, `share` that failed, `rows`."""
    which = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    frame = pl.DataFrame({"bin": which, "probability": probability, "failed": is_failure})
    return (
        frame.group_by("bin", maintain_order=True)
        .agg(pl.col("probability").mean(), pl.col("failed").mean().alias("share"), pl.len().alias("rows"))
        .sort("bin")
    )


def log_loss(rows: pl.DataFrame) -> float | None:
    """Mean log loss of judged rows that are not pending, with equal weight for each horizon; lower is better."""
    parts = []
    for _, of in rows.filter(pl.col("failed").is_not_null()).group_by("horizon_hours"):
        parts.append(_log_loss(of["probability"].fill_null(0.0).to_numpy(), of["failed"].to_numpy()))
    return sum(sorted(parts)) / len(parts) if parts else None


def _log_loss(probability: NDArray[np.float64], is_failure: NDArray[np.bool_]) -> float:
    p = np.clip(probability, _FLOOR, 1 - _FLOOR)
    return float(-np.where(is_failure, np.log(p), np.log1p(-p)).mean())


def failures_of(rows: pl.DataFrame) -> pl.DataFrame:
    """The failures within the horizon of judged rows: machine_id, component, time, one row each."""
    return (
        rows.filter("failed")
        .select(*costs.COMPONENT, failure_time(pl.col("next_failure_hours")).alias("time"))
        .unique()
        .sort(*costs.COMPONENT, "time")
    )


def _warnings(rows: pl.DataFrame, options: Options) -> dict[str, float]:
    failures = failures_of(rows).height
    if not failures:
        return {"failures": 0.0}
    first = (
        rows.filter("failed", "above_threshold")
        .group_by(*costs.COMPONENT, failure_time(pl.col("next_failure_hours")).alias("failed_at"))
        .agg(pl.col("next_failure_hours").max())
    )["next_failure_hours"]
    result = {"failures": float(failures), "warned": len(first) / failures}
    if lead := options.lead(int(rows["horizon_hours"][0])):
        result["warned_early"] = float((first > lead).sum()) / failures
    return result | ({"lead_hours": float(first.median())} if len(first) else {})  # type: ignore[arg-type]


def _savings(rows: pl.DataFrame, options: Options) -> dict[str, float]:
    """Money saved with the alarms of one horizon, compared with never inspecting and with a fixed plan.

    `_low` and `_high` enclose 80 % of the savings of bootstrap samples of the machines.
    """
    hours = int(rows["horizon_hours"][0])
    failures = failures_of(rows)
    visits = costs.every(rows, rows["time"].min(), rows["time"].max(), options.inspect_every_days)  # type: ignore[arg-type]
    alarms = costs.alarms(rows.filter("above_threshold"), hours)
    machines = rows.select(pl.col("machine_id").unique().sort())
    ours, plan, never = (
        _costs(machines, costs.counts(inspections, failures, hours), options)
        for inspections in (alarms, visits, alarms.head(0))
    )
    result: dict[str, float] = {}
    for name, savings in (("saved_to_never", never - ours), ("saved_to_every_n_days", plan - ours)):
        draws = np.random.default_rng(options.seed).multinomial(
            len(savings), np.full(len(savings), 1 / len(savings)), _DRAWS
        )
        low, high = np.quantile(draws @ savings, _INTERVAL)
        result |= {name: float(savings.sum()), f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def _costs(machines: pl.DataFrame, counts: pl.DataFrame, options: Options) -> NDArray[np.float64]:
    """The cost of each of `machines`, from `costs.counts`."""
    prices = counts.group_by("machine_id").agg(costs.cost_of_counts(options).sum().alias("cost"))
    table = machines.join(prices, on="machine_id", how="left", maintain_order="left")
    return table["cost"].fill_null(0.0).to_numpy()


def _any_component(rows: pl.DataFrame) -> dict[str, float]:
    machines = (
        rows.filter(pl.col("failed").is_not_null())
        .group_by("machine_id", "time")
        .agg(
            (1 - (1 - pl.col("probability").fill_null(0.0)).product()).alias("probability"),
            pl.col("failed").any(),
        )
        .sort("machine_id", "time")
    )
    is_failure = machines["failed"].to_numpy().astype(bool)
    if not is_failure.any():
        return {}
    p = machines["probability"].to_numpy()
    return {
        "average_precision": average_precision(p, is_failure),
        "calibration_error": calibration_error(p, is_failure),
        "failing_rows": float(is_failure.sum()),
        "rows": float(len(is_failure)),
    }


def first_looked_at(rows: pl.DataFrame, machines_per_day: int) -> dict[str, float]:
    """The quality of the list of the first `machines_per_day` machines of each day, from judged `rows` of one horizon.

    A day's list is that of its first time: machines by their most likely component that is not under work.
    `precision`: the share of the listed machines in which some component failed within the horizon; `best`: that share
    if all failing machines had come first. `machines`: the maximum number listed per day; `days`.
    """
    due = rows.filter(pl.col("failed").is_not_null())
    first = due.filter(pl.col("time") == pl.col("time").min().over(pl.col("time").dt.date()))
    each = first.group_by("time", "machine_id").agg(
        pl.col("probability").filter(~pl.col("under_work")).max(), pl.col("failed").any()
    )
    if each.is_empty():
        return {}
    ranking = each.sort("time", "probability", "machine_id", descending=[False, True, False], nulls_last=True)
    hits = pl.col("failed").head(machines_per_day).sum()
    length = pl.min_horizontal(pl.len(), machines_per_day)
    best = pl.min_horizontal(pl.col("failed").sum(), machines_per_day)
    days = ranking.group_by("time", maintain_order=True).agg(
        hits.alias("hits"), length.alias("listed"), best.alias("best")
    )
    hit, many, possible = days.select(pl.col("hits", "listed", "best").sum()).row(0)
    return {
        "precision": hit / many,
        "best": possible / many,
        "machines": float(machines_per_day),
        "days": float(days.height),
    }


def life_measures(lives: pl.DataFrame) -> dict[str, float]:
    """The quality of remaining lives, from rows that each stand for one machine, component and time.

    A life is judged once its band has passed, so the selection does not depend on how lives ended. `rmse_hours` is the
    error of the median; a component that still runs counts with its observed hours. `in_band`: the share
    that ended between the 10 % and 90 % quantiles, ideally 0.8; `band_hours`: the mean width; `rows`: their number.
    """
    low, middle, high = ("life_q10_hours", "life_q50_hours", "life_q90_hours")
    over = lives.filter(pl.col(high) <= pl.col(OBSERVED))
    if over.is_empty():
        return {}
    end_hours = pl.col("next_failure_hours")
    error = pl.coalesce(end_hours, OBSERVED) - pl.col(middle)
    inside = end_hours.is_between(low, high).fill_null(value=False)
    return over.select(
        (error**2).mean().sqrt().alias("rmse_hours"),
        inside.mean().alias("in_band"),
        (pl.col(high) - pl.col(low)).mean().alias("band_hours"),
        pl.len().cast(pl.Float64).alias("rows"),
    ).row(0, named=True)


def _lives(rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    """`life_measures` of each component, and of `all` together; judged rows of an earlier version have none."""
    if not {"life_q90_hours", OBSERVED} <= set(rows.columns):
        return {}
    each = rows.unique([*costs.COMPONENT, "time"], keep="any", maintain_order=True)
    components = sorted(each["component"].unique())
    by_component = {c: life_measures(each.filter(component=c)) for c in components}
    return by_component | {"all": life_measures(each)}


def _long(name: str, value: str, results: dict[str, float]) -> pl.DataFrame:
    rows = [(name, value, metric, number) for metric, number in results.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
