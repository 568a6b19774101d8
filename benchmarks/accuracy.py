"""Accuracy of the sales forecasts on real histories, compared with naive forecasts and a common method.

    python -m benchmarks.accuracy [--data FOLDER [FOLDER ...]] [--horizon WEEKS]

Ingests and trains as a user would, and measures the backtest that the training published: rolling origins, each
forecast by models that have not seen what came after it. A FOLDER has the sales as `sales.parquet` or
`history.parquet` and, where there are any, `plan.parquet` and `stores.parquet`; by default they are the public sets in
`$ALMANAC_TEST_DATA`, or `../shared/data`. One that is absent is skipped. For each it prints the whole backtest, its
origins, kinds of demand and estimators beside the naive forecasts, the notes of the training, and one line to quote;
the coverage of the bands of totals over the horizon, each origin with what the other origins say of shared errors;
and on a sample of `SAMPLE` rows every candidate, before calibration, by kind of demand. MASE is the mean over keys of
the mean absolute error of the medians over the key's mean absolute change from week to week.

`reference`, where the history has `price`, `deal` and `feat` and the horizon is a quarter at most, are 35 separate
gradient-boosting quantile models without calibration, one per quantile and group of steps, on the rows of the same
origins: SKU, the store's attributes, week of the year, price and flags of the target week, and up to six weeks ahead
the last three sales.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.command_line import run_benchmark
from benchmarks.measure import run, table
from models import metrics
from models.sales import neighbours, preparation, totals, training
from models.sales.backtest import NAIVES, in_full
from models.sales.options import QUANTILES, QUARTER, Options, quantile_column
from tasks.storage.store import Store

SETS = ("orange_juice", "walmart", "m4_weekly")
SAMPLE = 20_000
"""Approximate number of backtest rows on which all candidates are compared; twice as many are training rows."""
KEY = ["sku", "store"]
COLUMNS = [quantile_column(q) for q in QUANTILES]
STEP_GROUPS = ([1], [2], [3], [4], [5], [6], range(7, QUARTER + 1))
LAGS = 3
TREES, LEARNING_RATE, LEAVES = 60, 0.1, 8
"""Parameters of the reference: the best of a few tried on these origins, which favours it."""


def main(*, data: tuple[Path, ...] | None = None, horizon: int = QUARTER) -> None:
    """Print the tables of each data set.

    Args:
        data: Folders with sales, plan and stores as Parquet; default: the public sets.
        horizon: Weeks to forecast.
    """
    quotes = []
    for folder in data or public_sets():
        if sales_file(folder, "sales", "history") is None:
            print(f"\nSkipped: {folder} has neither sales.parquet nor history.parquet.")
            continue
        print(f"\n{folder.name}\n")
        quotes.append(f"{folder.name}: {_benchmark(folder, horizon)}")
    print("\n" + "\n".join(quotes))


def _benchmark(data: Path, horizon: int) -> str:
    """Prints the tables of one data set; returns the line to quote."""
    with tempfile.TemporaryDirectory(prefix="almanac-accuracy-") as folder:
        store = str(Path(folder) / "store")
        run("sales", "ingest", *_sources(data), "--store", store)
        trained = run("sales", "train", "--horizon", str(horizon), "--store", store).result
        backtest = Store(store).scan("sales/backtests").collect()
        history = Store(store).scan("sales/history").collect()
        stores = Store(store).scan("sales/stores").collect() if sales_file(data, "stores") else None
        candidates = _candidates(Store(store), data, horizon)
    forecasts = {"almanac": backtest}
    if stores is not None and horizon <= QUARTER and {"price", "deal", "feat"} <= set(history.columns):
        parts = [
            _reference(history, stores, rows) for _, rows in backtest.group_by("origin", maintain_order=True)
        ]
        kinds = backtest.select(*KEY, "origin", "week", "kind", "rung")
        forecasts["reference"] = pl.concat(parts).join(kinds, on=[*KEY, "origin", "week"])
    for naive in NAIVES:
        columns = [pl.col(naive).alias(name) for name in COLUMNS]
        forecasts[naive.replace("_", " ")] = backtest.with_columns(columns)
    scale = scale_of(history)
    lines = []
    for by in (None, "origin", "kind", "rung"):
        values = [None] if by is None else backtest[by].unique().sort().to_list()
        for value in values:
            chosen = pl.lit(True) if by is None else pl.col(by) == value
            about = {"slice": by or "all", "value": str(value or "")}
            for name, rows in forecasts.items():
                lines.append({**about, "forecast": name, **_measured(rows.filter(chosen), scale)})
    print(table(lines))
    print(f"\nTotals of {horizon} weeks at held-out origins\n")
    print(table(_totals(backtest, horizon)))
    print(f"\nEvery candidate before calibration, on a sample of {SAMPLE:,} rows\n")
    print(table(candidates))
    print("\n".join(["", *trained["notes"]]))
    return "; ".join(_quote(line) for line in lines if line["slice"] == "all")


def _totals(backtest: pl.DataFrame, horizon: int) -> list[dict[str, Any]]:
    """A line per level of totals: the number of sums, and the share of them in each band."""
    options = Options(horizon=horizon)
    rows = in_full(backtest, options)
    values = {"total": pl.lit("all"), "store": pl.col("store"), "sku": pl.col("sku")}
    sums = []
    for (origin,), part in rows.group_by("origin", maintain_order=True):
        files = totals.fit(rows.filter(pl.col("origin") != origin), options)
        bands = totals.totals(part.lazy(), files, {}, options).filter(pl.col("weeks") == horizon)
        for level, value in values.items():
            units = part.group_by(value.alias("value")).agg(pl.col("units").sum())
            sums.append(bands.filter(level=level).join(units, on="value"))
    coverage = {
        "50% band": metrics.coverage("units", "q25", "q75"),
        "90% band": metrics.coverage("units", "q5", "q95"),
    }
    return (
        pl.concat(sums)
        .group_by("level", maintain_order=True)
        .agg(pl.len().alias("sums"), **coverage)
        .to_dicts()
    )


def public_sets() -> list[Path]:
    root = Path(os.environ.get("ALMANAC_TEST_DATA", "../shared/data"))
    return [root / name for name in SETS]


def _candidates(store: Store, data: Path, horizon: int) -> list[dict[str, Any]]:
    """A line per kind of demand and candidate, the lowest pinball loss first."""
    names = [name for name in ("plan", "stores") if sales_file(data, name)]
    tables = {name: store.scan(f"sales/{name}") for name in ("history", *names)}
    as_of = tables["history"].select(pl.col("week").max()).collect().item()
    options = Options(horizon=horizon, training_rows=2 * SAMPLE, backtest_rows=SAMPLE)
    shared = neighbours.shared_frames(tables, as_of, options.horizon)
    rows = training.candidates(
        preparation.prepare(tables, shared, as_of, options, with_ladder=False), shared, options
    )
    named = dict(zip(options.columns, options.quantiles, strict=True))
    measured = rows.group_by("kind", "rung").agg(
        pl.len().alias("rows"),
        metrics.pinball("units", named).alias("pinball"),
        metrics.wape("units", "q50").alias("WAPE"),
        metrics.coverage("units", "q5", "q95").alias("90% band"),
    )
    return measured.sort("kind", "pinball", "rung").rename({"rung": "candidate"}).to_dicts()


def sales_file(data: Path, *names: str) -> Path | None:
    """The first of the files that exists, or None."""
    return next((path for name in names if (path := data / f"{name}.parquet").exists()), None)


def _sources(data: Path) -> list[str]:
    """The options of `sales ingest` that name the files of `data`."""
    files = {
        "--source": sales_file(data, "sales", "history"),
        "--plan": sales_file(data, "plan"),
        "--stores": sales_file(data, "stores"),
    }
    return [word for name, file in files.items() if file for word in (name, str(file))]


def scale_of(history: pl.DataFrame) -> pl.DataFrame:
    """Mean absolute change of each key from week to week; keys that never change have none."""
    change = pl.col("units").diff().abs().mean()
    scale = history.sort(*KEY, "week").group_by(KEY).agg(change.cast(pl.Float64).alias("scale"))
    return scale.filter(pl.col("scale") > 0)


def _quote(line: dict[str, Any]) -> str:
    return (
        f"{line['forecast']} pinball {line['pinball']:.3f}, WAPE {line['WAPE']:.1%}, MASE {line['MASE']:.2f}, "
        f"90% band {line['90% band']:.1%}"
    )


def _measured(rows: pl.DataFrame, scale: pl.DataFrame) -> dict[str, float]:
    named = dict(zip(COLUMNS, QUANTILES, strict=True))
    found = rows.select(
        metrics.pinball("units", named).alias("pinball"),
        metrics.wape("units", "q50").alias("WAPE"),
        metrics.mape("units", "q50").alias("MAPE"),
        metrics.bias("units", "q50").alias("bias"),
        metrics.coverage("units", "q25", "q75").alias("50% band"),
        metrics.coverage("units", "q5", "q95").alias("90% band"),
    )
    error = ((pl.col("units") - pl.col("q50")).abs() / pl.col("scale")).mean()
    scaled = rows.join(scale, on=KEY).group_by(KEY).agg(error.alias("error"))["error"].mean()
    return {"rows": rows.height, "MASE": scaled, **found.row(0, named=True)}


def _reference(history: pl.DataFrame, stores: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """Forecasts of the rows of `wanted`, which are of one origin, by the models of that origin."""
    import lightgbm as lgb

    origin = wanted["origin"][0]
    found = []
    for steps in STEP_GROUPS:
        rows = _rows(history, stores, steps)
        names = [name for name in rows.columns if name not in ("store", "week", "origin", "units")]
        train = rows.filter(pl.col("week") <= origin)
        test = rows.filter(origin=origin).join(wanted.select(*KEY, "week"), on=[*KEY, "week"], how="semi")
        parameters = {"objective": "quantile", "num_leaves": LEAVES, "verbosity": -1, "num_threads": 1}
        data = lgb.Dataset(_matrix(train, names), train["units"].to_numpy(), params={"verbosity": -1})
        values = []
        for q in QUANTILES:
            chosen = {**parameters, "alpha": q, "learning_rate": LEARNING_RATE}
            values.append(lgb.train(chosen, data, TREES).predict(_matrix(test, names), num_threads=1))
        ordered = np.sort(np.stack(values, axis=1), axis=1)
        columns = [pl.Series(name, ordered[:, i]) for i, name in enumerate(COLUMNS)]
        found.append(test.select(*KEY, "origin", "week", "units", *columns))
    return pl.concat(found)


def _rows(history: pl.DataFrame, stores: pl.DataFrame, steps: Sequence[int]) -> pl.DataFrame:
    """Every known week of every key, `steps` weeks after each origin, with the features of the reference."""
    attributes = stores.rename({name: f"store_{name}" for name in stores.columns if name != "store"})
    known = history.select(*KEY, "week", "units", "price", "deal", "feat").join(attributes, on="store")
    found = []
    for step in steps:
        rows = known.with_columns(
            pl.col("week").dt.offset_by(f"-{step}w").alias("origin"),
            pl.lit(step).alias("step"),
            pl.col("week").dt.week().alias("week_of_year"),
        )
        for lag in range(LAGS) if len(steps) == 1 else ():
            past = history.select(
                *KEY,
                pl.col("week").dt.offset_by(f"{lag}w").alias("origin"),
                pl.col("units").alias(f"lag{lag}"),
            )
            rows = rows.join(past, on=[*KEY, "origin"], how="left")
        found.append(rows)
    return pl.concat(found).sort(*KEY, "origin", "step")


def _matrix(rows: pl.DataFrame, names: Sequence[str]) -> Any:
    numbers = rows.select(pl.col(name).cast(pl.Float32, strict=False) for name in names if name != "sku")
    sku = rows["sku"].rank("dense").cast(pl.Float32).alias("sku")
    return np.column_stack([sku.to_numpy(), numbers.to_numpy()])


if __name__ == "__main__":
    run_benchmark(main, __doc__)
