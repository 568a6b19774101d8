"""Control charts: their limits keep the stated rate, and a shift is detected."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models import control
from models.control import BASELINE, FEWEST, limits, newest, points
from models.page.blocks import Chart, Text
from models.page.control_charts import sections
from models.scenario import TALLIES, ControlChart

CHARTS = {
    "loss": ControlChart("Loss", every="week"),
    "rate": ControlChart("Rate", "day", worse="either side"),
}
MONDAY = date(2024, 1, 1)


def tallies(values, chart="loss", start=0, rows=100) -> pl.DataFrame:
    many = rows if isinstance(rows, list) else [rows] * len(values)
    lines = [
        (chart, "all", MONDAY + timedelta(weeks=start + i), value * n, float(n), n)
        for i, (value, n) in enumerate(zip(values, many, strict=True))
    ]
    return pl.DataFrame(lines, schema=TALLIES, orient="row")


NOTHING = pl.DataFrame(schema=TALLIES)


@pytest.mark.parametrize("n", [4, 8, 26])
def test_as_many_points_are_beyond_a_limit_by_chance_as_it_says_however_few_came_before(n):
    draw = np.random.default_rng(n)
    roots = 3 + 0.3 * draw.standard_normal((4000, n + 1))
    beyond = [
        (past := limits((row[:-1] ** 2).tolist(), 0.05)) is not None and row[-1] ** 2 > past.high
        for row in roots
    ]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.011)


def test_limits_are_those_of_the_formula():
    from scipy.stats import t

    values = [0.2, 0.25, 0.22, 0.3, 0.27]
    roots = np.sqrt(values)
    half = t.ppf(0.999, 4) * roots.std(ddof=1) * np.sqrt(1 + 1 / 5)
    band = limits(values)
    assert (band.low, band.high) == pytest.approx(
        (max(roots.mean() - half, 0) ** 2, (roots.mean() + half) ** 2)
    )
    assert (band.centre, band.baseline) == (pytest.approx(roots.mean() ** 2), 5)


def test_where_too_little_is_known_there_are_no_limits():
    assert limits([0.2] * (FEWEST - 1)) is None
    assert limits([0.2] * 10) is None
    charted = points(tallies([0.2, 0.3, 0.25]), NOTHING, CHARTS)
    assert charted["verdict"].to_list() == ["unknown"] * 3


def test_fifty_cycles_without_a_shift_raise_no_alarm_and_a_shift_is_seen_within_two():
    draw = np.random.default_rng(11)
    calm = 0.2 * np.exp(0.1 * draw.standard_normal(58))
    charted = points(tallies(calm), NOTHING, CHARTS)
    assert set(charted["verdict"]) == {"unknown", "as expected"}
    worse = 0.2 * 1.6 * np.exp(0.1 * draw.standard_normal(2))
    charted = points(tallies([*calm, *worse]), NOTHING, CHARTS)
    assert "degraded" in charted["verdict"].to_list()[-2:]
    assert newest(charted)["verdict"].to_list() == ["degraded"]


def test_limits_of_a_point_follow_from_earlier_points_only():
    draw = np.random.default_rng(2)
    values = 0.2 * np.exp(0.1 * draw.standard_normal(30))
    whole = points(tallies(values), NOTHING, CHARTS)
    for count in (6, 17, 29):
        assert points(tallies(values[:count]), NOTHING, CHARTS).equals(whole.head(count))


def test_points_of_the_backtest_come_before_the_first_published_one_and_no_later():
    backtest = tallies([0.2, 0.22, 0.19, 0.21, 0.9, 0.9])
    charted = points(tallies([0.2, 0.21], start=4), backtest, CHARTS)
    assert charted["source"].to_list() == ["backtest"] * 4 + ["published"] * 2
    assert charted["baseline"].to_list() == [None] * 4 + [4, 5]
    assert charted["verdict"].to_list()[-2:] == ["as expected"] * 2


def test_a_degraded_point_is_no_measure_of_later_ones_until_it_is_the_normal():
    calm = [0.2 + 0.01 * (i % 3) for i in range(12)]
    charted = points(tallies([*calm, *[0.5 + 0.01 * (i % 3) for i in range(40)]]), NOTHING, CHARTS)
    verdicts = charted["verdict"].to_list()
    assert verdicts[12:20] == ["degraded"] * 8
    assert charted["centre"][20] == pytest.approx(0.21, abs=0.01)
    assert verdicts[-1] == "as expected"
    assert verdicts.count("degraded") <= BASELINE


def test_a_point_of_few_rows_is_not_judged_and_judges_no_other():
    charted = points(
        tallies([0.2, 0.22, 0.19, 0.21, 0.23, 0.9, 0.2], rows=[100] * 5 + [49, 100]), NOTHING, CHARTS
    )
    assert charted["verdict"].to_list()[-2:] == ["incomplete", "as expected"]
    assert charted["baseline"][-1] == 5
    assert newest(charted.head(6))["period"].item() == MONDAY + timedelta(weeks=4)


def test_a_chart_may_be_worse_on_either_side_or_above_only():
    values = [0.2, 0.22, 0.19, 0.21, 0.2, 0.21, 0.19, 0.22, 0.02]
    assert points(tallies(values), NOTHING, CHARTS)["verdict"][-1] == "improved"
    assert points(tallies(values, "rate"), NOTHING, CHARTS)["verdict"][-1] == "degraded"


def test_a_point_is_the_ratio_of_the_sums_of_all_its_tallies():
    parts = pl.concat([tallies([0.1], rows=300), tallies([0.5], rows=100)])
    assert points(parts, NOTHING, CHARTS)["value"].to_list() == [pytest.approx(0.2)]
    assert points(parts.with_columns(denominator=pl.lit(0.0)), NOTHING, CHARTS).is_empty()


def test_the_page_says_what_is_worse_and_draws_every_series():
    assert sections(CHARTS, pl.DataFrame(schema=control.CONTROL)) == []
    values = [0.2, 0.22, 0.19, 0.21, 0.2, 0.21, 0.19, 0.22]
    calm, worse = (points(tallies(values + end), NOTHING, CHARTS) for end in ([], [0.9]))
    (section,) = sections(CHARTS, worse)
    assert isinstance(section.blocks[0], Text)
    assert "Worse than chance would explain: **all** (2024-02-26)" in section.blocks[0].markdown
    assert "as accurate as before" in sections(CHARTS, calm)[0].blocks[0].markdown
    charts = [part for part in section.blocks if isinstance(part, Chart)]
    assert [trace["name"] for trace in charts[0].figure["data"]][-2:] == ["published", "degraded"]
