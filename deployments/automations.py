"""Automations as code: `automations.yaml` on the server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from deployments.declarations import MINE, filled
from deployments.environment import PROJECT
from deployments.server import comparable
from flows.server import ServerError

AUTOMATIONS_FILE = PROJECT / "deployments" / "automations.yaml"
_NOTIFICATION = "send-notification"


def automations(
    client: SyncPrefectClient, values: Mapping[str, str], path: Path = AUTOMATIONS_FILE
) -> list[AutomationCore]:
    """The declared automations.

    Notifications go to the block that `ALMANAC_ALERT_BLOCK` names, and are left out where it names none: that an
    automation fires is an event of the server in any case.
    """
    block = _block(client, values["ALMANAC_ALERT_BLOCK"])
    found = []
    for one in filled(yaml.safe_load(path.read_text()), values, path)["automations"]:
        actions = [
            _addressed(action, block) for action in one["actions"] if block or action["type"] != _NOTIFICATION
        ]
        content = {**one, "tags": [MINE], "actions": actions or [{"type": "do-nothing"}]}
        found.append(AutomationCore.model_validate(content))
    return found


def apply_automations(client: SyncPrefectClient, wanted: list[AutomationCore]) -> dict[str, str]:
    """Have the server's automations with the project's tag be those `wanted`; what was done to each, by name.

    One that is there and the same is not touched. One of a name that is there twice, or is not wanted any more,
    is removed.
    """
    mine = [one for one in client.read_automations() if MINE in one.tags]
    done = {}
    for one in wanted:
        there = [known for known in mine if known.name == one.name]
        for surplus in there[1:]:
            client.delete_automation(surplus.id)
        if not there:
            client.create_automation(one)
        elif _content(there[0]) != _content(one):
            client.update_automation(there[0].id, one)
        done[one.name] = (
            "created" if not there else "unchanged" if _content(there[0]) == _content(one) else "updated"
        )
    for known in mine:
        if known.name not in done:
            client.delete_automation(known.id)
            done[known.name] = "removed"
    return done


def _content(automation: AutomationCore) -> Any:
    wanted = {"name", "description", "enabled", "tags", "trigger", "actions"}
    return comparable(automation.model_dump(mode="json", include=wanted))


def _addressed(action: Mapping[str, Any], block: str | None) -> dict[str, Any]:
    return {**action, "block_document_id": block} if action["type"] == _NOTIFICATION else dict(action)


def _block(client: SyncPrefectClient, name: str) -> str | None:
    return check_block(client, name) if name else None


def check_block(client: SyncPrefectClient, name: str) -> str:
    """The id of a notification block, TYPE/NAME. Raises `ServerError` where the server has none of that name."""
    kind, _, document = name.partition("/")
    try:
        return str(client.read_block_document_by_name(document, kind).id)
    except ObjectNotFound:
        raise ServerError(
            f"ALMANAC_ALERT_BLOCK={name}: the server has no such block. Expected TYPE/NAME of a notification block, "
            "such as slack-webhook/ops; make it under Blocks in the UI, or leave the variable out."
        ) from None
