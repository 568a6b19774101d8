from datetime import date, timedelta

import polars as pl

from models.drift import SCHEMA
from models.page import blocks as page
from models.page.drift_charts import CYCLES, sections

FIRST = date(2024, 1, 1)


def lines(weeks=3, drifted=(), limit=0.2, features=("price", "units")):
    """The lines of this number of weeks; the PSI of the `drifted` features is above its limit in the last one."""
    rows = [
        dict.fromkeys(SCHEMA)
        | {"as_of": FIRST + timedelta(weeks=week), "kind": "input", "rank": rank, "feature": name}
        | {
            "limit": limit,
            "psi": 0.5 if (bad := name in drifted and week == weeks - 1) else 0.1,
            "drifted": bad,
        }
        for week in range(weeks)
        for rank, name in enumerate(sorted(features, key=lambda name: name not in drifted), start=1)
    ]
    return pl.DataFrame(rows, schema={"as_of": pl.Date, "kind": pl.String, **SCHEMA})


def parts(kind, page_sections):
    return [part for section in page_sections for part in section.blocks if isinstance(part, kind)]


def test_a_page_without_a_comparison_has_no_section():
    assert sections(pl.DataFrame()) == []


def test_what_has_moved_is_named_and_drawn_first_above_the_line():
    drift_sections = sections(lines(drifted=["units"]))
    assert [section.title for section in drift_sections] == ["Drift"]
    assert "Different from the training: **units**." in parts(page.Text, drift_sections)[0].markdown
    first = parts(page.Chart, drift_sections)[0].figure["data"][0]
    assert first["name"] == "units"
    assert first["y"] == [0.5, 0.5, 2.5]
    grid = parts(page.Grid, drift_sections)[0]
    assert grid.frame["Feature"].to_list() == ["units", "price"]
    assert grid.caption == "As of 2024-01-15, against the bundle's training."


def test_a_cycle_like_the_training_is_said_to_be_so():
    assert "within the usual range of the training" in parts(page.Text, sections(lines()))[0].markdown


def test_a_first_excess_is_told_as_no_alarm_yet():
    once = lines(drifted=["units"]).with_columns(pl.lit(False).alias("drifted"))
    assert "not an alarm yet" in parts(page.Text, sections(once))[0].markdown


def test_without_a_limit_there_is_a_table_and_no_chart():
    drift_sections = sections(lines(limit=None))
    assert "too few cycles" in parts(page.Text, drift_sections)[0].markdown
    assert parts(page.Chart, drift_sections) == []
    assert len(parts(page.Grid, drift_sections)) == 1


def test_only_the_newest_cycles_are_drawn():
    chart = parts(page.Chart, sections(lines(weeks=CYCLES + 20)))[0]
    assert len(chart.figure["data"][0]["x"]) == CYCLES


def test_more_features_than_are_named_are_counted():
    names = ["a", "b", "c", "d", "e"]
    text = parts(page.Text, sections(lines(drifted=names, features=names)))[0].markdown
    assert "**a**, **b**, **c** and 2 more" in text
