"""The work queues of the pool, in the order in which they are served."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient

from deployments.environment import PROCESS

TRAINING = "training"
QUEUES = ("scoring", "ingesting", "default", TRAINING)
"""What is due is started from the first one that has something. Scores come before everything; an ingest that is due at
the same time has its own deployment's limit, and the next scoring catches up. `default` has what is quick or by hand.
"""


def limits(kind: str) -> dict[str, int | None]:
    """How many runs of each queue may go on at once, None for any number, on a pool of type `kind`.

    A worker of processes runs two flows at once, on one machine: one training leaves the other place to the scores.
    Containers have cores of their own, and do not wait for each other.
    """
    return {name: 1 if name == TRAINING and kind == PROCESS else None for name in QUEUES}


def apply_queues(client: SyncPrefectClient, pool: str, kind: str) -> dict[str, str]:
    """Have the pool's queues be there, in their order and with their limits; what was done to each, by name.

    Queues of the pool that are not of the project are served after them.
    """
    done = {}
    place = {"work_pool_name": pool}
    for priority, (name, limit) in enumerate(limits(kind).items(), start=1):
        known = queues(client, pool)
        wanted = {"priority": priority, "concurrency_limit": limit}
        done[name] = "unchanged"
        if name not in known:
            new = {"name": name, **wanted}
            client.request("POST", "/work_pools/{work_pool_name}/queues", path_params=place, json=new)
            done[name] = "created"
        elif wanted != {fact: known[name][fact] for fact in wanted}:
            queue = place | {"name": name}
            client.request(
                "PATCH", "/work_pools/{work_pool_name}/queues/{name}", path_params=queue, json=wanted
            )
            done[name] = "updated"
    return done


def queues(client: SyncPrefectClient, pool: str) -> dict[str, dict[str, Any]]:
    """The queues of a pool by name, the first one that is served first."""
    answer = client.request(
        "POST", "/work_pools/{work_pool_name}/queues/filter", path_params={"work_pool_name": pool}, json={}
    )
    return {one["name"]: one for one in sorted(answer.json(), key=lambda one: one["priority"])}
