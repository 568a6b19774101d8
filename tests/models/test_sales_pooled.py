import json

import numpy as np
import pytest

from models.sales import pooled
from models.sales.demand import from_log, to_log
from models.sales.options import Options

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
NAMES = ("depth", "deal", "others_deal", "noise", "size")


def sales(seed: int, n: int):
    """Log ratios whose centre rises with the depth and the flag, and whose spread is wide where flagged."""
    rng = np.random.default_rng(seed)
    deal = (rng.random(n) < 0.3).astype(float)
    values = np.stack(
        [rng.uniform(0, 0.5, n), deal, rng.random(n), rng.normal(size=n), rng.normal(size=n)], axis=1
    )
    target = 3 * values[:, 0] + 0.5 * deal - 0.4 * values[:, 2] + rng.normal(0, 0.2 + 0.6 * deal)
    return values.astype(np.float32), target, rng.integers(0, 60, n)


@pytest.fixture(scope="module")
def fitted() -> pooled.Pooled:
    values, target, weeks = sales(1, 6000)
    return pooled.fit(values, target, weeks, NAMES, ["deal"], Options(quantiles=LEVELS, seed=3, threads=1))


@pytest.fixture(scope="module")
def unseen():
    return sales(2, 6000)


def test_quantiles_hold_what_they_say_on_unseen_rows(fitted, unseen):
    values, target, _ = unseen
    quantiles = fitted.predict(values, 1)
    for i, level in enumerate(LEVELS):
        assert (target < quantiles[:, i]).mean() == pytest.approx(level, abs=0.03)


def test_the_spread_follows_the_rows(fitted, unseen):
    values, _, _ = unseen
    quantiles = fitted.predict(values, 1)
    width = quantiles[:, 4] - quantiles[:, 0]
    assert width[values[:, 1] == 1].mean() > 1.8 * width[values[:, 1] == 0].mean()


def test_quantiles_never_cross(fitted, unseen):
    assert (np.diff(fitted.predict(unseen[0], 1), axis=1) >= 0).all()


@pytest.mark.parametrize(("column", "direction"), [(0, 1), (1, 1), (2, -1)])
def test_the_centre_never_moves_against_a_promotion(fitted, unseen, column, direction):
    low, high = unseen[0].copy(), unseen[0].copy()
    low[:, column], high[:, column] = 0.0, 0.5
    change = fitted.location.predict(high) - fitted.location.predict(low)
    assert (direction * change >= -1e-12).all()
    assert (direction * change).mean() > 0.02


def test_a_row_is_the_same_to_the_bit_alone_in_company_and_on_any_threads(fitted, unseen):
    values = unseen[0][:500]
    together = fitted.predict(values, 1)
    assert np.array_equal(fitted.predict(values, 2), together)
    for row in (0, 7, 499):
        assert np.array_equal(fitted.predict(values[row : row + 1], 1)[0], together[row])


def test_the_same_rows_make_the_same_model_on_any_threads(fitted):
    values, target, weeks = sales(1, 6000)
    again = pooled.fit(values, target, weeks, NAMES, ["deal"], Options(quantiles=LEVELS, seed=3, threads=2))
    assert np.array_equal(again.predict(values, 1), fitted.predict(values, 1))


def test_a_model_read_from_its_files_in_whatever_order_predicts_the_same(fitted, unseen):
    files = fitted.files("pooled")
    assert all(isinstance(content, str | dict) for content in files.values())
    restored = pooled.read(json.loads(json.dumps(files, sort_keys=True)), "pooled", LEVELS)
    assert restored is not None
    assert restored.features == NAMES
    assert np.array_equal(restored.predict(unseen[0], 1), fitted.predict(unseen[0], 1))
    assert pooled.read(files, "pooled_no_plan", LEVELS) is None


def test_missing_features_are_no_error(fitted, unseen):
    values = unseen[0][:50].copy()
    values[:, :3] = np.nan
    assert np.isfinite(fitted.predict(values, 1)).all()


def test_the_log_scale_returns_units_and_knows_zero():
    units, level = np.array([0.0, 0.5, 7.0, 1e6]), np.array([3.0, 0.5, 7.0, 100.0])
    assert from_log(to_log(units, level), level) == pytest.approx(units, abs=1e-9)
    assert from_log(np.array([-50.0]), np.array([4.0])).tolist() == [0.0]
