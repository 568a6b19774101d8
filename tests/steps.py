"""The steps of a run, called one by one without Prefect, in the order of `flows.runs`."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

from models.scenario import AsOf, Scenario
from tasks.ingest.pipeline import IngestResult, ingest
from tasks.registry import bundles
from tasks.scoring import score as scoring
from tasks.scoring.publishing import Publication, complete, enter, publish
from tasks.scoring.runs import Run, begin, resolve_scoring, resolve_training
from tasks.scoring.shards import ShardResult, find_gaps, plan, reconcile
from tasks.storage.store import Store
from tasks.training.fit import Challenger, Verdict, compare, fit, prepare_shards, training_shards
from tests.toy import TOY, values


def put(
    store: Store, frame: pl.DataFrame | None = None, scenario: Scenario = TOY, shards: int = 4
) -> IngestResult:
    """Ingest a frame into the toy's `values`, by default those of `tests.toy.values`."""
    source = Path(store.uri).parent / "values.parquet"
    (values() if frame is None else frame).write_parquet(source)
    return read(store, "values", str(source), scenario, shards)


def read(
    store: Store,
    table: str,
    source: str,
    scenario: Scenario,
    shards: int | None = 4,
    mapping: Mapping[str, str] | None = None,
    max_bad_share: float = 0.05,
    **options: Any,
) -> IngestResult:
    """Ingest a source into a table."""
    (result,) = ingest.fn(scenario, store, {table: source}, mapping or {}, shards, max_bad_share, options)
    return result


def train(
    store: Store, as_of: AsOf | None = None, scenario: Scenario = TOY, **options: Any
) -> tuple[Challenger, Verdict]:
    """Train a bundle and compare it with the champion."""
    run = resolve_training.fn(scenario, store, as_of, options)
    begin.fn(run)
    names = [*chain.from_iterable(prepare_shards.fn(run, list(training_shards.fn(run))))]
    challenger = fit.fn(run, names)
    return challenger, compare.fn(run, challenger, names)


def resolve(
    store: Store,
    as_of: AsOf | None = None,
    bundle: int | None = None,
    scenario: Scenario = TOY,
    **options: Any,
) -> Run:
    """A scoring run that has begun."""
    run = resolve_scoring.fn(scenario, store, "score", as_of, bundle, options)
    begin.fn(run)
    return run


def outcome(run: Run, shard: int) -> ShardResult:
    """Score one shard of a planned run."""
    return scoring.score_shards.fn(run, [shard])[0]


def outcomes(run: Run) -> list[ShardResult]:
    """Plan a run and score all of its shards."""
    shards = plan.fn(run)
    find_gaps.fn(run)
    return [outcome(run, shard) for shard in shards]


def commit(run: Run, results: list[ShardResult]) -> Publication:
    """Reconcile, publish and enter into the ledger."""
    counts = reconcile.fn(run, results)
    publication = publish.fn(run, complete.fn(run, results))
    enter(run, counts, results, is_published=not publication.already)
    return publication


def score(
    store: Store,
    as_of: AsOf | None = None,
    bundle: int | None = None,
    scenario: Scenario = TOY,
    **options: Any,
) -> Publication:
    """A whole scoring run, from resolving to the ledger."""
    run = resolve(store, as_of, bundle, scenario, **options)
    return commit(run, outcomes(run))


def forge(store: Store, number: int, manifest: Mapping[str, Any], scenario: str = "toy") -> None:
    """Replace a manifest and register it, as anyone with write access to the whole store could."""
    store.put_json(f"{bundles.folder(scenario, number)}/{bundles.MANIFEST}", manifest)
    rows = store.scan(f"{scenario}/registry").filter(bundle=number, event="registered").collect()
    DeltaTable(Path(store.uri) / scenario / "registry").delete(f"bundle = {number} and event = 'registered'")
    row = bundles._row(number, "registered", rows["at"][0], manifest, "trained")
    store.append(
        f"{scenario}/registry", pl.DataFrame([row]), once=f"forged-{number}-{row[bundles.MANIFEST_SHA256]}"
    )


def published(store: Store, table: str = "toy/doubled", version: int | None = None) -> pl.DataFrame:
    """All rows of a published table, in a fixed order."""
    frame = store.scan(table, version).collect()
    return frame.sort("as_of", *[c for c in frame.columns if c not in ("as_of", "run_id")])


def written(store: Store) -> dict[str, int]:
    """The versions of the sales tables that exist."""
    names = ("history", "plan", "stores", "quarantine", "forecasts", "backtests", "registry")
    versions = {f"sales/{name}": store.version(f"sales/{name}") for name in names}
    return {name: version for name, version in versions.items() if version is not None}
