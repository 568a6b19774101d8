"""Automations as code: the content of `automations.yaml`, applied to the server."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from deployments.declarations import MINE, with_values
from deployments.environment import PROJECT
from deployments.server import automation_facts
from flows.server import ServerError

AUTOMATIONS_FILE = PROJECT / "deployments" / "automations.yaml"
_NOTIFICATION = "send-notification"


def automations(
    client: SyncPrefectClient, values: Mapping[str, str], path: Path = AUTOMATIONS_FILE
) -> list[AutomationCore]:
    """The declared automations.

    Notifications go to the block that `ALMANAC_ALERT_BLOCK` names, and are left out if it is empty: an automation that
    fires is an event of the server in any case.
    """
    name = values["ALMANAC_ALERT_BLOCK"]
    address = {"block_document_id": check_block(client, name)} if name else {}
    result = []
    for one in with_values(yaml.safe_load(path.read_text()), values, path)["automations"]:
        actions = [
            action | (address if action["type"] == _NOTIFICATION else {})
            for action in one["actions"]
            if address or action["type"] != _NOTIFICATION
        ]
        content = {**one, "tags": [MINE], "actions": actions or [{"type": "do-nothing"}]}
        result.append(AutomationCore.model_validate(content))
    return result


def apply_automations(client: SyncPrefectClient, declarations: list[AutomationCore]) -> dict[str, str]:
    """Make the server's automations with the project's tag match the `declarations`; return the action for each, by name.

    An identical automation is not changed. Duplicates of a name, and automations that are no longer declared, are
    removed.
    """
    mine = [one for one in client.read_automations() if MINE in one.tags]
    actions = {}
    for one in declarations:
        same = [other for other in mine if other.name == one.name]
        actions[one.name] = "unchanged" if same else "created"
        for surplus in same[1:]:
            client.delete_automation(surplus.id)
        if not same:
            client.create_automation(one)
        elif automation_facts(same[0]) != automation_facts(one):
            client.update_automation(same[0].id, one)
            actions[one.name] = "updated"
    for other in mine:
        if other.name not in actions:
            client.delete_automation(other.id)
            actions[other.name] = "removed"
    return actions


def check_block(client: SyncPrefectClient, name: str) -> str:
    """The id of a notification block, TYPE/NAME. Raises `ServerError` if the server has no such block."""
    kind, _, document = name.partition("/")
    try:
        return str(client.read_block_document_by_name(document, kind).id)
    except ObjectNotFound:
        raise ServerError(
            f"ALMANAC_ALERT_BLOCK={name}: the server has no such block. Expected TYPE/NAME of a notification block, "
            "such as slack-webhook/ops; create it under Blocks in the UI, or unset the variable."
        ) from None
