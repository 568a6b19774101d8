"""Quantiles of sums: on errors whose common part is known."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.errors import ContractError
from models.sales import SALES, totals
from models.sales.options import Options

OPTIONS = Options(horizon=4, totals=("total", "store", "zone*sku", "sku*store"), total_weeks=(2,))
NORMAL = {"q5": -1.645, "q25": -0.674, "q50": 0.0, "q75": 0.674, "q95": 1.645}
ZONES = pl.DataFrame({"store": [f"store{i}" for i in range(6)], "zone": [1.0, 1.0, 2.0, 2.0, 2.0, None]})
TABLES = {"stores": ZONES.lazy()}


def backtest(common: float, origins: int = 12, seed: int = 1) -> pl.DataFrame:
    """Forecasts of 100 ± 10; `common` of the variance of an error is that of its SKU's week."""
    random = np.random.default_rng(seed)
    first = date(2024, 1, 1)
    rows = [
        (
            f"sku{k}",
            f"store{s}",
            first + timedelta(weeks=4 * o),
            first + timedelta(weeks=4 * o + step),
            step,
            k,
            s,
            o,
        )
        for o in range(origins)
        for k in range(10)
        for s in range(6)
        for step in range(1, 5)
    ]
    frame = pl.DataFrame(rows, ["sku", "store", "origin", "week", "step", "k", "s", "o"], orient="row")
    common_part = random.normal(size=(origins, 10, 5))[frame["o"], frame["k"], frame["step"]]
    error = np.sqrt(common) * common_part + np.sqrt(1 - common) * random.normal(size=frame.height)
    quantiles = [pl.lit(100 + 10 * z).alias(name) for name, z in NORMAL.items()]
    return frame.drop("k", "s", "o").with_columns(pl.Series("units", 100 + 10 * error), *quantiles)


def published(frame: pl.DataFrame) -> pl.LazyFrame:
    return frame.filter(pl.col("origin") == pl.col("origin").max()).lazy()


def of(frame: pl.DataFrame, options: Options = OPTIONS) -> pl.DataFrame:
    return totals.totals(published(frame), totals.fit(frame, options), TABLES, options)


def test_expected_values_of_parts_add_up_to_the_total():
    sums = of(backtest(0.5))
    weeks = sums.filter(weeks=1).group_by("level", "week").agg(pl.col("expected").sum())
    assert weeks["expected"].to_list() == pytest.approx([6000.0] * weeks.height)
    assert sums.filter(level="total", weeks=4)["expected"].item() == pytest.approx(24_000.0)
    assert sums.filter(level="total", weeks=2)["expected"].item() == pytest.approx(12_000.0)


@pytest.mark.parametrize("common", [0.0, 0.6])
def test_bands_of_totals_are_as_wide_as_what_errors_have_in_common_makes_them(common: float):
    total = of(backtest(common)).filter(level="total", weeks=1)
    true = 10 * np.sqrt(10 * (common * 36 + (1 - common) * 6))
    widths = ((total["q95"] - total["q5"]) / (2 * 1.645)).to_numpy()
    assert widths == pytest.approx(np.full(4, true), rel=0.25)


def test_bands_of_sums_hold_what_they_say_at_origins_that_had_no_part_in_them():
    frame = backtest(0.5, origins=24)
    early = pl.col("origin") < frame["origin"].unique().sort()[12]
    files = totals.fit(frame.filter(early), OPTIONS)
    hits = []
    for _, rows in frame.filter(~early).group_by("origin"):
        sums = totals.totals(rows.lazy(), files, TABLES, OPTIONS).filter(level="store", weeks=1)
        units = rows.group_by(pl.col("store").alias("value"), "week").agg(pl.col("units").sum())
        hits.append(sums.join(units, on=["value", "week"]).select(pl.col("units").is_between("q5", "q95")))
    assert pl.concat(hits).to_series().mean() == pytest.approx(0.9, abs=0.05)


def test_a_key_in_a_week_has_the_quantiles_of_its_forecast():
    frame = backtest(0.5)
    sums = of(frame).filter(level="sku*store", weeks=1)
    assert sums.height == 240
    assert (
        sums.filter(value="sku3*store2")
        .select(*NORMAL)
        .equals(published(frame).select(*NORMAL).head(4).collect())
    )


def test_keys_of_a_store_without_an_attribute_are_a_group_of_their_own():
    sums = of(backtest(0.5)).filter(level="zone*sku", weeks=4)
    assert dict(
        sums.select(pl.col("value"), "keys").filter(pl.col("value").str.ends_with("sku1")).iter_rows()
    ) == {
        "1*sku1": 2,
        "2*sku1": 3,
        "unknown*sku1": 1,
    }


def test_sums_are_the_same_in_whatever_order_rows_come():
    frame = backtest(0.5)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)
    assert of(shuffled).equals(of(frame))


def test_a_bundle_without_errors_of_sums_publishes_no_totals():
    frame = backtest(0.5)
    assert totals.fit(frame.filter(pl.col("origin") == pl.col("origin").max()), OPTIONS) == {}
    sums = totals.totals(published(frame), {}, TABLES, OPTIONS)
    assert sums.is_empty()
    assert sums.schema == pl.Schema(totals.schema(OPTIONS))


def test_totals_that_cannot_be_are_refused_by_name():
    with pytest.raises(ContractError, match=r"'region' is neither sku nor store.*Found: zone"):
        totals.check(Options(totals=("sku*region",)), TABLES)
    with pytest.raises(ContractError, match="first 9 weeks: the horizon is 4"):
        totals.check(Options(horizon=4, total_weeks=(9,)), TABLES)


def test_a_bundle_that_knows_nothing_of_sums_is_told():
    frame = backtest(0.5, origins=2)
    assert SALES.derivation_notes({}) == [totals.NOTE]
    assert SALES.derivation_notes(totals.fit(frame, OPTIONS)) == []
