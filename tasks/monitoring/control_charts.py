"""Control charts of published rows, and the event that reports their degradation."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import polars as pl
from prefect import task

from models import control
from models.scenario import TALLIES, Event, HasControlCharts, Scenario
from tasks.monitoring.due import judged_so_far
from tasks.registry import bundles
from tasks.scoring.events import emit
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.training.fit import BACKTESTS

CONTROL, DEGRADED = "control", "degraded"


@task(name="control")
def control_points(scenario: Scenario, store: Store) -> pl.DataFrame:
    """The points of all control charts (see `models.control`) from all judged rows; stored in `control`.

    The points before the first published one come from the backtest of the bundle that published it.
    """
    evaluations = judged_so_far(store, scenario.name)
    if evaluations is None or not isinstance(scenario, HasControlCharts):
        return pl.DataFrame(schema=control.CONTROL)
    tallies = evaluations.select(pl.col("tallies").explode()).drop_nulls().unnest("tallies")
    tallies = tallies.select(list(TALLIES)) if tallies.height else pl.DataFrame(schema=TALLIES)
    points = control.points(tallies, _of_backtest(scenario, store, evaluations["bundle"][0]), scenario.charts)
    store.retrying(CONTROL, lambda: _replace(store, Layout(scenario.name).table(CONTROL), points))
    return points


@task(name="announce-degraded")
def announce_degraded(
    scenario: Scenario, store: Store, points: pl.DataFrame, cooldown_days: int
) -> Mapping[str, Any] | None:
    """Emit `almanac.<scenario>.degraded` if the newest point of a chart is outside its limits; return its payload.

    None if no point is, if its period was announced before, or within `cooldown_days` after an announced period. The
    announcement is stored in the table `degraded` after the event was delivered: if a run is killed before that, the
    next run emits the event again under the same id.
    """
    worse = control.newest(points).filter(verdict="degraded")
    if worse.is_empty():
        return None
    period = cast(date, worse["period"].max())
    path = Layout(scenario.name).table(DEGRADED)
    rows = store.find(path)
    last = None if rows is None else rows.select(pl.col("period").max()).collect().item()
    if last is not None and period < max(last + timedelta(days=cooldown_days), last + timedelta(days=1)):
        return None
    columns = ["chart", "series", "period", "value", "centre", "low", "high", "baseline"]
    lines = worse.select(columns).with_columns(pl.col("period").cast(pl.String)).to_dicts()
    summary = ", ".join(
        f"{p['chart']} {p['series']} is {p['value']:.4g}, expected from {p['low']:.4g} to {p['high']:.4g}"
        for p in lines
    )
    reason = f"Degraded in {period}: {summary}."
    payload = {"reason": reason, "period": str(period), "points": lines, "store": store.uri}
    emit(store, scenario.name, Event("degraded", scenario.name, payload), str(period))
    at = pl.DataFrame({"period": [period], "at": [datetime.now(UTC)], "points": [lines]})
    store.append(path, at, once=f"degraded-{period}")
    return payload


def points_so_far(store: Store, scenario: str) -> pl.DataFrame:
    """The table `control`; no rows if nothing has been evaluated yet."""
    points = store.find(Layout(scenario).table(CONTROL))
    return pl.DataFrame() if points is None else points.collect()


def _of_backtest(scenario: Scenario, store: Store, bundle: int) -> pl.DataFrame:
    backtests = store.find(Layout(scenario.name).table(BACKTESTS))
    if backtests is None:
        return pl.DataFrame(schema=TALLIES)
    options = bundles.manifest(store, scenario.name, bundle)["options"]
    assert isinstance(scenario, HasControlCharts), "checked by the caller"
    return scenario.backtest_tallies(backtests.filter(bundle=bundle), options)


def _replace(store: Store, path: str, points: pl.DataFrame) -> None:
    before = store.find(path)
    if before is not None and before.collect().sort("chart", "series", "period").equals(points):
        return
    store.overwrite(path, points)
