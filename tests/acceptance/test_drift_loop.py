"""The loop by itself: shift, event, retraining, challenger, promotion, better scores; a bad challenger; a rollback."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.registry import bundles
from tasks.storage.store import Store
from tasks.training.retraining import retrainings
from tests import levels, steps
from tests.levels import LEVELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, TRAINED = date(2024, 1, 1), 40
SHIFT = 8.0


def values(days: int) -> pl.DataFrame:
    """Values of 30 names; from day `TRAINED` on they are `SHIFT` higher."""
    rng = np.random.default_rng(4)
    noise = rng.normal(20, 1, (100, 30))[:days]
    return pl.DataFrame(
        [
            {
                "name": f"n{name:02d}",
                "at": FIRST + timedelta(days=day),
                "value": value + SHIFT * (day >= TRAINED),
            }
            for day, row in enumerate(noise)
            for name, value in enumerate(row)
        ]
    )


def test_a_shift_leads_to_a_better_champion_and_a_bad_challenger_to_none(serve, tmp_path, without_run_logger):
    data_store = Store(str(tmp_path / "store"))

    def publish(days: int) -> None:
        """Score the last of so many days."""
        steps.put(data_store, values(days), LEVELS, shards=2)
        steps.score(data_store, scenario=LEVELS)

    served = serve("tests.levels", levels.NAME)
    steps.put(data_store, values(TRAINED), LEVELS, shards=2)
    assert steps.train(data_store, scenario=LEVELS)[1].promoted
    publish(TRAINED)
    quiet = levels.evaluate(data_store.uri)
    assert quiet["drift"]["notes"] == [
        "Bundle 1 was trained on data up to 2024-02-09: there is no newer data."
    ]

    publish(TRAINED + 2)
    assert levels.evaluate(data_store.uri)["drift"]["drifted"] == ["value"]
    training = served.completed()
    (event,) = served.events("almanac.levels.drifted")
    assert training["parameters"]["reason"] == event["payload"]["reason"]
    (request,) = retrainings(data_store, "levels").to_dicts()
    assert (request["granted"], request["bundle"], request["promoted"]) == (True, 2, True)
    assert request["reason"].startswith("Drifted as of 2024-02-11, against bundle 1: value (PSI ")
    assert bundles.champion(data_store, "levels") == 2

    _, bad = steps.train(data_store, scenario=LEVELS, spoilt_by=50.0)
    publish(TRAINED + 5)
    publish(TRAINED + 6)
    levels.evaluate(data_store.uri)
    assert not bad.promoted
    assert "of champion 2" in bad.reason
    assert bundles.champion(data_store, "levels") == 2
    error = mean_error_by_bundle(data_store)
    assert error[2] < error[1] / 2
    assert len(served.runs()) == 1

    back = levels.rollback(reason="The shift was a mistake.", store=data_store.uri)
    assert (back["champion"], back["before"]) == (1, 2)
    assert steps.resolve(data_store, scenario=LEVELS).bundle == 1
    events = bundles.events(data_store, "levels")
    assert events is not None
    assert events.filter(event="promoted")["bundle"].to_list() == [1, 2, 1]
    (taken_back,) = events.filter(event=bundles.ROLLED_BACK).to_dicts()
    assert (taken_back["bundle"], taken_back["reason"]) == (2, "The shift was a mistake.")
    assert events.filter(event="registered")["bundle"].to_list() == [1, 2, 3]


def mean_error_by_bundle(store: Store) -> dict[int, float]:
    """The loss of the published values whose outcome is known, after the shift."""
    rows = (
        store.scan("levels/evaluations")
        .filter(~pl.col("pending"), pl.col("as_of") > date(2024, 2, 9))
        .collect()
    )
    error = rows.group_by("bundle").agg((pl.col("value") - pl.col("actual")).abs().mean().alias("error"))
    return dict(error.select("bundle", "error").iter_rows())
