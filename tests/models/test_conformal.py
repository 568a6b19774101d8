import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sales import conformal

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BY = ["kind", "part"]


def held_out(values: np.ndarray, actual: np.ndarray, kind: np.ndarray, part: np.ndarray) -> pl.DataFrame:
    columns = {f"r{i}": actual - values[:, i] for i in range(values.shape[1])}
    return pl.DataFrame({"kind": kind, "part": part, "week": np.arange(len(actual)), **columns})


def market(rng: np.random.Generator, n: int):
    """Forecasts that are too narrow and too low, differently for each kind, and actuals."""
    kind = rng.choice(["calm", "wild"], n, p=[0.8, 0.2])
    part = rng.integers(0, 2, n)
    wide = np.where(kind == "wild", 3.0, 1.0)
    actual = rng.normal(0.5, 1.0, n) * wide
    values = np.quantile(rng.normal(0, 0.4, 4000), LEVELS)[None, :] * np.ones((n, 1))
    return values, actual, kind, part


def test_calibrated_quantiles_hold_what_they_say_on_unseen_rows_of_each_group():
    rng = np.random.default_rng(1)
    values, actual, kind, part = market(rng, 6000)
    offsets = conformal.fit_offsets(held_out(values, actual, kind, part), LEVELS, BY, ["week"])
    values, actual, kind, part = market(rng, 20000)
    quantiles = conformal.calibrated(values, pl.DataFrame({"kind": kind, "part": part}), offsets, BY)
    for name in ("calm", "wild"):
        for i, level in enumerate(LEVELS):
            below = (actual < quantiles[:, i])[kind == name].mean()
            assert below == pytest.approx(level, abs=0.03)
    uncalibrated = (actual < values[:, 4]).mean()
    assert uncalibrated < 0.8


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_calibrated_quantiles_never_cross(seed, n):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=(n, 5)), axis=1)
    kind, part = rng.choice(["a", "b", "c"], n), rng.integers(0, 3, n)
    offsets = conformal.fit_offsets(held_out(values, rng.normal(size=n), kind, part), LEVELS, BY, ["week"])
    quantiles = conformal.calibrated(values, pl.DataFrame({"kind": kind, "part": part}), offsets, BY)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert np.isfinite(quantiles).all()


def test_a_small_group_borrows_from_the_larger_one():
    actual = np.r_[np.zeros(1000), np.full(3, 10.0)]
    kind = np.r_[np.full(1000, "large"), np.full(3, "small")]
    rows = held_out(np.zeros((1003, 1)), actual, kind, np.zeros(1003, int))
    table = conformal.fit_offsets(rows, [0.5], ["kind"], ["week"])
    offset = dict(zip(table["kind"], table["offset0"], strict=True))
    assert offset["large"] == pytest.approx(0, abs=1e-9)
    assert offset["small"] == pytest.approx(10 * 3 / (3 + conformal.BORROWED), rel=0.01)


def test_a_group_of_its_own_borrows_nothing_from_the_errors_of_others():
    actual = np.r_[np.full(1000, 2.0), np.full(3, 10.0)]
    kind = np.r_[np.full(1000, "large"), np.full(3, "few")]
    rows = held_out(np.zeros((1003, 1)), actual, kind, np.zeros(1003, int))
    offsets = conformal.fit_offsets(rows, [0.5], BY, ["week"], alone=["few", "none"])
    groups = pl.DataFrame({"kind": ["large", "few", "none", "other"], "part": [0, 1, 0, 0]})
    quantiles = conformal.calibrated(np.zeros((4, 1)), groups, offsets, BY)[:, 0]
    assert quantiles == pytest.approx([2.0, 10 * 3 / 33, 0.0, 2.0], abs=0.1)


def test_rows_that_share_their_fate_count_once():
    actual, kind = np.full(400, 1.0), np.full(400, "a")
    rows = held_out(np.zeros((400, 1)), actual, kind, np.zeros(400, int))
    many = conformal.fit_offsets(rows, [0.5], ["kind"], ["week"])
    one = conformal.fit_offsets(rows.with_columns(week=pl.lit(1)), [0.5], ["kind"], ["week"])
    assert one["offset0"].max() < 0.1 < many["offset0"].max()


def test_an_unknown_group_takes_the_offsets_of_the_next_larger_one():
    rows = held_out(np.zeros((500, 1)), np.full(500, 2.0), np.full(500, "a"), np.zeros(500, int))
    offsets = conformal.fit_offsets(rows, [0.5], BY, ["week"])
    groups = pl.DataFrame({"kind": ["a", "a", "z"], "part": [0, 9, 0]})
    quantiles = conformal.calibrated(np.zeros((3, 1)), groups, offsets, BY)[:, 0]
    of_kind = offsets.filter(pl.col("kind") == "a", pl.col("part").is_null())["offset0"].item()
    of_all = offsets.filter(pl.col("kind").is_null())["offset0"].item()
    assert quantiles[1] == of_kind
    assert quantiles[2] == of_all
    assert quantiles[0] > quantiles[1] > quantiles[2] > 0


def test_without_offsets_nothing_moves():
    offsets = pl.DataFrame(
        schema={"kind": pl.String, "part": pl.Int64, "clusters": pl.Float64, "offset0": pl.Float64}
    )
    groups = pl.DataFrame({"kind": ["a"], "part": [0]})
    assert conformal.calibrated(np.array([[3.0]]), groups, offsets, BY).tolist() == [[3.0]]
