"""What there is in the data: sensors, components, errors, models of machine, and the telemetry's interval."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from models.machines import contracts
from models.scenario import Frames

_LISTS = ("sensors", "components", "errors", "models")


@dataclass(frozen=True)
class Vocabulary:
    """Names that features and models are made from, each list sorted; known at one `as_of`."""

    sensors: tuple[str, ...]
    components: tuple[str, ...]
    errors: tuple[str, ...]
    models: tuple[str, ...]
    interval_hours: float

    def to_frame(self) -> pl.DataFrame:
        """One row per name: `kind` (sensors, components, errors, models, interval_hours), `name`."""
        rows = [(kind, name) for kind in _LISTS for name in getattr(self, kind)]
        rows.append(("interval_hours", repr(self.interval_hours)))
        return pl.DataFrame(rows, schema={"kind": pl.String, "name": pl.String}, orient="row")

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Vocabulary":
        """The inverse of `to_frame`."""
        names = {kind: tuple(frame.filter(pl.col("kind") == kind)["name"]) for kind in _LISTS}
        interval = frame.filter(pl.col("kind") == "interval_hours")["name"].item()
        return cls(**names, interval_hours=float(interval))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `to_dict`, also after a way through JSON."""
        names = {kind: tuple(values[kind]) for kind in _LISTS}
        return cls(**names, interval_hours=float(values["interval_hours"]))


def vocabulary(tables: Frames, as_of: datetime) -> Vocabulary:
    """What the rows up to `as_of` hold.

    A component is whatever was replaced or failed. Where no machine has two telemetry rows the
    interval is taken as an hour.
    """
    seen = contracts.known(tables, as_of)
    parts = [seen[name].select("component") for name in ("maintenance", "failures") if name in seen]
    return Vocabulary(
        sensors=tuple(contracts.sensors(seen["telemetry"])),
        components=_distinct(pl.concat(parts), "component") if parts else (),
        errors=_distinct(seen["errors"], "error") if "errors" in seen else (),
        models=_distinct(seen["machines"], "model") if "machines" in seen else (),
        interval_hours=contracts.interval_hours(seen["telemetry"]) or 1.0,
    )


def _distinct(frame: pl.LazyFrame, column: str) -> tuple[str, ...]:
    return tuple(frame.select(pl.col(column).drop_nulls().unique().sort()).collect()[column])
