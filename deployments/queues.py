"""The work queues of the pool, in the order in which they are served."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient

from deployments.environment import PROCESS

TRAINING = "training"
QUEUES = ("scoring", "ingesting", "default", TRAINING)
"""Due runs are started from the first queue that has any. Scores come first; an ingest that is due at the same time has
the limit of its own deployment, and the next scoring catches up. `default` is for quick and manual runs."""


def limits(kind: str) -> dict[str, int | None]:
    """The maximum number of simultaneous runs of each queue on a pool of type `kind`; None: no limit.

    A worker of processes runs two flows at once on one machine: a single training leaves the other slot to the scores.
    Containers have their own cores and do not wait for each other.
    """
    return {name: 1 if name == TRAINING and kind == PROCESS else None for name in QUEUES}


def apply_queues(client: SyncPrefectClient, pool: str, kind: str) -> dict[str, str]:
    """Create or update the pool's queues, with their order and limits; return the action for each, by name.

    Other queues of the pool are served after those of the project.
    """
    actions = {}
    place = {"work_pool_name": pool}
    for priority, (name, limit) in enumerate(limits(kind).items(), start=1):
        server_queues = queues(client, pool)
        settings = {"priority": priority, "concurrency_limit": limit}
        actions[name] = "unchanged"
        if name not in server_queues:
            new = {"name": name, **settings}
            client.request("POST", "/work_pools/{work_pool_name}/queues", path_params=place, json=new)
            actions[name] = "created"
        elif settings != {fact: server_queues[name][fact] for fact in settings}:
            queue = place | {"name": name}
            client.request(
                "PATCH", "/work_pools/{work_pool_name}/queues/{name}", path_params=queue, json=settings
            )
            actions[name] = "updated"
    return actions


def queues(client: SyncPrefectClient, pool: str) -> dict[str, dict[str, Any]]:
    """The queues of a pool by name, in the order in which they are served."""
    answer = client.request(
        "POST", "/work_pools/{work_pool_name}/queues/filter", path_params={"work_pool_name": pool}, json={}
    )
    return {one["name"]: one for one in sorted(answer.json(), key=lambda one: one["priority"])}
