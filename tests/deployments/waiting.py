"""A flow that goes on until it is told to end: what other runs of its deployment are in the way of."""

import time
from pathlib import Path

from prefect import flow


@flow(name="waiting")
def waiting(until: str, store: str | None = None) -> None:
    """Wait until there is a file `until`, a minute or two at most."""
    deadline = time.monotonic() + 150
    while not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
