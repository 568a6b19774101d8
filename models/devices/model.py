"""The model of a fleet: the parameters of all detectors, as columns.

The files of a bundle are frames, one per kind of detector, and hold only numbers and names:
`sensors` (the properties of each sensor's history, and its detector), `robust`, `discrete`,
`one_class_svm`, `isolation_forest`, `joint`, `pooled`, `calibration` and, by rung, `corrections` of
p-values; `settings` holds the options of the training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from models.devices.contracts import KEY
from models.devices.detectors import DETECTORS
from models.devices.robust import BASELINES
from models.errors import ContractError
from models.scenario import File

ROBUST_RUNGS = tuple(f"robust_{name}" for name in BASELINES)
DISCRETE_RUNGS = ("constant", "few_values")
RUNGS = (*ROBUST_RUNGS, *DISCRETE_RUNGS, *DETECTORS, "pooled", "none", "missing", "joint")


@dataclass(frozen=True)
class Model:
    """`frames` by kind; a kind that no sensor uses may be absent. `settings` are the options of the training."""

    frames: Mapping[str, pl.DataFrame]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, files: Mapping[str, File]) -> "Model":
        """The model from the files of a bundle. Raises `ContractError` if `sensors` or `settings` is missing."""
        settings = files.get("settings")
        frames = {name: file for name, file in files.items() if isinstance(file, pl.DataFrame)}
        if not isinstance(settings, Mapping) or "sensors" not in frames:
            raise ContractError(
                f"not a bundle of devices: it holds {', '.join(sorted(files)) or 'nothing'}. "
                "Expected at least sensors and settings. Train again: python -m flows devices train"
            )
        return cls(frames, settings)

    @property
    def options(self) -> dict[str, str]:
        """The options of the training that scoring must share. Older bundles use days of UTC."""
        return {"interval": self.settings["interval"], "timezone": self.settings.get("timezone", "UTC")}

    def within(self, devices: pl.DataFrame) -> "Model":
        """The part of the model for `devices` (one column, `device`)."""
        frames = {
            name: frame.join(devices, on="device", how="semi") if "device" in frame.columns else frame
            for name, frame in self.frames.items()
        }
        return Model(frames, self.settings)

    def rows(self, kind: str, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of one kind for `keys`, in their order. Every key must have a row."""
        return keys.select(*KEY).join(self.frames[kind], on=list(KEY), how="left", maintain_order="left")

    def correction(self, rung: str) -> pl.DataFrame:
        """The corrections of one rung's p-values; no rows if there are none."""
        if "corrections" not in self.frames:
            return pl.DataFrame()
        return self.frames["corrections"].filter(pl.col("rung") == rung)

    def rungs(self, keys: pl.DataFrame) -> pl.DataFrame:
        """`keys` with `rung`, `readings` and `last`; null for sensors that were not in the training."""
        sensors = self.frames["sensors"].select(*KEY, "rung", "readings", "last")
        return keys.select(*KEY).join(sensors, on=list(KEY), how="left", maintain_order="left")
