"""A small sales run with plain numbers, in the shape that a page is made from."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.scenario import RunView

AS_OF = date(2024, 6, 3)
LEVELS = {"q5": 0.4, "q25": 0.8, "q50": 1.0, "q75": 1.3, "q95": 2.0}
KEYS = (("A", "1"), ("A", "2"), ("B", "1"), ("B", "10"))
HISTORY_WEEKS, HORIZON = 30, 4


def a_run(keys: Sequence[tuple[str, str]] = KEYS, *, previous: bool = True, deal: bool = True) -> RunView:
    """Key number i sells 10 i plus the week's number; its medians are 100 i, and 90 i in the previous run.

    The last key is answered by a fallback. In the backtest every median is 10 % too high.
    """
    frame = pl.DataFrame(
        {"sku": [k[0] for k in keys], "store": [k[1] for k in keys], "i": range(1, len(keys) + 1)}
    )
    history = frame.join(_weeks(AS_OF, range(-HISTORY_WEEKS + 1, 1)), how="cross").select(
        "sku",
        "store",
        "week",
        (pl.col("i") * 10.0 + pl.col("step") + HISTORY_WEEKS).alias("units"),
        *([(pl.col("step") % 7 == 0).cast(pl.Float64).alias("deal")] if deal else []),
        (pl.col("i") % 3).alias("shard"),
    )
    forecasts = _forecast(frame, AS_OF, 100.0)
    before = AS_OF - timedelta(weeks=1)
    outcome = frame.select(
        "sku",
        "store",
        pl.when(pl.col("i") == len(keys))
        .then(pl.lit("fallback"))
        .otherwise(pl.lit("scored"))
        .alias("status"),
        pl.when(pl.col("i") == len(keys))
        .then(pl.lit("own_history"))
        .otherwise(pl.lit("pooled"))
        .alias("rung"),
        pl.when(pl.col("i") == len(keys)).then(pl.lit("sold in 3 of its last 30 weeks")).alias("reason"),
    )
    return RunView(
        as_of=AS_OF,
        bundle=3,
        options={"horizon": HORIZON},
        tables={"history": history.lazy()},
        published_rows=forecasts.lazy(),
        previous=_forecast(frame, before, 90.0).lazy() if previous else None,
        keys=outcome.lazy(),
        backtest=_backtest(frame).lazy(),
        metrics=_metrics(),
    )


def _weeks(origin: date, steps: range) -> pl.DataFrame:
    weeks = [origin + timedelta(weeks=step) for step in steps]
    return pl.DataFrame({"step": list(steps), "week": weeks}, schema={"step": pl.Int32, "week": pl.Date})


def _forecast(frame: pl.DataFrame, origin: date, level: float) -> pl.DataFrame:
    rows = frame.join(_weeks(origin, range(1, HORIZON + 1)), how="cross")
    quantiles = [(pl.col("i") * level * share).alias(name) for name, share in LEVELS.items()]
    rung, as_of = pl.lit("pooled").alias("rung"), pl.lit(origin).alias("as_of")
    return rows.select("sku", "store", "week", "step", *quantiles, rung, as_of)


def _backtest(frame: pl.DataFrame) -> pl.DataFrame:
    origins = [AS_OF - timedelta(weeks=HORIZON * n) for n in (1, 2, 3)]
    parts = [_forecast(frame, o, 110.0).with_columns(pl.lit(o).alias("origin")) for o in origins]
    return pl.concat(parts).with_columns(
        (pl.col("q50") / 1.1).alias("units"), pl.lit("regular").alias("kind")
    )


def _metrics() -> pl.DataFrame:
    values = {"rows": 48.0, "units": 4800.0, "pinball": 0.2, "pinball_naive": 0.4, "wape": 0.1, "bias": 0.1}
    values |= {"coverage_90": 0.91, "coverage_50": 0.52}
    slices = [("all", "all"), *[("step", str(s)) for s in range(1, HORIZON + 1)]]
    slices += [("kind", "regular"), ("kind", "promoted")]
    rows = [(a, b, metric, value) for a, b in slices for metric, value in values.items()]
    return pl.DataFrame(rows, schema=["slice", "value_of_slice", "metric", "value"], orient="row")
