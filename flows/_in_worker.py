"""Hooks for the start and the end of a local worker; see Dask's `preload`."""

import signal

from opentelemetry import trace


def dask_setup(_: object) -> None:
    """Ignore an interrupt, which a terminal sends to all processes: the run ends its workers.

    The run would wait for a worker that ends on its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask_teardown(_: object) -> None:
    """Send the spans that have not been sent yet."""
    if flush := getattr(trace.get_tracer_provider(), "force_flush", None):
        flush()
