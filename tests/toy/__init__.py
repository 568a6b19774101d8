"""A fourth scenario, small enough to know every row by heart: it doubles each key's last value.

It lives up to `models.scenario.Scenario` and touches no existing file. Its options misbehave on
request: `seconds` to sleep per key, `raises` and `kills` name keys that raise or that kill the
process scoring them, `sleeps` and `spins` those whose scoring never ends, the latter with the
interpreter's lock held; with `once`, a path, only as long as no file is there.
"""

import math
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import dataframely as dy
import polars as pl

from models.errors import ContractError
from models.metrics import by_slice
from models.page.blocks import Figures, Section
from models.scenario import (
    AsOf,
    ControlChart,
    File,
    FitResult,
    Frames,
    GroundTruth,
    HasControlCharts,
    HasPage,
    HasSearch,
    MeetsChampions,
    PublishedTable,
    ReportsGaps,
    RunView,
    Scenario,
    Scores,
    Search,
    Table,
    WatchesInputs,
)
from models.search import OneOf, Real, Space, Whole

FACTOR = 2.0


class Daily(dy.Schema):
    name = dy.String(min_length=1)
    at = dy.Date()
    value = dy.Float64(nullable=True, min=0)


class Hourly(dy.Schema):
    name = dy.String(min_length=1)
    at = dy.Datetime(time_zone="UTC")
    value = dy.Float64(nullable=True, min=0)


@dataclass(frozen=True)
class Plain(Scenario):
    """Doubles the last value of each name; `as_of` is a moment if `hourly`, else a day."""

    name: str = "toy"
    key: tuple[str, ...] = ("name",)
    hourly: bool = False

    @property
    def tables(self) -> Mapping[str, Table]:
        schema = Hourly if self.hourly else Daily
        return {
            "values": Table("values", schema, unique=("name", "at"), shard_by=("name",), covariates=True),
            "extras": Table("extras", schema, unique=("name", "at"), required=False),
        }

    def published_table(self, options: Mapping[str, Any]) -> PublishedTable:
        wide = dict.fromkeys(options.get("columns", []), pl.Float64)
        schema = {"name": pl.String, "value": pl.Float64, "names": pl.Int64, "rung": pl.String} | wide
        return PublishedTable("doubled", schema, ("name",))

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> AsOf:
        first, last = (
            tables["values"].select(low=pl.col("at").min(), high=pl.col("at").max()).collect().row(0)
        )
        if as_of is None:
            return last
        if not first <= as_of <= last:
            raise ContractError(f"--as-of {as_of}: the values are from {first} to {last}. Give one of those.")
        return as_of

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        past = tables["values"].filter(pl.col("at") <= as_of)
        return {"count": past.select(names=pl.col("name").n_unique().cast(pl.Int64)).collect()}

    def prepare_shard(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        last = _last(tables, as_of).collect()
        _misbehave(last["name"].to_list(), options)
        return {"last": last}

    def fit(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> FitResult:
        last = parts["last"].sort("name").collect()
        loss = float(options.get("loss", 1.0)) * distance(options) / distance({})
        return FitResult(
            files={"factor": {"factor": FACTOR}, "seen": last, "remark": "doubles"},
            features=("value",),
            backtest=last.select("name", "at", actual="value", forecast=pl.col("value") * FACTOR),
            metrics=pl.DataFrame(
                {"slice": ["all"], "value_of_slice": ["all"], "metric": ["loss"], "value": [loss]}
            ),
            headline={"loss": loss},
            loss=loss,
            notes=("It doubles.",),
        )

    def load(self, files: Mapping[str, File]) -> float:
        content = files["factor"]
        assert isinstance(content, dict)
        return float(content["factor"])

    def requested_keys(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        return tables["values"].filter(pl.col("at") <= as_of).select("name", "shard").unique()

    def score(
        self,
        model: Any,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        _misbehave(keys["name"].to_list(), options)
        last = keys.lazy().join(_last(tables, as_of), on="name", how="left").collect()
        answers = last.with_columns(status=_STATUS, rung=_RUNG, reason=_REASON)
        rows = answers.filter(pl.col("status") != "skipped").select(
            "name",
            pl.col("value") * model,
            pl.lit(context["count"].item(), pl.Int64).alias("names"),
            pl.col("rung").fill_null("doubled"),
            *(pl.lit(1.0).alias(name) for name in options.get("columns", [])),
        )
        return Scores(rows, answers.select("name", "status", "rung", "reason"))


@dataclass(frozen=True)
class Toy(Plain, MeetsChampions, ReportsGaps, HasPage, HasControlCharts, WatchesInputs, HasSearch):
    """`Plain` with capabilities that a scenario may add."""

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        unseen = backtest.filter(pl.col("at") > trained_as_of).height
        return (1.0, 2.0, unseen) if unseen else None

    def gaps(
        self,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> pl.DataFrame:
        stale = _last(tables, as_of).filter(pl.col("at") < as_of).collect()
        return keys.join(stale, on="name").select("name", last="at", done=pl.lit("uses the older value"))

    def sections(self, run: RunView) -> list[Section]:
        rows = run.published_rows.select(pl.len()).collect().item()
        return [Section("What was doubled", [Figures({"Rows": f"{rows}"})])]

    @property
    def ground_truth(self) -> GroundTruth:
        return GroundTruth(("values",), since=pl.col("at").min(), until=pl.col("at").max())

    @property
    def charts(self) -> Mapping[str, ControlChart]:
        return {"error": ControlChart("Absolute error per value", every="day")}

    def judge(
        self, published_rows: pl.LazyFrame, tables: Frames, until: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        next_one = pl.col("as_of") + (timedelta(hours=1) if self.hourly else timedelta(days=1))
        then = tables["values"].select("name", "at", actual="value")
        rows = published_rows.with_columns(at=next_one).join(then, on=["name", "at"], how="left").collect()
        return rows.with_columns(pending=pl.col("at") > until).drop("as_of").sort("name")

    def measures(self, judged_rows: pl.LazyFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        complete = judged_rows.drop_nulls(["value", "actual"]).collect()
        measures = {"rows": pl.len(), "mean_error": (pl.col("value") - pl.col("actual")).abs().mean()}
        return by_slice(complete, measures, [None, "at"])

    def tallies(self, judged_rows: pl.DataFrame, options: Mapping[str, Any]) -> pl.DataFrame:
        complete = judged_rows.drop_nulls(["value", "actual"])
        sums = complete.group_by(pl.col("at").cast(pl.Date).alias("period")).agg(
            numerator=(pl.col("value") - pl.col("actual")).abs().sum(),
            denominator=pl.col("actual").sum(),
            rows=pl.len().cast(pl.Int64),
        )
        return sums.with_columns(chart=pl.lit("error"), series=pl.lit("all"))

    def watched_inputs(
        self, tables: Frames, trained_as_of: AsOf, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.LazyFrame:
        return tables["values"].filter(pl.col("at") <= as_of).select("name", "value", cycle="at")

    @property
    def search(self) -> "ToySearch":
        return ToySearch()


class ToySearch(Search):
    """Searches for the values nearest to those that the data calls for; each day but the first is a fold."""

    space: ClassVar[Space] = {
        "kind": OneOf(("round", "exact")),
        "near": Real(0.01, 10, log=True),
        "far": Whole(1, 9, when={"kind": ("exact",)}),
    }

    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"kind": "round", "near": 1.0, "far": 1} | dict(options)

    def prepare(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        return {"days": tables["values"].filter(pl.col("at") <= as_of).select("at").collect()}

    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        days = parts["days"].select(pl.col("at").unique().sort()).collect()["at"]
        return [f"{day:%Y-%m-%d}" for day in days[1:]]

    def losses(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        for number, _ in enumerate(self.folds(parts, as_of, options)):
            _misbehave([str(options["kind"])], options)
            yield distance(options) + 0.01 * number


def distance(options: Mapping[str, Any]) -> float:
    """The distance of the hyperparameters of `options` from `exact`, 0.1 and 7, plus 1."""
    values = ToySearch().defaults(options)
    far = abs(values["far"] - 7) / 7 if values["kind"] == "exact" else 2.0
    return float(1.0 + abs(math.log10(values["near"]) + 1) + far)


_STATUS = pl.when(pl.col("value").is_null()).then(pl.lit("skipped"))
_STATUS = _STATUS.when(pl.col("count") == 1).then(pl.lit("fallback")).otherwise(pl.lit("scored"))
_RUNG = pl.when(pl.col("count") == 1, pl.col("value").is_not_null()).then(pl.lit("single"))
_REASON = pl.when(pl.col("value").is_null()).then(pl.lit("the last value is missing"))


def _last(tables: Frames, as_of: AsOf) -> pl.LazyFrame:
    past = tables["values"].filter(pl.col("at") <= as_of).sort("name", "at")
    return past.group_by("name", maintain_order=True).agg(
        pl.col("at", "value").last(), pl.len().alias("count")
    )


def _misbehave(names: list[str], options: Mapping[str, Any]) -> None:
    time.sleep(float(options.get("seconds", 0)) * len(names))
    once = options.get("once")
    if once and Path(once).exists():
        return
    for deed, act in (("raises", _raise), ("kills", _die), ("sleeps", _sleep), ("spins", _spin)):
        for name in sorted(set(options.get(deed, [])) & set(names)):
            if once:
                Path(once).touch()
            act(name)


def _raise(name: str) -> None:
    raise ValueError(f"{name} cannot be doubled")


def _die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep(name: str) -> None:
    time.sleep(1e6)


def _spin(name: str) -> None:
    """Search for years, in native code that blocks all other threads and signal handlers."""
    re.fullmatch(r"(a|a)*", "a" * 64 + name)


def values(names: int = 12, days: int = 3, start: date = date(2024, 1, 1)) -> pl.DataFrame:
    """Rows to ingest: `name, at, value`; the value of `n07` on day 2 is 7.2."""
    return pl.DataFrame(
        [
            {"name": f"n{name:02d}", "at": start + timedelta(days=day), "value": name + day / 10}
            for name in range(names)
            for day in range(days)
        ],
        schema={"name": pl.String, "at": pl.Date, "value": pl.Float64},
    )


def hourly_values(names: int = 6, hours: int = 4) -> pl.DataFrame:
    """As `values`, by the hour from 2018-08-29 00:00 UTC."""
    start = datetime(2018, 8, 29, tzinfo=UTC)
    return pl.DataFrame(
        [
            {"name": f"n{name:02d}", "at": start + timedelta(hours=hour), "value": name + hour / 10}
            for name in range(names)
            for hour in range(hours)
        ],
        schema={"name": pl.String, "at": pl.Datetime("us", "UTC"), "value": pl.Float64},
    )


TOY = Toy()
HOURLY = Toy(hourly=True)
