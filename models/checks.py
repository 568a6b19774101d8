"""Checks of the rules for a scenario that signatures cannot express. Run them on your own scenario:

    from models.checks import check_scenario
    check_scenario(MINE, {"values": frame})

The checks train and score on the frames, so use small ones. They raise `ScenarioError`, whose `fault` is one of `FAULTS`.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from models.errors import AlmanacError
from models.scenario import AsOf, File, FitResult, Scenario, Scores, train, with_shard

LOOKS_AHEAD = "looks past as_of"
OTHER_KEYS = "rows depend on other keys"
SHARDING = "rows depend on sharding"
LOST_KEY = "keys are not conserved"
RANDOM = "two runs differ"
ROUND_TRIP = "the bundle does not survive the round trip"
COLUMNS = "rows are not as published"
FAULTS = (LOOKS_AHEAD, OTHER_KEYS, SHARDING, LOST_KEY, RANDOM, ROUND_TRIP, COLUMNS)

_SHARDS = 3
_STATUSES = {"scored", "fallback", "skipped", "failed"}
_NEARLY = 1e-6
"""Relative difference up to which numbers count as equal: sums over batches of different sizes differ by rounding."""


class ScenarioError(AlmanacError):
    """A scenario breaks a rule that applies to all scenarios; `fault` names it."""

    def __init__(self, scenario: str, fault: str, detail: str) -> None:
        super().__init__(f"{scenario}: {fault}. {detail}")
        self.fault = fault


@dataclass(frozen=True)
class _Case:
    """A scenario with its tables, sharded, at one `as_of`."""

    scenario: Scenario
    frames: Mapping[str, pl.DataFrame]
    as_of: AsOf
    options: Mapping[str, Any]
    shards: int = _SHARDS

    def tables(self, shard: int | None = None) -> dict[str, pl.LazyFrame]:
        tables = {}
        for name, frame in self.frames.items():
            columns = self.scenario.tables[name].shard_by
            whole = with_shard(frame, columns, self.shards) if columns else frame
            own = whole if shard is None or not columns else whole.filter(pl.col("shard") == shard)
            tables[name] = own.lazy()
        return tables

    def trained(self) -> FitResult:
        shards = [self.tables(shard) for shard in range(self.shards)]
        return train(self.scenario, self.tables(), self.as_of, self.options, shards)

    def context(self) -> dict[str, pl.DataFrame]:
        return self.scenario.context(self.tables(), self.as_of, self.options)

    def requested_keys(self) -> pl.DataFrame:
        return self.scenario.requested_keys(self.tables(), self.as_of, self.options).collect()

    def scores(self, model: Any, calls: int = 1) -> Scores:
        """The scores of all requested keys, shard by shard, the keys of each shard split into `calls` calls."""
        all_keys, context, parts = self.requested_keys(), self.context(), []
        for shard in range(self.shards):
            keys = all_keys.filter(shard=shard).select(self.scenario.key).sort(self.scenario.key)
            for call in range(calls):
                some = keys.gather_every(calls, call) if call < keys.height else keys.clear()
                if some.height:
                    tables = self.tables(shard)
                    parts.append(self.scenario.score(model, tables, context, some, self.as_of, self.options))
        rows = pl.concat([one.rows for one in parts])
        keys = pl.concat([one.keys for one in parts], how="vertical_relaxed")
        order = [*self.scenario.published_table(self.options).sort]
        return Scores(rows.sort(order), keys.sort(self.scenario.key))


def check_scenario(
    scenario: Scenario,
    frames: Mapping[str, pl.DataFrame],
    as_of: AsOf | None = None,
    options: Mapping[str, Any] | None = None,
    times: Mapping[str, str] | None = None,
) -> None:
    """Train and score a scenario, and raise `ScenarioError` for the first rule that it breaks.

    `frames` are its tables as stored, without `shard`, and must have rows after `as_of`. The default `as_of` is later than
    four fifths of the times in the first sharded table. `times` names the column of each table that says when a row
    becomes known; by default the column of dates or times in `unique`. Leave out tables whose rows are known in advance,
    such as a plan.
    """
    times = _times(scenario, frames) if times is None else times
    if as_of is None:
        name, column = next((n, c) for n, c in times.items() if scenario.tables[n].shard_by)
        as_of = frames[name][column].unique().sort()[int(0.8 * (frames[name][column].n_unique() - 1))]
    lazy = _Case(scenario, frames, as_of, options or {}).tables()
    as_of = scenario.resolve_as_of(lazy, as_of, datetime.now(UTC))
    case = _Case(scenario, frames, as_of, options or {})
    earlier = {
        name: frame.filter(pl.col(times[name]) <= as_of) if name in times else frame
        for name, frame in frames.items()
    }
    past = _Case(scenario, earlier, as_of, options or {})
    bundle = _check_training(case, past)
    model = _check_round_trip(case, bundle)
    _check_scoring(case, past, model)


def _check_training(case: _Case, past: _Case) -> FitResult:
    bundle = case.trained()
    if difference := _training_difference(bundle, past.trained()):
        again = _training_difference(bundle, case.trained())
        raise ScenarioError(
            case.scenario.name,
            RANDOM if again else LOOKS_AHEAD,
            f"{again} Two trainings on the same tables must produce the same bundle."
            if again
            else f"{difference} A training must not use rows after {case.as_of}.",
        )
    if difference := _training_difference(bundle, replace(case, shards=2).trained()):
        detail = f"{difference} A bundle must not depend on the number of shards."
        raise ScenarioError(case.scenario.name, SHARDING, detail)
    return bundle


def _check_round_trip(case: _Case, bundle: FitResult) -> Any:
    """The model as loaded from a store, whose scores must equal those of the original."""
    name = case.scenario.name
    try:
        model = case.scenario.load({key: _saved_and_read(file) for key, file in bundle.files.items()})
    except Exception as error:
        detail = f"Loading the files from a store failed: {type(error).__name__}: {error}"
        raise ScenarioError(name, ROUND_TRIP, detail) from error
    original = case.scores(case.scenario.load(bundle.files))
    if difference := _difference(original.rows, case.scores(model).rows):
        again = _difference(original.rows, case.scores(case.scenario.load(bundle.files)).rows)
        raise ScenarioError(name, RANDOM if again else ROUND_TRIP, again or difference)
    return model


def _check_scoring(case: _Case, past: _Case, model: Any) -> None:
    scores, name = case.scores(model), case.scenario.name
    if difference := _difference(scores.rows, case.scores(model).rows):
        raise ScenarioError(name, RANDOM, f"{difference} Scoring twice must produce the same rows.")
    _check_keys(case, scores)
    gaps = set(case.scenario.published_table(case.options).schema) - set(scores.rows.columns)
    if gaps:
        raise ScenarioError(name, COLUMNS, f"The rows lack published columns: {', '.join(sorted(gaps))}.")
    others = (
        (LOOKS_AHEAD, past.scores(model), f"Rows must not use anything after {case.as_of}."),
        (
            OTHER_KEYS,
            case.scores(model, calls=2),
            "Rows of a key must not depend on the other keys of a call.",
        ),
        (
            SHARDING,
            replace(case, shards=2).scores(model),
            "Rows of a key must not depend on the number of shards.",
        ),
    )
    for fault, other, rule in others:
        if difference := _difference(scores.rows, other.rows):
            raise ScenarioError(name, fault, f"{difference} {rule}")


def _check_keys(case: _Case, scores: Scores) -> None:
    key, name = list(case.scenario.key), case.scenario.name
    all_keys = case.requested_keys().select(key)
    for there, here, what in (
        (all_keys, scores.keys, "requested but not accounted for"),
        (scores.keys, all_keys, "accounted for but not requested"),
        (scores.rows, all_keys, "published but not requested"),
        (
            scores.keys.filter(pl.col("status").is_in(["scored", "fallback"])),
            scores.rows,
            "reported as scored but have no row",
        ),
    ):
        lost_keys = there.select(key).unique().join(here.select(key), on=key, how="anti").sort(key)
        if lost_keys.height:
            raise ScenarioError(
                name, LOST_KEY, f"{lost_keys.height} keys were {what}, for example {lost_keys.row(0)}."
            )
    if scores.keys.height != scores.keys.select(key).n_unique():
        raise ScenarioError(name, LOST_KEY, "A key was accounted for more than once.")
    extra = set(scores.keys["status"]) - _STATUSES
    if extra:
        raise ScenarioError(
            name, LOST_KEY, f"Statuses {extra} are unknown. Expected one of {sorted(_STATUSES)}."
        )


def _training_difference(one: FitResult, other: FitResult) -> str:
    """A sentence about the first file or figure in which two bundles differ; empty if they are equal."""
    if set(one.files) != set(other.files):
        return f"The files are {sorted(one.files)} and {sorted(other.files)}."
    for name, file in one.files.items():
        theirs = other.files[name]
        if isinstance(file, pl.DataFrame) and isinstance(theirs, pl.DataFrame):
            if difference := _difference(file, theirs):
                return f"File {name} differs. {difference}"
        elif file != theirs:
            return f"File {name} differs."
    return "" if one.loss == other.loss else f"The losses are {one.loss} and {other.loss}."


def _difference(one: pl.DataFrame, other: pl.DataFrame) -> str:
    try:
        assert_frame_equal(one, other, rel_tol=_NEARLY, abs_tol=_NEARLY)
    except AssertionError as error:
        return str(error).splitlines()[0] + "."
    return ""


def _saved_and_read(file: File) -> File:
    if isinstance(file, pl.DataFrame):
        file.write_parquet(stream := io.BytesIO())
        return pl.read_parquet(stream.getvalue())
    return file if isinstance(file, str) else dict(json.loads(json.dumps(file, sort_keys=True)))


def _times(scenario: Scenario, frames: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    return {
        name: column
        for name, frame in frames.items()
        for column in scenario.tables[name].unique
        if frame.schema[column].is_temporal()
    }
