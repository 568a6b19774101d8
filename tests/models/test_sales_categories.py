"""Columns of words: which of them are kept, which categories are flags, and what is learnt of each."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from models.contracts import ROW
from models.sales import SALES, categories, whatif
from models.sales.contracts import TABLES
from models.scenario import train

MONDAY = date(2022, 1, 3)
WEEKS, HORIZON = 70, 4
AS_OF = MONDAY + timedelta(weeks=WEEKS - 1)
OPTIONS = {"horizon": HORIZON, "origins": 2, "trees": 40, "spread_trees": 8, "threads": 1}
KINDS = {0: "Multi Buy", 5: " multi buy", 2: "leaflet"}


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.LazyFrame]:
    """A multi-buy doubles sales, a leaflet does nothing; each occurs in a tenth to a fifth of the weeks."""
    random = np.random.default_rng(1)
    rows = []
    for sku in range(5):
        for store in range(4):
            for week in range(WEEKS):
                kind = KINDS.get(int(random.integers(10)))
                usual = 20.0 * (sku + 1) * (2 if "ulti" in (kind or "") else 1)
                units = round(usual * float(np.exp(random.normal(0, 0.1))))
                rows.append((str(sku), str(store), MONDAY + timedelta(weeks=week), units, kind))
    history = pl.DataFrame(rows, ["sku", "store", "week", "units", "promotion"], orient="row")
    history = history.with_columns(pl.col("units").cast(pl.Float64), brand="b" + pl.col("sku"), shard=0)
    weeks = pl.DataFrame(
        {
            "week": [AS_OF + timedelta(weeks=step) for step in (1, 2, 3, 4)],
            "promotion": ["MULTI  BUY", "leaflet", "", "bogof"],
        }
    )
    keys = history.select("sku", "store", "shard").unique(maintain_order=True)
    return {"history": history.lazy(), "plan": keys.join(weeks, how="cross").lazy()}


@pytest.fixture(scope="module")
def model(tables):
    return SALES.load(train(SALES, tables, AS_OF, OPTIONS).files)


def medians(model, tables) -> pl.DataFrame:
    """The mean over the SKUs of the medians of store 0, by step."""
    context = SALES.context(tables, AS_OF, OPTIONS)
    keys = SALES.requested_keys(tables, AS_OF, OPTIONS).filter(store="0").collect()
    return SALES.score(model, tables, context, keys, AS_OF, OPTIONS).rows


def test_a_kind_of_promotion_has_the_uplift_that_it_had_and_another_has_none(model, tables):
    assert model.covariates == ("promotion=leaflet", "promotion=multi_buy")
    by_step = medians(model, tables).group_by("step").agg(pl.col("q50").sum()).sort("step")["q50"]
    usual = 20.0 * (1 + 2 + 3 + 4 + 5)
    assert (by_step / usual).to_list() == pytest.approx([2.0, 1.0, 1.0, 1.0], abs=0.15)


def test_a_category_that_the_history_lacks_is_told_and_counts_as_none(model, tables):
    context = SALES.context(tables, AS_OF, OPTIONS)
    (note,) = [note for note in SALES.context_notes(tables, context, AS_OF) if "bogof" in note]
    assert note.startswith(
        "The plan has 'bogof' in column 'promotion', which the history lacks: it counts as none."
    )
    none = pl.when(pl.col("promotion") != "bogof").then("promotion").alias("promotion")
    without = {**tables, "plan": tables["plan"].with_columns(none)}
    assert medians(model, without).equals(medians(model, tables))
    keys = SALES.requested_keys(tables, AS_OF, OPTIONS).filter(store="0").collect()
    scores = SALES.score(model, tables, context, keys, AS_OF, OPTIONS)
    assert scores.keys["reason"].unique().to_list() == [
        "'bogof' in column 'promotion' was not seen in training and counts as none"
    ]
    _, notes = whatif.usable(tables["plan"].collect(), tables, AS_OF, HORIZON)
    assert note in notes


def test_a_column_that_is_the_same_in_all_weeks_of_a_key_is_told_and_left_out(tables):
    context = SALES.context(tables, AS_OF, OPTIONS)
    uses = context["categories"].filter(column="brand")["use"]
    assert uses.unique().to_list() == [categories.CONSTANT]
    (note,) = [note for note in SALES.context_notes(tables, context, AS_OF) if "brand" in note]
    assert "sales ingest --skus" in note


def test_the_category_of_most_weeks_is_usual_and_words_of_the_calendar_are_no_flags(tables):
    month = pl.col("week").dt.strftime("%B").alias("month")
    regular = pl.col("promotion").fill_null("regular")
    table = categories.of_history({"history": tables["history"].with_columns(month, regular)}, AS_OF)
    assert table.filter(column="month")["use"].unique().to_list() == [categories.VARIED]
    uses = dict(table.filter(column="promotion").select("category", "use").iter_rows())
    assert uses == {"regular": "usual", "multi_buy": "flag", "leaflet": "flag"}


def test_the_plan_of_an_explanation_names_the_category(model, tables):
    context = SALES.context(tables, AS_OF, OPTIONS)
    rows = medians(model, tables).filter(sku="1")
    explanations = SALES.explain(model, tables, context, rows, AS_OF, OPTIONS)
    assert explanations["plan"].struct.field("promotion").to_list() == ["MULTI  BUY", "leaflet", "", "bogof"]
    assert "promotion: promotion=multi_buy" in explanations["reasons"][0]


def test_few_different_words_are_kept_and_many_are_left_out_and_named():
    count = categories.MOST_CATEGORIES + 1
    raw = pl.DataFrame(
        {
            "sku": [str(i) for i in range(count)],
            "store": "s",
            "week": "2024-01-01",
            "units": 1,
            "kind": ["Deal ", "deal", "", *["none"] * (count - 3)],
            "name": [f"Coffee {'x' * i}" for i in range(count)],
            "price": "cheap",
        }
    ).with_row_index(ROW)
    accepted = TABLES["history"].accept(raw, {})
    assert accepted.good.sort(pl.col("sku").cast(pl.Int64))["kind"].head(4).to_list() == [
        "Deal",
        "deal",
        None,
        "none",
    ]
    assert accepted.ignored == ("name", "price")
