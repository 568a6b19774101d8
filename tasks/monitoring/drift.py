"""Drift of a bundle's inputs and scores since its training: measured, stored and announced.

The table `<scenario>/drift` has a row per `as_of` and feature (see `models.drift.SCHEMA`) with `kind` (`input` or
`score`), `announced`, and the bundle whose training is the reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import polars as pl
from prefect import task

from models.drift import CYCLE, SCHEMA, Rule, drift, in_order_of_rank
from models.moments import time_text
from models.scenario import AsOf, Event, Scenario, WatchesInputs
from tasks.monitoring.due import judged_so_far
from tasks.registry import bundles
from tasks.scoring.events import emit
from tasks.scoring.publishing import publish_derived
from tasks.scoring.runs import Run, input_versions, scans
from tasks.scoring.shards import read_frame, requested_path
from tasks.scoring.watchdog import shard_task
from tasks.storage.layout import DRIFT, Layout
from tasks.storage.store import Store

WATCHED_KEYS = 2_000
"""The approximate number of watched keys: those of the first shards, which are a random sample of all keys."""
SCORED_CYCLES = 60
"""Scores are compared with those of at most this many published runs of the same bundle."""
FEATURES = 60
"""The maximum number of watched inputs: the more there are, the higher the limit of each."""
_NAMED = 5


@task(name="resolve-watching")
def resolve_watching(scenario: Scenario, store: Store, as_of: AsOf | None, rule: Rule) -> Run:
    """The run that compares the cycle of `as_of` with the training data of the bundle that scores it."""
    versions = input_versions(scenario, store)
    time = scenario.resolve_as_of(scans(scenario, store, versions), as_of, datetime.now(UTC))
    number = bundles.for_as_of(store, scenario.name, time)
    manifest = bundles.manifest(store, scenario.name, number)
    options = {**manifest["options"], "trained_as_of": manifest["as_of"], "drift_rate": rule.rate}
    return Run(scenario, "watch", store, time, versions, options, DRIFT, number)


def seen_by_bundle(run: Run) -> bool:
    """Whether the bundle was trained on the cycle itself, so that there is nothing to compare."""
    return trained_as_of(run) >= run.as_of


def trained_as_of(run: Run) -> AsOf:
    """The time up to which the run's bundle was trained."""
    return type(run.as_of).fromisoformat(run.options["trained_as_of"])


def watched_shards(shards: Mapping[int, int], keys: int = WATCHED_KEYS) -> list[int]:
    """The first shards, by number, that have at least `keys` keys together; all if there are fewer keys.

    >>> watched_shards({0: 10, 1: 10, 2: 10}, keys=15)
    [0, 1]
    """
    sample: list[int] = []
    for shard in sorted(shards):
        if sum(shards[one] for one in sample) >= keys:
            break
        sample.append(shard)
    return sample


def _watch_shard(run: Run, shard: int) -> int:
    """Write the watched inputs of a shard; return their number of rows. A finished shard is kept."""
    path = _part(run, shard)
    if run.store.size(path) is None:
        frame = pl.DataFrame()
        if isinstance(run.scenario, WatchesInputs):
            rows = run.scenario.watched_inputs(run.tables(shard), trained_as_of(run), run.as_of, run.options)
            frame = rows.drop(run.scenario.key, strict=False).collect()
        run.store.put_frame(path, frame)
        return frame.height
    return read_frame(run, path).height


watch_shards = shard_task(_watch_shard, "watch-shards", "watch")


@task(name="measure-drift")
def measure_drift(run: Run, shards: Sequence[int], rule: Rule) -> pl.DataFrame:
    """Lines of all features, inputs and scores, ranked. The rate of the rule is split among them.

    An alarm may need two successive cycles, so the one before `as_of` is also compared; the lines are those of `as_of`.
    """
    inputs = _together([read_frame(run, _part(run, shard)) for shard in shards])
    pairs = {"input": _inputs(run, inputs), "score": _scores(run, shards)}
    sizes = {kind: max(0, now.width - 1) if now.height else 0 for kind, (_, now) in pairs.items()}
    parts = [
        drift(before, now, replace(rule, rate=rule.rate * sizes[kind] / sum(sizes.values()))).with_columns(
            pl.lit(kind).alias("kind")
        )
        for kind, (before, now) in pairs.items()
        if sizes[kind]
    ]
    if not parts:
        return pl.DataFrame(schema={**SCHEMA, "kind": pl.String})
    return in_order_of_rank(pl.concat(parts).filter(pl.col(CYCLE) == run.as_of).drop(CYCLE))


@task(name="accuracy-since")
def accuracy_since(run: Run) -> list[dict[str, Any]]:
    """The measures of the control charts over judged rows from `before` and `since` the training of the bundle.

    A line per chart and series: chart, series, before, since; null without judged rows. Empty without evaluations.
    """
    evaluations = judged_so_far(run.store, run.scenario.name)
    if evaluations is None:
        return []
    points = (
        evaluations.select(pl.col("tallies").explode()).unnest("tallies").filter(pl.col("denominator") > 0)
    )
    end = trained_as_of(run)
    later = pl.col("period") > (end.date() if isinstance(end, datetime) else end)
    value = {
        name: pl.col("numerator").filter(of).sum() / pl.col("denominator").filter(of).sum()
        for name, of in (("before", ~later), ("since", later))
    }
    ratios = points.group_by("chart", "series").agg(**value).sort("chart", "series")
    return ratios.with_columns(pl.col("before", "since").fill_nan(None)).to_dicts()


@task(name="publish-drift")
def publish_drift(run: Run, lines: pl.DataFrame, cooldown_days: float) -> bool:
    """Replace the lines of `as_of` in the table, in one commit; return whether to announce them.

    They are announced if a feature has drifted, unless drift was announced for an `as_of` less than `cooldown_days`
    earlier.
    """
    is_announced = bool(lines["drifted"].any()) and not _cooling_down(run, cooldown_days)
    publish_derived(run, DRIFT, lines.with_columns(pl.lit(is_announced).alias("announced")))
    return is_announced


@task(name="announce-drift")
def announce_drift(run: Run, lines: pl.DataFrame, accuracy: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Emit `almanac.<scenario>.drifted` once for an `as_of`; return whether it was emitted now.

    The payload has the first drifted features, the `reason` in words, and the lines of `accuracy_since`.

    It is stored after the event has been delivered: if a run is killed before that, the next run emits the event again
    under the same id.
    """
    path = f"{_announcements(run)}/{run.as_of_text.replace(' ', 'T').replace(':', '')}.json"
    if run.store.size(path) is not None:
        return False
    alarms = lines.filter("drifted").sort("rank")
    features = [
        {name: row[name] for name in ("rank", "feature", "kind", "psi", "limit")} for row in alarms.to_dicts()
    ]
    payload = {
        "as_of": run.as_of.isoformat(),
        "bundle": run.bundle,
        "features": features[:_NAMED],
        "accuracy": list(accuracy)[:_NAMED],
        "reason": reason(run, alarms),
        "run_id": run.id,
        "store": run.store.uri,
    }
    emit(run.store, run.scenario.name, Event("drifted", run.scenario.name, payload), run.as_of_text)
    run.store.put_json(path, payload)
    return True


def newest_drift(store: Store, scenario: str, cycles: int) -> pl.DataFrame:
    """The lines of the newest `cycles` in the table `drift`; no rows if nothing has been compared yet."""
    path = Layout(scenario).table(DRIFT)
    newest = store.as_ofs(path)[-cycles:]
    return store.scan(path).filter(pl.col("as_of") >= newest[0]).collect() if newest else pl.DataFrame()


def reason(run: Run, alarms: pl.DataFrame) -> str:
    """The drifted features in words: at most three, the worst first."""
    features = [
        f"{row['feature']} (PSI {row['psi']:.2f}, limit {row['limit']:.2f})"
        for row in alarms.head(3).to_dicts()
    ]
    more = f" and {alarms.height - 3} more" if alarms.height > 3 else ""
    return f"Drifted as of {time_text(run.as_of)}, against bundle {run.bundle}: {', '.join(features)}{more}."


def _part(run: Run, shard: int) -> str:
    return run.path(f"watched/{shard:04d}.parquet")


def _together(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all shards. A numeric column that a shard lacks is NaN there: not applicable, rather than missing.

    Of more than `FEATURES` features, those with the most values are kept.
    """
    types = {name: dtype for part in parts for name, dtype in part.schema.items()}
    blanks = {name: float("nan") if dtype.is_float() else None for name, dtype in types.items()}
    rows = pl.concat(
        [
            part.select(
                pl.col(name) if name in part.columns else pl.lit(blanks[name], dtype).alias(name)
                for name, dtype in types.items()
            )
            for part in parts
            if part.height
        ]
        or [pl.DataFrame(schema=types)],
        how="vertical_relaxed",
    )
    features = [name for name in rows.columns if name != CYCLE]
    if len(features) <= FEATURES:
        return rows
    counts = {
        name: rows[name].is_not_nan().sum() if types[name].is_float() else rows.height for name in features
    }
    fullest = sorted(features, key=lambda name: (-(counts[name] or 0), name))[:FEATURES]
    return rows.select(CYCLE, *(name for name in features if name in fullest))


def _inputs(run: Run, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that the bundle was trained on, and those of the newest cycles."""
    if CYCLE not in rows.columns:
        return rows, rows
    cycle = pl.col(CYCLE)
    newest = cycle.is_between(_first_of_newest(rows, run), run.as_of)
    return rows.filter(cycle <= trained_as_of(run)), rows.filter(newest)


def _first_of_newest(rows: pl.DataFrame, run: Run) -> AsOf:
    """The cycle before `as_of`; `as_of` itself if the bundle was trained on that cycle, or if there is none."""
    between = (pl.col(CYCLE) > trained_as_of(run)) & (pl.col(CYCLE) < run.as_of)
    return rows.filter(between).select(pl.col(CYCLE).max()).item() or run.as_of


def _scores(run: Run, shards: Sequence[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The bundle's published rows of the watched keys: those before the newest cycles, and those in them."""
    nothing = pl.DataFrame(), pl.DataFrame()
    table = run.scenario.published_table(run.options)
    rows = run.store.find(run.layout.table(table.name))
    names = run.scenario.watched_scores(run.options) if isinstance(run.scenario, WatchesInputs) else ("rung",)
    columns = [name for name in names if name in table.schema]
    if not columns or rows is None:
        return nothing
    keys = read_frame(run, requested_path(run)).filter(pl.col("shard").is_in(list(shards)))
    mine = rows.filter(pl.col("bundle") == run.bundle, pl.col("as_of") <= run.as_of)
    times = mine.select(pl.col("as_of").unique().sort()).collect()["as_of"].tail(SCORED_CYCLES + 2)
    scores = (
        mine.filter(pl.col("as_of").is_in(times.implode()))
        .join(keys.lazy(), on=list(run.scenario.key), how="semi")
        .select(pl.col("as_of").alias(CYCLE), *(pl.col(c).alias(f"published {c}") for c in columns))
        .collect(engine="streaming")
    )
    first = _first_of_newest(scores, run)
    return scores.filter(pl.col(CYCLE) < first), scores.filter(pl.col(CYCLE) >= first)


def _cooling_down(run: Run, days: float) -> bool:
    """Whether drift was announced for an `as_of` less than `days` earlier."""
    payloads = [run.store.get_json(path) or {} for path in run.store.names(_announcements(run))]
    earlier = [_moment(type(run.as_of).fromisoformat(one["as_of"])) for one in payloads]
    return any(timedelta(0) < _moment(run.as_of) - one < timedelta(days=days) for one in earlier)


def _moment(as_of: AsOf) -> datetime:
    return as_of if isinstance(as_of, datetime) else datetime.combine(as_of, time(), UTC)


def _announcements(run: Run) -> str:
    return run.layout.table("drifted")
