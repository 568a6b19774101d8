"""The rows of a training: features and outcomes of the machines of a shard."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from models.machines.conditions import Conditions, conditions_of
from models.machines.contracts import tables_at
from models.machines.equipment import Gaps, missing_of_types
from models.machines.features import build
from models.machines.labels import outcomes, without_components
from models.machines.options import Options
from models.machines.sampling import STEPS, draw, folds, row_count
from models.machines.service import out_of_service
from models.machines.vocabulary import Vocabulary, by_component
from models.scenario import AsOf, Context, Frames


def rows_of(
    tables: Frames,
    vocabulary: Vocabulary,
    period: pl.DataFrame,
    since: datetime | None,
    options: Options,
    gaps: Gaps = (),
) -> pl.DataFrame:
    """Features and outcomes of all machines in `tables`, from `since` (or the first telemetry) on.

    Row times are counted back from the latest telemetry. Outcomes are known up to the end of the record of
    failures, and for a machine out of service up to its last telemetry. A machine has no row for a time whose longest
    window holds no reading. Components that its type does not have, by `gaps`, have no outcome. Columns: those of
    `features.build` and `labels.outcomes`, `steps_back` and `drawn`.
    """
    first, last = period["first"].item(), period["last"].item()
    count = row_count(max(first, since) if since else first, last, options.every_hours)
    visible = tables_at(by_component(tables, vocabulary.components), last)
    machines = visible["telemetry"].select(pl.col("machine_id").unique()).collect()["machine_id"].to_list()
    rows = build(tables, vocabulary, machines, last, count, options)
    steps = np.tile(np.arange(count - 1, -1, -1, dtype=np.int32), len(machines))
    nothing = pl.LazyFrame(
        schema={"machine_id": pl.String, "time": rows.schema["time"], "component": pl.String}
    )
    failures = visible.get("failures", nothing)
    ends = out_of_service(visible, last, vocabulary.interval_hours)
    after = outcomes(rows, failures, vocabulary.components, period["outcomes"].item(), ends)
    after = after.with_columns(rows["machine_id"])
    after = without_components(after, missing_of_types(visible, gaps, last)).drop("machine_id")
    rows = rows.with_columns(pl.Series(STEPS, steps)).hstack(after).filter(pl.col("readings") > 0)
    return rows.with_columns(draw(rows, options.seed))


def vocabulary_of(context: Context) -> Vocabulary:
    """The vocabulary of a training, with the operating conditions that it has found."""
    words = Vocabulary.of_frame(context["vocabulary"])
    text = context["conditions"]["conditions"].item() if "conditions" in context else None
    return replace(words, conditions=Conditions.of_dict(json.loads(text))) if text else words


def conditions_before(telemetry: pl.LazyFrame, context: Context, options: Mapping[str, Any]) -> pl.DataFrame:
    """One row with the operating conditions as JSON, null if there is only one.

    They are those before the rows that are held out first, so that no backtest knows of later readings.
    """
    learnt, words = options_of(context, options), Vocabulary.of_frame(context["vocabulary"])
    first, until = context["observed"].select("first", "outcomes").row(0)
    since = max(first, learnt.train_from or first)
    times = pl.col("time").is_between(since, folds(since, until, learnt.held_out_share)[0].cut)
    readings = telemetry.filter(times).with_columns(words.readings_of(s).alias(s) for s in words.sensors)
    conditions = conditions_of(readings, words.sensors)
    text = json.dumps(asdict(conditions)) if conditions else None
    return pl.DataFrame({"conditions": [text]}, schema={"conditions": pl.String})


def options_of(context: Context, options: Mapping[str, Any]) -> Options:
    """The options of a training, with windows that follow the interval of the telemetry."""
    first, last = context["observed"].select("first", "last").row(0)
    interval = Vocabulary.of_frame(context["vocabulary"]).interval_hours
    return Options.of(options).at_interval(interval, (last - first).total_seconds() / 3600)


def prepare(
    tables: Frames,
    context: Context,
    as_of: AsOf,  # noqa: ARG001, the context ends at it
    options: Mapping[str, Any],
) -> dict[str, pl.DataFrame]:
    """`rows`, those of the vocabulary and period of the context from the first one to learn from; see `rows_of`."""
    learnt, words = options_of(context, options), vocabulary_of(context)
    rows = rows_of(tables, words, context["observed"], learnt.train_from, learnt, gaps_of(context))
    return {"rows": rows}


def gaps_of(context: Context) -> Gaps:
    """The components that types of machines do not have; none in the context of a run that does not train."""
    return tuple(context["equipment"].rows()) if "equipment" in context else ()
