"""The search space of `devices`, and the loss of a trial: on successive stretches of held-out hours."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, ClassVar

import polars as pl

from models.devices import backtest, pace
from models.devices.contracts import KEY
from models.devices.detectors import DETECTORS
from models.devices.options import AUTO, Options, moment_of
from models.devices.training import backtest_keys, frames_of, history_start, kinds_and_zones, labelled_faults
from models.scenario import AsOf, Context, Frames, Search
from models.search import OneOf, Real, Space, Whole

FOLDS = 4
TRIAL_DEVICES = 50
"""Approximate number of devices in a study; `backtest_devices` if that is less."""
LONGEST_DAYS = 28.0
LEAST_HISTORY = 4
"""The history before the first fold is at least this many times as long as the held-out hours."""


class DevicesSearch(Search):
    """See `models.scenario.Search`. A fold is two hours, named by their end; its loss is the backtest's."""

    space: ClassVar[Space] = {
        "detector": OneOf((AUTO, *DETECTORS)),
        "history_days": Real(1.0, LONGEST_DAYS, log=True),
        "nu": Real(0.0005, 0.05, log=True, when={"detector": ("one_class_svm",)}),
        "forest_trees": Whole(25, 200, log=True, when={"detector": ("isolation_forest",)}),
    }
    """The detector, its parameter, and the number of days from which it learns."""

    def defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return asdict(Options.of(options))

    def prepare(
        self, tables: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> dict[str, pl.DataFrame]:
        """`readings` of the devices of the study: device, tag, time, mean; `labels` of faults, `kinds`, `sites`, if any."""
        settings, until = Options.of(options), moment_of(as_of)
        settings = replace(settings, backtest_devices=min(settings.backtest_devices, TRIAL_DEVICES))
        start = history_start(context, until, replace(settings, history_days=LONGEST_DAYS))
        readings = tables["readings"].filter(pl.col("time") >= start, pl.col("time") < until)
        keys = readings.select(KEY).unique().sort(*KEY).collect()
        devices = backtest_keys(keys, context, settings)
        sample = readings.select(*KEY, "time", "mean").join(devices.lazy(), on=KEY, how="semi")
        parts = {"readings": sample.sort(*KEY, "time").collect()}
        kinds, zones = kinds_and_zones(tables)
        some = {"labels": labelled_faults(tables, until), "kinds": kinds, "sites": zones}
        return parts | {n: frame for n, frame in some.items() if frame is not None and frame.height}

    def folds(self, parts: Frames, as_of: AsOf, options: Mapping[str, Any]) -> list[str]:
        return [f"{end:%Y-%m-%d %H:%M}" for end in _ends(parts, moment_of(as_of))]

    def losses(
        self, parts: Frames, context: Context, as_of: AsOf, options: Mapping[str, Any]
    ) -> Iterator[float]:
        settings = Options.of(options)
        for end in _ends(parts, moment_of(as_of)):
            start = history_start(context, end, settings)
            readings = parts["readings"].filter(pl.col("time") >= start, pl.col("time") < end)
            paces = pace.paces_of(readings, settings.step)
            faults = labelled_faults(parts, end)
            kinds, zones = kinds_and_zones(parts)
            frames = [
                backtest.part_of_shard(panel, paces.select(KEY), settings, faults, kinds)
                for panel in pace.panels(readings, paces, start, end, settings, zones)
            ]
            yield backtest.loss(backtest.predictions(frames_of(frames), settings))


def _ends(parts: Frames, as_of: datetime) -> list[datetime]:
    """Ends of the folds, earliest first, the last of them `as_of`."""
    first = parts["readings"].select(pl.col("time").min()).collect().item()
    ends = [as_of - backtest.HELD_OUT * back for back in range(FOLDS)][::-1]
    return [end for end in ends if first and first <= end - backtest.HELD_OUT * (1 + LEAST_HISTORY)]
