"""A run: its inputs are fixed once, before anything is computed, so that it can be repeated exactly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

import polars as pl
from deltalake import DeltaTable
from prefect import task

from models.errors import AlmanacError
from models.moments import time_text
from models.scenario import AsOf, Frames, Scenario
from tasks.registry import bundles, ledger
from tasks.registry.code import code_version
from tasks.storage.faults import StoreError
from tasks.storage.layout import Layout
from tasks.storage.store import Store, digest
from tasks.storage.tables import scan_table

TRAIN = "train"
"""The flow of a run that trains."""


class RunError(AlmanacError):
    """The run cannot begin, or cannot be completed."""


@dataclass(frozen=True)
class Run:
    """Everything that determines the result of a run.

    Two runs with the same `id` have the same result and share the files in `folder`: to continue a stopped run, start
    it again.
    """

    scenario: Scenario
    flow: str
    store: Store
    as_of: AsOf
    versions: Mapping[str, int]
    options: Mapping[str, Any]
    output: str = ""
    bundle: int | None = None
    notes: tuple[str, ...] = ()
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def id(self) -> str:
        inputs = (dict(self.versions), dict(self.options), self.bundle)
        identity = [self.scenario.name, self.flow, self.as_of_text, *inputs, code_version()]
        return f"{self._when('%Y-%m-%dT%H%MZ')}-{self.flow}-{digest(identity)[:12]}"

    @property
    def as_of_text(self) -> str:
        """`as_of` as the value of a Delta partition; a moment in UTC."""
        return self._when("%Y-%m-%d %H:%M:%S.%f")

    def _when(self, form: str) -> str:
        if not isinstance(self.as_of, datetime):
            return self.as_of.isoformat()
        return (self.as_of.astimezone(UTC) if self.as_of.tzinfo else self.as_of).strftime(form)

    @property
    def partition(self) -> str:
        """Folder of the published table's partition, in the encoding that readers of such folders expect."""
        return f"as_of={quote(self.as_of_text)}"

    @property
    def layout(self) -> Layout:
        return Layout(self.scenario.name)

    @property
    def table(self) -> str:
        """The table that the run publishes."""
        return self.layout.table(self.output)

    @property
    def folder(self) -> str:
        return self.layout.run(self.id)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def signed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` with the columns that name the run and its bundle."""
        return rows.with_columns(bundle=pl.lit(self.bundle, pl.Int64), run_id=pl.lit(self.id, pl.String))

    def tables(self, shard: int | None = None) -> Frames:
        """The input tables at the run's versions, lazily; sharded tables cut to `shard`."""
        return {
            name: scan_table(
                _table_at(self.store, self.layout.table(name), number, self.started),
                shard if self.scenario.tables[name].shard_by else None,
            )
            for name, number in self.versions.items()
        }


@lru_cache(maxsize=32)
def _table_at(store: Store, path: str, version: int, _start: datetime) -> DeltaTable:
    """A table at a version, opened once per process each time a run is started."""
    return store.table(path, version)


def input_versions(scenario: Scenario, store: Store) -> dict[str, int]:
    """The newest version of each input table. Raises `StoreError` if a required one is missing."""
    versions = {}
    for name, table in scenario.tables.items():
        path = Layout(scenario.name).table(name)
        number = store.version(path)
        if number is not None:
            versions[name] = number
        elif table.required:
            raise StoreError(
                f"{store.uri}: there is no table '{path}'. "
                f"Ingest data first: python -m flows {scenario.name} ingest --help"
            )
    return versions


def scans(scenario: Scenario, store: Store, versions: Mapping[str, int]) -> Frames:
    """The input tables at `versions`, whole."""
    return {name: store.scan(Layout(scenario.name).table(name), number) for name, number in versions.items()}


@task(name="resolve-training")
def resolve_training(scenario: Scenario, store: Store, as_of: AsOf | None, options: Mapping[str, Any]) -> Run:
    """The run that trains on the newest tables, cut at `as_of`."""
    versions = input_versions(scenario, store)
    tables = scans(scenario, store, versions)
    time = scenario.resolve_as_of(tables, as_of, datetime.now(UTC))
    notes = tuple(scenario.omissions(tables, time)) if as_of is None else ()
    return Run(scenario, TRAIN, store, time, versions, options, notes=notes)


@task(name="resolve-scoring")
def resolve_scoring(
    scenario: Scenario,
    store: Store,
    flow: str,
    as_of: AsOf | None,
    bundle: int | None,
    options: Mapping[str, Any],
    *,
    again: bool = False,
) -> Run:
    """The run that scores `as_of`.

    An `as_of` before the newest published one is repeated: the table versions and the bundle are those recorded then,
    unless `bundle` names another. With `again`, only the bundle is reused, and rows that arrived later are included. A
    bundle trained on data after `as_of` is used only if it is named.
    """
    versions = input_versions(scenario, store)
    tables = scans(scenario, store, versions)
    newest = scenario.resolve_as_of(tables, None, datetime.now(UTC))
    time = newest if as_of is None else scenario.resolve_as_of(tables, as_of, datetime.now(UTC))
    notes = scenario.omissions(tables, newest) if as_of is None else []
    entry = ledger.last(store, scenario.name, flow, time) if _earlier(time, newest) else None
    if entry and not again:
        versions = entry["versions"]
        notes.append(f"Repeats run {entry['run_id']}: its table versions are used.")
    number = bundle or (entry["bundle"] if entry else None) or bundles.for_as_of(store, scenario.name, time)
    manifest = bundles.manifest(store, scenario.name, number)
    trained_as_of = type(time).fromisoformat(manifest["as_of"])
    if _earlier(time, trained_as_of):
        notes.append(
            f"Bundle {number} was trained on data up to {time_text(trained_as_of)}, later than {time_text(time)}: "
            "these rows use some of their own future."
        )
    all_options = {**manifest["options"], **options}
    output = scenario.published_table(all_options).name
    return Run(scenario, flow, store, time, versions, all_options, output, number, tuple(notes))


def with_notes(run: Run, notes: Sequence[str]) -> Run:
    """The same run with more notes, which do not change its id."""
    return replace(run, notes=(*run.notes, *notes))


def _earlier(one: date, other: date) -> bool:
    return one < other


@task(name="begin")
def begin(run: Run) -> None:
    """Write what all shards of a run need: its identity and its context. Existing files are kept."""
    facts = {"id": run.id, "started": run.started, "versions": run.versions, "options": run.options}
    run.store.create(run.path("run.json"), json.dumps(facts, sort_keys=True, default=str).encode())
    names = run.store.get_json(run.path("context.json"))
    if names is None:
        tables = run.tables()
        frames = run.scenario.context(tables, run.as_of, run.options)
        if run.flow == TRAIN:
            frames |= run.scenario.training_context(tables, frames, run.as_of, run.options)
        for name, frame in frames.items():
            run.store.put_frame(run.path(f"context/{name}.parquet"), frame)
        run.store.put_json(run.path("context.json"), sorted(frames))


@lru_cache(maxsize=4)
def read_context(store: Store, folder: str) -> dict[str, pl.DataFrame]:
    """The context of the run in `folder`, as `begin` wrote it; read once per process.

    Raises `RunError` if it is incomplete, or if no run has begun there: the folder depends on the version of the code.
    """
    names = store.get_json(f"{folder}/context.json")
    if names is None:
        raise RunError(
            f"{store.uri_of(folder)}: no run has begun there. Expected the same version of Almanac in the driver of a "
            "run and in its workers. Start the workers of --scheduler from the driver's image, and run again."
        )
    frames = {}
    for name in names:
        frame = store.get_frame(f"{folder}/context/{name}.parquet")
        if frame is None:
            raise RunError(
                f"{store.uri_of(folder)} lacks its context '{name}'. Delete that folder and run again."
            )
        frames[name] = frame
    return frames


def with_context_notes(run: Run) -> Run:
    """A run that has begun, with notes on what its context shows."""
    context = read_context(run.store, run.folder)
    return with_notes(run, run.scenario.context_notes(run.tables(), context, run.as_of))


def first_start(run: Run) -> datetime:
    """When the run was first started."""
    first = run.store.get_json(run.path("run.json")) or {}
    return datetime.fromisoformat(first["started"]) if "started" in first else run.started
