"""Scoring: the risks of some machines' components, with reasons but without ranks yet."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from models.machines.estimators import Floats, Matrix
from models.machines.explanations import reasons
from models.machines.features import build, under_work
from models.machines.lives import Life, agreeing
from models.machines.risks import BASE_RATE, MODEL, NO_MODEL, Model, Risk
from models.machines.sampling import row_count
from models.machines.service import silent_since
from models.scenario import Frames, Scores

KEY = ("machine_id", "component")
UNDER_WORK, PARTIAL, WITHOUT_TELEMETRY = "under_work", "partial_telemetry", "without_telemetry"
OUT_OF_SERVICE = "out_of_service"

RISKS: dict[str, Any] = {
    "machine_id": pl.String,
    "component": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "horizon_hours": pl.Int32,
    "probability": pl.Float64,
    "rank": pl.Int64,
    "reasons": pl.String,
    "above_threshold": pl.Boolean,
    "rung": pl.String,
    "life_q10_hours": pl.Float64,
    "life_q50_hours": pl.Float64,
    "life_q90_hours": pl.Float64,
    "life_note": pl.String,
    "threshold": pl.Float64,
}
"""The published columns, without those that publishing adds.

`probability` of failure in (time, time + horizon], null without a model; `rank`, of all rows of that time and horizon,
1 for the row to look at first, null without a model or under work; `reasons` says what raises the risk, or why there is
none; `above_threshold`: an inspection is worth its cost, from the probability `threshold` on, never under
work, null without a model. `rung`: `model`; `partial_telemetry`, a sensor is silent; `without_telemetry`;
`under_work`; `base_rate`, too few failures for a model; `no_model`; `out_of_service`, a machine whose telemetry
ended long ago or with a failure, without probability and rank.

`life_q10_hours`, `life_q50_hours`, `life_q90_hours`: quantiles of the hours from `time` to the component's next
failure, the same at all horizons, consistent with the probabilities; null if they are unknown or lie beyond the known
range, and `life_note` says why.
"""

LIFE = tuple(name for name in RISKS if name.startswith("life_"))
QUANTILE_COLUMNS = LIFE[:3]
_OLD_BUNDLE = "the bundle was trained without remaining lives: train again"


def score(
    model: Model,
    tables: Frames,
    keys: pl.DataFrame,
    first: datetime,
    as_of: datetime,
    options: Mapping[str, Any],
) -> Scores:
    """Risks of `keys` (machine_id, component) at `as_of`, or at each row time from `score_from` to it.

    A range begins at `first`, the start of telemetry, if the requested range begins earlier. A row at T
    uses nothing later than T. Every row at `as_of` has reasons, and so do other rows above the
    threshold. Ranks are null: see `with_rank`.
    """
    run_options = model.options_for(options)
    count = (
        row_count(max(run_options.score_from, first), as_of, run_options.every_hours)
        if run_options.score_from
        else 1
    )
    machines = keys["machine_id"].unique().sort().to_list()
    rows = build(tables, model.vocabulary, machines, as_of, max(count, 1), run_options)
    latest = rows["time"] == as_of
    X = model.matrix(rows)
    probabilities = model.predict(X)
    rungs = _telemetry(rows, model, tables["telemetry"])
    silent = silent_since(tables, rows, model.vocabulary.interval_hours)
    parts = [pl.DataFrame(schema=RISKS)]
    lives = {c: _life(model, c, X, probabilities) for c in keys["component"].unique()}
    for risk in _risks(model, keys["component"].unique().sort().to_list()):
        machine_ids = keys.filter(component=risk.component)["machine_id"].implode()
        place = (risk.component, risk.horizon_hours)
        risk_rows = _rows(
            risk, rows, probabilities.get(place, np.full(len(X), np.nan)), rungs, risk.threshold(run_options)
        )
        is_under_work = (
            under_work(risk.component, run_options)
            if risk.component in model.vocabulary.components
            else pl.lit(value=False)
        )
        risk_rows = _without_alarms(risk_rows, rows.select(is_under_work).to_series())
        risk_rows = risk_rows.hstack(lives[risk.component])
        mine = rows.select(pl.col("machine_id").is_in(machine_ids))["machine_id"]
        parts.append(_in_service(_with_reasons(risk_rows, mine, X, risk, model, latest), silent).filter(mine))
    published_rows = pl.concat(part.select(list(RISKS)) for part in parts).sort(*KEY, "time", "horizon_hours")
    return Scores(published_rows, _outcomes(keys, published_rows, as_of))


def with_lives(judged_rows: pl.DataFrame, model: Model, rows: pl.DataFrame) -> pl.DataFrame:
    """`judged_rows` (machine_id, component, time) with the remaining lives of `model`, from the features `rows`."""
    X = model.matrix(rows)
    probabilities = model.predict(X)
    place = rows.select("machine_id", "time")
    parts = [
        place.with_columns(component=pl.lit(c)).hstack(
            _life(model, c, X, probabilities).select(QUANTILE_COLUMNS)
        )
        for c in model.vocabulary.components
    ]
    return judged_rows.join(pl.concat(parts), on=[*KEY, "time"], how="left", maintain_order="left")


def with_rank(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Published rows of all shards with their `rank` within time and horizon: 1 has the highest probability.

    Equal probabilities are ranked by machine and component. Rows without a probability, and those under work, are
    not ranked. Sorted by machine, component, time and horizon.
    """
    counts = pl.col("probability").is_not_null() & (pl.col("rung") != UNDER_WORK)
    order = ["time", "horizon_hours", "probability", *KEY]
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("time", "horizon_hours")
    ranking = rows.filter(counts).sort(order, descending=[False, False, True, False, False])
    rest = rows.filter(~counts).with_columns(pl.lit(None, pl.Int64).alias("rank"))
    whole = pl.concat([ranking.with_columns(place.alias("rank")), rest])
    return whole.sort(*KEY, "time", "horizon_hours")


def _risks(model: Model, components: Sequence[str]) -> list[Risk]:
    """The model's risks of `components`; for an unknown component, risks with that reason."""
    horizons = sorted({risk.horizon_hours for risk in model.risks})
    strange = [c for c in components if c not in model.vocabulary.components]
    placeholders = [
        Risk(c, h, NO_MODEL, float("nan"), f"{c} was not on record when the bundle was trained")
        for c in strange
        for h in horizons
    ]
    return [risk for risk in model.risks if risk.component in components] + placeholders


def _telemetry(rows: pl.DataFrame, model: Model, telemetry: pl.LazyFrame) -> pl.DataFrame:
    """The rung that the telemetry of each row allows, and the missing telemetry in words.

    A sensor without any readings of a machine is not missing: in a fleet of several types, it is not one of its sensors.
    """
    longest = max((f.hours or 0 for f in model.features if f.kind == "sensor"), default=0)
    hours = longest or max(model.options.windows_hours)
    means = {s: f"{s}_mean_{longest}h" for s in model.vocabulary.sensors if longest}
    quiet = [s for s, mean in means.items() if rows[mean].has_nulls()]
    began = (
        telemetry.join(rows.lazy().select("machine_id").unique(), on="machine_id", how="semi")
        .group_by("machine_id")
        .agg(pl.col("time").filter(pl.col(s).is_not_null()).min().alias(f"{s}|began") for s in quiet)
    )
    rows = rows.lazy().join(began, on="machine_id", how="left", maintain_order="left").collect()
    silent = [
        pl.when(pl.col(means[s]).is_null() & (pl.col(f"{s}|began") <= pl.col("time"))).then(pl.lit(s))
        for s in quiet
    ]
    names = pl.concat_list(silent).list.drop_nulls().list.join(", ") if silent else pl.lit("")
    return rows.select(pl.col("readings"), names.alias("missing")).select(
        pl.when(pl.col("readings") == 0)
        .then(pl.lit(WITHOUT_TELEMETRY))
        .when(pl.col("missing") != "")
        .then(pl.lit(PARTIAL))
        .otherwise(pl.lit(MODEL))
        .alias("rung"),
        pl.when(pl.col("readings") == 0)
        .then(pl.lit(f"no telemetry in the last {hours} h"))
        .when(pl.col("missing") != "")
        .then(pl.format(f"no reading of {{}} in the last {hours} h", "missing"))
        .alias("lack"),
    )


def _rows(
    risk: Risk, rows: pl.DataFrame, probability: np.ndarray, telemetry: pl.DataFrame, threshold: float
) -> pl.DataFrame:
    value = pl.Series("probability", probability, dtype=pl.Float64).fill_nan(None)
    rung = telemetry["rung"] if risk.rung == MODEL else pl.lit(risk.rung)
    reason = telemetry["lack"] if risk.rung == MODEL else pl.lit(risk.reason, pl.String)
    return rows.select(
        "machine_id",
        pl.lit(risk.component).alias("component"),
        "time",
        pl.lit(risk.horizon_hours, pl.Int32).alias("horizon_hours"),
        value,
        pl.lit(None, pl.Int64).alias("rank"),
        reason.alias("reasons"),
        (value >= threshold).alias("above_threshold"),
        rung.alias("rung"),
        pl.lit(threshold, pl.Float64).alias("threshold"),
    )


def _life(
    model: Model, component: str, X: Matrix, probabilities: Mapping[tuple[str, int], Floats]
) -> pl.DataFrame:
    """The columns `LIFE` of a component, one row per row of `X`."""
    life = next((life for life in model.lives if life.component == component), Life(component, _OLD_BUNDLE))
    if life.estimator is None:
        nothing = {name: pl.Series([None] * len(X), dtype=RISKS[name]) for name in LIFE}
        return pl.DataFrame(nothing).with_columns(pl.lit(life.reason).alias("life_note"))
    risks = {hours: probability for (c, hours), probability in probabilities.items() if c == component}
    hours = agreeing(life.quantiles(X), risks)
    frame = pl.DataFrame(np.where(np.isfinite(hours), hours.round(1), np.nan), schema=LIFE[:3], orient="row")
    low, high = pl.col(LIFE[0]), pl.col(LIFE[2])
    beyond = f"{life.edges[-1]:g} h, beyond which nothing is known"
    note = pl.when(low.is_null()).then(pl.lit(f"no failure is expected within {beyond}"))
    return frame.fill_nan(None).with_columns(
        note.when(high.is_null()).then(pl.lit(f"open above {beyond}")).alias("life_note")
    )


def _without_alarms(rows: pl.DataFrame, is_under_work: pl.Series) -> pl.DataFrame:
    """`rows` without alarms for those under work; if their probability is that of a model, their rung is `under_work`."""
    is_quiet = is_under_work & rows["probability"].is_not_null()
    by_model = is_quiet & rows["rung"].is_in([MODEL, PARTIAL])
    return rows.with_columns(
        pl.when(by_model).then(pl.lit(UNDER_WORK)).otherwise("rung").alias("rung"),
        pl.when(is_quiet).then(pl.lit(value=False)).otherwise("above_threshold").alias("above_threshold"),
    )


def _in_service(rows: pl.DataFrame, silent: pl.Series) -> pl.DataFrame:
    """`rows` in which machines out of service, those with a time in `silent`, have that reason and no risk."""
    out = silent.is_not_null()
    reason = pl.format("out of service: no telemetry since {} UTC", silent.dt.strftime("%Y-%m-%d %H:%M"))
    return rows.with_columns(
        *(
            pl.when(~out).then(name).alias(name)
            for name in ("probability", "above_threshold", "threshold", *LIFE[:3])
        ),
        *(pl.when(out).then(reason).otherwise(name).alias(name) for name in ("reasons", "life_note")),
        pl.when(out).then(pl.lit(OUT_OF_SERVICE)).otherwise("rung").alias("rung"),
    )


def _with_reasons(
    rows: pl.DataFrame, mine: pl.Series, X: np.ndarray, risk: Risk, model: Model, every: pl.Series
) -> pl.DataFrame:
    """Rows with missing telemetry and the reasons of their risk; without a model, the reason why there is none.

    Of `mine`, rows above the threshold or in `every` have reasons.
    """
    if risk.estimator is None:
        return rows
    which = np.flatnonzero((mine & (rows["above_threshold"] | every)).fill_null(value=False).to_numpy())
    texts = np.full(rows.height, None, dtype=object)
    texts[which] = reasons(risk.estimator, X[which], model.features)
    explanations = pl.Series("explanations", texts.tolist(), dtype=pl.String)
    whole = pl.concat_str(
        pl.when(pl.col("reasons").is_not_null()).then("reasons"),
        pl.when(explanations != "").then(explanations),
        separator="; ",
        ignore_nulls=True,
    )
    return rows.with_columns(whole.alias("reasons"))


def _outcomes(keys: pl.DataFrame, published_rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The status of each key at `as_of`: the worst of its horizons."""
    status = {MODEL: "scored", PARTIAL: "scored", UNDER_WORK: "scored"}
    status |= {WITHOUT_TELEMETRY: "fallback", BASE_RATE: "fallback", NO_MODEL: "skipped"}
    status |= {OUT_OF_SERVICE: "skipped"}
    worst = list(status)
    last = (
        published_rows.filter(pl.col("time") == as_of)
        .with_columns(pl.col("rung").replace_strict({r: i for i, r in enumerate(worst)}).alias("order"))
        .sort(*KEY, "order", "horizon_hours", descending=[False, False, True, False])
        .group_by(KEY, maintain_order=True)
        .first()
    )
    rung = pl.col("rung")
    table = keys.select(KEY).join(last, on=KEY, how="left", maintain_order="left")
    return table.select(
        *KEY,
        rung.replace_strict(status, default="skipped").alias("status"),
        pl.when(rung != MODEL).then(rung).alias("rung"),
        pl.when(rung == UNDER_WORK)
        .then(pl.lit("replaced or failed recently"))
        .when(rung.is_in([NO_MODEL, BASE_RATE, OUT_OF_SERVICE]))
        .then("reasons")
        .when(rung != MODEL)
        .then(pl.col("reasons").str.split("; ").list.first())
        .alias("reason"),
    )
