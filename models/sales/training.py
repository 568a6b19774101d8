"""Backtest and fit of the sales models."""

from collections.abc import Mapping
from datetime import date

import numpy as np
import polars as pl

from models import metrics
from models.sales import features, pooled
from models.sales.options import Options
from models.sales.panel import KEY, known_covariates, panel_of, past_and_plan
from models.scenario import Frames, Trained

META = ("sku", "store", "origin", "week", "step", "units", "level", "kind", "planned")


def prepare(
    tables: Frames, context: Mapping[str, pl.DataFrame], as_of: date, options: Options
) -> dict[str, pl.DataFrame]:
    covariates = known_covariates(tables)
    first = context["calendar"]["first_week"][0]
    keys = tables["history"].filter(pl.col("week") <= as_of).select(KEY).unique().collect()
    panel = panel_of(
        past_and_plan({"history": tables["history"]}, covariates, as_of, 0), keys, covariates, first, as_of, 0
    )
    origins = [panel.index(origin) for origin in options.backtest_origins(as_of)]
    steps = range(1, options.horizon + 1)
    test = features.build(panel, [origin for origin in origins if origin >= 26], steps)
    fit_origins = range(13, panel.last, 2)
    train = [
        features.build(panel, [origin], [step])
        for origin in fit_origins
        for step in (1 + origin % 13,)
        if origin + step <= panel.last
    ]
    return {"train": pl.concat([_frame(rows) for rows in train]), "backtest": _frame(test)}


def _frame(rows: features.Rows) -> pl.DataFrame:
    values = pl.DataFrame(rows.values, schema=dict.fromkeys(rows.names, pl.Float32))
    renamed = values.rename({name: f"f:{name}" for name in rows.names})
    return pl.concat([rows.frame, renamed], how="horizontal").filter(pl.col("units").is_not_null())


def _values(frame: pl.DataFrame, names: list[str]) -> np.ndarray:
    return frame.select([f"f:{name}" for name in names]).to_numpy()


def fit(parts: Frames, as_of: date, options: Options) -> Trained:
    train, test = parts["train"].collect(), parts["backtest"].collect()
    names = [name.removeprefix("f:") for name in train.columns if name.startswith("f:")]
    forecasts = []
    for origin in sorted(test["origin"].unique()):
        model = _fit(train.filter(pl.col("week") <= origin), names, options)
        forecasts.append(_predict(model, test.filter(pl.col("origin") == origin), options))
    backtest = pl.concat(forecasts)
    model = _fit(train, names, options)
    measured = metrics.by_slice(backtest, measures(options), [None, "origin", "step", "kind", "rung"])
    overall = {row["metric"]: row["value"] for row in measured.filter(pl.col("slice") == "all").to_dicts()}
    files = {f"pooled_{name}": text for name, text in pooled.text(model).items()}
    return Trained(files, names, backtest, measured, overall, overall["pinball"])


def measures(options: Options) -> dict[str, pl.Expr]:
    named = dict(zip(options.columns, options.quantiles, strict=True))
    middle = min(named, key=lambda name: abs(named[name] - 0.5))
    found = {
        "rows": pl.len(),
        "units": pl.col("units").sum(),
        "pinball": metrics.pinball("units", named),
        "wape": metrics.wape("units", middle),
        "mape": metrics.mape("units", middle),
        "bias": metrics.bias("units", middle),
    }
    columns = {q: name for name, q in named.items()}
    for percentage, (low, high) in metrics.bands(options.quantiles).items():
        found[f"coverage_{percentage}"] = metrics.coverage("units", columns[low], columns[high])
    return found


def _fit(train: pl.DataFrame, names: list[str], options: Options) -> pooled.Pooled:
    target = pooled.to_log(train["units"].to_numpy(), train["level"].to_numpy())
    return pooled.fit(_values(train, names), target, names, options.quantiles, options.seed, options.threads)


def _predict(model: pooled.Pooled, rows: pl.DataFrame, options: Options) -> pl.DataFrame:
    found = model.predict(_values(rows, list(model.features)), options.threads)
    units = pooled.from_log(found, rows["level"].to_numpy()[:, None])
    quantiles = [pl.Series(name, units[:, i]) for i, name in enumerate(options.columns)]
    return rows.select(
        "sku", "store", "origin", "week", "step", "units", *quantiles, pl.lit("pooled").alias("rung"), "kind"
    )
