"""The ground truth of published forecasts, compared with definitions written out and with the backtest's rows."""

from datetime import date, timedelta

import polars as pl
import pytest

from models.sales import SALES, ground_truth
from models.sales.options import Options
from models.sales.simulation import simulate

QUANTILES = {"q5": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
OPTIONS = {"horizon": 4, "origins": 1}


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.LazyFrame]:
    market = simulate(skus=6, stores=3, weeks=90, seed=5)
    return {"history": market.history.lazy(), "plan": market.plan.lazy()}


@pytest.fixture(scope="module")
def last(tables) -> date:
    return tables["history"].select(pl.col("week").max()).collect().item()


def published(tables, as_of: date) -> pl.LazyFrame:
    """Medians of 10 and bands from 5 to 20 for every key, and for one that never sold."""
    keys = tables["history"].select("sku", "store").unique().collect()
    keys = pl.concat([keys, pl.DataFrame({"sku": ["none"], "store": ["none"]})])
    weeks = pl.DataFrame({"step": range(1, 5)}, schema={"step": pl.Int32})
    rows = keys.join(weeks, how="cross").with_columns(
        week=pl.lit(as_of) + pl.duration(weeks=pl.col("step")),
        **{name: pl.lit(5.0 + 5 * i) for i, name in enumerate(QUANTILES)},
        rung=pl.lit("pooled"),
        as_of=pl.lit(as_of),
        bundle=pl.lit(1),
        run_id=pl.lit("run"),
    )
    return rows.with_columns(pl.col("week").cast(pl.Date)).lazy()


def test_kinds_units_and_naive_forecasts_are_those_of_a_backtest_at_the_same_origin(tables, last):
    origin = last - timedelta(weeks=4)
    context = SALES.context(tables, last, OPTIONS)
    context |= SALES.training_context(tables, context, last, OPTIONS)
    backtest = SALES.prepare_shard(tables, context, last, OPTIONS)["backtest"]
    verdicts = ground_truth.judge(published(tables, origin), tables, last)
    columns = ["units", "kind", "naive", "seasonal_naive"]
    both = backtest.join(verdicts, on=["sku", "store", "week"], suffix="_judged")
    assert both.height == backtest.height > 40
    assert both["kind"].n_unique() > 1
    for column in columns:
        assert both[column].equals(both[f"{column}_judged"], check_names=False), column


def test_a_week_is_pending_until_it_is_over_and_a_week_without_a_row_is_never_known(tables, last):
    verdicts = ground_truth.judge(published(tables, last - timedelta(weeks=2)), tables, last)
    assert verdicts["pending"].equals(verdicts["week"] > last, check_names=False)
    assert verdicts.filter("pending")["units"].null_count() == verdicts["pending"].sum()
    assert verdicts.filter(sku="none")["units"].null_count() == 4
    in_progress = ground_truth.judge(
        published(tables, last - timedelta(weeks=2)), tables, last - timedelta(weeks=1)
    )
    assert in_progress["pending"].sum() == verdicts["pending"].sum() * 3 // 2


def test_what_is_sold_later_changes_no_verdict_on_what_was_known_before(tables, last):
    origin = last - timedelta(weeks=8)
    later = pl.when(pl.col("week") > last - timedelta(weeks=4)).then(pl.col("units") + 99).otherwise("units")
    altered = {**tables, "history": tables["history"].with_columns(later.alias("units"))}
    rows = published(tables, origin)
    assert ground_truth.judge(rows, tables, last).equals(ground_truth.judge(rows, altered, last))


def test_measures_and_tallies_are_what_a_few_plain_lines_give(tables, last):
    origin = last - timedelta(weeks=4)
    verdicts = ground_truth.judge(published(tables, origin), tables, last).with_columns(as_of=pl.lit(origin))
    options = Options(horizon=4)
    table = ground_truth.measures(verdicts.lazy(), options)
    complete = [row for row in verdicts.iter_rows(named=True) if row["units"] is not None]

    def loss(row) -> float:
        return (
            sum(
                max(q * (row["units"] - row[c]), (q - 1) * (row["units"] - row[c]))
                for c, q in QUANTILES.items()
            )
            / 5
        )

    def measure(of, metric, name="all", value="all"):
        figure = table.filter(slice=name, value_of_slice=value, metric=metric)["value"].item()
        units = sum(row["units"] for row in of)
        by_hand = {
            "rows": len(of),
            "pinball": sum(map(loss, of)) / units,
            "wape": sum(abs(row["units"] - row["q50"]) for row in of) / units,
            "bias": sum(row["q50"] - row["units"] for row in of) / units,
            "coverage_90": sum(row["q5"] <= row["units"] <= row["q95"] for row in of) / len(of),
        }[metric]
        assert figure == pytest.approx(by_hand), (metric, name, value)

    for metric in ("rows", "pinball", "wape", "bias", "coverage_90"):
        measure(complete, metric)
        measure([row for row in complete if row["step"] == 3], metric, "step", "3")
    sku, kind = complete[0]["sku"], complete[0]["kind"]
    measure([row for row in complete if row["sku"] == sku], "pinball", "sku", sku)
    measure([row for row in complete if row["kind"] == kind], "bias", "kind", kind)

    tally = ground_truth.tallies(verdicts, options)
    assert tally["series"].to_list() == ["1 week ahead", "4 weeks ahead"]
    first = [row for row in complete if row["step"] == 1]
    assert tally["period"][0] == origin + timedelta(weeks=1)
    assert tally["numerator"][0] == pytest.approx(sum(map(loss, first)))
    assert tally["denominator"][0] == pytest.approx(sum(row["units"] for row in first))
    assert tally["rows"][0] == len(first)


def test_rows_of_a_bundle_with_other_quantiles_do_not_count(tables, last):
    origin = last - timedelta(weeks=4)
    verdicts = ground_truth.judge(published(tables, origin), tables, last).with_columns(as_of=pl.lit(origin))
    other = verdicts.with_columns(q5=pl.lit(None, pl.Float64))
    table = ground_truth.measures(pl.concat([verdicts, other]).lazy(), Options(horizon=4))
    assert table.equals(ground_truth.measures(verdicts.lazy(), Options(horizon=4)))
    assert ground_truth.tallies(verdicts.drop("q5"), Options(horizon=4)).is_empty()


def test_losses_of_two_bundles_are_of_the_rows_that_both_forecast_at_the_same_origin(tables, last):
    origin = last - timedelta(weeks=4)
    verdicts = ground_truth.judge(published(tables, origin), tables, last).with_columns(as_of=pl.lit(origin))
    complete = verdicts.filter(pl.col("units").is_not_null())
    mine = complete.rename({"as_of": "origin"}).with_columns(
        pl.col("units").alias(name) for name in QUANTILES
    )
    elsewhere = mine.with_columns(origin=pl.lit(origin - timedelta(weeks=1)))
    part = pl.concat([mine.filter(pl.col("step") < 3), elsewhere])
    ours, theirs, rows = ground_truth.losses(part.lazy(), verdicts.lazy(), Options(horizon=4))
    assert ours == 0
    both = complete.filter(pl.col("step") < 3)
    table = ground_truth.measures(both.lazy(), Options(horizon=4))
    assert theirs == pytest.approx(table.filter(slice="all", metric="pinball")["value"].item())
    assert rows == both.height
    assert ground_truth.losses(elsewhere.lazy(), verdicts.lazy(), Options(horizon=4)) is None
    assert ground_truth.losses(part.drop(*QUANTILES).lazy(), verdicts.lazy(), Options(horizon=4)) is None
