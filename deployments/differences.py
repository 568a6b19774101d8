"""The differences between `prefect.yaml` and the server, and their correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import DeploymentTriggerTypes
from prefect.utilities.importtools import load_script_as_module
from pydantic import TypeAdapter

from deployments.server import automation_facts, ours, triggers

GONE = "deployment"
SCHEDULE = "schedule "
TRIGGER = "trigger "


@dataclass(frozen=True)
class Difference:
    """A fact of a deployment that is `file` in the file and `server` on the server; None if it is absent there."""

    deployment: str
    fact: str
    file: Any
    server: Any

    def __str__(self) -> str:
        if self.file is None:
            return f"{self.deployment}: {self.fact} is only on the server: {_short(self.server)}"
        if self.server is None:
            return f"{self.deployment}: {self.fact} is only in the file: {_short(self.file)}"
        return f"{self.deployment}: {self.fact} is {_short(self.file)} in the file, {_short(self.server)} on the server"


def deployments_by_name(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The declared deployments by flow and name, as on the server: FLOW/NAME."""
    return {f"{_flow_name(one['entrypoint'])}/{one['name']}": one for one in content["deployments"]}


def _flow_name(entrypoint: str) -> str:
    path, _, flow = entrypoint.rpartition(":")
    return str(getattr(_script(path), flow).name)


_script = cache(load_script_as_module)
"""The module of a file of flows, which Prefect runs anew each time."""


def differences(client: SyncPrefectClient, content: Mapping[str, Any], pool: str) -> list[Difference]:
    """All differences between the declared deployments and those of the project on the server."""
    declarations, there = deployments_by_name(content), ours(client, pool)
    result = []
    for name in sorted({*declarations, *there}):
        if name not in there:
            result.append(Difference(name, GONE, "declared", None))
        elif name not in declarations:
            result.append(Difference(name, GONE, None, f"created {there[name].created:%Y-%m-%d}"))
        else:
            server = _on_server(client, there[name])
            file = _in_file(declarations[name], there[name], content.get("pull"))
            result += [
                Difference(name, fact, file.get(fact), server.get(fact))
                for fact in sorted({*file, *server})
                if file.get(fact) != server.get(fact)
            ]
    return result


def remove(
    client: SyncPrefectClient, all_differences: Sequence[Difference], pool: str, *kinds: str
) -> list[Difference]:
    """Remove what only the server has; return these differences.

    `kinds` are `SCHEDULE`, with the runs that it scheduled; `TRIGGER`, an automation that runs a deployment; and `GONE`,
    a deployment of the project.
    """
    there = ours(client, pool)
    surplus = [one for one in all_differences if one.fact.startswith(kinds) and one.file is None]
    for one in surplus:
        deployment = there[one.deployment]
        if one.fact == GONE:
            client.delete_deployment(deployment.id)
        elif one.fact.startswith(TRIGGER):
            client.delete_automation(triggers(client, deployment)[one.fact.removeprefix(TRIGGER)].id)
        for schedule in deployment.schedules:
            if _name_of(schedule) == one.fact:
                client.delete_deployment_schedule(deployment.id, schedule.id)
    return surplus


def _in_file(one: Mapping[str, Any], server: DeploymentResponse, pull: Any) -> dict[str, Any]:
    limit = one.get("concurrency_limit") or {}
    facts = {
        "entrypoint": one["entrypoint"],
        "description": (one.get("description") or "").strip(),
        "tags": sorted(one["tags"]),
        "parameters": one["parameters"],
        "parameters are checked": one.get("enforce_parameter_schema", True),
        "concurrency": f"{limit.get('limit')} {limit.get('collision_strategy')}",
        "queue": one["work_pool"].get("work_queue_name", "default"),
        "job variables": one["work_pool"]["job_variables"],
        "pull": one.get("pull", pull),
        "paused": one.get("paused", False),
    }
    for schedule in one.get("schedules") or []:
        facts[SCHEDULE + schedule["slug"]] = _schedule(
            schedule["cron"], schedule["timezone"], schedule["active"], schedule.get("parameters")
        )
    for spec in one.get("triggers") or []:
        trigger: Any = TypeAdapter(DeploymentTriggerTypes).validate_python(spec)
        trigger.set_deployment_id(server.id)
        facts[TRIGGER + str(trigger.name)] = automation_facts(trigger.as_automation())
    return facts


def _on_server(client: SyncPrefectClient, one: DeploymentResponse) -> dict[str, Any]:
    limit, options = one.global_concurrency_limit, one.concurrency_options
    facts = {
        "entrypoint": one.entrypoint,
        "description": (one.description or "").strip(),
        "tags": sorted(one.tags),
        "parameters": one.parameters,
        "parameters are checked": one.enforce_parameter_schema,
        "concurrency": f"{limit and limit.limit} {options and options.collision_strategy.value}",
        "queue": one.work_queue_name,
        "job variables": one.job_variables,
        "pull": one.pull_steps,
        "paused": one.paused,
    }
    for schedule in one.schedules:
        when: Any = schedule.schedule
        facts[_name_of(schedule)] = _schedule(
            getattr(when, "cron", repr(when)), when.timezone, schedule.active, schedule.parameters
        )
    for name, automation in triggers(client, one).items():
        facts[TRIGGER + name] = automation_facts(automation)
    return facts


def _name_of(schedule: Any) -> str:
    return SCHEDULE + (schedule.slug or str(schedule.id))


def _schedule(cron: str, timezone: str | None, active: bool, parameters: Any) -> str:
    suffix = f" with {parameters}" if parameters else ""
    return f"'{cron}' {timezone or 'UTC'} {'on' if active else 'off'}{suffix}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"
