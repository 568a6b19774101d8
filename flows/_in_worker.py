"""Hooks for the start and the end of a local worker; see Dask's `preload`."""

import logging
import signal

from opentelemetry import trace


def dask_setup(_: object) -> None:
    """Ignore an interrupt, which a terminal sends to all processes: the run ends its workers.

    The run would wait for a worker that ends on its own. A heartbeat that a scheduler no longer answers is no error at the
    end of a run, and Dask ends a worker that has lost its scheduler.
    """
    logging.getLogger("distributed.worker").addFilter(_is_no_heartbeat)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_no_heartbeat(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Failed to communicate with scheduler during heartbeat")


def dask_teardown(_: object) -> None:
    """Send the spans that have not been sent yet."""
    if flush := getattr(trace.get_tracer_provider(), "force_flush", None):
        flush()
