"""Accuracy of sales forecasts after a few weeks of history, on real sales that are cut, compared with a naive forecast.

    python -m benchmarks.short_histories [--data FOLDER [FOLDER ...]] [--weeks WEEKS [WEEKS ...]] [--keys KEYS]

Of each FOLDER (as for `benchmarks.accuracy`), the sales before `ORIGINS` origins are cut to the last WEEKS weeks, and
forecast by a model that was trained on nothing else. With `some`, only every second key is cut: the others keep their
history. Covariates of the plan are known ahead. `loss` is the scaled quantile loss: pinball loss times two, divided by
the mean absolute change from week to week of the key's uncut history, as the mean over keys.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.accuracy import COLUMNS, KEY, public_sets, sales_file, scale_of
from benchmarks.command_line import run_benchmark
from benchmarks.measure import table
from models import metrics
from models.sales import SALES
from models.sales.options import QUANTILES, QUARTER
from models.scenario import train

ORIGINS, WEEKS = 3, (4, 6, 10, 14, 20, 30)


def main(*, data: tuple[Path, ...] | None = None, weeks: tuple[int, ...] = WEEKS, keys: int = 240) -> None:
    """Print a table of each data set.

    Args:
        data: Folders with sales, plan and stores as Parquet; default: the public sets.
        weeks: Weeks of history that are left.
        keys: Approximate number of keys, taken by SKU.
    """
    for folder in data or public_sets():
        source = sales_file(folder, "sales", "history")
        if source is None:
            print(f"\nSkipped: {folder} has neither sales.parquet nor history.parquet.")
            continue
        print(f"\n{folder.name}\n")
        sales = _sample(pl.read_parquet(source), keys)
        scale = scale_of(sales)
        lines = []
        for number in weeks:
            for cut in ("all", "some"):
                rows = pl.concat(_forecasts(sales, folder, number, cut))
                lines.append({"weeks": number, "cut": cut, **_measured(rows, scale)})
        print(table(lines))


def _sample(sales: pl.DataFrame, keys: int) -> pl.DataFrame:
    """All rows of as many SKUs as have about `keys` keys, evenly over the SKUs; returns count as zero."""
    per_sku = sales.select(KEY).unique().group_by("sku").len().sort("sku")
    every = max(1, round(per_sku["len"].sum() / keys))
    sampled = sales.join(per_sku.gather_every(every), on="sku", how="semi")
    return sampled.with_columns(pl.col("units").clip(lower_bound=0))


def _forecasts(sales: pl.DataFrame, folder: Path, weeks: int, cut: str) -> Iterator[pl.DataFrame]:
    """For each origin, the rows forecast of keys that were cut: with units, and `naive`, the last known units."""
    last = sales["week"].max()
    assert isinstance(last, date)
    is_cut = pl.col("sku").rank("dense") % 2 == 0 if cut == "some" else pl.lit(value=True)
    sales = sales.with_columns(is_cut=is_cut)
    for number in range(1, ORIGINS + 1):
        as_of = last - timedelta(weeks=QUARTER * number)
        recent = pl.col("week") > as_of - timedelta(weeks=weeks)
        known = sales.filter(pl.col("week") <= as_of, recent | ~pl.col("is_cut")).drop("is_cut")
        rows = _forecast(known, sales, folder, as_of)
        of_cut = sales.filter("is_cut").select(*KEY, "week", pl.col("units").cast(pl.Float64))
        naive = known.sort("week").group_by(KEY).agg(naive=pl.col("units").last().cast(pl.Float64))
        yield rows.join(of_cut, on=[*KEY, "week"]).join(naive, on=KEY)


def _forecast(known: pl.DataFrame, sales: pl.DataFrame, folder: Path, as_of: date) -> pl.DataFrame:
    options = {"threads": 1}
    tables = {"history": known.with_columns(shard=pl.lit(0)).lazy()}
    if plan := sales_file(folder, "plan"):
        columns = [*pl.read_parquet_schema(plan)]
        ahead = sales.filter(pl.col("week") > as_of).select(columns)
        tables["plan"] = ahead.with_columns(shard=pl.lit(0)).lazy()
    if stores := sales_file(folder, "stores"):
        tables["stores"] = pl.scan_parquet(stores)
    model = SALES.load(train(SALES, tables, as_of, options).files)
    context, keys = SALES.context(tables, as_of, options), known.select(KEY).unique()
    return SALES.score(model, tables, context, keys, as_of, options).rows


def _measured(rows: pl.DataFrame, scale: pl.DataFrame) -> dict[str, Any]:
    units = pl.col("units")
    losses = [
        metrics.pinball_loss(units, pl.col(name), q) for name, q in zip(COLUMNS, QUANTILES, strict=True)
    ]
    found = rows.select(
        metrics.wape("units", "q50").alias("WAPE"),
        metrics.wape("units", "naive").alias("naive WAPE"),
        metrics.coverage("units", "q25", "q75").alias("50% band"),
        metrics.coverage("units", "q5", "q95").alias("90% band"),
    )
    loss = (2 * pl.mean_horizontal(losses) / pl.col("scale")).mean()
    by_key = rows.join(scale, on=KEY).group_by(KEY).agg(loss.alias("loss"))
    return {"rows": rows.height, "loss": by_key["loss"].mean(), **found.row(0, named=True)}


if __name__ == "__main__":
    run_benchmark(main, __doc__)
