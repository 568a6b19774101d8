"""What a local worker does when it begins and ends; see `preload` of Dask."""

import signal

from opentelemetry import trace


def dask_setup(_: object) -> None:
    """Leave an interrupt, which a terminal sends to all, to the run, which ends its workers.

    One that ended by itself would be waited for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask_teardown(_: object) -> None:
    """Send the spans that an exporter has not sent yet."""
    if flush := getattr(trace.get_tracer_provider(), "force_flush", None):
        flush()
