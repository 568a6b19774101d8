"""Accuracy of the sales forecasts on real history, against naive forecasts and a common way to do it.

    python -m benchmarks.accuracy --data FOLDER

Ingests and trains as a user would, and measures the backtest that the training published: rolling origins, each
forecast by models that have not seen what came after it. `reference` are 35 separate gradient-boosting
quantile models without calibration, one per quantile and group of steps, on the rows of the same origins:
SKU, the store's attributes, week of the year, price and flags of the target week, and up to six weeks ahead
the last three sales.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.measure import run, table
from models import metrics
from models.sales.options import QUANTILES, quantile_column
from tasks.storage.store import Store

KEY = ["sku", "store"]
COLUMNS = [quantile_column(q) for q in QUANTILES]
STEP_GROUPS = ([1], [2], [3], [4], [5], [6], range(7, 14))
LAGS = 3
TREES, LEARNING_RATE, LEAVES = 60, 0.1, 8
"""Of the reference: the best of a few tried on these origins, which favours it."""


def main() -> None:
    arguments = _arguments()
    data = Path(arguments.data)
    with tempfile.TemporaryDirectory(prefix="almanac-accuracy-") as folder:
        store = str(Path(folder) / "store")
        sources = [f"--{name}" for name in ("source", "plan", "stores")]
        files = [str(data / name) for name in ("sales.parquet", "plan.parquet", "stores.parquet")]
        given = [word for pair in zip(sources, files, strict=True) for word in pair]
        run("sales", "ingest", *given, "--store", store)
        run("sales", "train", "--store", store)
        backtest = Store(store).scan("sales/backtests").collect()
        history = Store(store).scan("sales/history").collect()
        stores = Store(store).scan("sales/stores").collect()
    origins = backtest["origin"].unique().sort().to_list()
    reference = pl.concat(_reference(history, stores, backtest.filter(origin=origin)) for origin in origins)
    lines = []
    for origin in (None, *origins):
        chosen = pl.lit(True) if origin is None else pl.col("origin") == origin
        about = {"origin": "all" if origin is None else str(origin)}
        naive = [pl.col("seasonal_naive").alias(name) for name in COLUMNS]
        lines += [
            {**about, "forecast": "almanac", **_measured(backtest.filter(chosen))},
            {**about, "forecast": "reference", **_measured(reference.filter(chosen))},
            {**about, "forecast": "seasonal naive", **_measured(backtest.filter(chosen).with_columns(naive))},
        ]
    print(table(lines))


def _measured(rows: pl.DataFrame) -> dict[str, float]:
    named = dict(zip(COLUMNS, QUANTILES, strict=True))
    found = rows.select(
        metrics.pinball("units", named).alias("pinball"),
        metrics.wape("units", "q50").alias("WAPE"),
        metrics.mape("units", "q50").alias("MAPE"),
        metrics.bias("units", "q50").alias("bias"),
        metrics.coverage("units", "q25", "q75").alias("50% band"),
        metrics.coverage("units", "q5", "q95").alias("90% band"),
    )
    return {"rows": rows.height, **found.row(0, named=True)}


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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="Folder with sales, plan and stores as Parquet.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
