"""Flows of the toy scenario, as a fourth scenario would have them in `flows/toy.py`."""

from datetime import date
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import backfilling, evaluating, tuning
from flows.cluster import task_runner
from flows.lifecycle import promotions
from flows.listings import listings
from flows.runs import ingest_sources, train_bundle
from flows.runs import score as score_run
from flows.settings import open_store
from tests.toy import TOY


@flow(name="toy-ingest", task_runner=task_runner())
def ingest(source: str, shards: int | None = None, store: str | None = None) -> dict[str, Any]:
    """Read values.

    Args:
        source: name, at, value.
        shards: Number of shards.
        store: URI of the store.
    """
    return ingest_sources(TOY, open_store(store), {"values": source}, [], shards, 0.05)


@flow(name="toy-train", task_runner=task_runner())
def train(
    as_of: date | None = None,
    loss: float = 1.0,
    sleeps: list[str] | None = None,
    once: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Learn to double.

    Args:
        as_of: Last day to learn from.
        loss: What the backtest shall say.
        sleeps: Names whose preparation never ends.
        once: File that ends the misbehaviour as soon as it exists.
        store: URI of the store.
    """
    options = {"loss": loss} | ({"sleeps": sleeps, "once": once} if sleeps else {})
    return train_bundle(TOY, open_store(store), as_of, options)


@flow(name="toy-score", task_runner=task_runner())
def score(
    as_of: date | None = None,
    bundle: int | None = None,
    seconds: float = 0.0,
    raises: list[str] | None = None,
    kills: list[str] | None = None,
    sleeps: list[str] | None = None,
    spins: list[str] | None = None,
    once: str | None = None,
    dry_run: bool = False,
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.05,
    store: str | None = None,
) -> dict[str, Any]:
    """Double every name's last value.

    Args:
        as_of: Last day to use.
        bundle: Number of the bundle.
        seconds: Seconds to take per name.
        raises: Names that raise.
        kills: Names that kill the process that scores them.
        sleeps: Names whose scoring never ends.
        spins: Names whose scoring never ends and lets no other thread run.
        once: File that ends the misbehaviour as soon as it exists.
        dry_run: Publish nothing.
        max_failed_share: Share of names that may fail.
        store: URI of the store.
    """
    deeds = {"raises": raises, "kills": kills, "sleeps": sleeps, "spins": spins}
    misbehaviour = {"seconds": seconds, **deeds, "once": once}
    options = {name: value for name, value in misbehaviour.items() if value}
    data_store = open_store(store)
    return score_run(
        TOY, data_store, "score", as_of, bundle, options, dry_run=dry_run, max_failed_share=max_failed_share
    )


evaluate = evaluating.flow_of(TOY)
backfill = backfilling.flow_of(TOY, "score")
tune = tuning.flow_of(TOY, lambda store: store.get_json("toy/options.json") or {})
promote, rollback = promotions(TOY)

SCENARIO = TOY
COMMANDS = (ingest, train, tune, score, evaluate, backfill, promote, rollback, *listings(TOY))
