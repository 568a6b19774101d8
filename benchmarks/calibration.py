"""Coverage of the sales bands on simulated demand, whose true distribution is known.

    python -m benchmarks.calibration --skus 200 --stores 20 --seeds 7 8 9

For each seed a chain is simulated, ingested, trained on and forecast on the command line. `level` is the
share of the true distribution below a forecast quantile, without the noise of single sales; a band's
coverage is the difference of the levels of its ends. Slow keys sell whole numbers: if a forecast
equals a possible sale, the level is the nearest that the definition of a quantile allows,
P(units < q) <= level <= P(units <= q), over all rows of the kind. `±` is the standard error of the
coverage, from the differences between seeds: few keys are new, and the stores that sell a new SKU are alike.
"""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from benchmarks.command_line import run_benchmark
from benchmarks.measure import run, table
from models.sales.simulation import KINDS, simulate
from tasks.storage.store import Store

BANDS = {"50% band": ("q25", "q75"), "90% band": ("q5", "q95")}
LEVELS = {"q5": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def main(*, skus: int = 200, stores: int = 20, weeks: int = 120, seeds: tuple[int, ...] = (7,)) -> None:
    """Print a line for each kind of demand."""
    rows = pl.concat([_forecasts(skus, stores, weeks, seed).with_columns(seed=seed) for seed in seeds])
    lines = [_line("all", rows)] + [_line(kind, rows.filter(kind=kind)) for kind in KINDS]
    print(table(lines))


def _forecasts(skus: int, stores: int, weeks: int, seed: int) -> pl.DataFrame:
    """Forecasts of one simulated chain together with the truth of the same weeks."""
    chain = simulate(skus, stores, weeks, seed)
    with tempfile.TemporaryDirectory(prefix="almanac-calibration-") as folder:
        paths = {name: f"{folder}/{name}.parquet" for name in ("history", "plan", "stores")}
        for name, path in paths.items():
            getattr(chain, name).write_parquet(path)
        store = str(Path(folder) / "store")
        run(
            *("sales", "run", "--source", paths["history"], "--plan", paths["plan"]),
            *("--stores", paths["stores"], "--store", store),
        )
        forecasts = Store(store).scan("sales/forecasts").collect()
    truth = chain.truth.drop(*LEVELS)
    return truth.join(forecasts, on=["sku", "store", "week"], how="inner", validate="1:1")


def _line(kind: str, rows: pl.DataFrame) -> dict[str, object]:
    levels = {name: _attained(rows, name, level) for name, level in LEVELS.items()}
    bands: dict[str, object] = {}
    for band, (low, high) in BANDS.items():
        bands |= {band: levels[high] - levels[low], f"± {band}": _standard_error(rows, low, high)}
    shares = {f"sold within {band}": _sold_within(rows, *ends) for band, ends in BANDS.items()}
    return {"kind": kind, "rows": rows.height, **bands, **levels, **shares}


def _standard_error(rows: pl.DataFrame, low: str, high: str) -> float | None:
    """The standard error of a band's coverage, from its coverage by seed; None for a single seed."""
    coverages = [
        _attained(of, high, LEVELS[high]) - _attained(of, low, LEVELS[low])
        for of in rows.partition_by("seed")
    ]
    return float(np.std(coverages, ddof=1) / np.sqrt(len(coverages))) if len(coverages) > 1 else None


def _attained(rows: pl.DataFrame, name: str, level: float) -> float:
    """Mean true probability below a forecast quantile, with the share of the ties that `level` needs."""
    size, mean, forecast = (rows[c].to_numpy() for c in ("dispersion", "mean", name))
    truth = stats.nbinom(size, size / (size + mean))
    below, at_most = truth.cdf(np.ceil(forecast) - 1).mean(), truth.cdf(np.floor(forecast)).mean()
    return float(np.clip(level, below, at_most))


def _sold_within(rows: pl.DataFrame, low: str, high: str) -> float:
    inside = rows.select(pl.col("units").is_between(pl.col(low), pl.col(high)).mean())
    return float(inside.item())


if __name__ == "__main__":
    run_benchmark(main, __doc__)
