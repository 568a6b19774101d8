"""Serves the scoring of machines so that new data starts it: `python -m tests.on_new_data`."""

from typing import Any

from prefect.events import DeploymentEventTrigger

from flows.machines import score

NAME = "on-new-data"


def told(name: str) -> dict[str, Any]:
    """A field of the event's payload with its type; a missing time stays null."""
    template = f"{{{{ event.payload['{name}'] | tojson }}}}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


TRIGGER = DeploymentEventTrigger(
    expect={"almanac.machines.ingested"},
    parameters={"from_": told("from"), "to": told("to"), "store": told("store")},
)

if __name__ == "__main__":
    score.serve(name=NAME, triggers=[TRIGGER])
