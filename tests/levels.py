"""A scenario that learns each name's level, so that its bundles are as good as the data they were trained on.

`python -m tests.levels` serves its training with the triggers of `sales-train/on-drift`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl
import yaml
from prefect import flow
from prefect.events import DeploymentEventTrigger

from flows.evaluating import AT_MOST, COOLDOWN_DAYS, evaluate_published
from flows.lifecycle import promotions
from flows.retraining import train_for
from models.scenario import AsOf, File, FitResult, Frames, Scores
from tasks.storage.store import Store
from tests.conftest import ROOT
from tests.toy import Toy

NAME = "on-drift"
LEARNT_DAYS = 3


@dataclass(frozen=True)
class Levels(Toy):
    """Publishes each name's level: the mean of its last days in the training, plus `spoilt_by`."""

    name: str = "levels"

    def prepare_shard(
        self, tables: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        return {
            "values": tables["values"].filter(pl.col("at") <= as_of).select("name", "at", "value").collect()
        }

    def fit(
        self, parts: Frames, context: Mapping[str, pl.DataFrame], as_of: AsOf, options: Mapping[str, Any]
    ) -> FitResult:
        values, spoilt = parts["values"].collect(), float(options.get("spoilt_by", 0))
        before = _levels(values.filter(pl.col("at") < as_of), as_of - timedelta(days=1), spoilt)
        backtest = values.filter(pl.col("at") == as_of).join(before, on="name").rename({"level": "forecast"})
        loss = _loss(backtest)
        metrics = {"slice": ["all"], "value_of_slice": ["all"], "metric": ["loss"], "value": [loss]}
        return FitResult(
            files={"levels": _levels(values, as_of, spoilt)},
            features=("value",),
            backtest=backtest,
            metrics=pl.DataFrame(metrics),
            headline={"loss": loss},
            loss=loss,
        )

    def load(self, files: Mapping[str, File]) -> pl.DataFrame:
        levels = files["levels"]
        assert isinstance(levels, pl.DataFrame)
        return levels

    def rebacktest(
        self, model: Any, parts: Frames, backtest: pl.DataFrame, trained_as_of: AsOf
    ) -> tuple[float, float, int] | None:
        unseen = backtest.filter(pl.col("at") > trained_as_of)
        theirs = unseen.drop("forecast").join(model, on="name").rename({"level": "forecast"})
        return (_loss(unseen), _loss(theirs), unseen.height) if unseen.height else None

    def score(
        self,
        model: Any,
        tables: Frames,
        context: Mapping[str, pl.DataFrame],
        keys: pl.DataFrame,
        as_of: AsOf,
        options: Mapping[str, Any],
    ) -> Scores:
        rows = keys.join(model, on="name").select(
            "name", value="level", names=pl.lit(1, pl.Int64), rung=pl.lit("level")
        )
        null = pl.lit(None, pl.String)
        return Scores(rows, keys.with_columns(status=pl.lit("scored"), rung=null, reason=null))


def _levels(values: pl.DataFrame, as_of: AsOf, spoilt: float) -> pl.DataFrame:
    recent = values.filter(pl.col("at") > as_of - timedelta(days=LEARNT_DAYS))
    return recent.group_by("name").agg(level=pl.col("value").mean() + spoilt).sort("name")


def _loss(rows: pl.DataFrame) -> float:
    return float((rows["value"] - rows["forecast"]).abs().mean())  # type: ignore[arg-type]


LEVELS = Levels()


@flow(name="levels-train")
def train(store: str, spoilt_by: float = 0.0, reason: str | None = None, budget: int = 4) -> Any:
    return train_for(reason, budget, LEVELS, Store(store), None, {"spoilt_by": spoilt_by})


@flow(name="levels-evaluate")
def evaluate(store: str) -> dict[str, Any]:
    return evaluate_published(LEVELS, Store(store), None, None, AT_MOST, COOLDOWN_DAYS)


promote, rollback = promotions(LEVELS)


def triggers() -> list[DeploymentEventTrigger]:
    """Those of `sales-train/on-drift` in `prefect.yaml`, for this scenario."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (mine,) = [one for one in declared if one["name"] == NAME and "sales" in one["tags"]]
    own = json.loads(json.dumps(mine["triggers"]).replace("almanac.sales", "almanac.levels"))
    return [DeploymentEventTrigger.model_validate(one) for one in own]


if __name__ == "__main__":
    train.serve(name=NAME, triggers=triggers())
