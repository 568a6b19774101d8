"""A first run of everything, on simulated data."""

from typing import Any

from prefect import flow

from flows.cluster import local_or_named, task_runner
from flows.modules import with_commands
from flows.settings import open_store


@flow(name="demo", task_runner=task_runner())
def demo(seed: int = 7, store: str | None = None) -> dict[str, Any]:
    """Simulate data, run each scenario on it, and print where the results are.

    A scenario takes part when its module has `simulated(store, seed)`: the parameters of its `run`.

    Args:
        seed: Seed of the simulation.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    with local_or_named():
        results = {
            module.__name__.rpartition(".")[2]: module.run(
                **module.simulated(data_store, seed), store=data_store.uri
            )
            for module in with_commands()
            if hasattr(module, "simulated")
        }
    # In a second demo the hours of the devices are published already, and none is due.
    pages = {f"{name} page": result["page"] for name, result in results.items() if result.get("page")}
    return {
        "published": all(result["published"] for result in results.values()),
        "store": data_store.uri,
        **pages,
    }


COMMANDS = (demo,)
