import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import metrics

AMOUNT = st.floats(0, 1e6, allow_nan=False)
ROWS = st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT), min_size=1, max_size=30)
QUANTILES = {"low": 0.05, "middle": 0.5, "high": 0.95}


def frame(rows: list[tuple[float, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["y", *QUANTILES], orient="row")


def value(rows: pl.DataFrame, measure: pl.Expr) -> float | None:
    return rows.select(measure).item()


@settings(max_examples=60)
@given(ROWS)
def test_pinball_loss_is_what_its_definition_says(rows):
    total = 0.0
    for y, *forecasts in rows:
        for q, forecast in zip(QUANTILES.values(), forecasts, strict=True):
            total += q * (y - forecast) if y >= forecast else (1 - q) * (forecast - y)
    units = sum(y for y, *_ in rows)
    loss = value(frame(rows), metrics.pinball("y", QUANTILES))
    if units > 0:
        assert loss == pytest.approx(total / 3 / units, rel=1e-9, abs=1e-12)
    else:
        assert loss is None


@settings(max_examples=60)
@given(ROWS)
def test_point_errors_are_what_their_definitions_say(rows):
    units = sum(y for y, *_ in rows)
    errors = [(middle - y, y) for y, _, middle, _ in rows]
    measures = frame(rows).select(
        wape=metrics.wape("y", "middle"), bias=metrics.bias("y", "middle"), mape=metrics.mape("y", "middle")
    )
    shares = [abs(e) / y for e, y in errors if y > 0]
    if units > 0:
        assert measures["wape"][0] == pytest.approx(sum(abs(e) for e, _ in errors) / units, rel=1e-9)
        assert measures["bias"][0] == pytest.approx(sum(e for e, _ in errors) / units, rel=1e-6, abs=1e-9)
        assert measures["mape"][0] == pytest.approx(sum(shares) / len(shares), rel=1e-9)
    else:
        assert measures.row(0) == (None, None, None)


def test_a_perfect_forecast_loses_nothing_and_any_other_loses_something():
    perfect, off = frame([(5.0, 5.0, 5.0, 5.0)]), frame([(5.0, 4.0, 5.0, 5.0)])
    assert value(perfect, metrics.pinball("y", QUANTILES)) == 0
    assert value(off, metrics.pinball("y", QUANTILES)) > 0


def test_the_median_of_the_data_has_the_least_pinball_loss_of_its_level():
    actuals = [1.0, 2.0, 3.0, 10.0, 50.0]
    losses = {
        point: pl.DataFrame({"y": actuals})
        .select(metrics.pinball_loss(pl.col("y"), pl.lit(point), 0.5).sum())
        .item()
        for point in actuals
    }
    assert min(losses, key=lambda point: losses[point]) == 3.0


def test_coverage_counts_the_ends_of_the_band():
    rows = frame([(1.0, 1.0, 2.0, 3.0), (3.0, 1.0, 2.0, 3.0), (3.1, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0)])
    assert value(rows, metrics.coverage("y", "low", "high")) == 0.5


def test_bands_are_pairs_of_mirrored_quantiles():
    assert metrics.bands((0.05, 0.25, 0.5, 0.75, 0.95)) == {90: (0.05, 0.95), 50: (0.25, 0.75)}
    assert metrics.bands((0.1, 0.5, 0.8)) == {}


def test_slices_hold_the_measures_of_their_rows():
    rows = frame([(1.0, 1.0, 2.0, 3.0), (4.0, 1.0, 2.0, 3.0), (9.0, 1.0, 2.0, 3.0)])
    rows = rows.with_columns(kind=pl.Series(["b", "a", "b"]), step=pl.Series([1, 2, 2]))
    slices = metrics.by_slice(rows, {"rows": pl.len(), "units": pl.col("y").sum()}, [None, "kind", "step"])
    assert slices.columns == ["slice", "value_of_slice", "metric", "value"]
    values = {(s, v, m): x for s, v, m, x in slices.iter_rows()}
    assert values[("all", "all", "rows")] == 3
    assert values[("kind", "a", "units")] == 4
    assert values[("kind", "b", "units")] == 10
    assert values[("step", "2", "units")] == 13
    assert slices.filter(slice="kind", metric="rows")["value_of_slice"].to_list() == ["a", "b"]
