"""The steps after an ingest or a published run: derived tables, events, and Prefect artifacts."""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import polars as pl
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import get_run_logger

from models.moments import time_text
from models.scenario import DerivesFromBundle, DerivesTables, EmitsEvents, Event, Scenario
from tasks.registry import bundles
from tasks.scoring.publishing import Publication, publish_derived
from tasks.scoring.runs import Run
from tasks.storage.commits import commit_summary
from tasks.storage.layout import Layout
from tasks.storage.store import Store
from tasks.storage.uris import link_of

_HANDOVER_SECONDS = 30


@task(name="derive")
def derive(run: Run) -> list[Event]:
    """Publish the tables derived from the run's rows, and return the events to emit.

    If the run replaces rows that another run published for its `as_of`, events that the other run emitted are left out.
    """
    rows = run.store.scan(run.table).filter(pl.col("as_of") == run.as_of)
    tables_now: dict[str, pl.DataFrame] = {}
    tables_before: dict[str, pl.DataFrame] = {}
    if isinstance(run.scenario, DerivesTables):
        previous = {
            name: table
            for name in run.scenario.derived_tables
            if (table := run.store.find(run.layout.table(name))) is not None
        }
        earlier = {name: table.filter(pl.col("as_of") < run.as_of) for name, table in previous.items()}
        theirs = (pl.col("as_of") == run.as_of) & (pl.col("run_id") != run.id)
        tables_before = {name: table.filter(theirs).collect() for name, table in previous.items()}
        tables = run.tables()
        if isinstance(run.scenario, DerivesFromBundle):
            files = bundles.files(run.store, run.scenario.name, run.bundle or 0)
            tables_now = run.scenario.derive_from_bundle(files, rows, tables, run.as_of, run.options)
        else:
            tables_now = run.scenario.derive(rows, earlier, tables, run.as_of, run.options)
    for name, frame in tables_now.items():
        publish_derived(run, name, frame)
    if not isinstance(run.scenario, EmitsEvents):
        return []
    events = run.scenario.events(rows, tables_now, run.as_of, run.options)
    if not tables_now or not set(tables_now) <= set(tables_before):
        return events
    duplicates = {
        (event.name, event.resource)
        for event in run.scenario.events(rows, tables_before, run.as_of, run.options)
    }
    return [event for event in events if (event.name, event.resource) not in duplicates]


def derivation_notes(run: Run) -> list[str]:
    """Notes on derived tables that the run's bundle does not support."""
    if not isinstance(run.scenario, DerivesFromBundle):
        return []
    return run.scenario.derivation_notes(bundles.files(run.store, run.scenario.name, run.bundle or 0))


def announce(run: Run, summary: Mapping[str, Any], publication: Publication, events: list[Event]) -> None:
    """Create the Prefect artifacts of a published run, and emit its events and `almanac.<scenario>.published`.

    If keys failed, `almanac.<scenario>.keys_failed` reports how many. Returns when the events have been delivered; raises
    if the server is away, so that the run, which is not in the ledger yet, is repeated with its events. An
    event's id follows from the run and the event, so that an event which a repeated run emits again can be recognised.
    """
    page = str(summary["page"])
    link = link_of(page)
    # Without a server, this raises. Prefect would drop the events without a word.
    _artifacts(run, summary, page, link)
    payload = {
        "as_of": run.as_of.isoformat(),
        "table": publication.table,
        "version": publication.version,
        "rows": publication.rows,
    }
    final = [Event("published", run.scenario.name, payload)]
    if summary["failed"]:
        counts = {name: summary[name] for name in ("as_of", "failed", "requested")}
        final.append(Event("keys_failed", run.scenario.name, counts | {"notes": "\n".join(summary["notes"])}))
    for event in [*events, *final]:
        message = Event(event.name, event.resource, {"run_id": run.id, "page": link, **event.payload})
        _emit(run.scenario.name, message, f"{run.store.uri}/{run.id}/{event.name}/{event.resource}")
    _hand_over()


@task(name="announce-ingest")
def announce_ingest(scenario: Scenario, store: Store) -> dict[str, Any] | None:
    """Emit `almanac.<scenario>.ingested` for commits since the last such event; return its payload, or None.

    The payload has `tables`: for each changed table its `version`, the number of `changed` rows and the range of their
    times; `from` and `to`: the range of the first changed table that has times, null if none has; and the `versions` of
    all tables. These versions are stored after the event has been delivered: if an ingest is killed before that, the
    next ingest emits the event under the same id.
    """
    layout = Layout(scenario.name)
    before = store.get_json(layout.announced) or {}
    versions = {name: store.version(layout.table(name)) for name in scenario.tables}
    news = {
        name: commit_summary(store, layout.table(name), before.get(name, -1))
        for name, version in versions.items()
        if version is not None and version > before.get(name, -1)
    }
    changes = {name: commits for name, commits in news.items() if commits["changed"]}
    if not changes:
        return None
    first = next((commits for commits in changes.values() if "from" in commits), {})
    current = {name: version for name, version in versions.items() if version is not None}
    payload = {
        "from": first.get("from"),
        "to": first.get("to"),
        "tables": changes,
        "versions": current,
        "store": store.uri,
    }
    identity = f"{store.uri}/{scenario.name}/ingested/{sorted(before.items())}/{sorted(current.items())}"
    _emit(scenario.name, Event("ingested", scenario.name, payload), identity)
    _hand_over()
    store.put_json(layout.announced, current)
    return payload


def emit(store: Store, scenario: str, event: Event, occasion: str) -> None:
    """Emit an event that does not belong to a published run; return when it has been delivered.

    Its id follows from the store, the event and the `occasion`, so that a repetition can be recognised.
    """
    _emit(scenario, event, f"{store.uri}/{scenario}/{event.name}/{event.resource}/{occasion}")
    _hand_over()


def _emit(scenario: str, event: Event, identity: str) -> None:
    """Emit an event under an id that follows from its `identity`."""
    emit_event(
        f"almanac.{scenario}.{event.name}",
        resource={
            "prefect.resource.id": f"almanac.{event.resource}",
            "prefect.resource.name": event.resource,
        },
        payload=dict(event.payload),
        id=uuid5(NAMESPACE_URL, identity),
    )


def _hand_over() -> None:
    """Wait for a bounded time until the events of this process have reached the API."""
    waiter = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    waiter.start()
    waiter.join(_HANDOVER_SECONDS)
    if waiter.is_alive():
        get_run_logger().warning("Events have not reached the Prefect API within %d s.", _HANDOVER_SECONDS)


@contextmanager
def showing(what: str) -> Iterator[None]:
    """Create artifacts in the block. A server that is unavailable ends the block with a warning, but never the run.

    Not for runs with events that must be delivered: these are repeated once the server is back.
    """
    try:
        yield
    except Exception as error:
        get_run_logger().warning("%s cannot be shown in Prefect: %s: %s", what, type(error).__name__, error)


def _artifacts(run: Run, summary: Mapping[str, Any], page: str, link: str) -> None:
    key = f"{run.scenario.name}-{run.flow}"
    rows = [{"figure": name, "value": str(value)} for name, value in summary.items() if name != "gaps"]
    if summary["gaps"]:
        title = f"Gaps in the inputs of {run.scenario.name} as of {time_text(run.as_of)}"
        create_table_artifact(list(summary["gaps"]), key=f"{key}-gaps", description=title)
    create_table_artifact(
        rows, key=f"{key}-summary", description=f"{run.scenario.name} as of {time_text(run.as_of)}"
    )
    create_link_artifact(link, key=f"{key}-page", link_text="Page of the run")
    notes = "\n".join(f"- {as_markdown(note)}" for note in summary["notes"]) or "Nothing out of the ordinary."
    create_markdown_artifact(f"# {run.id}\n\n[{page}]({link})\n\n{notes}", key=f"{key}-notes")


def as_markdown(text: str) -> str:
    """Markdown that shows a text as it is: no name in it becomes a link, an image or an element."""
    return re.sub(r"([\\`*_\[\]<>!:])", r"\\\1", text)
