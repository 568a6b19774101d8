"""Training: parts by shard, one fit with its backtest, and the comparison with the champion."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl
from prefect import task
from prefect.logging import get_run_logger

from models.moments import time_text
from models.scenario import AsOf, HasGroundTruth, MeetsChampions
from tasks.registry import bundles, tracking
from tasks.registry.code import code_version
from tasks.registry.plots import plots
from tasks.registry.registered_models import register
from tasks.scoring.runs import Run, RunError, read_context
from tasks.scoring.watchdog import shard_task

BACKTESTS, EVALUATIONS = "backtests", "evaluations"


@dataclass(frozen=True)
class Challenger:
    """A newly registered bundle and the loss by which it is compared."""

    bundle: int
    loss: float
    headline: Mapping[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle became champion, and why or why not."""

    bundle: int
    promoted: bool
    champion: int
    reason: str


def _prepare_shard(run: Run, shard: int) -> list[str]:
    """Write the training parts of a shard; return their names."""
    return write_parts(run, shard, run.scenario.prepare_shard)


prepare_shards = shard_task(_prepare_shard, "prepare-shards", "prepare")


def write_parts(run: Run, shard: int, prepare: Callable[..., Mapping[str, pl.DataFrame]]) -> list[str]:
    """Write the parts that `prepare` makes of a shard into the run's folder, unless they exist; return their names."""
    marker = run.path(f"parts/{shard:04d}.json")
    names = run.store.get_json(marker)
    if names is not None:
        return list(names)
    context = read_context(run.store, run.folder)
    parts = prepare(run.tables(shard), context, run.as_of, run.options)
    for name, frame in parts.items():
        run.store.put_frame(run.path(f"parts/{name}/{shard:04d}.parquet"), frame)
    run.store.put_json(marker, sorted(parts))
    return sorted(parts)


@task(name="plan-training")
def training_shards(run: Run) -> dict[int, int]:
    """Number of keys per shard in the scenario's first table; keys that are no longer scored are also trained on."""
    table = next(iter(run.scenario.tables.values()))
    keys = pl.struct(table.shard_by).n_unique()
    rows = run.tables()[table.name].group_by("shard").agg(keys).sort("shard")
    return dict(rows.collect(engine="streaming").iter_rows())


@task(name="fit")
def fit(run: Run, names: Sequence[str]) -> Challenger:
    """Backtest, fit and calibrate on all parts; save and register the bundle with its backtest."""
    context = read_context(run.store, run.folder)
    result = run.scenario.fit(parts_of(run, names), context, run.as_of, run.options)
    facts = {
        bundles.FORMAT: run.scenario.formats[-1],
        "options": dict(run.options),
        "versions": dict(run.versions),
        "rows": {name: run.store.rows(run.layout.table(name), n) for name, n in run.versions.items()},
        "code": code_version(),
        "implementation": f"{type(run.scenario).__module__}:{type(run.scenario).__qualname__}",
    }
    files = {**result.files, "metrics": result.metrics}
    number = bundles.save(run.store, run.scenario.name, result, files, facts, run.as_of, run.id)
    backtest = result.backtest.with_columns(pl.lit(number, pl.Int64).alias("bundle"))
    run.store.append(run.layout.table(BACKTESTS), backtest, once=f"backtest-{number}", partition_by="bundle")
    for note in result.notes:
        get_run_logger().info(note)
    return Challenger(number, result.loss, dict(result.headline), tuple(result.notes))


@task(name="compare")
def compare(run: Run, challenger: Challenger, names: Sequence[str]) -> Verdict:
    """Make the challenger champion if its loss is lower than the champion's on the same backtest.

    Nor may its loss be higher on judged rows that the champion published, if the backtest has rows with the same
    targets and origins that neither of the two had seen.
    """
    store, number = run.store, challenger.bundle
    champion = bundles.champion(store, run.scenario.name)
    if champion == number:
        return Verdict(number, True, number, "It is already the champion.")
    better, reason = _better(run, challenger, champion, names)
    decide = bundles.promote if better else bundles.refuse
    decide(store, run.scenario.name, number, reason)
    return Verdict(number, better, number if better or champion is None else champion, reason)


def _better(run: Run, challenger: Challenger, champion: int | None, names: Sequence[str]) -> tuple[bool, str]:
    if champion is None:
        return True, f"The first bundle; loss {challenger.loss:.4f}."
    manifest = bundles.manifest(run.store, run.scenario.name, champion)
    until: AsOf = type(run.as_of).fromisoformat(manifest["as_of"])
    backtest = _backtest(run, challenger)
    try:
        model = bundles.model(run.scenario, run.store, champion)
    except bundles.BundleFormatError:
        return True, f"Champion {champion} has a bundle format that this version can no longer load."
    losses = None
    if isinstance(run.scenario, MeetsChampions):
        losses = run.scenario.rebacktest(model, parts_of(run, names), backtest.collect(), until)
    if losses is not None:
        challenger_loss, champion_loss, rows = losses
        what = f"on the {rows:,} backtest rows that champion {champion} has not seen"
    elif until == run.as_of:
        challenger_loss, champion_loss = challenger.loss, float(manifest["loss"])
        what = f"on the backtest of the same as_of {time_text(until)}"
    else:
        return (
            False,
            f"Champion {champion} was trained on all data of this backtest (up to {time_text(until)}): no fair comparison.",
        )
    better = challenger_loss < champion_loss
    sign = "<" if better else ">="
    reason = f"Loss {challenger_loss:.4f} {sign} {champion_loss:.4f} of champion {champion}, {what}."
    real = _on_outcomes(run, challenger, champion, until)
    if real is None:
        return better, reason
    ours, theirs, count = real
    worse = not ours <= theirs
    comparison = (
        f"{ours:.4f} {'>' if worse else '<='} {theirs:.4f} on {count:,} judged rows that it published."
    )
    return better and not worse, f"{reason} {comparison}"


def _on_outcomes(
    run: Run, challenger: Challenger, champion: int, until: AsOf
) -> tuple[float, float, int] | None:
    """Losses of challenger and champion on the rows that the champion published; None without judged rows."""
    evaluations = run.store.find(run.layout.table(EVALUATIONS))
    if not isinstance(run.scenario, HasGroundTruth) or evaluations is None:
        return None
    rows = evaluations.filter(pl.col("bundle") == champion, pl.col("as_of") >= until, ~pl.col("pending"))
    return run.scenario.ground_truth_losses(_backtest(run, challenger), rows, run.options)


def _backtest(run: Run, challenger: Challenger) -> pl.LazyFrame:
    return run.store.scan(run.layout.table(BACKTESTS)).filter(bundle=challenger.bundle)


@task(name="track")
def track(run: Run, challenger: Challenger, verdict: Verdict) -> str | None:
    """Log the training to MLflow and register its bundle; return the MLflow run's id, None without a tracking server.

    If the tracking server fails, the training does not: the bundle is registered in the store.
    """
    try:
        metrics = cast(
            pl.DataFrame, bundles.files(run.store, run.scenario.name, challenger.bundle)["metrics"]
        )
        record = tracking.log_run(
            run.store,
            scenario=run.scenario.name,
            kind="train",
            run_id=run.id,
            params={
                **run.options,
                "as_of": run.as_of_text,
                **{f"{n}_version": v for n, v in run.versions.items()},
            },
            metrics=challenger.headline,
            tags={"bundle": str(challenger.bundle), "reason": verdict.reason},
            slices=metrics,
            files=plots(metrics),
        )
        if record is not None:
            register(run.store, run.scenario.name, challenger.bundle, record, champion=verdict.promoted)
        return record
    except Exception as error:
        get_run_logger().warning("MLflow tracking failed; the bundle is registered nevertheless: %s", error)
        return None


def parts_of(run: Run, names: Sequence[str]) -> dict[str, pl.LazyFrame]:
    """The parts of all shards by name. Raises `RunError` if there are none."""
    if not names:
        raise RunError(
            f"{run.scenario.name}: no shard has any rows to train on as of {time_text(run.as_of)}."
        )
    paths = {name: run.store.names(run.path(f"parts/{name}")) for name in names}
    return {name: pl.scan_parquet([*map(run.store.uri_of, some)], glob=False) for name, some in paths.items()}
