"""Events: the days that count, and the learnt effect, on weekly sales that double in the week of an event."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW
from models.errors import ContractError
from models.sales import SALES, forecast_rows, views
from models.sales.contracts import TABLES
from models.sales.events import PRIOR_WEEKS, Events, events, holidays
from models.sales.model import Model
from models.sales.options import QUANTILES, Options
from models.sales.panel import KEY, panel_of
from models.sales.scoring import panel_with_plan

MONDAY = date(2021, 1, 4)
WEEKS = 120
AS_OF = MONDAY + timedelta(weeks=WEEKS - 1)
FAIRS = (date(2021, 6, 16), date(2022, 6, 1), date(2023, 5, 3))
"""Wednesdays of weeks 23, 73 and 121: a year ago it was two weeks later."""


def sold(*doubled: int) -> pl.DataFrame:
    units = [20.0 if week in doubled else 10.0 for week in range(WEEKS)]
    weeks = [MONDAY + timedelta(weeks=week) for week in range(WEEKS)]
    return pl.DataFrame({"sku": "a", "store": "s", "week": weeks, "units": units, "shard": 0})


def tables_of(history: pl.DataFrame, *dates: date) -> dict[str, pl.LazyFrame]:
    fairs = pl.DataFrame({"name": ["fair"] * len(dates), "date": dates}, {"name": pl.String, "date": pl.Date})
    return {"history": history.lazy(), "events": fairs.lazy()}


def features_at(tables: dict[str, pl.LazyFrame], origin: int, steps: range) -> dict[str, list[float]]:
    """Features of the only key, one value per step."""
    context = SALES.context(tables, AS_OF, {"horizon": 4})
    rows = tables["history"].select(*KEY, "week", "units")
    panel = panel_of(rows, rows.select(KEY).unique().collect(), (), MONDAY, AS_OF, 0)
    matrix = forecast_rows.build(views.view_of(panel, context, (), None), [origin], {origin: steps})
    return {name: matrix.values[:, at].tolist() for at, name in enumerate(matrix.names)}


def events_of(dates: tuple[date, ...], promoted: int | None = None) -> Events:
    history = sold(23, 73)
    panel = panel_of(history.lazy(), history.select(KEY).unique(), (), MONDAY, AS_OF, 0)
    promotions = np.array([[float(week == promoted)] for week in range(WEEKS)])
    return Events.of(pl.DataFrame({"name": "fair", "date": dates}), panel, promotions)


def test_public_holidays_are_those_of_the_country_and_region():
    bavarian = set(holidays(["DE-BY"], date(2024, 1, 1), date(2024, 12, 31)).rows())
    assert bavarian > set(holidays(["DE"], date(2024, 1, 1), date(2024, 12, 31)).rows())
    assert ("Corpus Christi", date(2024, 5, 30)) in bavarian


@pytest.mark.parametrize("calendar", ["XX", "DE-XX"])
def test_a_calendar_that_there_is_not_is_refused_by_its_name(calendar):
    with pytest.raises(ContractError, match=f"--holidays {calendar}"):
        holidays([calendar], date(2024, 1, 1), date(2024, 12, 31))


def test_of_the_days_of_an_event_in_a_row_the_first_counts():
    dates = [date(2024, 4, 10), date(2024, 4, 11), date(2024, 4, 20)]
    rows = events(tables_of(sold(), *dates), [], date(2024, 1, 1), date(2024, 12, 31))
    assert rows["date"].to_list() == [dates[0], dates[2]]


def test_an_event_that_moves_takes_its_effect_with_it():
    tables = tables_of(sold(23, 73), *FAIRS)
    values = features_at(tables, WEEKS - 1, range(1, 5))
    double = np.log(2.1) - np.log(1.1)
    near = 2 * double / (2 + PRIOR_WEEKS)
    assert values["event_effect"] == pytest.approx([0.0, near, 0.0, 0.0], abs=1e-6)
    unaware = features_at(tables_of(sold(23, 73)), WEEKS - 1, range(1, 5))
    assert "event_effect" not in unaware
    # week 123 is a year after the fair of week 71, which was none: the fair was in week 73
    assert values["last_year"][1] > unaware["last_year"][1] + near / 2


def test_an_event_of_four_years_ago_is_still_expected_when_scoring():
    weeks = 240
    history = pl.DataFrame(
        {
            "sku": "a",
            "store": "s",
            "week": [MONDAY + timedelta(weeks=week) for week in range(weeks)],
            "shard": 0,
        }
    ).with_columns(units=pl.when(pl.col("week") == MONDAY + timedelta(weeks=23)).then(20.0).otherwise(10.0))
    tables = tables_of(history, FAIRS[0], FAIRS[0] + timedelta(weeks=weeks + 1 - 23))
    as_of, options = history["week"].max(), Options(horizon=4)
    context = SALES.context(tables, as_of, {"horizon": 4})
    nothing = pl.DataFrame()
    model = Model(QUANTILES, 4, (), (), None, None, nothing, nothing, nothing, own_first=False, blended=False)
    panel = panel_with_plan(model, tables, context, history.select(KEY).unique(), as_of, options)
    view = views.view_of(panel, context, (), None)
    rows = forecast_rows.build(view, [panel.last], {panel.last: range(1, 5)})
    near = (np.log(2.1) - np.log(1.1)) / (1 + PRIOR_WEEKS)
    effects = rows.values[:, rows.names.index("event_effect")]
    assert effects == pytest.approx([0.0, near, 0.0, 0.0], abs=1e-6)


def test_a_week_between_two_positions_counts_in_proportion():
    usual, later = events_of(FAIRS), events_of((FAIRS[0], FAIRS[1] + timedelta(days=2)))
    assert usual.likeness([73, 72, 60], [23, 22, 60]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert later.likeness([73], [23, 22, 24])[0] == pytest.approx([5 / 7, 2 / 7, 0])


def test_what_is_sold_after_the_origin_changes_nothing():
    before, after = (
        features_at(tables_of(sold(23, *more), *FAIRS), 72, range(1, 3)) for more in ([], [73, 90])
    )
    assert before == after


def test_a_promoted_week_says_nothing_of_an_event():
    ratios = events_of(FAIRS, promoted=73).ratios(WEEKS - 1)[:, 0]
    assert np.isfinite(ratios[[22, 23, 24, 72, 73, 74]]).tolist() == [True, True, True, True, False, True]


def test_an_event_of_one_store_counts_there_alone_for_all_its_skus_and_an_unknown_store_is_told():
    both = [sold(23, 73).with_columns(store=pl.lit("t")), sold()]
    history = pl.concat([rows.with_columns(sku=pl.lit(sku)) for sku in "ab" for rows in both])
    raw = pl.DataFrame({"name": "fair", "date": FAIRS, "store": "t"}).with_row_index(ROW)
    fairs = TABLES["events"].accept(raw, {}).good
    assert fairs.rows()[0] == ("fair in store t", FAIRS[0], "t")
    tables = {"history": history.lazy(), "events": fairs.lazy()}
    context = SALES.context(tables, AS_OF, {"horizon": 4})
    effects = {}
    for stores in (["s"], ["s", "t"]):
        keys = history.select(KEY).unique().filter(pl.col("store").is_in(stores)).sort(KEY)
        panel = panel_of(tables["history"], keys, (), MONDAY, AS_OF, 0)
        matrix = forecast_rows.build(views.view_of(panel, context, (), None), [WEEKS - 1], {WEEKS - 1: [2]})
        effects[len(stores)] = matrix.values[:, matrix.names.index("event_effect")].tolist()
    near = 2 * (np.log(2.1) - np.log(1.1)) / (2 + PRIOR_WEEKS)
    assert effects[1] == [0, 0]
    assert effects[2] == pytest.approx([0, near, 0, near], abs=1e-6)
    (note,) = SALES.omissions({**tables, "history": history.filter(store="s").lazy()}, AS_OF)
    assert note.startswith("Events name store 't', which the history lacks")


def test_events_without_a_store_stay_as_they_were():
    raw = pl.DataFrame({"name": ["fair"], "date": ["2024-05-01"], "store": ["*"]}).with_row_index(ROW)
    assert TABLES["events"].accept(raw, {}).good.rows() == [("fair", date(2024, 5, 1), None)]
    assert TABLES["events"].accept(raw.drop("store"), {}).good.rows() == [("fair", date(2024, 5, 1))]


@pytest.mark.parametrize("text", ["01.02. - 05.02.2024", "2024-02-01 to 2024-02-05"])
def test_an_event_of_several_days_is_not_read_as_its_first_day(text):
    raw = pl.DataFrame({"name": ["fair", "fair"], "date": ["2024-03-01", text]})
    with pytest.raises(ContractError, match=r"give each day of the event a row of its own"):
        TABLES["events"].accept(raw, {})


def test_an_event_with_a_column_for_its_last_day_is_not_read_as_its_first_day():
    raw = pl.DataFrame({"name": ["fair"], "date": ["2024-05-01"], "End date": ["2024-05-03"]}).with_row_index(
        ROW
    )
    with pytest.raises(
        ContractError, match=r"'End date' 2024-05-03 for fair\. Expected one day: give each day"
    ):
        TABLES["events"].accept(raw, {})
    one_day = raw.with_columns(pl.col("date").alias("End date"))
    assert TABLES["events"].accept(one_day, {}).good["date"].to_list() == [date(2024, 5, 1)]
