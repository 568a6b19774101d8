"""A flow that runs until it is told to end, and keeps other runs of its deployment waiting."""

import time
from pathlib import Path

from prefect import flow


@flow(name="waiting")
def waiting(until: str, store: str | None = None) -> None:
    """Wait for the file `until`, for a minute or two at most."""
    deadline = time.monotonic() + 150
    while not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
