"""Packing an explorer's series: reading them back gives the same values."""

import dataclasses
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.page.blocks import Band, Explorer, Line, Track
from models.page.explorer import COARSE, FINE, pack, quantise
from tests.explorers import values_of

START = date(2024, 1, 1)
numbers = st.floats(-1e9, 1e9, allow_nan=False, width=32) | st.just(float("nan"))
series = st.integers(1, 5).flatmap(lambda n: arrays(np.float64, (n, 3, 4), elements=numbers))


def frame(values: dict[tuple[str, str], list[float | None]], shard: bool = False) -> pl.LazyFrame:
    """A row for each week from the first one on; none where the value is None."""
    rows = [
        (sku, store, START + timedelta(weeks=t), value)
        for (sku, store), line in values.items()
        for t, value in enumerate(line)
        if value is not None
    ]
    schema = {"sku": pl.String, "store": pl.String, "week": pl.Date, "value": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row").lazy()
    return table.with_columns(pl.col("sku").str.len_bytes().cast(pl.Int64).alias("shard")) if shard else table


def explorer(*tracks: pl.LazyFrame) -> Explorer:
    lines = [Track(track, Line("value", "Value")) for track in tracks]
    return Explorer({"sku": "SKU", "store": "Store"}, "week", lines)


def key(sku: str, store: str) -> dict[str, str]:
    return {"sku": sku, "store": store}


@given(series, st.sampled_from([COARSE, FINE, 10]))
def test_a_value_is_off_by_at_most_half_a_step_and_a_missing_one_stays_missing(
    values: np.ndarray, levels: int
) -> None:
    codes, origin, step = quantise(values, levels)
    decoded = (origin[:, None, None] + codes - 1.0) * step[:, None, None]
    missing = np.isnan(values)
    assert (codes[missing] == 0).all()
    assert (codes[~missing] > 0).all()
    error = np.abs(decoded - values) / step[:, None, None]
    assert (error[~missing] <= 0.5 + 1e-6).all()


@given(series)
def test_steps_are_as_fine_as_promised(values: np.ndarray) -> None:
    _, _, step = quantise(values, COARSE)
    for one, size in zip(values, step, strict=True):
        finite = one[np.isfinite(one)]
        whole = finite.size == 0 or (finite == np.rint(finite)).all()
        span = np.ptp(finite) if finite.size else 0.0
        span = span or np.abs(finite).max(initial=0.0)
        assert size <= max(span / COARSE * 2.5 * (1 + 1e-9), 1.0 if whole else 0.0) or span == 0


@given(series)
def test_the_order_of_values_survives(values: np.ndarray) -> None:
    codes, _, _ = quantise(values, COARSE)
    for value, code in zip(values.reshape(len(values), -1), codes.reshape(len(values), -1), strict=True):
        finite = np.isfinite(value)
        order = np.argsort(value[finite], kind="stable")
        assert (np.diff(code[finite][order].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0, 0.1, 1e-9, 1e12, 123456.789])
def test_a_constant_series_is_exact_to_a_thousandth(value: float) -> None:
    packed = pack(explorer(frame({("A", "1"): [value] * 5})))
    assert values_of(packed, key("A", "1"), 0)[0] == pytest.approx([value] * 5, rel=1e-3)


def test_whole_numbers_are_exact() -> None:
    line = [0.0, 3.0, 999.0, None, 12.0]
    packed = pack(explorer(frame({("A", "1"): line})))
    values = values_of(packed, key("A", "1"), 0)[0]
    assert [None if np.isnan(v) else v for v in values] == [0.0, 3.0, 999.0, 12.0]


def test_a_week_that_only_one_key_has_is_missing_for_the_other() -> None:
    packed = pack(explorer(frame({("A", "1"): [1.0, 2.0, 3.0], ("B", "1"): [None, 5.0]})))
    assert np.isnan(values_of(packed, key("B", "1"), 0)[0]).tolist() == [True, False, True]
    assert packed.header["tracks"][0]["times"] == ["2024-01-01", "2024-01-08", "2024-01-15"]


def test_a_key_of_any_track_is_there() -> None:
    packed = pack(explorer(frame({("A", "1"): [1.0]}), frame({("B", "2"): [2.0]})))
    assert packed.series == 2
    assert np.isnan(values_of(packed, key("A", "1"), 1)).all()
    assert values_of(packed, key("B", "2"), 1).tolist() == [[2.0]]


@pytest.mark.parametrize("rows", [1, 7, 50, 10_000])
@pytest.mark.parametrize("shard", [False, True])
def test_values_do_not_depend_on_the_batches_or_shards_they_are_read_in(rows: int, shard: bool) -> None:
    rng = np.random.default_rng(5)
    lines = {(f"S{i}", f"{j}"): rng.integers(0, 500, 6).tolist() for i in range(12) for j in range(3)}
    history, other = frame(lines, shard), frame({k: [v[0] / 7] for k, v in lines.items()})
    packed = pack(explorer(history, other), batch_rows=rows)
    assert packed.series == len(lines)
    for (sku, store), line in lines.items():
        assert values_of(packed, key(sku, store), 0)[0].tolist() == line
        assert values_of(packed, key(sku, store), 1)[0, 0] == pytest.approx(line[0] / 7, rel=1e-3)


def test_many_series_are_cut_into_chunks_that_decode_alone() -> None:
    lines = {(f"S{i}", "1"): [float(i), float(i + t)] for t, i in enumerate(range(300))}
    long = {k: v * 100 for k, v in lines.items()}
    packed = pack(explorer(frame(long)))
    assert len(packed.chunks) > 2
    assert values_of(packed, key("S299", "1"), 0)[0].tolist() == long["S299", "1"]


def test_quantiles_of_a_key_do_not_cross_after_packing() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(rng.gamma(0.5, 30.0, (13, 5)), axis=1)
    table = pl.DataFrame(values, schema=["q5", "q25", "q50", "q75", "q95"]).with_columns(
        pl.lit("A").alias("sku"),
        pl.lit("1").alias("store"),
        pl.Series("week", [START + timedelta(weeks=t) for t in range(13)]),
    )
    bands = [Band("q5", "q95", "90 %"), Band("q25", "q75", "50 %")]
    part = Explorer(
        {"sku": "SKU", "store": "Store"},
        "week",
        [Track(table.lazy(), expected=Line("q50", "Median"), bands=bands)],
    )
    decoded = values_of(pack(part), key("A", "1"), 0)
    assert (np.diff(decoded, axis=0) >= 0).all()
    assert np.abs(decoded.T - values).max() <= np.ptp(values) / FINE * 2.5


def test_what_is_said_about_a_key_is_its_own() -> None:
    part = explorer(frame({("A", "1"): [1.0], ("B", "1"): [1.0], ("C", "1"): [1.0]}))
    about = pl.LazyFrame({"sku": ["C", "A"], "store": ["1", "1"], "Reason": ["old", None]})
    header = pack(dataclasses.replace(part, about=about)).header
    assert header["about"][0]["label"] == "Reason"
    assert set(header["about"][0]["labels"]) == {"old", None}


def test_a_key_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(KeyError, match="nobody"):
        values_of(pack(explorer(frame({("A", "1"): [1.0]}))), key("nobody", "1"), 0)


def test_no_rows_are_no_series() -> None:
    packed = pack(explorer(frame({})))
    assert packed.series == 0
    assert packed.chunks == []


def test_keys_that_are_numbers_are_shown_as_text() -> None:
    numbered = frame({("7", "1"): [1.0], ("12", "1"): [2.0]}).with_columns(pl.col("sku").cast(pl.Int64))
    packed = pack(explorer(numbered))
    assert values_of(packed, key("12", "1"), 0).tolist() == [[2.0]]
