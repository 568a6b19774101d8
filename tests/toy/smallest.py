"""The smallest scenario: the next value of each name is the mean of its values so far."""

from dataclasses import dataclass
from typing import Any

import dataframely as dy
import polars as pl

from models.scenario import AsOf, FitResult, PublishedTable, Scenario, Scores, Table


class Value(dy.Schema):
    name = dy.String(min_length=1)
    at = dy.Date()
    value = dy.Float64()


@dataclass(frozen=True)
class Means(Scenario):
    name: str = "means"
    key: tuple[str, ...] = ("name",)

    @property
    def tables(self) -> dict[str, Table]:
        return {"values": Table("values", Value, unique=("name", "at"), shard_by=("name",))}

    def published_table(self, options: Any) -> PublishedTable:
        return PublishedTable("means", {"name": pl.String, "mean": pl.Float64}, sort=("name",))

    def resolve_as_of(self, tables: Any, as_of: AsOf | None, now: Any) -> AsOf:
        return as_of or tables["values"].select(pl.col("at").max()).collect().item()

    def fit(self, parts: Any, context: Any, as_of: AsOf, options: Any) -> FitResult:
        values = parts["values"].filter(pl.col("at") <= as_of).sort("name", "at").collect()
        before = pl.col("value").cum_sum().shift(1) / pl.int_range(pl.len())
        backtest = values.with_columns(mean=before.over("name")).drop_nulls("mean")
        loss = float((backtest["value"] - backtest["mean"]).abs().mean() or 0.0)
        metrics = {"slice": ["all"], "value_of_slice": ["all"], "metric": ["mae"], "value": [loss]}
        overall = {"mean": float(values["value"].mean() or 0.0)}
        return FitResult({"model": overall}, ("value",), backtest, pl.DataFrame(metrics), {"mae": loss}, loss)

    def load(self, files: Any) -> float:
        return float(files["model"]["mean"])

    def requested_keys(self, tables: Any, as_of: AsOf, options: Any) -> pl.LazyFrame:
        return tables["values"].filter(pl.col("at") <= as_of).select("name", "shard").unique()

    def score(
        self, model: float, tables: Any, context: Any, keys: pl.DataFrame, as_of: AsOf, options: Any
    ) -> Scores:
        past = tables["values"].filter(pl.col("at") <= as_of).sort("name", "at")
        means = past.group_by("name").agg(mean=pl.col("value").mean()).collect()
        rows = keys.join(means, on="name", how="left").select("name", pl.col("mean").fill_null(model))
        null = pl.lit(None, pl.String)
        return Scores(rows, keys.select("name", status=pl.lit("scored"), rung=null, reason=null))


MEANS = Means()
