"""The sections of the machines page, on a small fleet that was trained on and scored."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from models.machines.scenario import MACHINES
from models.machines.sections import sections
from models.machines.simulation import simulate
from models.page.blocks import Chart, Explorer, Figures, Grid, Section, Text
from models.page.explorer import pack
from models.scenario import RunView

START = datetime(2024, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=140)
OPTIONS: dict[str, Any] = {"horizons_hours": [24, 168], "threads": 1, "normal_days": 7, "training_rows": 3000}
TITLES = [
    "Look at these first",
    "Any machine",
    "How far to trust it",
    "What the models look at",
    "Changes since the last run",
    "Without telemetry, without a model, under work",
]


@pytest.fixture(scope="module")
def run() -> RunView:
    fleet = simulate(10, days=150, seed=4, interval_hours=4, start=START, components=2)
    tables = {name: frame.with_columns(shard=pl.lit(0)).lazy() for name, frame in fleet.items()}
    context = MACHINES.context(tables, AS_OF, OPTIONS)
    rows = MACHINES.prepare_shard(tables, context, AS_OF, OPTIONS)["rows"]
    training = MACHINES.fit({"rows": rows.lazy()}, context, AS_OF, OPTIONS)
    model = MACHINES.load(training.files)
    costly = {**OPTIONS, "missed_failure_cost": 15.0}

    def scored(at: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
        keys = MACHINES.requested_keys(tables, at, costly).collect().drop("shard")
        scores = MACHINES.score(model, tables, MACHINES.context(tables, at, costly), keys, at, costly)
        return MACHINES.complete(scores.rows.lazy()).collect().with_columns(as_of=pl.lit(at)), scores.keys

    now, keys = scored(AS_OF)
    derived = MACHINES.derive(now.lazy(), {}, tables, AS_OF, costly)
    return RunView(
        as_of=AS_OF,
        bundle=1,
        options=costly,
        tables=tables,
        published_rows=now.lazy(),
        previous=scored(AS_OF - timedelta(days=2))[0].lazy(),
        keys=keys.lazy(),
        derived_tables={
            name: frame.with_columns(as_of=pl.lit(AS_OF)).lazy() for name, frame in derived.items()
        },
        backtest=training.backtest.lazy(),
        metrics=training.metrics,
        headline=training.headline,
        gaps=MACHINES.gaps(tables, context, keys, AS_OF, costly),
    )


def blocks(run: RunView, title: str, kind: type) -> list[Any]:
    section = next(s for s in sections(run) if s.title == title)
    return [part for part in section.blocks if isinstance(part, kind)]


def explorer(run: RunView) -> Explorer:
    return blocks(run, "Any machine", Explorer)[0]


def prose(run: RunView, title: str) -> str:
    return " ".join(block.markdown for block in blocks(run, title, Text))


def test_sections_come_in_order_of_use_and_none_is_empty(run):
    page_sections: list[Section] = sections(run)
    assert [s.title for s in page_sections] == TITLES
    assert all(s.blocks for s in page_sections)


def test_the_watch_list_has_what_is_at_risk_first_and_at_least_ten(run):
    frame = blocks(run, "Look at these first", Grid)[0].frame
    rows = run.published_rows.collect()
    alarms = rows.filter("above_threshold").select("machine_id", "component").unique()
    assert 0 < alarms.height < 20
    assert frame.height == max(10, alarms.height)
    pairs = frame.select("Machine", "Component").rows()
    assert set(pairs[: alarms.height]) == set(alarms.rows())
    assert frame["At risk within"].head(alarms.height).null_count() == 0
    assert frame["Alarm"].to_list() == ["opened"] * alarms.height + [None] * (frame.height - alarms.height)
    assert frame["At risk from"].str.contains(r"^[\d.]+ %, [\d.]+ %$").all()
    rest = frame.filter(pl.col("At risk within").is_null())["Within 7 d"]
    assert rest.to_list() == sorted(rest, reverse=True)


def test_key_figures_count_what_is_at_risk(run):
    figures = dict(blocks(run, "Look at these first", Figures)[0].values)
    rows = run.published_rows.collect()
    for hours, name in ((24, "24 h"), (168, "7 d")):
        assert figures[f"At risk within {name}"] == str(
            rows.filter(horizon_hours=hours)["above_threshold"].sum()
        )
    assert figures["Machines"] == "10"
    assert figures["Components scored"] == "20"


def test_the_explorer_has_a_panel_per_component_and_sensor_and_opens_on_the_first_of_the_list(run):
    part = explorer(run)
    assert part.order == ["comp1 risk", "comp2 risk", "rotate", "volt"]
    first = blocks(run, "Look at these first", Grid)[0].frame["Machine"][0]
    assert part.start == {"machine_id": first}
    packed = pack(part)
    assert packed.series == 10 * 4
    assert part.about is not None
    assert part.about.collect().filter(machine_id=first)["Highest risk"].item().endswith("within 7 d")


def test_events_are_marked_at_the_reading_that_followed_and_nowhere_else(run):
    telemetry = explorer(run).tracks[0].frame.collect()
    volt = telemetry.filter(series="volt")
    since = volt["time"].min()
    for table, column in (("errors", "error"), ("maintenance", "component"), ("failures", "component")):
        events = set()
        for row in (
            run.tables[table]
            .filter(pl.col("time") > since, pl.col("time") <= AS_OF)
            .collect()
            .iter_rows(named=True)
        ):
            readings = volt.filter(pl.col("machine_id") == row["machine_id"], pl.col("time") >= row["time"])
            events.add((row["machine_id"], readings["time"].min(), row[column]))
        lines = volt.drop_nulls(table).select("machine_id", "time", table)
        marks = {(m, t, one) for m, t, text in lines.iter_rows() for one in text.split(", ")}
        at_first = {mark for mark in marks if mark[1] == since}
        assert marks - at_first == events


def test_nothing_after_as_of_is_shown(run):
    for track in explorer(run).tracks:
        assert track.frame.select(pl.col("time").max()).collect().item() <= AS_OF


def test_the_risk_over_time_ends_with_what_is_published(run):
    risk = explorer(run).tracks[1].frame.collect()
    now = run.published_rows.filter(pl.col("horizon_hours") == 168).collect()
    last = risk.filter(time=AS_OF).sort("machine_id", "series")
    assert last["probability"].to_list() == now.sort("machine_id", "component")["probability"].to_list()
    backtest = explorer(run).tracks[2].frame.collect()
    assert backtest["time"].min() < AS_OF - timedelta(days=15)
    for rows in (risk, backtest):
        assert not rows.select("machine_id", "series", "time").is_duplicated().any()


def test_the_risk_over_time_has_what_earlier_runs_published_of_each_time_the_last_word(run):
    now = run.published_rows.collect().drop("as_of")
    days = [AS_OF - timedelta(days=n) for n in (0, 1, 2, 3, 70, 200)]

    def of(as_of: datetime, time: datetime, probability: float) -> pl.DataFrame:
        return now.with_columns(as_of=pl.lit(as_of), time=pl.lit(time), probability=pl.lit(probability))

    risks = [of(day, day, 0.01 * n) for n, day in enumerate(days)]
    risks += [of(AS_OF - timedelta(hours=12), days[2], 0.5), of(AS_OF + timedelta(days=1), days[1], 0.9)]
    repeated_run = dataclasses.replace(
        run,
        backtest=run.backtest.head(0),
        derived_tables={"risks": pl.concat(risks).sample(fraction=1.0, seed=1).lazy()},
    )
    risk = explorer(repeated_run).tracks[1].frame.filter(machine_id="M00003", series="comp1 risk").collect()
    by_time = dict(risk.select("time", "probability").iter_rows())
    newest = now.filter(machine_id="M00003", component="comp1", horizon_hours=168)["probability"].item()
    assert by_time == {days[4]: 0.04, days[3]: 0.03, days[2]: 0.5, days[1]: 0.01, AS_OF: newest}


def test_of_many_earlier_runs_the_last_sixty_are_shown(run):
    now = run.published_rows.collect().drop("as_of")
    times = [AS_OF - timedelta(hours=12 * n) for n in range(1, 71)]
    risks = pl.concat([now.with_columns(as_of=pl.lit(t), time=pl.lit(t)) for t in times])
    repeated_run = dataclasses.replace(
        run, backtest=run.backtest.head(0), derived_tables={"risks": risks.lazy()}
    )
    risk = explorer(repeated_run).tracks[1].frame.filter(machine_id="M00003", series="comp1 risk").collect()
    assert risk["time"].sort(descending=True).to_list() == [AS_OF, *times[:60]]


def test_trust_shows_measures_of_every_component_and_both_curves(run):
    grids = blocks(run, "How far to trust it", Grid)
    assert [grid.frame["Component"].to_list() for grid in grids] == [["comp1", "comp2", "all"]] * 2
    charts = blocks(run, "How far to trust it", Chart)
    assert len(charts) == 2
    names = [trace["name"] for trace in charts[1].figure["data"]]
    assert names[0].startswith("within 24 h, average precision 0.")
    assert "Of each day's 10 machines to look at first" in prose(run, "How far to trust it")
    assert "no precision can be claimed" in prose(run, "How far to trust it")


def test_changes_are_those_against_the_previous_run(run):
    text = prose(run, "Changes since the last run")
    assert f"{AS_OF - timedelta(days=2):%Y-%m-%d %H:%M}" in text
    same = dataclasses.replace(run, previous=run.published_rows)
    assert "0 newly at risk, 0 no longer" in prose(same, "Changes since the last run")
    assert not blocks(same, "Changes since the last run", Grid)
    assert "first run" in prose(dataclasses.replace(run, previous=None), "Changes since the last run")


def test_components_without_a_model_are_listed_with_the_reason(run):
    keys = run.keys.with_columns(
        pl.when(pl.col("component") == "comp2").then(pl.lit("skipped")).otherwise("status").alias("status"),
        pl.when(pl.col("component") == "comp2").then(pl.lit("no_model")).alias("rung"),
        pl.when(pl.col("component") == "comp2").then(pl.lit("comp2 never failed")).alias("reason"),
    )
    rows = run.published_rows.with_columns(
        pl.when(pl.col("component") != "comp2").then("probability"),
        pl.when(pl.col("component") != "comp2").then("above_threshold"),
    )
    incomplete = dataclasses.replace(run, keys=keys, published_rows=rows)
    grid = blocks(incomplete, TITLES[-1], Grid)[0]
    assert grid.frame.row(0, named=True)["Components"] == 10
    assert grid.frame["Reason"][0] == "comp2 never failed"
    assert set(blocks(incomplete, TITLES[0], Grid)[0].frame["Component"]) == {"comp1"}


def test_a_run_without_rows_without_backtest_and_without_extra_tables_still_has_a_page(run):
    bare = dataclasses.replace(
        run,
        published_rows=run.published_rows.head(0),
        previous=None,
        backtest=run.backtest.head(0),
        metrics=run.metrics.head(0),
        tables={name: run.tables[name] for name in ("telemetry", "maintenance", "failures")},
        gaps=pl.DataFrame(),
    )
    assert [s.title for s in sections(bare) if s.blocks] == TITLES
    some = dataclasses.replace(bare, published_rows=run.published_rows, previous=run.previous)
    assert explorer(some).about.collect().height == 10
