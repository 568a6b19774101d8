"""What a local worker does when it starts and stops; see Dask's `preload`."""

import signal

from opentelemetry import trace


def dask_setup(_: object) -> None:
    """Ignore an interrupt, which a terminal sends to all processes: the run ends its workers.

    The run would wait for a worker that ended by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask_teardown(_: object) -> None:
    """Send the spans that are still waiting."""
    if flush := getattr(trace.get_tracer_provider(), "force_flush", None):
        flush()
