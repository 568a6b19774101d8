"""Three weeks of the real sales, in the order in which they came: forecast, evaluated, and measured by hand."""

from datetime import date, timedelta

import polars as pl
import pytest

from tasks.storage.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WEEKS, STORES, SKUS = 3, 6, 3
QUANTILES = {"q5": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


@pytest.fixture(scope="module")
def weeks(command, orange_juice, tmp_path_factory):
    """The store after these weeks, and what each evaluation printed."""
    folder = tmp_path_factory.mktemp("weeks")
    where = ["--store", folder / "store", "--json"]

    def sales(*words):
        output = command("sales", *words, *where)
        assert output.status == 0, output.err
        return output.json

    def ingest(rows: pl.DataFrame, *words) -> None:
        rows.write_parquet(folder / "sales.parquet")
        sales("ingest", "--source", folder / "sales.parquet", *words)

    history = pl.read_parquet(orange_juice / "sales.parquet")
    stores = history["store"].unique().sort().head(STORES)
    skus = history["sku"].unique().sort().head(SKUS)
    history = history.filter(pl.col("store").is_in(stores.implode()), pl.col("sku").is_in(skus.implode()))
    begin = history["week"].max() - timedelta(weeks=WEEKS)
    ingest(history.filter(pl.col("week") <= begin), "--shards", "2")
    sales("train", "--training-rows", "2000", "--horizon", "2")
    evaluations = []
    for number in range(WEEKS):
        week = begin + timedelta(weeks=number)
        sales("forecast", "--as-of", week)
        ingest(history.filter(pl.col("week") == week + timedelta(weeks=1)))
        evaluations.append(sales("evaluate"))
    return Store(str(folder / "store")), evaluations, history


def by_hand(store: Store, history: pl.DataFrame) -> pl.DataFrame:
    """Published rows with the units that were then sold, from the tables themselves."""
    actual = history.select(pl.col("sku", "store").cast(pl.String), pl.col("week").cast(pl.Date), "units")
    return store.scan("sales/forecasts").collect().join(actual, on=["sku", "store", "week"])


def figures(rows: pl.DataFrame) -> dict[str, float]:
    """Pinball loss, WAPE and bias per unit sold, and coverage, by their definitions."""
    units = rows["units"]
    losses = [
        ((units - rows[name]) * q).zip_with(units >= rows[name], (rows[name] - units) * (1 - q))
        for name, q in QUANTILES.items()
    ]
    inside = {90: ("q5", "q95"), 50: ("q25", "q75")}
    return {
        "rows": float(rows.height),
        "pinball": sum(loss.sum() for loss in losses) / len(losses) / units.sum(),
        "wape": (units - rows["q50"]).abs().sum() / units.sum(),
        "bias": (rows["q50"] - units).sum() / units.sum(),
        **{f"coverage_{share}": units.is_between(rows[low], rows[high]).mean() for share, (low, high) in inside.items()},
    }  # fmt: skip


def test_each_evaluation_covers_what_was_still_pending_and_what_is_new(weeks):
    _, evaluations, history = weeks
    assert [one["judged"] for one in evaluations] == [1, 2, 2]
    assert evaluations[-1]["observed_until"] == str(history["week"].max())
    assert all(one["left"] == 0 for one in evaluations)


def test_every_published_row_is_judged_once_by_the_units_that_were_then_sold(weeks):
    store, _, history = weeks
    rows = store.scan("sales/evaluations").collect()
    place = ["as_of", "sku", "store", "week"]
    assert rows.height == store.scan("sales/forecasts").collect().height
    assert rows.select(place).is_unique().all()
    hand = by_hand(store, history).sort(place)
    complete = rows.filter(pl.col("units").is_not_null()).sort(place)
    assert complete.select(*place, "bundle", "run_id", *QUANTILES, "units").equals(
        hand.select(*place, "bundle", "run_id", *QUANTILES, "units")
    )
    assert rows.filter("pending")["week"].min() > history["week"].max()


def test_the_evaluation_equals_the_same_metrics_by_a_few_plain_lines_over_the_tables(weeks):
    store, evaluations, history = weeks
    rows = by_hand(store, history)
    last = store.scan("sales/measures").filter(run_id=evaluations[-1]["run_id"]).collect()
    covered = rows.filter(
        pl.col("as_of").is_between(*map(date.fromisoformat, (evaluations[-1]["from"], evaluations[-1]["to"])))
    )

    def measured(name: str, value: object) -> dict[str, float]:
        of = last.filter(slice=name, value_of_slice=str(value))
        return dict(of.select("metric", "value").iter_rows())

    slices = {"all": [("all", covered)]}
    for name in ("week", "step", "sku"):
        slices[name] = [(value, covered.filter(pl.col(name) == value)) for value in covered[name].unique()]
    for name, values in slices.items():
        for value, of in values:
            measures = measured(name, value)
            for metric, figures_by_hand in figures(of).items():
                assert measures[metric] == pytest.approx(figures_by_hand, rel=1e-9), (name, value, metric)
    printed = evaluations[-1]["metrics"]["all"]
    assert printed["pinball"] == pytest.approx(figures(covered)["pinball"], abs=1e-4)


def test_evaluating_it_all_again_changes_no_row(weeks, command):
    store, _, _ = weeks
    before = store.scan("sales/evaluations").collect()
    again = command("sales", "evaluate", "--from", "1990-01-01", "--store", store.uri, "--json")
    assert again.status == 0, again.err
    assert again.json["judged"] == WEEKS
    assert store.scan("sales/evaluations").collect().sort(before.columns).equals(before.sort(before.columns))
    nothing = command("sales", "evaluate", "--store", store.uri, "--json").json
    assert nothing["judged"] == 0
    assert "has been judged by what is known now" in nothing["notes"][0]
