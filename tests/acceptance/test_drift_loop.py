"""The loop by itself: shift, event, retraining, challenger, promotion, better scores; a bad challenger; a rollback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.registry import bundles
from tasks.storage.store import Store
from tasks.training.retraining import retrainings
from tests.acceptance.test_new_data import Server, events
from tests.conftest import ROOT, wait_until
from tests.levels import NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, TRAINED = date(2024, 1, 1), 40
SHIFT = 8.0


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_records, dask_cluster) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), dask_cluster.scheduler_address)
    server.environment["MLFLOW_TRACKING_URI"] = mlflow_records
    try:
        yield server
    finally:
        server.stop()


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


def run(server: Server, *steps: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of flows of `tests.levels`, run one after another in a process."""
    words = [sys.executable, "-m", "tests.levels", json.dumps(steps)]
    done = subprocess.run(
        words, cwd=ROOT, env=server.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_shift_leads_to_a_better_champion_and_a_bad_challenger_to_none(server, tmp_path):
    store = {"store": str(tmp_path / "store")}
    opened = Store(store["store"])

    def day(number: int) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Ingest up to a day, score and evaluate."""
        source = tmp_path / f"values{number}.parquet"
        values(number).write_parquet(source)
        return ("ingest", {"source": str(source), **store}), ("score", store), ("evaluate", store)

    server.start("serve", "-m", "tests.levels", "serve")
    ingested, scored, evaluated = day(TRAINED)
    first, *quiet = run(server, ingested, ("train", store), scored, evaluated)[1:]
    assert first["promoted"]
    assert quiet[-1]["drift"]["notes"] == ["Bundle 1 was trained on data up to 2024-02-09: nothing is newer."]
    wait_until(lambda: server.ask("automations"), 90, "the deployment's trigger is there")

    seen = run(server, *day(TRAINED + 2))[-1]
    assert seen["drift"]["drifted"] == ["value"]
    wait_until(lambda: server.started_by(NAME), 120, "the event starts a training")
    wait_until(
        lambda: server.started_by(NAME)[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), 240, "it ends"
    )
    (training,) = server.started_by(NAME)
    assert training["state_type"] == "COMPLETED", (server.folder / "serve.log").read_text()[-4000:]
    ((event,),) = [events(server, "almanac.levels.drifted")]
    assert training["parameters"]["reason"] == event["payload"]["reason"]
    (asked,) = retrainings(opened, "levels").to_dicts()
    assert (asked["granted"], asked["bundle"], asked["promoted"]) == (True, 2, True)
    assert asked["reason"].startswith("Drifted as of 2024-02-11, against bundle 1: value (PSI ")
    assert bundles.champion(opened, "levels") == 2

    bad, *_ = run(server, ("train", {"spoilt_by": 50.0, **store}), *day(TRAINED + 5), *day(TRAINED + 6))
    assert not bad["promoted"]
    assert "of champion 2" in bad["reason"]
    assert bundles.champion(opened, "levels") == 2
    error = mean_error_by_bundle(opened)
    assert error[2] < error[1] / 2
    assert len(server.started_by(NAME)) == 1

    back, scored = run(
        server, ("rollback", {"reason": "The shift was a mistake.", **store}), ("score", store)
    )
    assert (back["champion"], back["before"]) == (1, 2)
    assert scored["bundle"] == 1
    known = bundles.events(opened, "levels")
    assert known is not None
    assert known.filter(event="promoted")["bundle"].to_list() == [1, 2, 1]
    (taken_back,) = known.filter(event=bundles.ROLLED_BACK).to_dicts()
    assert (taken_back["bundle"], taken_back["reason"]) == (2, "The shift was a mistake.")
    assert known.filter(event="registered")["bundle"].to_list() == [1, 2, 3]


def mean_error_by_bundle(store: Store) -> dict[int, float]:
    """Of the published values whose outcome is known, after the shift."""
    rows = (
        store.scan("levels/evaluations")
        .filter(~pl.col("pending"), pl.col("as_of") > date(2024, 2, 9))
        .collect()
    )
    error = rows.group_by("bundle").agg((pl.col("value") - pl.col("actual")).abs().mean().alias("error"))
    return dict(error.select("bundle", "error").iter_rows())
