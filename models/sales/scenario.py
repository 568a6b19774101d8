"""The `sales` scenario: weekly units per SKU and store, as quantiles for the next quarter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from models.page import Section
from models.sales import features, pooled, training
from models.sales.calendar import resolve_as_of
from models.sales.contracts import TABLES
from models.sales.gaps import plan_gaps
from models.sales.options import Options
from models.sales.panel import KEY, known_covariates, panel_of, past_and_plan
from models.scenario import AsOf, File, Frames, Published, RunView, Scenario, Scores, Table, Trained

LOOKBACK_WEEKS = 104


@dataclass(frozen=True)
class Sales(Scenario):
    """See `models.scenario.Scenario`; options are those of `models.sales.options.Options`."""

    name: str = "sales"
    key: tuple[str, ...] = KEY
    backtests: str = "backtests"

    @property
    def tables(self) -> Mapping[str, Table]:
        return TABLES

    def published(self, options: Mapping[str, Any]) -> Published:
        quantiles = dict.fromkeys(Options.of(options).columns, pl.Float64)
        schema = {"sku": pl.String, "store": pl.String, "week": pl.Date, "step": pl.Int32}
        return Published("forecasts", schema | quantiles | {"rung": pl.String}, ("sku", "store", "week"))

    def resolve_as_of(self, tables: Frames, as_of: AsOf | None, now: datetime) -> date:
        return resolve_as_of(tables["history"], as_of, now)

    def context(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
        known = tables["history"].filter(pl.col("week") <= as_of)
        calendar = known.select(pl.col("week").min().alias("first_week"), pl.len().alias("rows"))
        return {"calendar": calendar.collect(engine="streaming")}

    def prepare_shard(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        return training.prepare(tables, context, as_of, Options.of(options))

    def fit(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> Trained:
        return training.fit(parts, as_of, Options.of(options))

    def load(self, files: Mapping[str, File]) -> pooled.Pooled:
        texts = {
            name.removeprefix("pooled_"): text
            for name, text in files.items()
            if name.startswith("pooled_") and isinstance(text, str)
        }
        return pooled.read(texts)

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        unseen = backtest.filter(pl.col("week") > trained_as_of)
        if unseen.is_empty():
            return None
        options = _options_of(backtest)
        rows = (
            parts["backtest"]
            .filter(pl.col("week") > trained_as_of)
            .collect()
            .join(
                unseen.select("sku", "store", "origin", "week"),
                on=["sku", "store", "origin", "week"],
                how="semi",
            )
        )
        theirs = training._predict(model, rows, options)
        loss = training.measures(options)["pinball"]
        return unseen.select(loss).item(), theirs.select(loss).item(), theirs.height

    def requested(self, tables: Frames, as_of: AsOf, options: Mapping[str, Any]) -> pl.LazyFrame:
        chosen = Options.of(options)
        since, until = (
            as_of - timedelta(weeks=chosen.requested_weeks),
            as_of + timedelta(weeks=chosen.horizon),
        )
        week = pl.col("week")
        found = [tables["history"].filter(week > since, week <= as_of).select(*KEY, "shard")]
        if "plan" in tables:
            found.append(tables["plan"].filter(week > as_of, week <= until).select(*KEY, "shard"))
        return pl.concat(found).unique().sort(*KEY)

    def score(
        self,
        model: pooled.Pooled,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        chosen = Options.of(options)
        covariates = known_covariates(tables)
        first = as_of - timedelta(weeks=LOOKBACK_WEEKS - 1)
        panel = panel_of(
            past_and_plan(tables, covariates, as_of, chosen.horizon),
            keys.select(KEY),
            covariates,
            first,
            as_of,
            chosen.horizon,
        )
        rows = features.build(panel, [panel.last], range(1, chosen.horizon + 1))
        order = [rows.names.index(name) if name in rows.names else -1 for name in model.features]
        padded = np.concatenate([rows.values, np.full((len(rows.values), 1), np.nan, np.float32)], axis=1)
        found = model.predict(np.ascontiguousarray(padded[:, order]), chosen.threads)
        units = pooled.from_log(found, rows.frame["level"].to_numpy()[:, None])
        known = pl.Series("known", np.isfinite(panel.units).any(axis=0))
        keyed = panel.keys.with_columns(known)
        published = (
            rows.frame.join(keyed, on=KEY, how="left", maintain_order="left")
            .select(
                "sku",
                "store",
                "week",
                "step",
                *[
                    pl.when("known").then(pl.Series(name, units[:, i])).otherwise(0.0).alias(name)
                    for i, name in enumerate(chosen.columns)
                ],
                pl.when("known").then(pl.lit("pooled")).otherwise(pl.lit("nothing_known")).alias("rung"),
            )
            .sort(*KEY, "week")
        )
        outcome = keyed.select(
            *KEY,
            pl.when("known").then(pl.lit("scored")).otherwise(pl.lit("fallback")).alias("status"),
            pl.when("known").then(pl.lit("pooled")).otherwise(pl.lit("nothing_known")).alias("rung"),
            pl.when(~pl.col("known")).then(pl.lit("no history in two years")).alias("reason"),
        )
        return Scores(published, outcome)

    def gaps(
        self, tables: Frames, keys: pl.DataFrame, as_of: AsOf, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        return plan_gaps(tables, keys, as_of, Options.of(options).horizon)

    def sections(self, run: RunView) -> list[Section]:
        from models.sales.sections import sections

        return sections(run)


def _options_of(backtest: pl.DataFrame) -> Options:
    quantiles: Sequence[float] = [
        float(c[1:]) / 100 for c in backtest.columns if c[0] == "q" and c[1:2].isdigit()
    ]
    return Options.of({"quantiles": quantiles})


SALES = Sales()
