"""The sections of the sales page, on a small run with plain numbers."""

import dataclasses
from datetime import timedelta

import polars as pl
import pytest

from models.page.blocks import Chart, Explorer, Figures, Grid, Section, Text
from models.sales import sections as module
from models.sales.sections import quantile_columns, sections
from models.scenario import RunView
from tests.sales_run import AS_OF, HISTORY_WEEKS, HORIZON, a_run


def blocks(run: RunView, title: str, kind: type) -> list:
    section = next(s for s in sections(run) if s.title == title)
    return [part for part in section.blocks if isinstance(part, kind)]


def figures(run: RunView) -> dict[str, str]:
    return dict(blocks(run, "This forecast", Figures)[0].values)


def prose(run: RunView, title: str) -> str:
    return " ".join(part.markdown for part in blocks(run, title, Text))


def explorer(run: RunView) -> Explorer:
    return blocks(run, "Any SKU and store", Explorer)[0]


def test_sections_come_in_order_of_use() -> None:
    titles = [s.title for s in sections(a_run()) if s.blocks]
    assert titles == [
        "This forecast",
        "Any SKU and store",
        "Total demand",
        "Accuracy in the backtest",
        "Fallbacks",
        "Changes since the last forecast",
    ]


def test_key_figures_are_those_of_the_run() -> None:
    values = figures(a_run())
    assert values["SKU-store pairs"] == "4"
    assert values["Sum of median forecasts, units"] == f"{HORIZON * 100 * (1 + 2 + 3 + 4):,}"
    assert values["Answered by a fallback"] == "1 (25.0%)"
    assert values["90% band held"] == "91.0%"
    units = sum(10 * i + step + HISTORY_WEEKS for i in (1, 2, 3, 4) for step in range(-HORIZON + 1, 1))
    assert values[f"Against the last {HORIZON} weeks"] == f"{4000 / units - 1:+.1%}"
    assert "Skipped or failed" not in values


def test_skipped_and_failed_keys_are_among_the_key_figures() -> None:
    run = a_run()
    failed = pl.when(pl.col("store") == "10").then(pl.lit("failed")).otherwise("status").alias("status")
    values = figures(dataclasses.replace(run, keys=run.keys.with_columns(failed)))
    assert values["Skipped or failed"] == "1 (25.0%)"


def test_the_explorer_opens_on_the_largest_forecast_and_says_how_it_was_answered() -> None:
    part = explorer(a_run())
    assert part.start == {"sku": "B", "store": "10"}
    assert part.about is not None
    assert part.about.collect().row(3) == (
        "B",
        "10",
        "Fallback",
        "own history",
        "sold in 3 of its last 30 weeks",
    )


def test_the_explorer_has_the_outer_band_before_the_inner_one() -> None:
    _, forecast = explorer(a_run()).tracks
    assert [(b.low, b.high, b.label) for b in forecast.bands] == [
        ("q5", "q95", "5–95%"),
        ("q25", "q75", "25–75%"),
    ]


def test_bands_follow_the_quantiles_of_the_run() -> None:
    run = a_run()
    renamed = run.published_rows.rename({"q5": "q2.5", "q95": "q97.5"}).drop("q25", "q75")
    backtest = run.backtest.rename({"q5": "q2.5", "q95": "q97.5"}).drop("q25", "q75")
    run = dataclasses.replace(run, published_rows=renamed, backtest=backtest, previous=None)
    assert [(b.low, b.high, b.label) for b in explorer(run).tracks[1].bands] == [
        ("q2.5", "q97.5", "2.5–97.5%")
    ]


def test_history_after_as_of_is_not_shown() -> None:
    run = a_run()
    later = run.tables["history"].with_columns(pl.col("week") + timedelta(weeks=5), pl.col("units") * 1000)
    mixed = dataclasses.replace(run, tables={"history": pl.concat([run.tables["history"], later]).unique()})
    newest = explorer(mixed).tracks[0].frame.select(pl.col("week").max()).collect().item()
    assert newest == AS_OF


def test_many_keys_shorten_the_history_and_the_largest_forecasts_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXPLORER_KEYS", 2)
    part = explorer(a_run())
    for track in part.tracks:
        pairs = track.frame.select("sku", "store").unique().sort("store").collect().rows()
        assert pairs == [("B", "1"), ("B", "10")]
    assert "2 pairs with the largest forecasts" in part.caption


def test_deals_are_marked_where_the_history_has_them() -> None:
    assert [m.column for m in explorer(a_run()).tracks[0].marks] == ["deal"]
    assert list(explorer(a_run(deal=False)).tracks[0].marks) == []


def test_the_total_is_the_sum_over_all_keys() -> None:
    chart = blocks(a_run(), "Total demand", Chart)[0]
    lines = {trace["name"]: trace for trace in chart.figure["data"]}
    assert lines["Sold"]["y"] == [float(100 + 4 * week) for week in range(1, HISTORY_WEEKS + 1)]
    assert lines["Sum of medians"]["y"] == [1000.0] * HORIZON


def test_without_totals_the_total_has_no_band_and_says_how_far_it_was_off() -> None:
    text = prose(a_run(), "Total demand")
    assert "There is no band" in text
    assert "within **10%**" in text
    assert "+10.0%" in text


def test_with_totals_the_total_has_their_bands() -> None:
    run = a_run()
    quantiles = {
        name: 1000.0 + i
        for i, name in enumerate(quantile_columns(run.published_rows.collect_schema().names()))
    }
    weeks = (
        run.published_rows.select("week", "as_of")
        .unique()
        .sort("week")
        .with_columns(weeks=1, expected=1100.0)
    )
    whole = weeks.head(1).with_columns(weeks=HORIZON, expected=4400.0)
    totals = pl.concat([weeks, whole]).with_columns(
        level=pl.lit("total"), **{n: pl.lit(v) for n, v in quantiles.items()}
    )
    other = totals.with_columns(level=pl.lit("store"), expected=pl.lit(7.0))
    run = dataclasses.replace(run, derived_tables={"totals": pl.concat([totals, other])})
    lines = {trace["name"]: trace for trace in blocks(run, "Total demand", Chart)[0].figure["data"]}
    assert set(lines["25–75% of the total"]["y"]) == {quantiles["q25"], quantiles["q75"]}
    assert f"first {HORIZON} weeks **4,400** units are expected" in prose(run, "Total demand")


def test_accuracy_is_told_against_the_baselines_that_there_are() -> None:
    text = prose(a_run(), "Accuracy in the backtest")
    assert "**0.200**" in text
    assert "50% below naive" in text
    assert "seasonal" not in text
    grid = blocks(a_run(), "Accuracy in the backtest", Grid)[0]
    assert grid.frame["Kind of demand"].to_list() == ["regular", "promoted", "All"]


def test_coverage_by_step_is_drawn_beside_what_the_band_says() -> None:
    chart = blocks(a_run(), "Accuracy in the backtest", Chart)[1]
    assert [trace["y"] for trace in chart.figure["data"]] == [
        [0.91] * HORIZON,
        [0.9] * HORIZON,
        [0.52] * HORIZON,
        [0.5] * HORIZON,
    ]


def test_fallbacks_are_grouped_by_reason_whatever_its_numbers() -> None:
    run = a_run([("A", str(i)) for i in range(20)])
    weeks = pl.format("{} weeks of history, 8 are needed", pl.col("store")).alias("reason")
    keys = run.keys.with_columns(
        weeks, pl.lit("fallback").alias("status"), pl.lit("short_history").alias("rung")
    )
    groups, rows = blocks(dataclasses.replace(run, keys=keys), "Fallbacks", Grid)
    assert groups.frame.rows() == [("Fallback", "short history", "n weeks of history, n are needed", 20, 1.0)]
    assert rows.frame.height == 20
    assert "7 weeks of history, 8 are needed" in rows.frame["Reason"].to_list()


def test_without_fallbacks_it_says_so() -> None:
    run = a_run()
    keys = run.keys.with_columns(pl.lit("scored").alias("status"))
    assert "None" in prose(dataclasses.replace(run, keys=keys), "Fallbacks")


def test_changes_are_over_the_weeks_that_both_forecasts_cover() -> None:
    run = a_run()
    overlap = HORIZON - 1
    text = prose(run, "Changes since the last forecast")
    assert f"+{overlap * 100:,} units" in text
    assert f"as of **{AS_OF - timedelta(weeks=1)}**" in text
    up, down = blocks(run, "Changes since the last forecast", Grid)
    assert up.frame.row(0) == (
        "B",
        "10",
        360.0 * overlap,
        400.0 * overlap,
        40.0 * overlap,
        pytest.approx(1 / 9),
    )
    assert down.frame.is_empty()


def test_the_first_forecast_has_no_changes() -> None:
    assert next(s for s in sections(a_run(previous=False)) if s.title.startswith("Changes")).blocks == []


def test_a_run_that_published_nothing_still_has_a_page() -> None:
    run = a_run()
    none = dataclasses.replace(
        run,
        published_rows=run.published_rows.clear(),
        keys=run.keys.with_columns(pl.lit("failed").alias("status"), pl.lit("ValueError: x").alias("reason")),
    )
    page_sections: list[Section] = sections(none)
    assert "No row was published" in prose(none, "This forecast")
    assert [s.title for s in page_sections if s.blocks][:1] == ["This forecast"]
    assert blocks(none, "Fallbacks", Grid)[0].frame["Pairs"].sum() == 4


def test_a_bundle_without_metrics_leaves_the_accuracy_out() -> None:
    run = dataclasses.replace(a_run(), metrics=pl.DataFrame())
    assert next(s for s in sections(run) if s.title.startswith("Accuracy")).blocks == []


def test_a_single_key_with_a_single_week_of_zero_is_shown() -> None:
    run = a_run([("A", "1")], previous=False)
    one = run.tables["history"].filter(pl.col("week") == AS_OF).with_columns(pl.lit(0.0).alias("units"))
    page_sections = sections(dataclasses.replace(run, tables={"history": one}))
    assert (
        figures(dataclasses.replace(run, tables={"history": one}))[f"Against the last {HORIZON} weeks"] == "–"
    )
    assert len(page_sections) == 7


def test_planned_deals_are_marked_on_the_forecast() -> None:
    run = a_run()
    plan = run.published_rows.select(
        "sku", "store", "week", (pl.col("step") == 2).cast(pl.Float64).alias("deal")
    )
    only_a = plan.filter(pl.col("sku") == "A")
    forecast = explorer(dataclasses.replace(run, tables={**run.tables, "plan": only_a})).tracks[1]
    assert [m.column for m in forecast.marks] == ["deal"]
    deals = forecast.frame.filter(pl.col("deal") > 0).select("sku", "store", "step").sort("store").collect()
    assert deals.rows() == [("A", "1", 2), ("A", "2", 2)]
    assert forecast.frame.select(pl.len()).collect().item() == 4 * HORIZON
    assert list(explorer(run).tracks[1].marks) == []
