"""The sales model of a bundle: the pooled ensembles, their calibration, and the SKUs' own models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from models.sales import categories, conformal, contest, pooled
from models.sales.contest import BLEND, NO_PLAN, POOLED, STATISTICAL
from models.sales.demand import from_log, to_log, whole_numbers
from models.sales.options import middle_of, quantile_column
from models.sales.panel import KEY
from models.scenario import File

GROUPS = ("rung", "kind", "steps")
"""Columns by which errors are calibrated, from the largest group to the smallest; `steps` are thirds of the horizon."""
LARGEST_OFFSET = math.log(3)
"""If pairs that sell next to nothing are few, one that grows a hundredfold would make the offset of all of them."""
LARGEST_GROWTH = math.log(2)
"""The most by which `widths` move a quantile up, for the same reason."""
CLUSTER = ("sku", "origin")
"""The errors of a SKU at one origin are strongly correlated, over its stores and weeks."""


@dataclass(frozen=True)
class Model:
    """The estimators of a bundle.

    `with_plan` is for rows whose week is planned, `without_plan` for the others; None if there was
    too little to learn from. `own_models` are the parameters of `statistical`, and `own_keys` (sku, store)
    the keys that they forecast; with `own_first`, they forecast all keys that they can. `unplanned` (kind, rung)
    are the candidates of `contest` that forecast weeks without a plan, by kind of demand; without rows, the
    pooled model does. `planned` are those that replace the models in planned weeks. With `blended`, the rows
    of all other keys that both can forecast with the plan are the mean of the two (see `contest.mean_of`).
    `categories` are the categories of columns of words at training. `offsets` calibrate each rung on the log scale.
    `widths` are factors by step of the distance of a quantile from the median, see `widening`; without any, they are 1.
    `quantiles`, `horizon`, `covariates` and `flags` are those of the training.
    """

    quantiles: tuple[float, ...]
    horizon: int
    covariates: tuple[str, ...]
    flags: tuple[str, ...]
    with_plan: pooled.Pooled | None
    without_plan: pooled.Pooled | None
    offsets: pl.DataFrame
    own_models: pl.DataFrame
    own_keys: pl.DataFrame
    own_first: bool
    blended: bool
    unplanned: pl.DataFrame = field(default_factory=contest.nothing)
    planned: pl.DataFrame = field(default_factory=contest.nothing)
    categories: pl.DataFrame = field(default_factory=categories.nothing)
    widths: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the quantile columns."""
        return tuple(quantile_column(q) for q in self.quantiles)

    def of_rung(self, rung: str) -> pooled.Pooled | None:
        return self.with_plan if rung == POOLED else self.without_plan

    def files(self) -> dict[str, File]:
        """The files of the bundle: text of ensembles, frames, and JSON."""
        about = {
            "quantiles": list(self.quantiles),
            "horizon": self.horizon,
            "covariates": list(self.covariates),
            "flags": list(self.flags),
            "own_first": self.own_first,
            "blended": self.blended,
            "widths": list(self.widths),
        }
        contents: dict[str, File] = {"about": about, "offsets": self.offsets, "own_keys": self.own_keys}
        if self.unplanned.height:
            contents["unplanned"] = self.unplanned
        if self.planned.height:
            contents["planned"] = self.planned
        if self.categories.height:
            contents["categories"] = self.categories
        if self.own_models.height:
            contents["own_models"] = self.own_models
        for rung in (POOLED, NO_PLAN):
            ensemble = self.of_rung(rung)
            contents |= ensemble.files(rung) if ensemble else {}
        return contents

    def forecast(
        self,
        rows: pl.DataFrame,
        values: np.ndarray,
        names: Sequence[str],
        own: pl.DataFrame | None,
        threads: int,
    ) -> pl.DataFrame:
        """`rows` with `rung` and the quantiles in units; see `forecast_rows.build` for rows, values and names.

        Planned rows have the rung `pooled` if the bundle has such an ensemble, all others `pooled_no_plan`; with `own`,
        forecasts of `statistical`, rows may also have the rungs `statistical` and `blend`. Without any
        estimator, rung and quantiles are null.
        """
        in_plan = pl.col("planned") & (self.with_plan is not None)
        rung = pl.when(in_plan).then(pl.lit(POOLED)).otherwise(pl.lit(NO_PLAN)).alias("rung")
        rows = rows.with_columns(rung, steps(self.horizon))
        raw = np.full((rows.height, len(self.quantiles)), np.nan)
        for name in (POOLED, NO_PLAN):
            ensemble, at = self.of_rung(name), np.flatnonzero((rows["rung"] == name).to_numpy())
            if ensemble is not None and len(at):
                inputs = values if len(at) == len(values) else values[at]
                raw[at] = log_values(ensemble, inputs, names, threads)
        level = rows["level"].to_numpy()[:, None]
        if own is not None:
            rows, raw = self._with_own(rows, raw, own, level)
        else:
            rows, raw = self._with_candidates(
                rows, rows["rung"] == POOLED, raw, raw, np.full(raw.shape, np.nan)
            )
        units = from_log(self._calibrated(raw, rows), level)
        quantiles = [pl.Series(name, units[:, i], nan_to_null=True) for i, name in enumerate(self.columns)]
        is_finite = pl.Series(np.isfinite(units).all(axis=1))
        rows = rows.with_columns(pl.when(is_finite).then("rung").alias("rung"), *quantiles).drop("steps")
        return whole_numbers(rows, self.columns) if "whole" in rows.columns else rows

    def unjudged(self) -> pl.DataFrame:
        """rung, kind and `unjudged`, which is true: rungs whose calibration of `new` keys is mostly that of other keys.

        None without calibration, and with that of an earlier version, which does not have `clusters`.
        """
        none = pl.lit(None, pl.Float64).alias("clusters")
        offsets = (
            self.offsets if "clusters" in self.offsets.columns else self.offsets.clear().with_columns(none)
        )
        enough = (pl.col("kind") == "new") & (pl.col("clusters") >= conformal.BORROWED)
        rungs = offsets.drop_nulls("rung").group_by("rung").agg(enough.any())
        unjudged = rungs.filter(~pl.col("kind").fill_null(value=False)).sort("rung")
        return unjudged.select("rung", kind=pl.lit("new"), unjudged=pl.lit(value=True))

    def _with_own(
        self, rows: pl.DataFrame, raw: np.ndarray, own: pl.DataFrame, level: np.ndarray
    ) -> tuple[pl.DataFrame, np.ndarray]:
        """Rungs and quantiles on the log scale, with the forecasts `own` of the SKUs' own models."""
        own_rows = rows.select(*KEY, "week").join(
            own.select(*KEY, "week", *self.columns), on=[*KEY, "week"], how="left", maintain_order="left"
        )
        values = to_log(own_rows.select(self.columns).to_numpy(), level)
        there = np.isfinite(values).all(axis=1)
        marks = rows.select(KEY).join(
            self.own_keys.with_columns(chosen=True), on=KEY, how="left", maintain_order="left"
        )
        alone = there & (self.own_first | marks["chosen"].fill_null(False).to_numpy())
        both = there & ~alone & (rows["rung"] == POOLED).to_numpy() & self.blended
        models = np.where(
            alone[:, None], values, np.where(both[:, None], contest.mean_of([raw, values]), raw)
        )
        rung = pl.when(pl.Series(alone)).then(pl.lit(STATISTICAL)).when(pl.Series(both)).then(pl.lit(BLEND))
        in_plan, rows = rows["rung"] == POOLED, rows.with_columns(rung.otherwise("rung").alias("rung"))
        return self._with_candidates(rows, in_plan, models, raw, values)

    def _with_candidates(
        self, rows: pl.DataFrame, in_plan: pl.Series, raw: np.ndarray, ensembles: np.ndarray, own: np.ndarray
    ) -> tuple[pl.DataFrame, np.ndarray]:
        """Rungs and quantiles with those of the candidates that `unplanned` and `planned` name.

        `raw` are the quantiles without them, `ensembles` those of the pooled ensembles, `own` of the SKUs' own models.
        """
        out_of_plan = rows["rung"] == NO_PLAN
        for choice, there, with_plan in ((self.unplanned, out_of_plan, False), (self.planned, in_plan, True)):
            if choice.is_empty():
                continue
            choices = rows.select("kind").join(choice, on="kind", how="left", maintain_order="left")["rung"]
            every = contest.candidates(ensembles, own, rows, middle_of(self.quantiles), has_plan=with_plan)
            for rung, values in every.items():
                here = (
                    there
                    & (choices == rung).fill_null(value=False)
                    & pl.Series(np.isfinite(values).all(axis=1))
                )
                raw = np.where(here.to_numpy()[:, None], values, raw)
                rows = rows.with_columns(pl.when(here).then(pl.lit(rung)).otherwise("rung").alias("rung"))
        return rows, raw

    def recalibrated(self, rows: pl.DataFrame, level: str) -> pl.DataFrame:
        """`rows` of another estimator, with rung, kind, whole, step and quantiles in units, calibrated.

        The column `level` holds the units to which the log scale is relative; if it is not positive,
        the quantiles stay the same.
        """
        columns = list(self.columns)
        scale = rows[level].to_numpy()[:, None]
        values = rows.select(columns).to_numpy()
        raw = to_log(values, np.where(scale > 0, scale, 1.0))
        logs = self._calibrated(raw, rows.with_columns(steps(self.horizon)))
        units = np.where(scale > 0, from_log(logs, scale), values)
        rows = rows.with_columns(pl.Series(name, units[:, i]) for i, name in enumerate(columns))
        return whole_numbers(rows, columns)

    def _calibrated(self, values: np.ndarray, rows: pl.DataFrame) -> np.ndarray:
        """`values` (rows, quantiles) on the log scale with offsets, and as wide as `widths` require.

        Rows of the ladder have `stores`, the number of the SKU's stores: their bands have the spread between these, which is
        wider than the drift, if there are several.
        """
        values = conformal.calibrated(values, rows, self.offsets, GROUPS)
        if not self.widths:
            return values
        middle = values[:, [middle_of(self.quantiles)]]
        factors = np.array(self.widths)[rows["step"].to_numpy() - 1, None]
        if "stores" in rows.columns:
            factors = np.where((rows["stores"] == 1).fill_null(value=False).to_numpy()[:, None], factors, 1.0)
        return values + np.minimum((values - middle) * (factors - 1), LARGEST_GROWTH)


def load(files: Mapping[str, Any]) -> Model:
    """The model from the files of `Model.files`; nothing in them is executed."""
    about = files["about"]
    return Model(
        quantiles=tuple(about["quantiles"]),
        horizon=about["horizon"],
        covariates=tuple(about["covariates"]),
        flags=tuple(about["flags"]),
        with_plan=pooled.read(files, POOLED, about["quantiles"]),
        without_plan=pooled.read(files, NO_PLAN, about["quantiles"]),
        offsets=files["offsets"],
        own_models=files.get("own_models", pl.DataFrame()),
        own_keys=files["own_keys"],
        own_first=about["own_first"],
        blended=about["blended"],
        unplanned=files.get("unplanned", contest.nothing()),
        planned=files.get("planned", contest.nothing()),
        categories=files.get("categories", categories.nothing()),
        widths=tuple(about.get("widths", ())),
    )


def log_values(ensemble: pooled.Pooled, values: np.ndarray, names: Sequence[str], threads: int) -> np.ndarray:
    """Quantiles on the log scale; features of the ensemble that are not in `names` are unknown."""
    return ensemble.predict(aligned(ensemble, values, names), threads)


def aligned(ensemble: pooled.Pooled, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The columns `names` of `values` in the order of the ensemble's features; missing ones are NaN."""
    if tuple(names) == ensemble.features:
        return values
    at = {name: i for i, name in enumerate(names)}
    columns = np.full((len(values), len(ensemble.features)), np.nan, np.float32)
    for i, name in enumerate(ensemble.features):
        if name in at:
            columns[:, i] = values[:, at[name]]
    return columns


def ladder_level(columns: Sequence[str]) -> pl.Expr:
    """The units to which the errors of a ladder's row are relative: the mean of its quantiles."""
    return pl.mean_horizontal(columns).alias("level")


def steps(horizon: int) -> pl.Expr:
    """The third of the horizon to which `step` belongs: 0, 1 or 2."""
    return ((pl.col("step").cast(pl.Int32) - 1) * 3 // horizon).clip(0, 2).cast(pl.Int32).alias("steps")


def empty_keys() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(KEY, pl.String))
