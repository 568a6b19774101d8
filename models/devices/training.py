"""Training: the detectors of a shard's sensors, and the model and its backtest from all shards together.

The history is split into alternating blocks of 60 intervals, so that each hour of the day changes sides
from day to day: detectors are fitted on one half, their p-values calibrated on the other. So both
halves cover all times of day, and calibration holds out whole blocks, because neighbours are similar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices import conversion, discrete, joint, left_out, pace, pooled, presence, robust, trend, words
from models.devices.calibration import corrections, fit_shapes, folds_of, tails_of
from models.devices.contracts import FAULT, JOINT_TAG, KEY
from models.devices.detectors import DETECTORS
from models.devices.grid import DAY, Floats, Grid
from models.devices.model import DISCRETE_RUNGS, ROBUST_RUNGS
from models.devices.options import Options
from models.scenario import File, Frames
from models.sentinels import sentinels_of

BLOCK = 60
BASELINE_OF = {
    "level": robust.LEVEL,
    "daily": robust.SEASONAL,
    "levels": robust.REGIMES,
    "wanders": robust.LOCAL,
}
"""The baseline of sensors whose kind was set."""
FEWEST_PER_PART = 20
JOINT_WORTH = 0.4
"""A cluster of high joint scores says less about the next ones than a cluster of a sensor's scores: the expected values
of several tags are estimates, and errors that last for hours add up."""


@dataclass(frozen=True)
class _Own:
    """Sensors with varying values, for their own or the joint detector: the grid without suspected faults."""

    grid: Grid
    part: NDArray[np.bool_]
    fitted: robust.Fitted
    units: Floats

    def take(self, rows: NDArray[np.int64]) -> "_Own":
        """The sensors at `rows`, in that order."""
        return _Own(self.grid.take(rows), self.part, self.fitted.take(rows), self.units[rows])


def fit_columns(grid: Grid) -> NDArray[np.bool_]:
    """The columns on which detectors are fitted; the others calibrate them. The choice depends only on the time."""
    index = grid.index
    return (index // BLOCK + index // (DAY // grid.interval)) % 2 == 0


def prepare(
    tables: Frames, context: Mapping[str, pl.DataFrame], as_of: datetime, options: Options
) -> dict[str, pl.DataFrame]:
    """The detectors of the shard's sensors by kind and their `tails`, and the shard's part of the backtest."""
    from models.devices.backtest import part_of_shard

    start = history_start(context, as_of, options)
    readings = tables["readings"].filter(pl.col("time") >= start, pl.col("time") < as_of)
    readings = readings.select(*KEY, "time", "mean")
    paces = pace.paces_of(readings, options.step)
    sample = backtest_keys(paces.select(KEY), context, options)
    faults = labelled_faults(tables, as_of)
    kinds, zones = kinds_and_zones(tables)
    parts = []
    for panel in pace.panels(readings, paces, start, as_of, options, zones):
        grids = panel.grids(options.cells)
        part = frames_of([fit_grid(grid, options, sample, faults, kinds) for grid in grids])
        backtest = part_of_shard(panel, sample, options, faults, kinds)
        parts.append(one_joint(part | backtest, paces, panel.interval // options.step))
    return frames_of(parts)


def one_joint(frames: dict[str, pl.DataFrame], paces: pl.DataFrame, at: int) -> dict[str, pl.DataFrame]:
    """`frames` of the sensors of one pace, without the joint detectors of devices whose joint pace differs."""
    others = pace.with_joint(paces).filter(pl.col("pace") != at).select("device")
    if others.is_empty():
        return frames
    elsewhere = pl.col("device").is_in(others["device"].implode())
    result = {}
    for name, frame in frames.items():
        if name.endswith("joint"):
            frame = frame.filter(~elsewhere)
        elif name.endswith(("tails", "folds")):
            frame = frame.filter(~elsewhere | (pl.col("tag") != JOINT_TAG))
        result[name] = frame
    return result


def labelled_faults(tables: Frames, as_of: datetime) -> pl.DataFrame:
    """Faults (device, tag, start, end) from labels and verdicts that began before `as_of`; may have no rows."""
    columns = [*KEY, "start", "end"]
    frames = [tables["labels"].select(columns)] if "labels" in tables else []
    if "verdicts" in tables:
        frames.append(tables["verdicts"].filter(verdict=FAULT).select(columns))
    return pl.concat(frames).filter(pl.col("start") < as_of).collect() if frames else pl.DataFrame()


def kinds_and_zones(tables: Frames) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """The kinds set for sensors (device, tag, kind), and the time zones of devices; None without a table."""
    columns = {"kinds": (*KEY, "kind"), "sites": ("device", "timezone")}
    kinds, zones = (
        tables[name].select(some).collect() if name in tables else None for name, some in columns.items()
    )
    return kinds, zones


def history_start(context: Mapping[str, pl.DataFrame], as_of: datetime, options: Options) -> datetime:
    """The first interval of the history: that of the first reading, but at most `history_days` before `as_of`."""
    first = context["fleet"]["first"].item()
    longest = as_of - DAY * options.history_days
    start = longest if first is None else max(first, longest)
    return as_of - -(-(as_of - start) // options.step) * options.step


def backtest_keys(keys: pl.DataFrame, context: Mapping[str, pl.DataFrame], options: Options) -> pl.DataFrame:
    """Keys of the devices in the backtest: chosen by a hash of the name, independent of the shard."""
    share = min(1.0, options.backtest_devices / max(1, context["fleet"]["devices"].item() or 0))
    names = keys["device"].unique(maintain_order=True)
    sample = [name for name in names if crc32(f"{options.seed} {name}".encode()) < share * 2**32]
    return keys.filter(pl.col("device").is_in(sample))


def frames_of(parts: list[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Concatenates the frames of each name; names without rows are left out."""
    names = dict.fromkeys(name for part in parts for name in part)
    frames = {name: pl.concat([part[name] for part in parts if name in part]) for name in names}
    return {name: frame for name, frame in frames.items() if frame.height}


def fit_grid(
    grid: Grid,
    options: Options,
    sample: pl.DataFrame,
    faults: pl.DataFrame,
    kinds: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """Detectors of all sensors of `grid`, by kind, and their `tails`; `folds` for those of `sample`.

    `grid` holds whole devices, because joint detectors are also fitted.
    `kinds` are as in `conversion.readings_as`. Normal values are learnt without
    sentinels and without the labelled `faults`; how often readings are missing, including the latter.
    """
    sentinels = sentinels_of(grid.values)
    readings_grid = left_out.without(grid, sentinels)
    types = conversion.readings_as(readings_grid, kinds)
    kind = conversion.kind_of(grid.keys, kinds)
    conversions = conversion.converted(readings_grid, types)
    grid = replace(conversions, values=np.where(left_out.in_faults(grid, faults), np.nan, conversions.values))
    frames, rung = _detectors(grid, kind, options, sample)
    frames["sensors"] = presence.fit(readings_grid).with_columns(
        pl.lit(grid.interval // options.step, pl.Int64).alias("pace"),
        pl.lit(grid.timezone).alias("timezone"),
        pl.Series("rung", rung, dtype=pl.String),
        pl.Series("trend_per_day", trend.trend_per_day(grid), nan_to_null=True),
        pl.Series("sentinels", sentinels, dtype=pl.List(pl.Float64)),
        kind,
        types["taken"],
        types["zero"],
    )
    return frames


def _detectors(
    grid: Grid, kind: pl.Series, options: Options, sample: pl.DataFrame
) -> tuple[dict[str, pl.DataFrame], NDArray[np.object_]]:
    """The detectors by kind, their `tails` and `folds`, and the rung of each sensor, whose `kind` may be set."""
    part = fit_columns(grid)
    present = ~np.isnan(grid.values)
    readings = present.sum(axis=1)
    few = discrete.is_discrete(grid.values, kind) & (readings >= options.fewest_readings)
    halves = np.minimum(present[:, part].sum(axis=1), present[:, ~part].sum(axis=1))
    has_scale = (halves >= FEWEST_PER_PART) & ~words.has_words(grid.values)
    own = (readings >= options.fewest_readings) & ~few & has_scale
    rung = np.where(few, DISCRETE_RUNGS[1], "none").astype(object)
    frames: dict[str, pl.DataFrame] = {}
    if few.any():
        frames["discrete"] = discrete.fit(grid.take(np.flatnonzero(few)))
        rung[np.flatnonzero(few)[frames["discrete"]["distinct"].to_numpy() == 1]] = DISCRETE_RUNGS[0]
    coarse = few & kind.is_null().to_numpy() & has_scale
    coarse[coarse] = discrete.is_coarse(grid.values[coarse])
    if own.any() or coarse.sum() > 1:
        rows = np.flatnonzero(own | coarse)
        robust_fit = _fit_own(grid.take(rows), part, kind.gather(rows))
        frames["robust"] = robust_fit.fitted.frame(robust_fit.grid.keys)
        score_sets = [_joint(robust_fit, frames)]
        if own.any():
            mine, rows = robust_fit.take(np.flatnonzero(own[rows])), np.flatnonzero(own)
            names = np.array(ROBUST_RUNGS, dtype=object)[mine.fitted.baseline]
            rung[rows] = names if options.detector == "auto" else options.detector
            score_sets.append(_detector(grid.take(rows), mine, options, rung[rows], frames))
        held_out = ~part
        frames |= frames_of([_tails_and_folds(s, held_out, sample) for s in score_sets])
    return frames, rung


def _fit_own(grid: Grid, part: NDArray[np.bool_], kind: pl.Series) -> _Own:
    choice = kind.replace_strict(BASELINE_OF, default=-1, return_dtype=pl.Int8).to_numpy()
    fitted = robust.fit(grid, part, choice)
    units = (fitted.clean - fitted.expected) / fitted.scales.scale[:, None]
    return _Own(replace(grid, values=fitted.clean), part, fitted, units)


@dataclass(frozen=True)
class _Scored:
    """Scores (S, T) of the history: `keys` have device, tag and rung; `worth` as in `calibration.tails_of`."""

    keys: pl.DataFrame
    scores: Floats
    worth: float = 1.0


def _tails_and_folds(
    scores: _Scored, held_out: NDArray[np.bool_], sample: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """The tails of the scores by which p-values are found, and the folds by which they are checked."""
    cells = np.broadcast_to(held_out, scores.scores.shape)
    tails = pl.concat([scores.keys, tails_of(scores.scores, cells, scores.worth)], how="horizontal")
    devices = sample.select("device").unique()
    rows = np.flatnonzero(scores.keys["device"].is_in(devices["device"].to_list()).to_numpy())
    if not len(rows):
        return {"tails": tails}
    folds = folds_of(scores.scores[rows], cells[rows], scores.worth)
    keys = scores.keys[rows][folds["row"]]
    return {"tails": tails, "folds": pl.concat([keys, folds.drop("row")], how="horizontal")}


def _detector(
    grid: Grid, own: _Own, options: Options, rung: NDArray[Any], frames: dict[str, pl.DataFrame]
) -> _Scored:
    """The scores of the chosen detector; if it is not the robust one, its parameters are added to `frames`.

    It is fitted on all readings, and calibrated on those that are not suspected of a fault.
    """
    scores = own.fitted.scores
    if options.detector in DETECTORS:
        detector = DETECTORS[options.detector]
        params = detector.fit(grid, own.part, options.seed, **options.of_detector)
        scores, frames[options.detector] = detector.score(params, own.grid, 0), params
    return _Scored(grid.keys.with_columns(pl.Series("rung", rung, dtype=pl.String)), scores)


def _joint(own: _Own, frames: dict[str, pl.DataFrame]) -> _Scored:
    """The scores of the joint detectors of devices with at least two such sensors; parameters are added to `frames`."""
    frames["joint"] = joint.fit(own.units, own.grid.keys, own.part)
    scores, _ = joint.score(frames["joint"], own.units, own.grid.keys)
    keys = joint.keys_of(frames["joint"]).with_columns(pl.lit("joint").alias("rung"))
    return _Scored(keys, scores, worth=JOINT_WORTH)


def files_of(parts: Mapping[str, pl.DataFrame], options: Options) -> dict[str, File]:
    """The files of a bundle from the parts of all shards, each sorted by its key."""
    settings = {name: getattr(options, name) for name in ("interval", "timezone", "detector")}
    files: dict[str, File] = {"settings": settings}
    for name in ("sensors", "robust", "discrete", *DETECTORS, "joint"):
        if name in parts:
            frame = parts[name]
            files[name] = frame.sort([c for c in KEY if c in frame.columns])
    if "tails" in parts:
        by_rung = parts["tails"].sort("rung", *KEY).partition_by("rung", maintain_order=True)
        calibration = pl.concat([fit_shapes(tails) for tails in by_rung]).sort(*KEY)
        files["calibration"] = calibration
        if "folds" in parts:
            files["corrections"] = corrections(parts["folds"], calibration)
    if "robust" in parts:
        center = pl.col("profile").arr.get(0).alias("center")
        as_they_are = parts["sensors"].filter(
            ~pl.col("rung").is_in(DISCRETE_RUNGS), taken=conversion.AS_IT_IS
        )
        robust_ones = parts["robust"].join(as_they_are, on=list(KEY), how="semi")
        files["pooled"] = pooled.fit(robust_ones.select("tag", center, "scale"))
    return files
