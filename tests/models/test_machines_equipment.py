"""Machines of several types: which components they have."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.machines.equipment import missing_components
from models.machines.rates import base_rates
from models.machines.scenario import MACHINES

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
END = START + 99 * DAY
TIMES = [START + n * DAY for n in range(100)]


def telemetry(trucks: int, pumps: int, since: int = 0) -> pl.DataFrame:
    """Readings of trucks, which send `rpm`, and of pumps, which send `flow` from day `since` on."""
    frames = [
        pl.DataFrame({"machine_id": f"{kind}{i}", "time": TIMES[first:], sensor: 1.0})
        for kind, many, sensor, first in (("truck", trucks, "rpm", 0), ("pump", pumps, "flow", since))
        for i in range(many)
    ]
    return pl.concat(frames, how="diagonal").with_columns(shard=pl.lit(0))


def records(kind: str, component: str, machines: int, each: int) -> pl.DataFrame:
    rows = [
        (f"{kind}{i}", START + (5 + 7 * n + i) * DAY, component) for i in range(machines) for n in range(each)
    ]
    schema = {"machine_id": pl.String, "time": pl.Datetime("us", "UTC"), "component": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def missing(failures: pl.DataFrame, fleet: pl.DataFrame, **tables: pl.DataFrame) -> list[tuple[str, str]]:
    frames = {"telemetry": fleet, "failures": failures, **tables}
    rows = missing_components({name: frame.lazy() for name, frame in frames.items()}, END - 28 * DAY, END)
    return sorted({(machine[:4], component) for machine, component in rows.rows()})


def test_a_machine_has_no_component_that_only_machines_with_other_sensors_have():
    failures = pl.concat([records("truck", "engine", 5, 4), records("pump", "seal", 5, 4)])
    fleet = telemetry(5, 5)
    assert missing(failures, fleet) == [("pump", "engine"), ("truc", "seal")]
    tables = {"telemetry": fleet.lazy(), "failures": failures.lazy()}
    keys = MACHINES.requested_keys(tables, END, {}).collect()
    assert set(keys.select(pl.col("machine_id").str.head(4), "component").rows()) == {
        ("pump", "seal"),
        ("truc", "engine"),
    }
    every = MACHINES.requested_keys(tables, END, {}).collect()
    gaps = MACHINES.gaps(tables, MACHINES.context(tables, END, {}), every, END, {}).filter(
        finding="without component"
    )
    assert gaps["machines"].to_list() == [10]
    assert "pump0: no engine" in gaps["examples"].item()


def test_the_model_is_the_type_where_it_is_on_record():
    fleet = telemetry(10, 0)
    models = pl.DataFrame({"machine_id": [f"truck{i}" for i in range(10)], "model": ["A"] * 5 + ["B"] * 5})
    failures = records("truck", "gearbox", 5, 4)
    assert missing(failures, fleet) == []
    assert missing(failures, fleet, machines=models) == [("truc", "gearbox")]


@pytest.mark.parametrize(
    ("having", "each", "fleet"),
    [
        (1, 12, telemetry(5, 5)),
        (5, 1, telemetry(5, 5)),
        (5, 4, telemetry(5, 5, since=95)),
        (2, 8, telemetry(2, 2)),
    ],
    ids=["one that fails often", "few records", "new machines", "few machines"],
)
def test_without_evidence_a_machine_may_have_any_component(having, each, fleet):
    assert missing(records("truck", "engine", having, each), fleet) == []


def test_machines_without_a_component_are_no_healthy_examples_of_it():
    failures = pl.concat([records("truck", "engine", 8, 10), records("pump", "seal", 8, 10)])
    fleet, rng = telemetry(8, 8), np.random.default_rng(4)
    fleet = fleet.with_columns(noise=pl.Series(rng.normal(size=fleet.height)))
    tables = {"telemetry": fleet.lazy(), "failures": failures.lazy()}
    options = {"horizons_hours": [168]}
    context = MACHINES.context(tables, END, options)
    context |= MACHINES.training_context(tables, context, END, options)
    parts = {
        name: frame.lazy() for name, frame in MACHINES.prepare_shard(tables, context, END, options).items()
    }
    result = MACHINES.fit(parts, context, END, options)
    model = MACHINES.load(result.files)
    assert model.vocabulary.sensors == ("flow", "noise", "rpm")
    trucks = parts["rows"].filter(pl.col("machine_id").str.starts_with("truck"))
    rates = base_rates(trucks, ["engine"], 168)
    assert {risk.component: risk.base_rate for risk in model.risks}["engine"] == pytest.approx(
        rates["engine"]
    )
    judged_rows = MACHINES.evaluate(model, tables, context, END, options)
    for rows in (result.backtest, judged_rows):
        pairs = {(machine[:4], component) for machine, component in rows.select(*MACHINES.key).rows()}
        assert pairs == {("truc", "engine"), ("pump", "seal")}
