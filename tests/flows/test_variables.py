"""Parameters that a deployment omits come from the variables of the Prefect server."""

from typing import Annotated

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.variables import Variable
from pydantic import Field

from flows.limits import INGESTING, SCORING, TRAINING, limited
from flows.parameters import ParameterError
from flows.reading import ingests
from models.addresses import CredentialError


@limited(SCORING, name="devices-score")
def score(
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001, store: str | None = None
) -> tuple[float, str | None]:
    return alpha, store


@limited(INGESTING, name="devices-ingest")
def ingest(source: str, shards: int = 1, store: str | None = None) -> dict[str, list[str | int | None]]:
    return {"read": [source, shards, store]}


@limited(TRAINING, name="devices-run")
@ingests(ingest)
def run_all(ingested: dict[str, list[str]], alpha: float = 0.001, store: str | None = None) -> list[object]:
    return [*ingested["read"], alpha, store]


@pytest.fixture
def run(prefect_api):
    """`run(alpha=…)`: the result of a deployment's run with these parameters; `set` sets variables until it ends."""
    set_here: list[str] = []

    def started(flow=score, **parameters):
        with get_client(sync_client=True) as client:
            return run_flow(flow, flow_run=client.create_flow_run(flow, parameters=parameters))

    def hold(**values):
        set_here.extend(values)
        for name, value in values.items():
            Variable.set(name, value, overwrite=True)

    started.hold = hold
    yield started
    for name in set_here:
        Variable.unset(name)


def test_what_nobody_gave_comes_from_the_most_precise_variable(run):
    assert run() == (0.001, None)
    run.hold(almanac_store="az://all", almanac_alpha=0.5, almanac_devices_score_alpha="0.01")
    run.hold(almanac_devices_alpha=0.02, almanac_sales_store="az://other")
    assert run() == (0.01, "az://all")
    assert run(alpha=0.1) == (0.1, "az://all")
    assert score(store=None) == (0.001, None), "someone at a terminal has what stands there"


def test_a_run_has_the_parameters_of_its_ingest_and_takes_its_own_variables_only(run):
    run.hold(almanac_devices_run_shards=4, almanac_devices_ingest_shards=8, almanac_devices_run_alpha=0.02)
    assert run(run_all, source="readings") == ["readings", 4, None, 0.02, None]


def test_a_variable_that_the_parameter_cannot_have_is_named(run):
    run.hold(almanac_devices_alpha=7)
    with pytest.raises(ParameterError, match=r"(?s)variable of the Prefect server.*alpha.*less than 1"):
        run()


def test_a_key_in_a_variable_is_refused_and_not_repeated(run):
    run.hold(almanac_store="az://store?sig=hush")
    with pytest.raises(CredentialError, match=r"^The variable almanac_store carries a credential") as error:
        run()
    assert "hush" not in str(error.value)
